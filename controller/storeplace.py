"""Where a home keeps what it knows: in its own file, or in a database of PostgreSQL, of which it has the address on record."""

import contextlib
import os
import secrets
from pathlib import Path

from controller.errors import Conflict, Unavailable

RECORD = "database.url"
FILE = "kps.db"
MOVED = "kps.db.moved"  # what a home's own file is called once all in it is elsewhere
_MOST_BYTES = 4096


def recorded(home: Path) -> str | None:
    """Return the address of the database that a home has on record. Unavailable(home_unusable)."""
    path = home / RECORD
    try:
        with open(path, "rb") as file:
            found = file.read(_MOST_BYTES + 1)
        address = found.decode().strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Unavailable("home_unusable", f"{path}: {error}; it holds the address of the home's database, as text") from error
    if not address or len(found) > _MOST_BYTES:
        raise Unavailable("home_unusable", f"{path}: not as kps wrote it; it holds the address of the home's database")
    return address


def record(home: Path, address: str) -> None:
    """Put the address of a home's database on record, durably. Unavailable(home_unusable)."""
    unfinished = home / f".{RECORD}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{address}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, home / RECORD)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()
        sync(home)
    except OSError as error:
        raise Unavailable("home_unusable", f"{home}/{RECORD}: {error.strerror}; see the home's mode, and its disk") from error


def sync(directory: Path) -> None:
    """Have what was renamed in a directory be on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def address_of(home: Path, given: str | None) -> str:
    """Return where a home keeps what it knows: where it was told to, else as it has on record, else its own file.

    Conflict(store_elsewhere) where it is told another place than it has, or where its file was moved and nothing says where to:
    nothing would be found there, or something else.
    """
    on_record = recorded(home)
    if given is not None and on_record not in (None, given):
        # What is given may hold a password, so it is not repeated.
        raise Conflict(
            "store_elsewhere",
            f"{home}: it keeps what it knows in {on_record}, and KPS_DATABASE_URL reads otherwise; unset KPS_DATABASE_URL, or, "
            f"where the same database has another address now, write that into {home / RECORD}",
        )
    if given is None and on_record is None and (home / MOVED).exists() and not (home / FILE).exists():
        raise Conflict(
            "store_elsewhere",
            f"{home}: what it knows was moved to PostgreSQL, and {RECORD}, which said where, is gone; "
            "set KPS_DATABASE_URL to that database, then kps init writes it again",
        )
    if given is not None and on_record is None and (home / FILE).exists():
        raise Conflict(
            "store_elsewhere",
            f"{home}: it keeps what it knows in {FILE}, and KPS_DATABASE_URL names another place; kps migrate-store moves it "
            "there, or unset KPS_DATABASE_URL",
        )
    return given or on_record or f"sqlite:///{home / FILE}"
