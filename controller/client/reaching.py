"""How a server is reached from here: over which jump servers, as which login, by which key pair, and what it must show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from controller.client.call import Call, Flow, pages, segment
from controller.client.refusals import Refused
from controller.model import Server, route

if TYPE_CHECKING:
    from controller import answers as a


@dataclass(frozen=True, slots=True)
class Hop:
    """A server and one login on it. keypair: what is bound to that login, as far as the caller may use it."""

    name: str
    id: str
    host: str
    port: int
    login: str
    host_key: str | None  # "ssh-ed25519 AAAA..."; None: not known yet
    jump: tuple[str, ...]  # names, the nearest to us first
    old_algorithms: tuple[str, ...]
    keypair: str | None = None
    keypair_id: str | None = None
    public_key: str | None = None
    managed: bool = False  # whether the private half is in custody
    another_users: bool = False  # what is bound is somebody else's

    @property
    def known_as(self) -> str:
        """By what name its host key is kept: its address may be another server's too, behind another jump server."""
        return f"kps-{self.id}"


def way(name: str, login: str | None = None) -> Flow[list[Hop]]:
    """Return the servers on the way to one, the nearest to us first and itself last, as the controller goes there itself.

    login: on the last; None: the one that is bound there, its own before others. To be played by a client. Refused:
    host_key_unknown, nothing_bound, keypair_not_yours, jump_loop.
    """
    target: a.Server = yield from Call("GET", f"/servers/{segment(name)}")
    known = yield from _with_jumps([target])
    found: list[Hop] = []
    for each in _route(target, known):
        hop = _usable(each, login if each is target else None)
        pair: a.Keypair = yield from Call("GET", f"/keypairs/{segment(str(hop.keypair))}")
        found.append(_with_pair(hop, {pair["name"]: pair}))
    return found


def ways(words: Iterable[str] = (), *, every: bool = False) -> Flow[list[list[Hop]]]:
    """Return what way() does, for each server that words select, by name. To be played by a client. Refused: as way()."""
    servers, known, pairs = yield from _selected(words, every)
    return [[_with_pair(hop, pairs) for hop in map(_usable, _route(each, known))] for each in servers]


def logins(words: Iterable[str] = (), *, every: bool = False) -> Flow[list[list[Hop]]]:
    """Return, for each server that words select and each jump server on the way to one, its logins: the server's own first.

    A login that nothing is bound to is there where it is the server's own. Order: by name. To be played by a client.
    """
    _, known, pairs = yield from _selected(words, every)
    return [_logins(known[name], pairs) for name in sorted(known)]


def _selected(words: Iterable[str], every: bool) -> Flow[tuple[list[a.Server], dict[str, a.Server], dict[str, a.Keypair]]]:
    """Return the servers that words select, those with all on the way to them by name, and the caller's key pairs by name."""
    chosen = [("select", word) for word in words]
    servers: list[a.Server] = yield from pages("/servers", [*chosen, ("all", "true")] if every else chosen)
    known = yield from _with_jumps(servers)
    keypairs: list[a.Keypair] = yield from pages("/keypairs")
    return servers, known, {each["name"]: each for each in keypairs}


def _with_jumps(servers: Sequence[a.Server]) -> Flow[dict[str, a.Server]]:
    """Return servers, and all on the way to them, by name."""
    known = {each["name"]: each for each in servers}
    wanted = [name for each in servers for name in each["jump"]]
    while wanted:
        name = wanted.pop()
        if name not in known:
            known[name] = yield from Call("GET", f"/servers/{segment(name)}")
            wanted += known[name]["jump"]
    return known


def _route(target: a.Server, known: dict[str, a.Server]) -> list[a.Server]:
    """Return the jump servers on the way and the target, by the controller's own rule."""
    # Names tell servers apart as ids do, and jump servers are told by name.
    by_name = {name: Server(name, "", name, each["host"], jumps=list(each["jump"])) for name, each in known.items()}
    try:
        return [known[each.name] for each in (*route(by_name[target["name"]], by_name), by_name[target["name"]])]
    except ValueError as error:
        raise Refused(409, "jump_loop", str(error)) from None


def _usable(server: a.Server, login: str | None = None) -> Hop:
    """Return the login of a server that opens it. Refused where none does, or the host key is not known."""
    name = server["name"]
    if not server["host_key"]:
        raise Refused(
            409, "host_key_unknown", f"{name}: its host key is not known, and nothing is sent to who cannot show it; "
            f"`kps server check {name}` records it where it is trusted on first use"
        )  # fmt: skip
    bound = {each["login"]: each for each in server["bindings"]}
    mine = [each for each, binding in bound.items() if binding["keypair"]]
    if login is None:
        login = server["login"] if server["login"] in mine or not mine else mine[0]
    if login not in bound:
        others = f"; something is to {', '.join(bound)}" if bound else ""
        raise Refused(409, "nothing_bound", f"{name}: no key pair is bound to {login}{others}; `kps bind {name}` binds one")
    if login not in mine:
        raise Refused(
            409, "keypair_not_yours", f"{name}: another user's private key pair is bound to {login}, which only they use"
        )
    return _hop(server, login, bound[login])


def _logins(server: a.Server, pairs: dict[str, a.Keypair]) -> list[Hop]:
    bound = {each["login"]: each for each in server["bindings"]}
    logins = sorted({server["login"], *bound}, key=lambda each: (each != server["login"], each))
    found = []
    for login in logins:
        found.append(_with_pair(_hop(server, login, bound.get(login)), pairs))
    return found


def _hop(server: a.Server, login: str, binding: Any) -> Hop:
    return Hop(
        name=server["name"],
        id=server["id"],
        host=server["host"],
        port=server["port"],
        login=login,
        host_key=server["host_key"],
        jump=tuple(server["jump"]),
        old_algorithms=tuple(server["old_algorithms"]),
        keypair=binding and binding["keypair"],
        another_users=bool(binding and binding["another_users"]),
    )


def _with_pair(hop: Hop, pairs: dict[str, a.Keypair]) -> Hop:
    pair = pairs.get(hop.keypair or "")
    return hop if pair is None else replace(hop, keypair_id=pair["id"], public_key=pair["public_key"], managed=pair["managed"])
