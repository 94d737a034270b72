"""What a rotation does next.

It goes in rounds, each a rollout that replaces the old key pair where it is bound: first where nothing was tried yet, by the
policy's strategy; then, a day apart, where it was tried and failed. Once the old key pair is bound nowhere, and no task leaves
that in doubt, the grace period begins; when it is over the private half goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.policy import Place, RotationState, Round, Whereabouts

AGAIN = timedelta(days=1)  # after which those that failed are tried once more


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done now. state and reason are what it is told as; removed: keep the moment at which grace began."""

    state: RotationState
    reason: str
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a rollout on these logins, one for each server. stragglers: each was tried in an earlier round and failed."""

    places: list[Place]
    stragglers: bool


@dataclass(frozen=True, slots=True)
class Clear:
    """Destroy the private half of the old key pair."""


def step(
    where: Whereabouts,
    rounds: Sequence[Round],
    removed_at: datetime | None,
    grace_days: int,
    at: datetime,
    *,
    paused: bool = False,
    pressed: bool = False,
) -> Wait | Begin | Clear:
    """Return what is to be done at a moment. rounds: the oldest first. pressed: somebody asks for it now."""
    if any(each.state == "running" or each.running for each in rounds):
        return Wait("rolling", f"rollout {next(each.rollout_id for each in reversed(rounds) if _goes(each))} is under way")
    halted = next((each for each in reversed(rounds) if each.state in ("stopped", "paused")), None)
    if halted is not None:
        return Wait("held", f"rollout {halted.rollout_id} is {halted.state}: {halted.reason}; retry, resume or cancel it")
    if where.inside:
        return _next_round(where.inside, rounds, at, paused, pressed)
    if where.outside:
        return Wait("waiting", f"the old key pair is bound on {_logins(where.outside)} of other servers")
    if where.doubts:
        return Wait("waiting", where.doubts[0])
    over = (removed_at or at) + timedelta(days=grace_days)
    if where.managed and at < over:
        return Wait("waiting", f"the old private half is kept until {over:%Y-%m-%d %H:%M} UTC", removed=True)
    return Wait("held", "the policy is paused", removed=True) if paused else Clear()


def _next_round(inside: frozenset[Place], rounds: Sequence[Round], at: datetime, paused: bool, pressed: bool) -> Wait | Begin:
    last = rounds[-1] if rounds else None
    if paused:
        return Wait("held", "the policy is paused")
    if last is not None and last.state == "cancelled" and not pressed:
        return Wait("held", f"rollout {last.rollout_id} was cancelled; kps policy run begins another one")
    tried = frozenset().union(*(each.tried for each in rounds))
    known = frozenset().union(*(each.places for each in rounds if each.state == "finished"))
    # What the last rounds were about and did not come to was held there: its way was down.
    again_at = max((each.ended_at for each in rounds if each.ended_at is not None), default=at) + AGAIN
    may_again = pressed or at >= again_at
    untried = [each for each in inside if each not in tried and (may_again or each not in known)]
    if untried:
        return Begin(_one_each(untried), stragglers=False)
    if may_again:
        return Begin(_one_each(inside), stragglers=True)
    return Wait("rolling", f"{_logins(len(inside))} still to do, tried again from {again_at:%Y-%m-%d %H:%M} UTC on")


def _goes(each: Round) -> bool:
    return each.state == "running" or each.running


def _one_each(places: Sequence[Place] | frozenset[Place]) -> list[Place]:
    """Return the places of one round: a rollout works on a server once."""
    found: dict[str, Place] = {}
    for each in sorted(places, key=lambda place: (place.server_id, place.login)):
        found.setdefault(each.server_id, each)
    return list(found.values())


def _logins(count: int) -> str:
    return "1 login" if count == 1 else f"{count} logins"
