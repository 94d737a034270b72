"""A server refuses an order that is older than one it has seen, before it looks at anything."""

import pytest

from kpsagent import host, plan
from kpsagent.transaction import drive, operation


class Seen:
    """A host that has seen generation 9 and answers no more than an operation's first questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def do(self, effect: object) -> object:
        self.asked.append(type(effect).__name__)
        if isinstance(effect, host.ReadState):
            return {"generation": 9, "operation": "newer", "result": "succeeded"}
        if isinstance(effect, host.FindAccount | host.ReadJournal | host.Door):
            return None
        return {}


def run(generation: int) -> tuple[Seen, dict[str, object]]:
    seen = Seen()
    order = {"operation": "check", "id": "older", "generation": generation, "login": "root"}
    return seen, drive(operation(plan.parse(order)), seen)


def test_an_older_generation_is_refused_before_anything_is_looked_at() -> None:
    seen, result = run(8)
    assert (result["status"], result["cause"], result["server_state"]) == ("failed", "stale_generation", "as_before")
    assert "FindAccount" not in seen.asked


@pytest.mark.parametrize("generation", [9, 10])
def test_the_same_generation_or_a_newer_one_goes_on(generation: int) -> None:
    seen, result = run(generation)
    assert result["cause"] == "login_missing"
    assert "FindAccount" in seen.asked


class Remembers:
    """A host whose state is kept, and which knows no login."""

    def __init__(self, **state: object) -> None:
        self.state = state
        self.asked: list[str] = []

    def do(self, effect: object) -> object:
        self.asked.append(type(effect).__name__)
        if isinstance(effect, host.ReadState):
            return dict(self.state)
        if isinstance(effect, host.WriteState):
            self.state = effect.state
        if isinstance(effect, host.FindAccount | host.ReadJournal | host.Door | host.ReadDoor):
            return None
        if isinstance(effect, host.DoorPlace):
            return "/run/kps-door", True, []
        return {}


DOOR = {"id": "0" * 32, "seconds": 60, "from": None}
ORDERS = {
    "bind": {"key": None},
    "password-set": {"password_hash": "$6$salt$hash"},
    "door-open": {"door": DOOR},
    "check": {"repair": True, "diagnose": ""},
}


def given(there: Remembers, operation_: str, generation: int, **more: object) -> dict[str, object]:
    order = {"operation": operation_, "id": "x", "generation": generation, "login": "root"}
    return drive(operation(plan.parse(dict(order, **more))), there)


@pytest.mark.parametrize("late", ORDERS)
def test_an_order_that_comes_after_the_server_was_asked_how_it_ended_is_refused(late: str) -> None:
    there = Remembers(generation=3, operation="earlier", result="succeeded")
    look = given(there, "check", 5, ended=5)
    assert look["cause"] == "login_missing"  # it has looked
    assert there.state == {"generation": 3, "operation": "earlier", "result": "succeeded", "ended": 5}
    there.asked.clear()
    for generation in (4, 5):
        assert given(there, late, generation, **ORDERS[late])["cause"] == "stale_generation"
    assert "FindAccount" not in there.asked
    assert given(there, late, 6, **ORDERS[late])["cause"] != "stale_generation"
    assert given(there, "check", 5, ended=5)["cause"] == "login_missing"  # whoever did not hear the answer asks again


@pytest.mark.parametrize("state", [{"generation": 5, "operation": "x", "result": "succeeded"}, {"ended": 7}])
def test_nothing_is_written_where_a_newer_order_keeps_it_out_already(state: dict[str, object]) -> None:
    there = Remembers(**state)
    given(there, "check", 9, ended=5)
    assert "WriteState" not in there.asked
