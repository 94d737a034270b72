"""How many refusals go on record: a disk is not filled with them, and what is left out is counted."""

import time
from collections.abc import Callable

AT_ONCE = 60  # of each
SECONDS_FOR_ONE = 60.0  # in the long run


class Allowances:
    """How many refusals of each may go on record now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._now = clock
        self._of: dict[str, _Allowance] = {}

    def take(self, whose: str) -> int | None:
        """Return how many were left out before this one; None where this one is left out too."""
        now = self._now()
        return self._of.setdefault(whose, _Allowance(now)).take(now)


class _Allowance:
    def __init__(self, now: float) -> None:
        self._left = float(AT_ONCE)
        self._seen = now
        self._unrecorded = 0

    def take(self, now: float) -> int | None:
        self._left = min(AT_ONCE, self._left + (now - self._seen) / SECONDS_FOR_ONE)
        self._seen = now
        if self._left < 1:
            self._unrecorded += 1
            return None
        self._left -= 1
        unrecorded, self._unrecorded = self._unrecorded, 0
        return unrecorded
