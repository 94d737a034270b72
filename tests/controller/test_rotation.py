"""Rotation, decided: when a key pair is due, what the next is called, what a rotation does next."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.policy import Place, Round, Whereabouts
from controller.rotation import due, names, steps

NOW = datetime(2030, 6, 1, tzinfo=UTC)
A, B, B2 = Place("a", "root"), Place("b", "root"), Place("b", "deploy")

moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
ages = st.integers(1, 36_500)
reminders = st.lists(st.integers(1, 400), max_size=6)


@settings(deadline=None)
@given(moments, ages, reminders, moments)
def test_a_key_pair_is_due_from_its_age_on_and_never_before(made: datetime, age: int, remind: list[int], at: datetime) -> None:
    when = due.due_at(made, age)
    assert (due.standing(when, remind, at) == "due") == (at - made >= timedelta(days=age))
    assert due.standing(when, remind, when) == "due"
    assert due.standing(when, remind, when - timedelta(microseconds=1)) != "due"


@settings(deadline=None)
@given(moments, ages, reminders, moments)
def test_it_is_soon_due_from_its_first_reminder_on(made: datetime, age: int, remind: list[int], at: datetime) -> None:
    when = due.due_at(made, age)
    first = max(remind, default=0)
    expected = "due" if at >= when else "soon" if at >= when - timedelta(days=first) else "fresh"
    assert due.standing(when, remind, at) == expected


@settings(deadline=None)
@given(moments, reminders, st.lists(st.integers(-500, 500), min_size=1, max_size=30))
def test_each_reminder_is_given_once_at_most_and_the_last_always(when: datetime, remind: list[int], looks: list[int]) -> None:
    """Whoever looks, at whichever moments: what is given goes down to due, and due is given as soon as somebody looks then."""
    given_: list[int] = []
    for days in sorted(looks):
        found = due.reminder(when, remind, given_[-1] if given_ else None, when + timedelta(days=days))
        if found is not None:
            given_.append(found)
    assert given_ == sorted(set(given_), reverse=True)
    assert set(given_) <= {0, *remind}
    assert (0 in given_) == (max(looks) >= 0)


@pytest.mark.parametrize(
    ("name", "taken", "wanted"),
    [
        ("ops", (), "ops-v2"),
        ("ops-v2", (), "ops-v3"),
        ("ops-v9", (), "ops-v10"),
        ("ops", ("ops-v2", "ops-v3"), "ops-v4"),
        ("ops-2027", (), "ops-2027-v2"),
        ("ops-v0", (), "ops-v0-v2"),
        ("-v2", (), "-v2-v2"),
        ("v2", (), "v2-v2"),
        ("o" * 255, (), "o" * 252 + "-v2"),
        ("o" * 252 + "-v9", (), "o" * 251 + "-v10"),
    ],
)
def test_the_next_name(name: str, taken: tuple[str, ...], wanted: str) -> None:
    assert names.next_name(name, taken) == wanted


@settings(deadline=None)
@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,255}\Z"), st.integers(1, 6))
def test_next_names_are_names_and_never_the_same(name: str, often: int) -> None:
    taken = {name}
    for _ in range(often):
        name = names.next_name(name, taken)
        assert name not in taken
        assert 1 <= len(name) <= names.MOST_CHARACTERS
        taken.add(name)


places = st.frozensets(st.builds(Place, st.sampled_from("abcd"), st.sampled_from(["root", "deploy"])))
states = st.sampled_from(["running", "paused", "stopped", "cancelled", "finished"])


@st.composite
def rounds(draw: st.DrawFn) -> list[Round]:
    found = []
    for number in range(draw(st.integers(0, 4))):
        about, state = draw(places), draw(states)
        tried = frozenset(each for each in about if draw(st.booleans()))
        ended = NOW - timedelta(hours=draw(st.integers(0, 60))) if state in ("cancelled", "finished") else None
        found.append(Round(f"r{number}", state, "", about, tried, ended, draw(st.booleans()) and state != "finished"))
    return found


where = st.builds(Whereabouts, places, st.integers(0, 2), st.lists(st.just("in doubt"), max_size=1), st.booleans())


@settings(deadline=None)
@given(where, rounds(), st.none() | st.integers(0, 20), st.integers(0, 14), st.booleans(), st.booleans())
def test_nothing_is_cleared_while_the_old_key_pair_may_be_somewhere(
    found: Whereabouts, past: list[Round], removed: int | None, grace: int, paused: bool, pressed: bool
) -> None:
    removed_at = None if removed is None else NOW - timedelta(days=removed)
    step = steps.step(found, past, removed_at, grace, NOW, paused=paused, pressed=pressed)
    last = past[-1].state if past else None
    if isinstance(step, steps.Clear):
        assert not (found.inside)
        assert not (found.outside)
        assert not (found.doubts)
        assert not paused
        assert all(each.state != "running" and not each.running for each in past)
        assert all(each.state not in ("stopped", "paused") for each in past)
        assert not found.managed or (removed or 0) >= grace
    if isinstance(step, steps.Begin):
        assert set(step.places) <= found.inside
        assert step.places
        assert len({each.server_id for each in step.places}) == len(step.places)
        assert not paused
        assert all(each.state != "running" and not each.running for each in past)
        assert all(each.state not in ("stopped", "paused") for each in past)
        assert last != "cancelled" or pressed
        tried = {each for one in past for each in one.tried}
        assert not step.stragglers or set(step.places) <= tried
        assert step.stragglers or not set(step.places) & tried
    if isinstance(step, steps.Wait):
        assert step.reason
        assert step.removed <= (not (found.inside or found.outside or found.doubts))


def finished(places: frozenset[Place], tried: frozenset[Place], hours_ago: float) -> Round:
    return Round("r", "finished", "", places, tried, NOW - timedelta(hours=hours_ago))


def test_what_was_held_and_what_failed_wait_a_day_and_what_is_new_does_not() -> None:
    inside = Whereabouts(frozenset({A, B}))
    failed = [finished(frozenset({A, B}), frozenset({A, B}), 1)]
    assert isinstance(steps.step(inside, failed, None, 7, NOW), steps.Wait)
    assert steps.step(inside, failed, None, 7, NOW + timedelta(days=1)) == steps.Begin([A, B], stragglers=True)
    assert steps.step(inside, failed, None, 7, NOW, pressed=True) == steps.Begin([A, B], stragglers=True)
    held = [finished(frozenset({A, B}), frozenset({A}), 1)]
    assert isinstance(steps.step(inside, held, None, 7, NOW), steps.Wait)
    assert steps.step(inside, held, None, 7, NOW + timedelta(days=1)) == steps.Begin([B], stragglers=False)
    new = [finished(frozenset({A}), frozenset({A}), 1)]
    assert steps.step(inside, new, None, 7, NOW) == steps.Begin([B], stragglers=False)


def test_a_server_with_two_logins_comes_once_in_a_round() -> None:
    inside = Whereabouts(frozenset({A, B, B2}))
    assert steps.step(inside, [], None, 7, NOW) == steps.Begin([A, B2], stragglers=False)
    left = Whereabouts(frozenset({B}))
    assert steps.step(left, [finished(frozenset({A, B2}), frozenset({A, B2}), 0)], None, 7, NOW) == steps.Begin([B], False)
