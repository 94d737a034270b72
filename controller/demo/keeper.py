"""The process that holds the servers of one fleet: it starts, stops and in the end removes them.

It is the parent of every server's first process and reads orders, one JSON object a line, from standard input. When
its owner ends for whatever reason, input ends, and so does the fleet; when the keeper itself is killed, the kernel
kills the servers. It imports little and starts no thread, because it forks without exec.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback
import uuid
from typing import Any, NoReturn

from controller.demo import kernel

NAMESPACE = "namespace"
CHROOT = "chroot"
OVERLAY = "overlay"
COPY = "copy"

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_FOR_ALL = 0o666
_PORTS = (22, 2222, 22022)

Order = dict[str, Any]


class Keeper:
    """Holds the servers of one fleet, whose files are under one directory."""

    def __init__(self, directory: str, isolation: str, disk: str) -> None:
        self.directory = directory
        self.isolation = isolation
        self.disk = disk
        self.kept = False
        self._pids: dict[str, int] = {}
        self._attached: set[str] = set()
        self._claims: list[socket.socket] = []
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)

    def answer(self, order: Order) -> Order:
        """Do what an order says; what comes back is the reply to it."""
        match order["verb"]:
            case "claim":
                return self._claim()
            case "start":
                return {"pid": self._start(order)}
            case "stop":
                self._stop(order["name"])
            case "attach":
                return {"path": self._attach(order["name"], order["tree"])}
            case "remove":
                self._remove(order["name"])
            case "keep":
                self.kept = True
        return {}

    def end(self) -> None:
        """Stop every server and remove the fleet's directory."""
        for name in list(self._pids):
            self._stop(name)
        for name in list(self._attached):
            self._detach(name)
        _remove_tree(self.directory)

    def reap(self) -> None:
        """Take note of the servers that ended by themselves."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._pids = {name: pid for name, pid in self._pids.items() if pid != ended}

    def _claim(self) -> Order:
        """Claim 254 loopback addresses that no other fleet uses, and a port that is free on them."""
        for block in range(1, 255):
            claim = socket.socket(socket.AF_UNIX)
            try:
                # An abstract name is gone with its last process, so a claim cannot outlive its fleet.
                claim.bind(f"\0kps-fleet-127.77.{block}")
            except OSError:
                claim.close()
                continue
            for port in _PORTS:
                with socket.socket() as probe, contextlib.suppress(OSError):
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((f"127.77.{block}.1", port))
                    probe.listen()
                    self._claims.append(claim)
                    return {"network": f"127.77.{block}", "port": port}
            claim.close()
        raise RuntimeError("no loopback addresses are left for a fleet: 127.77.0.0/16 is in use, or its ports are")

    def _start(self, order: Order) -> int:
        name: str = order["name"]
        if name in self._pids:
            raise RuntimeError(f"{name}: runs already")
        self._detach(name)
        if self.isolation == NAMESPACE:
            kernel.unshare(kernel.NEW_PIDS)
        try:
            pid = os.fork()
        finally:
            if self.isolation == NAMESPACE and os.getpid() != 1:
                kernel.enter(self._own_pids, kernel.NEW_PIDS)
        if pid == 0:
            _become_server(order, self._place(name), self.isolation, self.disk)
        self._pids[name] = pid
        return pid

    def _stop(self, name: str) -> None:
        pid = self._pids.pop(name, None)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            # In a process namespace this returns when everything in it is gone.
            os.waitpid(pid, 0)
        if self.isolation == CHROOT:
            kill_inside(os.stat(os.path.join(self._place(name), "root")))

    def _attach(self, name: str, tree: str) -> str:
        """Show the disk of a server that is shut down; the answer is the directory where it is."""
        if name in self._pids:
            raise RuntimeError(f"{name}: its disk can only be attached while the server is stopped")
        place = self._place(name)
        if self.disk == OVERLAY and name not in self._attached:
            _mount_overlay(tree, place)
            self._attached.add(name)
        return os.path.join(place, "root")

    def _detach(self, name: str) -> None:
        if name in self._attached:
            kernel.unmount(os.path.join(self._place(name), "root"))
            self._attached.discard(name)

    def _remove(self, name: str) -> None:
        self._stop(name)
        self._detach(name)
        _remove_tree(self._place(name))

    def _place(self, name: str) -> str:
        return os.path.join(self.directory, name)


# --- what a server's first process does ---


def _become_server(order: Order, place: str, isolation: str, disk: str) -> NoReturn:
    """Turn the process just forked into a server's first process."""
    try:
        console = os.open(os.path.join(place, "console"), os.O_WRONLY | os.O_APPEND)
        nothing = os.open("/dev/null", os.O_RDONLY)
        for target, source in enumerate((nothing, console, console)):
            os.dup2(source, target)
        signal.set_wakeup_fd(-1)
        os.closerange(3, 1024)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        kernel.set_death_signal(signal.SIGKILL if isolation == NAMESPACE else signal.SIGTERM)
        kernel.set_process_name("init")
        os.umask(0o022)
        root = os.path.join(place, "root")
        new = not os.path.exists(os.path.join(place, "booted"))
        if disk == COPY and new:
            _copy_tree(order["tree"], root)
        if isolation == NAMESPACE:
            kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_HOSTNAME | kernel.NEW_IPC)
            kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
            kernel.set_hostname(order["name"])
            if disk == OVERLAY:
                _mount_overlay(order["tree"], place)
            else:
                kernel.mount(root, root, None, kernel.BIND)
            _mount_kernel_files(root)
            _give_boot_id(place, root)
            os.close(os.open(os.path.join(place, "booted"), os.O_WRONLY | os.O_CREAT))
            kernel.make_root(root)
        else:
            machine = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            _make_device_files(os.path.join(root, "dev"))
            os.close(os.open(os.path.join(place, "booted"), os.O_WRONLY | os.O_CREAT))
            os.chroot(root)
            os.chdir("/")
            _empty_directory("/run")
            inside = os.stat("/")
            # The kernel sends this when the keeper is gone: then nobody else is left to end this server.
            signal.signal(signal.SIGTERM, lambda *_: kill_inside(inside, machine))
        if new:
            _write_files(order)
        _boot()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _boot() -> NoReturn:
    """Start what Debian starts at boot, the part that matters here; then be the parent of all orphans for ever."""
    os.makedirs("/run/sshd", 0o755, exist_ok=True)
    os.makedirs("/run/lock", 0o1777, exist_ok=True)
    for script in sorted(os.listdir("/etc/rcS.d")) if os.path.isdir("/etc/rcS.d") else []:
        if script.startswith("S"):
            _run([os.path.join("/etc/rcS.d", script), "start"])
    _run(["/usr/sbin/sshd", *_sshd_options()])
    if os.access("/usr/sbin/cron", os.X_OK):
        _run(["/usr/sbin/cron"])
    if os.access("/etc/rc.local", os.X_OK):
        _run(["/etc/rc.local"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        try:
            os.wait()
        except ChildProcessError:
            # Unlike sigwait, this lets the handlers of other signals run.
            signal.sigwaitinfo([signal.SIGCHLD])


def _sshd_options() -> list[str]:
    with open("/etc/default/ssh") as settings:
        for line in settings:
            if line.startswith("SSHD_OPTS="):
                return line.removeprefix("SSHD_OPTS=").strip().strip('"').split()
    return []


def _run(argv: list[str]) -> None:
    status = subprocess.call(argv, env=_ENVIRONMENT)
    if status != 0:
        print(f"{argv[0]} ended with status {status}", flush=True)


def _write_files(order: Order) -> None:
    """Give a new server the files that are its own."""
    for path in order["remove"]:
        if os.path.lexists(path):
            os.unlink(path)
    for name in os.listdir("/etc/rcS.d") if os.path.isdir("/etc/rcS.d") else []:
        os.unlink(os.path.join("/etc/rcS.d", name))
    for path, mode, owner in order["directories"]:
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        os.chown(path, owner, owner)
    for path, text, mode, owner, group in order["files"]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.isfile(path) and os.stat(path).st_nlink > 1:
            os.unlink(path)  # it is the tree's own, which all servers share
        with open(path, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.chown(path, owner, group)
        os.chmod(path, mode)
    # Few rounds, because these passwords guard nothing and the fleet shares two cores: crypt(5).
    chpasswd = ["chpasswd", "--crypt-method", "SHA512", "--sha-rounds", "1000"]
    subprocess.run(chpasswd, input=order["passwords"].encode(), env=_ENVIRONMENT, check=True)


def _mount_overlay(tree: str, place: str) -> None:
    upper, work, root = (os.path.join(place, name) for name in ("upper", "work", "root"))
    kernel.mount("overlay", root, "overlay", 0, f"lowerdir={tree},upperdir={upper},workdir={work}")


def _mount_kernel_files(root: str) -> None:
    """Mount /proc, /run and a small /dev of its own."""
    quiet = kernel.NO_SUID | kernel.NO_DEVICES
    kernel.mount("proc", f"{root}/proc", "proc", quiet | kernel.NO_EXEC)
    kernel.mount("tmpfs", f"{root}/run", "tmpfs", quiet, "mode=755,size=16m")
    kernel.mount("tmpfs", f"{root}/dev", "tmpfs", kernel.NO_SUID, "mode=755,size=1m")
    for name in _DEVICES:
        with open(f"{root}/dev/{name}", "wb"):
            kernel.mount(f"/dev/{name}", f"{root}/dev/{name}", None, kernel.BIND)
    os.mkdir(f"{root}/dev/pts")
    kernel.mount("devpts", f"{root}/dev/pts", "devpts", kernel.NO_SUID, "newinstance,ptmxmode=666,mode=620,gid=5")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
    shared_memory = os.path.join(root, "dev", "shm")
    os.mkdir(shared_memory)
    kernel.mount("tmpfs", shared_memory, "tmpfs", quiet, "mode=1777,size=16m")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")


def _give_boot_id(place: str, root: str) -> None:
    """Give this boot an id of its own, as a machine's kernel would: proc(5), random/boot_id."""
    path = os.path.join(place, "boot_id")
    with open(path, "w") as file:
        file.write(f"{uuid.uuid4()}\n")
    kernel.mount(path, f"{root}/proc/sys/kernel/random/boot_id", None, kernel.BIND)


def _make_device_files(directory: str) -> None:
    for name, (major, minor) in _DEVICES.items():
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            os.mknod(path, stat.S_IFCHR, os.makedev(major, minor))
            os.chmod(path, _FOR_ALL)


def _copy_tree(tree: str, root: str) -> None:
    """Make root a copy of tree; programs and libraries are shared by hard links where the file system allows it."""
    shared = tuple(os.path.join(tree, name) for name in ("usr", "lib", "lib64", "bin", "sbin"))

    def copy(source: str, target: str) -> str:
        if source.startswith(shared):
            with contextlib.suppress(OSError):
                os.link(source, target, follow_symlinks=False)
                return target
        shutil.copy2(source, target, follow_symlinks=False)
        found = os.lstat(source)
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(target, found.st_mode & 0o7777)
        return target

    for directory, names, files in os.walk(tree):
        inside = os.path.join(root, os.path.relpath(directory, tree))
        found = os.stat(directory)
        os.makedirs(inside, exist_ok=True)
        os.chown(inside, found.st_uid, found.st_gid)
        os.chmod(inside, found.st_mode & 0o7777)
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        for name in [*files, *links]:
            source = os.path.join(directory, name)
            if not stat.S_ISCHR(os.lstat(source).st_mode):
                copy(source, os.path.join(inside, name))


def _remove_tree(path: str) -> None:
    try:
        shutil.rmtree(path)
    except PermissionError:
        # Root is refused only where somebody set the immutable or append-only flag: chattr(1).
        subprocess.call(["chattr", "-R", "-f", "-i", "-a", path], env=_ENVIRONMENT)
        shutil.rmtree(path)


def _empty_directory(path: str) -> None:
    for name in os.listdir(path):
        inside = os.path.join(path, name)
        if os.path.isdir(inside) and not os.path.islink(inside):
            shutil.rmtree(inside)
        else:
            os.unlink(inside)


def kill_inside(root: os.stat_result, machine: int | None = None) -> None:
    """Kill every process whose root directory is this one, until there is none; machine is an open /proc."""
    where = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if machine is None else machine
    found = True
    while found:
        found = False
        for name in os.listdir(where):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                seen = os.stat(f"{name}/root", dir_fd=where)
                if (seen.st_dev, seen.st_ino) == (root.st_dev, root.st_ino):
                    os.kill(int(name), signal.SIGKILL)
                    found = True
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    if machine is None:
        os.close(where)
    else:
        os._exit(0)


# --- which kind of server this machine allows ---


def allowed_isolation(wanted: str) -> str:
    """What of wanted ("any" takes the better one) this process may give servers: NAMESPACE or CHROOT.

    Raises RuntimeError with what is missing when that is neither.
    """
    if os.geteuid() != 0:
        raise RuntimeError("real servers need root here; run this as root (for example with sudo)")
    if wanted != CHROOT and _works_in_child(_try_namespaces):
        return NAMESPACE
    if wanted == NAMESPACE:
        raise RuntimeError("namespaces are not allowed here; run with CAP_SYS_ADMIN, or ask for chroots")
    if _works_in_child(lambda: os.chroot("/")):
        return CHROOT
    raise RuntimeError("servers need CAP_SYS_ADMIN (for namespaces) or CAP_SYS_CHROOT, and this process has neither")


def allowed_disk(isolation: str, directory: str, tree: str) -> str:
    """OVERLAY where a server's files may be laid over a tree without copying it, else COPY."""
    if isolation == CHROOT:
        return COPY
    place = os.path.join(directory, ".trial")
    make_place(place)
    try:
        return OVERLAY if _works_in_child(lambda: _try_overlay(tree, place)) else COPY
    finally:
        shutil.rmtree(place)


def make_place(place: str) -> None:
    """Make the directories in which one server lives, and the file that its boot writes to."""
    for name in ("upper", "work", "root"):
        os.makedirs(os.path.join(place, name), 0o755)
    with open(os.path.join(place, "console"), "xb"):
        pass


def _try_namespaces() -> None:
    kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_HOSTNAME | kernel.NEW_IPC | kernel.NEW_PIDS)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    pid = os.fork()
    if pid == 0:
        try:
            kernel.mount("proc", "/proc", "proc")
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("proc cannot be mounted")


def _try_overlay(tree: str, place: str) -> None:
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    _mount_overlay(tree, place)
    os.chmod(os.path.join(place, "root", "etc/passwd"), 0o600)


def _works_in_child(attempt: Any) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


# --- the loop ---


def main(directory: str, tree: str, wanted: str, max_age_seconds: float) -> None:
    """Serve orders until their owner is gone, somebody ends this process, or the fleet is too old."""
    try:
        isolation = allowed_isolation(wanted)
        keeper = Keeper(directory, isolation, allowed_disk(isolation, directory, tree))
    except (OSError, RuntimeError) as error:
        _say({"error": str(error)})
        return
    if isolation == CHROOT:
        kernel.adopt_orphans()
    wake, bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(bell)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    endings: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda seen, _: endings.append(seen))
    latest = time.monotonic() + max_age_seconds
    _say({"isolation": isolation, "disk": keeper.disk})
    unread = b""
    listening = [0, wake]
    try:
        while not endings and (left := latest - time.monotonic()) > 0:
            ready, _, _ = select.select(listening, [], [], left)
            if wake in ready:
                os.read(wake, 4096)
                keeper.reap()
            if 0 in ready:
                chunk = os.read(0, 65536)
                if not chunk and not keeper.kept:
                    break
                if not chunk:
                    listening.remove(0)
                unread += chunk
                *lines, unread = unread.split(b"\n")
                for line in lines:
                    try:
                        reply = keeper.answer(json.loads(line))
                    except (OSError, RuntimeError) as error:
                        reply = {"error": str(error)}
                    _say(reply)
    finally:
        # Also what holds when the servers were killed from elsewhere in the meantime.
        keeper.end()


def _say(reply: Order) -> None:
    # An owner that is gone needs no answer; the end of input is seen next.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
