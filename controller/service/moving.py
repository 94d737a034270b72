"""A home's store moved from its own file into a database of PostgreSQL."""

import os
from contextlib import closing
from pathlib import Path

from controller import storeplace
from controller.errors import Conflict, Invalid, Unavailable
from controller.kms import root
from controller.service.home import require
from controller.settings import Settings
from controller.store import Store, postgresql
from controller.store.moving import Moved, Told


def move(settings: Settings, to: str, told: Told = lambda table, rows: None) -> list[Moved]:
    """Move all that a home knows to the database of an address, and have the home look there from now on.

    The home's own file is only read, and kept under another name. Broken off at any point, the home is as before, and the same
    call does it, or goes on. The home has to be at rest (Conflict, home_in_use). Invalid: store_unknown, store_password_shown,
    text_not_movable. Conflict: store_elsewhere, target_not_empty. Damaged(moved_wrong).
    """
    if not postgresql.is_address(to):
        raise Invalid("store_unknown", "the store moves to a database of PostgreSQL: postgresql://USER@HOST/DATABASE")
    settings = settings.model_copy(update={"store_url": None})
    known = storeplace.recorded(settings.home)
    if known == to and (settings.home / storeplace.FILE).exists():
        _put_aside(settings.home)  # all that a move that was broken off had left to do
        return []
    if known is not None:
        raise Conflict("store_elsewhere", f"{settings.home}: it keeps what it knows in {known} already")
    require(settings)
    with root.changing(settings.home), closing(Store(settings.database_url)) as here, closing(Store(to)) as there:
        here.migrate()
        with there.alone():
            moved = here.move_to(there, told)
            if not here.checkpoint():
                raise Conflict("home_in_use", f"{settings.home}: somebody reads {storeplace.FILE}; let that end, then try again")
            storeplace.record(settings.home, to)
    _put_aside(settings.home)
    return moved


def _put_aside(home: Path) -> None:
    """Give the file another name: whoever looks for it there finds nothing rather than what was true once."""
    try:
        os.rename(home / storeplace.FILE, home / storeplace.MOVED)
        storeplace.sync(home)
    except OSError as error:
        message = f"{home}/{storeplace.FILE}: {error.strerror}; all is moved: put this file away by hand"
        raise Unavailable("home_unusable", message) from error
