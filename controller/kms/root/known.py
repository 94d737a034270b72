"""Which root keys a home uses, on record in it, and who may use the home meanwhile.

    root.json   {"roots": [{"uri": ..., "check": ...}, ...]}

The first wraps what is new; the others are still needed for what they have wrapped. There is more than one only while a
rotation is not through. Neither a URI nor a check value is secret. A change needs the home for itself; the lock is flock(2)
on its directory.
"""

import contextlib
import fcntl
import functools
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.errors import Conflict, Unavailable
from controller.kms.root import uri as uris
from controller.kms.root.later import LaterRootKey
from controller.kms.root.opening import DEFAULT_URI, open_root

RECORD = "root.json"
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Known:
    """A root key on record."""

    uri: str
    check: str


def known(home: Path) -> list[Known]:
    """Return the root keys on record, the one for what is new first; none where there is no record yet.

    Unavailable(root_record_unreadable). Invalid(root_key_uri_unusable).
    """
    path = home / RECORD
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable("root_record_unreadable", f"{path}: {error.strerror}; see its mode") from error
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError
        found = [Known(each["uri"], each["check"]) for each in json.loads(text)["roots"]]
        if not found or not all(isinstance(word, str) for each in found for word in (each.uri, each.check)):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path}: not as kps wrote it; restore its backup: it says where the root key is"
        raise Unavailable("root_record_unreadable", message) from error
    for each in found:
        uris.parse(each.uri)
    return found


def record(home: Path, roots: Sequence[Known]) -> None:
    """Put root keys on record, durably: the old record or the new one is there, whole. Unavailable(home_unusable)."""
    text = json.dumps({"roots": [{"uri": each.uri, "check": each.check} for each in roots]}, indent=1).encode() + b"\n"
    unfinished = home / f".{RECORD}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(text)
                os.fsync(file.fileno())
            os.replace(unfinished, home / RECORD)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        message = f"{home}/{RECORD}: {error.strerror}; see the home's mode, and its disk"
        raise Unavailable("home_unusable", message) from error


def roots(home: Path, another_way: str | None = None, *, again: bool = False) -> list[LaterRootKey]:
    """Return the root keys of a home, none of them open yet, the one for what is new first.

    another_way: a URI that leads to that one now, in place of the one on record: the check value on record tells whether it is
    the same key. again: try a PIN once more that was refused. Unavailable(root_record_missing), and as known().
    """
    found = known(home)
    if not found and another_way is not None:
        message = f"{home}: no record of its root key, so nobody can tell whether {another_way} is the one; run kps init first"
        raise Unavailable("root_record_missing", message)
    ways: list[tuple[str, str | None]] = [(each.uri, each.check) for each in found] or [(DEFAULT_URI, None)]
    if another_way is not None:
        ways[0] = (another_way, found[0].check)
    return [LaterRootKey(uri, functools.partial(open_root, uri, home, again=again), check) for uri, check in ways]


@contextlib.contextmanager
def in_use(home: Path, *, wait: bool = False) -> Iterator[None]:
    """Use the root keys on record: meanwhile they stay so. Conflict(root_rotating) while somebody changes them, unless wait."""
    how = fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB)
    with _locked(home, how, "root_rotating", "its root key is being changed; try again when that is done"):
        yield


@contextlib.contextmanager
def changing(home: Path, *, wait: bool = False) -> Iterator[None]:
    """Have the home alone, to change what is on record. Conflict(home_in_use) while somebody works with it, unless wait."""
    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    with _locked(home, how, "home_in_use", "a kps works with this home; stop kps serve, and let commands end"):
        yield


@contextlib.contextmanager
def _locked(home: Path, how: int, code: str, why: str) -> Iterator[None]:
    try:
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable("home_unusable", f"{home}: {error.strerror}; see its mode and owner") from error
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError as error:
            raise Conflict(code, f"{home}: {why}") from error
        yield
    finally:
        os.close(descriptor)
