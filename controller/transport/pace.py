"""How soon we come again to an sshd that makes who fails too often wait: sshd_config(5), PerSourcePenalties.

OpenSSH 9.8 and later add up, for the address we come from, what each failure costs, let time take it off again, and refuse the
address for as long once it comes to 15 s. What it adds up is added up here too, and the next log-in waits where a failure
of it would be one too many.
"""

import asyncio
import re
import time
from collections.abc import Callable

FAILED = 5.0  # a login that was refused
UNTRIED = 1.0  # a connection that never tried to log in
_ENFORCED = 15.0
_MARGIN = 1.0  # their seconds are whole
_SAID = re.compile(r"OpenSSH_(\d+)\.(\d+)")

Place = tuple[str, int]


class Pace:
    """What our failures at each place still cost. One for all that a process does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[Place, float] = {}

    def wait(self, place: Place) -> float:
        """Return the seconds after which a failure there would still not be one too many."""
        owed = self._until.get(place, 0.0) - self._clock()
        return max(0.0, owed + FAILED - _ENFORCED + _MARGIN)

    async def turn(self, place: Place) -> None:
        """Return when a failure there would not be one too many."""
        seconds = self.wait(place)
        while seconds > 0:
            await asyncio.sleep(seconds)  # others may fail there meanwhile
            seconds = self.wait(place)

    def failed(self, place: Place, cost: float, greeting: str) -> None:
        """Take note of a failure. greeting: what the server calls itself; only some make anybody wait."""
        if not makes_wait(greeting):
            return
        now = self._clock()
        self._until[place] = max(now, self._until.get(place, 0.0)) + cost
        if len(self._until) > 1000:
            self._until = {each: until for each, until in self._until.items() if until > now}


def makes_wait(greeting: str) -> bool:
    """Say whether a server that greets so has penalties: OpenSSH from 9.8 on."""
    found = _SAID.search(greeting)
    return found is not None and (int(found[1]), int(found[2])) >= (9, 8)
