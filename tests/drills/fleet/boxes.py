"""Servers of a flavour, each a container; they offer what controller.demo.fleet.Server does, so that every judge works on them.

    with Boxes(client) as boxes:
        box = boxes.start(flavour)
        box.host, box.port, box.passwords, box.host_key
        box.run(["sshd", "-T"]); box.read(path); box.write(path, text)
        box.stop(); disk = box.mounted_root(); box.start(); box.reboot()

A box shares this machine's network and has an address of its own, 127.78.N.M, port 22. Files, processes, users and boots are its
own. reboot() kills its process 1 and starts it again on the same files, with an empty /run; restart() shuts it down in order.
"""

import contextlib
import io
import json
import os
import secrets
import shlex
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import docker
import docker.errors

from controller.demo.fleet import ServerFailed, _new_host_keys, _start_time
from tests.drills.fleet.flavours import Flavour, image

BOOT_SECONDS = 60
PORT = 22
_LABEL = "kps-fleet-owner"
_CGROUPS = "/sys/fs/cgroup/unified", "/sys/fs/cgroup"


class Boxes:
    """The containers of one run; all are gone when the block is left."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self._claim = socket.socket(socket.AF_UNIX)
        self._network = ""
        self._made = 0
        self._boxes: list[Box] = []

    def __enter__(self) -> Self:
        self._remove_abandoned()
        for block in range(1, 255):
            with contextlib.suppress(OSError):
                # An abstract name is gone with its process, so a claim cannot outlive its run.
                self._claim.bind(f"\0kps-fleet-127.78.{block}")
                self._network = f"127.78.{block}"
                return self
        raise RuntimeError("no loopback addresses are left: 127.78.0.0/16 is in use")

    def __exit__(self, *_: object) -> None:
        for box in list(self._boxes):
            self.remove(box)
        self._claim.close()

    def start(self, flavour: Flavour) -> "Box":
        """Start a new server and return it when it greets."""
        self._made += 1
        box = Box(self.client, flavour, f"{self._network}.{self._made}", self._owner())
        self._boxes.append(box)
        box.start()
        return box

    def remove(self, box: "Box") -> None:
        """End a server and remove all of it."""
        self._boxes.remove(box)
        box.remove()

    @staticmethod
    def _owner() -> str:
        return json.dumps([os.getpid(), _start_time(os.getpid())])

    def _remove_abandoned(self) -> None:
        """Remove what runs left behind that were killed."""
        for container in self.client.containers.list(all=True, filters={"label": _LABEL}, ignore_removed=True):
            pid, started = json.loads(container.labels[_LABEL])
            if _start_time(pid) != started:
                with contextlib.suppress(docker.errors.APIError):  # another run does the same
                    container.remove(force=True, v=True)


class Box:
    """One server of a flavour. Its methods block."""

    def __init__(self, client: docker.DockerClient, flavour: Flavour, address: str, owner: str) -> None:
        self.flavour = flavour
        self.host = address
        self.port = PORT
        self.name = f"{flavour.name}-{address.rpartition('.')[2]}"
        self.passwords = {login: secrets.token_urlsafe(9) for login in flavour.passwords}
        self._client = client
        self._host_keys = _new_host_keys()
        self._mounted: Path | None = None
        self._pid = 0
        self._full_name = f"{self.name}-{secrets.token_hex(4)}"
        self.container = client.containers.create(
            image(client, flavour),
            name=f"kps-fleet-{self._full_name}",
            labels={_LABEL: owner},
            hostname=self.name,
            network_mode="host",
            environment={"KPS_CGROUP": f"kps-fleet-{self._full_name}"} if flavour.systemd else {},
            # What systemd needs for mounts and a cgroup namespace; the others get what a container has, and no more.
            cap_add=["SYS_ADMIN"] if flavour.systemd else [],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"] if flavour.systemd else [],
            stop_signal="SIGRTMIN+3" if flavour.systemd else "SIGTERM",  # systemd(1): shut down in order
            tmpfs={"/run": "mode=755,exec", "/tmp": "mode=1777,exec"},
        )
        try:
            self._lay_files()
        except BaseException:
            self.remove()
            raise

    # -- what a server of the demo's fleet offers too

    @property
    def root_password(self) -> str:
        return self.passwords["root"]

    @property
    def host_key(self) -> str:
        """The line that known_hosts needs for this server."""
        return f"{self.host} {self.public_host_key}"

    @property
    def public_host_key(self) -> str:
        """The server's ed25519 host key as type and blob."""
        return self._host_keys["etc/ssh/ssh_host_ed25519_key.pub"].strip()

    @property
    def pid(self) -> int:
        """The server's process 1, by its pid on this machine; 0 where it is stopped."""
        return self._pid if os.path.exists(f"/proc/{self._pid}/root/etc") else 0

    @property
    def running(self) -> bool:
        return self.pid != 0

    def start(self) -> None:
        """Boot the server and return when it greets; ServerFailed with what it said where it does not."""
        self._detach()
        self.container.start()
        self._booted()

    def stop(self) -> None:
        """Shut the server down at once, like a power cut; its files stay."""
        with contextlib.suppress(docker.errors.APIError):  # it has ended by itself
            self.container.kill()
        self.container.wait()
        self._pid = 0
        self._remove_cgroup()

    def reboot(self) -> None:
        """Kill process 1, and with it all others, and boot again from the same files."""
        self.stop()
        self.start()

    def restart(self) -> None:
        """Have Docker restart the container: process 1 is asked to shut down, and gets the time that it takes."""
        self.container.restart(timeout=BOOT_SECONDS)
        self._booted()

    def _booted(self) -> None:
        self.container.reload()
        self._pid = int(self.container.attrs["State"]["Pid"])
        self.await_greeting()

    def mounted_root(self) -> Path:
        """The whole disk of the stopped server as a directory of this machine, until the server starts again."""
        if self._mounted is None:
            self.container.reload()
            layers = self.container.attrs["GraphDriver"]["Data"]
            directory = tempfile.mkdtemp(prefix="kps-fleet-disk-")
            options = f"lowerdir={layers['LowerDir']},upperdir={layers['UpperDir']},workdir={layers['WorkDir']}"
            # With relative names the layers of an image fit into the one page that mount(2) takes.
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, directory], check=True)
            self._mounted = Path(directory)
        return self._mounted

    def run(self, argv: Sequence[str], stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the server as root, beside its sshd, and return what it wrote."""
        pid = self.pid
        if not pid:
            raise ServerFailed(f"{self.name}: the server is stopped; its files are at mounted_root()")
        way_in = ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd", "--"]
        finished = subprocess.run(
            [*way_in, *argv],
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
        return self.run(["cat", path]).stdout

    def write(self, path: str, text: str, mode: int | None = None, owner: str | None = None) -> None:
        """Write a file in the server, and the directories on the way that are missing."""
        self.run(["sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "sh", path], text)
        if mode is not None:
            self.run(["chmod", f"{mode:o}", path])
        if owner is not None:
            self.run(["chown", owner, path])

    def exists(self, path: str) -> bool:
        """Whether something is at path in the server, a dangling link included."""
        return self.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "sh", path], check=False).returncode == 0

    def processes(self) -> dict[int, str]:
        """The processes that live in the server, by their pid on this machine, with their command lines."""
        pid = self.pid
        found: dict[int, str] = {}
        if not pid:
            return found
        space = os.readlink(f"/proc/{pid}/ns/pid")
        for each in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            try:
                if os.readlink(f"/proc/{each}/ns/pid") == space:
                    words = Path(f"/proc/{each}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found[each] = b" ".join(words).decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
        return found

    def reload(self) -> None:
        """Have sshd read its configuration again, as its owner would, and return when it greets."""
        self.run(["sh", "-c", self.flavour.reload])
        self.await_greeting()

    def console(self) -> str:
        """What the server's boot wrote."""
        return str(self.container.logs(tail=40).decode(errors="replace"))

    def await_greeting(self) -> str:
        """Return sshd's greeting within the time that a boot may take; else ServerFailed with what the boot said."""
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=BOOT_SECONDS) as there:
                greeting = there.recv(255)
                if greeting.startswith(b"SSH-"):
                    return greeting.decode(errors="replace").strip()
            if time.monotonic() > deadline or not self.running:
                raise ServerFailed(f"{self.name}: nothing greets at {self.host}:{self.port}: {self.console()}")
            time.sleep(0.05)

    # -- beginning and end

    def remove(self) -> None:
        """End the server and remove all of it."""
        self._detach()
        self.container.remove(force=True, v=True)
        self._remove_cgroup()

    def _detach(self) -> None:
        if self._mounted is not None:
            subprocess.run(["umount", str(self._mounted)], check=True)
            self._mounted.rmdir()
            self._mounted = None

    def _remove_cgroup(self) -> None:
        """Remove the cgroup that boot-systemd made: it outlives its processes."""
        for top in _CGROUPS:
            path = Path(top, f"kps-fleet-{self._full_name}")
            for directory, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def _lay_files(self) -> None:
        """Give the server its own host keys, passwords and address, before it first boots."""
        flavour = self.flavour
        where = f"{flavour.host_key.rpartition('/')[0]}/".lstrip("/")
        keys = {where + path.rpartition("/")[2]: text for path, text in self._host_keys.items() if "ed25519" in path}
        shadow = self._file("/etc/shadow").split("\n")
        for number, line in enumerate(shadow):
            login, _, rest = line.partition(":")
            if login in self.passwords:
                shadow[number] = f"{login}:{_hashed(self.passwords[login])}:{rest.partition(':')[2]}"
        group = next(line.split(":")[2] for line in self._file("/etc/group").split("\n") if line.startswith("shadow:"))
        texts = {path: (text, 0o644 if path.endswith(".pub") else 0o600, 0) for path, text in keys.items()}
        texts["etc/shadow"] = ("\n".join(shadow), 0o640, int(group))
        texts[flavour.address_file.lstrip("/")] = (flavour.address_text.format(address=self.host), 0o644, 0)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, (text, mode, gid) in texts.items():
                about = tarfile.TarInfo(path)
                about.size, about.mode, about.gid, about.mtime = len(text.encode()), mode, gid, int(time.time()) - 60
                archive.addfile(about, io.BytesIO(text.encode()))
        self.container.put_archive("/", packed.getvalue())

    def _file(self, path: str) -> str:
        stream: Any = self.container.get_archive(path)[0]
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            member = archive.extractfile(archive.getmembers()[0])
            assert member is not None
            return member.read().decode()


def _hashed(password: str) -> str:
    """The SHA-512 crypt hash of a password, which every suite's libc and dropbear's knows."""
    return subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    ).stdout.strip()
