"""Another root key in the place of a home's: nothing is opened, nothing is lost, wherever it is broken off."""

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.errors import Conflict, Damaged, Problem, Unavailable
from controller.kms import Context, Kms, root
from controller.kms.root.file import FileRootKey
from controller.model import MasterKeyVersion, Sealed, Secret
from controller.service import rootkeys
from controller.settings import Settings
from controller.store import Store
from tests import roots
from tests.controller.faces import here

TENANTS = [number * 32 for number in "123"]
CONTEXT = Context("test", "4711")


@pytest.fixture
def sealed(store: Store, kms: Kms) -> list[Sealed]:
    """A secret of each of three tenants; with the home's own there are four master keys."""
    return [kms.seal(tenant, Secret(f"secret of {tenant}"), CONTEXT) for tenant in TENANTS]


def opens(settings: Settings, sealed: list[Sealed]) -> bool:
    store = Store(settings.database_url)
    try:
        kms = Kms(store, *root.roots(settings.home))
        return [kms.open(each, CONTEXT).open() for each in sealed] == [f"secret of {tenant}".encode() for tenant in TENANTS]
    finally:
        store.close()


def rows_of(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(settings.database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def versions(settings: Settings) -> list[tuple[Any, ...]]:
    return rows_of(settings, "SELECT key_id, version, wrapped, root_check FROM master_key_versions ORDER BY 1, 2")


@pytest.mark.parametrize(("before", "after"), list(itertools.product(roots.KINDS, repeat=2)))
def test_every_master_key_is_wrapped_anew_and_opens(
    settings: Settings, store: Store, sealed: list[Sealed], tmp_path: Path, before: str, after: str
) -> None:
    if before != "file":
        rootkeys.rotate(settings, roots.uri(before, tmp_path, "before"))
    old, rows = root.known(settings.home)[0], versions(settings)
    uri = roots.uri(after, tmp_path, "after")
    done = rootkeys.rotate(settings, uri)
    assert (done.uri, done.rewrapped, done.no_longer_needed) == (uri, 4, [old.uri])
    assert [each.uri for each in root.known(settings.home)] == [uri]
    assert {row[3] for row in versions(settings)} == {done.check_value}
    assert not {row[2] for row in rows} & {row[2] for row in versions(settings)}
    assert opens(settings, sealed)
    assert rootkeys.check(settings) == 4
    # The one before was not touched.
    assert root.open_root(old.uri, settings.home).check_value == old.check


def test_it_is_on_record_and_nothing_was_opened(settings: Settings, store: Store, sealed: list[Sealed], tmp_path: Path) -> None:
    query = "SELECT kind FROM events ORDER BY id"
    before = rows_of(settings, query)
    rootkeys.rotate(settings, f"file:{tmp_path}/new.key")
    assert rows_of(settings, query)[len(before) :] == [("master_key_rewrapped",)] * 4
    owner = store.caller_by_local_home()
    event = [each for each in store.events(owner.tenant_id) if each.kind == "master_key_rewrapped"][-1]
    assert event.detail["user_id"] == owner.user_id


def test_again_there_is_nothing_to_do(settings: Settings, sealed: list[Sealed], tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/new.key"
    rootkeys.rotate(settings, uri)
    rows = versions(settings)
    assert rootkeys.rotate(settings, uri).rewrapped == 0
    with pytest.raises(Conflict) as refused:
        rootkeys.rotate(settings)
    assert refused.value.code == "root_not_rotating"
    assert versions(settings) == rows


def test_another_way_to_the_same_root_key_is_put_on_record(settings: Settings, sealed: list[Sealed], tmp_path: Path) -> None:
    settings.root_key.rename(tmp_path / "moved.key")
    done = rootkeys.rotate(settings, f"file:{tmp_path}/moved.key")
    assert (done.rewrapped, done.no_longer_needed) == (0, [])
    assert opens(settings, sealed)


# -- broken off


class Power(BaseException):
    """It is gone."""


class Outage:
    """Breaks off before the n-th effect of a rotation: each change of the record and of a row, and what comes after the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for where, name in ((os, "replace"), (Store, "rewrap_version"), (Store, "checkpoint")):
            monkeypatch.setattr(where, name, self._counted(getattr(where, name)))

    def _counted(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            if self.left is not None:
                if self.left == 0:
                    raise Power
                self.left -= 1
            return effect(*arguments, **more)

        return counted


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


def test_broken_off_before_every_effect_everything_opens_and_the_next_goes_on(
    settings: Settings, sealed: list[Sealed], tmp_path: Path, outage: Outage
) -> None:
    uris, effects = ["file:root.key", f"file:{tmp_path}/other.key"], 0
    while True:
        uri = uris[(effects + 1) % 2]
        outage.left = effects
        try:
            rootkeys.rotate(settings, uri)
        except Power:
            outage.left = None
        else:
            break
        assert opens(settings, sealed)
        assert rootkeys.check(settings) == 4
        present = root.known(settings.home)
        if len(present) == 1:  # before the first effect
            rootkeys.rotate(settings, uri)
        else:
            assert [each.uri for each in present] == [uri, uris[effects % 2]]
            assert rootkeys.rotate(settings).no_longer_needed == [uris[effects % 2]]
        assert opens(settings, sealed)
        effects += 1
    assert effects == 1 + 4 + 1 + 1


def test_what_is_made_while_one_is_half_done_is_under_the_new_root_key(
    settings: Settings, store: Store, sealed: list[Sealed], tmp_path: Path, outage: Outage
) -> None:
    outage.left = 3
    with pytest.raises(Power):
        rootkeys.rotate(settings, f"file:{tmp_path}/new.key")
    outage.left = None
    shown = rootkeys.show(settings)
    assert [(each.wraps_new, each.master_keys) for each in shown] == [(True, 2), (False, 2)]
    Kms(store, *root.roots(settings.home)).seal("4" * 32, Secret("x"), CONTEXT)
    assert [each.master_keys for each in rootkeys.show(settings)] == [3, 2]
    assert rootkeys.rotate(settings).rewrapped == 2


def test_a_third_root_key_takes_over_from_two(settings: Settings, sealed: list[Sealed], tmp_path: Path, outage: Outage) -> None:
    outage.left = 3
    with pytest.raises(Power):
        rootkeys.rotate(settings, f"file:{tmp_path}/second.key")
    outage.left = None
    done = rootkeys.rotate(settings, f"file:{tmp_path}/third.key")
    assert (done.rewrapped, done.no_longer_needed) == (4, [f"file:{tmp_path}/second.key", "file:root.key"])
    assert opens(settings, sealed)


# -- what keeps it from beginning


@pytest.fixture
def unchanged(settings: Settings, sealed: list[Sealed]) -> Iterator[None]:
    """Whatever the test does, home and rows stay."""
    before = versions(settings), root.known(settings.home)
    yield
    assert (versions(settings), root.known(settings.home)) == before


@pytest.mark.usefixtures("unchanged")
def test_a_home_that_somebody_works_with_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    with root.in_use(settings.home), pytest.raises(Conflict) as refused:
        rootkeys.rotate(settings, f"file:{tmp_path}/new.key")
    assert refused.value.code == "home_in_use"


@pytest.mark.parametrize("look", [rootkeys.show, rootkeys.check])
def test_who_looks_while_it_is_changed_is_refused_and_has_changed_nothing(
    tmp_path: Path, look: Callable[[Settings], object]
) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir(mode=0o700)
    settings.database.touch(0o600)  # of a version that has no tables yet
    with root.changing(settings.home), pytest.raises(Conflict) as refused:
        look(settings)
    assert refused.value.code == "root_rotating"
    assert settings.database.stat().st_size == 0


@pytest.mark.usefixtures("unchanged")
def test_without_the_present_root_key_nothing_is_begun(settings: Settings, tmp_path: Path) -> None:
    settings.root_key.rename(tmp_path / "away")
    with pytest.raises(Unavailable) as refused:
        rootkeys.rotate(settings, f"file:{tmp_path}/new.key")
    assert refused.value.code == "root_key_missing"
    (tmp_path / "away").rename(settings.root_key)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("uri", ["vault:x", "file:/nonexistent/root.key", "awskms:x", "pkcs11:token=none;object=a"])
def test_a_new_root_key_that_cannot_be_had_changes_nothing(settings: Settings, uri: str) -> None:
    with pytest.raises(Problem):
        rootkeys.rotate(settings, uri)


@pytest.mark.usefixtures("unchanged")
def test_a_new_root_key_that_gives_back_something_else_changes_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = FileRootKey.make(tmp_path / "new.key")
    unwrap = FileRootKey.unwrap

    def forgetful(self: FileRootKey, wrapped: bytes, context: bytes) -> Secret:
        return Secret(bytes(32)) if self.check_value == new.check_value else unwrap(self, wrapped, context)

    monkeypatch.setattr(FileRootKey, "unwrap", forgetful)
    with pytest.raises(Unavailable) as refused:
        rootkeys.rotate(settings, f"file:{tmp_path}/new.key")
    assert refused.value.code == "root_key_unsound"


def test_a_master_key_that_is_damaged_stops_it_and_the_others_open(
    settings: Settings, sealed: list[Sealed], tmp_path: Path
) -> None:
    spoilt = versions(settings)[2]
    with sqlite3.connect(settings.database) as connection:
        wrapped = spoilt[2][:-1] + bytes([spoilt[2][-1] ^ 1])
        connection.execute("UPDATE master_key_versions SET wrapped = ? WHERE key_id = ?", (wrapped, spoilt[0]))
    connection.close()
    with pytest.raises(Damaged) as refused:
        rootkeys.rotate(settings, f"file:{tmp_path}/new.key")
    assert refused.value.code == "master_key_damaged"
    with sqlite3.connect(settings.database) as connection:  # the backup
        connection.execute("UPDATE master_key_versions SET wrapped = ? WHERE key_id = ?", (spoilt[2], spoilt[0]))
    connection.close()
    assert opens(settings, sealed)
    rootkeys.rotate(settings)
    assert opens(settings, sealed)


def test_a_row_that_is_not_as_it_was_read_is_not_written_over(
    settings: Settings, store: Store, sealed: list[Sealed], tmp_path: Path
) -> None:
    (found, *_) = store.versions_wrapped_otherwise("none", 1)
    rows = versions(settings)
    stale = MasterKeyVersion(found.key_id, found.tenant_id, found.version, b"other", found.root_check, found.created_at)
    assert not store.rewrap_version(stale, b"new", "new", "u")
    assert versions(settings) == rows
    assert store.rewrap_version(found, b"new", "new", "u")


def test_the_commands_tell_what_they_did(settings: Settings, sealed: list[Sealed], tmp_path: Path) -> None:
    def kps(*words: str) -> str:
        done = here(settings.home, *words)
        assert done.exit_code == 0, (done.stdout, done.stderr)
        return done.stdout

    assert "file:root.key" in kps("root", "show")
    assert "versions: 4" in kps("root", "check")
    done = kps("root", "rotate", "--to", f"file:{tmp_path}/new.key")
    assert "file:root.key is not needed by this home any more. It was not deleted" in done
    assert here(settings.home, "root", "rotate").exit_code == 4
