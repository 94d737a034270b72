"""Tenants apart, and every verb with its rule: nothing is added without saying who may see and do what."""

import asyncio
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy import select

import controller.service
from controller.api import fleet as fleet_api
from controller.api import kps
from controller.api.fleet.asking import caller_of, fleet_of
from controller.errors import NotAllowed, NotFound
from controller.model import Secret
from controller.service.roles import RULES, refusal
from controller.store import engine, tables
from tests.controller import trials
from tests.controller.trials import NOT_TRIED
from tests.controller.verbs import VERBS, WITHOUT_CALLER, Theirs, modules
from tests.controller.world import World

PAGE = Path(__file__).parents[2] / "docs/roles.md"
run = asyncio.run


@pytest.fixture(scope="module")
def theirs(world: World) -> Theirs:
    """A tenant with one of everything."""
    who = world.tenant("alpha")
    private, shared, server = world.pair(who, begins="alpha"), world.pair(who, "account", "alpha"), world.server(who, "alpha")
    world.bound(server, shared)
    user = world.store.user(who.tenant_id, world.user(who, "operator", begins="alpha").user_id)
    access_key, _ = run(world.access_keys.create(who, user.id))
    temporary = run(world.temporary_keys.create(who, access_key.access_key)).key.access_key
    token = run(world.tokens.create(who, user.id))[0].id
    key = run(world.kms_verbs.keys.create(who, "alpha-key"))
    run(world.kms_verbs.names.add_alias(who, key.id, "alias/alpha"))
    grant = run(world.kms_verbs.grants.create(who, key.id, user.id, ["encrypt-data"]))
    encrypted = run(world.kms_verbs.uses.encrypt(who, key.id, Secret("x"))).ciphertext
    task = world.failed(who, server, shared)
    given = access_key.access_key, temporary, token
    rollout = run(world.rollouts.start(who, "check", [server], {}, {}, {}))
    policy = run(world.policies.set(who, world.name("policy"), None, 90)).name
    secret = run(world.secret(who, "account", "alpha"))
    run(world.emergency.rules.set(who, "zone=theirs", 15))
    run(world.doorbell.set_hook(who, "https://alerts.example.com/theirs", Secret("x" * 16)))
    _, (door,) = run(world.emergency.open(who, [replace(server, labels={"zone": "theirs"})], reason="x", seconds=60))
    return Theirs(who, private, shared, server, task, rollout, policy, user, door, *given, key, grant.id, encrypted, secret)


@pytest.mark.parametrize("verb", VERBS)
def test_a_user_of_one_tenant_sees_and_changes_nothing_of_another(world: World, theirs: Theirs, verb: str) -> None:
    me = world.tenant("beta")
    how, call = VERBS[verb]
    before = _rows(world, theirs.who.tenant_id)

    async def asked() -> Any:
        return await call(world, me, theirs)

    if how == "own":
        shown = repr(run(asked()))
        assert not [each for each in theirs.ids if each in shown]
    else:
        with pytest.raises(NotFound if how == "not found" else NotAllowed):
            run(asked())
    assert _rows(world, theirs.who.tenant_id) == before


def test_a_key_pair_of_another_tenant_is_ordered_by_nobody(world: World, theirs: Theirs) -> None:
    me = world.tenant("beta")
    for name in (theirs.shared.name, theirs.private.name):
        with pytest.raises(NotFound):
            run(world.bindings.start(me, "bind", [world.server(me)], {"keypair": name}, {}))


def test_every_verb_of_every_service_says_how_it_is_scoped() -> None:
    found, without = set(), set()
    for name in modules(controller.service):
        module = importlib.import_module(name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != name or getattr(kind, "_is_protocol", False):
                continue
            for verb, function in vars(kind).items():
                if inspect.iscoroutinefunction(function) and not verb.startswith("_"):
                    found.add(f"{kind.__name__}.{verb}")
                    if "who" not in inspect.signature(function).parameters:
                        without.add(f"{kind.__name__}.{verb}")
    assert found == set(VERBS) | WITHOUT_CALLER
    assert without == WITHOUT_CALLER


def test_every_route_knows_who_asks() -> None:
    routes = [route for part in fleet_api.PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 80
    asking = {route.path for route in routes if caller_of in [each.call for each in route.dependant.dependencies]}
    assert {route.path for route in routes} - asking == {"/fleet/v1/health", "/fleet/v1/ready"}


def test_no_call_takes_a_thread_to_find_out_who_asks() -> None:
    """A plain function among the dependencies is handed to a thread by the framework, at each request."""
    parts = [kps.associating, kps.keypairs, kps.privatekeys, kps.tasks, kps.versions]
    every = [*fleet_api.ROUTES, *(route for each in parts for route in each.router.routes)]
    routes = [route for route in every if isinstance(route, APIRoute)]
    found = {call for route in routes for call in _depended_on(route.dependant)}
    assert fleet_of in found
    assert [call for call in found if not inspect.iscoroutinefunction(call)] == []


def _depended_on(dependant: Dependant) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from _depended_on(each)


def test_the_table_says_what_every_verb_does_and_the_page_says_the_same(world: World) -> None:
    found = run(trials.tried(world))
    for line, cells in found.items():
        for (kind, role), came in cells.items():
            assert came == (refusal(role, kind, *line) or "yes"), f"{line} by a {kind} {role}"
    assert PAGE.read_text() == trials.page(found), "run: python -m tests.controller.trials > docs/roles.md"


def test_every_line_of_the_table_is_tried() -> None:
    assert set(trials.TRIALS) <= set(RULES)
    assert not NOT_TRIED


def _rows(world: World, tenant_id: str) -> dict[str, list[Any]]:
    """Every row of a tenant, and of its users."""
    found: dict[str, list[Any]] = {}
    with engine.reading(world.store._engine) as connection:
        users = select(tables.users.c.id).where(tables.users.c.tenant_id == tenant_id)
        for table in tables.metadata.sorted_tables:
            if "tenant_id" in table.c:
                query = table.select().where(table.c.tenant_id == tenant_id)
            elif "user_id" in table.c:
                query = table.select().where(table.c.user_id.in_(users))
            elif "server_id" in table.c:
                servers = select(tables.servers.c.id).where(tables.servers.c.tenant_id == tenant_id)
                query = table.select().where(table.c.server_id.in_(servers))
            else:
                continue
            found[table.name] = [tuple(row) for row in connection.execute(query)]
    assert all(found[name] for name in ("keypairs", "bindings", "access_keys", "events"))
    return found
