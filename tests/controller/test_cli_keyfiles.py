"""kps keypair import, export, convert and decrypt-password: files in and out, as people and programs use them."""

import base64
import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controller import keyfiles
from controller.model import Secret
from controller.store import Store
from tests.controller.faces import Kps, ending, program
from tests.controller.test_keyfiles_formats import dsa_line, openssl
from tests.drills.formats import WORD, a_key, ours


@pytest.fixture
def kps(settings: Any, made: Any) -> Kps:
    return ending(settings.home)


def nowhere(tmp_path: Path, *words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run kps where there is no home and no controller."""
    return program(tmp_path / "none", *map(str, words), stdin=stdin)


def file(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_what_is_exported_in_a_format_comes_in_again(kps: Kps, tmp_path: Path) -> None:
    kps("keypair", "create", "ops", "--type", "rsa-2048")
    shown = json.loads(kps("keypair", "show", "ops", "--json").stdout)
    for form in ("pem", "ppk3"):
        out = tmp_path / form
        kps("keypair", "export", "ops", "--format", form, "--passphrase-stdin", "--out", out, stdin=f"{WORD}\n")
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        again = kps("keypair", "import", form, "--private-key", out, "--passphrase-stdin", "--json", stdin=f"{WORD}\n")
        assert json.loads(again.stdout)["fingerprint"] == shown["fingerprint"]
        refused = kps("keypair", "import", "x", "--private-key", out, code=2)
        assert f"{out}: this private key is encrypted" in refused.stderr


def test_a_format_that_a_key_does_not_have_leaves_no_file_and_no_event(kps: Kps, store: Store, tmp_path: Path) -> None:
    kps("keypair", "create", "ops")
    refused = kps("keypair", "export", "ops", "--format", "pem", "--out", tmp_path / "out", code=2)
    assert "there is no traditional PEM of an ed25519 key" in refused.stderr
    assert not (tmp_path / "out").exists()
    kinds = [event.kind for event in store.events(store.caller_by_local_home().tenant_id, 0, None)]
    assert "keypair_exported" not in kinds


def test_an_old_key_is_taken_in_with_a_warning_or_not_at_all(kps: Kps, tmp_path: Path) -> None:
    taken = kps("keypair", "import", "old", "--public-key", file(tmp_path / "dsa.pub", dsa_line()))
    assert "warning: ssh-dss (DSA): OpenSSH refuses it" in taken.stderr
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", tmp_path / "weak"], check=True)
    for option, name in (("--public-key", "weak.pub"), ("--private-key", "weak")):
        refused = kps("keypair", "import", name.replace(".", "-"), option, tmp_path / name, "--json", code=2)
        assert json.loads(refused.stderr)["error"]["code"] == "key_weak"
        kept = kps("keypair", "import", name.replace(".", "-"), option, tmp_path / name, "--allow-weak", "--json")
        assert (json.loads(kept.stdout)["type"], bool(json.loads(kept.stdout)["warnings"])) == ("rsa-1024", True)
    assert "rsa-1024" in kps("keypair", "list").stdout


def test_what_puttygen_saves_is_taken_in_as_one_line(kps: Kps, tmp_path: Path) -> None:
    public, _ = a_key("ed25519")
    saved = file(tmp_path / "saved.pub", keyfiles.rfc4716(public, "from PuTTY").replace("\n", "\r\n"))
    kps("keypair", "import", "putty", "--public-key", saved)
    assert json.loads(kps("keypair", "show", "putty", "--json").stdout)["public_key"] == public.line("from PuTTY")


# -- convert: no home, no controller


def test_a_conversion_needs_no_home_and_leaves_none(tmp_path: Path) -> None:
    given, out = file(tmp_path / "key.ppk", ours("ed25519", "ppk3", WORD)), tmp_path / "key"
    done = nowhere(tmp_path, "keypair", "convert", given, "--to", "openssh", "--passphrase-stdin", "--out", out, stdin=WORD)
    assert (done.returncode, done.stdout) == (0, f"{out}: ed25519, {a_key('ed25519')[0].fingerprint}\n")
    assert "has no passphrase" in done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert keyfiles.read_private(Secret(out.read_bytes()))[0] == a_key("ed25519")[0]
    assert not (tmp_path / "none").exists()
    again = nowhere(tmp_path, "keypair", "convert", given, "--to", "openssh", "--passphrase-stdin", "--out", out, stdin=WORD)
    assert (again.returncode, "there is a file already" in again.stderr) == (4, True)


def test_with_two_passphrases_the_old_one_comes_first(kps: Kps, tmp_path: Path) -> None:
    given = file(tmp_path / "key.pem", ours("ecdsa-nistp256", "pkcs8", WORD))
    both = ("--passphrase-stdin", "--new-passphrase-stdin")
    made = json.loads(kps("keypair", "convert", given, "--to", "ppk3", *both, "--json", stdin=f"{WORD}\nnew one\n").stdout)
    public, _ = a_key("ecdsa-nistp256")
    assert keyfiles.read_private(Secret(made["private_key"]), Secret("new one"))[0] == public
    assert made["encrypted"] is True
    bare = json.loads(kps("keypair", "convert", given, "--to", "pkcs8", both[0], "--json", stdin=WORD).stdout)
    assert (bare["encrypted"], "ENCRYPTED" in bare["private_key"]) == (False, False)  # said to programs too
    assert (made["fingerprint"], made["fingerprint_md5"], made["type"]) == (
        public.fingerprint, public.fingerprint_md5, "ecdsa-nistp256",
    )  # fmt: skip
    swapped = kps("keypair", "convert", given, "--to", "ppk3", *both, stdin=f"new one\n{WORD}\n", code=2)
    assert "does not open" in swapped.stderr
    assert "2 lines" in kps("keypair", "convert", given, "--to", "ppk3", *both, stdin=f"{WORD}\n", code=2).stderr
    assert "never encrypted" in kps("keypair", "convert", given, "--to", "public", *both, code=2).stderr


def test_a_failed_conversion_names_the_file_and_leaves_none(kps: Kps, tmp_path: Path) -> None:
    given = file(tmp_path / "key.txt", b"\xff\xfe\x00binary")
    refused = kps("keypair", "convert", given, "--to", "pkcs8", "--out", tmp_path / "out", "--json", code=2)
    error = json.loads(refused.stderr)["error"]
    assert (error["code"], error["message"].startswith(f"{given}: ")) == ("private_key_unreadable", True)
    assert not (tmp_path / "out").exists()


def test_the_number_of_a_wallet_becomes_a_file_that_openssl_reads(kps: Kps, tmp_path: Path) -> None:
    given, out = file(tmp_path / "number", "0x" + "1f" * 32 + "\n"), tmp_path / "key.pem"
    made = json.loads(kps("keypair", "convert", given, "--curve", "secp256k1", "--to", "pkcs8", "--out", out, "--json").stdout)
    assert (made["type"], made["fingerprint"], made["out"]) == ("secp256k1", None, str(out))
    assert "ASN1 OID: secp256k1" in openssl("ec", "-noout", "-text", given=out.read_bytes())


# -- decrypt-password


def test_a_windows_password_is_opened_and_the_opening_is_on_record(kps: Kps, store: Store, tmp_path: Path) -> None:
    kps("keypair", "create", "windows", "--type", "rsa-2048")
    line = json.loads(kps("keypair", "show", "windows", "--json").stdout)["public_key"]
    file(tmp_path / "key.pub", line + "\n")
    pem = subprocess.run(["ssh-keygen", "-e", "-m", "PKCS8", "-f", tmp_path / "key.pub"], capture_output=True, check=True)
    argv = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", file(tmp_path / "key.pem", pem.stdout)]
    sealed = subprocess.run(argv, input=b"Pa$$w0rd", capture_output=True, check=True).stdout
    given = file(tmp_path / "encrypted", base64.encodebytes(sealed))
    assert kps("keypair", "decrypt-password", "windows", "--in", given).stdout == "Pa$$w0rd\n"
    opened = [event for event in store.events(store.caller_by_local_home().tenant_id, 0, None) if event.kind == "keypair_opened"]
    assert [(event.detail["purpose"], event.detail["name"]) for event in opened] == [("decrypt_password", "windows")]
    kps("keypair", "create", "other", "--type", "rsa-2048")
    wrong = kps("keypair", "decrypt-password", "other", "--in", given, "--json", code=2)
    assert json.loads(wrong.stderr)["error"]["code"] == "password_unreadable"
    kps("keypair", "create", "small")
    assert f"{given}: " in kps("keypair", "decrypt-password", "small", "--in", given, code=2).stderr
