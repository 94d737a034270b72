"""What the end of a task means for its rollout: whether the server was reached, and whether time may heal what failed."""

from dataclasses import dataclass
from datetime import timedelta
from zlib import crc32

from controller.causes import HEALS, NOT_REACHED

FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the last task of a server ended. cause: None where it did not fail."""

    cause: str | None = None
    safe: bool = True  # the server is as asked, or as before: whoever got in still does
    tried: bool = True  # False: given up before anybody began it

    @property
    def reached(self) -> bool:
        """Whether the server answered."""
        return self.tried and self.cause not in NOT_REACHED

    @property
    def heals(self) -> bool:
        """Whether a further try may go better by itself."""
        return self.cause in HEALS


def wait(server_id: str, tries: int) -> timedelta:
    """Return how long to wait before the next try, after so many: longer each time, and not as long for each server."""
    longest: timedelta = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries - 1, 10))
    return longest * (0.5 + crc32(f"{server_id} {tries}".encode()) / 2**33)
