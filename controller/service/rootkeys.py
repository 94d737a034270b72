"""The root key of a home: which it is, whether it opens everything, and having another in its place."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from controller.errors import Conflict, Unavailable
from controller.kms import Kms, open_master, root
from controller.kms.rewrap import rewrap
from controller.service.auditkeys import AuditKeys
from controller.service.home import bring_up, require
from controller.settings import Settings
from controller.store import Store


@dataclass(frozen=True, slots=True)
class Shown:
    """A root key on record."""

    uri: str
    check_value: str
    wraps_new: bool  # else it is still needed for what it has wrapped
    master_keys: int  # how many versions of master keys it has wrapped


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did."""

    uri: str
    check_value: str
    rewrapped: int  # versions of master keys
    no_longer_needed: list[str]  # URIs of root keys


def show(settings: Settings) -> list[Shown]:
    """Return the root keys on record, none of them opened; the first wraps what is new."""
    with _store(settings, root.in_use, Store.working) as store:
        wrapped = store.wrapped_by()
        return [
            Shown(each.uri, each.check, number == 0, wrapped[each.check])
            for number, each in enumerate(_on_record(settings))
        ]  # fmt: skip


def check(settings: Settings, *, again: bool = False) -> int:
    """Open every master key with the root keys on record; returns how many versions there are.

    again: try a PIN once more that was refused. Unavailable, Damaged: what does not open.
    """
    with _store(settings, root.in_use, Store.working) as store:
        roots = root.roots(settings.home, settings.root_key_uri, again=again)
        roots[0].opened()
        opened = 0
        for key_id, number in store.all_versions():
            # One that was destroyed meanwhile is none to be opened.
            if (version := store.master_key_version(key_id, number)) is not None:
                open_master(version, roots).wipe()
                opened += 1
        return opened


def rotate(settings: Settings, to: str | None = None, *, again: bool = False, told: Callable[[], None] = lambda: None) -> Rotated:
    """Have another root key in the place of this home's: made if it is not there, and every master key wrapped by it anew.

    No secret in custody is opened. The home has to be at rest (Conflict, home_in_use). What is broken off leaves both root keys
    on record, and everything opens; to None goes on with it. The former root key is not touched. told: called after each master
    key. Conflict(root_not_rotating) where there is nothing to go on with; else as root.make_root() and rewrap().
    """
    with _store(settings, root.changing, Store.alone) as store:
        before = _on_record(settings)
        if to is None and len(before) == 1:
            raise Conflict("root_not_rotating", "every master key is wrapped by the present root key; --to URI names another")
        ways = root.roots(settings.home, settings.root_key_uri, again=again)
        needed = store.wrapped_by()
        uri = before[0].uri if to is None else to
        # Going on, it is the one on record, and never made anew.
        new = ways[0].opened() if to is None else root.make_root(uri, settings.home, again=again)
        root.tested(new)
        former = [way for way in ways if way.check_value != new.check_value]
        for way in former:
            # Seen before anything is written: without it nothing could be wrapped anew.
            if needed[way.check_value]:
                way.opened()
        left = [each for each in before if each.check != new.check_value]
        now = root.Known(uri, new.check_value)
        root.record(settings.home, [now, *left])
        store.sign_with(AuditKeys(store, Kms(store, new, *former)))
        rewrapped = rewrap(store, new, [new, *former], store.caller_by_local_home().user_id, told)
        # The former wrappings are gone from the log too.
        store.checkpoint()
        root.record(settings.home, [now])
        return Rotated(uri, new.check_value, rewrapped, [each.uri for each in left])


def _on_record(settings: Settings) -> list[root.Known]:
    found = root.known(settings.home)
    if not found:
        message = f"{settings.home}: there is no record of its root key yet; run kps init once, it puts that right"
        raise Unavailable("root_record_missing", message)
    return found


@contextlib.contextmanager
def _store(
    settings: Settings,
    held: Callable[[Path], AbstractContextManager[None]],
    held_there: Callable[[Store], AbstractContextManager[None]],
) -> Iterator[Store]:
    """Open the store. held, held_there: what is taken of the home, and of the database, before anything of it is changed."""
    require(settings)
    with contextlib.closing(Store(settings.database_url)) as store:
        if held_there is not Store.alone:
            bring_up(settings, store)
        with held(settings.home), held_there(store):
            store.migrate()
            yield store
