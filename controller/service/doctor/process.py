"""Whether a process has taken the home, as it is seen from outside."""

import os
from collections.abc import Iterator
from pathlib import Path

from controller.errors import Problem
from controller.service.doctor.files import MOUNTS
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


def refuses(why: str) -> Finding:
    """Return what it means that who serves the home refuses to look at it."""
    step = "mend what else is found here; where nothing is, look at the log of kps serve, and start it anew"
    return found("controller", "controller_refuses", f"it serves the home, and refuses to look: {why}", step)


def _locked(path: Path, locks: Path) -> bool:
    """Whether somebody has the lock of a file. Not tried: whoever starts just then would find it taken."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            number = f"{_file_system(descriptor)}:{os.fstat(descriptor).st_ino} "
        finally:
            os.close(descriptor)
        lines = locks.read_text().split("\n")
    except OSError:
        return False
    return any(" FLOCK " in line and number in line for line in lines)


def _file_system(descriptor: int) -> str:
    """Return the number of the file system that a file is on, as /proc/locks has it; "" where it is not told.

    By its mount: what stat(2) calls the device is another one for each subvolume of btrfs.
    """
    about = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    mount = next((line.split()[1] for line in about.split("\n") if line.startswith("mnt_id:")), None)
    for fields in (line.split(" ", 3) for line in MOUNTS.read_text(errors="replace").split("\n")):
        if fields[0] == mount:
            major, minor = map(int, fields[2].split(":"))
            return f" {major:02x}:{minor:02x}"
    return ""
