"""A rollout over time: how many servers were begun, as asked and failed at each moment; and when it went into its next wave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

MOST_POINTS = 400
MOST_MARKS = 200


@dataclass(frozen=True, slots=True)
class Try:
    """One task of a server, as far as it has come. well: as asked; None while it runs."""

    server_id: str
    begun: datetime
    ended: datetime | None
    well: bool | None


@dataclass(frozen=True, slots=True)
class Point:
    """How many servers had been begun by then, were as asked, and had failed in their last try so far."""

    at: datetime
    begun: int
    done: int
    failed: int


def points(tries: Iterable[Try]) -> list[Point]:
    """Return the moments at which something changed, at most some hundreds of them: of those near each other the last."""
    moments = []
    for each in tries:
        moments.append((each.begun, 0, each))
        if each.ended is not None:
            moments.append((each.ended, 1, each))
    moments.sort(key=lambda moment: moment[:2])
    begun: set[str] = set()
    done: set[str] = set()
    failed: set[str] = set()
    found: list[Point] = []
    for at, ends, each in moments:
        if not ends:
            begun.add(each.server_id)
            failed.discard(each.server_id)  # it is tried once more
        else:
            (done if each.well else failed).add(each.server_id)
        found.append(Point(at, len(begun), len(done), len(failed)))
    return _thinned(found)


def wave_starts(waves: Sequence[Sequence[str]], tries: Iterable[Try]) -> list[tuple[int, datetime]]:
    """Return when the first server of each wave (ids) was begun; of waves that were: which, and when."""
    first: dict[str, datetime] = {}
    for each in tries:
        first[each.server_id] = min(each.begun, first.get(each.server_id, each.begun))
    starts = [(number, [first[id_] for id_ in wave if id_ in first]) for number, wave in enumerate(waves)]
    return [(number, min(of)) for number, of in starts if of][:MOST_MARKS]


def _thinned(found: list[Point]) -> list[Point]:
    if len(found) <= MOST_POINTS:
        return found
    begins = found[0].at
    step = (found[-1].at - begins) / (MOST_POINTS - 2)
    if not step:
        return found[-1:]
    last_of: dict[int, Point] = {int((point.at - begins) / step): point for point in found}
    return [found[0], *last_of.values()] if last_of[0] is not found[0] else list(last_of.values())
