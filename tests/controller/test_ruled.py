"""Which rules a server is under, as many tasks ask one by one."""

import asyncio
import uuid

from controller import ruled
from controller.model import Caller, Server
from controller.ruled import Ruled
from tests.controller.world import HOST_KEY, World

KEY = " ".join(HOST_KEY.split()[:2])


def added(world: World, who: Caller, **about: object) -> Server:
    given = {"host": "192.0.2.7", **about}
    (server,) = world.store.add_servers([Server(str(uuid.uuid4()), who.tenant_id, world.name("server"), **given)])  # type: ignore[arg-type]
    return server


def test_other_names_of_a_machine_are_looked_up_once_and_its_own_labels_each_time(world, monkeypatch) -> None:
    boss = world.tenant()
    rules, known, looked = world.emergency.rules, Ruled(world.store), []
    servers = world.store.servers
    monkeypatch.setattr(world.store, "servers", lambda *args, **more: looked.append(args) or servers(*args, **more))
    labelled = added(world, boss, labels={"zone": "prod"}, host_key=KEY)
    alias, other = added(world, boss, host="alias", host_key=KEY), added(world, boss, host="192.0.2.8")
    assert known.of(labelled) == []
    asyncio.run(rules.set(boss, "zone=prod", 15))
    assert [each.where for each in known.of(labelled)] == ["zone=prod"]
    assert looked == []
    assert [[each.where for each in known.of(server)] for server in (alias, other, alias)] == [["zone=prod"], [], ["zone=prod"]]
    assert len(looked) == 1
    asyncio.run(rules.set(boss, "zone=test", 15))
    assert [each.where for each in known.of(alias)] == ["zone=prod"]
    assert len(looked) == 2
    monkeypatch.setattr(ruled, "_KEPT_SECONDS", -1.0)
    added(world, boss, host="192.0.2.8", labels={"zone": "test"})
    assert [each.where for each in known.of(other)] == ["zone=test"]
    asyncio.run(rules.remove(boss, "zone=prod"))
    assert known.of(alias) == []
