"""The other formats of key files: .ppk, RFC 4716, PEM, a bare number; and one made of another. Judged by who invented them."""

import asyncio
import base64
import hmac
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import apart, password, points
from controller.keyfiles.fields import mpint, packed, strings
from controller.model import KeyFormat, KeyType, Secret
from kpsagent import keys
from tests.drills import formats
from tests.drills.formats import WORD, a_key, ours
from tests.drills.fuzz.keyfiles import SECOND_VERSION
from tests.needs import lacking

CHEAP = ("ed25519", "ecdsa-nistp256", "rsa-2048")


@pytest.fixture(scope="module")
def bench() -> Iterator[formats.Bench]:
    missing = formats.lacking()
    if missing:
        lacking(f"apt-get install {' '.join(missing)}")
    with formats.benched() as made:
        yield made


def refusal(work: Callable[[], object]) -> Invalid:
    with pytest.raises(Invalid) as refused:
        work()
    return refused.value


def private(text: bytes, word: str | None = WORD) -> Invalid:
    return refusal(lambda: keyfiles.read_private(Secret(text), None if word is None else Secret(word)))


def public(text: str) -> Invalid:
    found = refusal(lambda: keyfiles.read_public(text))
    assert found.code == "public_key_unreadable"
    return found


# -- round trips: a sample of `make formats`


@pytest.mark.parametrize("row", formats.ROWS, ids=lambda row: f"{row.name} {row.by}")
def test_a_key_comes_through_as_it_is(row: formats.Row, bench: formats.Bench) -> None:
    for kind in ("ed25519", "rsa-2048") if "PKCS#1" in row.name else ("ed25519", "ecdsa-nistp521"):
        if kind not in row.without:
            for word in (None, WORD) if row.protected else (None,):
                assert formats.tried(bench, row, kind, word) == ""


@pytest.mark.parametrize("form", keyfiles.PRIVATE_FORMS)
@pytest.mark.parametrize("kind", CHEAP)
def test_what_we_write_we_read(kind: KeyType, form: KeyFormat) -> None:
    if (kind, form) == ("ed25519", "pem"):
        assert refusal(lambda: ours(kind, form, None)).code == "format_unusable"
        return
    expected = (a_key(kind)[0], Secret(a_key(kind)[1]))
    assert keyfiles.read_private(Secret(ours(kind, form, None))) == expected
    text = ours(kind, form, WORD)
    assert keyfiles.read_private(Secret(text), Secret(WORD)) == expected
    assert private(text, "another").code == private(text, None).code == private(text, "").code == "passphrase_wrong"


@pytest.mark.parametrize("kind", CHEAP)
def test_plain_pkcs8_is_byte_for_byte_what_openssl_writes(kind: KeyType) -> None:
    key = keyfiles.signing_key(kind, Secret(a_key(kind)[1]))
    assert ours(kind, "pkcs8", None) == key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(("form", "version"), [("ppk2", 2), ("ppk3", 3)])
@pytest.mark.parametrize("kind", CHEAP)
def test_a_plain_ppk_is_byte_for_byte_what_puttygen_writes(
    kind: KeyType, form: KeyFormat, version: int, bench: formats.Bench
) -> None:
    source, out = bench.fresh(ours(kind, "openssh", None)), bench.fresh()
    bench.run("puttygen", source, "-O", "private", "--ppk-param", f"version={version}", "-o", out)
    assert out.read_bytes() == ours(kind, form, None)


def test_a_comment_goes_along_where_the_format_has_one() -> None:
    for form in ("openssh", "ppk2", "ppk3"):
        made = keyfiles.convert(Secret(ours("ed25519", form, None)), "public")  # type: ignore[arg-type]
        assert made.text.open().decode() == a_key("ed25519")[0].line("of kps") + "\n"
    made = keyfiles.convert(Secret(ours("ed25519", "ppk3", None)), "rfc4716", comment="another one")
    assert b'Comment: "another one"\n' in made.text.open()


def test_an_encrypted_openssh_file_keeps_its_comment(bench: formats.Bench) -> None:
    assert "of kps" in bench.run("ssh-keygen", "-l", "-f", private_file(bench, bench.fresh(ours("ed25519", "openssh", WORD))))


def private_file(bench: formats.Bench, path: Path) -> Path:
    """The same key without its passphrase: only then ssh-keygen shows the comment."""
    bench.run("ssh-keygen", "-p", "-P", WORD, "-N", "", "-f", path)
    return path


@pytest.mark.parametrize("word", [None, WORD])
def test_a_number_that_puttygen_writes_with_a_zero_before_it_is_read(word: str | None, bench: formats.Bench) -> None:
    key = ec.derive_private_key(2**255 + 3, ec.SECP256R1())
    text = keyfiles.private_text("ecdsa-nistp256", keyfiles.stored_form(key), "openssh")
    source, out = bench.fresh(text.open()), bench.fresh()
    bench.run("puttygen", source, "-O", "private-openssh", "-o", out, "--new-passphrase", bench.words(word))
    found, stored = keyfiles.read_private(Secret(out.read_bytes()), Secret(WORD))
    assert (found, stored) == (keyfiles.public_half(key), keyfiles.stored_form(key))
    if word is not None:
        assert private(out.read_bytes(), "wrong").code == "passphrase_wrong"


# -- .ppk, broken


@pytest.mark.parametrize("form", ["ppk2", "ppk3"])
@pytest.mark.parametrize("word", [None, WORD])
def test_no_byte_of_a_ppk_can_be_changed(form: KeyFormat, word: str | None) -> None:
    text = ours("ed25519", form, word)
    if word is not None:
        text = re.sub(rb"Argon2-Passes: \d+", b"Argon2-Passes: 1", re.sub(rb"Argon2-Memory: \d+", b"Argon2-Memory: 8", text))
    for at in range(0, len(text), 3):
        changed = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        if word is None and changed.lower() == text.lower():
            continue  # hexadecimal in capitals
        found = private(changed, word)
        assert found.code in ("private_key_unreadable", "passphrase_wrong")
        assert found.code == "private_key_unreadable" or word is not None


def remade(text: bytes, **parts: bytes) -> bytes:
    """A plain version 3 file with other parts, and the check sum that belongs to them."""
    lines = text.decode().split("\n")
    at = {line.split(":")[0]: number for number, line in enumerate(lines) if ":" in line}
    name = lines[0].split(": ")[1].encode()
    blobs = {
        each: base64.b64decode("".join(lines[at[each] + 1 : at[each] + 1 + int(lines[at[each]].split(": ")[1])]))
        for each in ("Public-Lines", "Private-Lines")
    }
    public, private = parts.get("public", blobs["Public-Lines"]), parts.get("private", blobs["Private-Lines"])
    name = parts.get("name", name)
    covered = b"".join(map(packed, (name, b"none", b"x", public, private)))
    mac = hmac.digest(b"", covered, "sha256")
    made = f"PuTTY-User-Key-File-3: {name.decode()}\nEncryption: none\nComment: x\n"
    for each, blob in (("Public-Lines", public), ("Private-Lines", private)):
        encoded = base64.b64encode(blob).decode()
        cut = [encoded[start : start + 64] for start in range(0, len(encoded), 64)]
        made += f"{each}: {len(cut)}\n" + "".join(f"{line}\n" for line in cut)
    return (made + f"Private-MAC: {mac.hex()}\n").encode()


def test_a_ppk_whose_check_sum_holds_is_looked_at_all_the_same() -> None:
    mine, _ = a_key("ed25519")
    text, other = ours("ed25519", "ppk3", None), keyfiles.generate("ed25519")[0]
    assert keyfiles.read_private(Secret(remade(text)))[0] == mine
    assert private(remade(text, public=other.blob)).code == "key_mismatch"
    seed = packed(a_key("ed25519")[1])
    assert "something follows after the private half" in private(remade(text, private=seed + b"x")).message
    for broken in (b"", seed[:-1], packed(bytes(33)), b"\xff" * 8):
        assert private(remade(text, private=broken)).code == "private_key_unreadable"
    for name in (b"ssh-rsa", b"ecdsa-sha2-nistp256"):
        assert private(remade(text, name=name, private=packed(b"\1") * 4)).code == "private_key_unreadable"
    other_name = remade(ours("ecdsa-nistp256", "ppk3", None), name=b"ecdsa-sha2-nistp384")
    assert "not of the kind" in private(other_name).message
    assert "not of the kind" in private(remade(text, public=mine.blob + b"x")).message
    assert "not used here" in private(remade(text, name=b"ssh-dss")).message
    curve = ours("ecdsa-nistp256", "ppk3", None)
    for number in (b"\0", b"\xff" * 32, b"\0" + b"\xff" * 32):
        assert private(remade(curve, private=packed(number))).code == "private_key_unreadable"
    numbers = ours("rsa-2048", "ppk3", None)
    for broken in (packed(b"\1") * 4, packed(b"\0") * 4):
        assert private(remade(numbers, private=broken)).code == "private_key_unreadable"


def test_an_ed25519_seed_that_ends_in_zeros_is_read_as_old_putty_wrote_it() -> None:
    seed = Secret(b"\1" * 30 + bytes(2))
    key = keyfiles.signing_key("ed25519", seed)
    text = keyfiles.private_text("ed25519", seed, "ppk3").open()
    assert keyfiles.read_private(Secret(remade(text, private=packed(b"\1" * 30)))) == (keyfiles.public_half(key), seed)


@pytest.mark.parametrize(
    ("line", "by", "why"),
    [
        (b"Argon2-Memory: 8192", b"Argon2-Memory: 4294967295", "KiB of memory"),
        (b"Argon2-Memory: 8192", b"Argon2-Memory: 262145", "KiB of memory"),
        (b"Argon2-Memory: 8192", b"Argon2-Memory: 7", "less than"),
        (b"Argon2-Passes: 13", b"Argon2-Passes: 4294967295", "passes over"),
        (b"Argon2-Passes: 13", b"Argon2-Passes: 65", "passes over"),
        (b"Argon2-Passes: 13", b"Argon2-Passes: 0", "less than"),
        (b"Argon2-Parallelism: 1", b"Argon2-Parallelism: 16777215", "lanes"),
        (b"Argon2-Parallelism: 1", b"Argon2-Parallelism: 0", "less than"),
        (b"Argon2-Passes: 13", b"Argon2-Passes: " + b"9" * 5000, "no number"),
        (b"Argon2-Passes: 13", b"Argon2-Passes: -1", "no number"),
        (b"Argon2id", b"scrypt", "key derivation"),
        (b"aes256-cbc", b"rot13", "encryption"),
        (b"Private-Lines: 1", b"Private-Lines: 999999999", "cut off"),
        (b"File-3", b"File-1", "version 2 and 3"),
        (b"File-3", b"File-4", "version 2 and 3"),
        (b"Comment: of kps\n", b"", "Comment"),
    ],
)
def test_a_ppk_that_asks_for_too_much_or_is_no_ppk_says_why(line: bytes, by: bytes, why: str) -> None:
    text = ours("ed25519", "ppk3", WORD)
    assert line in text
    found = private(text.replace(line, by, 1))
    assert (found.code, why in found.message) == ("private_key_unreadable", True), found.message


# -- what comes with a file, or instead of it


@pytest.mark.parametrize("form", keyfiles.PRIVATE_FORMS)
@pytest.mark.parametrize(
    "dress",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.rstrip(b"\n"),
        lambda text: b"\n\n" + text + b"\n\n",
    ],
    ids=["CRLF", "CR", "BOM", "no end", "blank lines"],
)
def test_line_ends_and_a_byte_order_mark_do_not_matter(form: KeyFormat, dress: Callable[[bytes], bytes]) -> None:
    for word in (None, WORD):
        text = dress(ours("ecdsa-nistp256", form, word))
        assert keyfiles.read_private(Secret(text), Secret(WORD))[0] == a_key("ecdsa-nistp256")[0]


def test_what_is_wrong_with_a_private_file_is_said_in_its_own_words() -> None:
    pem, ppk = ours("ecdsa-nistp256", "pem", None), ours("ecdsa-nistp256", "ppk3", None)
    body = base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
    protected = ours("ecdsa-nistp256", "pem", WORD)
    iv = protected.split(b",")[2].split(b"\n")[0]
    said = {
        "2 private keys in one file": pem + pem,
        "2 private keys": pem + ppk,
        "something follows after the key": ppk + b"and more",
        "UTF-16": b"\xff\xfe" + pem.decode().encode("utf-16-le"),
        "binary": body,
        "65538 bytes": b"x" * 65538,
        "this is a public key": a_key("ed25519")[0].line().encode(),
        "this is a certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "ssh.com's own format": b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n---- END SSH2 ENCRYPTED PRIVATE KEY ----",
        "DSA PRIVATE KEY is not read": b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n",
        "damaged": b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(body + b"x") + b"-----END EC PRIVATE KEY-----\n",
        "the file ends in the middle": pem[:-10],
        "its DEK-Info is damaged": protected.replace(iv, iv[:16]),
        "DEK-Info": protected.replace(b"AES-256-CBC", b"RC4"),
        "Base64": pem.replace(b"MHc", b"M*c"),
    }
    for words, text in said.items():
        found = private(text, None)
        assert (found.code, words in found.message) == ("private_key_unreadable", True), (words, found.message)


def test_the_halves_of_a_sec1_file_must_belong_together() -> None:
    def point(kind: KeyType) -> bytes:
        return keyfiles.generate(kind)[0].blob[-65:]

    pem = ours("ecdsa-nistp256", "pem", None)
    body = base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
    for other in (point("ecdsa-nistp256"), a_key("ecdsa-nistp256")[0].blob[-65:-1] + b"x"):
        changed = base64.encodebytes(body.replace(a_key("ecdsa-nistp256")[0].blob[-65:], other))
        found = private(b"-----BEGIN EC PRIVATE KEY-----\n" + changed + b"-----END EC PRIVATE KEY-----\n")
        assert found.code in ("key_mismatch", "private_key_unreadable")


# -- public keys


@cache
def dsa_line() -> str:
    """A public key of ssh-dss, made by OpenSSL and written by ssh-keygen."""
    sizes = ("-pkeyopt", "dsa_paramgen_bits:1024", "-pkeyopt", "dsa_paramgen_q_bits:160")
    group = openssl("genpkey", "-genparam", "-algorithm", "DSA", *sizes, given=b"")
    with tempfile.NamedTemporaryFile() as file:
        file.write(group.encode())
        file.flush()
        key = openssl("genpkey", "-paramfile", file.name, given=b"")
    return keyfiles.read_public(openssl("pkey", "-pubout", given=key.encode())).line("old one")


def test_a_dsa_key_is_taken_in_and_warned_of(tmp_path: Path) -> None:
    found = keyfiles.read_public(dsa_line())
    assert (found.type, found.comment, found.line("old one")) == ("dsa", "old one", dsa_line())
    (tmp_path / "key.pub").write_text(dsa_line() + "\n")
    said = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=False).stdout
    assert not said or said.split()[1] == found.fingerprint  # OpenSSH 10 knows no DSA
    assert keys.parse(found.line()).type == "ssh-dss"  # a plan may name it
    assert "OpenSSH refuses it" in keyfiles.warnings("dsa")[0]
    assert keyfiles.read_public(keyfiles.rfc4716(found, "old one")) == found
    blob = base64.b64decode(dsa_line().split()[1])
    for changed in (blob + b"x", blob[:-1], blob[:-1] + bytes([blob[-1] ^ 1]), blob[:20]):
        public("ssh-dss " + base64.b64encode(changed).decode())


@pytest.mark.parametrize("kind", CHEAP)
def test_rfc_4716_is_restored_to_the_one_line_form(kind: KeyType) -> None:
    key, _ = a_key(kind)
    text = keyfiles.rfc4716(key, 'me "and" you')
    assert max(map(len, text.split("\n"))) <= 72
    assert keyfiles.read_public(text) == keyfiles.PublicKey(key.type, key.blob, 'me "and" you')
    folded = text.replace('Comment: "me', 'Subject: me\nx-Long: a very \\\nlong \\\nvalue\nComment: "m\\\ne')
    assert keyfiles.read_public(folded.replace("\n", "\r\n")).comment == 'me "and" you'
    assert keyfiles.read_public("\ufeff" + text) == keyfiles.read_public(text)


def test_a_comment_that_puttygen_could_not_read_is_cut() -> None:
    text = keyfiles.rfc4716(a_key("ed25519")[0], "ä" * 100)
    assert max(len(line.encode()) for line in text.split("\n")) <= 72
    assert keyfiles.read_public(text).comment == "ä" * 30


def point_off(blob: bytes) -> str:
    return base64.b64encode(blob[:-1] + bytes([blob[-1] ^ 1])).decode()


def test_what_is_wrong_with_a_public_key_is_said_in_its_own_words() -> None:
    key, _ = a_key("ed25519")
    curve, _ = a_key("ecdsa-nistp256")
    line, pem = key.line(), spki("ecdsa-nistp256")
    body = base64.b64decode("".join(pem.split("\n")[1:-2]))
    outside = base64.encodebytes(body[:-1] + bytes([body[-1] ^ 1])).decode()
    said = {
        "2 lines": line + "\n" + line,
        "2 keys": pem + pem,
        "2 keys in": keyfiles.rfc4716(key) * 2,
        "another kind of key": "ssh-rsa " + line.split()[1],
        "something follows": "ssh-ed25519 " + base64.b64encode(key.blob + b"x").decode(),
        "not on the curve": "ecdsa-sha2-nistp256 " + point_off(curve.blob),
        "not on the curve;": f"-----BEGIN PUBLIC KEY-----\n{outside}-----END PUBLIC KEY-----\n",
        "everybody can sign for": "ssh-ed25519 " + base64.b64encode(key.blob[:-32] + bytes(32)).decode(),
        "written in short": "ecdsa-sha2-nistp256 " + base64.b64encode(
            curve.blob[:-69] + packed(b"\2" + curve.blob[-64:-32])
        ).decode(),
        "options": "no-pty " + line,
        "in hardware": "sk-ssh-ed25519@openssh.com AAAA",
        "certificate": "ssh-ed25519-cert-v01@openssh.com AAAA",
        "x509": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "private key": ours("ed25519", "openssh", None).decode(),
        "a private key": ours("ed25519", "ppk3", None).decode(),
        "secp256k1": secp256k1_public(),
        "Base64": "ssh-ed25519 !!!!",
        "missing": "ssh-ed25519",
        "the middle of the key": keyfiles.rfc4716(key)[:-20],
        "no key": "x" * 70_000,
        "follows after the key": pem_of("PUBLIC KEY", body + b"x"),
    }  # fmt: skip
    for words, text in said.items():
        assert words in public(text).message, (words, public(text).message)


def test_an_rsa_key_that_is_no_product_of_two_primes_is_refused() -> None:
    key, _ = a_key("rsa-2048")
    e, n = (int.from_bytes(each, "big") for each in strings(key.blob, 3)[0][1:])
    for modulus in (n + 1, 2**2047, 751 * 2**2040 + 751):
        blob = b"".join(map(packed, (b"ssh-rsa", mpint(e), mpint(modulus))))
        assert "can be divided" in public("ssh-rsa " + base64.b64encode(blob).decode()).message
    for exponent in (1, 2, n + 2):
        blob = b"".join(map(packed, (b"ssh-rsa", mpint(exponent), mpint(n))))
        public("ssh-rsa " + base64.b64encode(blob).decode())


def test_pkcs8_of_the_second_version_is_read_and_its_halves_compared() -> None:
    body = base64.b64decode(SECOND_VERSION)
    found, _ = keyfiles.read_private(Secret(pem_of("PRIVATE KEY", body)))
    assert found.blob[-32:] == body[-32:]
    assert private(pem_of("PRIVATE KEY", body[:-1] + b"x").encode()).code == "key_mismatch"
    for broken in (body[:-1], body[:20], body + b"x", body.replace(b"\x04\x22", b"\x04\x21")):
        assert private(pem_of("PRIVATE KEY", broken).encode()).code == "private_key_unreadable"


def pem_of(label: str, body: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(body).decode()}-----END {label}-----\n"


def openssl(*words: str, given: bytes) -> str:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True).stdout.decode()


def spki(kind: KeyType) -> str:
    return openssl("pkey", "-pubout", given=ours(kind, "pkcs8", None))


def secp256k1_public() -> str:
    return openssl("ec", "-pubout", given=ec.generate_private_key(ec.SECP256K1()).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    ))  # fmt: skip


def test_which_32_bytes_are_a_key_of_ed25519() -> None:
    """Half of all numbers are no point; eight points, in more spellings, are of small order."""
    p = 2**255 - 19
    assert all(points.usable(keyfiles.generate("ed25519")[0].blob[-32:]) for _ in range(20))
    eighth = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
    for y in (0, 1, p - 1, eighth, p - eighth, p, p + 1, 2**255 - 1):
        for sign in (0, 1 << 255):
            assert not points.usable((y | sign).to_bytes(32, "little"))
    fit = sum(points.usable(y.to_bytes(32, "little")) for y in range(2, 402))
    assert 150 < fit < 250


# -- a bare number


@pytest.mark.parametrize("curve", keyfiles.SCALAR_CURVES)
def test_openssl_reads_what_becomes_of_a_bare_number(curve: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(keyfiles.SCALAR_CURVES[curve]())
    number, width = key.private_numbers().private_value, -(-key.key_size // 8)
    digits = f"{number:0{2 * width}x}"
    spellings = [
        digits,
        "0x" + digits.upper(),
        "00" + digits,
        " ".join(re.findall("..", digits)),
        re.sub("(..)", r"\1:", digits)[:-1],
    ]
    for spelt in (*spellings, digits[:40] + "\r\n    " + digits[40:] + "\n"):
        made = keyfiles.convert(Secret(spelt), "pkcs8", curve=curve)
        read = load_pem_private_key(made.text.open(), None)
        assert isinstance(read, ec.EllipticCurvePrivateKey)
        assert read.private_numbers() == key.private_numbers()
    shown = openssl("ec", "-noout", "-text", given=made.text.open())
    assert digits in "".join(shown.split("priv:")[1].split("pub:")[0].split()).replace(":", "").zfill(len(digits))
    assert (made.public is None) == (curve == "secp256k1")


def test_a_bare_number_that_is_none_says_why() -> None:
    def said(text: str, curve: str = "secp256k1") -> str:
        return refusal(lambda: keyfiles.convert(Secret(text), "pkcs8", curve=curve)).message

    assert "62 hexadecimal digits" in said("ab" * 31)
    assert "other than hexadecimal" in said("xy" * 32)
    assert "0, or too large" in said("00" * 32)
    assert "0, or too large" in said("ff" * 32)
    assert "no such curve" in said("ab" * 32, "nistp192")
    made = keyfiles.convert(Secret("11" * 32), "pem", curve="secp256k1")
    for to in ("openssh", "ppk3", "public"):
        again = refusal(lambda to=to: keyfiles.convert(made.text, to))  # type: ignore[misc]
        assert (again.code, "secp256k1" in again.message) == ("format_unusable", True)


# -- one file into another, apart


def test_a_conversion_apart_is_the_one_made_here() -> None:
    text, word = Secret(ours("rsa-2048", "ppk3", WORD)), Secret(WORD)

    async def all_of_them() -> None:
        made = await apart.convert(text, "pkcs8", passphrase=word)
        assert made == keyfiles.convert(text, "pkcs8", passphrase=word)
        protected = await apart.convert(text, "openssh", passphrase=word, new_passphrase=Secret("new"))
        assert keyfiles.read_private(protected.text, Secret("new"))[0] == a_key("rsa-2048")[0]
        with pytest.raises(Invalid) as refused:
            await apart.convert(text, "openssh", passphrase=Secret("wrong"))
        assert refused.value.code == "passphrase_wrong"

    asyncio.run(all_of_them())


def test_a_public_key_becomes_no_private_one() -> None:
    text = Secret(a_key("ed25519")[0].line("me"))
    assert keyfiles.convert(text, "rfc4716").text.open().decode() == keyfiles.rfc4716(a_key("ed25519")[0], "me")
    assert "format of private keys" in refusal(lambda: keyfiles.convert(text, "pkcs8")).message
    assert refusal(lambda: keyfiles.convert(text, "jwk")).code == "format_unusable"  # type: ignore[arg-type]


# -- a password that was encrypted to a key


def test_a_password_that_openssl_encrypted_is_opened(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(spki("rsa-2048"))
    argv = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", tmp_path / "key.pem", "-pkeyopt", "rsa_padding_mode:pkcs1"]
    sealed = subprocess.run(argv, input=b"Pa$$w0rd", capture_output=True, check=True).stdout
    text = base64.encodebytes(sealed).decode()
    stored = Secret(a_key("rsa-2048")[1])
    assert password.opened("rsa-2048", stored, password.check("rsa-2048", text)).open() == b"Pa$$w0rd"


def test_what_is_no_encrypted_password_says_why() -> None:
    stored = Secret(a_key("rsa-2048")[1])
    for words, kind, text in (
        ("RSA key", "ed25519", "AAAA"),
        ("not Base64", "rsa-2048", "!!"),
        ("for this key it would have 256", "rsa-2048", base64.b64encode(bytes(512)).decode()),
    ):
        found = refusal(lambda kind=kind, text=text: password.check(kind, text))  # type: ignore[misc]
        assert (found.code, words in found.message) == ("password_unreadable", True)
    other = keyfiles.signing_key("rsa-2048", keyfiles.generate("rsa-2048")[1]).public_key()
    for plain in (b"Pa$$w0rd", b"short", b"with a \0 NUL", b"\xff" * 9, b"x" * 200):
        key = other if plain == b"Pa$$w0rd" else keyfiles.signing_key("rsa-2048", stored).public_key()
        sealed = key.encrypt(plain, PKCS1v15())  # type: ignore[union-attr, call-arg]
        assert "no password" in refusal(lambda sealed=sealed: password.opened("rsa-2048", stored, sealed)).message  # type: ignore[misc]


# -- comments


def commented(raw: bytes) -> bytes:
    """A plain version 3 file with a comment that puttygen here would not write."""
    text = ours("ed25519", "ppk3", None).replace(b"Comment: of kps", b"Comment: " + raw)
    seed = packed(a_key("ed25519")[1])
    covered = b"".join(map(packed, (b"ssh-ed25519", b"none", raw, a_key("ed25519")[0].blob, seed)))
    return re.sub(rb"(?<=MAC: )\w+", hmac.digest(b"", covered, "sha256").hex().encode(), text)


@pytest.mark.parametrize(("raw", "text"), [(b"M\xfcller", "Müller"), ("Müller".encode(), "Müller"), (b"\x1b[2J", "?[2J")])
def test_a_comment_of_an_old_putty_is_read_and_none_is_obeyed_by_a_terminal(raw: bytes, text: str) -> None:
    made = keyfiles.convert(Secret(commented(raw)), "public")
    assert made.text.open().decode() == a_key("ed25519")[0].line(text) + "\n"
    assert keyfiles.read_public(a_key("ed25519")[0].line().encode() + b" " + raw).comment == text


def test_a_comment_that_is_no_text_is_made_one() -> None:
    assert keyfiles.read_public(a_key("ed25519")[0].line("\ud800")).comment == "?"
    made = keyfiles.convert(Secret(ours("ed25519", "openssh", None)), "ppk3", comment="a\nb\udcff")
    assert b"Comment: a?b?\n" in made.text.open()
