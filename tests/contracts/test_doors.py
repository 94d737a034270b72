"""What every store does about emergency doors."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.doors import Door, DoorOrder, DoorRule
from controller.errors import Conflict, NotAllowed, NotFound
from controller.model import Caller, Outcome, Sealed, SealedCredential, Server, Task
from controller.store import Store
from controller.store.doorhooks import DoorHook
from tests.contracts import test_store as given
from tests.contracts.test_store import Clock

# The same stores, the same people.
url, clock, store, who, server = given.url, given.clock, given.store, given.who, given.server
SECOND = "d" * 32
DOOR = {"from": None, "opened_at": 1, "deadline": 2, "watchers": ["detached process"], "login": "root"}


def an_order(who: Caller, store: Store, *, asked: bool = False, **more: Any) -> DoorOrder:
    at = store._now()
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()), "tenant_id": who.tenant_id, "user_id": who.user_id, "does": "open", "reason": "why",
        "seconds": 600, "doors": [], "created_at": at,
    }  # fmt: skip
    if asked:
        values |= {"state": "asked", "rules": ["env=prod"], "approve_until": at + timedelta(minutes=15)}
    return DoorOrder(**values | more)


def a_door(order: DoorOrder, server: Server, **more: Any) -> Door:
    values: dict[str, Any] = {
        "id": uuid.uuid4().hex, "tenant_id": order.tenant_id, "user_id": order.user_id, "server_id": server.id,
        "server_name": server.name, "login": "root", "order_id": order.id, "reason": order.reason, "network": None,
        "seconds": order.seconds, "created_at": order.created_at, "task_id": str(uuid.uuid4()),
        "state": "asked" if order.state == "asked" else "opening",
    }  # fmt: skip
    return Door(**values | more)


def a_task(door: Door, operation: Any = "door-open", seconds: int = 600) -> Task:
    id = door.task_id if operation == "door-open" else str(uuid.uuid4())
    request = {"door_id": door.id, "door_from": door.network, "door_seconds": seconds}
    return Task(
        id, door.tenant_id, door.user_id, door.server_id, door.server_name, door.login, operation, request, door.created_at
    )


def opened(store: Store, who: Caller, server: Server) -> Door:
    """An open door."""
    order = an_order(who, store)
    door = a_door(order, server)
    store.add_doors(replace(order, doors=[door.id]), [door], [a_task(door)], "me", 30)
    ended(store, door.task_id, Outcome("succeeded", "as_asked", evidence={"door": said(door, "open")}))
    return store.door(who.tenant_id, door.id)


def said(door: Door, state: str, **more: Any) -> dict[str, Any]:
    return DOOR | {"id": door.id, "state": state, "closed_by": None} | more


def ended(store: Store, task_id: str, outcome: Outcome) -> None:
    claimed = store.claim(task_id, "me", 30)
    assert claimed is not None
    assert store.finish(task_id, "me", claimed.generation, outcome)


def closing(store: Store, door: Door, operation: Any = "door-close") -> Task:
    """A task that closes a door, or asks whether it is closed, as it stands."""
    task = a_task(door, operation)
    store.close_doors([door], [task], "me", 30) if operation == "door-close" else store.ask_doors([door], [task], "me", 30)
    return task


def kinds(store: Store, who: Caller) -> list[str]:
    return [each.kind for each in store.events(who.tenant_id) if each.kind.startswith("door_")]


# -- a door's life


def test_a_door_whose_password_is_being_set_is_none_that_may_be_open(store: Store, who: Caller, server: Server) -> None:
    order = an_order(who, store)
    door = a_door(order, server, one_time=True, ask_at=order.created_at + timedelta(minutes=15))
    store.add_doors(replace(order, doors=[door.id]), [door])
    assert (store.count_doors(who.tenant_id), store.figures().doors) == ((0, 0), 0)
    store.begin_doors([door], [a_task(door)], "me", 30)
    assert (store.count_doors(who.tenant_id), store.figures().doors) == ((1, 0), 1)


def test_a_door_that_was_closed_since_it_was_read_is_asked_for_by_nobody_and_stays_closed(
    store: Store, who: Caller, server: Server
) -> None:
    """Whoever has read it may have stood still since; somebody else has seen to it meanwhile."""
    read = opened(store, who, server)
    said_so = Outcome("succeeded", "as_asked", evidence={"door": said(read, "closed", closed_by="order")})
    ended(store, closing(store, read).id, said_so)
    closed, tasks = store.door(who.tenant_id, read.id), store.tasks(who.tenant_id)
    closing(store, read, "door-status")
    store.give_up_asking(read, "its server is not in the inventory any more")
    assert store.door(who.tenant_id, read.id) == closed
    assert store.tasks(who.tenant_id) == tasks


def test_a_door_opens_with_its_task_and_closes_with_the_one_that_closes_it(store: Store, who: Caller, server: Server) -> None:
    door = opened(store, who, server)
    assert (door.state, door.deadline) == ("open", given.START + timedelta(seconds=600))
    assert store.count_doors(who.tenant_id) == (1, 0)
    ended(
        store,
        closing(store, door).id,
        Outcome("succeeded", "as_asked", evidence={"door": said(door, "closed", closed_by="order")}),
    )
    door = store.door(who.tenant_id, door.id)
    assert (door.state, door.closed_by, door.confirmed, door.ask_at) == ("closed", "order", True, None)
    assert kinds(store, who) == ["door_asked", "door_ordered", "door_opened", "door_closing", "door_closed"]
    assert store.count_doors(who.tenant_id) == (0, 0)


@pytest.mark.parametrize("state", ["as_before", "reverted"])
def test_a_door_that_could_not_be_opened_has_failed(store: Store, who: Caller, server: Server, state: Any) -> None:
    order = an_order(who, store)
    door = a_door(order, server)
    store.add_doors(replace(order, doors=[door.id]), [door], [a_task(door)], "me", 30)
    ended(store, door.task_id, Outcome("failed", state, cause="wrong_password", message="web-1: no"))
    door = store.door(who.tenant_id, door.id)
    assert (door.state, door.note) == ("failed", "web-1: no")


def test_a_door_whose_end_nobody_heard_may_be_open_and_its_server_is_asked(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    order = an_order(who, store)
    door = a_door(order, server)
    store.add_doors(replace(order, doors=[door.id]), [door], [a_task(door)], "me", 30)
    ended(store, door.task_id, Outcome("failed", "unknown", cause="connection_lost", message="web-1: gone"))
    door = store.door(who.tenant_id, door.id)
    assert (door.state, door.confirmed, door.asks) == ("closing", False, 1)
    assert "not confirmed" in door.note
    assert store.doors_to_ask() == []
    clock.forward(4)
    assert store.doors_to_ask() == [door]


def test_at_the_deadline_the_server_is_asked_and_what_it_says_is_an_event(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    door = opened(store, who, server)
    clock.forward(601)
    assert store.doors_to_ask() == []  # it is given a moment
    clock.forward(2)
    assert store.doors_to_ask() == [door]
    task = closing(store, door, "door-status")
    assert store.door(who.tenant_id, door.id).state == "closing"
    assert store.doors_to_ask() == []  # it is being asked
    ended(store, task.id, Outcome("unchanged", "as_asked", evidence={"door": said(door, "closed", closed_by="deadline")}))
    assert store.door(who.tenant_id, door.id).closed_by == "deadline"
    assert kinds(store, who)[-2:] == ["door_closing", "door_closed"]


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("failed", "as_before", cause="connection_refused", message="web-1: nobody listens"),
        Outcome("unchanged", "as_asked", evidence={"door": "open"}),
    ],
)
def test_what_could_not_be_asked_stays_unconfirmed_and_is_asked_ever_more_rarely(
    store: Store, who: Caller, server: Server, clock: Clock, outcome: Outcome
) -> None:
    door = opened(store, who, server)
    clock.forward(603)
    waits = []
    for _ in range(8):
        if outcome.evidence:
            outcome = replace(outcome, evidence={"door": said(door, "open")})
        ended(store, closing(store, store.door(who.tenant_id, door.id), "door-status").id, outcome)
        found = store.door(who.tenant_id, door.id)
        assert (found.state, found.confirmed) == ("closing", False)
        assert found.note.startswith("not confirmed")
        assert found.ask_at is not None
        waits.append((found.ask_at - clock.now).total_seconds())
        clock.now = found.ask_at
    assert waits == [3, 10, 30, 60, 300, 600, 600, 600]
    assert store.count_doors(who.tenant_id) == (1, 1)
    assert kinds(store, who).count("door_unconfirmed") == 8


def test_a_server_that_tells_of_another_door_has_closed_this_one(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    door = opened(store, who, server)
    clock.forward(603)
    task = closing(store, door, "door-status")
    ended(store, task.id, Outcome("unchanged", "as_asked", evidence={"door": said(door, "open", id="f" * 32)}))
    assert store.door(who.tenant_id, door.id).state == "closed"


@pytest.mark.parametrize(
    ("operation", "outcome"),
    [
        ("door-status", Outcome("unchanged", "as_asked")),
        ("door-close", Outcome("failed", "as_before", cause="door_unknown", message="web-1: none is open here")),
    ],
)
def test_a_server_on_which_no_door_stands_has_closed_this_one(
    store: Store, who: Caller, server: Server, clock: Clock, operation: Any, outcome: Outcome
) -> None:
    door = opened(store, who, server)
    clock.forward(603)
    ended(store, closing(store, door, operation).id, outcome)
    found = store.door(who.tenant_id, door.id)
    assert (found.state, found.ask_at, found.closed_by) == ("closed", None, None)


def test_a_door_that_could_not_be_closed_is_open_still_where_the_server_says_so(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    door = opened(store, who, server)
    ended(store, closing(store, door).id, Outcome("failed", "as_before", cause="busy", message="web-1: busy"))
    assert store.door(who.tenant_id, door.id).state == "closing"
    clock.forward(4)
    asked = closing(store, store.door(who.tenant_id, door.id), "door-status")
    ended(store, asked.id, Outcome("unchanged", "as_asked", evidence={"door": said(door, "open")}))
    assert store.door(who.tenant_id, door.id).state == "open"


def test_an_extended_door_closes_later(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    door = opened(store, who, server)
    clock.forward(60)
    order = an_order(who, store, does="extend", seconds=900, doors=[door.id])
    task = a_task(door, "door-extend", 900)
    store.extend_doors(order, [door], [task], "me", 30)
    ended(store, task.id, Outcome("succeeded", "as_asked", evidence={"door": said(door, "open")}))
    assert store.door(who.tenant_id, door.id).deadline == clock.now + timedelta(seconds=900)
    assert kinds(store, who)[-2:] == ["door_asked", "door_extended"]


def test_one_login_has_one_door(store: Store, who: Caller, server: Server) -> None:
    opened(store, who, server)
    order = an_order(who, store)
    with pytest.raises(Conflict) as refused:
        store.add_doors(order, [a_door(order, server)])
    assert refused.value.code == "door_is_open"
    store.add_doors(order, [a_door(order, server, login="deploy")])


# -- a second user


def test_what_a_second_user_agrees_to_is_done(store: Store, who: Caller, server: Server) -> None:
    order = an_order(who, store, asked=True)
    door = a_door(order, server)
    order = replace(order, doors=[door.id])
    store.add_doors(order, [door])
    assert store.tasks(who.tenant_id) == []
    assert store.door_orders(who.tenant_id, asked=True) == [order]
    decided = store.decide_doors(
        who.tenant_id, order.id, SECOND, agreed=True, tasks=[a_task(door)], holder="me", lease_seconds=30
    )
    assert (decided.state, decided.decided_by) == ("approved", SECOND)
    assert store.door(who.tenant_id, door.id).state == "opening"
    assert [task.id for task in store.tasks(who.tenant_id)] == [door.task_id]
    with pytest.raises(Conflict) as refused:
        store.decide_doors(who.tenant_id, order.id, SECOND, agreed=True)
    assert refused.value.code == "door_order_decided"


def test_whoever_asked_cannot_be_the_second_one(store: Store, who: Caller, server: Server) -> None:
    order = an_order(who, store, asked=True)
    door = a_door(order, server)
    store.add_doors(replace(order, doors=[door.id]), [door])
    with pytest.raises(NotAllowed) as refused:
        store.decide_doors(who.tenant_id, order.id, who.user_id, agreed=True, tasks=[a_task(door)])
    assert refused.value.code == "approved_by_requester"
    assert (store.tasks(who.tenant_id), store.door(who.tenant_id, door.id).state) == ([], "asked")
    assert store.decide_doors(who.tenant_id, order.id, who.user_id, agreed=False).state == "refused"  # taken back
    assert store.door(who.tenant_id, door.id).state == "refused"


def test_nobody_agrees_too_late(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    order = an_order(who, store, asked=True)
    door = a_door(order, server)
    sealed = SealedCredential(door.task_id, server.id, who.tenant_id, Sealed(b"sealed"), clock.now + timedelta(hours=24))
    store.add_doors(replace(order, doors=[door.id]), [door], credentials=[sealed])
    clock.forward(15 * 60)
    with pytest.raises(Conflict) as refused:
        store.decide_doors(who.tenant_id, order.id, SECOND, agreed=True, tasks=[a_task(door)])
    assert refused.value.code == "approval_expired"
    assert store.lapse_doors() == [order.id]
    assert store.lapse_doors() == []
    assert store.door(who.tenant_id, door.id).state == "lapsed"
    assert store.credential(a_task(door)) is None  # nothing that opens a server is left
    assert kinds(store, who) == ["door_asked", "door_lapsed"]


def test_rules_are_kept_by_their_servers(store: Store, who: Caller) -> None:
    rule = DoorRule(who.tenant_id, "env", "prod", 15, who.user_id, given.START)
    store.set_door_rule(rule)
    store.set_door_rule(replace(rule, minutes=30))
    assert [each.minutes for each in store.door_rules(who.tenant_id)] == [30]
    assert store.door_rules("2" * 32) == []
    store.remove_door_rule(who.tenant_id, "env", "prod", who.user_id)
    with pytest.raises(NotFound):
        store.remove_door_rule(who.tenant_id, "env", "prod", who.user_id)


# -- ahead of all others


def test_nothing_is_begun_while_an_urgent_task_waits_for_somebody_alive(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    other = store.add_servers([given.a_server(who, "web-2")])[0]
    (ordinary,) = store.add_tasks([given.a_task(other)], "you", 300)
    order = an_order(who, store)
    door = a_door(order, server)
    store.add_doors(order, [door], [a_task(door)], "me", 30)
    assert store.claim(ordinary.id, "you", 30) is None
    assert store.claim(door.task_id, "me", 30) is not None
    assert store.claim(ordinary.id, "you", 30) is not None  # once that is begun

    third = store.add_servers([given.a_server(who, "web-3")])[0]
    (waiting,) = store.add_tasks([given.a_task(third)], "you", 300)
    another = an_order(who, store)
    door = a_door(another, other, login="deploy")
    store.add_doors(another, [door], [a_task(door)], "me", 30)
    assert store.claim(waiting.id, "you", 30) is None
    clock.forward(31)  # whoever was to begin it is dead
    assert store.claim(waiting.id, "you", 30) is not None


def test_whether_a_door_is_closed_is_asked_all_the_same_and_nothing_is_held_up_for_ever(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    door = opened(store, who, server)
    other, third = store.add_servers([given.a_server(who, "web-2"), given.a_server(who, "web-3")])
    order = an_order(who, store)
    waits = a_door(order, other)
    store.add_doors(order, [waits], [a_task(waits)], "me", 300)
    (ordinary,) = store.add_tasks([given.a_task(third)], "you", 300)
    look = closing(store, door, "door-status")
    assert store.claim(look.id, "me", 30) is not None
    assert store.claim(ordinary.id, "you", 30) is None
    clock.forward(299)
    assert store.claim(ordinary.id, "you", 30) is None
    clock.forward(1)
    assert store.claim(ordinary.id, "you", 30) is not None


def test_what_revokes_a_key_waits_for_no_door(store: Store, who: Caller, server: Server) -> None:
    other = store.add_servers([given.a_server(who, "web-2")])[0]
    order = an_order(who, store)
    door = a_door(order, server)
    store.add_doors(order, [door], [a_task(door)], "me", 300)
    (revoking,) = store.add_tasks([replace(given.a_task(other), operation="unbind", request={"revoke": True})], "you", 300)
    assert store.claim(revoking.id, "you", 30) is not None


# -- who is told


def test_what_happens_waits_to_be_told_where_somebody_wants_to_be(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    opened(store, who, server)
    assert store.door_alerts(100) == []
    store.set_door_hook(DoorHook(who.tenant_id, "https://x", Sealed(b"s"), who.user_id, False, clock.now))
    second = store.add_servers([given.a_server(who, "web-2")])[0]
    opened(store, who, second)
    first, *others = store.door_alerts(100)
    assert '"event":"door_asked"' in first.body
    store.door_alert_told(first)
    store.door_alert_not_told(others[0], "busy", clock.now + timedelta(seconds=10))
    store.door_alert_not_told(others[1], "busy", None)
    assert kinds(store, who)[-1] == "door_alert_lost"
    assert store.door_alerts(100) == []
    clock.forward(10)
    assert [each.tries for each in store.door_alerts(100)] == [1]
    store.remove_door_hook(who.tenant_id, who.user_id)
    assert (store.door_alerts(100), store.door_hook(who.tenant_id)) == ([], None)
    assert kinds(store, who)[-2:] == ["door_alert_lost", "door_hook_removed"]


def test_who_is_told_is_told_of_rules_too(store: Store, who: Caller, clock: Clock) -> None:
    store.set_door_hook(DoorHook(who.tenant_id, "https://x", Sealed(b"s"), who.user_id, False, clock.now))
    store.set_door_rule(DoorRule(who.tenant_id, "env", "prod", 15, who.user_id, given.START))
    store.remove_door_rule(who.tenant_id, "env", "prod", who.user_id)
    told = [json.loads(each.body) for each in store.door_alerts(100)]
    assert [each["event"] for each in told] == ["door_rule_set", "door_rule_removed"]
    assert store.door_alert_tenants() == [who.tenant_id]


def test_a_door_that_is_taken_back_leaves_its_order_to_the_others(store: Store, who: Caller, server: Server) -> None:
    other = store.add_servers([given.a_server(who, "web-2")])[0]
    order = an_order(who, store, asked=True)
    one, two = a_door(order, server), a_door(order, other)
    store.add_doors(replace(order, doors=[one.id, two.id]), [one, two])
    store.take_back_doors(order.id, [one], who.user_id)
    assert store.door(who.tenant_id, one.id).state == "refused"
    assert kinds(store, who) == ["door_asked", "door_refused"]
    # Whoever agrees just now has read the order as it was.
    tasks = [a_task(one), a_task(two)]
    store.decide_doors(who.tenant_id, order.id, SECOND, agreed=True, tasks=tasks, holder="me", lease_seconds=30)
    assert [store.door(who.tenant_id, each.id).state for each in (one, two)] == ["refused", "opening"]
    assert [task.id for task in store.tasks(who.tenant_id)] == [two.task_id]
    with pytest.raises(Conflict):
        store.take_back_doors(order.id, [two], who.user_id)
