"""A whole home in one file: written while the home is used, looked through, and made a home again.

A backup is a tar archive of mode 0600 with, in this order:

    backup.json    what it is: format, when, by which version, the SHA-256 of the database, the root keys' URIs and check values
    kps.db         SQLite's own copy of the database; every secret in it is sealed
    root-N.key     the root keys that live in files, where they were asked for: 32 bytes each

Without root-N.key it gives no secret away, and opens only with a root key from elsewhere.
"""

import contextlib
import io
import json
import os
import re
import secrets
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from controller import opening, secretvalues, storeplace
from controller.errors import AlreadyExists, Conflict, Damaged, Invalid, Problem, Unavailable
from controller.kms import FileRootKey, Kms, RootKey, open_master, root
from controller.model import Secret, now
from controller.service.auditkeys import AuditKeys
from controller.service.home import access_key_context, make_directory, require
from controller.settings import Settings
from controller.store import Store, copies

FORMAT = 1
MANIFEST, DATABASE = "backup.json", "kps.db"
MANIFEST_BYTES = 64 * 1024
MOST_ROOTS = 8
_IN_THE_HOME = re.compile(r"file:[A-Za-z0-9][A-Za-z0-9._-]*")  # a name, and no path
UNFINISHED = ".kps.db.restoring"
_OF_A_HOME = (DATABASE, f"{DATABASE}-wal", storeplace.RECORD, storeplace.MOVED)  # each says that there is one already

Told = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


def _untold(_what: str, _done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Content:
    """What a backup says of itself."""

    made_at: str
    kps: str
    roots: list[root.Known]
    with_root_key: bool
    counts: dict[str, int]
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What was opened of a backup: all of it, or why not. unopenable: by name of a key pair or a secret, what is wrong with it.

    secrets: how many versions of secrets.
    """

    master_keys: int
    private_halves: int
    unopenable: dict[str, str] = field(default_factory=dict)
    secrets: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restored home is."""

    content: Content
    root_key: str  # where it is from now on
    tasks_ended: list[str]


def back_up(settings: Settings, out: Path, *, with_root_key: bool = False, told: Told = _untold) -> Content:
    """Write a backup of the home to a new file of mode 0600; others go on using the home meanwhile.

    AlreadyExists(file_exists); Invalid(root_key_elsewhere): with_root_key, but a root key lives in no file.
    """
    require(settings)
    if out.exists() or out.is_symlink():
        raise AlreadyExists("file_exists", f"{out}: there is a file already; it was left as it is")
    if not settings.in_file:
        raise Unavailable("backup_elsewhere", f"{settings.home}: {copies.BY_PG_DUMP}")
    store = Store(settings.database_url)
    # From here to the end the root key on record stays the one that the copy is wrapped with.
    with contextlib.closing(store), root.in_use(settings.home, wait=True), _beside(out) as place:
        if store.is_current():
            owner = store.caller_by_local_home()
            _have_signed(store, root.roots(settings.home, settings.root_key_uri), owner.tenant_id)
            store.note_backup(owner.tenant_id, owner.user_id, with_root_key)
        roots = _on_record(settings)
        keys = _root_keys(settings, roots) if with_root_key else []
        copy = place / DATABASE
        store.copy_to(copy, lambda done, total: told("copying", done, total))
        content = Content(
            made_at=now().isoformat(timespec="seconds").replace("+00:00", "Z"),
            kps=version("kps-fleet"),
            roots=roots,
            with_root_key=with_root_key,
            counts=copies.counts(copy),
            sha256=copies.digest(copy),
            size=copy.stat().st_size,
        )
        try:
            _write(place / "backup", content, copy, keys)
            os.link(place / "backup", out)
        except FileExistsError as error:
            raise AlreadyExists("file_exists", f"{out}: somebody has made it meanwhile; it was left as it is") from error
        finally:
            for key in keys:
                key.wipe()
        _sync(out.parent)
    return content


def look(file: Path) -> Content:
    """Return what a backup says of itself; nothing is opened. Errors: as reading() raises."""
    with reading(file) as found:
        return found.content


def verify(file: Path, root_key: str | None = None, *, told: Told = _untold) -> Verified:
    """Open everything that is sealed in a backup, in a copy that is thrown away; the backup and every home stay as they are.

    root_key: a URI that leads to the root key; else the one in the backup. Unavailable: root_key_missing where there is
    neither, root_key_wrong where it is another one. Damaged(backup_damaged).
    """
    with reading(file) as found, tempfile.TemporaryDirectory(prefix="kps-verify-") as directory:
        path = Path(directory) / DATABASE
        roots = _given_roots(found, root_key, Path(directory))
        found.unpack(path)
        store = Store(f"sqlite:///{path}")
        with contextlib.closing(store):
            store.is_whole()
            store.migrate()
            return _opened(store, roots, found.content.counts.get("managed", 0), told)


def restore(file: Path, settings: Settings, *, told: Told = _untold) -> Restored:
    """Make a home from a backup; there must be none there yet, but a root key may lie there already.

    The root key is settings.root_key_uri, else what is in the backup (it is put into the home), else a file that lies in the home
    already. Where else it was, the backup tells and is not believed: root_key_missing.
    Nothing appears as a home before every master key has opened. Then every server's generation is raised, so that servers
    which have carried out newer orders take ours, and tasks that had not ended are ended. Conflict(home_exists); as verify().
    """
    home = settings.home
    with reading(file) as found:
        make_directory(home)
        with root.changing(home):
            if any(os.path.lexists(home / name) for name in _OF_A_HOME):
                raise Conflict("home_exists", f"{home}: there is a home already, and it stays; give another one with --home")
            with contextlib.ExitStack() as undoing:
                known = _put_root_keys(found, home, settings.root_key_uri, undoing)
                roots = [_checked(root.open_root(each.uri, home), each.check) for each in known]
                ended = _put_database(found, home, roots, undoing, told)
                root.record(home, known)
                os.link(home / UNFINISHED, home / DATABASE)
                undoing.pop_all()
                os.unlink(home / UNFINISHED)
                _sync(home)
    return Restored(found.content, known[0].uri, ended)


def begin_anew(settings: Settings, *, told: Told = _untold) -> list[str]:
    """Have a home go on whose database was restored by other means than restore(), as that would have it.

    Returns the ids of the tasks that were ended. Conflict(home_in_use) while anybody works with it; what restore() raises where a
    master key does not open: nothing was changed then.
    """
    require(settings)
    store = Store(settings.database_url)
    with contextlib.closing(store), root.changing(settings.home), store.alone():
        store.migrate()
        return _begun_anew(store, root.roots(settings.home, settings.root_key_uri), {"by": version("kps-fleet")}, told)


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    content: Content
    keys: list[Secret | None]  # by place among the root keys on record
    _database: IO[bytes]

    def unpack(self, path: Path) -> None:
        """Write the database to a new file of mode 0600. Damaged(backup_damaged) where it is not what was backed up."""
        self._database.seek(0)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while piece := self._database.read(1 << 20):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except (tarfile.TarError, EOFError) as error:
            raise _damaged("it ends in the middle") from error
        except OSError as error:
            raise Unavailable("file_not_written", f"{path}: {error.strerror}; see its directory, and its disk") from error
        if copies.digest(path) != self.content.sha256:
            raise _damaged("the database in it is not the one that was backed up")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[_Reading]:
    """Give what is in a backup. Unavailable(backup_unreadable), Damaged(backup_damaged), Invalid(backup_unknown)."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable("backup_unreadable", f"{file}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unavailable("backup_unreadable", f"{file}: not a regular file")
    with os.fdopen(descriptor, "rb") as opened:
        try:
            with tarfile.open(fileobj=opened, mode="r:") as archive:
                yield _taken_apart(archive)
        except tarfile.TarError as error:
            raise Invalid("backup_unknown", f"{file}: not a backup that kps wrote ({error})") from error


def _taken_apart(archive: tarfile.TarFile) -> _Reading:
    """Look at the members one by one, in their order: as many as there can be, each as large as it may be."""
    manifest = _member(archive, MANIFEST, MANIFEST_BYTES)
    try:
        said = json.loads(manifest.read())
        if said["format"] != FORMAT:
            raise Invalid("backup_unknown", f"format {said['format']}: a newer kps has written this backup: use that one")
        listed = [(root.Known(each["uri"], each["check"]), each["key"]) for each in said["roots"]]
        content = Content(
            made_at=str(said["made_at"]),
            kps=str(said["kps"]),
            roots=[known for known, _ in listed],
            with_root_key=any(name is not None for _, name in listed),
            counts={str(name): int(number) for name, number in said["counts"].items()},
            sha256=str(said["database"]["sha256"]),
            size=int(said["database"]["bytes"]),
        )
        if not 1 <= len(listed) <= MOST_ROOTS or not all(isinstance(word, str) for k, _ in listed for word in (k.uri, k.check)):
            raise ValueError
        if any(name not in (None, _key_name(place)) for place, (_, name) in enumerate(listed)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(f"its {MANIFEST} is not as kps wrote it") from error
    database = _member(archive, DATABASE, content.size)
    keys: list[Secret | None] = []
    for place, (_, name) in enumerate(listed):
        keys.append(None if name is None else Secret(bytearray(_member(archive, _key_name(place), root.KEY_BYTES).read())))
    return _Reading(content, keys, database)


def _member(archive: tarfile.TarFile, name: str, most: int) -> IO[bytes]:
    member = archive.next()
    # A sparse one is a few bytes that would fill a disk.
    if member is None or member.name != name or not member.isreg() or member.issparse() or member.size > most:
        raise _damaged(f"{name} is missing, or not as kps wrote it")
    file = archive.extractfile(member)
    if file is None:
        raise _damaged(f"{name} is missing")
    return file


def _damaged(why: str) -> Damaged:
    return Damaged("backup_damaged", f"this backup is damaged: {why}; take another one")


# -- opening -----------------------------------------------------------------------------------------------------------


def _given_roots(found: _Reading, root_key: str | None, directory: Path) -> list[RootKey]:
    """Return the root keys that open a backup: the given one, else those in it."""
    if root_key is not None:
        key = root.open_root(root_key, directory)
        if key.check_value not in {each.check for each in found.content.roots}:
            raise _wrong(key.check_value, found.content.roots[0].check)
        return [key]
    held = [FileRootKey.of(key) for key in found.keys if key is not None]
    if not held:
        wanted = ", ".join(f"{each.uri} (check value {each.check})" for each in found.content.roots)
        message = f"this backup holds no root key, and without it nothing opens; give --root-key URI: it was {wanted}"
        raise Unavailable("root_key_missing", message)
    return list(held)


def _checked(key: RootKey, check: str) -> RootKey:
    if key.check_value != check:
        raise _wrong(key.check_value, check)
    return key


def _wrong(found: str, wanted: str) -> Unavailable:
    message = f"this root key (check value {found}) is not the one that the backup was wrapped with ({wanted}); give that one"
    return Unavailable("root_key_wrong", message)


def _opened(store: Store, roots: Sequence[RootKey], managed: int, told: Told) -> Verified:
    versions = store.all_versions()
    for done, (key_id, number) in enumerate(versions, 1):
        found = store.master_key_version(key_id, number)
        if found is not None:
            open_master(found, roots).wipe()
        told("master keys", done, len(versions))
    kms = Kms(store, *roots)
    unopenable: dict[str, str] = {}
    done = 0
    for keypair, sealed in store.in_custody():
        try:
            opening.verified(kms, keypair, sealed)
        except Problem as problem:
            unopenable[keypair.name] = f"{problem.code}: {problem.message}"
        done += 1
        told("private keys", done, max(done, managed))
    opened = done - len(unopenable)
    secrets = 0
    for secret, number, sealed in store.secrets_in_custody():
        try:
            secretvalues.verified(kms, secret, number, sealed)
            secrets += 1
        except Problem as problem:
            unopenable[f"{secret.name} v{number}"] = f"{problem.code}: {problem.message}"
    owner, access_key = store.local_owner()
    _, sealed = store.access_key(access_key)
    kms.open(sealed, access_key_context(owner, access_key)).wipe()
    return Verified(len(versions), opened, unopenable, secrets)


# -- writing -----------------------------------------------------------------------------------------------------------


def _on_record(settings: Settings) -> list[root.Known]:
    """Return the root keys on record; of a home from before there was a record, the one that lies in it."""
    found = root.known(settings.home)
    return found or [root.Known(root.DEFAULT_URI, root.open_root(root.DEFAULT_URI, settings.home).check_value)]


def _root_keys(settings: Settings, roots: Sequence[root.Known]) -> list[Secret]:
    """Return the root keys themselves. Invalid(root_key_elsewhere) unless all of them live in files."""
    keys = []
    for each in roots:
        if not each.uri.startswith("file:"):
            raise Invalid(
                "root_key_elsewhere",
                f"{each.uri}: this root key never leaves where it is, so no backup has it; leave --with-root-key out, and see "
                "to it that the token or the key in the cloud has a backup of its own",
            )
        keys.append(root.read_file(each.uri, settings.home))
    return keys


def _write(path: Path, content: Content, database: Path, keys: Sequence[Secret]) -> None:
    names = [_key_name(place) if keys else None for place in range(len(content.roots))]
    manifest = {
        "format": FORMAT,
        "made_at": content.made_at,
        "kps": content.kps,
        "database": {"bytes": content.size, "sha256": content.sha256},
        "roots": [{"uri": each.uri, "check": each.check, "key": name} for each, name in zip(content.roots, names, strict=True)],
        "counts": content.counts,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
            text = json.dumps(manifest, indent=1).encode() + b"\n"
            _add(archive, MANIFEST, len(text), io.BytesIO(text))
            with open(database, "rb") as copy:
                _add(archive, DATABASE, content.size, copy)
            for place, key in enumerate(keys):
                _add(archive, _key_name(place), len(key), io.BytesIO(key.view()))
            archive.close()
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise Unavailable("file_not_written", f"{path.parent}: {error.strerror}; see its mode, and its disk") from error


def _add(archive: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(datetime.now().timestamp())
    archive.addfile(member, file)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give a directory of our own beside a file that is to be made, so that it appears there whole; nothing is left of it."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as directory:
            yield Path(directory)
    except OSError as error:
        raise Unavailable("file_not_written", f"{out}: {error.strerror}; see its directory, and its disk") from error


def _put_root_keys(found: _Reading, home: Path, root_key: str | None, undoing: contextlib.ExitStack) -> list[root.Known]:
    """Return where each root key of a restored home is; those that came in the backup are put into the home."""
    known = []
    for place, (each, key) in enumerate(zip(found.content.roots, found.keys, strict=True)):
        if place == 0 and root_key is not None:
            known.append(root.Known(root_key, each.check))
        elif key is None:
            # Whoever could write the backup chose this: a module to be loaded, a PIN's file, a service to be asked.
            if _IN_THE_HOME.fullmatch(each.uri) is None and each.uri != root_key:
                raise Unavailable("root_key_missing", _where(place, each))
            known.append(each)
        else:
            name = "root.key" if place == 0 else f"former-root-{secrets.token_hex(4)}.key"
            if not (home / name).exists():
                _put(home / name, key)
                undoing.callback((home / name).unlink, missing_ok=True)
            known.append(root.Known(f"file:{name}", each.check))
    return known


def _where(place: int, each: root.Known) -> str:
    step = f"if that is right, say so: --root-key '{each.uri}'"
    if place:
        step = "the home was in the middle of a rotation: finish that there (kps root rotate), and back it up again"
    return f"this backup says that root key {each.check} is at {each.uri}, and a backup's word is not taken for that; {step}"


def _put(path: Path, key: Secret) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, key.view())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable("root_key_not_written", f"{path}: {error.strerror}; see the home's mode, and its disk") from error


def _put_database(found: _Reading, home: Path, roots: Sequence[RootKey], undoing: contextlib.ExitStack, told: Told) -> list[str]:
    """Make the database ready beside where it is to be; returns the ids of the tasks that were ended."""
    path = home / UNFINISHED
    for left in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        left.unlink(missing_ok=True)  # of a restore that was broken off
        undoing.callback(left.unlink, missing_ok=True)
    found.unpack(path)
    store = Store(f"sqlite:///{path}")
    with contextlib.closing(store):
        store.is_whole()
        store.migrate()
        ended = _begun_anew(store, roots, {"made_at": found.content.made_at, "by": found.content.kps}, told)
        store.checkpoint()
    return ended


def _begun_anew(store: Store, roots: Sequence[RootKey], detail: dict[str, Any], told: Told) -> list[str]:
    """Have a restored database go on, once all master keys have opened; returns the ids of the tasks that were ended."""
    versions = store.all_versions()
    for done, (key_id, number) in enumerate(versions, 1):
        wrapped = store.master_key_version(key_id, number)
        if wrapped is not None:
            open_master(wrapped, roots).wipe()
        told("master keys", done, len(versions))
    owner = store.caller_by_local_home()
    _have_signed(store, roots, owner.tenant_id)
    return store.begin_anew(owner.tenant_id, {"user_id": owner.user_id} | detail)


def _have_signed(store: Store, roots: Sequence[RootKey], tenant_id: str) -> None:
    """Have what is put on record signed, where the root key opens."""
    keys = AuditKeys(store, Kms(store, *roots))
    store.sign_with(keys)
    keys.ready(tenant_id)


def _key_name(place: int) -> str:
    return f"root-{place}.key"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
