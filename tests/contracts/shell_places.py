"""A home that a shell program is at: with the tools of this machine, or with nothing but BusyBox in a root of its own."""

import asyncio
import contextlib
import os
import posixpath
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.transport.far import Far, loader, payload
from controller.transport.shell_host import ShellHost
from kpsagent import files
from kpsagent.errors import Lost
from kpsagent.host import Account, Ask, Listening, Say
from tests.contracts.places import OTHER, scratch
from tests.needs import lacking

MARKER = "0123456789abcdef"
_BUSYBOX = "/usr/bin/busybox"

# In a mount namespace of its own: what is mounted goes with it.
_CONFINED = """set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
shift
exec chroot "$@"
"""


class ShellDone:
    """A ShellHost whose effects are done at once, for whoever is not asynchronous."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, process: asyncio.subprocess.Process, host: ShellHost, seconds: float
    ) -> None:
        """seconds: in which the program comes to an end with whatever it is given to do."""
        self._loop, self.process, self.host, self._seconds = loop, process, host, seconds

    def do(self, effect: Any) -> Any:
        if isinstance(effect, Say):
            return None  # the player's
        if isinstance(effect, Ask):
            self.do(Listening(effect.deadline))
            return []
        return self._wait(self.host.do(effect))

    def _wait(self, coroutine: Any) -> Any:
        waiting = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return waiting.result(self._seconds)
        finally:
            if not waiting.done():
                waiting.cancel()
                self.kill()

    def end_rope(self) -> None:
        """The program hears the end of its input."""

        async def ended() -> None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            await self.process.wait()

        with contextlib.suppress(ProcessLookupError):
            self._wait(ended())

    def kill(self) -> None:
        """End the program and all that it started, unless it has ended: else what never comes to an end goes on for ever."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        with contextlib.suppress(Lost):
            self._wait(self.host.close())
        self.end_rope()


class ShellPlace:
    """A home at /home, or below a directory of this machine; of another login where we are root, else our own."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.shell = shell
        self.root = directory / "root" if shell == "busybox" else Path("/")
        entry = pwd.getpwnam(OTHER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        if shell == "busybox":
            _busybox_root(self.root)
        self.home = "/home" if shell == "busybox" else str(directory / "home")
        self.state = "/var/lib/state" if shell == "busybox" else str(directory / "state")
        self.account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid, ["g"], [], self.home, "/bin/sh", "usable", "")
        self._real(self.home).mkdir(0o755)
        os.chown(self._real(self.home), entry.pw_uid, entry.pw_gid)
        self._hosts: list[ShellDone] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _real(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def command(self) -> list[str]:
        """The shell program, as a login's session starts it."""
        words = ["-c", loader(), "kps", "run", "", self.state]
        if self.shell != "busybox":
            return [f"/bin/{self.shell}", *words]
        return ["unshare", "--mount", "--", "/bin/sh", "-c", _CONFINED, "kps", str(self.root), str(self.root), "/bin/sh", *words]

    def host(self, only: Any = None, seconds: float = 60) -> ShellDone:
        host = asyncio.run_coroutine_threadsafe(self._started(seconds), self._loop).result(60)
        self._hosts.append(host)
        return host

    async def _started(self, seconds: float) -> ShellDone:
        process = await asyncio.create_subprocess_exec(
            *self.command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 18,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(payload() + MARKER.encode() + b"\n")
        far = Far(process, MARKER)
        facts = await far.hello()
        assert not facts["missing"], facts
        return ShellDone(self._loop, process, ShellHost(far, facts), seconds)

    def put(self, path: str, text: str, mode: int = 0o600) -> None:
        real = self._real(path)
        real.write_bytes(text.encode("utf-8", "surrogateescape"))
        os.chmod(real, mode)
        os.chown(real, self.account.uid, self.account.gid)

    def make_directory(self, path: str) -> None:
        self._real(path).mkdir(0o755)
        os.chown(self._real(path), self.account.uid, self.account.gid)

    def look(self, path: str) -> Any:
        try:
            found = os.lstat(self._real(path))
        except FileNotFoundError:
            return None
        kind = files.kind_of(found.st_mode)
        text = self._real(path).read_bytes().decode("utf-8", "surrogateescape") if kind == "file" else ""
        return kind, text, stat.S_IMODE(found.st_mode), found.st_uid

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self._real(path)))

    def leave_temporary(self, path: str) -> str:
        head, name = posixpath.split(path)
        left = posixpath.join(head, files._temporary(name))
        self.put(left, "half of i")
        return left

    def leave_half_written(self) -> list[str]:
        names = [f"{self.state}/new-4711", f"{self.state}/candidate"]
        for name in names:
            self._real(name).write_text("half of i")
        return names

    def end_rope(self) -> None:
        self._hosts[0].end_rope()

    def close(self) -> None:
        for host in self._hosts:
            host.close()
        for name in ("armed", "reverting"):  # a watcher ends when there is nothing left to watch
            self._real(f"{self.state}/journal.{name}").unlink(missing_ok=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _busybox_root(root: Path) -> None:
    if not os.path.exists(_BUSYBOX):
        lacking("busybox-static: a server with nothing else")
    for name in ("bin", "etc", "proc", "dev", "var/lib", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(_BUSYBOX, root / "bin/busybox")
    for applet in subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    with_program(root, "flock", "flock")  # Debian builds its BusyBox without the one that others have
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)


def with_program(root: Path, name: str, called: str) -> None:
    """Put this machine's own program into the root directory's bin, with the libraries it needs."""
    program = shutil.which(name) or lacking(name)
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *(word for word in needed.split() if word.startswith("/"))]:
        there = root / (f"bin/{called}" if path == program else path.lstrip("/"))
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        shutil.copy(path, there)


@contextlib.contextmanager
def shell_place(shell: str) -> Iterator[ShellPlace]:
    """shell: "dash" or "bash" with this machine's tools, or "busybox" with nothing else."""
    if shell == "busybox" and (os.geteuid() != 0 or sys.platform != "linux"):
        lacking("root: a root directory of its own")
    with scratch() as directory:
        place = ShellPlace(directory, shell)
        try:
            yield place
        finally:
            place.close()
