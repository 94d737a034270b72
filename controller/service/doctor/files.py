"""The files of the home: whose they are, who may read them, what lies there that nobody uses; and the disk they are on."""

import os
import pwd
import re
import shlex
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from controller.errors import Problem
from controller.service.doctor.finding import Finding, found, refused, well
from controller.service.home import require
from controller.service.readiness import LEAST_FREE_BYTES
from controller.settings import Settings

SETTLED_SECONDS = 600.0  # nothing that is being made takes so long
_SECRET = re.compile(r"kps\.db.*|.*\.key|serve\.lock")
_UNFINISHED = re.compile(r"\.(root\.key|root\.json|kps\.db|tls\.crt|tls\.key)\..+")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_ON_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph", "afs"})
MOUNTS = Path("/proc/self/mountinfo")
_MIB = 2**20


def unusable(settings: Settings) -> list[Finding]:
    """Return why nothing in the home can be looked at: there is none, or it is another user's; else nothing."""
    home = settings.home
    try:
        owner = home.stat().st_uid
    except OSError:
        owner = os.geteuid()  # what is wrong with it is told by what uses it
    if owner != os.geteuid():
        step = f"ask as its owner: sudo -u {shlex.quote(_name(owner))} kps doctor --home {shlex.quote(str(home))}"
        return [found("home", "home_not_yours", f"{home}: it belongs to user {_name(owner)}", step)]
    try:
        require(settings)
    except Problem as problem:
        if problem.code != "home_exposed":
            return [refused("home", problem)]
    return []


def look(settings: Settings) -> Iterator[Finding]:
    """Give what is found of modes and owners."""
    home = settings.home
    wrong = list(_wrong(settings))
    yield from wrong
    if not wrong:
        yield well("home", f"{home}: user {_name(os.geteuid())}'s alone, as are its files")
    left = list(leftovers(home))
    yield from left
    if not left:
        yield well("leftovers", "none")


def _wrong(settings: Settings) -> Iterator[Finding]:
    home, me = settings.home, os.geteuid()
    try:
        require(settings)
    except Problem as problem:
        yield refused("home", problem)
    for above in home.resolve().parents:
        seen = above.stat()
        open_to_all = seen.st_mode & 0o022 and not seen.st_mode & stat.S_ISVTX
        if seen.st_uid not in (0, me) or open_to_all:
            told = f"{above}: mode {stat.S_IMODE(seen.st_mode):04o}, owner {_name(seen.st_uid)}"
            yield found("home", "home_path_open", told, f"chmod go-w {shlex.quote(str(above))}, or have the home elsewhere")
    for entry in sorted(os.scandir(home), key=lambda each: each.name):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # as SQLite's journals come and go
            continue
        yield from _of_file(Path(entry.path), status, me)


def _of_file(path: Path, seen: os.stat_result, me: int) -> Iterator[Finding]:
    quoted = shlex.quote(str(path))
    mode = stat.S_IMODE(seen.st_mode)
    if stat.S_ISLNK(seen.st_mode) or (stat.S_ISREG(seen.st_mode) and seen.st_nlink > 1):
        if _SECRET.fullmatch(path.name):
            kind = "a link to somewhere else" if stat.S_ISLNK(seen.st_mode) else f"{seen.st_nlink} names for one file"
            step = f"see where the other is: ls -li {quoted}; kps wants a file of its own"
            yield found("home", "file_odd", f"{path}: {kind}", step)
        return
    if seen.st_uid != me:
        yield found("home", "file_not_yours", f"{path}: owner {_name(seen.st_uid)}", f"chown {me} {quoted}")
    if mode & (0o077 if _SECRET.fullmatch(path.name) else 0o022):
        step = f"chmod 600 {quoted}"
        if path.name.endswith(".key"):
            step += "; if others may have read it, have another key in its place"
        yield found("home", "file_exposed", f"{path}: mode {mode:04o}", step)


def leftovers(home: Path) -> Iterator[Finding]:
    """Give what a kps that died has left in the home, or where copies are unpacked; not what may be under way still."""
    old = time.time() - SETTLED_SECONDS
    temporary = Path(tempfile.gettempdir())
    places = [(home, _UNFINISHED), (temporary, re.compile(r"kps-verify-.+"))]
    for directory, pattern in places:
        try:
            entries = sorted(os.scandir(directory), key=lambda each: each.name)
        except OSError:
            continue
        for entry in entries:
            if not pattern.fullmatch(entry.name):
                continue
            try:
                seen = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if seen.st_uid == os.geteuid() and seen.st_mtime < old:
                told = f"{entry.path}: of {time.strftime('%Y-%m-%d %H:%M', time.gmtime(seen.st_mtime))}Z"
                step = f"see that no kps runs that makes it, then: rm -r {shlex.quote(entry.path)}"
                yield found("leftovers", "leftover", told, step)


def disk(settings: Settings, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """Give what is found of the disk that the home is on."""
    home = settings.home
    seen = os.statvfs(home)
    free = seen.f_bavail * seen.f_frsize
    kind = file_system(home, mounts)
    wanted = max(LEAST_FREE_BYTES, 2 * settings.database.stat().st_size if settings.in_file else 0)
    told = f"{home}: {free // _MIB} MiB are free" + (f", {kind}" if kind else "")
    wrong = []
    move = "have the home on a disk of this machine: kps backup, then kps restore --home DIR"
    if free < LEAST_FREE_BYTES or (seen.f_files and not seen.f_favail):
        room = "no file can be made there any more" if free >= LEAST_FREE_BYTES else f"{free // _MIB} MiB are left on its disk"
        wrong.append(found("disk", "disk_nearly_full", f"{home}: {room}", "free some space"))
    elif free < wanted:
        wrong.append(found("disk", "disk_filling", f"{told}; the database has {wanted // 2 // _MIB} MiB", "free some space"))
    if kind in _IN_MEMORY:
        wrong.append(found("disk", "home_in_memory", told, move))
    if kind in _ON_NETWORK:
        wrong.append(found("disk", "home_on_network", told, move))
    yield from wrong or [well("disk", told)]


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the kind of the file system that a path is on, in the kernel's word; "" where that is not told."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if number in fields.split(" ")[2:3]:
            return rest.split(" ")[0]
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
