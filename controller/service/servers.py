"""Servers: the inventory."""

import asyncio
import base64
import binascii
import builtins
import re
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from controller import addresses
from controller.errors import AlreadyExists, Conflict, Invalid, NotFound, Problem
from controller.model import OLD_NAMES, Binding, Caller, Event, PasswordLogin, Server
from controller.ruled import labelled
from controller.service import sight
from controller.service.roles import allow, may_name_places, refusal
from controller.service.worker import off_loop
from controller.store import Store
from kpsagent.errors import Stop

NOT_FOR_USERS = "an address of the controller's own machine or link; the home's owner may add it, or allow its network"
_ASKED_AT_ONCE = 32  # for their host keys
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
# Names and addresses; nothing that a program could take for an option, a path or a list.
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}")
_HOST_ALLOWED = "a name or an address"
LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}\$?")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_./:@+-]{0,63}")
_HOST_KEY_TYPES = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
)  # fmt: skip


class HostKeys(Protocol):
    """Asks a server for its host key before anything else is sent."""

    async def fetch(self, host: str, port: int, timeout: float, admits: Callable[[str], bool] | None) -> str:  # noqa: ASYNC109
        """Return "ssh-ed25519 AAAA..."; Stop: no answer, none without old algorithms, no address admitted."""


class Servers:
    """The servers of the caller's tenant."""

    def __init__(
        self,
        store: Store,
        host_keys: HostKeys,
        connect_timeout_seconds: float = 10,
        executor: Executor | None = None,
        allowed: Sequence[addresses.Network] = (),
    ) -> None:
        """allowed: networks of which any user may name addresses."""
        self._allowed = allowed
        self._store = store
        self._host_keys = host_keys
        self._connect_timeout_seconds = connect_timeout_seconds
        self._executor = executor

    async def add(
        self,
        who: Caller,
        name: str,
        host: str,
        port: int = 22,
        login: str = "root",
        labels: Mapping[str, str] | None = None,
        host_key: str | None = None,
        trust_on_first_use: bool = False,
        jump: Sequence[str] = (),
        old_algorithms: Sequence[str] = (),
    ) -> Server:
        """Take a server in.

        host_key: a line of known_hosts, or its last two fields. With trust_on_first_use the key it shows now is
        recorded; where it does not answer now, or stands behind a jump server, the one it shows at its first check. jump: names
        of the jump servers that lead there, the nearest to us first. old_algorithms: names, or "all".
        """
        wanted: dict[str, Any] = {"name": name, "host": host, "port": port, "login": login, "labels": labels}
        wanted |= {"jump": jump, "old_algorithms": old_algorithms}
        one = wanted | {"host_key": host_key, "trust_on_first_use": trust_on_first_use}
        servers, wrong = await self._looked_at(who, [one])
        for problem in wrong.values():
            raise problem
        return (await self._take_in(servers))[0]

    async def add_all(
        self, who: Caller, wanted: Sequence[Mapping[str, Any] | Problem], *, only_check: bool = False
    ) -> builtins.list[Server]:
        """Take several servers in, all or none; each is what add() takes, or what is known to be wrong with it.

        Invalid(import_refused) tells what is wrong with each by its place in the list (items). only_check: take none in.
        """
        servers, wrong = await self._looked_at(who, wanted)
        if wrong:
            items = [{"place": place, "code": one.code, "message": one.message} for place, one in wrong.items()]
            said = "; ".join(one.message for one in wrong.values())
            raise Invalid("import_refused", f"nothing was added: {said}", items=items)
        return [] if only_check else await self._take_in(servers)

    async def _looked_at(
        self, who: Caller, wanted: Sequence[Mapping[str, Any] | Problem]
    ) -> tuple[builtins.list[Server], dict[int, Problem]]:
        """Return the servers that can be taken in, and what is wrong with the others by their places."""
        allow(who, "server.change")
        servers: builtins.list[Server] = []
        wrong: dict[int, Problem] = {}
        ids = {server.name: server.id for server in await self.list(who)}
        taken = set(ids)
        for place, each in enumerate(wanted):
            try:
                if isinstance(each, Problem):
                    raise each
                server = _server(who, **dict(each, jump=self._jumps(each["name"], each.get("jump") or (), ids)))
                self._check_address(server)
                servers.append(server)
                if server.name in taken:
                    raise AlreadyExists("server_exists", f"{server.name}: there is a server of this name already")
                taken.add(server.name)
                ids[server.name] = server.id  # those that follow may be reached through it
            except Problem as problem:
                wrong[place] = problem
        return servers, wrong

    @staticmethod
    def _jumps(name: str, jump: Sequence[str], ids: Mapping[str, str]) -> builtins.list[str]:
        """Return the ids of jump servers that are given by name. NotFound, or Conflict where one comes twice or is the server."""
        for each in jump:
            if each == name or list(jump).count(each) > 1:
                raise Conflict("jump_loop", f"{name}: {each} is given as a jump server on the way to itself, or twice")
            if each not in ids:
                raise NotFound("server_not_found", f"{name}: {each} is to be its jump server, and no server has this name")
        return [ids[each] for each in jump]

    async def change(
        self,
        who: Caller,
        name: str,
        host: str | None = None,
        port: int | None = None,
        jump: Sequence[str] | None = None,
        old_algorithms: Sequence[str] | None = None,
        reset_root: str | None = None,
    ) -> Server:
        """Change how a server is reached, from the next task on; what is None stays as it is.

        Its host key stays: where another machine answers, nothing is done there. reset_root: it is shut down, and its disk is
        mounted there; "": it runs again.
        """
        allow(who, "server.change")
        if reset_root:
            may_name_places(who, f"{name}: the place of its disk")
        if reset_root and not reset_root.startswith("/"):
            raise Invalid("root_missing", f"{name}: {reset_root!r} is no absolute path; say where its disk is mounted")
        server = await self.get(who, name)
        changes = await self._changes(who, [server], host, port, jump, old_algorithms)
        if reset_root is not None:
            changes["reset_root"] = reset_root or None
        (changed,) = await off_loop(self._executor, self._store.change_servers, [server.id], changes)
        return changed

    async def change_all(
        self,
        who: Caller,
        ids: Sequence[str],
        port: int | None = None,
        jump: Sequence[str] | None = None,
        old_algorithms: Sequence[str] | None = None,
    ) -> builtins.list[Server]:
        """Change how servers are reached, all or none, from their next tasks on; what is None stays as it is."""
        allow(who, "server.change")
        meant = set(ids)
        servers = [each for each in await self.list(who) if each.id in meant]
        changes = await self._changes(who, servers, None, port, jump, old_algorithms)
        return await off_loop(self._executor, self._store.change_servers, [each.id for each in servers], changes)

    async def _changes(
        self,
        who: Caller,
        servers: Sequence[Server],
        host: str | None,
        port: int | None,
        jump: Sequence[str] | None,
        old_algorithms: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Return what of the servers is to be another one, looked at for each of them."""
        changes: dict[str, Any] = {}
        if host is not None:
            changes["host"] = _fit(_HOST, host, "host", _HOST_ALLOWED)
        if port is not None:
            changes["port"] = _port(port)
        if changes:
            # Whoever names a place answers for it: what the home's owner may name, a user on the network may not bend.
            changes["any_address"] = who.at_home
            for each in servers:
                self._check_address(replace(each, **changes))
            # By its host key another entry for the machine is known, wherever this one is moved to; without, by its place alone.
            await self._refuse_ruled(who, [each for each in servers if each.host_key is None])
        ids = {} if jump is None else {each.name: each.id for each in await self.list(who)}
        for each in servers:
            if jump is not None:
                changes["jumps"] = self._jumps(each.name, jump, ids)
            if old_algorithms is not None:
                changes["old_algorithms"] = _old(each.name, old_algorithms)
        return changes

    async def _refuse_ruled(self, who: Caller, servers: Sequence[Server]) -> None:
        """NotAllowed: the doors of one of these need a second user, and whether they go on to is an administrator's to say."""
        if not servers or refusal(who.role, who.kind, "door.rule", "tenant") is None:
            return
        rules = await off_loop(self._executor, self._store.door_rules, who.tenant_id)
        for server in servers:
            if labelled(rules, server):
                allow(who, "door.rule", what=f"{server.name}: its emergency doors need a second user")

    def _check_address(self, server: Server) -> None:
        # A name is looked at when it is looked up, before each connection; behind a jump server that is not done here.
        here = None if server.any_address else addresses.meant(server.host)
        if here is not None and not addresses.admitted(here, self._allowed):
            raise Invalid("address_not_allowed", f"{server.name}: {server.host}: {NOT_FOR_USERS}")

    async def jump_names(self, who: Caller, servers: Sequence[Server]) -> dict[str, str]:
        """Return the names of the jump servers on the way to these servers, by their ids."""
        ids = {each for server in servers for each in server.jumps}
        return await off_loop(self._executor, self._store.server_names, who.tenant_id, ids) if ids else {}

    async def _take_in(self, servers: builtins.list[Server]) -> builtins.list[Server]:
        # The names are taken before the network is asked: nothing is fetched for a name that is taken.
        servers = await off_loop(self._executor, self._store.add_servers, servers)
        turn = asyncio.Semaphore(_ASKED_AT_ONCE)
        return list(await asyncio.gather(*(self._with_first_key(server, turn) for server in servers)))

    async def _with_first_key(self, server: Server, turn: asyncio.Semaphore) -> Server:
        """Return the server with the host key that it shows now, recorded, where the first one is to be trusted."""
        # Behind a jump server, or with old algorithms, the first check does it: with what gets in, and with what is allowed.
        if not server.trust_on_first_use or server.jumps or server.old_algorithms:
            return server
        async with turn:
            try:
                admits = None if server.any_address else partial(addresses.admitted, allowed=self._allowed)
                seen = await self._host_keys.fetch(server.host, server.port, self._connect_timeout_seconds, admits)
            except (Stop, OSError):
                return server
        return await off_loop(self._executor, self._store.pin_host_key, server.id, seen)

    async def list(self, who: Caller, after: str = "", limit: int | None = None) -> builtins.list[Server]:
        """Return the tenant's servers, by name: of those that come after a name, the first so many."""
        return await off_loop(self._executor, self._store.servers, who.tenant_id, after=after, limit=limit)

    async def get(self, who: Caller, name: str) -> Server:
        """Return one server, by name or id."""
        return await off_loop(self._executor, self._store.server, who.tenant_id, name)

    async def remove(self, who: Caller, name: str, *, force: bool = False) -> None:
        """Take a server out. Conflict: something is bound there (force: forget that, the key stays there), or runs.

        NotAllowed(administrator_needed): doors there need a second user, and taken in anew they might not.
        """
        allow(who, "server.change")
        server = await self.get(who, name)
        await self._refuse_ruled(who, [server])
        may_take = refusal(who.role, who.kind, "binding.take", "other") is None
        await off_loop(
            self._executor, self._store.remove_server, server.id, who.user_id, forget_bindings=force, forget_strangers=may_take
        )

    async def select(self, who: Caller, words: Sequence[str], all: bool = False) -> builtins.list[Server]:
        """Return the servers that the words name (a name, or label=value), by name, each once.

        NotFound for a word that names none; Invalid where nothing is named at all.
        """
        if all and words:
            raise Invalid("selection_twice", "give names and labels, or all of them, not both")
        if not all and not words:
            raise Invalid("selection_empty", "name a server, give label=value, or ask for all")
        if all:
            return await self.list(who)
        # No name, no id, and neither side of a label has a "=" in it.
        labels = {(label, value) for label, equals, value in (word.partition("=") for word in words) if equals}
        called = {word for word in words if "=" not in word}
        chosen = await off_loop(self._executor, self._store.servers, who.tenant_id, called=called, labelled=labels)
        found = {word for each in chosen for word in (each.name, each.id, *map("=".join, each.labels.items()))}
        for word in words:
            if word not in found:
                raise NotFound("server_not_found", f"{word}: no server of this name or label", server=word)
        return chosen

    async def labels(self, who: Caller) -> dict[str, Counter[str]]:
        """Return the labels that servers have: by name, how many have each value."""
        allow(who, "server.see")
        found: dict[str, Counter[str]] = {}
        for labels, count in await off_loop(self._executor, self._store.labels, who.tenant_id):
            for name, value in labels.items():
                found.setdefault(name, Counter())[value] += count
        return dict(sorted(found.items()))

    async def taking(
        self, who: Caller, password_login: PasswordLogin, after: str = "", limit: int | None = None
    ) -> tuple[builtins.list[Server], int]:
        """Return the servers on which password login is so, as last seen, by name after one, so many; and how many in all."""
        allow(who, "server.see")
        return await off_loop(self._executor, self._store.servers_taking, who.tenant_id, password_login, after, limit)

    async def since(self, who: Caller, server: Server) -> Event | None:
        """Return the event since which password login is known to be as it is there; None: that was too long ago."""
        found = await off_loop(self._executor, self._store.last_noted, server.id, server.password_login)
        return None if found is None else sight.event(who, found)

    async def bindings(self, who: Caller, *server_ids: str) -> builtins.list[tuple[Binding, str | None]]:
        """Return what is bound on these servers, each with the key pair's name; None: another user's private one."""
        return await off_loop(self._executor, self._store.named_bindings, who.tenant_id, who.user_id, server_ids)


def _server(
    who: Caller,
    name: str,
    host: str,
    port: int = 22,
    login: str = "root",
    labels: Mapping[str, str] | None = None,
    host_key: str | None = None,
    trust_on_first_use: bool = False,
    jump: Sequence[str] = (),
    old_algorithms: Sequence[str] = (),
) -> Server:
    """jump: ids."""
    if host_key is not None and trust_on_first_use:
        raise Invalid("host_key_twice", f"{name}: give a host key or trust the first one, not both")
    return Server(
        id=str(uuid.uuid4()),
        tenant_id=who.tenant_id,
        name=_fit(_NAME, name, "name", "letters, digits, _ . and -"),
        host=_fit(_HOST, host, "host", _HOST_ALLOWED),
        port=_port(port),
        login=_fit(LOGIN, login, "login", "letters, digits, _ . @ + and -"),
        labels={
            _fit(_LABEL, key, "label", "letters, digits, _ . / and -"): _fit(
                _LABEL_VALUE, value, "label's value", "letters, digits, _ . / : @ + and -"
            )
            for key, value in (labels or {}).items()
        },
        host_key=None if host_key is None else _read_host_key(host_key),
        trust_on_first_use=trust_on_first_use,
        jumps=list(jump),
        old_algorithms=_old(name, old_algorithms),
        any_address=who.at_home,
    )


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise Invalid("port_unusable", f"{port}: a port is a number from 1 to 65535")
    return port


def _old(name: str, given: Sequence[str]) -> list[str]:
    """Return the old algorithms that are meant, in our order."""
    unknown = [each for each in given if each not in ("all", *OLD_NAMES)]
    if unknown:
        known = ", ".join(OLD_NAMES)
        raise Invalid(
            "algorithm_unknown", f"{name}: {unknown[0]!r} is no old algorithm that can be allowed; one of {known}, or all"
        )
    return [each for each in OLD_NAMES if each in given or "all" in given]


def _fit(pattern: re.Pattern[str], value: str, what: str, allowed: str) -> str:
    if not pattern.fullmatch(value):
        raise Invalid("name_unusable", f"{value!r}: this cannot be a server's {what}; use {allowed}")
    return value


def _read_host_key(line: str) -> str:
    words = line.split()
    place = next((at for at, word in enumerate(words) if word in _HOST_KEY_TYPES), None)
    if place is None or place > 1 or len(words) < place + 2 or words[0].startswith("@"):
        raise Invalid("host_key_unreadable", "a host key is a line of known_hosts as ssh-keyscan prints it: host, type, key")
    name, encoded = words[place], words[place + 1]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise Invalid("host_key_unreadable", f"the {name} host key is not Base64") from None
    if not blob.startswith(struct.pack(">I", len(name)) + name.encode()) or "\n" in line.strip():
        raise Invalid("host_key_unreadable", f"the host key says {name} and is something else; give one line")
    return f"{name} {base64.b64encode(blob).decode()}"
