"""Overview: the first page of the console."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from fastapi import APIRouter
from starlette.responses import Response

from controller.model import RolloutState
from controller.service.readiness import OK
from controller.store.overviews import FAILURE_DAYS, Failures, Standing
from controller.web.asking import Page

ROLLOUTS_AT_ONCE = 5
CAUSES_AT_ONCE = 10
UNDER_WAY: tuple[RolloutState, ...] = ("running", "paused", "stopped")
COVERAGE = {
    "custody": ("proved, key kept here", "good"),
    "proved": ("proved, key elsewhere", "warn"),
    "accepted": ("bound, not proved by a login", "warn"),
    "none": ("no key pair bound", "bad"),
}
PASSWORDS = {"off": ("off", "good"), "on": ("on", "bad"), "unknown": ("not known", "warn")}
# In words, and in the few letters that a picture has room for.
AGES = {
    "under_30d": ("under 30 days", "< 30 d"),
    "30d_to_90d": ("30 to 90 days", "30-90 d"),
    "90d_to_180d": ("90 to 180 days", "90-180 d"),
    "180d_to_365d": ("180 days to a year", "180-365 d"),
    "over_365d": ("over a year", "> 1 year"),
}

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a whole: how much of it, and where it stands in a bar of 100."""

    word: str
    kind: str  # good, warn or bad: its colour, which is never all that tells it
    number: int
    percent: float
    begins: float
    path: str  # of the list of them; "": there is none


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of failures: how many tasks, and how many on each day."""

    cause: str
    tasks: int
    days: list[int]


@router.get("/")
async def overview(page: Page) -> Response:
    """Show how the fleet stands."""
    standing, failing = await page.fleet.overview.standing(page.who)
    rollouts = await page.fleet.rollouts.list(page.who, UNDER_WAY)
    newest = rollouts[: -ROLLOUTS_AT_ONCE - 1 : -1]
    report = await page.fleet.readiness.report()
    days = _days(standing)
    causes = _causes(standing.failures, days)
    return await page.show(
        "overview/overview.html",
        "overview",
        "Overview",
        standing=standing,
        failed=sum(each.tasks for each in failing),
        unclear=sum(each.unclear for each in failing),
        coverage=_parts(COVERAGE, standing.coverage, {"none": "bound=no"}),
        passwords=_parts(PASSWORDS, standing.passwords, {each: f"password={each}" for each in PASSWORDS}),
        ages=[(*AGES[each.age], each.keypairs, each.logins) for each in standing.ages],
        ages_in_short=[(AGES[each.age][1], each.keypairs) for each in standing.ages],
        days=[each.isoformat() for each in days],
        by_day=[(each.isoformat(), sum(cause.days[number] for cause in causes)) for number, each in enumerate(days)],
        causes=causes[:CAUSES_AT_ONCE],
        more_causes=max(0, len(causes) - CAUSES_AT_ONCE),
        rollouts=[await page.fleet.rollouts.get(page.who, each.id, lately=True) for each in newest],
        more_rollouts=len(rollouts) - len(newest),
        checks=[(name.replace("_", " "), found) for name, found in report.checks.items()],
        ready=all(found == OK for found in report.checks.values()),
        warnings=report.warnings,
    )


def _parts(words: dict[str, tuple[str, str]], numbers: dict[str, int], sought: dict[str, str]) -> list[Part]:
    """Return the parts of a whole, in the order of words."""
    whole, begins, found = sum(numbers.values()), 0.0, []
    for key, (word, kind) in words.items():
        percent = 100 * numbers[key] / whole if whole else 0.0
        path = f"/console/servers/?{sought[key]}" if key in sought else ""
        found.append(Part(word, kind, numbers[key], round(percent, 1), round(begins, 2), path))
        begins += percent
    return found


def _days(standing: Standing) -> list[date]:
    return [standing.at.date() - timedelta(days=back) for back in range(FAILURE_DAYS - 1, -1, -1)]


def _causes(failures: Sequence[Failures], days: Sequence[date]) -> list[Cause]:
    """Return the causes, the most frequent first."""
    place = {each.isoformat(): number for number, each in enumerate(days)}
    found: dict[str, list[int]] = {}
    for each in failures:
        if each.day in place:
            found.setdefault(each.cause, [0] * len(days))[place[each.day]] += each.tasks
    causes = [Cause(cause, sum(counts), counts) for cause, counts in found.items()]
    return sorted(causes, key=lambda each: (-each.tasks, each.cause))
