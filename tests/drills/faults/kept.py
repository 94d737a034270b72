"""Trials of a long drill kept from one run to the next: what was tried with this very code is not tried again."""

import hashlib
import json
from pathlib import Path

from tests.drills.faults.points import Point, Trial

ROOT = Path(__file__).parents[3]
# What a trial is of: the agent, who sends it and answers it, and the drill itself.
_OF = ("kpsagent", "controller/transport", "controller/demo", "tests/drills/faults")
# And of that, what only a server without Python has to do with.
_WITHOUT_PYTHON = (
    "kpsagent/shell", "controller/transport/far.py", "controller/transport/played.py", "controller/transport/shell_host.py",
    "controller/transport/shell_journal.py", "tests/drills/faults/shell_lab.py", "tests/drills/faults/tree.py",
)  # fmt: skip


class Kept:
    """The trials of one drill, kept in a directory; without a directory none is."""

    def __init__(self, directory: Path | None, name: str) -> None:
        self._path = None if directory is None else directory / f"{name.replace(' ', '-')}-{_code('without' in name)}.jsonl"
        self._known: dict[tuple[str, str, int, str], Trial] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                trial = _read(json.loads(line))
                self._known[_key(trial.point)] = trial

    def of(self, point: Point) -> Trial | None:
        """Return the trial of this point, if it is kept."""
        found = self._known.get(_key(point))
        # The calls of an operation are found anew each time; one that is another now is another point.
        return found if found is not None and found.point.call == point.call else None

    def add(self, trial: Trial) -> None:
        """Keep a trial that came about."""
        if self._path is None or not trial.reached:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        point = trial.point
        told = {
            "point": [point.of, point.case, point.at, point.how, point.call],
            "misses": trial.misses,
            "late_seconds": trial.late_seconds,
            "state": trial.state,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(told) + "\n")


def _key(point: Point) -> tuple[str, str, int, str]:
    return point.of, point.case, point.at, point.how


def _read(told: dict[str, object]) -> Trial:
    of, case, at, how, call = told["point"]  # type: ignore[misc]
    misses = [(str(kind), str(words)) for kind, words in told["misses"]]  # type: ignore[attr-defined]
    return Trial(Point(of, case, at, how, call), True, misses, float(str(told["late_seconds"])), str(told["state"]))


def _code(without_python: bool) -> str:
    digest = hashlib.sha256()
    for top in _OF:
        for path in sorted((ROOT / top).rglob("*")):
            name = str(path.relative_to(ROOT))
            if path.suffix in (".py", ".sh") and (without_python or not name.startswith(_WITHOUT_PYTHON)):
                digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
