"""Counts what is in memory: python -m tests.drills.memory (as root, who may look)

First of `kps serve`, after each kind of use and while it does nothing: as it is started, and as it would be without having
freed memory overwritten. Then of a process that signs, while it holds the private half and once it has let go of it: with our
signing key, and with asyncssh's.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from rich.console import Console
from rich.table import Table

from controller import keyfiles
from controller.client import AsyncKpsClient
from controller.model import KeyType, Secret
from controller.service.home import initialise
from controller.settings import Settings
from tests.controller import secret_search as search

TYPES: tuple[KeyType, ...] = ("ed25519", "ecdsa-nistp256", "rsa-3072")
PASSPHRASE = "a passphrase that is long enough"
Secrets = dict[str, list[search.Form]]

SERVE = """
import sys
import controller.privacy
if sys.argv[1] == "as it would be":
    controller.privacy.forget_what_is_freed = lambda: None
import controller.cli
sys.argv = ["kps", "serve"]
controller.cli.main()
"""
SIGN = """
import gc, os, sys
from controller import keyfiles
from controller.keyfiles.signing import SigningKey
from controller.model import Secret
import asyncssh
kind, whose, size = sys.argv[1:]
given = bytearray(int(size))
os.readv(0, [given])  # into its place: a buffer on the way would be one more copy
stored = Secret(given)
algorithm = {"e": b"ssh-ed25519", "c": b"ecdsa-sha2-nistp256", "r": b"rsa-sha2-512"}["c" if kind[1] == "c" else kind[0]]
if whose == "ours":
    key = SigningKey(kind, stored)
else:
    key = asyncssh.import_private_key(keyfiles.openssh_private(kind, stored).open())
stored.wipe()
key.sign(b"x", algorithm)
for _ in range(2):
    gc.collect()
    print(flush=True)
    sys.stdin.buffer.readline()
    key = None
"""


def numbers(name: str, text: str, passphrase: str | None = None) -> Secrets:
    public, stored = keyfiles.read_private(Secret(text), None if passphrase is None else Secret(passphrase))
    return {f"{name}: {what}": forms for what, forms in search.private_key(public.type, stored).items()}


def counted(secrets: Mapping[str, list[search.Form]], pid: int) -> str:
    """How many copies there are, of what, in which spelling."""
    found = Counter((hit.secret.rpartition(": ")[2], hit.form.split(" at ")[0]) for hit in search.in_memory(secrets, pid))
    return ", ".join(f"{number} {what} ({form})" for (what, form), number in sorted(found.items())) or "nothing"


@contextlib.contextmanager
def serving(settings: Settings, how: str) -> Iterator[int]:
    environment = {"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home)}
    argv = [sys.executable, "-c", SERVE, how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving")
        yield process.pid
        process.terminate()


async def used(settings: Settings, pid: int) -> Iterator[tuple[str, str]]:
    told = []
    async with AsyncKpsClient.over_socket(settings.socket) as client:
        for kind in TYPES:
            await client.create_keypair({"name": kind, "type": kind})
            given = numbers(kind, await client.export_keypair(kind))
            told.append((f"made, then given out: {kind}", given))
        loose = await client.create_keypair({"name": "loose", "managed": False})
        told.append(("made and not kept: ed25519", numbers("loose", loose["private_key"])))
        for kind in TYPES:
            _, stored = keyfiles.generate(kind)
            seal = BestAvailableEncryption(PASSPHRASE.encode())
            text = keyfiles.signing_key(kind, stored).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, seal).decode()
            await client.import_keypair({"name": f"in-{kind}", "private_key": text, "passphrase": PASSPHRASE})
            told.append((f"taken in: {kind}", numbers("in", text, PASSPHRASE)))
    told.append(("the passphrases of these", search.text(": passphrase", PASSPHRASE)))
    told.append(("always: the root key in a file", search.raw(": root key", settings.root_key.read_bytes())))
    return iter([(what, counted(secrets, pid)) for what, secrets in told])


def signing(kind: KeyType, whose: str) -> tuple[str, str]:
    _, stored = keyfiles.generate(kind)
    secrets = {f": {what}": forms for what, forms in search.private_key(kind, stored).items()}
    found = []
    argv = [sys.executable, "-c", SIGN, kind, whose, str(len(stored))]
    environment = {**os.environ, "PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": ""}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stored.open())
        for _ in range(2):
            process.stdout.readline()
            found.append(counted(secrets, process.pid))
            process.stdin.write(b"\n")
        process.stdin.close()
    return found[0], found[1]


def main() -> None:
    """Print both tables."""
    console = Console(width=160)
    columns: dict[str, dict[str, str]] = {}
    for how in ("as it is started", "as it would be"):
        with tempfile.TemporaryDirectory() as directory:
            settings = Settings(home=Path(directory) / "home")
            initialise(settings)
            with serving(settings, how) as pid:
                columns[how] = dict(asyncio.run(used(settings, pid)))
    table = Table("kps serve, afterwards", *columns)
    for what in columns["as it is started"]:
        table.add_row(what, *(column[what] for column in columns.values()))
    console.print(table)
    table = Table("a process that signs", "whose key", "while it is held", "once it is let go")
    for kind in TYPES:
        for whose in ("ours", "asyncssh's"):
            table.add_row(kind, whose, *signing(kind, whose))
    console.print(table)


if __name__ == "__main__":
    main()
