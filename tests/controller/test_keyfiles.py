"""Key files, judged by ssh-keygen."""

import base64
import struct
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import PrivateKey, PublicKey
from controller.model import KEY_TYPES, KeyType, Secret

PASSPHRASE = Secret("correct horse")


@cache
def a_key(key_type: KeyType) -> tuple[PublicKey, bytes]:
    public, stored = keyfiles.generate(key_type)
    return public, stored.open()


def stored(key_type: KeyType) -> Secret:
    return Secret(a_key(key_type)[1])


def key(key_type: KeyType) -> PrivateKey:
    return keyfiles.signing_key(key_type, stored(key_type))


def ssh_keygen(*arguments: object) -> str:
    ran = subprocess.run(["ssh-keygen", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def private_file(path: Path, text: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(text)
    return path


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_ssh_keygen_reads_what_we_write(key_type: KeyType, tmp_path: Path) -> None:
    public, _ = a_key(key_type)
    text = keyfiles.openssh_private(key_type, stored(key_type), "somebody@somewhere").open()
    file = private_file(tmp_path / "key", text)
    assert ssh_keygen("-y", "-f", file) == public.line("somebody@somewhere")
    bits, fingerprint, comment, kind = ssh_keygen("-l", "-f", file).split()
    assert (fingerprint, comment) == (public.fingerprint, "somebody@somewhere")
    assert ssh_keygen("-l", "-E", "md5", "-f", file).split()[1] == "MD5:" + public.fingerprint_md5
    name, _, size = key_type.partition("-")
    assert kind == f"({name.upper()})"
    assert bits == (size.removeprefix("nistp") or "256")


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.parametrize("comment", ["", "x", "ünï", "a" * 100])
def test_the_file_is_written_as_ssh_keygen_writes_it(key_type: KeyType, comment: str, tmp_path: Path) -> None:
    text = keyfiles.openssh_private(key_type, stored(key_type), comment).open()
    file = private_file(tmp_path / "key", text)
    ssh_keygen("-p", "-N", "", "-f", file)
    again = file.read_bytes()
    assert [len(line) for line in text.split(b"\n")] == [len(line) for line in again.split(b"\n")]
    # The two check numbers are random; all the rest is the same bytes.
    ours, theirs = (base64.b64decode(b"".join(each.split(b"\n")[1:-2])) for each in (text, again))
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 8


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_stored_form_gives_the_key_back(key_type: KeyType) -> None:
    public, form = a_key(key_type)
    assert keyfiles.read_private(keyfiles.openssh_private(key_type, Secret(form))) == (public, Secret(form))
    if key_type == "ed25519":
        assert len(form) == 32


def generated_by_ssh_keygen(key_type: KeyType, path: Path, *more: str) -> Path:
    kind, _, size = key_type.partition("-")
    bits = ["-b", size.removeprefix("nistp")] if size else []
    ssh_keygen("-q", "-t", kind, *bits, "-C", "from keygen", "-f", path, *more)
    return path


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_we_read_what_ssh_keygen_writes(key_type: KeyType, passphrase: str, tmp_path: Path) -> None:
    file = generated_by_ssh_keygen(key_type, tmp_path / "key", "-N", passphrase)
    public, _ = keyfiles.read_private(Secret(file.read_bytes()), Secret(passphrase))
    assert public.type == key_type
    line = (tmp_path / "key.pub").read_text()
    assert public.line("from keygen") == line.strip()
    assert keyfiles.read_public(line) == PublicKey(key_type, public.blob, "from keygen")


def written(key_type: KeyType, form: str, encrypted: bool) -> bytes:
    encryption = BestAvailableEncryption(PASSPHRASE.open()) if encrypted else NoEncryption()
    style = {"pkcs8": PrivateFormat.PKCS8, "traditional": PrivateFormat.TraditionalOpenSSL}[form]
    return key(key_type).private_bytes(Encoding.PEM, style, encryption)


FORMS = [
    (key_type, form, encrypted)
    for key_type in KEY_TYPES
    for form in ("pkcs8", "traditional")  # traditional: PKCS#1 for RSA, SEC1 for ECDSA
    for encrypted in (False, True)
    if not (key_type == "ed25519" and form == "traditional")
]


@pytest.mark.parametrize(("key_type", "form", "encrypted"), FORMS)
def test_the_other_formats_are_read(key_type: KeyType, form: str, encrypted: bool) -> None:
    text = written(key_type, form, encrypted)
    public, private = keyfiles.read_private(Secret(text), PASSPHRASE if encrypted else None)
    assert (public, private) == (a_key(key_type)[0], stored(key_type))


@pytest.mark.parametrize(("key_type", "form", "encrypted"), FORMS)
def test_a_passphrase_is_asked_for_where_it_is_needed_and_only_there(key_type: KeyType, form: str, encrypted: bool) -> None:
    text = Secret(written(key_type, form, encrypted))
    if not encrypted:
        assert keyfiles.read_private(text, Secret("not needed"))[0] == a_key(key_type)[0]
        return
    for given in (None, Secret(""), Secret("wrong")):
        assert code(text, given) == "passphrase_wrong"


def code(text: Secret | bytes, passphrase: Secret | None = None) -> str:
    with pytest.raises(Invalid) as refused:
        keyfiles.read_private(text if isinstance(text, Secret) else Secret(text), passphrase)
    return refused.value.code


def public_code(text: str) -> str:
    with pytest.raises(Invalid) as refused:
        keyfiles.read_public(text)
    return refused.value.code


def test_an_openssh_file_with_the_wrong_passphrase_says_so(tmp_path: Path) -> None:
    text = Secret(generated_by_ssh_keygen("ed25519", tmp_path / "key", "-N", "right").read_bytes())
    for given in (None, Secret(""), Secret("wrong")):
        assert code(text, given) == "passphrase_wrong"


@pytest.mark.parametrize("style", ["-mPEM", "-mPKCS8"])
def test_what_ssh_keygen_writes_in_older_formats_is_read(style: str, tmp_path: Path) -> None:
    for key_type in ("ecdsa-nistp256", "rsa-2048"):
        file = generated_by_ssh_keygen(key_type, tmp_path / key_type, style, "-N", "correct horse")
        public, _ = keyfiles.read_private(Secret(file.read_bytes()), PASSPHRASE)
        assert public.fingerprint == ssh_keygen("-l", "-f", f"{file}.pub").split()[1]


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"Bag Attributes\n  friendlyName: x\n" + text + b"\n\nand more\n",
        lambda text: b"\n".join(b"  " + line for line in text.split(b"\n")),
        lambda text: text.rstrip(b"\n"),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
def test_how_editors_dress_a_file_does_not_matter(dress: Any, encrypted: bool, tmp_path: Path) -> None:
    for text in (
        written("rsa-2048", "traditional", encrypted),
        written("ecdsa-nistp256", "pkcs8", encrypted),
        generated_by_ssh_keygen("ed25519", tmp_path / "key", "-N", "correct horse" if encrypted else "").read_bytes(),
    ):
        keyfiles.read_private(Secret(dress(text)), PASSPHRASE)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not a key",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n!!!!\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKV6 somebody\n",
        b"-----BEGIN \xff PRIVATE KEY-----\nAAAA\n-----END \xff PRIVATE KEY-----\n",
        bytes(65 * 1024),
    ],
)
def test_what_is_no_private_key_is_unreadable(text: bytes) -> None:
    assert code(text, PASSPHRASE) == "private_key_unreadable"


def test_a_point_of_a_curve_that_is_written_in_short_is_refused_cleanly() -> None:
    """As SEC 1 allows and RFC 5656 does too, and as nobody's software reads it here."""
    public, _ = a_key("ecdsa-nistp256")
    whole = keyfiles.openssh_private("ecdsa-nistp256", stored("ecdsa-nistp256")).open()
    first, *lines, last, _ = whole.split(b"\n")
    blob = base64.b64decode(b"".join(lines))
    point = public.blob[-65:]
    assert blob.count(point) == 2
    short = base64.b64encode(blob.replace(point, b"\x02" + point[1:]))
    assert code(b"\n".join([first, short, last, b""])) == "private_key_unreadable"
    line = b"ecdsa-sha2-nistp256 " + base64.b64encode(public.blob[:-65] + b"\x02" + point[1:])
    with pytest.raises(Invalid) as refused:
        keyfiles.read_public(line.decode())
    assert refused.value.code == "public_key_unreadable"


def test_every_cut_of_a_file_is_refused_cleanly(tmp_path: Path) -> None:
    for text in (
        written("ecdsa-nistp256", "pkcs8", False),
        written("ecdsa-nistp256", "pkcs8", True),
        written("ecdsa-nistp256", "traditional", True),
        keyfiles.openssh_private("ed25519", stored("ed25519")).open(),
    ):
        head, _, tail = text.rstrip(b"\n").rpartition(b"\n")
        first = head.index(b"\n") + 1
        for end in range(first, len(head), 3):
            assert code(head[:end] + b"\n" + tail, PASSPHRASE) in ("private_key_unreadable", "passphrase_wrong")


@pytest.mark.parametrize("bits", [1024, 2047, 2056])
def test_an_rsa_key_under_2048_bits_is_refused_unless_it_is_allowed(bits: int, tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "rsa", "-b", bits, "-N", "", "-f", tmp_path / "key")
    text, line = Secret((tmp_path / "key").read_bytes()), (tmp_path / "key.pub").read_text()
    if bits < 2048:
        assert code(text) == public_code(line) == "key_weak"
    public, form = keyfiles.read_private(text, allow_weak=True)
    assert public.type == keyfiles.read_public(line, allow_weak=True).type == f"rsa-{bits}"
    assert bool(keyfiles.warnings(public.type)) == (bits < 2048)
    assert keyfiles.read_private(keyfiles.openssh_private(public.type, form), allow_weak=True) == (public, form)


def test_an_rsa_key_that_no_sshd_takes_is_refused_always(tmp_path: Path) -> None:
    made = subprocess.run(["openssl", "genrsa", "-traditional", "768"], capture_output=True, check=True).stdout
    with pytest.raises(Invalid, match="no sshd accepts less than 1024"):
        keyfiles.read_private(Secret(made), allow_weak=True)


def openssh_file(body: bytes) -> bytes:
    lines = base64.encodebytes(body)
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + lines + b"-----END OPENSSH PRIVATE KEY-----\n"


def body_of(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.split(b"\n")[1:-2]))


def test_a_file_whose_two_halves_do_not_belong_together_is_refused() -> None:
    mine, _ = a_key("ed25519")
    theirs, _ = keyfiles.generate("ed25519")
    body = body_of(keyfiles.openssh_private("ed25519", stored("ed25519")).open())
    assert keyfiles.read_private(Secret(openssh_file(body)))[0] == mine
    assert code(openssh_file(body.replace(mine.blob[-32:], theirs.blob[-32:]))) == "key_mismatch"
    assert code(openssh_file(body.replace(mine.blob, theirs.blob, 1))) == "private_key_unreadable"


def seconds(text: bytes) -> float:
    """Return how long the processor works until a file is refused."""
    start = time.process_time()
    assert code(text, PASSPHRASE) == "private_key_unreadable"
    return time.process_time() - start


def test_a_header_that_asks_for_years_of_bcrypt_is_refused_at_once(tmp_path: Path) -> None:
    file = generated_by_ssh_keygen("ed25519", tmp_path / "key", "-N", "x", "-a", "16")
    body = body_of(file.read_bytes())
    place = body.index(struct.pack(">I", 16), body.index(b"bcrypt") + 30)
    for rounds in (0, keyfiles.BCRYPT_ROUNDS + 1, 2**31, 2**32 - 1):
        assert seconds(openssh_file(body[:place] + struct.pack(">I", rounds) + body[place + 4 :])) < 0.5


def pkcs8(*scheme: bytes) -> bytes:
    inner = der(0x30, der(0x30, *scheme), der(0x04, bytes(48)))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + base64.encodebytes(inner) + (b"-----END ENCRYPTED PRIVATE KEY-----\n")


def der(tag: int, *content: bytes) -> bytes:
    value = b"".join(content)
    length = bytes([len(value)]) if len(value) < 128 else b"\x82" + struct.pack(">H", len(value))
    return bytes([tag]) + length + value


def number(value: int) -> bytes:
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


PBES2, PBKDF2, SCRYPT, PBE_SHA1_3DES = (
    der(0x06, bytes.fromhex(oid))
    for oid in ("2a864886f70d01050d", "2a864886f70d01050c", "2b06010401da47040b", "2a864886f70d010c0103")
)
AES = der(0x30, der(0x06, bytes.fromhex("60864801650304012a")), der(0x04, bytes(16)))


@pytest.mark.parametrize(
    "scheme",
    [
        (PBES2, der(0x30, der(0x30, PBKDF2, der(0x30, der(0x04, bytes(8)), number(keyfiles.PBKDF_ITERATIONS + 1))), AES)),
        (PBES2, der(0x30, der(0x30, PBKDF2, der(0x30, der(0x04, bytes(8)), number(2**100))), AES)),
        (PBES2, der(0x30, der(0x30, SCRYPT, der(0x30, der(0x04, bytes(8)), number(2**22), number(8), number(1))), AES)),
        (PBES2, der(0x30, der(0x30, SCRYPT, der(0x30, der(0x04, bytes(8)), number(2), number(1), number(2**30))), AES)),
        (PBE_SHA1_3DES, der(0x30, der(0x04, bytes(8)), number(2**31))),
        (PBES2, der(0x30, der(0x30, PBKDF2, der(0x30, der(0x04, bytes(8)))), AES)),
        (PBES2, der(0x30)),
        (),
    ],
)
def test_a_header_that_asks_for_too_much_derivation_is_refused_at_once(scheme: tuple[bytes, ...]) -> None:
    assert seconds(pkcs8(*scheme)) < 0.5


def test_a_refusal_quotes_nothing_of_the_file() -> None:
    text = keyfiles.openssh_private("ed25519", stored("ed25519"), "canary").open()
    for broken in (text.replace(b"\n-----END", b"AAAA\n-----END"), text[:200], text.replace(b"b3Bl", b"b3Bm")):
        with pytest.raises(Invalid) as refused:
            keyfiles.read_private(Secret(broken), Secret("canary"))
        shown = f"{refused.value} {refused.value.evidence} {refused.value.__cause__}"
        assert "canary" not in shown
        assert text.split(b"\n")[2].decode() not in shown
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


# -- public keys


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_public_key_is_read_and_written_in_one_spelling(key_type: KeyType) -> None:
    public, _ = a_key(key_type)
    assert keyfiles.read_public(f"  {public.line()}   some  body \n") == PublicKey(key_type, public.blob, "some  body")
    assert public.line() == key(key_type).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_ssh_keygen_agrees_with_the_fingerprints(tmp_path: Path) -> None:
    for key_type in KEY_TYPES:
        public, _ = a_key(key_type)
        (tmp_path / "key.pub").write_text(public.line() + "\n")
        assert ssh_keygen("-l", "-f", tmp_path / "key.pub").split()[1] == public.fingerprint
        md5 = ssh_keygen("-l", "-E", "md5", "-f", tmp_path / "key.pub").split()[1]
        assert md5 == "MD5:" + public.fingerprint_md5


ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAI"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 !!!!",
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIKV6mqQzZ0n6ZYZzZz0nq3u3s4b1d4v6t8x9y0z1A2B3 wrong type",
        "ssh-dss AAAAB3NzaC1kc3M= old",
        "sk-ssh-ed25519@openssh.com AAAA token",
        "ssh-ed25519-cert-v01@openssh.com AAAA certificate",
        'from="10.0.0.0/8" ssh-ed25519 AAAA options',
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "x" * 70_000,
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        keyfiles.read_public(text)
    assert refused.value.code == "public_key_unreadable"


def test_two_lines_are_not_one_key() -> None:
    line = a_key("ed25519")[0].line()
    with pytest.raises(Invalid):
        keyfiles.read_public(f"{line}\n{line}")


def test_new_keys_are_new() -> None:
    assert len({keyfiles.generate("ed25519")[1].open() for _ in range(100)}) == 100


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_key_made_here_signs_what_ssh_keygen_verifies(key_type: KeyType, tmp_path: Path) -> None:
    file = private_file(tmp_path / "key", keyfiles.openssh_private(key_type, stored(key_type)).open())
    (tmp_path / "message").write_text("message")
    ssh_keygen("-Y", "sign", "-n", "test", "-f", file, tmp_path / "message")
    (tmp_path / "signers").write_text("me " + a_key(key_type)[0].line() + "\n")
    verify = ["ssh-keygen", "-Y", "verify", "-n", "test", "-I", "me", "-f", "signers", "-s", "message.sig"]
    with (tmp_path / "message").open("rb") as message:
        assert subprocess.run(verify, stdin=message, cwd=tmp_path, check=False, capture_output=True).returncode == 0


def test_a_refusal_names_all_kinds_that_are_read() -> None:
    """Not those alone that can be made: RSA of any size up to the limit is taken in."""
    with pytest.raises(Invalid, match="of ed25519, ecdsa-nistp256, -nistp384 or -nistp521, or of RSA to 4096 bits"):
        keyfiles.read_private(Secret(b"no key"))
