"""Servers: the inventory, and which of them words name."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from controller import keyfiles
from controller.errors import AlreadyExists, Conflict, Invalid, NotAllowed, NotFound, Problem
from controller.model import Binding, Caller, KeyPair, Sealed, now
from controller.service.servers import Servers
from controller.store import Store
from kpsagent.errors import Refused
from tests.controller.given import bind

run = asyncio.run
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"


class HostKeys:
    """Servers that answer, or do not."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float]] = []
        self.answer: str | Exception = HOST_KEY

    async def fetch(self, host: str, port: int, timeout: float, admits: Any) -> str:  # noqa: ASYNC109
        self.asked.append((host, port, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def host_keys() -> HostKeys:
    return HostKeys()


@pytest.fixture
def servers(store: Store, host_keys: HostKeys) -> Servers:
    return Servers(store, host_keys, 3)


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem]) -> str:
    with pytest.raises(kind) as caught:
        run(work)
    return caught.value.code


def test_a_server_is_added_without_asking_anybody(servers: Servers, who: Caller, host_keys: HostKeys) -> None:
    server = run(servers.add(who, "web-1", "192.0.2.1", 2222, "admin", {"role": "web"}))
    assert (server.host, server.port, server.login, server.labels) == ("192.0.2.1", 2222, "admin", {"role": "web"})
    assert (server.host_key, server.password_login, server.generation) == (None, "unknown", 0)
    assert run(servers.list(who)) == [server] == [run(servers.get(who, "web-1"))]
    assert run(servers.get(who, server.id)) == server
    assert host_keys.asked == []


@pytest.mark.parametrize(
    "line",
    [
        HOST_KEY,
        HOST_KEY + " a comment",
        "192.0.2.1 " + HOST_KEY,
        "[192.0.2.1]:2222,web-1 " + HOST_KEY + " a comment\n",
        "|1|Zm9v|YmFy " + HOST_KEY,
    ],
)
def test_a_host_key_is_taken_from_a_line_of_known_hosts(servers: Servers, who: Caller, line: str) -> None:
    assert run(servers.add(who, "web-1", "192.0.2.1", host_key=line)).host_key == HOST_KEY


@pytest.mark.parametrize(
    "line",
    [
        "",
        "192.0.2.1",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 ????",
        HOST_KEY.replace("ssh-ed25519", "ssh-rsa"),
        "@revoked * " + HOST_KEY,
        "@cert-authority " + HOST_KEY,
        "a b " + HOST_KEY,
        f"web-1 {HOST_KEY}\nweb-2 {HOST_KEY}",
    ],
)
def test_what_is_no_host_key_is_refused(servers: Servers, who: Caller, line: str) -> None:
    assert refused(servers.add(who, "web-1", "192.0.2.1", host_key=line), Invalid) == "host_key_unreadable"
    assert run(servers.list(who)) == []


def test_trust_on_first_use_records_the_key_shown_now(servers: Servers, who: Caller, host_keys: HostKeys, store: Store) -> None:
    server = run(servers.add(who, "web-1", "192.0.2.1", 2222, trust_on_first_use=True))
    assert server.host_key == HOST_KEY
    assert host_keys.asked == [("192.0.2.1", 2222, 3)]
    assert store.server(who.tenant_id, "web-1") == server
    assert store.events(who.tenant_id)[-1].kind == "host_key_pinned"


@pytest.mark.parametrize("error", [Refused("connection_refused", "no"), ConnectionRefusedError(), TimeoutError(), OSError()])
def test_a_server_that_does_not_answer_is_added_without_a_key(
    servers: Servers, who: Caller, host_keys: HostKeys, error: Exception
) -> None:
    host_keys.answer = error
    server = run(servers.add(who, "web-1", "192.0.2.1", trust_on_first_use=True))
    assert (server.host_key, server.trust_on_first_use) == (None, True)


def test_a_fault_of_ours_is_not_taken_for_a_server_that_does_not_answer(
    servers: Servers, who: Caller, host_keys: HostKeys
) -> None:
    host_keys.answer = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        run(servers.add(who, "web-1", "192.0.2.1", trust_on_first_use=True))


def test_a_key_is_given_or_trusted_not_both(servers: Servers, who: Caller) -> None:
    work = servers.add(who, "web-1", "192.0.2.1", host_key=HOST_KEY, trust_on_first_use=True)
    assert refused(work, Invalid) == "host_key_twice"


def test_a_taken_name_costs_no_connection(servers: Servers, who: Caller, host_keys: HostKeys) -> None:
    run(servers.add(who, "web-1", "192.0.2.1"))
    assert refused(servers.add(who, "web-1", "192.0.2.9", trust_on_first_use=True), AlreadyExists) == "server_exists"
    assert host_keys.asked == []


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""}, {"name": "-x"}, {"name": "a b"}, {"name": "a=b"}, {"name": "a\nb"}, {"name": "a/b"},
        {"host": ""}, {"host": "-oProxyCommand=x"}, {"host": "a b"}, {"host": "a;b"}, {"host": "a\n"}, {"host": "u@h"},
        {"login": ""}, {"login": "-x"}, {"login": "a b"}, {"login": "a:b"}, {"login": "a\n"}, {"login": "../x"},
        {"labels": {"": "x"}}, {"labels": {"a b": "x"}}, {"labels": {"a": "x y"}}, {"labels": {"a=b": "x"}},
    ],
)  # fmt: skip
def test_a_name_that_could_be_something_else_is_refused(servers: Servers, who: Caller, given: Any) -> None:
    assert refused(servers.add(who, **{"name": "web-1", "host": "192.0.2.1"} | given), Invalid) == "name_unusable"


@pytest.mark.parametrize("host", ["192.0.2.1", "web-1.example.com", "localhost", "::1", "fe80::1%eth0", "_x.y"])
def test_names_and_addresses_are_hosts(servers: Servers, who: Caller, host: str) -> None:
    assert run(servers.add(who, "web-1", host)).host == host


@pytest.mark.parametrize(
    "host", ["localhost", "::1", "127.1", "0x7f000001", "2130706433", "169.254.169.254", "::ffff:7f00:1", "0"]
)
def test_no_user_has_the_controller_connect_to_itself(servers: Servers, who: Caller, host: str) -> None:
    user = replace(who, at_home=False)
    run(servers.add(user, "jump", "192.0.2.1"))
    # Behind a jump server too: that may be the controller's own machine.
    for way in ({}, {"jump": ["jump"]}):
        assert refused(servers.add(user, "web-1", host, **way), Invalid) == "address_not_allowed"
    assert run(servers.add(user, "web-1", "web-1.example.com")).any_address is False


def test_no_user_bends_what_the_owner_has_named(servers: Servers, who: Caller) -> None:
    user = replace(who, at_home=False)
    own = run(servers.add(who, "own", "127.0.0.1"))
    other = run(servers.add(user, "other", "192.0.2.1"))
    assert own.any_address
    for work in (servers.change(user, "own", port=6379), servers.change_all(user, [other.id, own.id], port=6379)):
        assert refused(work, Invalid) == "address_not_allowed"
    assert refused(servers.change(user, "other", host="127.1"), Invalid) == "address_not_allowed"
    assert [run(servers.get(who, each.name)) for each in (own, other)] == [own, other]
    # What may be named may be changed, and then it is the user's.
    moved = run(servers.change(user, "own", host="192.0.2.9", port=2222))
    assert (moved.host, moved.port, moved.any_address) == ("192.0.2.9", 2222, False)


def test_a_server_that_moves_keeps_its_host_key(servers: Servers, who: Caller, host_keys: HostKeys) -> None:
    added = run(servers.add(who, "web-1", "192.0.2.1", trust_on_first_use=True))
    asked = len(host_keys.asked)
    moved = run(servers.change(who, "web-1", host="web-1.example.com", port=2222))
    assert added.host_key is not None
    assert moved == replace(added, host="web-1.example.com", port=2222)
    assert len(host_keys.asked) == asked
    for wrong in ({"host": "-oProxyCommand=x"}, {"host": "a b"}, {"host": ""}):
        assert refused(servers.change(who, "web-1", **wrong), Invalid) == "name_unusable"
    assert refused(servers.change(who, "web-1", port=0), Invalid) == "port_unusable"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_is_a_port(servers: Servers, who: Caller, port: int) -> None:
    assert refused(servers.add(who, "web-1", "192.0.2.1", port), Invalid) == "port_unusable"


@pytest.fixture
def fleet(servers: Servers, who: Caller) -> Servers:
    for number, labels in enumerate([{"role": "web"}, {"role": "web", "site": "b"}, {"role": "db", "site": "b"}, {}]):
        run(servers.add(who, f"s{number}", "192.0.2.1", labels=labels))
    return servers


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["s1"], "1"),
        (["s1", "s0", "s1"], "01"),
        (["role=web"], "01"),
        (["role=web", "site=b"], "012"),
        (["s3", "site=b"], "123"),
    ],
)
def test_words_choose_servers_by_name_and_by_label(fleet: Servers, who: Caller, words: list[str], chosen: str) -> None:
    assert [server.name for server in run(fleet.select(who, words))] == [f"s{number}" for number in chosen]


def test_all_chooses_all(fleet: Servers, who: Caller) -> None:
    assert len(run(fleet.select(who, [], all=True))) == 4


@pytest.mark.parametrize("word", ["none", "role=none", "none=x", "role=", "=web", "role", "S1"])
def test_a_word_that_names_no_server_is_refused(fleet: Servers, who: Caller, word: str) -> None:
    with pytest.raises(NotFound, match=word):
        run(fleet.select(who, ["s1", word]))


def test_nothing_named_is_not_everything(fleet: Servers, who: Caller) -> None:
    assert refused(fleet.select(who, []), Invalid) == "selection_empty"
    assert refused(fleet.select(who, ["s1"], all=True), Invalid) == "selection_twice"


def bound(store: Store, who: Caller, server_id: str) -> Binding:
    public, _ = keyfiles.generate("ed25519")
    keypair = KeyPair(
        "k1", who.tenant_id, who.user_id, "private", "laptop", "ed25519", True, public.line("laptop"),
        public.fingerprint, public.fingerprint_md5, now(),
    )  # fmt: skip
    store.add_keypair(keypair, Sealed(b"x"))
    binding = Binding(server_id, "root", "k1", "logged_in", True, "t", now())
    bind(store, binding)
    return binding


def test_bindings_come_with_the_key_pairs_name(fleet: Servers, who: Caller, store: Store) -> None:
    server = run(fleet.get(who, "s1"))
    binding = bound(store, who, server.id)
    assert run(fleet.bindings(who, server.id)) == [(binding, "laptop")]
    assert run(fleet.bindings(who)) == []
    assert run(fleet.bindings(who, run(fleet.get(who, "s2")).id)) == []


def test_a_server_where_something_is_bound_is_removed_by_force_alone(fleet: Servers, who: Caller, store: Store) -> None:
    bound(store, who, run(fleet.get(who, "s1")).id)
    assert refused(fleet.remove(who, "s1"), Conflict) == "already_bound"
    run(fleet.remove(who, "s1", force=True))
    assert [server.name for server in run(fleet.list(who))] == ["s0", "s2", "s3"]
    assert refused(fleet.remove(who, "s1"), NotFound) == "server_not_found"


def test_an_auditor_only_looks(fleet: Servers, who: Caller) -> None:
    auditor = replace(who, role="auditor")
    assert len(run(fleet.list(auditor))) == 4
    assert refused(fleet.add(auditor, "x", "192.0.2.1"), NotAllowed) == "role_reads_only"
    assert refused(fleet.remove(auditor, "s1"), NotAllowed) == "role_reads_only"


def test_another_tenant_sees_nothing(fleet: Servers, who: Caller) -> None:
    stranger = replace(who, tenant_id="f" * 32)
    ids = [each.id for each in run(fleet.list(who))]
    assert (run(fleet.list(stranger)), run(fleet.bindings(stranger, *ids))) == ([], [])
    assert refused(fleet.get(stranger, "s1"), NotFound) == "server_not_found"
    assert refused(fleet.remove(stranger, "s1"), NotFound) == "server_not_found"
