"""Whether a process has taken the home, as it is seen from outside."""

from collections.abc import Iterator
from pathlib import Path

from controller.errors import Problem
from controller.service.doctor.finding import Finding, found, well
from controller.service.home import require
from controller.settings import Settings


def absent(settings: Settings, locks: Path = Path("/proc/locks")) -> Iterator[Finding]:
    """Give what it means that nobody answers at the home's socket."""
    try:
        require(settings)
    except Problem:
        return  # told already
    if _locked(settings.home / "serve.lock", locks):
        step = "where it is just starting, ask again; else stop it (fuser -v serve.lock in the home names it) and start kps serve"
        yield found("controller", "controller_silent", f"{settings.home}: a process has taken it, and does not answer", step)
    else:
        yield well("controller", "nobody serves the home; each command does its work itself")


def _locked(path: Path, locks: Path) -> bool:
    """Whether somebody has the lock of a file. Not tried: whoever starts just then would find it taken."""
    try:
        number = path.stat().st_ino
        lines = locks.read_text().split("\n")
    except OSError:
        return False
    return any(" FLOCK " in line and f":{number} " in line for line in lines)
