"""kps kms: fields, exit codes, bytes in files and pipes, and OpenSSL at the other end."""

import base64
import json
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from controller.cli.reference import FIELDS
from controller.settings import Settings
from tests.controller.faces import KPS, here, program

Kps = Callable[..., Result]
OAEP = ("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256")


@pytest.fixture
def kps(settings: Settings, made: Any) -> Kps:
    def run(*words: str | Path, stdin: str | None = None, code: int = 0) -> Result:
        result = here(settings.home, "kms", *map(str, words), stdin=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return run


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def code_of(result: Result) -> str:
    assert result.stdout == ""
    return str(json.loads(result.stderr)["error"]["code"])


def openssl(*words: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True).stdout


def test_a_master_key_has_the_fields_of_the_contract(kps: Kps) -> None:
    made = parsed(kps("key", "create", "shop/orders", "--description", "for the shop", "--json"))
    fields = set(FIELDS["master key"])
    assert set(made) == fields - {"versions", "tags", "aliases"}
    shown = parsed(kps("key", "show", "shop/orders", "--json"))
    assert set(shown) == fields
    assert parsed(kps("key", "show", made["id"], "--json")) == shown
    assert [one["alias"] for one in parsed(kps("key", "list", "--json"))] == ["kps/default", "shop/orders"]
    assert "for the shop" in kps("key", "show", "shop/orders").stdout
    assert made["id"] in kps("key", "list").stdout


def test_a_key_is_made_with_its_tags_or_not_at_all(kps: Kps) -> None:
    kps("key", "create", "shop", "--tag", "stage=prod", "--tag", "team=shop")
    assert parsed(kps("key", "show", "shop", "--json"))["tags"] == {"stage": "prod", "team": "shop"}
    kps("key", "create", "ours", "--external", "--tag", "stage=prod")
    assert len(parsed(kps("key", "list", "--tag", "stage=prod", "--json"))) == 2
    assert code_of(kps("key", "create", "bad", "--tag", "stage=a*b", "--json", code=2)) == "tag_value_unusable"
    assert code_of(kps("key", "show", "bad", "--json", code=3)) == "master_key_not_found"


def test_the_life_of_a_key(kps: Kps) -> None:
    kps("key", "create", "orders")
    assert parsed(kps("key", "disable", "orders", "--json"))["state"] == "disabled"
    assert code_of(kps("encrypt", "--key", "orders", "--json", stdin="x", code=4)) == "master_key_disabled"
    assert parsed(kps("key", "enable", "orders", "--json"))["state"] == "enabled"
    assert parsed(kps("key", "rotate", "orders", "--json"))["version"] == 2
    assert parsed(kps("key", "rotation", "orders", "--every", "90", "--json"))["rotation"]["every_days"] == 90
    assert parsed(kps("key", "rotation", "orders", "--every", "30", "--json"))["rotation"]["every_days"] == 30
    assert "every 30 days" in kps("key", "rotation", "orders").stdout
    assert parsed(kps("key", "rotation", "orders", "--off", "--json"))["rotation"]["every_days"] is None
    kps("key", "rotation", "orders", "--off", "--every", "30", code=2)
    assert code_of(kps("key", "delete", "orders", "--days", "6", "--json", code=2)) == "pending_days_unusable"
    pending = parsed(kps("key", "delete", "orders", "--days", "7", "--json"))
    assert (pending["state"], bool(pending["deletes_at"])) == ("pending_deletion", True)
    assert parsed(kps("key", "cancel-deletion", "orders", "--json"))["state"] == "disabled"
    kps("key", "rename", "orders", "sales")
    kps("key", "describe", "sales", "what is sold")
    assert code_of(kps("key", "show", "orders", "--json", code=3)) == "master_key_not_found"
    assert code_of(kps("key", "disable", "kps/default", "--json", code=4)) == "master_key_default"


def test_tags_and_further_aliases(kps: Kps) -> None:
    kps("key", "create", "orders")
    assert parsed(kps("key", "tag", "orders", "stage=prod", "team=shop", "--json")) == {"stage": "prod", "team": "shop"}
    kps("key", "untag", "orders", "team")
    kps("key", "untag", "orders", "team", code=3)
    assert len(parsed(kps("key", "list", "--tag", "stage=prod", "--json"))) == 1
    assert parsed(kps("key", "list", "--tag", "stage=test", "--json")) == []
    alias = parsed(kps("alias", "add", "alias/current", "orders", "--json"))
    assert set(alias) == set(FIELDS["further alias"])
    assert parsed(kps("key", "show", "alias/current", "--json"))["aliases"] == ["alias/current"]
    kps("key", "create", "next")
    kps("alias", "move", "alias/current", "next")
    assert "alias/current" in kps("alias", "list").stdout
    kps("alias", "delete", "alias/current")
    kps("key", "show", "alias/current", code=3)


def test_what_is_encrypted_goes_through_pipes_and_files(kps: Kps, tmp_path: Path) -> None:
    kps("key", "create", "orders")
    made = kps("encrypt", "--key", "orders", "--additional-data", "order 1", stdin="attack at dawn").stdout
    assert len(base64.b64decode(made)) == 124 + 16
    assert kps("decrypt", "--additional-data", "order 1", stdin=made).stdout == "attack at dawn"
    assert code_of(kps("decrypt", "--json", stdin=made, code=2)) == "ciphertext_damaged"
    (tmp_path / "plain").write_bytes(bytes(range(256)))
    kps("encrypt", "--key", "orders", "--in", tmp_path / "plain", "--out", tmp_path / "sealed")
    assert (tmp_path / "sealed").read_bytes()[:4] == b"kpsc"
    assert stat.S_IMODE((tmp_path / "sealed").stat().st_mode) == 0o600
    answer = parsed(kps("decrypt", "--in", tmp_path / "sealed", "--out", tmp_path / "back", "--json"))
    assert set(answer) == {"key_id", "algorithm"}
    assert (tmp_path / "back").read_bytes() == bytes(range(256))
    assert code_of(kps("decrypt", "--in", tmp_path / "sealed", "--out", tmp_path / "back", "--json", code=4)) == "file_exists"
    kps("key", "create", "other")
    kps("re-encrypt", "--to", "other", "--in", tmp_path / "sealed", "--out", tmp_path / "moved")
    moved = parsed(kps("decrypt", "--in", tmp_path / "moved", "--json"))
    assert base64.b64decode(moved["plaintext"]) == bytes(range(256))
    kps("encrypt", "--key", "orders", "--in", tmp_path / "none", code=2)
    assert code_of(kps("encrypt", "--key", "orders", "--json", stdin="x" * 4097, code=2)) == "plaintext_too_long"


def test_a_failed_decryption_leaves_no_file(kps: Kps, tmp_path: Path) -> None:
    kps("decrypt", "--out", tmp_path / "back", stdin="nothing", code=2)
    assert not (tmp_path / "back").exists()


def test_data_keys(kps: Kps, tmp_path: Path) -> None:
    kps("key", "create", "orders")
    sealed, plain = kps("create-data-key", "--key", "orders", "--bits", "512").stdout.split()
    answer = parsed(kps("decrypt-data-key", "--key", "orders", "--json", stdin=sealed))
    assert (answer["plaintext"], answer["length"]) == (plain, 64)
    assert len(kps("create-data-key", "--key", "orders", "--without-plaintext").stdout.split()) == 1
    (tmp_path / "own").write_bytes(b"k" * 48)
    kps("encrypt-data-key", "--key", "orders", "--in", tmp_path / "own", "--out", tmp_path / "sealed")
    assert kps("decrypt-data-key", "--key", "orders", "--in", tmp_path / "sealed").stdout == "k" * 48
    pair = parsed(kps("create-data-key-pair", "--key", "orders", "--spec", "ECC_NIST_P256", "--json"))
    assert set(pair) == {"key_id", "spec", "public_key", "ciphertext", "private_key"}
    opened = parsed(kps("decrypt", "--json", stdin=pair["ciphertext"]))
    assert opened["plaintext"] == pair["private_key"]
    assert re.fullmatch(r"[0-9a-f]{128}\n", kps("random").stdout)


def test_openssl_encrypts_and_verifies_with_what_is_given_out(kps: Kps, tmp_path: Path) -> None:
    kps("key", "create", "box", "--spec", "RSA_2048", "--usage", "ENCRYPT_DECRYPT")
    (tmp_path / "box.pem").write_text(kps("key", "public-key", "box").stdout)
    (tmp_path / "plain").write_bytes(b"attack at dawn")
    sealed = tmp_path / "sealed"
    openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", tmp_path / "box.pem", *OAEP, "-in", tmp_path / "plain", "-out", sealed)
    assert kps("decrypt", "--key", "box", "--in", sealed).stdout == "attack at dawn"
    kps("key", "create", "pen", "--spec", "EC_P384")
    kps("key", "public-key", "pen", "--out", tmp_path / "pen.pem")
    named = ("--key", "pen", "--algorithm", "ECDSA_SHA_384")
    kps("sign", *named, "--in", tmp_path / "plain", "--out", tmp_path / "sig")
    done = openssl("dgst", "-sha384", "-verify", tmp_path / "pen.pem", "-signature", tmp_path / "sig", tmp_path / "plain")
    assert done == b"Verified OK\n"
    assert "good" in kps("verify", *named, "--in", tmp_path / "plain", "--signature", tmp_path / "sig").stdout
    assert "NOT good" in kps("verify", *named, "--signature", tmp_path / "sig", stdin="x", code=1).stdout
    (tmp_path / "digest").write_bytes(openssl("dgst", "-sha384", "-binary", tmp_path / "plain"))
    (tmp_path / "sig64").write_text(kps("sign", *named, "--digest", "--in", tmp_path / "digest").stdout)
    assert parsed(kps("verify", *named, "--in", tmp_path / "plain", "--signature", tmp_path / "sig64", "--json"))["valid"] is True


def test_codes(kps: Kps, tmp_path: Path) -> None:
    kps("key", "create", "hooks", "--spec", "HMAC_256")
    named = ("--key", "hooks", "--algorithm", "HMAC_SHA_256")
    kps("mac", *named, "--out", tmp_path / "mac", stdin="message")
    assert len((tmp_path / "mac").read_bytes()) == 32
    assert parsed(kps("verify-mac", *named, "--mac", tmp_path / "mac", "--json", stdin="message"))["valid"] is True
    assert parsed(kps("verify-mac", *named, "--mac", tmp_path / "mac", "--json", stdin="other", code=1))["valid"] is False


def test_material_is_imported_with_openssl_as_the_help_says(kps: Kps, tmp_path: Path) -> None:
    kps("key", "create", "ours", "--external")
    public, token = tmp_path / "public.der", tmp_path / "token.bin"
    kps("key", "import-parameters", "ours", "--public-key", public, "--token", token)
    (tmp_path / "material").write_bytes(bytes(range(32)))
    openssl(
        "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", public, *OAEP,
        "-in", tmp_path / "material", "-out", tmp_path / "material.enc",
    )  # fmt: skip
    given = ("--token", token, "--material", tmp_path / "material.enc")
    kps("key", "import", "ours", *given, "--expires", "yesterday", code=2)
    assert code_of(kps("key", "import", "ours", *given, "--expires", "2001-01-01", "--json", code=2)) == "import_expiry_in_past"
    found = parsed(kps("key", "import", "ours", *given, "--expires", "2999-01-31T12:00Z", "--json"))
    assert (found["state"], found["material_expires_at"]) == ("enabled", "2999-01-31T12:00:00.000Z")
    sealed = kps("encrypt", "--key", "ours", stdin="x").stdout
    assert parsed(kps("key", "delete-material", "ours", "--json"))["state"] == "pending_import"
    assert code_of(kps("decrypt", "--json", stdin=sealed, code=4)) == "master_key_without_material"


def test_grants(kps: Kps) -> None:
    kps("key", "create", "orders")
    kps("grant", "create", "orders", "--operation", "decrypt-data", code=2)
    kps("grant", "create", "orders", "--to", "nobody", "--operation", "decrypt-data", code=2)
    made = parsed(kps("grant", "create", "orders", "--to-everyone", "--operation", "decrypt-data", "--json"))
    assert set(made) == set(FIELDS["grant"])
    named = parsed(kps("grant", "create", "orders", "--to", "administrator", "--operation", "encrypt-data", "--json"))
    assert named["grantee"] == named["issuer"]
    assert [one["id"] for one in parsed(kps("grant", "list", "orders", "--json"))] == [made["id"], named["id"]]
    assert len(parsed(kps("grant", "retirable", "--json"))) == 2
    kps("grant", "retire", "orders", made["id"])
    kps("grant", "revoke", "orders", named["id"])
    assert parsed(kps("grant", "list", "orders", "--json")) == []


def test_bytes_pass_through_the_program_as_they_are(settings: Settings, made: Any, tmp_path: Path) -> None:
    """As a program, not in this process: stdin and stdout are pipes of bytes."""
    (tmp_path / "plain").write_bytes(bytes(range(256)))
    done = program(settings.home, "kms", "encrypt", "--key", "kps/default", "--in", str(tmp_path / "plain"))
    assert done.returncode == 0, done.stderr
    (tmp_path / "sealed").write_text(done.stdout)
    with (tmp_path / "back").open("wb") as back:
        words = [str(KPS), "kms", "decrypt", "--home", str(settings.home), "--in", str(tmp_path / "sealed")]
        assert subprocess.run(words, stdout=back).returncode == 0
    assert (tmp_path / "back").read_bytes() == bytes(range(256))
