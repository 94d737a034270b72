"""OpenSSH as the judge of our editors: what a real sshd and a real ssh-keygen make of a text. No reader of ours in here."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh

from tests.needs import lacking

SSHD = "/usr/sbin/sshd"
KEYGEN = "/usr/bin/ssh-keygen"


def need(*programs: str) -> None:
    """Skip the test, or fail it in CI, where a program or root is missing."""
    missing = [program for program in programs if not shutil.which(program)] + ["root"] * (os.geteuid() != 0)
    if missing:
        lacking(", ".join(missing))
    os.makedirs("/run/sshd", 0o755, exist_ok=True)  # sshd refuses to start without


def host_key(directory: Path) -> Path:
    path = directory / "host_key"
    if not path.exists():
        subprocess.run([KEYGEN, "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def fingerprint(line: str, directory: Path) -> str:
    """Return what ssh-keygen -l says of a key line, or "" where it takes it for none."""
    (directory / "key.pub").write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    done = subprocess.run([KEYGEN, "-l", "-f", directory / "key.pub"], capture_output=True, check=False)
    return done.stdout.split()[1].decode() if done.returncode == 0 else ""


class Configurations:
    """Asks sshd what it thinks of sshd_config texts, several at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = host_key(directory)
        self.pool = ThreadPoolExecutor(3)
        self.checked: dict[str, bool] = {}

    def check(self, text: str) -> bool:
        """Say whether sshd -t accepts the text."""
        if text not in self.checked:
            with self._file(text) as path:
                self.checked[text] = self._run("-t", "-f", path).returncode == 0
        return self.checked[text]

    def check_all(self, texts: Iterable[str]) -> list[bool]:
        """The same for many texts, each distinct one asked about once."""
        texts = list(texts)
        list(self.pool.map(self.check, dict.fromkeys(texts)))
        return [self.checked[text] for text in texts]

    def settings(self, text: str, user: str = "zoe") -> str:
        """Return what sshd -T prints for the text, for a login of this user from 203.0.113.9."""
        # Without -C sshd 9.2 refuses to answer where there is a Match LocalPort.
        whom = f"user={user},host=203.0.113.9,addr=203.0.113.9,laddr=203.0.113.1,lport=22"
        with self._file(text) as path:
            done = self._run("-T", "-f", path, "-C", whom)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def settings_all(self, questions: Iterable[tuple[str, str]]) -> list[str]:
        return list(self.pool.map(lambda question: self.settings(*question), questions))

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [SSHD, "-h", str(self.key), *arguments], capture_output=True, text=True, check=False, close_fds=False
        )

    @contextlib.contextmanager
    def _file(self, text: str) -> Iterator[str]:
        path = self.directory / f"config-{time.monotonic_ns()}-{id(text)}"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        yield str(path)
        path.unlink()


class _Offered(asyncssh.SSHKeyPair):
    """a public key to ask about; where sshd would accept it, that is noted and the next one is asked about"""

    def __init__(self, algorithm: bytes, blob: bytes) -> None:
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")]
        super().__init__(kind, algorithm, (algorithm,), (), blob, None)
        self.sig_algorithm = algorithm
        self.accepted = False

    async def sign_async(self, data: bytes) -> bytes:
        # A signed request would leave its options behind in this sshd process. ValueError makes asyncssh go on.
        self.accepted = True
        raise ValueError("nobody has the private half")


class Logins:
    """A real sshd on loopback that is asked, again and again, whether it would let a key in with this authorized_keys."""

    def __init__(self, directory: Path, path: Path | None = None, login: str = "root", settings: str = "StrictModes no") -> None:
        self.path = path or directory / "authorized_keys"
        self.login = login
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = directory / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {host_key(directory)}\nPidFile none\nLogLevel ERROR\n"
            f"{settings}\nMaxAuthTries 1000000\nLoginGraceTime 0\nUsePAM no\nPermitRootLogin yes\n"
            f"KbdInteractiveAuthentication no\nAuthorizedKeysFile {self.path}\n"
        )
        self.daemon = subprocess.Popen([SSHD, "-D", "-f", config], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.daemon.poll() is None, "sshd ended"
        raise AssertionError("sshd does not listen")

    def close(self) -> None:
        self.daemon.terminate()
        self.daemon.wait()

    def verdicts(self, questions: list[tuple[str, bytes]]) -> list[bool]:
        """Return for each (authorized_keys text, key blob) whether sshd would accept the key."""
        offered = [_Offered(_algorithm(blob), blob) for _, blob in questions]
        asyncio.run(self._ask([(text, offer) for (text, _), offer in zip(questions, offered, strict=True)]))
        return [offer.accepted for offer in offered]

    async def _ask(self, questions: list[tuple[str, _Offered]]) -> None:
        left = list(reversed(questions))
        write = self._write

        class Client(asyncssh.SSHClient):
            def public_key_auth_requested(self) -> _Offered | None:
                if not left:
                    return None
                text, offer = left.pop()
                write(text)
                return offer

        with contextlib.suppress(asyncssh.PermissionDenied):
            await asyncssh.connect(
                "127.0.0.1", self.port, username=self.login, client_factory=Client, known_hosts=None, config=None,
                agent_path=None, client_keys=[], preferred_auth="publickey", signature_algs=["ssh-ed25519",
                "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-256"],
            )  # fmt: skip
        assert not left, "the connection ended before the questions did"

    def _write(self, text: str) -> None:
        self.path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _algorithm(blob: bytes) -> bytes:
    kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")]
    return b"rsa-sha2-256" if kind == b"ssh-rsa" else kind
