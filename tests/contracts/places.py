"""Where the effects are tried: the same small home on the model server and on this machine."""

import contextlib
import os
import posixpath
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kpsagent import files
from kpsagent.__main__ import Rope
from kpsagent.host import Account
from kpsagent.local import LocalHost
from tests.agent import model_host as model

OTHER = "nobody"


class ModelPlace:
    """A home on the model server."""

    home = "/home/zoe"

    def __init__(self) -> None:
        self.account = Account("zoe", 1000, 1000, ["zoe"], [], self.home, "/bin/sh", "usable", "")
        disk = {path: model.directory() for path in ("/", "/etc", "/etc/ssh", "/etc/cron.d", "/home", "/var", "/var/lib")}
        disk |= {self.home: model.directory(0o755, 1000), model.CONFIG: model.file("UsePAM yes\n")}
        self.world = model.World([self.account], {"zoe": "secret"}, disk)
        self.rope = model.Rope([])

    def host(self, only: Any = None) -> Any:
        return model.ModelHost(self.world, self.rope, only=only)

    def put(self, path: str, text: str, mode: int = 0o600) -> None:
        self.world.put(path, model.file(text, mode, 1000))

    def make_directory(self, path: str) -> None:
        self.world.put(path, model.directory(0o755, 1000))

    def look(self, path: str) -> Any:
        """(kind, text, mode, uid) of what is there, or None."""
        entry = self.world.disk.get(path)
        return None if entry is None else (entry.kind, entry.text, entry.mode, entry.uid)

    def names(self, path: str) -> list[str]:
        return sorted(posixpath.basename(each) for each in self.world.disk if posixpath.dirname(each) == path)

    def leave_temporary(self, path: str) -> str:
        name = model.temporary(path)
        self.put(name, "half of i")
        return name

    def leave_half_written(self) -> list[str]:
        names = [f"{model.STATE}/new", f"{model.STATE}/candidate"]
        for name in names:
            self.put(name, "half of i")
        return names

    def end_rope(self) -> None:
        self.rope.ended = True


class LocalPlace:
    """A home on this machine: of another login where we are root, else our own."""

    def __init__(self, directory: Path) -> None:
        entry = pwd.getpwnam(OTHER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.directory = directory
        self.home = str(directory / "home")
        self.account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid, ["g"], [], self.home, "/bin/sh", "usable", "")
        os.mkdir(self.home, 0o755)
        os.chown(self.home, entry.pw_uid, entry.pw_gid)
        self.state = str(directory / "state")
        self._ours, theirs = os.pipe()
        self._theirs: int | None = theirs
        self._out = os.open(os.devnull, os.O_WRONLY)

    def host(self, only: Any = None) -> Any:
        return LocalHost(self.state, Rope(self._ours, self._out), b"print('the agent')\n", only=only)

    def put(self, path: str, text: str, mode: int = 0o600) -> None:
        Path(path).write_bytes(text.encode("utf-8", "surrogateescape"))
        os.chmod(path, mode)
        os.chown(path, self.account.uid, self.account.gid)

    def make_directory(self, path: str) -> None:
        os.mkdir(path, 0o755)
        os.chown(path, self.account.uid, self.account.gid)

    def look(self, path: str) -> Any:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        kind = files.kind_of(found.st_mode)
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape") if kind == "file" else ""
        return kind, text, stat.S_IMODE(found.st_mode), found.st_uid

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def leave_temporary(self, path: str) -> str:
        head, name = os.path.split(path)
        left = os.path.join(head, files._temporary(name))
        self.put(left, "half of i")
        return left

    def leave_half_written(self) -> list[str]:
        names = [f"{self.state}/new-4711", f"{self.state}/candidate"]
        for name in names:
            Path(name).write_text("half of i")
        return names

    def end_rope(self) -> None:
        if self._theirs is not None:
            os.close(self._theirs)
        self._theirs = None

    def close(self) -> None:
        self.end_rope()
        os.close(self._ours)
        os.close(self._out)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that every login can reach; pytest's own is root's alone."""
    directory = Path(tempfile.mkdtemp(prefix="kps-host-"))
    os.chmod(directory, 0o755)  # noqa: S103
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def local_place() -> Iterator[LocalPlace]:
    with scratch() as directory:
        place = LocalPlace(directory)
        try:
            yield place
        finally:
            place.close()
