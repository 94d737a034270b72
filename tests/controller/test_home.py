"""The home: made once, for its owner alone."""

import os
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from controller.errors import Problem, Unavailable
from controller.kms import Kms, root
from controller.service.home import access_key_context, initialise, require
from controller.settings import Settings
from controller.store import Store


@pytest.fixture
def made(settings: Settings) -> dict[str, Any]:
    """Made here, not copied: this is about how that is done."""
    return initialise(settings)


def test_init_tells_who_and_what_opens(made: dict[str, Any]) -> None:
    assert list(made) == ["tenant_id", "project_id", "user_id", "access_key", "secret_key"]
    for name in ("tenant_id", "project_id", "user_id"):
        assert re.fullmatch("[0-9a-f]{32}", made[name])
    assert re.fullmatch("[A-Z0-9]{20}", made["access_key"])
    assert re.fullmatch("[A-Za-z0-9]{40}", made["secret_key"])


def test_init_again_shows_no_secret_and_changes_nothing(made: dict[str, Any], settings: Settings) -> None:
    assert initialise(settings) == made | {"secret_key": None}
    assert initialise(settings) == made | {"secret_key": None}


def test_the_secret_key_is_kept_sealed(made: dict[str, Any], store: Store, kms: Kms) -> None:
    owner, sealed = store.access_key(made["access_key"])
    assert owner == store.caller_by_local_home()
    assert kms.open(sealed, access_key_context(owner, made["access_key"])).open() == made["secret_key"].encode()


def test_everything_in_the_home_is_for_its_owner(store: Store, settings: Settings) -> None:
    store.caller_by_local_home()
    modes = {path.name: path.stat().st_mode & 0o777 for path in settings.home.iterdir()}
    assert modes == dict.fromkeys(("kps.db", "kps.db-wal", "kps.db-shm", "root.key", "root.json"), 0o600)
    assert settings.home.stat().st_mode & 0o777 == 0o700


def test_everything_is_private_whatever_the_umask(settings: Settings) -> None:
    before = os.umask(0)
    try:
        initialise(settings)
        store = Store(settings.database_url)
        store.migrate()
        assert settings.home.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in settings.home.iterdir()} == {0o600}
        store.close()
    finally:
        os.umask(before)


def test_init_at_once_makes_one_home(settings: Settings) -> None:
    together, results = threading.Barrier(4), []

    def init() -> None:
        together.wait()
        results.append(initialise(settings))

    threads = [threading.Thread(target=init) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({made["access_key"] for made in results}) == 1
    assert [made["secret_key"] for made in results].count(None) == 3


def test_a_lost_root_key_is_never_made_anew(made: dict[str, Any], settings: Settings) -> None:
    settings.root_key.unlink()
    with pytest.raises(Unavailable) as refused:
        initialise(settings)
    assert refused.value.code == "root_key_missing"
    assert not settings.root_key.exists()


def test_another_root_key_is_noticed_at_once(made: dict[str, Any], settings: Settings) -> None:
    settings.root_key.write_bytes(os.urandom(32))
    with pytest.raises(Unavailable) as refused:
        initialise(settings)
    assert refused.value.code == "root_key_wrong"


def test_the_root_key_of_a_new_home_is_on_record(made: dict[str, Any], settings: Settings) -> None:
    (only,) = root.known(settings.home)
    assert (only.uri, only.check) == ("file:root.key", root.open_root("file:root.key", settings.home).check_value)


def test_a_home_from_before_the_record_gets_one_and_only_for_the_right_key(made: dict[str, Any], settings: Settings) -> None:
    before = root.known(settings.home)
    (settings.home / "root.json").unlink()
    right = settings.root_key.read_bytes()
    settings.root_key.write_bytes(os.urandom(32))
    with pytest.raises(Unavailable) as refused:
        initialise(settings)
    assert (refused.value.code, root.known(settings.home)) == ("root_key_wrong", [])
    settings.root_key.write_bytes(right)
    assert initialise(settings) == made | {"secret_key": None}
    assert root.known(settings.home) == before


def test_init_makes_the_root_key_where_it_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", root_key_uri=f"file:{tmp_path}/elsewhere.key")
    made = initialise(settings)
    assert not settings.root_key.exists()
    # Later nobody has to say so again.
    assert initialise(Settings(home=tmp_path / "home")) == made | {"secret_key": None}
    with pytest.raises(Problem) as refused:
        initialise(Settings(home=tmp_path / "home", root_key_uri="file:another.key"))
    assert refused.value.code == "root_key_missing"
    assert not (tmp_path / "home/another.key").exists()


@pytest.mark.parametrize(
    "uri", ["vault:x", "file:/nonexistent/root.key", "pkcs11:token=none;object=a?module-path=/none.so&pin-source=fd:9"]
)
def test_init_without_a_root_key_makes_nothing_that_is_in_the_way(tmp_path: Path, uri: str) -> None:
    with pytest.raises(Problem):
        initialise(Settings(home=tmp_path / "home", root_key_uri=uri))
    assert initialise(Settings(home=tmp_path / "home"))["secret_key"]


def test_an_empty_setting_is_none(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPS_ROOT_KEY", "")
    assert Settings.read(settings.home).root_key_uri is None
    monkeypatch.setenv("KPS_ROOT_KEY", "file:x")
    assert Settings.read(settings.home).root_key_uri == "file:x"


def test_init_goes_on_where_a_killed_one_stopped(settings: Settings) -> None:
    settings.home.mkdir(mode=0o700)
    store = Store(settings.database_url)
    store.migrate()
    store.close()
    assert initialise(settings)["secret_key"]


def test_an_empty_directory_is_closed_and_a_used_one_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o755)
    assert initialise(Settings(home=tmp_path / "empty"))["secret_key"]
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700
    (tmp_path / "used").mkdir(mode=0o755)
    (tmp_path / "used/file").touch()
    with pytest.raises(Unavailable, match="chmod 700") as refused:
        initialise(Settings(home=tmp_path / "used"))
    assert refused.value.code == "home_exposed"
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="--home") as refused:
        initialise(Settings(home=tmp_path / "file"))
    assert refused.value.code == "home_unusable"


def test_no_home_says_what_to_run_and_makes_none(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="kps init") as refused:
        require(settings)
    assert refused.value.code == "not_initialised"
    assert not settings.home.exists()


def test_a_home_is_looked_at_before_each_use(made: dict[str, Any], settings: Settings) -> None:
    require(settings)
    settings.home.chmod(0o750)
    with pytest.raises(Unavailable):
        require(settings)


def test_a_database_that_others_may_read_is_refused(made: dict[str, Any], settings: Settings) -> None:
    settings.database.chmod(0o640)
    with pytest.raises(Unavailable) as refused:
        Store(settings.database_url).migrate()
    assert refused.value.code == "store_exposed"


def test_a_home_of_a_newer_version_is_refused(made: dict[str, Any], settings: Settings) -> None:
    with sqlite3.connect(settings.database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    store = Store(settings.database_url)
    with closing(store), pytest.raises(Problem) as refused:
        store.migrate()
    assert refused.value.code == "store_too_new"
    with pytest.raises(Problem) as refused:
        initialise(settings)
    assert refused.value.code == "store_too_new"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KPS_HOME", str(tmp_path))
    monkeypatch.setenv("KPS_DEADLINE_SECONDS", "90")
    settings = Settings()
    assert (settings.home, settings.deadline_seconds, settings.concurrency) == (tmp_path, 90, 32)
    assert settings.socket == tmp_path / "kps.sock"
    assert Settings(home=tmp_path / "x").database_url == f"sqlite:///{tmp_path}/x/kps.db"
    monkeypatch.delenv("KPS_HOME")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert Settings().home == Path("/nonexistent/.local/share/kps")
