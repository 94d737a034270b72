"""Plans of rollouts on real servers: what is seen is held to, and who was changed since is not touched."""

import time
from collections.abc import Callable

import pytest

from controller.demo.fleet import Server
from tests.fleet import judge
from tests.fleet.causes import CONFIG, KEYS, install_key, unchanged
from tests.fleet.product import SECONDS, Json, Product

OVER = ("finished", "stopped", "paused", "cancelled")
ALL_AT_ONCE = {"canary": "0", "batch": "100%", "max_failures": "100%"}


def through(product: Product, rollout: Json) -> Json:
    """Return a rollout once it is over."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        found = product.ask("GET", f"/rollouts/{rollout['id']}")
        if found["state"] in OVER and not found["states"]["running"]:
            return found
        time.sleep(0.1)
    raise AssertionError(f"the rollout has not ended: {found}")


def planned(product: Product, *servers: Server, operation: str = "bind", **request: object) -> Json:
    """Plan an operation on servers, with their passwords, and return the plan once it is made."""
    names = [server.name for server in servers]
    order = {
        "operation": operation,
        "servers": names,
        "plan": True,
        "keypair": product.keypair()["name"],
        "strategy": ALL_AT_ONCE,
        "credentials": passwords(*servers),
    }
    return through(product, product.ask("POST", "/rollouts", body=order | request))


def passwords(*servers: Server) -> Json:
    return {server.name: {"password": server.root_password} for server in servers}


def started(product: Product, plan: Json, *servers: Server) -> Json:
    """Start a plan as somebody has kept it, and return the rollout once it is over."""
    sealed = product.ask("GET", f"/rollouts/{plan['id']}/plan")
    body = {"sealed": sealed, "credentials": passwords(*servers)}
    return through(product, product.ask("POST", f"/rollouts/{plan['id']}/start", body=body))


def task_of(product: Product, rollout: Json, server: Server) -> Json:
    servers = product.ask("GET", f"/rollouts/{rollout['id']}/servers")
    (found,) = [each for each in servers if each["server"] == server.name]
    return product.ask("GET", f"/tasks/{found['task_id']}")


def _setting(server: Server) -> None:
    """Edit sshd's configuration, and have sshd read it: what it has not read yet is a cause of its own."""
    server.write(CONFIG, "LoginGraceTime 55\n" + server.read(CONFIG))
    server.reload()


CHANGES: dict[str, Callable[[Server], object]] = {
    "a key was added": lambda server: install_key(server, judge.new_key_pair()[1]),
    "a setting was put above ours": _setting,
    "a line far from ours is another one": lambda server: server.write(
        KEYS, server.read(KEYS).replace("far line 1", "far line 2")
    ),
}


@pytest.mark.cause("changed_since_plan")
@pytest.mark.parametrize("change", CHANGES)
def test_who_was_changed_since_the_plan_is_not_touched_and_the_others_are(product, make_server, told, change):
    servers = one, other = make_server(), make_server()
    for server in servers:
        product.add(server)
        install_key(server, judge.new_key_pair()[1])
        server.write(KEYS, "# far line 1\n" + "# between\n" * 9 + server.read(KEYS))
    plan = planned(product, *servers)
    assert (plan["state"], plan["reason"]) == ("finished", "2 planned"), plan
    looks = product.ask("GET", f"/rollouts/{plan['id']}/plan/servers")
    assert {change["path"] for look in looks for change in look["changes"]} >= {KEYS, CONFIG}
    CHANGES[change](one)
    with unchanged(one):
        ended = started(product, plan, *servers)
    assert (ended["state"], ended["causes"]) == ("finished", {"changed_since_plan": 1}), ended
    task = told(task_of(product, ended, one))
    assert {each["path"] for each in task["evidence"]["changes"]} >= {KEYS}
    assert task_of(product, ended, other)["status"] == "succeeded"
    assert product.server(other)["password_login"] == "off"


def test_who_was_changed_and_changed_back_is_as_it_was_planned(product, server):
    product.add(server)
    install_key(server, judge.new_key_pair()[1])
    plan = planned(product, server)
    before = server.read(KEYS)
    install_key(server, judge.new_key_pair()[1])
    refused = started(product, plan, server)
    assert refused["causes"] == {"changed_since_plan": 1}
    server.write(KEYS, before)
    again = {"cause": "changed_since_plan", "credentials": passwords(server)}
    ended = through(product, product.ask("POST", f"/rollouts/{refused['id']}/retry", body=again))
    assert (ended["state"], ended["reason"]) == ("finished", "1 as asked")
