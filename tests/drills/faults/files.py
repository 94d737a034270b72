"""The files of a server that an agent may touch: looked at from outside, and put back as they were."""

import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

PLACES = ("root", "home", "etc/ssh", "etc/cron.d", "etc/rcS.d", "etc/systemd/system", "etc/shadow", "var/lib/kps")
STATE = "/var/lib/kps"


class Entry(NamedTuple):
    """What is at a path. kind: as `ls -l` begins its line. held: a file's bytes, a link's target."""

    kind: str
    mode: int
    uid: int
    gid: int
    held: bytes


Files = dict[str, Entry]


def looked_at(root: Path) -> Files:
    """Return path -> Entry for all that is in PLACES."""
    found: Files = {}
    for place in PLACES:
        top = root / place
        if not os.path.lexists(top):
            continue
        below = [Path(directory, name) for directory, names, files in os.walk(top) for name in (*names, *files)]
        for path in (top, *below):
            try:
                found["/" + str(path.relative_to(root))] = _entry(path)
            except FileNotFoundError:
                continue  # it went while we looked
    return found


def _entry(path: Path) -> Entry:
    seen = os.lstat(path)
    held = b""
    if stat.S_ISLNK(seen.st_mode):
        held = os.readlink(path).encode()
    elif stat.S_ISREG(seen.st_mode):
        held = path.read_bytes()
    return Entry(stat.filemode(seen.st_mode)[0], stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, held)


def put_back(root: Path, wanted: Files) -> set[str]:
    """Make all that is in PLACES as wanted says, and return what differed."""
    now = looked_at(root)
    differs = {path for path in now.keys() | wanted.keys() if now.get(path) != wanted.get(path)}
    for path in sorted(differs, reverse=True):
        there = root / path[1:]
        if path in now and (path not in wanted or wanted[path].kind != "d" or now[path].kind != "d"):
            shutil.rmtree(there) if now[path].kind == "d" else there.unlink()
    for path in sorted(differs & wanted.keys()):
        _put(root / path[1:], wanted[path])
    return differs


def _put(path: Path, entry: Entry) -> None:
    if entry.kind == "l":
        path.symlink_to(entry.held.decode())
        return
    if entry.kind == "d":
        path.mkdir(exist_ok=True)
    else:
        path.write_bytes(entry.held)
    os.chown(path, entry.uid, entry.gid)
    os.chmod(path, entry.mode)


def apart_from_state(files: Files) -> Files:
    """Return files without the agent's own directory, and that of one without root where it is empty (decision 0007)."""
    return {path: entry for path, entry in files.items() if not (path + "/").startswith(STATE + "/") and not _is_rootless(path)}


def _is_rootless(path: str) -> bool:
    return path.startswith("/home/") and path.endswith("/.kps")


def difference(one: Files, other: Files) -> list[str]:
    """Return the paths at which two looks differ, each with how."""
    return [
        f"{path} ({_said(one.get(path))}, not {_said(other.get(path))})"
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]


def _said(entry: Entry | None) -> str:
    return "nothing" if entry is None else f"{entry.kind}{entry.mode:04o} {entry.uid}:{entry.gid} {len(entry.held)} bytes"
