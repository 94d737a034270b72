"""Faults on real servers: whatever dies, fails or is cut off in the middle, nobody is locked out and nothing stays half done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.drills.figures import Report

T = TypeVar("T")
FLEET_SECONDS = 3 * 3600  # that a fleet of a drill is there: longer than any part takes, on a busy machine too


@dataclass(frozen=True)
class Scale:
    """How much is tried. sample: of every kind a few, spread evenly; else all.

    keep: where the trials of kills, errors and power are kept, so that a run goes on where the one before it ended. within: begin
    no trial of a part after so many seconds.
    """

    sample: bool = False
    keep: Path | None = None
    within: float = float("inf")

    def some(self, points: list[T], most: int) -> list[T]:
        """Return points, or for a sample no more than most of them."""
        if not self.sample or len(points) <= most:
            return points
        return [points[place * len(points) // most] for place in range(most)]


Part = Callable[[Report, Scale], None]
