"""The root file systems that servers of the fleet are made of: small, built once, kept in a cache.

"host" is this machine's own openssh-server with what it needs, copied package by package, and "host-python" the same with all
of Python; a suite of Debian is made by debootstrap from the mirror that this machine's apt uses. A tree is never changed after
it was built: servers lay their own files over it, or take copies.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOST = "host"
HOST_PYTHON = "host-python"  # for tools whose part on the server wants more than python3-minimal
SUITES = ("bullseye", "bookworm", "trixie")

# What a small server has. Everything these depend on comes along.
_PACKAGES = (
    "base-files base-passwd bash coreutils cron dash debianutils diffutils e2fsprogs findutils grep hostname libc-bin login "
    "mawk mount openssh-server openssh-sftp-server passwd procps python3-minimal sed sudo tar tcsh util-linux"
)
_SUITE_PACKAGES = "openssh-server,openssh-sftp-server,python3-minimal,sudo,procps,e2fsprogs,mount,hostname"
# From Debian 13 on cron cannot be had without all of systemd.
_WITH_CRON = ("bullseye", "bookworm")
_NEEDED = ("openssh-server", "sudo", "python3-minimal")
# These only help to install packages, and nothing is installed on these servers.
_LEFT_OUT = "adduser debconf debconf-2.0 dpkg lsb-base perl-base runit-helper ucf"
_NOT_COPIED = re.compile(r"/usr/share/(doc|info|lintian|locale|man|bug|bash-completion|zoneinfo)/")

_TEXTS = {
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/shells": "/bin/sh\n/bin/bash\n/bin/dash\n",
    "etc/environment": "",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/default/ssh": "SSHD_OPTS=\n",
    "etc/pam.d/common-auth": "auth [success=1 default=ignore] pam_unix.so nullok\n"
    "auth requisite pam_deny.so\nauth required pam_permit.so\n",
    "etc/pam.d/common-account": "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so\n"
    "account requisite pam_deny.so\naccount required pam_permit.so\n",
    "etc/pam.d/common-password": "password [success=1 default=ignore] pam_unix.so obscure yescrypt\n"
    "password requisite pam_deny.so\npassword required pam_permit.so\n",
    "etc/pam.d/common-session": "session required pam_unix.so\n",
    "etc/pam.d/common-session-noninteractive": "session required pam_unix.so\n",
}


class TreeUnavailable(Exception):
    """a root file system cannot be built here; the message says what to install"""


def root_tree(name: str) -> Path:
    """The directory with the root file system called name ("host" or a suite of Debian), built when it is missing.

    Raises TreeUnavailable with the next step when it cannot be built on this machine.
    """
    if name in (HOST, HOST_PYTHON):
        packages = _installed_closure(("python3",) if name == HOST_PYTHON else ())
        versions = "\n".join(sorted(f"{package} {version}" for package, version in packages.items()))
        stamp = hashlib.sha256(versions.encode() + Path(__file__).read_bytes()).hexdigest()[:16]
        return _cached(f"{name}-{stamp}", lambda directory: _copy_packages(packages, directory))
    if name in SUITES:
        stamp = hashlib.sha256(_suite_packages(name).encode()).hexdigest()[:8]
        return _cached(f"debian-{name}-{stamp}", lambda directory: _debootstrap(name, directory))
    raise TreeUnavailable(f"no root file system is called {name}: there are {HOST}, {HOST_PYTHON}, {', '.join(SUITES)}")


def cache_directory() -> Path:
    """Where built trees are kept: KPS_FLEET_CACHE, else ~/.cache/kps-fleet."""
    return Path(os.environ.get("KPS_FLEET_CACHE") or Path.home() / ".cache" / "kps-fleet").resolve()


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    cache = cache_directory()
    finished = cache / name
    if finished.is_dir():
        return finished
    cache.mkdir(parents=True, exist_ok=True)
    # A lock for each, so that several can be built at once.
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
            try:
                unfinished.chmod(0o755)
                build(unfinished)
                unfinished.rename(finished)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return finished


# --- this machine's own packages ---


def _installed_closure(more: tuple[str, ...]) -> dict[str, str]:
    """The packages to copy, these among them, by dpkg's name for them, with their versions."""
    if not shutil.which("dpkg-query"):
        raise TreeUnavailable("servers are made from Debian's packages, and this machine has no dpkg-query; use Debian")
    fields = "${Package}\t${binary:Package}\t${Version}\t${db:Status-Abbrev}\t${Pre-Depends}, ${Depends}\n"
    listing = subprocess.run(["dpkg-query", "-W", "-f", fields], check=True, capture_output=True, text=True).stdout
    installed: dict[str, tuple[str, str, str]] = {}
    for line in listing.split("\n")[:-1]:
        package, full_name, version, status, depends = line.split("\t")
        if status.startswith("ii") and package not in installed:
            installed[package] = (full_name, version, depends)
    missing = [package for package in (*_NEEDED, *more) if package not in installed]
    if missing:
        raise TreeUnavailable(f"the fleet needs packages that are not installed: apt-get install {' '.join(missing)}")
    found: dict[str, str] = {}
    waiting = [package for package in (*_PACKAGES.split(), *more) if package in installed]
    while waiting:
        full_name, version, depends = installed[waiting.pop()]
        if full_name in found:
            continue
        found[full_name] = version
        for alternatives in depends.split(","):
            names = [re.sub(r"[\s:(].*", "", choice.strip()) for choice in alternatives.split("|")]
            # A name that nobody carries is a virtual package; what provides it is in _PACKAGES where it matters.
            waiting += [name for name in names if name in installed and name not in _LEFT_OUT.split()][:1]
    return found


def _copy_packages(packages: Iterable[str], root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    for name, mode in [("dev", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)]:
        (root / name).mkdir()
        (root / name).chmod(mode)
    listing = subprocess.run(["dpkg-query", "-L", *packages], check=True, capture_output=True, text=True).stdout
    for path in sorted(set(listing.split("\n"))):
        if path.startswith("/") and not path.startswith(("/dev", "/run", "/var/run", "/var/lock")):
            _copy(path, root)
    _copy("/etc/alternatives/awk", root)
    _copy("/usr/bin/awk", root)
    _write_settings(root)


def _copy(path: str, root: Path) -> None:
    """Copy one file, link or directory of this machine to the same place under root, owner and mode included."""
    if _NOT_COPIED.match(path) or not os.path.lexists(path):
        return
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    target = root / path.lstrip("/")
    if os.path.lexists(target):
        return
    if not target.parent.is_dir():
        _copy(str(Path(path).parent), root)
    if os.path.islink(path):
        target.symlink_to(os.readlink(path))
        return
    found = os.stat(path)
    if os.path.isdir(path):
        target.mkdir()
    else:
        shutil.copyfile(path, target)
    os.chown(target, found.st_uid, found.st_gid)
    target.chmod(found.st_mode & 0o7777)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    if path.endswith(".py"):
        # Compiled at installation and in no package's list; without them each start of Python would compile anew.
        directory, name = os.path.split(path)
        for compiled in Path(directory, "__pycache__").glob(f"{name[:-3]}.cpython-*.pyc"):
            if compiled.name.count(".") == 2:
                _copy(str(compiled), root)


def _write_settings(root: Path) -> None:
    """Write what the packages' installation scripts would have made."""
    users = (root / "usr/share/base-passwd/passwd.master").read_text().replace(":*:", ":x:")
    users = users.replace(":/root:/bin/sh", ":/root:/bin/bash") + "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    groups = (root / "usr/share/base-passwd/group.master").read_text().replace(":*:", ":x:")
    texts = {
        **_TEXTS,
        "etc/passwd": users,
        "etc/group": groups,
        "etc/shadow": "".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in users.split("\n")[:-1]),
        "etc/gshadow": "".join(f"{line.split(':')[0]}:*::\n" for line in groups.split("\n")[:-1]),
        "etc/ssh/sshd_config": (root / "usr/share/openssh/sshd_config").read_text(),
        "etc/profile": (root / "usr/share/base-files/profile").read_text(),
        "root/.bashrc": (root / "usr/share/base-files/dot.bashrc").read_text(),
        "root/.profile": (root / "usr/share/base-files/dot.profile").read_text(),
    }
    for path in ("etc/ssh/sshd_config.d", "var/lib", "var/log", "var/cache", "var/spool", "var/tmp", "home"):
        (root / path).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    shadow = next(line.split(":")[2] for line in groups.split("\n") if line.startswith("shadow:"))
    for path in ("etc/shadow", "etc/gshadow"):
        os.chown(root / path, 0, int(shadow))
        (root / path).chmod(0o640)
    (root / "root").chmod(0o700)
    (root / "var/tmp").chmod(0o1777)
    for name, target in [("var/run", "/run"), ("var/lock", "/run/lock")]:
        if not os.path.lexists(root / name):
            (root / name).symlink_to(target)
    subprocess.run(["ldconfig", "-r", str(root)], check=True)


# --- suites of Debian ---


def _debootstrap(suite: str, root: Path) -> None:
    if not shutil.which("debootstrap"):
        raise TreeUnavailable(f"a server of Debian {suite} needs debootstrap: apt-get install debootstrap")
    print(f"building a root file system of Debian {suite} (once, about a minute)", file=sys.stderr)
    log = root.with_suffix(".log")
    with open(log, "wb") as output:
        finished = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={_suite_packages(suite)}", suite, str(root), _mirror()],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_proxies(), "DEBIAN_FRONTEND": "noninteractive"},
        )
    if finished.returncode != 0:
        lines = log.read_text(errors="replace").rstrip("\n").split("\n")
        raise TreeUnavailable(f"debootstrap of {suite} failed: {lines[-1]} (all of it: {log})")
    log.unlink()
    shutil.rmtree(root / "debootstrap", ignore_errors=True)
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()


def _suite_packages(suite: str) -> str:
    return _SUITE_PACKAGES + (",cron" if suite in _WITH_CRON else "")


def _mirror() -> str:
    """The address of the Debian archive that this machine's apt uses."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for line in listing.split("\n")[:-1]:
        origin, label, address = line.split("\t")
        if origin == label == "Debian":
            return address
    raise TreeUnavailable("apt knows no Debian archive here: run apt-get update, or add Debian to its sources")


def _proxies() -> dict[str, str]:
    """The proxies that apt is told to use, as the variables that debootstrap's downloads read."""
    found = {}
    for scheme in ("http", "https"):
        shown = subprocess.run(
            ["apt-config", "shell", "proxy", f"Acquire::{scheme}::Proxy"], check=True, capture_output=True, text=True
        ).stdout
        address = shown.removeprefix("proxy=").strip().strip("'")
        if address and address != "DIRECT":
            found[f"{scheme}_proxy"] = address
    return found


if __name__ == "__main__":
    # Those that are named, or all of them; at once, because each waits for downloads most of the time.
    with ThreadPoolExecutor() as builders:
        for path in builders.map(root_tree, sys.argv[1:] or (HOST, *SUITES)):
            print(path)
