"""For which servers a second user has to agree before a door of theirs is opened."""

import ipaddress
from collections.abc import Collection, Iterable, Sequence

from controller import addresses
from controller.doors import DoorRule
from controller.errors import Conflict, Invalid
from controller.model import Server
from controller.store import Store


def selection(servers: str) -> tuple[str, str]:
    """Return the label and the value that a rule is about. Invalid(selection_unusable)."""
    label, equals, value = servers.partition("=")
    if not (label and equals and len(servers) <= 200):
        raise Invalid("selection_unusable", f"{servers[:200]!r}: a rule is about label=value")
    return label, value


def labelled(rules: Sequence[DoorRule], server: Server) -> list[DoorRule]:
    """Return the rules that a server is under by its own labels."""
    return [each for each in rules if server.labels.get(each.label) == each.value]


def that_hold(rules: Sequence[DoorRule], servers: Iterable[Server], under: Iterable[Server]) -> dict[str, list[DoorRule]]:
    """Return the rules that each of these servers is under, by its id. under: all servers with a label of one of them.

    A machine stays under its rules by whatever name it is in the inventory: those of another entry with the same host key,
    or with the same host and port, hold too. Whatever jump servers lead there, as the way says nothing about the machine.
    """
    if not rules:
        return {each.id: [] for each in servers}
    of_machine: dict[object, list[DoorRule]] = {}
    for each in under:
        for mark in _marks(each):
            of_machine.setdefault(mark, []).extend(labelled(rules, each))
    held = {}
    for server in servers:
        found = labelled(rules, server) + [rule for mark in _marks(server) for rule in of_machine.get(mark, ())]
        held[server.id] = [rule for rule in rules if rule in found]
    return held


def of(store: Store, tenant_id: str, servers: Collection[Server]) -> dict[str, list[DoorRule]]:
    """Return the rules that servers of a tenant are under today, by their ids."""
    rules = store.door_rules(tenant_id)
    labels = {(each.label, each.value) for each in rules}
    return that_hold(rules, servers, store.servers(tenant_id, labelled=labels) if rules else [])


def refuse_opened_for_good(store: Store, tenant_id: str, servers: Collection[Server]) -> None:
    """Conflict(password_login_under_rule): one of them is under a rule, which password login for good would pass by."""
    held = of(store, tenant_id, servers)
    under = [each.name for each in servers if held[each.id]]
    if under:
        told = "a second user has to agree to a door here, so password login is not enabled for good"
        more = "open a door (kps emergency open), or have an administrator remove the rule (kps emergency rule remove)"
        raise Conflict("password_login_under_rule", f"{', '.join(under)}: {told}; {more}", servers=under)


def _marks(server: Server) -> list[object]:
    """Return by what another entry for the same machine is known."""
    host = addresses.meant(server.host)
    if host is None:
        place = server.host.lower().removesuffix(".")
    else:
        address = ipaddress.ip_address(host)
        place = str(getattr(address, "ipv4_mapped", None) or address)
    key = [] if server.host_key is None else [tuple(server.host_key.split()[:2])]
    return [(place, server.port), *key]
