"""Where users may have the controller connect to: looked at when a server is added, and again at each connection."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from controller import addresses
from controller.transport import hostkeys
from controller.transport.connect import NotConnected

HERE = ["127.0.0.1", "127.255.255.254", "0.0.0.0", "0.0.0.1", "::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1", "2002:7f00:1::"]
LINK = ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1"]
METADATA = ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "::ffff:100.100.100.200"]
NO_HOST = ["224.0.0.1", "255.255.255.255", "240.0.0.1", "ff02::1", "64:ff9b::7f00:1", "::127.0.0.1", "", "web-1", "1.2.3"]
OTHERS = ["10.0.0.5", "192.168.1.1", "172.16.0.1", "100.100.100.201", "203.0.113.7", "2001:db8::1", "fd00::1", "::ffff:10.0.0.5"]


@pytest.mark.parametrize("address", [*HERE, *LINK, *METADATA, *NO_HOST])
def test_the_controller_itself_its_link_and_no_hosts_are_not_for_users(address: str) -> None:
    assert not addresses.admitted(address, [])


@pytest.mark.parametrize("address", OTHERS)
def test_all_others_are(address: str) -> None:
    assert addresses.admitted(address, [])


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "fd00:ec2::254", "::ffff:127.0.0.1"])
def test_what_is_allowed_is_all_the_same(address: str) -> None:
    allowed = addresses.networks("127.0.0.0/8,169.254.169.254/32,fd00:ec2::254/128", "KPS_ALLOW_NETWORKS")
    assert addresses.admitted(address, allowed)
    assert not addresses.admitted("169.254.169.253", allowed)


@pytest.mark.parametrize(
    "host",
    [
        *("127.1", "127.0.1", "0x7f.1", "0x7f000001", "017700000001", "0177.0.0.1", "2130706433", "127.0.0.1"),
        *("localhost", "LocalHost.", "db.localhost", "localhost.localdomain"),
    ],
)
def test_every_spelling_of_this_machine_is_it(host: str) -> None:
    assert addresses.meant(host) == "127.0.0.1"
    if not host.lower().startswith(("l", "db")):  # and the system's own lookup agrees
        assert {found[4][0] for found in socket.getaddrinfo(host, 22, type=socket.SOCK_STREAM)} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("host", "address"),
    [
        *(("2852039166", "169.254.169.254"), ("0xa9fea9fe", "169.254.169.254"), ("0", "0.0.0.0")),
        *(("::ffff:7f00:1", "::ffff:7f00:1"), ("10.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1")),
    ],
)
def test_other_numbers_are_the_addresses_that_they_are(host: str, address: str) -> None:
    assert addresses.meant(host) == address


@pytest.mark.parametrize(
    "host", ["web-1", "localhost.example.com", "mylocalhost", "1.2.3.4.example", "256.256.256.256", "4294967296"]
)
def test_names_are_looked_up(host: str) -> None:
    assert addresses.meant(host) is None


@contextmanager
def listening(address: str, port: int = 0) -> Iterator[socket.socket]:
    with socket.create_server((address, port)) as listener:
        listener.setblocking(False)
        yield listener


def reached(listener: socket.socket) -> bool:
    """Say whether anybody has connected since the last time."""
    came = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return came > 0
        came += 1


def test_a_name_is_looked_up_once_and_only_what_was_looked_at_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time gains nothing; nor does one that answers with several addresses."""
    allowed = addresses.networks("127.9.0.0/16", "KPS_ALLOW_NETWORKS")
    asked: list[str] = []
    answers: list[list[str]] = []

    async def looked_up(loop: Any, host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        given = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in given]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", looked_up)
    with ExitStack() as open_:
        good = open_.enter_context(listening("127.9.0.1"))
        port = good.getsockname()[1]
        bad = open_.enter_context(listening("127.0.0.1", port))

        def fetch() -> NotConnected:
            asked.clear()
            with pytest.raises(NotConnected) as refused:
                asyncio.run(hostkeys.fetch("a.name.example", port, 1, lambda each: addresses.admitted(each, allowed)))
            return refused.value

        answers[:] = [["127.9.0.1"], ["127.0.0.1"], ["127.0.0.1"]]
        fetch()
        assert (asked, reached(good), reached(bad)) == (["a.name.example"], True, False)
        answers[:] = [["127.0.0.1", "127.9.0.1"]]
        fetch()
        assert (reached(good), reached(bad)) == (True, False)
        answers[:] = [["127.0.0.1", "127.0.0.2"]]
        assert fetch().cause == "address_not_allowed"
        assert (reached(good), reached(bad)) == (False, False)
