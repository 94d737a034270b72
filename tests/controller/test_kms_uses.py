"""Customer master keys at work: each operation, OpenSSL on the other side, and each refusal by its code."""

import base64
import hashlib
import hmac as codes
import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.errors import Problem
from controller.kms import Kms, ciphertext
from controller.kms.keys import KINDS
from controller.model import Caller, MasterKey, Secret
from controller.service.kms import KeyService
from controller.store import Store
from tests.controller import secret_search

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def keys(store: Store, kms: Kms) -> KeyService:
    return KeyService.of(store, kms)


async def refused(asked: Awaitable[Any]) -> str:
    with pytest.raises(Problem) as problem:
        await asked
    return problem.value.code


def openssl(*words: str | Path, given: bytes = b"", ends: int = 0) -> bytes:
    done = subprocess.run(["openssl", *map(str, words)], input=given, capture_output=True)
    assert done.returncode == ends, done.stderr.decode()
    return done.stdout


# -- data


async def test_data_comes_back_and_names_its_key(keys: KeyService, who: Caller) -> None:
    key = await keys.keys.create(who, "orders")
    for text in (b"", b"x", os.urandom(4096)):
        made = await keys.uses.encrypt(who, "orders", Secret(text), b"order 1")
        assert (made.key.id, made.algorithm) == (key.id, "SYMMETRIC_DEFAULT")
        assert len(made.ciphertext) == 124 + -(-len(text) // 16) * 16
        back = await keys.uses.decrypt(who, made.ciphertext, b"order 1")
        assert (back.key.id, back.plaintext.open()) == (key.id, text)


async def test_the_documented_example_of_a_length(keys: KeyService, who: Caller) -> None:
    """4 bytes become 140, and 188 characters of Base64."""
    made = await keys.uses.encrypt(who, "kps/default", Secret(b"four"))
    assert (len(made.ciphertext), len(base64.b64encode(made.ciphertext))) == (140, 188)


async def test_each_refusal_of_data_has_its_code(keys: KeyService, who: Caller, store: Store) -> None:
    await keys.keys.create(who, "orders")
    other = await keys.keys.create(who, "other")
    uses = keys.uses
    made = (await uses.encrypt(who, "orders", Secret(b"x"), b"a")).ciphertext
    assert await refused(uses.encrypt(who, "orders", Secret(bytes(4097)))) == "plaintext_too_long"
    assert await refused(uses.encrypt(who, "orders", Secret(b"x"), bytes(129))) == "additional_data_too_long"
    assert await refused(uses.encrypt(who, "orders", Secret(b"x"), algorithm="RSAES_OAEP_SHA_256")) == "algorithm_unfit"
    assert await refused(uses.encrypt(who, "none", Secret(b"x"))) == "master_key_not_found"
    assert await refused(uses.decrypt(who, made)) == "ciphertext_damaged"
    assert await refused(uses.decrypt(who, made[:-1], b"a")) == "ciphertext_length_wrong"
    assert await refused(uses.decrypt(who, b"nothing", b"a")) == "ciphertext_unreadable"
    assert await refused(uses.decrypt(who, made, b"a", name="other")) == "ciphertext_of_another_key"
    assert await refused(uses.decrypt(who, made, b"a", algorithm="RSAES_OAEP_SHA_256")) == "key_not_named"
    nobodys = made[:8] + os.urandom(16) + made[24:]
    assert await refused(uses.decrypt(who, nobodys, b"a")) == "master_key_not_found"
    relabelled = made[:8] + bytes.fromhex(other.id.replace("-", "")) + made[24:]
    assert await refused(uses.decrypt(who, relabelled, b"a")) == "ciphertext_head_damaged"
    for version in (0, 2, 2**32 - 1):
        newer = made[:24] + version.to_bytes(4, "big") + made[28:]
        assert await refused(uses.decrypt(who, newer, b"a")) == "ciphertext_version_unknown"
    data_key = await uses.create_data_key(who, "orders", additional_data=b"a")
    assert await refused(uses.decrypt(who, data_key.ciphertext, b"a")) == "ciphertext_purpose_wrong"
    assert await refused(uses.decrypt_data_key(who, "orders", made, None, b"a")) == "ciphertext_purpose_wrong"


async def test_a_key_of_another_tenant_is_not_there(keys: KeyService, who: Caller) -> None:
    made = await keys.uses.encrypt(who, "kps/default", Secret(b"x"))
    stranger = replace(who, tenant_id="2" * 32)
    assert await refused(keys.uses.decrypt(stranger, made.ciphertext)) == "master_key_not_found"
    assert await refused(keys.uses.encrypt(stranger, made.key.id, Secret(b"x"))) == "master_key_not_found"
    assert await refused(keys.keys.get(stranger, made.key.id)) == "master_key_not_found"


async def test_what_an_older_version_made_opens_after_rotations(keys: KeyService, who: Caller) -> None:
    await keys.keys.create(who, "orders")
    made = []
    for version in range(1, 5):
        made.append((await keys.uses.encrypt(who, "orders", Secret(b"%d" % version))).ciphertext)
        assert ciphertext.header(made[-1]).version == version
        await keys.keys.rotate(who, "orders")
    for version, each in enumerate(made, 1):
        assert (await keys.uses.decrypt(who, each)).plaintext.open() == b"%d" % version


async def test_re_encrypting_moves_data_and_data_keys_and_keeps_what_they_are(keys: KeyService, who: Caller) -> None:
    uses = keys.uses
    one, two = await keys.keys.create(who, "one"), await keys.keys.create(who, "two")
    made = await uses.encrypt(who, "one", Secret(b"text"), b"a")
    moved = await uses.re_encrypt(who, made.ciphertext, "two", source_additional_data=b"a", additional_data=b"b")
    assert moved.source is not None
    assert (moved.source.id, moved.key.id, moved.source_algorithm, moved.algorithm) == (
        one.id,
        two.id,
        *["SYMMETRIC_DEFAULT"] * 2,
    )
    assert (await uses.decrypt(who, moved.ciphertext, b"b")).plaintext.open() == b"text"
    data_key = await uses.create_data_key(who, "one")
    moved = await uses.re_encrypt(who, data_key.ciphertext, "two", length=32)
    opened, _ = await uses.decrypt_data_key(who, "two", moved.ciphertext, 32)
    assert data_key.plaintext == opened.plaintext
    assert await refused(uses.re_encrypt(who, data_key.ciphertext, "two", length=31)) == "data_key_length_wrong"
    await keys.keys.create(who, "rsa", spec="RSA_2048", usage="ENCRYPT_DECRYPT")
    assert await refused(uses.re_encrypt(who, data_key.ciphertext, "rsa")) == "asymmetric_key_not_possible"
    out = await uses.re_encrypt(who, made.ciphertext, "rsa", source_additional_data=b"a")
    assert (await uses.decrypt(who, out.ciphertext, name="rsa")).plaintext.open() == b"text"
    back = await uses.re_encrypt(who, out.ciphertext, "one", source="rsa", additional_data=b"c")
    assert (await uses.decrypt(who, back.ciphertext, b"c")).plaintext.open() == b"text"


# -- data keys


async def test_data_keys_have_the_length_that_was_asked_for(keys: KeyService, who: Caller) -> None:
    uses = keys.uses
    asked: list[tuple[dict[str, Any], int]] = [
        ({}, 32), ({"spec": "AES_128"}, 16), ({"spec": "HMAC_512"}, 64), ({"bits": 8}, 1), ({"bits": 8192}, 1024),
        ({"spec": "AES_128", "bits": 512}, 64),
    ]  # fmt: skip
    for given, length in asked:
        made = await uses.create_data_key(who, "kps/default", **given)
        assert made.plaintext is not None
        opened, digest = await uses.decrypt_data_key(who, "kps/default", made.ciphertext, length)
        assert (len(opened.plaintext), opened.plaintext) == (length, made.plaintext)
        assert digest == hashlib.sha256(made.plaintext.open()).digest()
    assert (await uses.create_data_key(who, "kps/default", with_plaintext=False)).plaintext is None
    for bits in (0, 7, 8193, 8200, -8):
        assert await refused(uses.create_data_key(who, "kps/default", bits=bits)) == "data_key_length_unusable"
    assert await refused(uses.create_data_key(who, "kps/default", bits=12)) == "data_key_length_not_whole"
    assert await refused(uses.create_data_key(who, "kps/default", spec="DES")) == "data_key_spec_unknown"


async def test_a_data_key_brought_along_is_checked_before_it_is_sealed(keys: KeyService, who: Caller) -> None:
    uses, data_key = keys.uses, os.urandom(48)
    digest = hashlib.sha256(data_key).digest()
    made = await uses.encrypt_data_key(who, "kps/default", Secret(data_key), digest, 48, b"a")
    opened, again = await uses.decrypt_data_key(who, "kps/default", made.ciphertext, 48, b"a")
    assert (opened.plaintext.open(), again) == (data_key, digest)
    wrong = bytes(32)
    assert await refused(uses.encrypt_data_key(who, "kps/default", Secret(data_key), wrong, 48)) == "data_key_digest_wrong"
    assert await refused(uses.encrypt_data_key(who, "kps/default", Secret(data_key), digest, 47)) == "data_key_length_wrong"
    assert await refused(uses.encrypt_data_key(who, "kps/default", Secret(b""), digest, 0)) == "data_key_length_unusable"
    assert await refused(uses.decrypt_data_key(who, "kps/default", made.ciphertext, 47, b"a")) == "data_key_length_wrong"


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"])
async def test_a_data_key_pair_is_one_that_openssl_reads(keys: KeyService, who: Caller, spec: str) -> None:
    made = await keys.uses.create_data_key_pair(who, "kps/default", spec, additional_data=b"a")
    opened = (await keys.uses.decrypt(who, made.ciphertext, b"a")).plaintext
    assert made.private_key == opened
    assert openssl("pkey", "-inform", "DER", "-pubout", "-outform", "DER", given=opened.open()) == made.public_key
    without = await keys.uses.create_data_key_pair(who, "kps/default", spec, with_plaintext=False)
    assert without.private_key is None


async def test_a_kind_of_pair_that_is_not_made_is_refused_by_name(keys: KeyService, who: Caller) -> None:
    assert await refused(keys.uses.create_data_key_pair(who, "kps/default", "SM2")) == "data_key_spec_unknown"


async def test_random_bits(keys: KeyService, who: Caller) -> None:
    assert len(await keys.uses.random(who)) == 64
    assert {len(await keys.uses.random(who, bits)) for bits in (8, 8192)} == {1, 1024}
    for bits in (0, -8, 8200):
        assert await refused(keys.uses.random(who, bits)) == "random_length_unusable"
    assert await refused(keys.uses.random(who, 9)) == "random_length_not_whole"


# -- OpenSSL on the other side


async def asymmetric(keys: KeyService, who: Caller, spec: str, usage: str, tmp_path: Path) -> tuple[MasterKey, Path]:
    key = await keys.keys.create(who, spec, spec=spec, usage=usage)
    _, pem = await keys.uses.public_key(who, spec)
    (tmp_path / "public.pem").write_text(pem)
    return key, tmp_path / "public.pem"


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096"])
async def test_what_openssl_encrypts_offline_is_decrypted(keys: KeyService, who: Caller, tmp_path: Path, spec: str) -> None:
    key, public = await asymmetric(keys, who, spec, "ENCRYPT_DECRYPT", tmp_path)
    most = KINDS[key.spec].bits // 8 - 66
    for text in (b"x", os.urandom(most)):
        oaep = ("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256")
        made = openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", public, *oaep, given=text)
        assert (await keys.uses.decrypt(who, made, name=spec)).plaintext.open() == text
        ours = (await keys.uses.encrypt(who, spec, Secret(text))).ciphertext
        assert (await keys.uses.decrypt(who, ours, name=spec, algorithm="RSAES_OAEP_SHA_256")).plaintext.open() == text
    assert await refused(keys.uses.encrypt(who, spec, Secret(bytes(most + 1)))) == "plaintext_too_long"
    assert await refused(keys.uses.encrypt(who, spec, Secret(b"x"), b"a")) == "additional_data_not_possible"
    assert await refused(keys.uses.decrypt(who, made, b"a", name=spec)) == "additional_data_not_possible"
    assert await refused(keys.uses.decrypt(who, made[:-1], name=spec)) == "ciphertext_length_wrong"
    assert await refused(keys.uses.decrypt(who, bytes([made[0] ^ 1]) + made[1:], name=spec)) == "ciphertext_damaged"
    sha1 = openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", public, "-pkeyopt", "rsa_padding_mode:oaep", given=b"x")
    assert await refused(keys.uses.decrypt(who, sha1, name=spec)) == "ciphertext_damaged"


SIGNING = [(spec, algorithm) for spec, kind in KINDS.items() if "SIGN_VERIFY" in kind.usages for algorithm in kind.algorithms]


def verifying(algorithm: str, *words: str | Path) -> list[str | Path]:
    options: list[str | Path] = ["dgst", f"-sha{algorithm[-3:]}", *words]
    if "PSS" in algorithm:
        options += ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
    return options


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096", "EC_P256", "EC_P384"])
async def test_what_we_sign_openssl_verifies(keys: KeyService, who: Caller, tmp_path: Path, spec: str) -> None:
    _, public = await asymmetric(keys, who, spec, "SIGN_VERIFY", tmp_path)
    message, other = os.urandom(1000), os.urandom(1000)
    algorithms = [each for of, each in SIGNING if of == spec]
    # How long the modulus is makes no difference to the hash: with each of them once.
    for algorithm in algorithms if len(algorithms) == 1 or spec == "RSA_2048" else algorithms[::5]:
        digest = hashlib.new(f"sha{algorithm[-3:]}", message).digest()
        for what, digested in ((digest, True), (message, False)):
            _, signature = await keys.uses.sign(who, spec, what, algorithm, digested=digested)
            (tmp_path / "signature").write_bytes(signature)
            words = verifying(algorithm, "-verify", public, "-signature", tmp_path / "signature")
            assert openssl(*words, given=message) == b"Verified OK\n"
            assert openssl(*words, given=other, ends=1) == b"Verification failure\n"
            for each, by_digest in ((digest, True), (message, False)):
                assert (await keys.uses.verify(who, spec, each, signature, algorithm, digested=by_digest))[1] is True
            assert (await keys.uses.verify(who, spec, other, signature, algorithm, digested=False))[1] is False
            changed = signature[:-1] + bytes([signature[-1] ^ 1])
            assert (await keys.uses.verify(who, spec, message, changed, algorithm, digested=False))[1] is False
            assert (await keys.uses.verify(who, spec, message, b"", algorithm, digested=False))[1] is False
        wrong = "digest_length_wrong"
        assert await refused(keys.uses.sign(who, spec, digest[:-1], algorithm)) == wrong
        assert await refused(keys.uses.verify(who, spec, digest + b"\0", b"", algorithm)) == wrong
        assert await refused(keys.uses.sign(who, spec, bytes(4097), algorithm, digested=False)) == "message_too_long"


@pytest.mark.parametrize(("spec", "algorithm"), [each for each in SIGNING if each[0] in ("RSA_2048", "EC_P256", "EC_P384")])
async def test_what_openssl_signs_with_an_imported_key_we_verify(
    keys: KeyService, who: Caller, tmp_path: Path, spec: str, algorithm: str
) -> None:
    """The private half has to be on both sides for that: it is made by OpenSSL and imported."""
    private = tmp_path / "private.der"
    kind = ("EC", "-pkeyopt", f"ec_paramgen_curve:P-{spec[-3:]}")
    if spec == "RSA_2048":
        kind = ("RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    openssl("genpkey", "-algorithm", *kind, "-outform", "DER", "-out", private)
    await keys.keys.create(who, "brought", spec=spec, origin="external")
    given = await keys.imports.parameters(who, "brought")
    (tmp_path / "wrapping.der").write_bytes(given.public_key)
    temporary = os.urandom(32)
    oaep = ("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256")
    wrapping = ("-pubin", "-keyform", "DER", "-inkey", tmp_path / "wrapping.der")
    encrypted = openssl("pkeyutl", "-encrypt", *wrapping, *oaep, given=temporary)
    wrapped = openssl("enc", "-id-aes256-wrap-pad", "-K", temporary.hex(), "-iv", "A65959A6", "-in", private)
    await keys.imports.import_(who, "brought", given.token, encrypted, private_key=wrapped)
    message = os.urandom(500)
    words = verifying(algorithm, "-sign", private, "-keyform", "DER")
    for each in (words, words[:-2]) if "PSS" in algorithm else (words,):  # the salt as long as the digest, and OpenSSL's default
        signature = openssl(*each, given=message)
        assert (await keys.uses.verify(who, "brought", message, signature, algorithm, digested=False))[1] is True


async def test_codes_are_those_of_others(keys: KeyService, who: Caller) -> None:
    """The key is brought along, so that OpenSSL and Python's own HMAC can have it too."""
    message = os.urandom(4096)
    for spec, kind in ((spec, kind) for spec, kind in KINDS.items() if kind.family == "hmac"):
        key = os.urandom(kind.bits // 8)
        await keys.keys.create(who, spec, spec=spec, origin="external")
        await brought(keys, who, spec, key)
        [algorithm] = kind.algorithms
        _, code = await keys.uses.code(who, spec, message, algorithm)
        name = {"HMAC_SM3": "sm3"}.get(algorithm, f"sha{algorithm[-3:]}")
        assert codes.new(key, message, name).digest() == code
        judged = openssl("dgst", f"-{name}", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary", given=message)
        assert judged == code
        assert (await keys.uses.verify_code(who, spec, message, code, algorithm))[1] is True
        assert (await keys.uses.verify_code(who, spec, message[:-1], code, algorithm))[1] is False
        assert (await keys.uses.verify_code(who, spec, message, code[:-1], algorithm))[1] is False
        for length in (0, 4097):
            assert await refused(keys.uses.code(who, spec, bytes(length), algorithm)) == "message_length_wrong"
    assert await refused(keys.uses.code(who, "HMAC_256", b"x", "HMAC_SHA_512")) == "algorithm_unfit"


async def test_without_sm3_in_openssl_the_kind_is_refused_by_name(
    keys: KeyService, who: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hmac

    def without(key: Any, algorithm: Any, *more: Any) -> Any:
        raise UnsupportedAlgorithm(algorithm.name)

    monkeypatch.setattr(hmac, "HMAC", without)
    assert await refused(keys.keys.create(who, "sm", spec="HMAC_SM3")) == "algorithm_not_here"


async def brought(keys: KeyService, who: Caller, name: str, material: bytes, **more: Any) -> MasterKey:
    """Have material imported as its owner would do it."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from controller.kms.signing import oaep

    given = await keys.imports.parameters(who, name)
    encrypted = load_der_public_key(given.public_key).encrypt(material, oaep())  # type: ignore[union-attr,call-arg]
    return await keys.imports.import_(who, name, given.token, encrypted, **more)


# -- kinds and operations


Operation = Callable[[KeyService, Caller, str], Awaitable[Any]]
OPERATIONS: dict[str, Operation] = {
    "encrypt": lambda keys, who, name: keys.uses.encrypt(who, name, Secret(b"x")),
    "create data key": lambda keys, who, name: keys.uses.create_data_key(who, name),
    "data key pair": lambda keys, who, name: keys.uses.create_data_key_pair(who, name, "ECC_NIST_P256"),
    "sign pss": lambda keys, who, name: keys.uses.sign(who, name, bytes(32), "RSASSA_PSS_SHA_256"),
    "sign ecdsa": lambda keys, who, name: keys.uses.sign(who, name, bytes(32), "ECDSA_SHA_256"),
    "code": lambda keys, who, name: keys.uses.code(who, name, b"x", "HMAC_SHA_256"),
    "public key": lambda keys, who, name: keys.uses.public_key(who, name),
    "rotate": lambda keys, who, name: keys.keys.rotate(who, name),
}
FITS: dict[tuple[str, str | None], list[str]] = {
    ("AES_256", None): [
        "", "", "", "symmetric_key_not_possible", "symmetric_key_not_possible", "key_makes_no_codes",
        "symmetric_key_not_possible", "",
    ],
    ("HMAC_256", None): [
        *["mac_key_not_possible"] * 5, "", "mac_key_not_possible", "mac_key_not_rotated",
    ],
    ("RSA_2048", "SIGN_VERIFY"): [
        "key_is_for_signing", "asymmetric_key_not_possible", "asymmetric_key_not_possible", "", "algorithm_unfit",
        "key_makes_no_codes", "", "asymmetric_key_not_rotated",
    ],
    ("RSA_2048", "ENCRYPT_DECRYPT"): [
        "", "asymmetric_key_not_possible", "asymmetric_key_not_possible", "key_is_for_encryption", "key_is_for_encryption",
        "key_makes_no_codes", "", "asymmetric_key_not_rotated",
    ],
    ("EC_P256", None): [
        "key_is_for_signing", "asymmetric_key_not_possible", "asymmetric_key_not_possible", "algorithm_unfit", "",
        "key_makes_no_codes", "", "asymmetric_key_not_rotated",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("spec", "usage"), FITS)
async def test_each_kind_of_key_does_what_it_is_for_and_no_more(
    keys: KeyService, who: Caller, spec: str, usage: str | None
) -> None:
    await keys.keys.create(who, "one", spec=spec, usage=usage)
    found = []
    for operation in OPERATIONS.values():
        try:
            await operation(keys, who, "one")
        except Problem as problem:
            found.append(problem.code)
        else:
            found.append("")
    assert found == FITS[spec, usage]


# -- custody of the material itself


async def test_only_32_bytes_are_ever_wrapped_by_the_root_key(store: Store, kms: Kms, who: Caller) -> None:
    """A token wraps no more than that."""
    sizes = []

    class Watched:
        check_value = kms._root.check_value

        def wrap(self, key: Secret, context: bytes) -> bytes:
            sizes.append(len(key))
            return kms._root.wrap(key, context)

        def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
            return kms._root.unwrap(wrapped, context)

    keys = KeyService.of(store, Kms(store, Watched()))
    for spec in KINDS:
        if spec not in ("RSA_3072", "RSA_4096"):
            await keys.keys.create(who, spec, spec=spec)
    assert sizes == [32] * len(sizes)
    assert len(sizes) == len(KINDS) - 2


async def test_a_public_half_or_material_put_in_anothers_place_is_told(
    keys: KeyService, who: Caller, store: Store, settings: Any
) -> None:
    import sqlite3

    one = await keys.keys.create(who, "one", spec="EC_P256")
    two = await keys.keys.create(who, "two", spec="EC_P256")
    with sqlite3.connect(settings.database) as database:
        database.execute(
            "UPDATE master_keys SET public_key = (SELECT public_key FROM master_keys WHERE id = ?) WHERE id = ?", (two.id, one.id)
        )
    database.close()
    assert await refused(keys.uses.public_key(who, "one")) == "master_key_damaged"
    assert await refused(keys.uses.verify(who, "one", bytes(32), b"", "ECDSA_SHA_256")) == "master_key_damaged"
    assert await refused(keys.uses.sign(who, "one", bytes(32), "ECDSA_SHA_256")) == "master_key_damaged"
    assert await keys.uses.public_key(who, "two")


async def test_every_use_is_on_record_with_who_and_what(keys: KeyService, who: Caller, store: Store) -> None:
    await keys.keys.create(who, "one")
    await keys.uses.decrypt(who, (await keys.uses.encrypt(who, "one", Secret(b"x"))).ciphertext)
    await keys.uses.create_data_key(who, "one", with_plaintext=False)
    used = [event.detail for event in store.events(who.tenant_id) if event.kind == "master_key_used"]
    assert [(each["operation"], each["user_id"], each["alias"]) for each in used] == [
        (operation, who.user_id, "one") for operation in ("encrypt", "decrypt", "create_data_key_without_plaintext")
    ]


def test_every_code_is_in_the_documents() -> None:
    """Each refusal that the code of keys can make is explained on docs/kms.md."""
    import re

    root = Path(__file__).parents[2]
    parts = [*(root / "controller/kms").glob("*.py"), *(root / "controller/service/kms").glob("*.py")]
    parts += [root / f"controller/{name}.py" for name in ("store/masterkeys", "store/keybelongings", "api/keyshapes")]
    raised = {
        code
        for part in parts
        if part.name != "envelope.py"
        for code in re.findall(r'(?:Invalid|Conflict|NotFound|AlreadyExists|NotAllowed)\(\s*"([a-z0-9_]+)"', part.read_text())
    }
    explained = set(re.findall(r"`([a-z0-9_]+)`", (root / "docs/kms.md").read_text()))
    assert raised - explained == set()


async def test_nothing_that_master_keys_work_with_is_in_a_file_of_the_home(
    keys: KeyService, who: Caller, store: Store, kms: Kms, settings: Any
) -> None:
    """Material, plaintexts, data keys and private halves, by value and in every spelling; the root key's own file aside."""
    sought = {}
    for spec in ("AES_256", "HMAC_512", "EC_P256", "RSA_2048"):
        await keys.keys.create(who, spec, spec=spec)
    await keys.keys.create(who, "brought", origin="external")
    await brought(keys, who, "brought", material := os.urandom(32))
    sought |= secret_search.raw("imported material", material)
    text = os.urandom(64)
    await keys.uses.decrypt(who, (await keys.uses.encrypt(who, "AES_256", Secret(text), b"additional")).ciphertext, b"additional")
    sought |= secret_search.raw("plaintext", text)
    data_key = await keys.uses.create_data_key(who, "AES_256")
    pair = await keys.uses.create_data_key_pair(who, "AES_256", "ECC_NIST_P256")
    assert data_key.plaintext is not None
    assert pair.private_key is not None
    sought |= secret_search.raw("data key", data_key.plaintext.open())
    sought |= secret_search.private_key("ecdsa-nistp256", pair.private_key)
    await keys.uses.sign(who, "EC_P256", bytes(32), "ECDSA_SHA_256")
    await keys.uses.code(who, "HMAC_512", b"message", "HMAC_SHA_512")
    for key in store.master_keys(who.tenant_id)[0]:
        opened = kms.material(key, kms.version(key))
        of_a_pair = {"EC_P256": "ecdsa-nistp256", "RSA_2048": "rsa-2048"}.get(key.spec)
        found = secret_search.raw("material", opened.open())
        if of_a_pair is not None:
            found = secret_search.private_key(of_a_pair, opened)  # type: ignore[arg-type]
        sought |= {f"{key.alias}: {name}": forms for name, forms in found.items()}
    assert len(sought) >= 10
    assert secret_search.in_files(sought, [settings.home]) == []
    # And the search finds what is there.
    (settings.home / "left-behind").write_text(base64.b64encode(b"x" + material).decode())
    assert {hit.secret for hit in secret_search.in_files(sought, [settings.home])} >= {"imported material"}
