"""A fleet of real OpenSSH servers on this machine, for the demo and for the tests.

    with Fleet(3) as fleet:                              # or: async with Fleet(3) as fleet
        web = fleet["web-1"]                             # web-1, web-2, web-3
        web.host, web.port, web.root_password, web.host_key
        web.read("/root/.ssh/authorized_keys"); web.write("/etc/motd", "hello\n"); web.run(["sshd", "-T"])
        web.stop(); disk = web.mounted_root(); web.start(); web.reboot()
        old = fleet.add(Spec(tree="bullseye", logins=(Login("deploy", "s3cret", sudo="nopasswd"),)))
        fleet.remove(old)

Each server has files of its own and an sshd of its own at port 22 (where something else has it: 2222) of a loopback
address of its own, 127.77.N.M. Where namespaces are allowed it also has its own processes, host name and /proc, so that
a reboot is what it is: its first process is killed, everything in it with that, and it boots again from the same files.
At boot it runs /etc/rcS.d/S* (with "start", as its /etc/inittab has it), /usr/sbin/sshd with the SSHD_OPTS of
/etc/default/ssh, cron where there is one, then /etc/rc.local. Where namespaces are not allowed, a server is a chroot: no /proc
in it, no host name of its own.

A server has what Debian's python3-minimal holds, and not the rest of the standard library.
"""

import asyncio
import contextlib
import json
import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from controller.demo import keeper, kernel
from controller.demo.trees import HOST, TreeUnavailable, root_tree

MAX_AGE_SECONDS = 30 * 60
BOOT_SECONDS = 20
END_SECONDS, END_SECONDS_EACH = 60, 0.5  # a fleet, and each of its servers

_STATE = "fleet.json"
_PREFIX = "kps-fleet-"


class FleetUnavailable(Exception):
    """real servers cannot be had on this machine; the message says why and what to do"""


class ServerFailed(Exception):
    """a server of the fleet did not come up, or a program in it failed; the message carries its output"""


@dataclass(frozen=True)
class Login:
    """A Linux user on a server; without a password its password is locked."""

    name: str
    password: str | None = None
    sudo: Literal["none", "password", "nopasswd"] = "none"
    shell: str = "/bin/bash"


@dataclass(frozen=True)
class Spec:
    """What a server is made of. Empty values are chosen by the fleet."""

    name: str = ""
    tree: str = HOST
    root_password: str | None = None
    logins: tuple[Login, ...] = ()
    sshd_config_top: str = ""
    sshd_config_end: str = ""
    drop_ins: Mapping[str, str] = field(default_factory=dict)
    max_startups: int | None = None
    python: bool = True
    files: Mapping[str, str] = field(default_factory=dict)


class Server:
    """One real server of a fleet. Its methods block; call them from a thread in asynchronous code."""

    def __init__(self, fleet: "Fleet", spec: Spec, name: str, host: str, port: int) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.spec = spec
        self.root_password = spec.root_password or secrets.token_urlsafe(12)
        self.passwords = {"root": self.root_password} | {
            login.name: login.password for login in spec.logins if login.password is not None
        }
        self.directory = fleet.directory / name
        self.pid: int | None = None
        self._fleet = fleet
        self._tree = root_tree(spec.tree)
        self._host_keys = _new_host_keys()

    @property
    def host_key(self) -> str:
        """The line that known_hosts needs for this server."""
        place = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return f"{place} {self.public_host_key}"

    @property
    def public_host_key(self) -> str:
        """The server's ed25519 host key as type and blob."""
        return self._host_keys["etc/ssh/ssh_host_ed25519_key.pub"].strip()

    @property
    def running(self) -> bool:
        """Whether the server's first process is there."""
        return self.pid is not None and os.path.exists(f"/proc/{self.pid}/root/etc")

    def start(self) -> None:
        """Boot the server and return when its sshd greets.

        Raises ServerFailed with what the server said when it does not.
        """
        self._boot()
        self.await_greeting()

    def stop(self) -> None:
        """Shut the server down at once, like a power cut; its files stay."""
        self._fleet.order({"verb": "stop", "name": self.name})
        self.pid = None

    def reboot(self) -> None:
        """Stop the server and boot it again from the same files."""
        self.stop()
        self.start()

    def mounted_root(self) -> Path:
        """The whole disk of the stopped server as a directory of this machine, until the server starts again."""
        return Path(self._fleet.order({"verb": "attach", "name": self.name, "tree": str(self._tree)})["path"])

    def run(self, argv: Sequence[str], stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the server as root, beside its sshd, and return what it wrote.

        Raises ServerFailed when it ends with another status than 0 and check is true.
        """
        finished = subprocess.run(
            [*self._way_in(), *argv],
            input=stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )
        stdout, stderr = (output.decode("utf-8", "surrogateescape") for output in (finished.stdout, finished.stderr))
        if check and finished.returncode != 0:
            raise ServerFailed(f"{self.name}: {shlex.join(argv)} ended with status {finished.returncode}: {stderr}")
        return subprocess.CompletedProcess(list(argv), finished.returncode, stdout, stderr)

    def read(self, path: str) -> str:
        """The text of a file in the server, with every byte kept (surrogateescape)."""
        return self.run(["cat", "--", path]).stdout

    def write(self, path: str, text: str, mode: int | None = None, owner: str | None = None) -> None:
        """Write a file in the server, and the directories on the way that are missing."""
        self.run(["sh", "-c", _WRITE, "sh", path], text)
        if mode is not None:
            self.run(["chmod", f"{mode:o}", path])
        if owner is not None:
            self.run(["chown", owner, path])

    def exists(self, path: str) -> bool:
        """Whether something is at path in the server, a dangling link included."""
        return self.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "sh", path], check=False).returncode == 0

    def processes(self) -> dict[int, str]:
        """The processes that live in the server, by their pid on this machine, with their command lines."""
        found = {}
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            try:
                if self._holds(pid):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found[pid] = b" ".join(words).decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
        return found

    def sessions(self) -> list[str]:
        """The logins whose sessions are open, as "login@terminal" in the words of sshd's process titles."""
        titles = [title for title in self.processes().values() if title.startswith(("sshd: ", "sshd-session: "))]
        return sorted(words[1] for title in titles if "@" in (words := title.split())[1])

    def console(self) -> str:
        """What the server's boot wrote."""
        return (self.directory / "console").read_text(errors="replace")

    def _boot(self) -> None:
        self.pid = self._fleet.order(
            {
                "verb": "start",
                "name": self.name,
                "tree": str(self._tree),
                "remove": _PYTHONS if not self.spec.python else [],
                "directories": [(f"/home/{login.name}", 0o755, 1000 + n) for n, login in enumerate(self.spec.logins)],
                "files": self._files(),
                "passwords": "".join(f"{login}:{password}\n" for login, password in self.passwords.items()),
            }
        )["pid"]

    def reload(self) -> None:
        """Have sshd read its configuration again, and return when the sshd that did so greets."""
        before = self._listening()
        self.run(["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"])
        deadline = time.monotonic() + BOOT_SECONDS
        # For a moment the old socket still answers: sshd(8) closes it, executes itself and opens a new one.
        while self._listening() in ("", before):
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name}: sshd does not listen again after a reload: {self.console()}")
            time.sleep(0.004)
        self.await_greeting()

    def _listening(self) -> str:
        """The inode of the socket that listens at the server's address, or "": proc(5), /proc/net/tcp."""
        # The kernel prints the address as a number of the machine's own byte order.
        host = int.from_bytes(socket.inet_aton(self.host), sys.byteorder)
        address = f"{host:08X}:{self.port:04X}"
        for line in Path("/proc/net/tcp").read_text().split("\n")[1:-1]:
            _, local, _, state, *rest = line.split()
            if local == address and state == "0A":
                return rest[5]
        return ""

    def await_greeting(self, first: bool = False) -> None:
        """Return when sshd greets, within the time that a boot may take; at the first boot nobody else will start it.

        Raises ServerFailed with what the server said when it does not greet.
        """
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                with socket.create_connection((self.host, self.port), timeout=BOOT_SECONDS) as connection:
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                pass  # not yet
            hopeless = first and "/usr/sbin/sshd ended with status" in self.console()
            if hopeless or not self.running or time.monotonic() > deadline:
                raise ServerFailed(f"{self.name}: sshd does not greet at {self.host}:{self.port}: {self.console()}")
            time.sleep(0.004)

    def _holds(self, pid: int) -> bool:
        if self.pid is None:
            return False
        if self._fleet.isolation == keeper.NAMESPACE:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid_for_children")
        return os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat(self.directory / "root"))

    def _way_in(self) -> list[str]:
        if not self.running:
            raise ServerFailed(f"{self.name}: the server is stopped; its files are at mounted_root()")
        if self._fleet.isolation == keeper.NAMESPACE:
            return ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd", "--"]
        return ["chroot", str(self.directory / "root")]

    def _files(self) -> list[tuple[str, str, int, int, int]]:
        """The files in which this server differs from its tree: path, text, mode, owner, group."""
        base = {name: (self._tree / "etc" / name).read_text() for name in ("passwd", "group", "shadow")}
        shadow_group = next(int(line.split(":")[2]) for line in base["group"].split("\n") if line.startswith("shadow:"))
        passwd, group, shadow, sudoers = base["passwd"], base["group"], base["shadow"], ""
        for uid, login in enumerate(self.spec.logins, 1000):
            passwd += f"{login.name}:x:{uid}:{uid}::/home/{login.name}:{login.shell}\n"
            group += f"{login.name}:x:{uid}:\n"
            shadow += f"{login.name}:!:19000:0:99999:7:::\n"
            if login.sudo != "none":
                sudoers += f"{login.name} ALL=(ALL) {'NOPASSWD: ' if login.sudo == 'nopasswd' else ''}ALL\n"
        texts = {
            "/etc/hostname": f"{self.name}\n",
            "/etc/hosts": f"127.0.0.1 localhost\n{self.host} {self.name}\n",
            "/etc/passwd": passwd,
            "/etc/group": group,
            "/etc/inittab": "si::sysinit:/etc/init.d/rcS\n",
            "/etc/default/ssh": f'SSHD_OPTS="-o ListenAddress={self.host}:{self.port}"\n',
            "/etc/ssh/sshd_config": self._sshd_config(),
            **{f"/etc/ssh/sshd_config.d/{name}": text for name, text in self.spec.drop_ins.items()},
            **{f"/{path}": text for path, text in self._host_keys.items() if path.endswith(".pub")},
            **self.spec.files,
        }
        private = {f"/{path}": text for path, text in self._host_keys.items() if not path.endswith(".pub")}
        files = [(path, text, 0o644, 0, 0) for path, text in texts.items()]
        files += [(path, text, 0o600, 0, 0) for path, text in private.items()]
        files.append(("/etc/shadow", shadow, 0o640, 0, shadow_group))
        if sudoers:
            files.append(("/etc/sudoers.d/logins", sudoers, 0o440, 0, 0))
        return files

    def _sshd_config(self) -> str:
        """Debian's own sshd_config, with root let in by password as cloud images do."""
        text = (self._tree / "etc/ssh/sshd_config").read_text()
        text = text.replace("#PermitRootLogin prohibit-password\n", "PermitRootLogin yes\n")
        if self.spec.max_startups is not None:
            text += f"MaxStartups {self.spec.max_startups}\n"
        return self.spec.sshd_config_top + text + self.spec.sshd_config_end


# A file may be a hard link to one of the tree that all servers are made of: it is replaced, never written into. What is no
# plain file (a pipe, a device) is written to.
_WRITE = """set -e
mkdir -p "$(dirname "$1")"
to=$(readlink -f -- "$1")
if [ -e "$to" ] && [ ! -f "$to" ]; then exec cat > "$to"; fi
new=$to.new-$$
trap 'rm -f -- "$new"' EXIT
if [ -e "$to" ]; then cp -p -- "$to" "$new"; fi
cat > "$new"
mv -f -- "$new" "$to"
"""

_PYTHONS = [f"/usr/bin/python3{minor}" for minor in ("", *(f".{number}" for number in range(6, 15)))]


class Fleet:
    """Real servers that live as long as the block they are made in, and no longer than max_age_seconds.

    servers is how many to start (web-1, web-2, ...), or what each is made of. isolation is chosen by what this machine
    allows: "namespace", else "chroot". Raises FleetUnavailable where neither is.
    """

    def __init__(
        self,
        servers: int | Sequence[Spec] = 0,
        *,
        isolation: Literal["any", "namespace", "chroot"] = "any",
        max_age_seconds: float = MAX_AGE_SECONDS,
        spec: Spec | None = None,
    ) -> None:
        base = spec or Spec()
        self._wanted = [base] * servers if isinstance(servers, int) else list(servers)
        self._wanted_isolation = isolation
        self._max_age_seconds = max_age_seconds
        self._keeper: subprocess.Popen[bytes] | None = None
        self._one_order = threading.Lock()
        self._networks: list[tuple[str, int]] = []
        self._made = 0
        self._servers: dict[str, Server] = {}
        self.isolation = ""
        self.disk = ""
        self.directory = Path()

    def __enter__(self) -> Self:
        if self._keeper is None:
            self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.open)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    def __iter__(self) -> Iterator[Server]:
        return iter(self.servers)

    def __len__(self) -> int:
        return len(self._servers)

    def __getitem__(self, name: str) -> Server:
        return self._servers[name]

    @property
    def servers(self) -> list[Server]:
        """The servers in the order in which they were made."""
        return list(self._servers.values())

    def open(self) -> None:
        """Start the fleet and return when every server greets."""
        remove_abandoned()
        try:
            tree = root_tree(HOST)
        except TreeUnavailable as error:
            raise FleetUnavailable(str(error)) from None
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        self.directory.chmod(0o711)
        self._launch(tree)
        try:
            self.add_all(self._wanted)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every server and remove all that the fleet made; nothing happens when it was kept or is closed."""
        if self._keeper is None or self._keeper.stdin is None:
            return
        ending, self._keeper = self._keeper, None
        patience = END_SECONDS + END_SECONDS_EACH * len(self._servers)
        self._servers.clear()
        # Its input ends, and it answers by ending the fleet.
        try:
            ending.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            ending.kill()
            ending.communicate()
            remove_abandoned()
            raise ServerFailed("the fleet did not end when it was told to; it was killed") from None

    def keep(self) -> None:
        """Let the fleet outlive this process, until end_kept() or its greatest age; this object lets go of it."""
        self.order({"verb": "keep"})
        if self._keeper is not None and self._keeper.stdin is not None and self._keeper.stdout is not None:
            self._keeper.stdin.close()
            self._keeper.stdout.close()
            # The keeper goes on; whoever is its parent then collects it.
            self._keeper.returncode = 0
        self._keeper = None

    def add(self, spec: Spec | None = None) -> Server:
        """Start one more server and return it when it greets."""
        return self.add_all([spec or Spec()])[0]

    def add_all(self, specs: Sequence[Spec]) -> list[Server]:
        """Start more servers, all at once, and return them when every one greets."""
        try:
            added = [self._new_server(spec) for spec in specs]
        except TreeUnavailable as error:
            raise FleetUnavailable(str(error)) from None
        for server in added:
            self._servers[server.name] = server
            keeper.make_place(str(server.directory))
            server._boot()
        for server in added:
            server.await_greeting(first=True)
        return added

    def remove(self, server: Server) -> None:
        """End one server and remove its files."""
        self.order({"verb": "remove", "name": server.name})
        del self._servers[server.name]

    def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Have the keeper do something, and return its answer. Raises ServerFailed with the keeper's reason."""
        with self._one_order:
            if self._keeper is None or self._keeper.stdin is None or self._keeper.stdout is None:
                raise ServerFailed("the fleet is closed")
            self._keeper.stdin.write(json.dumps(order).encode() + b"\n")
            self._keeper.stdin.flush()
            return self._hear()

    def _launch(self, tree: Path) -> None:
        with open(self.directory / "keeper.log", "wb") as log:
            self._keeper = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "controller.demo.keeper",
                    *map(str, (self.directory, tree)),
                    self._wanted_isolation,
                    str(self._max_age_seconds),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(Path(__file__).parents[2])},
                # Ctrl-C is for the owner alone, which then closes the fleet in order.
                start_new_session=True,
            )
        state = {"keeper": self._keeper.pid, "started": _start_time(self._keeper.pid)}
        unfinished = self.directory / f"{_STATE}.new"
        unfinished.write_text(json.dumps(state))
        unfinished.rename(self.directory / _STATE)
        try:
            hello = self._hear()
        except ServerFailed as error:
            self.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise FleetUnavailable(str(error)) from None
        self.isolation, self.disk = hello["isolation"], hello["disk"]

    def _hear(self) -> dict[str, Any]:
        if self._keeper is None or self._keeper.stdout is None:
            raise ServerFailed("the fleet is closed")
        line = self._keeper.stdout.readline()
        if not line:
            log = self.directory / "keeper.log"
            raise ServerFailed(f"the fleet ended: {log.read_text() if log.exists() else 'it was too old, or killed'}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ServerFailed(reply["error"])
        return reply

    def _new_server(self, spec: Spec) -> Server:
        block, place = divmod(self._made, 254)
        while len(self._networks) <= block:
            claimed = self.order({"verb": "claim"})
            self._networks.append((claimed["network"], claimed["port"]))
        network, port = self._networks[block]
        self._made += 1
        name = spec.name or f"web-{self._made}"
        if name in self._servers:
            raise ValueError(f"two servers of one fleet cannot both be called {name}")
        return Server(self, spec, name, f"{network}.{place + 1}", port)


def kept_fleets() -> list[Path]:
    """The directories of the fleets that live on this machine, whoever started them."""
    return [directory for directory in _fleet_directories() if _living_keeper(directory) is not None]


def end_kept(directory: Path) -> None:
    """End a fleet that was kept, and return when all of it is gone; nothing happens when it has ended already."""
    pid = _living_keeper(directory)
    if pid is None:
        return
    gone = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        # A pidfd becomes readable when its process ends: pidfd_open(2).
        select.select([gone], [], [])
    finally:
        os.close(gone)


def remove_abandoned() -> None:
    """Remove what fleets left behind whose keeper was killed."""
    for directory in _fleet_directories():
        if (directory / _STATE).exists() and _living_keeper(directory) is None:
            for root in directory.glob("*/root"):
                keeper.kill_inside(root.stat())
                with contextlib.suppress(OSError):  # a mount that its keeper's namespace took along, or none at all
                    kernel.unmount(str(root))
            shutil.rmtree(directory, ignore_errors=True)


def _fleet_directories() -> list[Path]:
    # In a directory for all, only what this user made is ours.
    found = Path(tempfile.gettempdir()).resolve().glob(f"{_PREFIX}*")
    return sorted(each for each in found if each.lstat().st_uid == os.geteuid() and not each.is_symlink())


def _living_keeper(directory: Path) -> int | None:
    """The pid of the keeper of the fleet in this directory; a pid that was given to another process since is not it."""
    try:
        state = json.loads((directory / _STATE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return state["keeper"] if _start_time(state["keeper"]) == state["started"] else None


def _start_time(pid: int) -> str | None:
    """When a process started, as proc(5) counts it; None when there is none or it only waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def _new_host_keys() -> dict[str, str]:
    """New ed25519 and ecdsa host keys, by their path in the server."""
    keys: dict[str, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey]
    keys = {"ed25519": ed25519.Ed25519PrivateKey.generate(), "ecdsa": ec.generate_private_key(ec.SECP256R1())}
    found = {}
    for name, key in keys.items():
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        found[f"etc/ssh/ssh_host_{name}_key"] = private.decode()
        found[f"etc/ssh/ssh_host_{name}_key.pub"] = public.decode() + "\n"
    return found
