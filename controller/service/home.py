"""The home: the directory that holds database and root key. Made once, looked at before each use."""

import contextlib
import os
import secrets
import stat
import string
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from controller import storeplace
from controller.errors import Conflict, Unavailable
from controller.kms import Context, Kms, root
from controller.model import Caller, Sealed, Secret
from controller.service.auditkeys import AuditKeys
from controller.settings import Settings
from controller.store import Store

_UPPER = string.ascii_uppercase + string.digits
_MIXED = string.ascii_letters + string.digits
_OTHERS_SECONDS, _LOOK_SECONDS = 5.0, 0.1
_OLDER = "this version changes the tables, and an older one could not go on with them: stop each kps serve and kps worker first"
_ENTER = "it must be a directory that you may enter; see its mode and owner"


def initialise(settings: Settings, show: Callable[[dict[str, Any]], None] = lambda made: None) -> dict[str, Any]:
    """Make home, database, root key, first tenant, project, administrator and access key, whatever of it is missing.

    Safe to repeat, also at the same time. Returns tenant_id, project_id, user_id, access_key and secret_key; the
    secret key is None where the home was there already: it is shown once. show is given the same, before any of it is
    kept for good: if it raises, the next time is the first time again.
    """
    make_directory(settings.home)
    store = Store(settings.database_url)
    try:
        bring_up(settings, store)
        store.migrate()
        with _alone(settings, store) if _owner(store) is None else contextlib.nullcontext():
            # Asked again: somebody else may have been first while we waited.
            if (found := _owner(store)) is None:
                made = _first(settings, store, show)
                _remember(settings)
                return made
        owner, access_key = found
        if not root.known(settings.home):
            _put_on_record(settings, store, access_key)
        # Never a new root key for an old database: nothing would open any more.
        with root.in_use(settings.home, wait=True):
            _check_opens(store, Kms(store, *root.roots(settings.home, settings.root_key_uri)), access_key)
        _remember(settings)
        known = _told(owner, access_key, None)
        show(known)
        return known
    finally:
        store.close()


@contextlib.contextmanager
def _alone(settings: Settings, store: Store) -> Iterator[None]:
    with root.changing(settings.home, wait=True), store.alone(wait=True):
        yield


def _remember(settings: Settings) -> None:
    """Have the home know where its database is, whatever the environment says the next time."""
    if not settings.in_file and storeplace.recorded(settings.home) is None:
        storeplace.record(settings.home, settings.database_url)


def require(settings: Settings) -> None:
    """Unavailable(not_initialised or home_exposed) where there is no home that can be used."""
    try:
        made = settings.database.exists() if settings.in_file else storeplace.recorded(settings.home) is not None
    except OSError as error:
        raise Unavailable("home_unusable", f"{settings.home}: {error.strerror}; {_ENTER}") from error
    if not made:
        raise Unavailable("not_initialised", f"{settings.home}: no home here; run kps init --home {settings.home}")
    _check_directory(settings.home)


def bring_up(settings: Settings, store: Store) -> None:
    """Migrate a store alone, where processes of an older version could not go on with its new tables: docs/decisions/0102.

    Conflict(home_in_use) where any of them works with it. What they need not know of is left to migrate().
    """
    until = time.monotonic() + _OTHERS_SECONDS
    while store.needs_rest():
        try:
            with root.changing(settings.home), store.alone():
                store.migrate()
        except Conflict as problem:
            if time.monotonic() > until:
                raise Conflict(problem.code, f"{problem.message}; {_OLDER}") from problem
            time.sleep(_LOOK_SECONDS)  # one that is started at the same time does the same, and is through soon


def access_key_context(who: Caller, access_key: str) -> Context:
    """Return what the secret of an access key is sealed for."""
    return Context("access key", access_key, facts={"tenant": who.tenant_id, "user": who.user_id})


def new_access_key(kms: Kms, who: Caller) -> tuple[str, Secret, Sealed]:
    """Return a new access key for a user: its id, its secret, and the secret sealed."""
    access_key, secret_key = new_secret()
    return access_key, secret_key, kms.seal(who.tenant_id, secret_key, access_key_context(who, access_key))


def new_secret() -> tuple[str, Secret]:
    """Return the id and the secret of a new access key, kept nowhere yet."""
    return _random(_UPPER, 20), Secret(_random(_MIXED, 40))


def _first(settings: Settings, store: Store, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    if (settings.home / storeplace.MOVED).exists():
        message = (
            f"{settings.home}: what it knows was moved to PostgreSQL, and {store.place} holds none of it; name that database"
        )
        raise Conflict("store_elsewhere", message)
    on_record = root.known(settings.home)
    uri = settings.root_key_uri or (on_record[0].uri if on_record else root.DEFAULT_URI)
    key = root.make_root(uri, settings.home)
    root.tested(key)
    root.record(settings.home, [root.Known(uri, key.check_value)])
    kms = Kms(store, key)
    audit_keys = AuditKeys(store, kms)
    store.sign_with(audit_keys)
    made = Caller(uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex, "administrator")
    access_key, secret_key, sealed = new_access_key(kms, made)
    told = _told(made, access_key, secret_key.open().decode())
    audit_keys.prepare(made.tenant_id)
    owner, kept = store.first_tenant(made, "home", "administrator", access_key, sealed, lambda: show(told))
    if kept == access_key:
        return told
    # Somebody else was first, just now.
    known = _told(owner, kept, None)
    show(known)
    return known


def _owner(store: Store) -> tuple[Caller, str] | None:
    try:
        return store.local_owner()
    except Unavailable as problem:
        if problem.code != "not_initialised":
            raise
        return None


def _put_on_record(settings: Settings, store: Store, access_key: str) -> None:
    """Write down which root key a home has: one from before there was a record, or one more for a database that others share."""
    uri = settings.root_key_uri or root.DEFAULT_URI
    with root.changing(settings.home, wait=True):
        key = root.open_root(uri, settings.home)
        _check_opens(store, Kms(store, key), access_key)
        root.record(settings.home, [root.Known(uri, key.check_value)])


def _told(owner: Caller, access_key: str, secret_key: str | None) -> dict[str, Any]:
    return {
        "tenant_id": owner.tenant_id,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "access_key": access_key,
        "secret_key": secret_key,
    }


def _check_opens(store: Store, kms: Kms, access_key: str) -> None:
    """Raise what is wrong with the root key now, not at the first use."""
    owner, sealed = store.access_key(access_key)
    kms.open(sealed, access_key_context(owner, access_key)).wipe()


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def make_directory(home: Path) -> None:
    """Make the directory of a home, unless it is there. Unavailable: home_unusable, home_exposed."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        # An empty directory made for this may be closed; one with something in it is somebody's decision.
        if home.stat().st_uid == os.geteuid() and not any(home.iterdir()):
            home.chmod(0o700)
    except OSError as error:
        raise Unavailable("home_unusable", f"{home}: {error.strerror}; give another directory by --home") from error
    _check_directory(home)


def _check_directory(home: Path) -> None:
    found = home.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid() or mode & 0o077:
        raise Unavailable(
            "home_exposed",
            f"{home}: mode {mode:04o}, owner {found.st_uid}; a home belongs to user {os.geteuid()} alone: "
            f"chown {os.geteuid()} {home}; chmod 700 {home}",
        )
