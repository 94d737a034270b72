"""Which rules that a second user has to agree servers are under, by whatever name these are in the inventory."""

import ipaddress
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from controller import addresses
from controller.doors import DoorRule
from controller.model import Server
from controller.store import Store

_KEPT_SECONDS = 30.0


def labelled(rules: Sequence[DoorRule], server: Server) -> list[DoorRule]:
    """Return the rules that a server is under by its own labels."""
    return [each for each in rules if server.labels.get(each.label) == each.value]


def rules_of(store: Store, tenant_id: str, servers: Collection[Server]) -> dict[str, list[DoorRule]]:
    """Return the rules that servers of a tenant are under today, by their ids.

    A machine stays under its rules by whatever name it is in the inventory: those of another entry with the same host key,
    or with the same host and port, hold too. Whatever jump servers lead there, as the way says nothing about the machine.
    """
    rules = store.door_rules(tenant_id)
    if not rules:
        return {each.id: [] for each in servers}
    of_machine = _by_machine(rules, _under(store, tenant_id, rules))
    return {each.id: _held(rules, of_machine, each) for each in servers}


class Ruled:
    """The rules that servers are under, for many tasks that ask one by one.

    A server's own labels are held to the rules of now. By which other names its machine is known is looked up again where a
    rule was changed, and every half minute: that goes through all servers with a label of one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, tuple[float, list[DoorRule], dict[object, list[DoorRule]]]] = {}

    def of(self, server: Server) -> list[DoorRule]:
        """Return the rules that a server is under."""
        rules, tenant_id = self._store.door_rules(server.tenant_id), server.tenant_id
        if not rules:
            return []
        if own := labelled(rules, server):
            return own
        at, known, of_machine = self._kept.get(tenant_id, (0.0, [], {}))
        if known != rules or time.monotonic() - at > _KEPT_SECONDS:
            of_machine = _by_machine(rules, _under(self._store, tenant_id, rules))
            self._kept[tenant_id] = (time.monotonic(), rules, of_machine)
        return _held(rules, of_machine, server)


def _under(store: Store, tenant_id: str, rules: Sequence[DoorRule]) -> list[Server]:
    return store.servers(tenant_id, labelled={(each.label, each.value) for each in rules})


def _by_machine(rules: Sequence[DoorRule], under: Iterable[Server]) -> dict[object, list[DoorRule]]:
    found: dict[object, list[DoorRule]] = {}
    for each in under:
        for mark in _marks(each):
            found.setdefault(mark, []).extend(labelled(rules, each))
    return found


def _held(rules: Sequence[DoorRule], of_machine: Mapping[object, list[DoorRule]], server: Server) -> list[DoorRule]:
    found = labelled(rules, server) + [rule for mark in _marks(server) for rule in of_machine.get(mark, ())]
    return [rule for rule in rules if rule in found]


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
