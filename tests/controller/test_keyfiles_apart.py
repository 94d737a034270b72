"""What it costs to read a private key file that somebody gives: bounded, and nobody else's time."""

import asyncio
import base64
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import apart, ppk
from controller.model import Secret
from tests.controller.test_keyfiles import der, number

PASSPHRASE = "open sesame"
WORST = {
    "bcrypt": ("ssh-keygen", str(keyfiles.BCRYPT_ROUNDS)),
    "PBKDF2 with SHA-1": ("-iter", str(keyfiles.PBKDF_ITERATIONS), "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1"),
    "PBKDF2 with SHA-512": ("-iter", str(keyfiles.PBKDF_ITERATIONS), "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"),
    "PKCS#12": ("-iter", str(keyfiles.PBKDF_ITERATIONS), "-v1", "PBE-SHA1-3DES"),
    # As much memory as openssl(1) takes, as many times as are allowed.
    "Argon2": ("ppk", str(keyfiles.ARGON2_BYTES >> 10), str(keyfiles.ARGON2_ALL_BYTES // keyfiles.ARGON2_BYTES)),
    "scrypt": ("-scrypt", "-scrypt_N", "16384", "-scrypt_r", "8", "-scrypt_p", str(keyfiles.SCRYPT_BYTES >> 24)),
}


def written(directory: Path, *how: str) -> Secret:
    """A private key encrypted by ssh-keygen, openssl or us."""
    path = directory / "key"
    if how[0] == "ssh-keygen":
        kind = how[2:] or ("-t", "ed25519")
        subprocess.run(["ssh-keygen", "-q", *kind, "-a", how[1], "-N", PASSPHRASE, "-f", path], check=True)
        return Secret(path.read_bytes())
    if how[0] == "ppk":
        stored = keyfiles.generate("ed25519")[1]
        with mock.patch.multiple(ppk, MEMORY_KIB=int(how[1]), PASSES=int(how[2])):
            return keyfiles.private_text("ed25519", stored, "ppk3", "", Secret(PASSPHRASE))
    path.write_bytes(subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], check=True, capture_output=True).stdout)
    argv = ["openssl", "pkcs8", "-topk8", "-in", str(path), "-passout", f"pass:{PASSPHRASE}", *how]
    return Secret(subprocess.run(argv, check=True, capture_output=True).stdout)


def read(text: Secret, passphrase: str = PASSPHRASE) -> tuple[keyfiles.PublicKey, Secret]:
    return asyncio.run(apart.read_private(text, Secret(passphrase)))


def spent(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def seconds_of(who: int, work: Callable[[], object]) -> float:
    before = spent(who)
    work()
    return spent(who) - before


@pytest.mark.parametrize("how", WORST.values(), ids=WORST)
def test_the_worst_file_that_is_read_takes_less_than_two_seconds_and_none_of_ours(how: tuple[str, ...], tmp_path: Path) -> None:
    text = written(tmp_path, *how)
    ours = spent(resource.RUSAGE_SELF)
    assert seconds_of(resource.RUSAGE_CHILDREN, lambda: read(text)) < 2
    # While the rest of this process waits for the interpreter's lock, it spends.
    assert spent(resource.RUSAGE_SELF) - ours < 0.3


def test_what_is_read_apart_is_what_is_read_here(tmp_path: Path) -> None:
    text = written(tmp_path, "ssh-keygen", "4")
    assert read(text) == keyfiles.read_private(text, Secret(PASSPHRASE))


@pytest.mark.parametrize(
    ("text", "passphrase", "code"),
    [("no key", PASSPHRASE, "private_key_unreadable"), (None, "not it", "passphrase_wrong"), (None, "", "passphrase_wrong")],
)
def test_a_refusal_comes_through_as_it_is(text: str | None, passphrase: str, code: str, tmp_path: Path) -> None:
    given = written(tmp_path, "ssh-keygen", "4") if text is None else Secret(text)
    with pytest.raises(Invalid) as here:
        keyfiles.read_private(given, Secret(passphrase))
    with pytest.raises(Invalid) as there:
        read(given, passphrase)
    assert (there.value.code, there.value.message) == (code, here.value.message) == (here.value.code, there.value.message)


def huge_rsa() -> Secret:
    """A well-formed private key of 14,112 bits: Mersenne primes are large and cost nothing to find."""
    p, q, e = 2**9689 - 1, 2**4423 - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = [0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)]
    body = der(0x30, *map(number, numbers))
    return Secret(b"-----BEGIN RSA PRIVATE KEY-----\n" + base64.encodebytes(body) + b"-----END RSA PRIVATE KEY-----\n")


def test_a_key_that_takes_minutes_to_be_looked_at_is_refused_by_its_size() -> None:
    start = time.process_time()
    with pytest.raises(Invalid, match="14112 bits"):
        keyfiles.read_private(huge_rsa())
    assert time.process_time() - start < 1


def test_an_rsa_key_whose_numbers_do_not_belong_together_is_refused() -> None:
    key = keyfiles.signing_key("rsa-2048", keyfiles.generate("rsa-2048")[1])
    n = key.private_numbers()  # type: ignore[union-attr]
    numbers = [0, n.public_numbers.n, 65537, n.d, n.p + 2, n.q, n.dmp1, n.dmq1, n.iqmp]  # type: ignore[union-attr]
    body = base64.encodebytes(der(0x30, *map(number, numbers)))
    with pytest.raises(Invalid) as refused:
        keyfiles.read_private(Secret(b"-----BEGIN RSA PRIVATE KEY-----\n" + body + b"-----END RSA PRIVATE KEY-----\n"))
    assert refused.value.code == "private_key_unreadable"


@pytest.mark.parametrize("limit", [("PROCESSOR_SECONDS", 1), ("MEMORY_BYTES", 40 << 20), ("SECONDS", 0.1)], ids=str)
def test_a_file_that_takes_too_much_all_the_same_is_refused(
    limit: tuple[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worst that is read, and of the largest kind: together more than a second, the least that can be asked of a process.
    largest = ("-t", "rsa", "-b", "4096") if limit[0] == "PROCESSOR_SECONDS" else ()
    text = written(tmp_path, *WORST["bcrypt"], *largest)
    monkeypatch.setattr(apart, *limit)
    with pytest.raises(Invalid) as refused:
        read(text)
    assert refused.value.code == "private_key_unreadable"
    assert "takes more than" in refused.value.message
