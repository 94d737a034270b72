"""Customer master keys in the database: carried over from before, and gone for good when their day has come."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from controller.store import Store, engine, schema

KEY, TENANT = "6e0a1c52-7c1f-4b7e-9a44-0d7f5a1be902", "1" * 32


def test_master_keys_of_before_are_default_keys_with_all_their_versions(tmp_path: Path) -> None:
    """A database of the fourth version, where a row was one version of one default key."""
    url = f"sqlite:///{tmp_path}/kps.db"
    engine.make_file(tmp_path / "kps.db")
    made = engine.connect(url)
    with engine.writing(made) as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        for version, day in ((1, 2), (2, 3)):
            connection.exec_driver_sql(
                "INSERT INTO master_keys (key_id, version, tenant_id, alias, wrapped, root_check, created_at)"
                " VALUES (?, ?, ?, 'kps/default', ?, 'check', ?)",
                (KEY, version, TENANT, bytes([version]), f"2030-01-0{day} 00:00:00.000000"),
            )
    made.dispose()
    store = Store(url)
    store.migrate()
    key = store.master_key(TENANT, "kps/default")
    versions = store.master_key_versions(KEY)
    assert key is not None
    assert (key.id, key.version, key.default, key.spec, key.state) == (KEY, 2, True, "AES_256", "enabled")
    assert key.created_at.isoformat() == "2030-01-02T00:00:00+00:00"
    assert [(each.version, each.tenant_id, each.wrapped, each.sealed) for each in versions] == [
        (1, TENANT, b"\1", None),
        (2, TENANT, b"\2", None),
    ]
    assert store.own_master_keys(TENANT) == 0
    store.close()
