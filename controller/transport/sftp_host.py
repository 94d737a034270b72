"""SftpHost: does effects for a login that may do nothing but SFTP: its own keys are changed, and nothing else can be.

Nobody at the server undoes anything: what an operation leaves when the connection is lost, the next one undoes. Limits says it.
"""

import asyncio
import errno
import fnmatch
import posixpath
import secrets
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncssh
from asyncssh import sftp as wired

from controller.transport.far import LARGEST_FILE, lost
from kpsagent import wire
from kpsagent.errors import Changed, Failed, Refused
from kpsagent.host import MAIN_CONFIG, Account, Daemon, File
from kpsagent.permissions import Component

NO_UNDO = (
    "the login may do SFTP only: its keys are changed, password login is not, and nobody at the server undoes: if the connection "
    "is lost in the middle, what was changed stays until the next run here, which undoes it"
)
NO_LOCK = (
    "over SFTP there is no lock that ends with its holder: two controllers at this login at the same time are kept apart by a "
    "file, which is passed over once it is old"
)
NO_ATTRIBUTES = (
    "over SFTP a file that is replaced keeps its mode, but no access control lists and no extended attributes; hard links are "
    "not seen, and whether the change outlives a power failure at once is for the server's file system"
)
NO_SESSIONS = "over SFTP nothing tells which sessions a removed key has opened, and none is ended"
LOCK_SECONDS = 900  # longer than any operation may take

_NAMES = ("armed", "revoking", "confirmed", "reverting")
_MOST_NAMES = 10_000
_SECONDS = 30.0
_KINDS = ((stat.S_ISLNK, "link"), (stat.S_ISDIR, "directory"), (stat.S_ISREG, "file"), (stat.S_ISFIFO, "fifo"))


class SftpHost:
    """What one login reaches by SFTP."""

    def __init__(self, client: asyncssh.SFTPClient, login: str, home: str, because: str) -> None:
        """home: the directory in which SFTP begins. because: why nothing more than SFTP is used."""
        self._because = because
        self._client = client
        self._login = login
        self._home = home
        self._directory = posixpath.join(home, ".kps")
        self._locked = ""

    async def do(self, effect: Any) -> Any:
        """Do one effect of host.py and answer it; Ask and Say are for whoever holds the rope."""
        return await getattr(self, "_" + type(effect).__name__)(effect)

    async def close(self) -> None:
        """Let the lock go; a directory of ours in which nothing stayed goes too."""
        if self._locked:
            with suppress(OSError, Failed):
                async with _answered(self._path("lock")):
                    await self._client.remove(self._path("lock"))
                    await self._client.rmdir(self._directory)
        self._locked = ""

    # -- what is there -------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return posixpath.join(self._directory, name)

    async def _lstat(self, path: str) -> asyncssh.SFTPAttrs | None:
        try:
            async with _answered(path):
                return await self._client.lstat(path)
        except FileNotFoundError:
            return None

    async def _bytes(self, path: str) -> bytes | None:
        try:
            async with _answered(path), self._client.open(path, "rb", encoding=None) as stream:
                content: Any = await stream.read(LARGEST_FILE + 1)
        except FileNotFoundError:
            return None
        if len(content) > LARGEST_FILE:
            raise Refused("authorized_keys_unreadable", f"{path} is larger than {LARGEST_FILE} bytes", path=path)
        return bytes(content)

    async def _names(self, directory: str) -> list[str]:
        async with _answered(directory):
            names = [str(name) for name in await self._client.listdir(directory)]
        return sorted(names[:_MOST_NAMES])

    async def _real(self, path: str) -> str:
        async with _answered(path):
            return str(await self._client.realpath(path))

    async def _FindAccount(self, effect: Any) -> Account | None:
        if effect.name != self._login:
            return None
        ours = await self._lstat(self._directory)
        uid, gid = (-1, -1) if ours is None else (ours.uid or 0, ours.gid or 0)
        return Account(self._login, uid, gid, [], [], self._home, "sftp", "unknown", "", "")

    async def _ListAccounts(self, effect: Any) -> tuple[list[Account], bool]:
        return [], True

    async def _FindDaemon(self, effect: Any) -> Daemon:
        return Daemon("hidden", 0, "", [], MAIN_CONFIG, "")

    async def _Walk(self, effect: Any) -> list[Component]:
        directory, name = posixpath.split(effect.path)
        real = posixpath.join(await self._real(directory), name)
        parts = real.split("/")
        chain = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts) + 1)]
        home = await self._real(self._home)
        return [await self._component(each) for each in (chain[chain.index(home) :] if home in chain else chain)]

    async def _component(self, path: str) -> Component:
        found = await self._lstat(path)
        if found is None:
            return Component(path, "missing", 0, 0, 0, 0, False)
        mode = found.permissions or 0
        return Component(path, _kind(mode), stat.S_IMODE(mode), found.uid or 0, found.gid or 0, 1, False)

    async def _Follow(self, effect: Any) -> str:
        return await self._real(effect.path)

    async def _Ground(self, effect: Any) -> tuple[str, int | None]:
        # SFTP tells no inode; that the home is there is all that can be seen.
        return self._home, None if await self._lstat(self._home) is None else 0

    async def _Read(self, effect: Any) -> File:
        found = await self._lstat(effect.path)
        if effect.account is None and effect.path == MAIN_CONFIG and found is None:
            return File(effect.path, "", 0, 0, 0, "")  # not to be seen from here
        if found is not None and effect.account is None and _kind(found.permissions or 0) == "link":
            async with _answered(effect.path):
                found = await self._client.stat(effect.path)
        if found is None:
            return File(effect.path, None, 0, 0, 0, "")
        mode = found.permissions or 0
        if _kind(mode) != "file":
            raise Refused("path_unsafe", f"{effect.path} is a {_kind(mode)}, not a file", path=effect.path)
        content = await self._bytes(effect.path)
        text = None if content is None else content.decode("utf-8", "surrogateescape")
        return File(effect.path, text, stat.S_IMODE(mode), found.uid or 0, found.gid or 0, "")

    _ReadFollowed = _Read  # every right is the login's

    async def _Glob(self, effect: Any) -> list[str]:
        directory, pattern = posixpath.split(effect.pattern)
        try:
            names = await self._names(directory)
        except OSError:
            return []
        return [
            posixpath.join(directory, name)
            for name in names
            if fnmatch.fnmatchcase(name, pattern) and name not in (".", "..") and (pattern[:1] == "." or name[0] != ".")
        ]

    async def _Clock(self, effect: Any) -> tuple[float, str]:
        return time.time(), "sftp"  # ours: there is nobody else to keep the deadline

    async def _Door(self, effect: Any) -> None:
        return None

    async def _DoorPlace(self, effect: Any) -> Any:
        raise Refused("door_unwatched", "over SFTP nothing can be left on the server that would close an emergency door")

    async def _Limits(self, effect: Any) -> list[str]:
        return [f"only SFTP is used: {self._because}", NO_UNDO, NO_LOCK, NO_ATTRIBUTES, NO_SESSIONS]

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _write(self, path: str, content: bytes, mode: int) -> None:
        """Write a new file, durable as far as SFTP can say."""
        attributes = asyncssh.SFTPAttrs(permissions=0o600)
        async with _answered(path), self._client.open(path, "xb", attributes, encoding=None) as stream:
            await stream.write(content)
            await stream.chmod(mode)
            with suppress(wired.SFTPOpUnsupported):
                await stream.fsync()

    async def _Replace(self, effect: Any) -> None:
        path, account = effect.path, effect.account
        old = await self._lstat(path)
        temporary = _temporary(path)
        try:
            mode = 0o600 if old is None else stat.S_IMODE(old.permissions or 0) & 0o777
            await self._write(temporary, effect.text.encode("utf-8", "surrogateescape"), mode)
            await self._refuse_unless(path, effect.expected, account)
            async with _answered(path):
                if effect.expected is None:
                    await self._client.rename(temporary, path)  # which never takes the place of what is there
                else:
                    await self._client.posix_rename(temporary, path)
        except (FileExistsError, Failed):
            # SFTP's version 3 has no word for what is there already.
            if effect.expected is None and await self._lstat(path) is not None:
                raise _changed(path, account) from None
            raise
        finally:
            with suppress(OSError, Failed):
                await self._gone(temporary)

    async def _refuse_unless(self, path: str, expected: str | None, account: Account | None) -> None:
        found = await self._lstat(path)
        now = None
        if found is not None:
            now = await self._bytes(path) if _kind(found.permissions or 0) == "file" else b"\0 no file"
        if now != (None if expected is None else expected.encode("utf-8", "surrogateescape")):
            raise _changed(path, account)

    async def _gone(self, path: str) -> None:
        with suppress(FileNotFoundError):
            async with _answered(path):
                await self._client.remove(path)

    async def _Delete(self, effect: Any) -> None:
        await self._refuse_unless(effect.path, effect.expected, effect.account)
        await self._gone(effect.path)

    async def _MakeDirectory(self, effect: Any) -> None:
        if await self._lstat(effect.path) is not None:
            raise _changed(effect.path, effect.account)
        async with _answered(effect.path):
            await self._client.mkdir(effect.path, asyncssh.SFTPAttrs(permissions=0o700))

    async def _RemoveDirectory(self, effect: Any) -> bool:
        if await self._lstat(effect.path) is None:
            return True
        if [name for name in await self._names(effect.path) if name not in (".", "..")]:
            return False
        async with _answered(effect.path):
            await self._client.rmdir(effect.path)
        return True

    async def _SetMode(self, effect: Any) -> None:
        found = await self._lstat(effect.path)
        if found is None or stat.S_IMODE(found.permissions or 0) != effect.expected:
            raise _changed(effect.path, effect.account)
        async with _answered(effect.path):
            await self._client.chmod(effect.path, effect.mode)

    async def _SetOwner(self, effect: Any) -> None:
        raise Refused("path_permissions", f"{effect.path}: its owner is not changed over SFTP", path=effect.path)

    async def _Mislabelled(self, effect: Any) -> list[tuple[str, str, str]]:
        return []  # SFTP shows no label

    async def _SetLabel(self, effect: Any) -> None:
        raise Refused("path_permissions", f"{effect.path}: its label is not changed over SFTP", path=effect.path)

    async def _Sweep(self, effect: Any) -> None:
        directory, name = posixpath.split(effect.path)
        try:
            names = await self._names(directory)
        except FileNotFoundError:
            return
        for each in names:
            if each.startswith(f".{name}.kps-"):
                await self._gone(posixpath.join(directory, each))

    async def _Sessions(self, effect: Any) -> None:
        return None

    async def _EndSession(self, effect: Any) -> bool:
        return False

    # -- our own state -------------------------------------------------------------------------------------------------

    async def _Lock(self, effect: Any) -> bool:
        if await self._lstat(self._directory) is None:
            with suppress(FileExistsError):
                async with _answered(self._directory):
                    await self._client.mkdir(self._directory, asyncssh.SFTPAttrs(permissions=0o711))
        await self._refuse_foreign()
        token = secrets.token_hex(16)
        for _ in range(2):
            try:
                await self._write(self._path("lock"), token.encode("ascii"), 0o600)
            except (FileExistsError, Failed):
                if await self._lstat(self._path("lock")) is None:
                    raise
                if not await self._is_old():
                    break
                stale = self._path(f"new-{token}")
                with suppress(FileNotFoundError):
                    async with _answered(stale):
                        await self._client.posix_rename(self._path("lock"), stale)  # of two who find it old one has it
                continue
            self._locked = token
            return True
        if effect.must:
            raise Refused("busy", "another operation is at work on this login, or was cut off a moment ago; retry later")
        return False

    async def _is_old(self) -> bool:
        """Whether the lock is older than any operation may be, by the server's own clock."""
        probe = self._path(f"new-{secrets.token_hex(8)}")
        await self._write(probe, b"", 0o600)
        now, then = await self._lstat(probe), await self._lstat(self._path("lock"))
        await self._gone(probe)
        return now is not None and then is not None and (now.mtime or 0) - (then.mtime or 0) > LOCK_SECONDS

    async def _refuse_foreign(self) -> None:
        found = await self._lstat(self._directory)
        mode = 0 if found is None else found.permissions or 0
        if not stat.S_ISDIR(mode) or mode & 0o022:
            raise Refused("path_unsafe", f"{self._directory} is not ours; look who made it", path=self._directory)

    async def _kept(self, name: str) -> Any:
        content = await self._bytes(self._path(name))
        return None if content is None else wire.decode(content.decode("utf-8", "replace"))

    async def _keep(self, name: str, content: bytes, mode: int = 0o600) -> None:
        new = self._path(f"new-{secrets.token_hex(8)}")
        try:
            await self._write(new, content, mode)
            async with _answered(new):
                await self._client.posix_rename(new, self._path(name))
        finally:
            with suppress(OSError, Failed):
                await self._gone(new)

    async def _ReadState(self, effect: Any) -> dict[str, Any]:
        state = await self._kept("state.json")
        return state if isinstance(state, dict) else {}

    async def _WriteState(self, effect: Any) -> None:
        if effect.state.get("generation", 0) >= (await self._ReadState(effect)).get("generation", 0):
            await self._keep("state.json", wire.encode(effect.state).encode("ascii") + b"\n")

    async def _ReadJournal(self, effect: Any) -> tuple[str, dict[str, Any]] | None:
        if self._locked:
            for name in await self._names(self._directory):
                if name.startswith("new-") or name in ("candidate", "nonce"):
                    await self._gone(self._path(name))
        for name in _NAMES:
            journal = await self._kept("journal." + name)
            if journal is not None:
                return name, dict(journal)
        return None

    async def _WriteJournal(self, effect: Any) -> None:
        ours = await self._lstat(self._directory)
        for kind, path, _, before, _ in effect.journal["steps"]:
            found = await self._lstat(path) if kind == "keys" and before is not None else None
            if found is not None and ours is not None and (found.uid, found.gid) != (ours.uid, ours.gid):
                raise Refused(
                    "path_permissions",
                    f"{path} is of uid {found.uid} and gid {found.gid}; over SFTP what is replaced becomes the login's own",
                    path=path,
                )
        await self._keep("journal.armed", wire.encode(effect.journal).encode("ascii"))

    async def _MoveJournal(self, effect: Any) -> bool:
        try:
            async with _answered(self._path("journal.armed")):
                await self._client.posix_rename(self._path("journal.armed"), self._path("journal." + effect.to))
        except FileNotFoundError:
            return False
        return True

    async def _DropJournal(self, effect: Any) -> None:
        for name in ("nonce", *(f"journal.{each}" for each in _NAMES)):
            await self._gone(self._path(name))

    async def _Disarm(self, effect: Any) -> None:
        return None  # nothing is ever armed here

    # -- the rope ------------------------------------------------------------------------------------------------------

    async def _WriteNonce(self, effect: Any) -> tuple[str, str]:
        nonce = secrets.token_hex(16)
        await self._keep("nonce", nonce.encode("ascii") + b"\n", 0o644)
        return nonce, self._path("nonce")

    async def _Listening(self, effect: Any) -> None:
        await self._lstat(self._directory)
        if time.time() >= effect.deadline:
            raise Failed("deadline_passed", "the deadline passed")


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "device")


def _temporary(path: str) -> str:
    directory, name = posixpath.split(path)
    return posixpath.join(directory, f".{name}.kps-{secrets.token_hex(8)}")


def _changed(path: str, account: Account | None) -> Changed:
    cause = "authorized_keys_changed" if account is not None else "sshd_config_changed"
    return Changed(cause, f"{path}: somebody else changed it just now", path=path)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (wired.SFTPNoSuchFile, wired.SFTPNoSuchPath):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from None
    except wired.SFTPFileAlreadyExists:
        raise FileExistsError(errno.EEXIST, "File exists", path) from None
    except wired.SFTPPermissionDenied:
        raise PermissionError(errno.EACCES, "Permission denied", path) from None
    except (wired.SFTPConnectionLost, wired.SFTPNoConnection) as error:
        raise lost(str(error)) from None
    except wired.SFTPError as error:
        raise Failed("unexpected", f"{path}: SFTP: {str(error)[:200]}", path=path) from None
    except (asyncssh.Error, ConnectionError) as error:
        raise lost(str(error)) from None


@asynccontextmanager
async def _answered(path: str) -> AsyncIterator[None]:
    """Give SFTP's errors the names that a system has for them; Gone where the server does not answer."""
    try:
        with _translated(path):
            async with asyncio.timeout(_SECONDS):
                yield
    except TimeoutError:
        raise lost(f"nothing was heard for {_SECONDS:.0f} s") from None
