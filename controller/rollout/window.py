"""The hours of the day in which servers may be begun."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from controller.errors import Invalid

_FORM = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?: ([A-Za-z0-9_+/-]{1,64}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """From one time of day up to another, by the clocks of a zone; the end may be on the next day."""

    begins: time
    ends: time
    zone: ZoneInfo

    def open_at(self, at: datetime) -> bool:
        """Say whether a server may be begun at this moment."""
        here = at.astimezone(self.zone).time()
        if self.begins < self.ends:
            return self.begins <= here < self.ends
        return here >= self.begins or here < self.ends

    def next_open(self, at: datetime) -> datetime:
        """Return the first moment from at on in which the window is open, in UTC."""
        if self.open_at(at):
            return at.astimezone(UTC)
        day = at.astimezone(self.zone).date()
        begins = (datetime.combine(day + timedelta(days=days), self.begins, self.zone).astimezone(UTC) for days in range(4))
        # Where clocks are put forward, a day may have no such hours at all.
        return next(begin for begin in begins if begin > at and self.open_at(begin))

    def __str__(self) -> str:
        return f"{self.begins:%H:%M}-{self.ends:%H:%M} {self.zone.key}"


def window(text: str) -> Window:
    """Return the window that a text means, as "22:00-04:00" (UTC) or "22:00-04:00 Europe/Berlin". Invalid(window_unusable)."""
    found = _FORM.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError("give HH:MM-HH:MM, and a zone if it is not UTC")
        hours = [int(each) for each in found.groups()[:4]]
        begins, ends = time(hours[0], hours[1]), time(hours[2], hours[3])
        if begins == ends:
            raise ValueError("it begins when it ends")
        return Window(begins, ends, ZoneInfo(found[5] or "UTC"))
    # A zone that there is not is a KeyError, and one whose name leads somewhere else an OSError.
    except (ValueError, KeyError, OSError) as error:
        why = error.args[0] if isinstance(error, ValueError) else f"{found[5] if found else ''}: no such zone is known here"
        raise Invalid("window_unusable", f"{text[:60]!r} is no window: {why}; as '22:00-04:00 Europe/Berlin'") from None
