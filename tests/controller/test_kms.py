"""Sealed records open where they belong, and nowhere else."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.errors import Damaged, Problem, Unavailable
from controller.kms import Context, FileRootKey, Kms, envelope, root
from controller.kms.envelope import bound_to, bound_to_facts
from controller.model import Caller, KeyPair, Sealed, Secret, now
from controller.store import Store
from tests import roots

TENANT = "1" * 32
CONTEXT = Context("test", "4711", 3, {"owner": "somebody", "scope": "private"})


@pytest.fixture(params=roots.KINDS)
def root_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def changed(sealed: Sealed, place: int, bit: int = 1) -> Sealed:
    record = bytearray(sealed.record)
    record[place] ^= bit
    return Sealed(bytes(record))


def test_what_is_sealed_opens(kms: Kms) -> None:
    for text in (b"", b"x", bytes(32), os.urandom(100_000)):
        assert kms.open(kms.seal(TENANT, Secret(text), CONTEXT), CONTEXT).open() == text


def test_it_opens_after_a_restart(kms: Kms, store: Store, settings: Any) -> None:
    sealed = kms.seal(TENANT, Secret("x"), CONTEXT)
    again = Kms(store, *root.roots(settings.home))
    assert again.open(sealed, replace(CONTEXT, facts=dict(reversed(CONTEXT.facts.items())))).open() == b"x"


def test_the_secret_is_left_to_its_owner(kms: Kms) -> None:
    secret = Secret("x")
    kms.seal(TENANT, secret, CONTEXT)
    assert secret.open() == b"x"


def test_the_default_master_key_is_made_at_first_use_one_per_tenant_and_alias(kms: Kms, store: Store) -> None:
    assert store.master_key(TENANT, "kps/default") is None
    first = envelope.record(kms.seal(TENANT, Secret("x"), CONTEXT)).master_key_id
    assert envelope.record(kms.seal(TENANT, Secret("x"), CONTEXT)).master_key_id == first
    assert envelope.record(kms.seal("2" * 32, Secret("x"), CONTEXT)).master_key_id != first
    assert envelope.record(kms.seal(TENANT, Secret("x"), CONTEXT, alias="csms/default")).master_key_id != first


def test_threads_that_seal_first_at_once_share_one_master_key(kms: Kms) -> None:
    together, sealed = threading.Barrier(8), []

    def seal() -> None:
        together.wait()
        sealed.append(kms.seal(TENANT, Secret("x"), CONTEXT))

    threads = [threading.Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({envelope.record(each).master_key_id for each in sealed}) == 1
    assert all(kms.open(each, CONTEXT).open() == b"x" for each in sealed)


def test_nothing_is_used_twice(kms: Kms) -> None:
    records = [envelope.record(kms.seal(TENANT, Secret("x" * 40), CONTEXT)) for _ in range(100)]
    for name in ("wrapped_nonce", "wrapped_key", "nonce", "ciphertext"):
        assert len({getattr(record, name) for record in records}) == 100


def test_a_record_with_any_byte_changed_does_not_open_and_says_what_is_wrong(kms: Kms) -> None:
    sealed = kms.seal(TENANT, Secret(bytes(range(32))), CONTEXT)
    codes = []
    for place in range(len(sealed.record)):
        for bit in (1, 0x80):
            with pytest.raises(Damaged) as refused:
                kms.open(changed(sealed, place, bit), CONTEXT)
        codes.append(refused.value.code)
    assert codes == (
        ["record_unreadable"] * 5 + ["master_key_unknown"] * 20 + ["data_key_damaged"] * 36 + ["record_length_wrong"] * 4
        + ["data_key_damaged"] * 60 + ["secret_damaged"] * (12 + 32 + 16)
    )  # fmt: skip


def test_a_record_cut_short_or_made_longer_does_not_open(kms: Kms) -> None:
    sealed = kms.seal(TENANT, Secret("x"), CONTEXT)
    for text in [*(sealed.record[:length] for length in range(len(sealed.record))), sealed.record + b"\0"]:
        assert refusal(kms, Sealed(text), CONTEXT) == "record_length_wrong"


def refusal(kms: Kms, sealed: Sealed, context: Context) -> str:
    with pytest.raises(Damaged) as refused:
        kms.open(sealed, context)
    assert "restore a backup" in refused.value.message
    return refused.value.code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"kind": "test4711", "id": ""}, "sealed_for_another"),
        ({"kind": "another"}, "sealed_for_another"),
        ({"id": "4712"}, "sealed_for_another"),
        ({"id": "471", "version": 13}, "sealed_for_another"),
        ({"version": 4}, "secret_version_old"),
        ({"version": 2}, "secret_version_wrong"),
        ({"facts": {}}, "facts_changed"),
        ({"facts": CONTEXT.facts | {"more": ""}}, "facts_changed"),
        ({"facts": CONTEXT.facts | {"owner": "somebody else"}}, "facts_changed"),
        ({"facts": {"owner": "private", "scope": "somebody"}}, "facts_changed"),
        ({"facts": {"owner": "somebody"}}, "facts_changed"),
    ],
)
def test_a_record_opens_in_its_own_context_alone(kms: Kms, change: dict[str, Any], code: str) -> None:
    sealed = kms.seal(TENANT, Secret("x"), CONTEXT)
    assert refusal(kms, sealed, replace(CONTEXT, **change)) == code


@pytest.mark.parametrize("root_kind", roots.KINDS, indirect=True)
def test_each_way_to_tamper_has_a_reason_of_its_own(kms: Kms) -> None:
    old, new = CONTEXT, replace(CONTEXT, version=4)
    other = replace(CONTEXT, id="4712")
    sealed, theirs = kms.seal(TENANT, Secret("x"), old), kms.seal(TENANT, Secret("y"), other)
    later = kms.seal(TENANT, Secret("z"), new)
    reasons = {
        "swapped rows": refusal(kms, theirs, old),
        "cut short": refusal(kms, Sealed(sealed.record[:-1]), old),
        "a bit of the secret": refusal(kms, changed(sealed, -1), old),
        "a bit of the data key": refusal(kms, changed(sealed, 100), old),
        "a bit of the master key's id": refusal(kms, changed(sealed, 6), old),
        "a bit of the mark": refusal(kms, changed(sealed, 0), old),
        "wrong context": refusal(kms, sealed, replace(old, facts=CONTEXT.facts | {"scope": "account"})),
        "an old version put back": refusal(kms, sealed, new),
        "an old number put back": refusal(kms, later, old),
    }
    assert len(set(reasons.values())) == len(reasons), reasons


def test_what_a_record_says_of_itself_cannot_be_put_there(kms: Kms) -> None:
    """Neither the head of another record, nor its version, nor its ciphertext."""
    mine = kms.seal(TENANT, Secret("x"), CONTEXT)
    theirs = kms.seal(TENANT, Secret("y"), replace(CONTEXT, id="4712", version=9))
    one, two = envelope.record(mine), envelope.record(theirs)
    for forged, code in (
        (replace(two, object=one.object, version=one.version), "data_key_damaged"),
        (replace(one, version=9), "data_key_damaged"),
        (replace(one, facts=bytes(16)), "data_key_damaged"),
        (replace(one, wrapped_key=two.wrapped_key, wrapped_nonce=two.wrapped_nonce), "data_key_damaged"),
        (replace(one, ciphertext=two.ciphertext, nonce=two.nonce), "secret_damaged"),
    ):
        assert refusal(kms, forged.sealed(), CONTEXT) == code


def test_the_secret_is_bound_to_its_whole_context_whatever_the_record_says(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests tell the reason; what holds is the bond of the ciphertext to the whole context."""
    sealed = kms.seal(TENANT, Secret("x"), CONTEXT)
    monkeypatch.setattr(envelope, "check", lambda found, context: None)
    for change in ({"id": "4712"}, {"version": 4}, {"facts": {}}, {"kind": "another"}):
        assert refusal(kms, sealed, replace(CONTEXT, **change)) == "secret_damaged"


def test_parts_never_run_into_each_other() -> None:
    assert bound_to("ab", "c") != bound_to("a", "bc")
    assert bound_to("ab") != bound_to("ab", "")
    assert bound_to_facts("p", {"a": "b"}) != bound_to_facts("p", {"ab": ""})
    assert bound_to_facts("p", {"a": "b"}) != bound_to_facts("q", {"a": "b"})


def a_keypair(who: Caller, **more: Any) -> KeyPair:
    values: dict[str, Any] = {
        "id": "k1", "tenant_id": who.tenant_id, "owner_id": who.user_id, "scope": "private", "name": "laptop",
        "type": "ed25519", "managed": True, "public_key": "ssh-ed25519 AAAA laptop", "fingerprint": "SHA256:x",
        "fingerprint_md5": "aa", "created_at": now(), "version": 1,
    }  # fmt: skip
    return KeyPair(**values | more)


@pytest.mark.parametrize(
    ("difference", "code"),
    [
        ({"id": "k2"}, "sealed_for_another"),
        ({"version": 2}, "secret_version_old"),
        ({"version": 0}, "secret_version_wrong"),
        ({"owner_id": "2" * 32}, "facts_changed"),
        ({"tenant_id": "2" * 32}, "facts_changed"),
        ({"scope": "account"}, "facts_changed"),
        ({"type": "rsa-2048"}, "facts_changed"),
        ({"public_key": "ssh-ed25519 BBBB laptop"}, "facts_changed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_private_half_moved_to_another_row_does_not_open(kms: Kms, who: Caller, difference: dict[str, Any], code: str) -> None:
    mine = a_keypair(who)
    sealed = kms.seal_private(mine, Secret("seed"))
    assert kms.open_private(mine, sealed).open() == b"seed"
    with pytest.raises(Damaged) as refused:
        kms.open_private(replace(mine, **difference), sealed)
    assert refused.value.code == code


def test_a_new_name_does_not_matter(kms: Kms, who: Caller) -> None:
    sealed = kms.seal_private(a_keypair(who), Secret("seed"))
    renamed = a_keypair(who, name="desk", public_key="ssh-ed25519 AAAA desk")
    assert kms.open_private(renamed, sealed).open() == b"seed"


def test_the_wrong_root_key_is_told_from_damage(kms: Kms, store: Store, tmp_path: Path) -> None:
    sealed = kms.seal(TENANT, Secret("x"), CONTEXT)
    other = FileRootKey.make(tmp_path / "other.key")
    with pytest.raises(Unavailable) as refused:
        Kms(store, other).open(sealed, CONTEXT)
    assert refused.value.code == "root_key_wrong"
    assert other.check_value in refused.value.message
    with pytest.raises(Unavailable):
        Kms(store, other).seal(TENANT, Secret("x"), CONTEXT)


class Rows:
    """Master keys as somebody with a hand in the database would have them."""

    def __init__(self, store: Store, **change: Any) -> None:
        self.store, self.change = store, change
        self.now = store.now

    def master_key(self, tenant_id: str, name: str) -> Any:
        return self.store.master_key(tenant_id, name)

    def master_key_by_id(self, key_id: str) -> Any:
        return self.store.master_key_by_id(key_id)

    def master_key_version(self, key_id: str, version: int) -> Any:
        found = self.store.master_key_version(key_id, version)
        assert found is not None
        return replace(found, **self.change)

    def add_default_key(self, made: Any, version: Any) -> Any:
        return self.store.add_default_key(made, version)

    def wrapped_by(self) -> Any:
        return self.store.wrapped_by()


def test_a_master_key_moved_or_changed_does_not_open(kms: Kms, store: Store, settings: Any) -> None:
    sealed = kms.seal(TENANT, Secret("x"), CONTEXT)
    elsewhere = kms.seal("2" * 32, Secret("x"), CONTEXT)
    key = store.master_key("2" * 32, "kps/default")
    assert key is not None
    theirs = store.master_key_version(key.id, 1)
    assert theirs is not None
    (key,) = root.roots(settings.home)
    for change in ({"tenant_id": "2" * 32}, {"key_id": theirs.key_id}, {"version": 2}, {"wrapped": theirs.wrapped}):
        with pytest.raises(Damaged) as refused:
            Kms(Rows(store, **change), key).open(sealed, CONTEXT)
        assert refused.value.code == "master_key_damaged"
    # Even a whole row of another tenant, told to be ours, opens no data key of ours.
    whole = {"tenant_id": theirs.tenant_id, "key_id": theirs.key_id, "wrapped": theirs.wrapped}
    with pytest.raises(Damaged) as refused:
        Kms(Rows(store, **whole), key).open(sealed, CONTEXT)
    assert refused.value.code == "data_key_damaged"
    assert kms.open(elsewhere, CONTEXT).open() == b"x"


def test_no_problem_quotes_the_secret(kms: Kms) -> None:
    sealed = kms.seal(TENANT, Secret("correct horse"), CONTEXT)
    for place in range(0, len(sealed.record), 7):
        with pytest.raises(Problem) as refused:
            kms.open(changed(sealed, place), CONTEXT)
        assert "correct" not in f"{refused.value} {refused.value.evidence}"


# -- the root key's file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    FileRootKey.make(tmp_path / "root.key")
    return tmp_path / "root.key"


def test_the_file_is_made_once_and_for_its_owner(path: Path) -> None:
    before = path.read_bytes()
    assert (len(before), path.stat().st_mode & 0o777, path.stat().st_nlink) == (32, 0o600, 1)
    FileRootKey.make(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["root.key"]


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileRootKey.make(tmp_path / "root.key")
    finally:
        os.umask(before)
    assert (tmp_path / "root.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_a_file_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(Unavailable) as refused:
        FileRootKey(path)
    assert refused.value.code == "root_key_exposed"
    assert f"{mode:04o}" in refused.value.message
    with pytest.raises(Unavailable):
        FileRootKey.make(path)


def test_what_systemd_hands_over_as_a_credential_is_taken_though_its_group_shows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.chmod(0o440)  # the mask of the ACL by which the service reads it
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    FileRootKey(path)
    for mode in (0o460, 0o444, 0o442, 0o441):
        path.chmod(mode)
        with pytest.raises(Unavailable):
            FileRootKey(path)
    path.chmod(0o440)
    for elsewhere in (str(path.parent.parent), os.path.relpath(path.parent), ""):
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", elsewhere)
        with pytest.raises(Unavailable):
            FileRootKey(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    os.chown(path, 12345, -1)
    with pytest.raises(Unavailable, match="12345"):
        FileRootKey(path)


def test_a_link_a_directory_or_a_short_file_is_refused(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(Unavailable):
        FileRootKey(link)
    with pytest.raises(Unavailable):
        FileRootKey(path.parent)
    with pytest.raises(Unavailable) as refused:
        FileRootKey(path.with_name("none"))
    assert refused.value.code == "root_key_missing"
    for size in (0, 31, 33):
        path.write_bytes(bytes(size))
        with pytest.raises(Unavailable) as refused:
            FileRootKey(path)
        assert refused.value.code == "root_key_malformed"
