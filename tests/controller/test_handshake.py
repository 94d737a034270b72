"""Connections are made alike without being mixed up: each shows its own key, trusts its own host key, and ends for itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncssh
import pytest

from controller.model import Secret
from controller.transport import algorithms
from controller.transport.connect import NotConnected, Target, connect
from controller.transport.handshake import Client
from controller.transport.offer import Offer


def line_of(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key().decode("ascii").split()[:2])


class Login(asyncssh.SSHServer):
    """Lets in every key, and says by which one; a password ends the connection with a kind word."""

    def __init__(self, begun: list[str]) -> None:
        self._begun = begun

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        self._begun.append(username)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._connection.set_extra_info(shown=line_of(key))
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, "not today")
        return False


async def say_which_key(process: asyncssh.SSHServerProcess[str]) -> None:
    process.stdout.write(process.get_extra_info("shown"))
    process.exit(0)


@contextlib.asynccontextmanager
async def served(host_key: asyncssh.SSHKey, begun: list[str]) -> AsyncIterator[int]:
    listening = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=lambda: Login(begun), server_host_keys=[host_key], process_factory=say_which_key
    )
    async with listening:
        yield listening.get_port()


@pytest.fixture(scope="module")
def keys() -> list[asyncssh.SSHKey]:
    return [asyncssh.generate_private_key("ssh-ed25519") for _ in range(8)]


async def logged_in_with(target: Target, key: asyncssh.SSHKey, *, passing: bool = True) -> str:
    """Log in with a key; return the one that the server has seen."""
    client = Client()
    connection = await connect(target, "root", client=client, keys=[Offer(line_of(key), key, client)], passing=passing)
    try:
        return str((await connection.run()).stdout)
    finally:
        connection.close()
        await connection.wait_closed()


def test_each_connection_shows_its_own_key_however_many_are_made_at_once(keys: list[asyncssh.SSHKey]) -> None:
    async def shown() -> list[str]:
        async with served(keys[0], []) as port:
            target = Target("web", "127.0.0.1", port, line_of(keys[0]))
            return await asyncio.gather(*(logged_in_with(target, key) for key in keys))

    for _ in range(2):  # what was made ready for one event loop is none of another's
        assert asyncio.run(shown()) == [line_of(key) for key in keys]


def test_a_host_key_other_than_the_servers_own_is_not_trusted_though_another_connection_trusts_it(
    keys: list[asyncssh.SSHKey],
) -> None:
    begun: list[str] = []

    async def told() -> str:
        async with served(keys[0], begun) as port:
            right, wrong = (Target("web", "127.0.0.1", port, line_of(key)) for key in keys[:2])
            await logged_in_with(right, keys[2])
            begun.clear()
            with pytest.raises(NotConnected) as refused:
                await logged_in_with(wrong, keys[2])
            return refused.value.cause

    assert asyncio.run(told()) == "host_key_changed"
    assert not begun  # it has not even heard who wants to log in


def test_a_server_that_ends_the_log_in_in_good_order_has_not_let_anybody_in(keys: list[asyncssh.SSHKey]) -> None:
    async def told() -> str:
        async with served(keys[0], []) as port:
            with pytest.raises(NotConnected) as refused:
                await connect(Target("web", "127.0.0.1", port, line_of(keys[0])), "root", password=Secret(b"a password"))
            return refused.value.cause

    assert asyncio.run(told()) == "connection_closed"


def test_a_client_keeps_no_secret_once_the_log_in_is_over(keys: list[asyncssh.SSHKey]) -> None:
    async def told() -> tuple[object, object]:
        async with served(keys[0], []) as port:
            client = Client()
            with pytest.raises(NotConnected):
                await connect(
                    Target("web", "127.0.0.1", port, line_of(keys[0])), "root", password=Secret(b"a password"), client=client
                )
            assert client.given
            return client.password, client.keys

    assert asyncio.run(told()) == (None, ())


def test_a_log_in_that_takes_too_long_leaves_nothing_behind(keys: list[asyncssh.SSHKey]) -> None:
    async def told() -> tuple[str, int]:
        hung: list[asyncio.StreamWriter] = []

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-hangs\r\n")
            hung.append(writer)
            await reader.read()
            writer.close()

        listening = await asyncio.start_server(hang, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(NotConnected) as refused:
                await connect(
                    Target("web", "127.0.0.1", port, line_of(keys[0]), timeout_seconds=0.2), "root", password=Secret(b"a")
                )
            await asyncio.gather(*(writer.wait_closed() for writer in hung))
            return refused.value.cause, len(asyncio.all_tasks())

    assert asyncio.run(told()) == ("connection_timed_out", 1)


def test_only_what_is_not_worth_recording_goes_without_the_exchange_that_helps_against_that() -> None:
    whole, passing = (algorithms.key_exchanges(keeps_nothing=each) for each in (False, True))
    assert whole[0] == "mlkem768x25519-sha256"
    assert passing[0] == "curve25519-sha256"
    assert sorted(whole) == sorted(passing)
