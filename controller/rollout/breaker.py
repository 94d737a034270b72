"""A way there (a jump server, a subnet) that fails again and again is left alone for a while, then tried with one server."""

from dataclasses import dataclass
from datetime import datetime, timedelta

IN_A_ROW = 5  # servers that were not reached, and none that was in between
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=10)
GIVEN_UP_AFTER = 4  # pauses, each ended by a try that failed as well


@dataclass(slots=True)
class Breaker:
    """One way there."""

    failures: int = 0  # in a row
    pauses: int = 0
    shut_until: datetime | None = None
    trying: str | None = None  # the server with which the way is tried after a pause

    @property
    def given_up(self) -> bool:
        """Whether this way is not tried any more."""
        return self.pauses > GIVEN_UP_AFTER

    def lets(self, at: datetime) -> bool:
        """Say whether one more server may be begun over this way."""
        if self.shut_until is None:
            return True
        return self.trying is None and at >= self.shut_until

    def begun(self, server_id: str) -> None:
        """Take note that a server is begun over this way."""
        if self.shut_until is not None:
            self.trying = server_id

    def reached(self, server_id: str) -> None:
        """Take note that a server was reached over this way: whatever became of it there, the way is good."""
        self.failures = self.pauses = 0
        self.shut_until = self.trying = None

    def not_reached(self, server_id: str, at: datetime) -> None:
        """Take note that a server was not reached over this way."""
        self.failures += 1
        if self.shut_until is None:
            if self.failures >= IN_A_ROW:
                self._pause(at)
        elif self.trying == server_id:
            self._pause(at)

    def left(self, server_id: str) -> None:
        """Take note that a server ended without having been tried at all."""
        if self.trying == server_id:
            self.trying = None

    def _pause(self, at: datetime) -> None:
        self.trying = None
        self.shut_until = at + min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.pauses)
        self.pauses += 1
