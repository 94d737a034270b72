"""AES-GCM as root keys do it, in software and in the token, judged by Wycheproof's vectors (tests/corpus/vectors)."""

import json
from pathlib import Path
from typing import Any

import pytest

from controller.errors import Damaged
from controller.kms.root.file import FileRootKey
from controller.kms.root.pkcs11 import Pkcs11RootKey
from tests import roots

VECTORS = json.loads((Path(__file__).parents[1] / "corpus/vectors/aes_gcm_256.json").read_text())["tests"]


def judged(root: Any, vector: dict[str, str]) -> str:
    """Return what a root key makes of a vector, in Wycheproof's words."""
    given = {name: bytes.fromhex(vector[name]) for name in ("iv", "aad", "msg", "ct", "tag")}
    try:
        opened = root.unwrap(given["iv"] + given["ct"] + given["tag"], given["aad"])
    except Damaged:
        return "invalid"
    return "valid" if opened.open() == given["msg"] else "another text"


def test_there_are_vectors_of_both_kinds() -> None:
    assert len(VECTORS) == 66
    assert {vector["result"] for vector in VECTORS} == {"valid", "invalid"}


def test_a_root_key_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileRootKey, "MARK", b"")  # it is part of what is bound
    for vector in VECTORS:
        path = tmp_path / f"{vector['tcId']}.key"
        path.touch(0o600)
        path.write_bytes(bytes.fromhex(vector["key"]))
        assert judged(FileRootKey(path), vector) == vector["result"], vector


def test_a_root_key_in_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pkcs11

    root = roots.root("pkcs11", tmp_path)
    assert isinstance(root, Pkcs11RootKey)
    monkeypatch.setattr(Pkcs11RootKey, "MARK", b"")
    a = pkcs11.Attribute
    template = {
        a.CLASS: pkcs11.ObjectClass.SECRET_KEY,
        a.KEY_TYPE: pkcs11.KeyType.AES,
        a.TOKEN: False,
        a.ENCRYPT: True,
        a.DECRYPT: True,
    }
    for vector in VECTORS:
        root._key = root._session.create_object(template | {a.VALUE: bytes.fromhex(vector["key"])})
        root.check_value = root._checked()
        assert judged(root, vector) == vector["result"], vector
