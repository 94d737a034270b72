"""What a server looks like from outside the product: its files with owners and modes, and what paramiko says of a password."""

import base64
import contextlib
import hashlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import paramiko

from controller.demo.fleet import Server

SECONDS = 30
_DIRECTORIES = ("etc", "home", "opt", "root", "run", "srv", "tmp", "usr/local", "var")
# Written by sshd, sudo and login at each log-in, whoever logs in.
_OF_LOGINS = ("/var/log/", "/var/lib/sudo", "/run/sudo", "/run/utmp", "/run/motd", "/run/sshd.pid", "/run/crond")

Picture = dict[str, tuple[str, int, int, int, str]]


def picture(server: Server) -> Picture:
    """Every file of a server: path to kind, mode, owner, group, and what it holds."""
    return disk_picture(Path(f"/proc/{server.pid}/root"))


def disk_picture(root: Path, tops: Iterable[str] = _DIRECTORIES) -> Picture:
    """The same for a directory that is a server's root, or for some of the directories in it."""
    found: Picture = {}
    for top in tops:
        for directory, names, files in os.walk(root / top):
            for name in ["", *names, *files]:
                path = Path(directory, name)
                shown = "/" + str(path.relative_to(root))
                if not shown.startswith(_OF_LOGINS):
                    with contextlib.suppress(FileNotFoundError):  # what goes while it is looked at is not there
                        found[shown] = _file(path)
    return found


def _file(path: Path) -> tuple[str, int, int, int, str]:
    seen = os.lstat(path)
    held = ""
    if stat.S_ISLNK(seen.st_mode):
        held = os.readlink(path)
    elif stat.S_ISREG(seen.st_mode):
        held = path.read_bytes().decode("utf-8", "surrogateescape")
    return stat.filemode(seen.st_mode)[0], stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, held


def changed(before: Picture, after: Picture) -> set[str]:
    """The paths that are new, gone, or not the same."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def left(before: Picture, after: Picture) -> set[str]:
    """The same for what an operation and its opposite left: a new key file without a key, and its directory, do not count."""
    empty = {path for path in after.keys() - before.keys() if after[path][4] == "" and not path.startswith("/var/lib/kps")}
    return changed(before, after) - {path for path in empty if after[path][0] == "-" or path.endswith("/.ssh")}


def fingerprint_of(paths: list[str]) -> str:
    """One hash over files of this machine, and all that is below directories: names, modes, owners, contents, times of change."""
    below = [os.path.join(directory, name) for top in paths for directory, names, files in os.walk(top) for name in names + files]
    digest = hashlib.sha256()
    for path in sorted([*filter(os.path.lexists, paths), *below]):
        seen = os.lstat(path)
        digest.update(repr((path, seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_mtime_ns)).encode())
        if stat.S_ISREG(seen.st_mode):
            digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def paramiko_lets_in(server: Server, login: str, password: str) -> bool:
    """Whether paramiko, given nothing but this password, is let in: as password or as answer to a prompt."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    kind, blob = server.public_host_key.split()
    name = server.host if server.port == 22 else f"[{server.host}]:{server.port}"
    client.get_host_keys().add(name, kind, paramiko.Ed25519Key(data=base64.b64decode(blob)))
    try:
        client.connect(
            server.host,
            server.port,
            login,
            password,
            look_for_keys=False,
            allow_agent=False,
            timeout=SECONDS,
            auth_timeout=SECONDS,
        )
    except paramiko.AuthenticationException:
        return False
    finally:
        client.close()
    return True


def until(holds: Callable[[], object], seconds: float = SECONDS, what: str = "") -> float:
    """Wait until holds() says so and return after how many seconds; fails where it does not in time."""
    begun = time.monotonic()
    while not holds():
        waited = time.monotonic() - begun
        assert waited < seconds, f"not within {seconds} s: {what or holds}"
        time.sleep(0.02)
    return time.monotonic() - begun


def begun(pid: int) -> int:
    """When a process began, in ticks since the boot; its number does not tell: they start over again."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def listening_sshd(server: Server) -> int:
    """The sshd of a server that listens: what it has just forked for a connection has the same title, and began later."""
    found = {}
    for pid, title in server.processes().items():
        if title.startswith("sshd: ") and "[listener]" in title:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[begun(pid)] = pid
    return found[min(found)]


def free_port(host: str, family: socket.AddressFamily = socket.AF_INET) -> int:
    """A TCP port of a local address that nobody listens on now."""
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
