"""An independent judge of what a server lets in: OpenSSH's own client, told everything explicitly.

It uses no agent, no default key, no configuration of the user and only the host key it is given. Each login comes from a
loopback address of its own, because OpenSSH 9.8 and later make a source wait that failed before (sshd_config(5),
PerSourcePenalties). What is neither a login nor a refusal raises Puzzled: a judge never guesses.
"""

import os
import random
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.demo.fleet import Server

CONNECT_SECONDS = 10
LOGIN_SECONDS = 120  # in which a login that is let in, or not, has come to its end


class Puzzled(Exception):
    """the client neither logged in nor was refused; the message is what it said"""


def key_login_works(server: Server, login: str, private_key: str, source: str | None = None) -> bool:
    """Whether sshd lets login in with this private key (OpenSSH's format, no passphrase) and nothing else."""
    with _client(server, login, source, private_key=private_key) as client:
        return _logs_in(client)


def password_login_works(server: Server, login: str, password: str, method: str = "password", source: str | None = None) -> bool:
    """Whether sshd lets login in with this password and nothing else; method may be keyboard-interactive too."""
    with _client(server, login, source, password=password, method=method) as client:
        return _logs_in(client)


def said(server: Server, login: str, command: str, *, private_key: str | None = None, password: str | None = None) -> str:
    """What a command printed that login ran in a session of its own; Puzzled where it failed."""
    with _client(server, login, None, private_key=private_key, password=password) as (argv, environment):
        finished = _run([*argv, command], environment)
    if finished.returncode:
        raise Puzzled(f"status {finished.returncode}: {finished.stdout}{finished.stderr}")
    return finished.stdout


def offered_methods(server: Server, login: str) -> frozenset[str]:
    """The ways to authenticate that sshd offers to login before anything was tried."""
    with _client(server, login, None, method="none") as (argv, environment):
        said = _run([*argv[:1], "-v", *argv[1:]], environment).stderr
    marker = "Authentications that can continue: "
    for line in said.split("\n"):
        if marker in line:
            return frozenset(line.partition(marker)[2].strip().split(","))
    raise Puzzled(said)


def effective_settings(server: Server, login: str | None = None, address: str = "127.0.0.1") -> dict[str, list[str]]:
    """What `sshd -T` in the server says, for login from address where that is given: keyword to values."""
    where = [] if login is None else ["-C", f"user={login},host={address},addr={address},laddr={server.host},lport=22"]
    found: dict[str, list[str]] = {}
    for line in server.run(["/usr/sbin/sshd", "-T", *where]).stdout.split("\n")[:-1]:
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def new_key_pair(kind: str = "ed25519", bits: int | None = None, comment: str = "judge") -> tuple[str, str]:
    """A new key pair made by ssh-keygen: the private key's text, and the public line."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "key")
        size = [] if bits is None else ["-b", str(bits)]
        subprocess.run(["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", comment, "-f", str(path)], check=True)
        return path.read_text(), path.with_suffix(".pub").read_text().strip()


def fingerprint(public_key: str, algorithm: str = "sha256") -> str:
    """A public line's fingerprint in the words of ssh-keygen -l."""
    command = ["ssh-keygen", "-l", "-E", algorithm, "-f", "-"]
    return subprocess.run(command, input=public_key + "\n", check=True, capture_output=True, text=True).stdout.split()[1]


class OpenSession:
    """A login that stays open, to see that an operation leaves existing sessions alone."""

    def __init__(
        self,
        server: Server,
        login: str,
        *,
        private_key: str | None = None,
        password: str | None = None,
        method: str | None = None,
    ) -> None:
        self._context = _client(server, login, None, private_key=private_key, password=password, method=method)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        argv, environment = self._context.__enter__()
        self._process = subprocess.Popen(
            [*argv, "cat"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if not self.lives():
            _, said = self._process.communicate()
            self._context.__exit__(None, None, None)
            raise Puzzled(said)
        return self

    def lives(self) -> bool:
        """Whether the session still answers: a line sent through it comes back."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return False
        sent = secrets.token_hex(8) + "\n"
        try:
            self._process.stdin.write(sent)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return self._process.stdout.readline() == sent

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._context.__exit__(kind, error, trace)


Client = tuple[list[str], dict[str, str]]


@contextmanager
def _client(
    server: Server,
    login: str,
    source: str | None,
    *,
    private_key: str | None = None,
    password: str | None = None,
    method: str | None = None,
) -> Iterator[Client]:
    """The command line and environment of an ssh that can use exactly what is given here."""
    method = method or ("publickey" if private_key is not None else "password")
    with tempfile.TemporaryDirectory() as directory:
        known_hosts = _file(directory, "known_hosts", server.host_key + "\n")
        options = {
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "HostKeyAlgorithms": "ssh-ed25519",
            "KexAlgorithms": "curve25519-sha256",  # of those that every version has the cheapest: tests share two cores
            "UpdateHostKeys": "no",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "PreferredAuthentications": method,
            "NumberOfPasswordPrompts": "1",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ControlMaster": "no",
            "ControlPath": "none",
            "BatchMode": "no" if password is not None else "yes",
        }
        environment = {"PATH": os.environ["PATH"]}
        identity = "/dev/null"
        if private_key is not None:
            identity = _file(directory, "identity", private_key)
        if password is not None:
            # ssh(1), SSH_ASKPASS_REQUIRE: the password never becomes an argument.
            asking = _file(directory, "askpass", "#!/bin/sh\nprintf '%s\\n' \"$ANSWER\"\n", 0o700)
            environment |= {"SSH_ASKPASS": asking, "SSH_ASKPASS_REQUIRE": "force", "ANSWER": password}
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        place = ["-b", source or _new_source(), "-p", str(server.port), "-i", identity]
        yield ["ssh", "-F", "none", *given, *place, f"{login}@{server.host}"], environment


def _logs_in(client: Client) -> bool:
    argv, environment = client
    token = secrets.token_hex(8)
    finished = _run([*argv, "echo", token], environment)
    if finished.returncode == 0 and finished.stdout == token + "\n":
        return True
    # Written by ssh itself, with the ways that would have been left: "login@host: Permission denied (publickey)."
    if finished.returncode == 255 and "Permission denied (" in finished.stderr:
        return False
    raise Puzzled(f"status {finished.returncode}: {finished.stdout}{finished.stderr}")


def _run(argv: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOGIN_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Puzzled(f"it neither ended nor failed within {LOGIN_SECONDS} s") from error


def _new_source() -> str:
    return f"127.{random.randint(100, 250)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


def _file(directory: str, name: str, text: str, mode: int = 0o600) -> str:
    path = Path(directory, name)
    path.touch(mode)
    path.write_text(text)
    return str(path)
