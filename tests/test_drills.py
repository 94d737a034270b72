"""The drills themselves: an empty or a refusing run meets no goal, and a part of one takes no whole run's place."""

import argparse
import json
from collections import Counter

import pytest

from tests.drills import causes, figures, scorecard
from tests.drills.faults import Scale, kills, mixed
from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import docs, flavours
from tests.drills.fleet.scenarios import OPERATIONS, Row
from tests.drills.fleet.suite import scenarios, scenarios_of
from tests.drills.fuzz import __main__ as fuzz


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "KEPT", tmp_path)
    return lambda drill: json.loads((tmp_path / f"{drill}.json").read_text())


def missed(report):
    return {figure.name for figure in report.figures if not figure.met}


def test_causes_of_which_none_was_planted_meet_no_goal():
    report = causes._report([], False, 0)
    assert missed(report) >= {"causes planted", "named first", "pairs planted", "one of the two named first", "healthy logins"}
    assert report.ended() == 1
    assert causes._report([], True, 0).ended() == 1
    nothing = [causes.Verdict(f"{n}", kind, "not let in", False) for kind in causes.KINDS for n in range(100)]
    assert missed(causes._report(nothing, True, 0)) >= {"causes planted", "named first", "healthy logins"}


def test_causes_of_one_kind_have_that_kinds_goals_only():
    report = causes._report([causes.Verdict("one", "pair")], True, 0)
    assert missed(report) == set()
    assert not any("first" in figure.name for figure in report.figures if figure.name != "one of the two named first")


def refusing(part, name):
    return {(part, "host"): fuzz.Tried(Counter({name: 2_000 if part == "configs" else 12_000}), [], [])}


@pytest.mark.parametrize(("part", "name"), [("keys", "files"), ("configs", "configurations")])
@pytest.mark.parametrize("sample", [False, True])
def test_an_agent_that_refuses_everything_does_not_come_through_the_fuzz(part, name, sample):
    wanted = argparse.Namespace(sample=sample, count=None, number=None, tree=None)
    report = fuzz.reported(wanted, refusing(part, name), {})
    assert missed(report) == {f"{part}: {each}" for each in fuzz.LEAST[part]}


def test_a_sample_of_the_fuzz_in_which_nothing_was_tried_is_missed():
    wanted = argparse.Namespace(sample=True, count=None, number=None, tree=None)
    assert "keys: files" in missed(fuzz.reported(wanted, {("keys", "host"): fuzz.Tried(Counter(), [], [])}, {}))


@pytest.mark.parametrize("sample", [False, True])
def test_mixed_faults_that_never_were_meet_no_goal(sample, capsys):
    report = Report("faults")
    mixed._tell(report, Scale(sample), [], [])
    assert missed(report) >= {"mixed: servers", "mixed: kinds of fault"}
    cases = [mixed.Case(None, fault, None, True) for fault in mixed.FAULTS * 5]
    report = Report("faults")
    mixed._tell(report, Scale(sample), cases, cases)
    assert missed(report) >= {"mixed: replaced", "mixed: faults that never happened", "mixed: servers on which neither key works"}


class NoPool:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_tracer_that_lists_nothing_is_missed(monkeypatch):
    monkeypatch.setattr(kills, "_pool", lambda *_: NoPool())
    monkeypatch.setattr(kills, "_listed", lambda pool, listing: iter(()))
    report = Report("faults")
    kills.kills(report, Scale(True))
    every = ("kills", "kills without Python")
    assert missed(report) == {f"{part}: {what}" for part in every for what in ("points", "operations without a point")}


def test_what_was_not_tried_is_missed_in_the_scorecard(kept):
    report = Report("faults")
    report.add(zero("kills: points not tried", 3))
    report.ended()
    text, told = scorecard.table({"faults": kept("faults")})
    assert "K1: kills: points not tried is 3, not = 0" in told
    assert "points not tried 3 **missed**" in text


def test_a_part_does_not_put_away_what_a_whole_run_measured(kept):
    for sample, value in ((True, 1), (False, 2), (True, 3)):
        report = Report("causes", sample)
        report.add(Figure("cases", value))
        report.ended()
    assert kept("causes")["cases"]["value"] == 2


def test_a_flavour_shows_what_was_not_tried():
    flavour = next(each for each in flavours.every() if not each.refuses)
    rows = [Row(flavour.name, "bind", str(n), 0.0, "") for n in range(scenarios_of(flavour, "bind"))]
    assert docs.cell(flavour, "bind", rows) == f"{len(rows)} of {len(rows)}"
    assert docs.cell(flavour, "bind", rows[1:]) == f"{len(rows) - 1} of {len(rows)}, NOT ALL TRIED"
    assert scenarios(flavour) == 1 + sum(scenarios_of(flavour, operation) for operation in OPERATIONS)
