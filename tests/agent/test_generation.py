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
