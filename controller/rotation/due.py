"""When a key pair is too old, and when that is said beforehand."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

Standing = Literal["fresh", "soon", "due"]
DUE = 0  # as a reminder: no days before


def due_at(created_at: datetime, max_age_days: int) -> datetime:
    """Return the moment from which on a key pair is due."""
    return created_at + timedelta(days=max_age_days)


def standing(due: datetime, remind_days: Iterable[int], at: datetime) -> Standing:
    """Say how a key pair stands at a moment: soon from its first reminder on."""
    if at >= due:
        return "due"
    return "soon" if reached(due, remind_days, at) is not None else "fresh"


def reached(due: datetime, remind_days: Iterable[int], at: datetime) -> int | None:
    """Return the last reminder whose moment has come, in days before due (DUE: it is due); None: not one."""
    days = [each for each in {DUE, *remind_days} if at >= due - timedelta(days=each)]
    return min(days, default=None)


def reminder(due: datetime, remind_days: Iterable[int], told: int | None, at: datetime) -> int | None:
    """Return the reminder to be given now, None where there is none. told: the last one given.

    What was missed in between, as while nobody looked, is not made up for: only the last that counts is given.
    """
    found = reached(due, remind_days, at)
    return found if found is not None and (told is None or found < told) else None
