"""A newer version takes over while a rollout runs.

This one plays the former, and a copy with one more migration the newer; or this one is the newer, on a store that lies in the
tables of the version before.
"""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from controller.client import ENDINGS
from controller.demo.fleet import Server
from controller.store import tables
from tests import former
from tests.fleet import judge
from tests.fleet.looks import listening_sshd, until
from tests.fleet.product import SECONDS, Product
from tests.fleet.test_emergency import lets_in
from tests.fleet.test_rollouts import ALL_AT_ONCE, connected, last_tasks, order, over
from tests.fleet.test_workers import worker

ROOT = Path(__file__).parents[2]
NEWER = f"{int(tables.VERSION) + 1:04}"
MIGRATION = '''"""One more column."""

import sqlalchemy as sa
from alembic import op

revision = "{newer}"
down_revision = "{older}"
OLDER_GO_ON = {older_go_on}


def upgrade() -> None:
    op.add_column("tasks", sa.Column("newer", sa.Integer(), nullable=False, server_default="0"))
'''
PATIENT = {"connect_timeout_seconds": 300, "stop_seconds": 300}  # with a server that says nothing for a while
Make = Callable[[bool], str]


@pytest.fixture
def newer(tmp_path) -> Make:
    """Makes the code of the next version; returns where it is. older_go_on: what its migration says."""

    def make(older_go_on: bool) -> str:
        tree = tmp_path / "code"
        for package in ("controller", "kpsagent"):
            shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        store = tree / "controller/store"
        text = MIGRATION.format(newer=NEWER, older=tables.VERSION, older_go_on=older_go_on)
        (store / f"migrations/versions/v{NEWER}_more.py").write_text(text)
        knows, changes = re.subn(
            r'^VERSION = "\d+"', f'VERSION = "{NEWER}"', (store / "tables.py").read_text(), flags=re.MULTILINE
        )
        assert changes == 1
        (store / "tables.py").write_text(knows)
        return str(tree)

    return make


@pytest.fixture
def database_url(request) -> Iterator[str | None]:
    """Of a database of its own, empty; or None for a file in the home."""
    if request.param == "file":
        yield None
        return
    with request.getfixturevalue("postgresql").database() as url:
        yield url


def store(product: Product) -> str:
    return product.environment.get("KPS_DATABASE_URL") or f"sqlite:///{product.home}/kps.db"


def version(product: Product) -> str:
    query = "SELECT version_num FROM alembic_version"
    if url := product.environment.get("KPS_DATABASE_URL"):
        with psycopg.connect(url) as connection:
            ((found,),) = connection.execute(query).fetchall()
    else:
        with closing(sqlite3.connect(product.home / "kps.db", timeout=SECONDS)) as file:
            ((found,),) = file.execute(query).fetchall()
    return str(found)


@contextlib.contextmanager
def silent(server: Server) -> Iterator[None]:
    """Within the block a server takes connections and says nothing: a task there goes on once it is left."""
    listener = listening_sshd(server)
    os.kill(listener, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(listener, signal.SIGCONT)


@contextlib.contextmanager
def told_to_stop(product: Product) -> Iterator[None]:
    """Within the block a controller waits for what it runs; it ends when that has."""
    assert product.process is not None
    process, product.process = product.process, None
    process.send_signal(signal.SIGTERM)
    until(lambda: product.answer("GET", "/ready").status_code == 503, SECONDS, what="it does not stop")
    yield
    assert process.wait(SECONDS) == 0, (product.home / "serve.log").read_text()
    process.communicate()


def assert_nothing_is_lost(product, servers, pair, rollout_id):
    found = over(product, rollout_id)
    assert (found["state"], found["reason"]) == ("finished", f"{len(servers)} as asked")
    last = last_tasks(product, rollout_id)
    assert {each["server"]: (each["status"], each["tries"]) for each in last.values()} == {
        each.name: ("succeeded", 1) for each in servers
    }
    events = product.ask("GET", "/events", params=[("after", 0)])
    ended = Counter(each["task_id"] for each in events if each["kind"] in ENDINGS)
    assert ended == {each["task_id"]: 1 for each in last.values()}
    private = product.private(pair)
    assert all(judge.key_login_works(each, "root", private) for each in servers)
    product.kps("audit", "verify")


@pytest.mark.parametrize("database_url", ["file", "postgresql"], indirect=True)
def test_an_upgrade_with_a_rollout_running_loses_nothing(database_url, tmp_path, make_server, newer):
    code, settings = newer(older_go_on=False), PATIENT | {"concurrency": 1}
    product = Product(tmp_path / "home", **settings | ({"database_url": database_url} if database_url else {}))
    servers = [make_server() for _ in range(3)]
    with product:
        for server in servers:
            product.add(server)
        pair = product.keypair()
        with contextlib.ExitStack() as until_it_ends, silent(servers[0]):
            # One runs, one waits, and one is not begun by the rollout.
            rollout_id = order(product, servers, pair, ALL_AT_ONCE | {"batch": "2"})
            until(lambda: connected(servers[0].host, servers[0].port), SECONDS, what="nobody connects")
            assert product.ask("GET", f"/rollouts/{rollout_id}")["states"]["waiting"] == 1
            # While the former one works, the newer touches nothing.
            product.environment["PYTHONPATH"] = code
            refused = product.kps("init", ends=None)
            assert refused.returncode != 0
            assert "stop each kps serve and kps worker first" in refused.stderr
            assert version(product) == tables.VERSION
            until_it_ends.enter_context(told_to_stop(product))
        product.serve()
        assert version(product) == NEWER
        assert_nothing_is_lost(product, servers, pair, rollout_id)


def ended_once(product: Product) -> bool:
    """Whether each task that was ever asked for has exactly one end."""
    kinds = Counter((each["task_id"], each["kind"]) for each in product.ask("GET", "/events", params=[("after", 0)]))
    begun = {task: 1 for task, kind in kinds if kind == "task_ready"}
    return begun == Counter(task for task, kind in kinds.elements() if kind in ENDINGS)


@pytest.mark.parametrize("database_url", ["file", "postgresql"], indirect=True)
def test_the_newest_migration_changes_nothing_that_was_there_and_the_rollout_that_ran_comes_to_its_end(
    database_url, tmp_path, make_server
):
    """Whoever worked with the tables of the version before was killed, in the middle of a rollout and with a door open."""
    settings = PATIENT | {"concurrency": 1, "lease_seconds": 4} | ({"database_url": database_url} if database_url else {})
    product = Product(tmp_path / "home", **settings)
    servers, entered = [make_server() for _ in range(3)], make_server()
    with product:
        for server in [*servers, entered]:
            product.add(server)
        product.fails("wrong_password", "bind", entered, keypair=product.keypair(), password="not root's")
        product.succeeds("bind", entered, keypair=product.keypair(), password=entered.root_password)
        product.kps("emergency", "open", entered.name, "--login", "root", "--for", "1h", "--reason", "an upgrade")
        pair = product.keypair()
        with silent(servers[0]):
            # One runs, one waits, and one is not begun by the rollout; what opens them is kept sealed.
            rollout_id = order(product, servers, pair, ALL_AT_ONCE | {"batch": "2"})
            until(lambda: connected(servers[0].host, servers[0].port), SECONDS, what="nobody connects")
            assert product.ask("GET", f"/rollouts/{rollout_id}")["states"]["waiting"] == 1
            product.end(signal.SIGKILL)
        former.put_back(store(product))
        before = former.rows(store(product))
        assert version(product) == former.version_before()
        assert {each["status"] for each in before["tasks"]} >= {"running", "ready", "failed", "succeeded"}
        assert [each["state"] for each in before["doors"]] == ["open"]
        assert before["credentials"]
        product.kps("init")
        after = former.rows(store(product))
        assert version(product) == tables.VERSION
        assert former.as_before(before, after) == before
        product.serve()
        found = over(product, rollout_id)
        assert (found["state"], found["reason"]) == ("finished", "3 as asked")
        product.kps("emergency", "close", entered.name)
        private = product.private(pair)
        assert all(judge.key_login_works(each, "root", private) for each in servers)
        assert not lets_in(entered, "root", entered.root_password)
        until(lambda: ended_once(product), SECONDS, what="a task has no end, or two")
        # What was written by the version before is told as it was.
        assert former.rows(store(product))["events"][: len(after["events"])] == after["events"]
        product.kps("audit", "verify")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_workers_and_controllers_are_replaced_one_after_the_other_while_a_rollout_runs(
    database_url, tmp_path, make_server, newer
):
    code = newer(older_go_on=True)
    product = Product(tmp_path / "home", database_url=database_url, serve_takes_tasks="false", **PATIENT)
    servers = [make_server() for _ in range(4)]
    with product:
        for server in servers:
            product.add(server)
        pair = product.keypair()
        with contextlib.ExitStack() as working:
            with silent(servers[0]):
                former = working.enter_context(worker(product, "former", "--processes", "2"))
                rollout_id = order(product, servers, pair, ALL_AT_ONCE | {"batch": "1"})
                until(lambda: connected(servers[0].host, servers[0].port), SECONDS, what="nobody connects")
                older = dict(product.environment)
                product.environment["PYTHONPATH"] = code
                working.enter_context(worker(product, "next", "--processes", "2"))
                assert version(product) == NEWER
                # One of the former version that is started now is told, and ends.
                late = Product(tmp_path / "former")
                late.environment = older | {"KPS_HOME": str(tmp_path / "former")}
                assert "a newer kps has migrated this home" in late.kps("worker", ends=None).stderr
                former.terminate()
            assert former.wait(SECONDS) == 0
            product.end()
            product.serve()
            assert_nothing_is_lost(product, servers, pair, rollout_id)
