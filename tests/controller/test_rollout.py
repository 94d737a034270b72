"""Rollouts as they are decided: who begins when, and when nobody does any more."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from controller.causes import HEALS, NOT_REACHED
from controller.errors import Invalid
from controller.rollout.amounts import Amount, amount
from controller.rollout.breaker import GIVEN_UP_AFTER, IN_A_ROW, Breaker
from controller.rollout.endings import Ending, wait
from controller.rollout.progress import Past, Progress
from controller.rollout.strategy import EVERY, Member, Strategy
from controller.rollout.waves import waves
from controller.rollout.window import window

BEGIN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ALL = Amount(share=10_000)
AT_ONCE = Strategy(canary=Amount(0), batch=ALL, max_failures=ALL)
GOOD = Ending()
TURNED_AWAY = Ending("wrong_password")
AWAY = Ending("connection_refused")
IN_DOUBT = Ending("undo_incomplete", safe=False)
BEHIND_IT = Ending("jump_unreachable")


def fleet(count: int, *labels: str) -> list[Member]:
    return [Member(f"s{number}", labels[number % len(labels)] if labels else None) for number in range(count)]


@dataclass
class Run:
    """A rollout that is played: each server takes a while, and ends as its turn says."""

    progress: Progress
    ends: Callable[[Member, int], Ending]
    at: datetime = BEGIN
    order: list[str] = field(default_factory=list)  # in which servers were begun, each as often as it was
    most: Counter[str] = field(default_factory=Counter)  # at the same time: in all (""), by jump server, by group
    held: dict[str, str] = field(default_factory=dict)
    begun_at: list[datetime] = field(default_factory=list)
    seed: int = 0
    running: list[Member] = field(default_factory=list)

    def play(self, steps: int = 100_000) -> "Run":
        """Go on until nothing more happens."""
        chance = Random(self.seed)
        for _ in range(steps):
            step = self.progress.step(self.at)
            self.held |= {member.server_id: reason for member, reason in step.held}
            for member in step.begin:
                self.running.append(member)
                self.order.append(member.server_id)
                self.begun_at.append(self.at)
            now: Counter[str] = Counter(bastion for each in self.running for bastion in each.bastions)
            now.update(each.group for each in self.running if each.group is not None)
            now[""] = len(self.running)
            self.most |= now
            if self.running:
                self.at += timedelta(seconds=chance.random())
                member = self.running.pop(chance.randrange(len(self.running)))
                self.progress.ended(member.server_id, self.ends(member, self.progress.tries(member.server_id)), self.at)
                continue
            look = self.progress.next_look(self.at)
            if look is None:
                return self
            assert look > self.at
            self.at = look
        raise AssertionError("it does not come to an end")


def played(strategy: Strategy, members: list[Member], ends: Callable[[Member, int], Ending] = lambda *_: GOOD) -> Run:
    return Run(Progress(strategy, members), ends).play()


# -- what was asked for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "whole", "most"),
    [
        ("5", 100, 5),
        ("5", 3, 3),
        ("0", 9, 0),
        ("2%", 100, 2),
        ("2%", 99, 1),
        ("2 %", 10, 0),
        ("0.5%", 10_000, 50),
        ("100%", 7, 7),
    ],
)
def test_an_amount_is_never_more_than_was_meant(text: str, whole: int, most: int) -> None:
    assert amount(text, "--max-failures").at_most(whole) == most
    assert amount(text, "--batch").at_least_one(whole) == max(1, most)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "101%", "five", "2%%", "1e3", "٣", "9999999999", "1.234%", "%"])
def test_what_is_no_amount_is_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid, match="--batch"):
        amount(text, "--batch")


@given(some.integers(0, 10_000).map(lambda share: Amount(share=share)) | some.integers(0, 10**8).map(Amount))
def test_an_amount_reads_back_as_it_is_written(given: Amount) -> None:
    assert amount(str(given), "it") == given


def test_a_window_may_pass_midnight() -> None:
    night = window("22:00-04:00")
    assert [hour for hour in range(24) if night.open_at(BEGIN.replace(hour=hour, minute=0))] == [0, 1, 2, 3, 22, 23]
    assert night.next_open(BEGIN.replace(hour=12)) == BEGIN.replace(hour=22, minute=0)
    assert night.next_open(BEGIN.replace(hour=23)) == BEGIN.replace(hour=23)


def test_a_window_is_of_its_zone() -> None:
    berlin = window("09:00-17:00 Europe/Berlin")
    assert berlin.zone == ZoneInfo("Europe/Berlin")
    assert berlin.begins == time(9)
    assert berlin.next_open(datetime(2026, 7, 1, 0, 0, tzinfo=UTC)) == datetime(2026, 7, 1, 7, 0, tzinfo=UTC)
    assert berlin.next_open(datetime(2026, 1, 1, 0, 0, tzinfo=UTC)) == datetime(2026, 1, 1, 8, 0, tzinfo=UTC)


def test_hours_that_a_day_does_not_have_open_on_the_next() -> None:
    lost = window("02:30-02:45 Europe/Berlin")  # on 29 March 2026 clocks go from 02:00 to 03:00
    found = lost.next_open(datetime(2026, 3, 29, 0, 0, tzinfo=UTC))
    assert found == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)
    assert lost.open_at(found)


@given(
    some.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=some.just(UTC)),
    some.integers(0, 95),
    some.integers(0, 95),
)
def test_the_next_opening_is_one(at: datetime, begins: int, ends: int) -> None:
    if begins == ends:
        return
    clock = [f"{quarter // 4:02}:{quarter % 4 * 15:02}" for quarter in (begins, ends)]
    found = window(f"{clock[0]}-{clock[1]} America/New_York")
    opens = found.next_open(at)
    assert opens >= at
    assert found.open_at(opens)
    assert opens == at or not found.open_at(opens - timedelta(seconds=1))


@pytest.mark.parametrize(
    "text", ["", "22-04", "22:00-22:00", "24:00-04:00", "22:00-04:00 Nowhere/There", "22:00-04:00 ../../etc/passwd"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        window(text)
    assert refused.value.code == "window_unusable"


# -- waves ---------------------------------------------------------------------------------------------------------------


def test_the_canary_has_somebody_of_each_label() -> None:
    members = [Member("a1", "a"), Member("a2", "a"), Member("a3", "a"), Member("b1", "b"), Member("c1", "c")]
    canary, batches = waves(members, Strategy(canary=Amount(3), batch=Amount(1)))
    assert [each.server_id for each in canary] == ["a1", "b1", "c1"]
    assert [[each.server_id for each in batch] for batch in batches] == [["a2"], ["a3"]]


@given(some.integers(0, 60), some.integers(0, 70), some.integers(1, 10_000), some.integers(1, 4))
def test_each_server_is_in_one_wave(count: int, canary: int, batch: int, labels: int) -> None:
    members = fleet(count, *"abcd"[:labels])
    first, batches = waves(members, Strategy(canary=Amount(canary), batch=Amount(share=batch)))
    assert len(first) == min(canary, count)
    assert sorted(each.server_id for wave in [first, *batches] for each in wave) == sorted(each.server_id for each in members)


def test_a_wave_begins_when_the_last_one_has_ended() -> None:
    run = played(Strategy(canary=Amount(2), batch=Amount(4), concurrency=3), fleet(14))
    number = {each: place for place, each in enumerate(run.order)}
    assert run.progress.over
    assert len(run.order) == 14
    for wave in (["s0", "s1"], ["s2", "s3", "s4", "s5"]):
        others = [each for each in number if int(each[1:]) > int(wave[-1][1:])]
        assert max(number[each] for each in wave) < min(number[each] for each in others)


def test_after_the_canary_somebody_is_asked() -> None:
    progress = Progress(Strategy(canary=Amount(2), pause_after_canary=True), fleet(10))
    run = Run(progress, lambda *_: GOOD).play()
    assert run.order == ["s0", "s1"]
    assert progress.waits_for_go
    assert not progress.over
    progress.go_on()
    assert len(run.play().order) == 10
    assert progress.over


# -- limits --------------------------------------------------------------------------------------------------------------


def test_no_more_at_once_than_was_said() -> None:
    members = [Member(f"s{number}", bastions=("jump",) if number % 2 else ()) for number in range(60)]
    run = played(replace(AT_ONCE, concurrency=9, per_bastion=2), members)
    assert run.progress.over
    assert run.most[""] == 9
    assert run.most["jump"] == 2


def test_outside_the_window_nobody_begins() -> None:
    night = window("22:00-04:00")
    members = fleet(400)
    run = Run(
        Progress(replace(AT_ONCE, window=night, concurrency=1), members), lambda *_: GOOD, at=BEGIN.replace(hour=3, minute=58)
    )
    run.play()
    assert run.progress.over
    assert all(night.open_at(at) for at in run.begun_at)
    assert {at.hour for at in run.begun_at} == {3, 22}


# -- what fails ----------------------------------------------------------------------------------------------------------


def test_a_failure_in_the_canary_stops_it() -> None:
    run = played(
        Strategy(canary=Amount(5), max_failures=ALL, per_label="zone"), fleet(1000, "a", "b"), of_label("b", TURNED_AWAY)
    )
    assert run.progress.stopped == "a server of the canary failed (wrong_password)"
    assert len(run.order) == 5


def test_one_more_failure_than_may_be_stops_it() -> None:
    strategy = Strategy(canary=Amount(0), batch=ALL, max_failures=Amount(3), concurrency=1)
    run = played(strategy, fleet(100), lambda member, _: TURNED_AWAY if int(member.server_id[1:]) % 10 == 9 else GOOD)
    assert run.progress.stopped == "4 servers failed, most of them by wrong_password; at most 3 may"
    assert run.progress.counts["failed"] == 4
    assert len(run.order) == 40


def test_a_cause_has_its_own_limit() -> None:
    strategy = replace(AT_ONCE, max_failures_of={"disk_full": Amount(1), EVERY: Amount(5)}, concurrency=1)
    run = played(strategy, fleet(100), lambda member, _: Ending("disk_full") if member.server_id in ("s3", "s7") else GOOD)
    assert run.progress.stopped == "2 servers failed by disk_full; at most 1 may by one cause"
    assert len(run.order) == 8


def test_a_label_has_its_share() -> None:
    strategy = Strategy(canary=Amount(0), batch=ALL, max_failures=Amount(share=1000), per_label="zone", concurrency=1)
    run = played(strategy, fleet(200, "a", "b", "c", "d"), of_label("c", TURNED_AWAY))
    assert run.progress.stopped == "6 servers of zone=c failed, most of them by wrong_password; at most 5 may of it"


def test_what_may_heal_is_tried_again_and_is_no_failure() -> None:
    run = played(Strategy(canary=Amount(1)), fleet(30), lambda member, tries: AWAY if tries < 3 else GOOD)
    assert run.progress.over
    assert run.progress.counts["done"] == 30
    assert Counter(run.order) == {f"s{number}": 3 for number in range(30)}


def test_a_wrong_password_is_tried_once() -> None:
    assert (
        not {"wrong_password", "password_refused", "key_refused", "key_mismatch", "passphrase_wrong", "credential_needed"} & HEALS
    )
    run = played(AT_ONCE, fleet(3), lambda *_: TURNED_AWAY)
    assert sorted(run.order) == ["s0", "s1", "s2"]


def test_waits_grow_and_differ() -> None:
    waits = [[wait(f"s{number}", tries) for number in range(50)] for tries in (1, 2, 3, 20)]
    assert max(waits[0]) <= timedelta(seconds=10)
    assert min(waits[2]) >= timedelta(seconds=20)
    assert max(waits[3]) <= timedelta(minutes=5)
    assert len(set(waits[0])) > 40


def test_one_failure_does_not_stop_a_label_of_few() -> None:
    strategy = Strategy(canary=Amount(0), batch=ALL, max_failures=Amount(share=100), per_label="zone")
    run = played(strategy, fleet(200, *"abcdefghij"), lambda member, _: TURNED_AWAY if member.server_id == "s7" else GOOD)
    assert run.progress.over
    assert run.progress.stopped is None


# -- ways there ----------------------------------------------------------------------------------------------------------


def test_behind_a_jump_server_that_is_away_few_are_tried() -> None:
    members = [Member(f"s{number}", bastions=("jump",) if number < 500 else ()) for number in range(1000)]
    run = played(replace(AT_ONCE, tries=3), members, lambda member, _: BEHIND_IT if member.bastions else GOOD)
    assert run.progress.over
    assert run.progress.counts["done"] == 500
    tried = sum(1 for each in run.order if int(each[1:]) < 500)
    assert tried <= 32 + IN_A_ROW + GIVEN_UP_AFTER + 1
    assert len(run.held) >= 500 - tried
    assert set(run.held.values()) == {"a jump server on its way (jump) could not be reached again and again"}


def test_a_jump_server_that_comes_back_is_used_again() -> None:
    members = [Member(f"s{number}", bastions=("jump",)) for number in range(100)]
    progress = Progress(replace(AT_ONCE, tries=9), members)
    back = BEGIN + timedelta(minutes=2)
    run = Run(progress, lambda *_: BEHIND_IT if run.at < back else GOOD)
    run.play()
    assert progress.over
    assert progress.counts["done"] == 100


def test_a_subnet_that_is_away_does_not_stop_the_others() -> None:
    members = [Member(f"s{number}", subnet=f"192.0.{number % 4}.0/24") for number in range(400)]
    run = played(replace(AT_ONCE, tries=1), members, lambda member, _: AWAY if member.subnet == "192.0.2.0/24" else GOOD)
    assert run.progress.over
    assert run.progress.counts["done"] == 300
    assert run.progress.counts["held"] > 50


def test_whoever_was_to_try_a_way_and_never_began_leaves_it_to_the_next() -> None:
    breaker = Breaker()
    for number in range(IN_A_ROW):
        breaker.not_reached(f"s{number}", BEGIN)
    later = BEGIN + timedelta(minutes=1)
    assert not breaker.lets(BEGIN)
    assert breaker.lets(later)
    breaker.begun("next")
    assert not breaker.lets(later)
    breaker.left("next")
    assert breaker.lets(later)


# -- groups --------------------------------------------------------------------------------------------------------------


def test_of_a_group_one_at_a_time_and_none_after_one_in_doubt() -> None:
    members = [Member(f"s{number}", group=f"db{number % 3}") for number in range(30)]
    run = played(replace(AT_ONCE), members, lambda member, _: IN_DOUBT if member.server_id == "s7" else GOOD)
    assert run.progress.over
    assert max(run.most[f"db{number}"] for number in range(3)) == 1
    assert {member.group for member in members if member.server_id in run.held} == {"db1"}
    assert set(run.held.values()) == {"another server of db1 was left in doubt (undo_incomplete)"}
    assert "s7" in run.order
    assert run.order.index("s7") == max(place for place, each in enumerate(run.order) if int(each[1:]) % 3 == 1)


def test_a_group_waits_for_a_server_that_is_tried_again() -> None:
    members = [Member("s0", group="db"), Member("s1", group="db")]
    run = played(AT_ONCE, members, lambda member, tries: AWAY if member.server_id == "s0" and tries < 3 else GOOD)
    assert run.order == ["s0", "s0", "s0", "s1"]


def test_a_group_goes_on_after_one_that_is_not_reached_any_more() -> None:
    away = "192.0.2.0/24"
    members = [
        Member("s0", group="db", subnet=away),
        Member("s1", group="db"),
        *(Member(f"a{n}", subnet=away) for n in range(50)),
    ]
    run = played(replace(AT_ONCE, tries=50), members, lambda member, _: AWAY if member.subnet else GOOD)
    assert "s0" in run.held
    assert run.progress.state("s1") == "done"


# -- all together --------------------------------------------------------------------------------------------------------


def of_label(label: str, bad: Ending) -> Callable[[Member, int], Ending]:
    return lambda member, _: bad if member.label == label else GOOD


_ENDINGS = [GOOD, GOOD, GOOD, TURNED_AWAY, AWAY, IN_DOUBT, BEHIND_IT, Ending(tried=False), Ending("interrupted", safe=False)]


@some.composite
def _rollouts(draw: some.DrawFn) -> tuple[Strategy, list[Member], int]:
    chance = Random(draw(some.integers(0, 2**32)))
    pick = chance.choice
    members = [
        Member(
            f"s{number}",
            label=pick([None, "a", "b"]),
            group=pick([None, None, "db", "dc"]),
            bastions=pick([(), ("j",), ("j", "k"), ("k",)]),
            subnet=pick([None, "192.0.2.0/24", "192.0.3.0/24"]),
        )
        for number in range(draw(some.integers(0, 40)))
    ]
    strategy = Strategy(
        canary=pick([Amount(0), Amount(1), Amount(3), Amount(share=1000)]),
        batch=pick([Amount(1), Amount(share=1500), ALL]),
        max_failures=pick([ALL, ALL, Amount(2), Amount(share=200)]),
        max_failures_of=pick([{}, {EVERY: Amount(1)}]),
        per_label=pick([None, "zone"]),
        concurrency=pick([1, 3, 32]),
        per_bastion=pick([None, 1, 2]),
        pause_after_canary=pick([False, False, True]),
        window=pick([None, None, window("03:00-03:30")]),
        tries=pick([1, 2, 4]),
    )
    return strategy, members, chance.randrange(2**32)


def _by_chance(seed: int) -> Callable[[Member, int], Ending]:
    return lambda member, tries: Random(f"{seed} {member.server_id} {tries}").choice(_ENDINGS)


@given(_rollouts())
def test_whatever_happens_it_comes_to_an_end_within_its_limits(given: tuple[Strategy, list[Member], int]) -> None:
    strategy, members, seed = given
    progress = Progress(strategy, members)
    run = Run(progress, _by_chance(seed), seed=seed).play()
    if progress.waits_for_go:
        progress.go_on()
        run.play()
    assert progress.over or progress.stopped
    assert sum(progress.counts.values()) == len(members)
    assert not progress.counts["running"]
    assert run.most[""] <= strategy.concurrency
    assert all(run.most[each] <= (strategy.per_bastion or 99) for each in ("j", "k"))
    assert run.most["db"] <= 1
    assert run.most["dc"] <= 1
    assert max(Counter(run.order).values(), default=0) <= strategy.tries
    if progress.over:
        assert Counter(progress.state(each.server_id) for each in members)["held"] == progress.counts["held"]


@given(_rollouts(), some.integers(0, 60))
def test_after_a_restart_it_goes_on_where_it_was(given: tuple[Strategy, list[Member], int], steps: int) -> None:
    strategy, members, seed = given
    strategy = replace(strategy, pause_after_canary=False)
    ends = _by_chance(seed)
    known: dict[str, Past] = {}
    progress = Progress(strategy, members)
    run = Run(progress, ends, seed=seed)
    chance = Random(seed)
    for _ in range(steps):
        step = progress.step(run.at)
        known |= {each.server_id: Past(progress.tries(each.server_id)) for each in step.begin}
        known |= {each.server_id: Past(progress.tries(each.server_id), held=True) for each, _ in step.held}
        run.running += step.begin
        if not run.running:
            break
        member = run.running.pop(chance.randrange(len(run.running)))
        tries = progress.tries(member.server_id)
        again_at = progress.ended(member.server_id, ends(member, tries), run.at)
        known.pop(member.server_id)
        known[member.server_id] = Past(tries, ends(member, tries), again_at)
    again = Progress(strategy, members, known)
    assert again.stopped == progress.stopped
    assert Run(again, ends, at=run.at, seed=seed, running=list(run.running)).play().progress.over or again.stopped
    assert sum(again.counts.values()) == len(members)
    assert not again.counts["running"]
    assert all(again.tries(each.server_id) <= strategy.tries for each in members)


def test_a_question_costs_the_same_however_many_servers_there_are() -> None:
    """Counted, not timed: how many members are looked at for one that begins."""
    looked: list[int] = []
    for count in (500, 5000):
        progress = Progress(replace(AT_ONCE, per_bastion=4), [Member(f"s{n}", bastions=(f"j{n % 7}",)) for n in range(count)])
        calls = 0
        kept_back = progress._kept_back

        def counting(member: Member, at: datetime) -> bool:
            nonlocal calls
            calls += 1
            return kept_back(member, at)  # noqa: B023

        progress._kept_back = counting  # type: ignore[method-assign]
        Run(progress, lambda *_: GOOD).play()
        looked.append(calls)
    assert looked == [500, 5000]


def test_what_was_not_reached_heals() -> None:
    assert NOT_REACHED < HEALS
