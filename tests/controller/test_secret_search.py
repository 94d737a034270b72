"""The search finds what was planted, and in a real home it finds nothing."""

import asyncio
import base64
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from controller import keyfiles
from controller.deposits import Deposits, Order
from controller.errors import Problem
from controller.kms import DEFAULT_ALIAS, Context, FileRootKey, Kms
from controller.model import (
    Caller,
    Credential,
    KeyFormat,
    KeyPair,
    KeyType,
    MasterKey,
    Sealed,
    Secret,
    Server,
    Task,
    now,
)
from controller.service import backup
from controller.service.accesskeys import AccessKeys
from controller.service.custody import Custody
from controller.service.home import initialise
from controller.service.keypairs import Keypairs
from controller.settings import Settings
from controller.store import Store, engine
from tests.controller import secret_search as search

TYPES: tuple[KeyType, ...] = ("ed25519", "ecdsa-nistp256", "ecdsa-nistp384", "ecdsa-nistp521", "rsa-2048")
PASSWORD = 'S3cret pass"word\n'


@cache
def a_key(key_type: KeyType) -> bytes:
    return keyfiles.generate(key_type)[1].open()


@cache
def numbers(key_type: KeyType) -> dict[str, list[search.Form]]:
    return search.private_key(key_type, Secret(a_key(key_type)))


def values(key_type: KeyType) -> Iterator[tuple[str, bytes]]:
    """The secret numbers as bytes, most significant first."""
    for name, forms in numbers(key_type).items():
        yield name, next(spelt for form, spelt in forms if form in ("raw", "big endian raw"))


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "reversed": lambda raw: raw[::-1],
    "hex": lambda raw: raw.hex().encode(),
    "upper hex": lambda raw: raw.hex().upper().encode(),
    "hex with colons": lambda raw: raw.hex(":").encode(),
    "little endian hex": lambda raw: raw[::-1].hex().encode(),
    "decimal": lambda raw: str(int.from_bytes(raw, "big")).encode(),
    "with a leading zero": lambda raw: b"\0" + raw,
}
for _offset in range(3):
    for _end in range(3):
        ENCODINGS[f"Base64 at {_offset}, {_end} more"] = lambda raw, offset=_offset, end=_end: base64.b64encode(  # type: ignore[misc]
            os.urandom(offset) + raw + os.urandom(end)
        )
    ENCODINGS[f"URL-safe Base64 at {_offset}"] = lambda raw, offset=_offset: base64.urlsafe_b64encode(  # type: ignore[misc]
        os.urandom(offset) + raw
    )
    ENCODINGS[f"little endian Base64 at {_offset}"] = lambda raw, offset=_offset: base64.b64encode(  # type: ignore[misc]
        os.urandom(offset) + raw[::-1]
    )
    ENCODINGS[f"Base64 in lines at {_offset}"] = lambda raw, offset=_offset: base64.encodebytes(  # type: ignore[misc]
        os.urandom(offset) + raw + os.urandom(90)
    )


# A seed is bytes, not a number.
OF_NUMBERS = {"reversed", "decimal", *(encoding for encoding in ENCODINGS if "little" in encoding)}


@pytest.mark.parametrize(
    ("key_type", "encoding"),
    [(t, encoding) for t in TYPES for encoding in ENCODINGS if t != "ed25519" or encoding not in OF_NUMBERS],
)
def test_a_planted_number_is_found_however_it_is_spelt(key_type: KeyType, encoding: str) -> None:
    for name, raw in values(key_type):
        planted = os.urandom(99) + b" " + ENCODINGS[encoding](raw) + b" " + os.urandom(99)
        assert {hit.secret for hit in search.in_bytes(numbers(key_type), "here", planted)} == {name}


@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize("dress", [bytes, lambda pem: json.dumps(pem.decode()).encode(), lambda pem: repr(pem).encode()])
def test_a_planted_private_key_file_is_found(key_type: KeyType, dress: Any) -> None:
    pem = keyfiles.openssh_private(key_type, Secret(a_key(key_type)), "comment").open()
    found = {hit.secret for hit in search.in_bytes(numbers(key_type), "here", b"log: " + dress(pem))}
    assert found == set(numbers(key_type))


@pytest.mark.parametrize("key_type", TYPES)
def test_the_stored_form_in_the_clear_is_found(key_type: KeyType) -> None:
    assert search.in_bytes(numbers(key_type), "here", b"x" + a_key(key_type))
    assert search.in_bytes(numbers(key_type), "here", b"x" + base64.b64encode(a_key(key_type)))


@pytest.mark.parametrize("key_type", TYPES)
def test_what_is_no_secret_is_not_found(key_type: KeyType) -> None:
    public = keyfiles.read_private(keyfiles.openssh_private(key_type, Secret(a_key(key_type))))[0]
    other = keyfiles.openssh_private(key_type, keyfiles.generate(key_type)[1]).open()
    innocent = public.blob + public.line().encode() + other + os.urandom(100_000)
    assert search.in_bytes(numbers(key_type), "here", innocent) == []


@pytest.mark.parametrize("dress", [str, json.dumps, lambda word: word.encode().hex(),
                                   lambda word: base64.b64encode(word.encode()).decode()])  # fmt: skip
def test_a_planted_password_is_found(dress: Callable[[str], str]) -> None:
    assert search.in_bytes(search.text("password", PASSWORD), "here", f"<{dress(PASSWORD)}>".encode())
    assert not search.in_bytes(search.text("password", PASSWORD), "here", dress("S3cret other").encode())


def test_a_leak_in_a_file_or_a_file_name_is_found(tmp_path: Path) -> None:
    secret = search.text("password", "correct-horse")
    assert search.in_files(secret, [tmp_path]) == []
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/log").write_bytes(b"password=correct-horse")
    assert {hit.place for hit in search.in_files(secret, [tmp_path])} == {str(tmp_path / "deep/log")}
    (tmp_path / "deep/log").rename(tmp_path / "correct-horse")
    assert search.in_files(secret, [tmp_path])


@pytest.mark.parametrize("where", ["cmdline", "environ"])
def test_a_leak_in_a_process_is_found(where: str) -> None:
    word = os.urandom(9).hex()  # not the one of a test that runs beside this
    secret = search.text("password", word)
    wait = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    child = subprocess.Popen(
        [*wait, word] if where == "cmdline" else wait, env={"X": word if where == "environ" else "y"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        found = search.in_processes(secret)
        child.communicate()
    assert {hit.place for hit in found} == {f"/proc/{child.pid}/{where}"}


# -- a real home


class Story:
    """A home in which key pairs are made, taken in, given out and deleted, with all that has to stay secret in it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = io.StringIO()
        self.secrets: dict[str, list[search.Form]] = {}

    def tell(self, store_class: type[Store] = Store, kms_class: type[Kms] = Kms) -> None:
        """Do everything, with a log of all that any library has to say."""
        handler = logging.StreamHandler(self.log)
        logging.root.addHandler(handler)
        before = logging.root.level
        logging.root.setLevel(logging.DEBUG)
        try:
            self._tell(store_class, kms_class)
        finally:
            logging.root.setLevel(before)
            logging.root.removeHandler(handler)

    def found(self) -> list[search.Hit]:
        """Return every secret that is where it must not be. The root key's own file is its place."""
        files = [path for path in self.settings.home.iterdir() if path != self.settings.root_key]
        assert {path.name for path in files} >= {"kps.db", "kps.db-wal"}
        return [
            *search.in_files(self.secrets, files),
            *search.in_bytes(self.secrets, "log", self.log.getvalue().encode()),
            *search.in_processes(self.secrets),
        ]

    def _tell(self, store_class: type[Store], kms_class: type[Kms]) -> None:
        made = initialise(self.settings)
        self.secrets |= search.text("secret access key", made["secret_key"])
        self.secrets |= search.raw("root key", self.settings.root_key.read_bytes())
        self.store = store_class(self.settings.database_url)
        kms = kms_class(self.store, FileRootKey(self.settings.root_key))
        who = self.store.caller_by_local_home()
        asyncio.run(self._work(Keypairs(self.store, kms), who))
        asyncio.run(self._more(kms, Keypairs(self.store, kms), who))
        backup.back_up(self.settings, self.settings.home / "plain.backup")

    async def _more(self, kms: Kms, keypairs: Keypairs, who: Caller) -> None:
        """What else has secrets: access keys, master keys, files with passphrases, custody that comes and goes."""
        _, secret = await AccessKeys(self.store, kms).create(who)
        self.secrets |= search.text("secret of another access key", secret.open())
        for alias in ("kps/default", "csms/default"):
            key = kms.key(who.tenant_id, alias)
            self.secrets |= search.raw(f"master key {alias}", kms.material(key, kms.version(key)).open())
        for_export = Secret("a passphrase for what goes out")
        self.secrets |= search.text("export passphrase", for_export.open())
        forms: tuple[KeyFormat, ...] = ("openssh", "pkcs8", "pem", "ppk2", "ppk3")
        for form in forms:
            await keypairs.export(who, "ecdsa-nistp256-True", form, for_export)
        self._order(kms, who)
        custody = Custody(self.store, kms)
        _, text = await keypairs.create(who, "later", managed=False)
        assert text is not None
        self._know("later", text)
        await custody.manage(who, "later", text)
        await custody.move(who, "later", "csms/default")
        await custody.clear(who, "later")

    def _order(self, kms: Kms, who: Caller) -> None:
        """What opens a server comes with an order, and the controller dies before it is needed."""
        identity = keyfiles.openssh_private("ed25519", Secret(a_key("ed25519")))
        given = Credential(password=Secret("a password that came with an order"), identity=identity)
        self.secrets |= search.text("password given", "a password that came with an order")
        self._know("identity given", identity)
        (server,) = self.store.add_servers([Server("s", who.tenant_id, "web-1", "192.0.2.1")])
        request = {"given": ["password", "identity"]}
        task = Task("t", who.tenant_id, who.user_id, server.id, server.name, "root", "check", request, now())
        deposits = Deposits(kms, 24)
        sealed = deposits.sealed([(Order.of_task(task), given)], deposits.until())
        self.store.add_tasks([task], "me", 30, sealed)

    async def _work(self, keypairs: Keypairs, who: Caller) -> None:
        for key_type in TYPES:
            for kept in (True, False):
                name = f"{key_type}-{kept}"
                await keypairs.create(who, name, key_type)
                self._know(name, (await keypairs.export(who, name)))
                if not kept:
                    await keypairs.delete(who, name)
        passphrase = Secret("a passphrase to remember")
        self.secrets |= search.text("passphrase", passphrase.open())
        file = keyfiles.signing_key("rsa-2048", Secret(a_key("rsa-2048"))).private_bytes(*_pkcs8_encrypted(passphrase.open()))
        for number, given in enumerate((passphrase, Secret("a wrong passphrase"))):
            try:
                await keypairs.import_(who, f"imported-{number}", private_key=Secret(file), passphrase=given)
            except Problem as problem:
                logging.getLogger("kps").exception("import failed: %r", problem.evidence)
        self._know("imported", await keypairs.export(who, "imported-0"))
        _, private_file = await keypairs.create(who, "unmanaged", managed=False)
        assert private_file is not None
        self._know("unmanaged", private_file)

    def _know(self, name: str, text: Secret) -> None:
        public, stored = keyfiles.read_private(text)
        for what, forms in search.private_key(public.type, stored).items():
            self.secrets[f"{what} of {name}"] = forms


def _pkcs8_encrypted(passphrase: bytes) -> Any:
    from cryptography.hazmat.primitives import serialization

    return (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )


@pytest.fixture
def story(settings: Settings) -> Iterator[Story]:
    story = Story(settings)
    yield story
    story.store.close()


def test_a_home_gives_no_secret_away(story: Story) -> None:
    story.tell()
    assert len(story.secrets) > 20
    assert story.found() == []
    story.store.close()  # and with everything written back into the one file
    database = story.settings.database
    assert not database.with_name("kps.db-wal").exists()
    assert search.in_files(story.secrets, [database]) == []


class LeaksInAnEvent(Store):
    """Tells in the event what was exported."""

    def note_export(self, keypair_id: str, user_id: str) -> None:
        kms = Kms(self, FileRootKey(self._path.with_name("root.key")))
        keypair = self.keypair_by_id(keypair_id)
        stored = kms.open_private(keypair, self.sealed_private(keypair_id))
        pem = keyfiles.openssh_private(keypair.type, stored).open().decode()
        with engine.writing(self._engine) as connection:
            self._event(connection, keypair.tenant_id, "keypair_exported", {"private_key": pem})


class DoesNotSeal(Kms):
    """Puts the secret where the ciphertext belongs."""

    def seal_private(self, keypair: KeyPair, stored: Secret) -> Sealed:
        return Sealed(stored.open())

    def open_private(self, keypair: KeyPair, sealed: Sealed) -> Secret:
        return Secret(sealed.record)

    def rewrap(self, tenant_id: str, sealed: Sealed, alias: str) -> Sealed:
        return sealed


class KeepsOrdersOpen(Kms):
    """Puts what came with an order where its ciphertext belongs."""

    def seal_all(self, tenant_id: str, secrets_: Sequence[tuple[Secret, Context]], *, alias: str = DEFAULT_ALIAS) -> list[Sealed]:
        if secrets_[0][1].kind == "credential":
            return [Sealed(secret.open()) for secret, _ in secrets_]
        return super().seal_all(tenant_id, secrets_, alias=alias)


class LeaksInTheLog(Kms):
    """Logs the number of what it seals."""

    def seal_private(self, keypair: KeyPair, stored: Secret) -> Sealed:
        logging.getLogger("kps").debug("sealing %s", stored.open().hex())
        return super().seal_private(keypair, stored)


class LeaksTheRootKey(Store):
    """Keeps a copy of the root key beside what it protects."""

    def caller_by_local_home(self) -> Caller:
        self._path.with_name("backup").write_text(self._path.with_name("root.key").read_bytes().hex())
        return super().caller_by_local_home()


class WrapsNothing(Kms):
    """Leaves the master key lying beside what it wraps."""

    def key(self, tenant_id: str, name: str = "kps/default") -> MasterKey:
        found = super().key(tenant_id, name)
        material = self.material(found, self.version(found))
        logging.getLogger("kps").debug("using %s", material.open().hex())
        return found


@pytest.mark.parametrize(
    ("store_class", "kms_class", "place"),
    [
        (Store, WrapsNothing, "log"),
        (LeaksInAnEvent, Kms, "kps.db"),
        (Store, DoesNotSeal, "kps.db"),
        (Store, KeepsOrdersOpen, "kps.db"),
        (Store, LeaksInTheLog, "log"),
        (LeaksTheRootKey, Kms, "backup"),
    ],
)
def test_a_build_that_leaks_on_purpose_is_caught(
    story: Story, store_class: type[Store], kms_class: type[Kms], place: str
) -> None:
    story.tell(store_class, kms_class)
    assert any(place in hit.place for hit in story.found())


def test_a_deleted_key_pair_leaves_not_even_its_ciphertext(settings: Settings) -> None:
    initialise(settings)
    store = Store(settings.database_url)
    kms = Kms(store, FileRootKey(settings.root_key))
    who = store.caller_by_local_home()
    keypairs = Keypairs(store, kms)
    keypair, _ = asyncio.run(keypairs.create(who, "laptop"))
    record = store.sealed_private(keypair.id).record
    asyncio.run(keypairs.delete(who, "laptop"))
    store.close()
    assert record[-40:] not in settings.database.read_bytes()
