"""Which rules that a second user has to agree servers are under, by whatever name these are in the inventory."""

import ipaddress
from collections.abc import Collection, Iterable, Sequence

from controller import addresses
from controller.doors import DoorRule
from controller.model import Server
from controller.store import Store


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


def rules_of(store: Store, tenant_id: str, servers: Collection[Server]) -> dict[str, list[DoorRule]]:
    """Return the rules that servers of a tenant are under today, by their ids."""
    rules = store.door_rules(tenant_id)
    labels = {(each.label, each.value) for each in rules}
    return that_hold(rules, servers, store.servers(tenant_id, labelled=labels) if rules else [])


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
