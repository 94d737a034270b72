"""One long use of the product, and a search for every secret of it wherever something could be left."""

import contextlib
import json
import os
import shlex
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller import keyfiles, secretvalues
from controller.demo.fleet import Server
from controller.kms import FileRootKey, Kms, envelope
from controller.model import Sealed, Secret
from controller.settings import Settings
from controller.store import Store
from tests.controller import secret_search as search
from tests.controller.secret_search import Form
from tests.fleet.looks import listening_sshd
from tests.fleet.product import SECONDS, Json

Secrets = dict[str, list[Form]]

# Where anybody may leave something on this machine.
_SHARED = tuple(Path(path) for path in ("/tmp", "/var/tmp", "/dev/shm", "/run"))
_TESTS_OWN = ("kps-fleet-", "pytest-")  # a server's files are looked at as the server sees them
_NOT_FILES = ("proc", "sys", "dev")
_LARGEST = 64 << 20


@dataclass
class Build:
    """A build of the product, driven as its users drive it, that remembers everything it ever printed.

    Below directory: home, the user's own HOME, a TMPDIR, and what kps serve printed. given is the user's: files of keys,
    which are no leak.
    """

    directory: Path
    program: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    printed: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        for place in (self.home.parent, self.temporary, self.given, self.logs):
            place.mkdir(parents=True)
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home.parent), "TMPDIR": str(self.temporary), "KPS_HOME": str(self.home),
        } | self.environment  # fmt: skip

    @property
    def home(self) -> Path:
        return self.directory / "user" / "home"

    @property
    def temporary(self) -> Path:
        return self.directory / "temporary"

    @property
    def given(self) -> Path:
        return self.directory / "given"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def kps(self, *words: str, given: str = "", ends: int = 0) -> str:
        """Run kps and return what it printed."""
        done = subprocess.run(
            [*self.program, *words],
            input=given.encode(),
            env=self.environment,
            cwd=self.home.parent,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        said = " ".join(words[:3])
        self.printed += [(f"{said}: stdout", done.stdout), (f"{said}: stderr", done.stderr)]
        assert done.returncode == ends, f"kps {' '.join(words)}: {done.returncode}\n{done.stdout!r}{done.stderr!r}"
        return done.stdout.decode()

    def told(self, *words: str, given: str = "", ends: int = 0) -> list[Json]:
        """Run kps with --json and return what it told, as a list."""
        found = json.loads(self.kps(*words, "--json", given=given, ends=ends))
        return found if isinstance(found, list) else [found]

    def serve(self) -> None:
        """Have it serve the home."""
        with open(self.logs / "serve.stdout", "ab") as out, open(self.logs / "serve.stderr", "ab") as errors:
            self.process = subprocess.Popen(
                [*self.program, "serve"],
                env=self.environment,
                cwd=self.home.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        until = time.monotonic() + SECONDS
        while not (self.home / "kps.sock").exists():
            assert self.process.poll() is None, (self.logs / "serve.stderr").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)

    def dump(self) -> None:
        """Take a core dump of what serves the home, as root can, and as a crash would if it were let."""
        assert self.process is not None
        core = self.directory / "core"
        argv = ["gcore", "-o", str(core), str(self.process.pid)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
        written = core.with_name(f"core.{self.process.pid}")
        assert written.exists(), done.stdout + done.stderr
        self.printed.append(("memory of kps serve", search.written_pages(written.read_bytes())))
        written.unlink()

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(SECONDS)
            self.process = None


# -- what is looked at while it runs -----------------------------------------------------------------------------------


class Watch:
    """Looks, again and again, at the command line and environment of every process, and at files that come and go.

    Processes in the servers are processes of this machine. Every view is kept once; an environment is looked at again
    when the command line has changed, because both are set by exec.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.looks = 0
        self.processes: set[int] = set()
        self.views: dict[bytes, str] = {}  # what was seen -> where, for the first time
        self.closed: set[str] = set()  # what came since, and was closed to us
        self._directories = directories
        self._known: dict[str, bytes] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watch":
        self._look()
        self._others = frozenset(self.closed)  # was there before the story
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.closed -= self._others

    def _watch(self) -> None:
        while not self._ended.wait(0.04):
            self._look()

    def _look(self) -> None:
        for name in os.listdir("/proc"):
            if name.isdigit():
                words = self._see(f"/proc/{name}/cmdline")
                if self._known.get(name) != words:
                    self._known[name] = words
                    self.processes.add(int(name))
                    self._see(f"/proc/{name}/environ")
        for directory in self._directories:
            for path in directory.iterdir():
                if path.is_file():
                    self._see(str(path))
        self.looks += 1

    def _see(self, path: str) -> bytes:
        content = b""
        try:
            with open(path, "rb") as file:
                content = file.read(_LARGEST)
        except PermissionError:
            self.closed.add(path)
        except OSError:
            pass  # a process that has ended, or a file that is gone again
        self.views.setdefault(content, path)
        return content


class Executions:
    """Every program that is started in some servers, with its arguments and environment, however short it lives."""

    def __init__(self, servers: Sequence[Server], record: Path) -> None:
        self._record = record
        pids = [str(listening_sshd(server)) for server in servers]  # and what they start
        argv = [
            "strace",
            "-f",
            "-qq",
            "-v",
            "-s",
            "200000",
            "-e",
            "trace=execve,execveat",
            "-e",
            "signal=none",
            "-o",
            str(record),
        ]
        self._tracer = subprocess.Popen([*argv, "-p", ",".join(pids)], stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + SECONDS
        while not all(self._traced(pid) for pid in pids):
            assert self._tracer.poll() is None, self._tracer.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.01)

    def _traced(self, pid: str) -> bool:
        return f"TracerPid:\t{self._tracer.pid}\n" in Path(f"/proc/{pid}/status").read_text()

    def end(self) -> None:
        self._tracer.terminate()
        self._tracer.communicate()

    def told(self) -> bytes:
        """What was seen, with the bytes that strace has spelt out as they were."""
        return self._record.read_bytes().decode("unicode_escape").encode("latin-1")


# -- what is looked for ------------------------------------------------------------------------------------------------


def word(name: str, value: str) -> Secrets:
    """A password or the like, also as a shell, a URL and a log would spell it."""
    as_text, as_bytes = repr(value)[1:-1], repr(value.encode())[2:-1]
    spelt = {"in a shell": shlex.quote(value), "in a URL": quote(value), "in a log": as_text, "in a log, as bytes": as_bytes}
    return {name: search.text(name, value)[name] + [(form, text.encode()) for form, text in spelt.items()]}


def private_text(name: str, text: str, passphrase: str | None = None) -> Secrets:
    """The numbers of a private key file."""
    public, stored = keyfiles.read_private(Secret(text), None if passphrase is None else Secret(passphrase))
    return _numbered(name, search.private_key(public.type, stored))


def kept(home: Path) -> Secrets:
    """Everything that a home holds in custody: root key, master keys, data keys, private halves, secrets, secret access keys."""
    settings = Settings(home=home)
    store = Store(settings.database_url)
    root = FileRootKey(settings.root_key)
    kms = Kms(store, root)
    who, access_key = store.local_owner()
    found = search.raw("root key", settings.root_key.read_bytes())
    records = {"access key": store.access_key(access_key)[1]}
    for keypair in store.keypairs(who.tenant_id, who.user_id):
        if keypair.managed:
            records[keypair.name] = store.sealed_private(keypair.id)
            stored = kms.open_private(keypair, records[keypair.name])
            found |= _numbered(keypair.name, search.private_key(keypair.type, stored))
    for secret in store.secrets(who.tenant_id, who.user_id):
        for each in store.secret_versions(secret.id):
            value = store.secret_value(secret.id, each.version)[1]
            assert isinstance(value, Sealed), "it waits to be sealed, and all was well"
            name = f"{secret.name} {each.name}"
            records[name] = value
            found |= word(name, kms.open(value, secretvalues.context(secret, each.version)).open().decode())
    for name, sealed in records.items():
        found |= _keys_over(name, sealed, store, kms)
    for key in store.master_keys(who.tenant_id)[0]:
        for version in store.master_key_versions(key.id):
            found |= search.raw(f"master key {key.alias}", kms.material(key, version).open())
    store.close()
    return found


def _keys_over(name: str, sealed: Sealed, store: Store, kms: Kms) -> Secrets:
    record = envelope.record(sealed)
    version = store.master_key_version(record.master_key_id, record.master_key_version)
    assert version is not None
    master = kms._open_master(version).open()
    data_key = AESGCM(master).decrypt(record.wrapped_nonce, record.wrapped_key, record.bond(version.tenant_id))
    return search.raw("master key", master) | search.raw(f"{name}: data key", data_key)


def _numbered(name: str, numbers: Secrets) -> Secrets:
    return {f"{name}: {number}": forms for number, forms in numbers.items()}


# -- where it is looked for --------------------------------------------------------------------------------------------


@dataclass
class Found:
    """Which secret was seen where, and how much was looked at for that.

    only: what is looked for, and where: patterns of a secret's name and of a place.
    """

    only: Sequence[tuple[str, str]] = (("*", "*"),)
    seen: set[tuple[str, str]] = field(default_factory=set)
    places: int = 0
    size: int = 0

    def look(self, secrets: Secrets, place: str, content: bytes) -> None:
        self.places += 1
        self.size += len(content)
        names = [name for name, where in self.only if fnmatch(place, where)]
        sought = {secret: forms for secret, forms in secrets.items() if any(fnmatch(secret, name) for name in names)}
        if sought:
            self.seen |= {(hit.secret, place) for hit in search.in_bytes(sought, place, content)}


def shared_names() -> set[Path]:
    """What there is in the directories that all share on this machine."""
    return {path for directory in _SHARED for path in directory.iterdir()}


def files(build: Build, servers: Sequence[Server], since: float, others: set[Path]) -> Iterator[tuple[str, bytes]]:
    """Everything that was written since then: by the build, beside what others have in the shared directories, on the servers."""
    for top in (build.home.parent, build.temporary, build.logs):
        for path, content in _below(top, 0):
            yield f"{top.name}/{path.relative_to(top)}", content
    for shared in shared_names():
        if shared.is_dir() and (shared in others or shared.name.startswith(_TESTS_OWN)):
            continue
        for path, content in _below(shared, since):
            yield str(path), content
    for server in servers:
        root = Path(f"/proc/{server.pid}/root")
        for path, content in _below(root, since, skipped=tuple(root / name for name in _NOT_FILES)):
            yield f"{server.name}:/{path.relative_to(root)}", content
        for path, content in _below(root / "dev/shm", since):
            yield f"{server.name}:/{path.relative_to(root)}", content
        yield f"{server.name}: console", server.console().encode()


def _below(top: Path, since: float, skipped: Sequence[Path] = ()) -> Iterator[tuple[Path, bytes]]:
    for directory, names, plain in os.walk(top) if top.is_dir() else [(str(top.parent), [], [top.name])]:
        names[:] = [name for name in names if Path(directory, name) not in skipped]
        for name in plain:
            path = Path(directory, name)
            with contextlib.suppress(OSError):  # somebody else's, and gone meanwhile
                seen = path.lstat()
                if stat.S_ISREG(seen.st_mode) and seen.st_mtime >= since and seen.st_size <= _LARGEST:
                    yield path, path.name.encode() + b"\0" + path.read_bytes()
