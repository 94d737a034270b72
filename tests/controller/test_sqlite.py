"""What the SQLite store promises about its file."""

import ast
import base64
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from controller import kps_audit_verify as verifier
from controller.errors import Invalid
from controller.model import Sealed
from controller.store import Store, engine, schema, tables
from controller.store.tables import metadata


@pytest.fixture
def url(tmp_path: Path) -> str:
    store = Store(f"sqlite:///{tmp_path}/kps.db")
    store.migrate()
    store.close()
    return f"sqlite:///{tmp_path}/kps.db"


def test_the_migrations_make_the_tables_of_the_code(url: str) -> None:
    made = engine.connect(url)
    with engine.reading(made) as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
        checks = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'tasks'").scalar_one()
        indexes = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'one_running_task'").scalar_one()
    made.dispose()
    assert found == []
    assert "AUTOINCREMENT" in checks
    assert re.search(r"UNIQUE INDEX .* WHERE status = 'running'", indexes)


def test_the_code_knows_the_newest_migration(url: str) -> None:
    assert ScriptDirectory(str(schema.MIGRATIONS)).get_current_head() == tables.VERSION
    made = engine.connect(url)
    with engine.reading(made) as connection:
        assert schema.version(connection) == tables.VERSION
    made.dispose()


def test_a_migration_beside_which_older_processes_go_on_adds_and_takes_nothing_away() -> None:
    """What they write has no value for a new column: that has to have one of its own. docs/decisions/0102."""
    beside = [each for each in ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions() if hasattr(each.module, "OLDER_GO_ON")]
    for each in beside:
        assert adds_only(Path(each.path).read_text()), each.path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('op.add_column("a", sa.Column("b", sa.Integer()))', True),
        ('op.add_column("a", sa.Column("b", sa.Integer(), nullable=False, server_default="0"))', True),
        ('op.add_column("a", sa.Column("b", sa.Integer(), nullable=False))', False),
        ('op.create_table("a", sa.Column("b", sa.Integer(), nullable=False))', True),
        ('op.create_index("c", "a", ["b"])', True),
        ('op.create_index("c", "a", ["b"], unique=True)', False),
        ('op.drop_index("c", "a")', False),
        ('op.execute("UPDATE a SET b = 1")', False),
        ('with op.batch_alter_table("a") as a: a.drop_column("b")', False),
    ],
)
def test_what_takes_something_away_is_seen(text: str, wanted: bool) -> None:
    assert adds_only(f"def upgrade():\n    {text}\n") is wanted


def adds_only(text: str) -> bool:
    """Whether a migration makes nothing but tables, columns that may be left out, and indexes that forbid nothing."""
    calls = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Call)]
    asked = [each for each in calls if ast.unparse(each.func).startswith("op.")]
    adding = {"op.create_table", "op.add_column", "op.create_index"}
    if not {ast.unparse(each.func) for each in asked} <= adding:
        return False
    for each in asked:
        said = ast.unparse(each)
        if ast.unparse(each.func) == "op.add_column" and "nullable=False" in said and "server_default=" not in said:
            return False
        if ast.unparse(each.func) == "op.create_index" and "unique=" in said:
            return False
    return True


def test_servers_of_before_are_reached_as_before(tmp_path: Path) -> None:
    """A database of the first version, with a server in it, comes to this one: no jump server, no old algorithm."""
    url = f"sqlite:///{tmp_path}/kps.db"
    engine.make_file(tmp_path / "kps.db")
    made = engine.connect(url)
    with engine.writing(made) as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO tenants (id, name) VALUES ('t', 'home')")
        connection.exec_driver_sql(
            "INSERT INTO servers (id, tenant_id, name, host, port, login, labels, trust_on_first_use, password_login, generation)"
            " VALUES ('s', 't', 'web-1', '192.0.2.1', 22, 'root', '{}', 0, 'unknown', 7)"
        )
    made.dispose()
    store = Store(url)
    store.migrate()
    server = store.server_by_id("s")
    store.close()
    assert (server.generation, server.jumps, server.old_algorithms) == (7, [], [])


def test_events_of_before_are_numbered_and_chained(tmp_path: Path) -> None:
    """A database from before the chain: its events stay what they were, and from here on a change of them shows."""
    url, path = f"sqlite:///{tmp_path}/kps.db", tmp_path / "kps.db"
    engine.make_file(path)
    made = engine.connect(url)
    with engine.writing(made) as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for id, tenant in ((1, "t"), (2, "u"), (4, "t"), (7, "t")):
            detail = '{"user_id": "us", "keypair_id": "kp", "b": 1, "a": [1.5, "\\u00fc"]}' if id == 4 else "{}"
            connection.exec_driver_sql(
                "INSERT INTO events (id, tenant_id, kind, detail, at)"
                " VALUES (?, ?, 'server_noted', ?, '2030-01-02 03:04:05.000600')",
                (id, tenant, detail),
            )
    made.dispose()
    store = Store(url)
    store.migrate()
    found = [(event.id, event.number, event.user_id, event.keypair_id) for event in store.events("t")]
    assert found == [(1, 1, None, None), (4, 2, "us", "kp"), (7, 3, None, None)]
    assert store.events("t")[1].detail == {"a": [1.5, "ü"], "b": 1, "keypair_id": "kp", "user_id": "us"}
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    assert store.add_audit_key("t", public, Sealed(b"x"), key.sign)
    assert [(event.id, event.number, event.kind) for event in store.events("t")][-1] == (8, 4, "audit_key_made")
    store.close()
    with verifier.trails(str(path)) as trails:
        assert [verifier.check(trail)["number"] for trail in trails if trail.tenant == "t"] == [4]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE events SET detail = '{}' WHERE id = 4")
    with verifier.trails(str(path)) as trails, pytest.raises(verifier.Wrong, match="event 2 is not the one that was written"):
        [verifier.check(trail) for trail in trails if trail.tenant == "t"]


def test_a_new_database_is_shared_from_the_first_moment_that_others_see_it(tmp_path: Path) -> None:
    """The switch to a write-ahead log fails at once where somebody else writes, so it comes before there is anybody else."""
    engine.make_file(tmp_path / "kps.db")
    with sqlite3.connect(tmp_path / "kps.db", isolation_level=None) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        made = engine.connect(f"sqlite:///{tmp_path}/kps.db")
        with engine.reading(made) as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        made.dispose()
        somebody.execute("ROLLBACK")
    somebody.close()
    assert [path.name for path in tmp_path.iterdir()] == ["kps.db"]


def test_of_those_who_make_a_database_at_once_all_get_the_same(tmp_path: Path) -> None:
    path, together = tmp_path / "kps.db", threading.Barrier(8)

    def make(_: int) -> int:
        together.wait()
        engine.make_file(path)
        return path.stat().st_ino

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(make, range(8)))) == 1
    assert [found.name for found in tmp_path.iterdir()] == ["kps.db"]


def test_every_connection_is_durable_and_checks_references(url: str) -> None:
    made = engine.connect(url)
    with engine.reading(made) as first, engine.reading(made) as second:
        for connection in (first, second):
            said = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
            }
            assert said == {
                "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 30_000,
            }  # fmt: skip
    made.dispose()


def test_a_reader_sees_one_state_while_others_write(url: str) -> None:
    made = engine.connect(url)
    with engine.reading(made) as reader:
        assert reader.execute(select(tables.tenants)).all() == []
        with engine.writing(made) as writer:
            writer.execute(tables.tenants.insert().values(id="1", name="x"))
        assert reader.execute(select(tables.tenants)).all() == []
    with engine.reading(made) as reader:
        assert len(reader.execute(select(tables.tenants)).all()) == 1
    made.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "postgresql://x", "mysql://x/y", "kps.db"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        Store(url)


def test_the_people_of_before_are_who_they_were(tmp_path: Path) -> None:
    """A home of the first version, with an account key pair and a task: its owner owns it, and what was allowed still is."""
    url = f"sqlite:///{tmp_path}/kps.db"
    engine.make_file(tmp_path / "kps.db")
    made = engine.connect(url)
    with engine.writing(made) as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "INSERT INTO tenants VALUES ('t', 'home')",
            "INSERT INTO projects VALUES ('p', 't')",
            "INSERT INTO users VALUES ('u', 't', 'administrator', 'administrator')",
            "INSERT INTO access_keys VALUES ('A', 'u', 'p', 'sealed', '2030-01-01 00:00:00')",
            "INSERT INTO home VALUES (1, 'A')",
            "INSERT INTO keypairs VALUES ('k', 't', 'u', 'account', 'k', 'rsa-2048', 0, '', '', '', 1, '2030-01-02 03:04', NULL)",
            (
                "INSERT INTO tasks (id, tenant_id, user_id, server_id, server_name, login, operation, request, generation,"
                " status, server_state, phase, message, evidence, proofs, retryable, created_at) VALUES"
                " ('task', 't', 'u', 's', 'web-1', 'root', 'check', '{}', 1, 'failed', 'as_before', 'done', 'm', '{}', '[]', 0,"
                " '2030-01-03 00:00:00')"
            ),
        ):
            connection.exec_driver_sql(statement)
    made.dispose()
    store = Store(url)
    store.migrate()
    owner, access_key = store.local_owner()
    (user,) = store.users("t")
    tenant = store.tenant("t")
    task = store.task("t", "task")
    store.close()
    assert (owner.user_id, owner.project_id, owner.kind, access_key) == ("u", "p", "local", "A")
    assert (user.name, user.role, user.kind, user.enabled, user.source_networks) == ("administrator",) * 2 + ("local", True, [])
    assert tenant.account_keypairs_since is not None
    assert task.private  # nobody knows what it names
