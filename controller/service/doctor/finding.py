"""What the doctor tells: one finding for each thing that it has looked at, or for each that is wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from controller.errors import Problem

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One. about: what was looked at; code: stable, "" where it is well; step: what to do next."""

    about: str
    level: Level
    code: str
    seen: str
    step: str = ""


# Of each code how grave it is, and what it means. What is not here is the code of a refusal: an error.
CODES: dict[str, tuple[Level, str]] = {
    "home_not_yours": ("error", "the home is another user's; this one might leave files there that its owner cannot use"),
    "home_path_open": ("error", "somebody else may put another directory in the place of the home, or of one on the way to it"),
    "file_exposed": ("error", "others may read a file that holds or opens secrets, or change any file of the home"),
    "file_not_yours": ("error", "a file of the home is another user's"),
    "file_odd": ("error", "a file of the home has a second name, or is a link or no file at all"),
    "leftover": ("warning", "a kps that died has left a file behind that nobody uses"),
    "disk_nearly_full": ("error", "less than 64 MiB are left on the home's disk, or no file can be made there"),
    "disk_filling": ("warning", "there is less room on the home's disk than a copy of the database needs"),
    "home_in_memory": ("warning", "the home is on a file system in memory: it is gone when the machine starts anew"),
    "home_on_network": ("error", "the home is on a network file system; SQLite's write-ahead log does not work on one"),
    "store_damaged": ("error", "SQLite finds pages or indexes that are not as they must be"),
    "store_foreign": ("error", "the database has what acts by itself (a trigger, a view, a virtual table); kps makes none"),
    "store_incomplete": ("error", "the database lacks a table or a column of this version"),
    "store_old": ("warning", "an older kps has made the database; the next command migrates it"),
    "store_too_new": ("error", "a newer kps has migrated the database"),
    "store_busy": ("warning", "somebody has held the right to write to the database for longer than five seconds"),
    "wal_large": ("warning", "the write-ahead log is large: somebody reads for long, and it cannot be taken into the database"),
    "root_key_changing": ("warning", "a change of the root key was broken off: both root keys are needed"),
    "entropy_missing": ("error", "the kernel has no random numbers yet: whatever makes a key waits"),
    "clock_behind": ("error", "the newest event is later than this machine's clock says"),
    "clock_was_set": ("warning", "the clock was set by more than a minute while the controller ran"),
    "clock_differs": ("warning", "the home's disk, or PostgreSQL, tells another time than this machine's clock"),
    "open_files_few": ("warning", "fewer files may be open than serve needs when it has much to do"),
    "open_files_used_up": ("error", "nearly as many files are open as may be"),
    "certificate_expires_soon": ("warning", "the certificate ends within 60 days"),
    "certificate_expired": ("error", "the certificate has ended; clients that look at its time refuse it"),
    "certificate_not_taken_up": ("warning", "the controller shows another certificate than the file holds"),
    "trail_wrong": ("error", "one of the newest events, or the statement that ends them, is not as it was written"),
    "trail_unsigned": ("warning", "the end or one of the newest events has no signature, or says that there was none before it"),
    "backup_missing": ("warning", "no backup was ever made"),
    "backup_old": ("warning", "the newest backup is older than a week"),
    "nobody_takes_tasks": ("error", "tasks wait in the queue of several controllers, and nobody takes any"),
    "worker_silent": ("warning", "a process that takes tasks has said nothing for longer than KPS_LEASE_SECONDS"),
    "controller_silent": ("error", "a controller has taken the home, and does not answer"),
    "controller_refuses": ("error", "the controller that serves the home refuses to look; the command has looked by itself"),
    "runner_stopped": ("error", "what works beside the requests has ended by itself"),
    "not_looked_at": ("warning", "what was found before keeps this from being looked at; unknown is not well"),
}  # fmt: skip


def well(about: str, seen: str) -> Finding:
    """Return that something is as it must be."""
    return Finding(about, "ok", "", seen)


def found(about: str, code: str, seen: str, step: str) -> Finding:
    """Return a finding with a code of CODES."""
    return Finding(about, CODES[code][0], code, seen, step)


def refused(about: str, problem: Problem) -> Finding:
    """Return what was refused: what was seen and the next step are one message, parted by a semicolon."""
    seen, _, step = problem.message.partition("; ")
    level = CODES.get(problem.code, ("error", ""))[0]
    return Finding(about, level, problem.code, seen, step or "put that right")


def unseen(about: str, why: str) -> Finding:
    """Return that something could not be looked at."""
    return found(about, "not_looked_at", why, "mend what was found before, and ask again")


def worst(findings: Iterable[Finding]) -> Level:
    """Return how grave the gravest is."""
    levels = {each.level for each in findings}
    return "error" if "error" in levels else "warning" if "warning" in levels else "ok"
