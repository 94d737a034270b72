"""What kps serve has in its memory once a secret has been used: counted, in the memory of the real process."""

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from controller import keyfiles
from controller.client import AsyncKpsClient
from controller.kms import FileRootKey, Kms
from controller.model import KeyType, Secret
from controller.privacy import _FORGETFUL, _forgetful
from controller.service.auditkeys import AuditKeys
from controller.settings import Settings
from controller.store import Store
from tests.controller import secret_search as search
from tests.controller.faces import KPS
from tests.needs import lacking

TYPES: tuple[KeyType, ...] = ("ed25519", "rsa-2048")
PASSPHRASE = "a passphrase that is long enough"


@pytest.fixture
def serving(made: Any, settings: Settings) -> Iterator[int]:
    """The id of a process that serves the home, as anybody starts it."""
    if os.geteuid() != 0:
        lacking("this takes root, to look into the memory of a process that is closed; run the tests as root")
    process = subprocess.Popen(
        [KPS, "serve"], stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home)}
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("serving")
    yield process.pid
    process.kill()
    process.communicate()


def numbers(text: str) -> dict[str, list[search.Form]]:
    public, stored = keyfiles.read_private(Secret(text))
    return spelt(search.private_key(public.type, stored))


def spelt(secrets: dict[str, list[search.Form]]) -> dict[str, list[search.Form]]:
    """The spellings in which a program that reads and writes key files could have them."""
    return {name: [form for form in forms if "URL" not in form[0] and "HEX" not in form[0]] for name, forms in secrets.items()}


def test_no_private_half_stays_in_memory_once_it_was_used(serving: int, settings: Settings) -> None:
    """Made, given out, taken in with a passphrase, refused: looked for while the process goes on."""
    secrets: dict[str, list[search.Form]] = {}

    async def use() -> None:
        async with AsyncKpsClient.over_socket(settings.socket) as client:
            for key_type in TYPES:
                loose = await client.create_keypair({"name": f"loose-{key_type}", "type": key_type, "managed": False})
                await client.create_keypair({"name": key_type, "type": key_type})
                for name, text in (
                    (f"loose-{key_type}", loose["private_key"]),
                    (key_type, await client.export_keypair(key_type)),
                ):
                    secrets.update({f"{what} of {name}": forms for what, forms in numbers(text).items()})
                _, stored = keyfiles.generate(key_type)
                given = keyfiles.signing_key(key_type, stored).private_bytes(
                    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode())
                )
                request = {"name": f"in-{key_type}", "private_key": given.decode(), "passphrase": PASSPHRASE}
                await client.import_keypair(request)
                secrets.update({f"{what} of in-{key_type}": f for what, f in search.private_key(key_type, stored).items()})

    asyncio.run(use())
    secrets |= search.text("passphrase", PASSPHRASE)
    assert search.in_memory(secrets, serving) == []


def test_what_stays_in_memory_is_the_root_key_and_the_audit_key_and_no_more(serving: int, settings: Settings) -> None:
    async def use() -> None:
        async with AsyncKpsClient.over_socket(settings.socket) as client:
            await client.create_keypair({"name": "ops"})
            await client.export_keypair("ops")

    asyncio.run(use())
    store = Store(settings.database_url)
    kms = Kms(store, FileRootKey(settings.root_key))
    who = store.caller_by_local_home()
    secrets = search.raw("root key", settings.root_key.read_bytes())
    for key in store.master_keys(who.tenant_id)[0]:
        secrets |= search.raw(f"master key {key.alias}", kms.material(key, kms.version(key)).open())
    audit = AuditKeys(store, kms)
    audit.ready(who.tenant_id)
    secrets |= search.raw("audit key", audit._open[who.tenant_id].private_bytes_raw())
    store.close()
    found = Counter((hit.secret, hit.form) for hit in search.in_memory(secrets, serving))
    # What Python holds of the root key, and OpenSSL's first round key; of the audit key what OpenSSL signs with.
    assert found == {("root key", "raw"): 2, ("audit key", "raw"): 1}
    status = Path(f"/proc/{serving}/status").read_text().split("\n")
    locked = next(line for line in status if line.startswith("VmLck:"))
    assert locked.split()[1] != "0"


def test_the_search_finds_what_a_process_does_not_forget(tmp_path: Path) -> None:
    """The same in a process that frees as everybody does: there it is found, so the search can fail."""
    word = os.urandom(16).hex()
    program = "import sys; x = sys.stdin.readline() * 2; del x; print(flush=True); sys.stdin.read()"
    found = []
    for environment in ({}, _FORGETFUL):
        with subprocess.Popen(
            [os.sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], **environment},
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            process.stdout.readline()
            found.append(len(search.in_memory(search.text("word", word), process.pid)))
            process.stdin.close()
    assert found[0] > found[1]


def test_the_program_is_started_anew_once_and_keeps_what_was_set() -> None:
    first = _forgetful({"A": "b", "GLIBC_TUNABLES": "glibc.malloc.arena_max=1", "PYTHONMALLOC": "debug"})
    assert first is not None
    assert (first["A"], first["PYTHONMALLOC"]) == ("b", "malloc")
    assert first["GLIBC_TUNABLES"].startswith("glibc.malloc.arena_max=1:glibc.malloc.perturb=")
    assert _forgetful(first) is None
