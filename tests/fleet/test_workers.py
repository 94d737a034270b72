"""Workers of one PostgreSQL run what a controller is asked for; one that stands still has its tasks taken from it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import gethostname

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from controller.store import Store
from controller.store.figures import Figures
from controller.store.workers import Waiting
from tests.fleet import judge
from tests.fleet.cable import Turnstile
from tests.fleet.causes import Gate
from tests.fleet.looks import until
from tests.fleet.product import NO_TLS, SECONDS, Product
from tests.fleet.worked import Worker

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 4
NEW_KEY_IN = "grep -q {new} /root/.ssh/authorized_keys"


@pytest.fixture
def product(tmp_path, database_with_queue, request):
    # A connection that was begun outlives the sleep of whoever began it.
    settings = {
        "lease_seconds": LEASE_SECONDS,
        "deadline_seconds": 5,
        "serve_takes_tasks": "false",
        "connect_timeout_seconds": 120,
    } | getattr(request, "param", {})
    with Product(tmp_path / "home", database_url=database_with_queue, **settings) as product:
        yield product


@pytest.fixture
def database_with_queue(postgresql):
    # The tables of the queue are not the store's: a database of its own.
    with postgresql.database() as url:
        yield url


@contextmanager
def worker(product: Product, name: str, *words: str, at: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A worker on, as it were, another machine."""
    made = Worker(product, name, *words, at=at)
    try:
        yield made.start()
    finally:
        made.end()


def ends(product, task_id):
    events = product.ask("GET", "/events", params=[("after", 0), ("task", task_id)])
    return [each["kind"] for each in events if each["kind"] in ("task_finished", "task_interrupted")]


def test_a_worker_that_stands_still_loses_its_task_and_changes_nothing_when_it_wakes_up(product, server):
    product.add(server)
    old, new = product.keypair(), product.keypair()
    with worker(product, "first") as first:
        product.succeeds("bind", server, keypair=old, password=server.root_password)
        gate = Gate(server, NEW_KEY_IN.format(new=new["public_key"].split()[1]))
        (task_id,) = product.begin("replace", server, keypair=new)
        gate.await_login()
        first.send_signal(signal.SIGSTOP)
        with worker(product, "second", "--processes", "2"):
            lost = product.ended(task_id)
            assert (lost["status"], lost["cause"]) == ("failed", "interrupted"), lost
            again = product.ended(product.retry(lost)["id"])
            assert (again["status"], again["server_state"]) == ("succeeded", "as_asked"), again
            first.send_signal(signal.SIGCONT)
            gate.open()
            first.terminate()
            assert first.wait(30) == 0
    assert ends(product, task_id) == ["task_interrupted"]
    assert ends(product, again["id"]) == ["task_finished"]
    assert product.server(server)["keypair"] == new["name"]
    assert judge.key_login_works(server, "root", product.private(new))
    assert not judge.key_login_works(server, "root", product.private(old))
    product.kps("audit", "verify")


def test_a_worker_for_which_the_root_key_does_not_open_leaves_tasks_to_others_until_it_does(product, server):
    """It would fail each at once and take the next: one whose secret was not mounted would soon have failed all that wait."""
    product.add(server)
    key = product.home / "root.key"
    key.rename(product.home / "away.key")
    with worker(product, "without") as without:
        (product.home / "away.key").rename(key)
        with worker(product, "with", "--processes", "2"):
            pair = product.keypair()
            product.succeeds("bind", server, keypair=pair, password=server.root_password)
            for _ in range(8):
                assert product.run("check", server)["status"] == "unchanged"
        # Nobody else is left: once it has its root key, it takes what waits.
        (product.home.with_name("without") / "away.key").rename(product.home.with_name("without") / "root.key")
        product.succeeds("unbind", server)
        without.terminate()
        assert without.wait(30) == 0
    assert "what others can do is left to them" in (product.home / "without.log").read_text()
    product.kps("audit", "verify")


def wakes_up_late(product, first, way, task_id):
    """Have a worker stand still while its order is held on its way, until another one has settled its task; then it goes on."""
    assert way.waits.wait(SECONDS)
    first.send_signal(signal.SIGSTOP)
    with worker(product, "second"):
        assert product.ended(task_id)["cause"] == "interrupted"
        until(lambda: product.task(task_id)["server_state"] != "unknown", SECONDS)
        first.send_signal(signal.SIGCONT)
        way.let_go()
        first.terminate()
        assert first.wait(30) == 0
    assert product.task(task_id)["server_state"] == "as_before"


def test_what_a_worker_sends_after_it_was_declared_dead_changes_nothing_though_nobody_has_retried(product, server):
    with Turnstile(server) as way, worker(product, "first") as first:
        product.add(way.place)
        old, new = product.keypair(), product.keypair()
        product.succeeds("bind", way.place, keypair=old, password=server.root_password)
        way.hold()
        (task_id,) = product.begin("replace", way.place, keypair=new)
        wakes_up_late(product, first, way, task_id)
    assert product.server(way.place)["keypair"] == old["name"]
    assert judge.key_login_works(server, "root", product.private(old))
    assert not judge.key_login_works(server, "root", product.private(new))
    assert ends(product, task_id) == ["task_interrupted"]


def test_a_password_that_nobody_can_try_is_not_set_by_a_worker_that_wakes_up_late(product, server):
    """Password login is off, so nothing has to be proved: the server alone can know that the order comes too late."""
    with Turnstile(server) as way, worker(product, "first") as first:
        product.add(way.place)
        product.succeeds("bind", way.place, keypair=product.keypair(), password=server.root_password)
        product.ask("POST", "/secrets", body={"name": "of-root", "server": way.place.name})
        shadow = server.read("/etc/shadow")
        way.hold()
        task_id = product.ask("POST", "/secrets/of-root/rotate", body={"credential": None})["task"]["id"]
        wakes_up_late(product, first, way, task_id)
    assert server.read("/etc/shadow") == shadow
    assert ends(product, task_id) == ["task_interrupted"]


def test_a_worker_process_that_dies_is_started_again_and_each_says_how_it_is(product, tmp_path):
    # Whose code lies where it is started does not matter.
    (tmp_path / "controller").mkdir()
    (tmp_path / "controller/__init__.py").write_text("raise SystemExit('not ours')")
    home = product.home.with_name("first")
    with worker(product, "first", "--processes", "2", at=tmp_path) as parent:
        before = set(children(parent.pid))
        assert len(before) == 2
        assert sockets(home) == before
        until(lambda: healthy(home) == 0, SECONDS, what="they are not well")
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(sockets(home)) == 2 and sockets(home) != before, SECONDS, what="none was started in its place")
        assert sockets(home) == set(children(parent.pid))
        assert len(before & sockets(home)) == 1
        os.kill(max(before), signal.SIGSTOP)
        assert healthy(home) != 0
        os.kill(max(before), signal.SIGCONT)
    assert sockets(home) == set()
    assert healthy(home) != 0


def test_a_worker_process_that_dies_while_postgresql_is_away_is_started_once_that_is_back(product, postgresql):
    """The others have tasks that wait for it as well."""
    home, log = product.home.with_name("first"), product.home / "first.log"
    with worker(product, "first", "--processes", "2") as parent:
        before = set(children(parent.pid))
        postgresql.stop()
        try:
            os.kill(min(before), signal.SIGKILL)
            until(lambda: log.read_text().count("has ended by itself") >= 2, SECONDS, what="no other one was tried")
        finally:
            postgresql.start()
        until(lambda: len(sockets(home)) == 2 and sockets(home) != before, SECONDS, what="none was started in its place")
        assert max(before) in sockets(home)


_TRIED_QUICKLY = """
import asyncio, sys
from pathlib import Path
from controller.cli import workers

workers._AGAIN_SECONDS, workers._MOST_SECONDS, sys.executable = 0.01, 0.02, sys.argv[1]
sys.exit(asyncio.run(workers._supervised(Path(sys.argv[2]), 2, False)))
"""
_TWO_BEGIN = """#!/bin/sh
mkdir {place}/1 2>/dev/null || mkdir {place}/2 2>/dev/null || {{ echo >>{place}/tried; exit 1; }}
echo working
exec sleep 600
"""


def test_a_worker_process_that_cannot_be_started_again_ends_none_that_works_however_long_that_lasts(tmp_path):
    program, tried = tmp_path / "worker", tmp_path / "tried"
    program.write_text(_TWO_BEGIN.format(place=tmp_path))
    program.chmod(0o700)
    words = [sys.executable, "-c", _TRIED_QUICKLY, program, tmp_path]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert "working for" in parent.stdout.readline()
        first, second = children(parent.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: tried.exists() and len(tried.read_text()) >= 6, SECONDS, what="no other one was tried")
        assert second in children(parent.pid)
        # Where none works any more, whoever started them all is told.
        os.kill(second, signal.SIGKILL)
        assert parent.wait(SECONDS) == 1


def test_a_worker_tells_once_that_postgresql_is_away_and_not_on_stdout(product, postgresql):
    """Whoever started it reads its first line there, and no more: what nobody reads would hold it up."""
    with worker(product, "first") as first:
        log = product.home / "first.log"
        postgresql.stop()
        try:
            until(lambda: '"store_unusable"' in log.read_text(), SECONDS, what="it does not tell")
        finally:
            postgresql.start()
        first.send_signal(signal.SIGTERM)
        assert first.communicate(timeout=SECONDS)[0] == ""
        told = log.read_text()
    assert "pool-1" not in told
    assert "Traceback" not in told
    assert told.count('"event": "queue"') == 1


def sockets(home: Path) -> set[int]:
    return {int(each.stem.removeprefix("worker-")) for each in home.glob("worker-*.sock")}


def healthy(home: Path) -> int:
    asked = [sys.executable, "-IS", ROOT / "docker/healthy"]
    return subprocess.run(asked, env={"KPS_HOME": str(home)}, capture_output=True, check=False).returncode


def series(product) -> dict[tuple[str, ...], float]:
    """What the metrics of the controller say, by name and the values of labels."""
    transport = httpx.HTTPTransport(uds=str(product.home / "kps.sock"), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://kps", timeout=SECONDS, trust_env=False) as http:
        answer = http.get("/metrics").raise_for_status()
    return {(each.name, *each.labels.values()): each.value for found in parsed(answer.text) for each in found.samples}


@pytest.mark.parametrize("product", [{"deadline_seconds": 60}], indirect=True, ids=[""])
def test_the_metrics_tell_who_takes_tasks_and_what_waits(product, server, database_with_queue):
    with closing(Store(database_with_queue)) as store:

        def until(holds) -> Figures:
            """What is counted as soon as that holds."""
            end = time.monotonic() + SECONDS
            while not holds(found := store.figures()):
                assert time.monotonic() < end, found
                time.sleep(0.1)
            return found

        def heard(found, process) -> float:
            (seconds,) = [each.heard for each in found.workers if f"/{process.pid}/" in each.name]
            return seconds

        product.add(server)
        old, new = product.keypair(), product.keypair()
        (first_id,) = product.begin("bind", server, keypair=old, password=server.root_password)
        found = until(lambda found: found.waiting["ordinary"].jobs == 1)
        assert found.waiting["ordinary"].oldest > 0
        assert found.waiting["urgent"] == Waiting(0, 0)
        assert found.workers == []  # the controller itself takes none here
        with worker(product, "first") as first, worker(product, "second") as second:
            assert product.ended(first_id)["status"] == "succeeded"
            gate = Gate(server, NEW_KEY_IN.format(new=new["public_key"].split()[1]))
            (task_id,) = product.begin("replace", server, keypair=new)
            gate.await_login()
            found = series(product)
            names = [each[1] for each in found if each[0] == "kps_worker_heard_seconds"]
            assert {name.rpartition("/")[0] for name in names} == {f"{gethostname()}/{each.pid}" for each in (first, second)}
            assert sorted(found["kps_worker_tasks", name] for name in names) == [0, 1]
            assert all(found["kps_worker_heard_seconds", name] < LEASE_SECONDS for name in names)
            assert found["kps_queue_jobs", "ordinary"] == found["kps_queue_oldest_seconds", "ordinary"] == 0
            gate.open()
            assert product.ended(task_id)["status"] == "succeeded"
            second.send_signal(signal.SIGSTOP)
            until(lambda found: heard(found, second) > LEASE_SECONDS > heard(found, first))
            second.send_signal(signal.SIGCONT)
            until(lambda found: heard(found, second) < LEASE_SECONDS)
        until(lambda found: not found.workers)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_home_in_a_file_has_no_workers(tmp_path):
    product = Product(tmp_path / "home")
    told = product.kps("worker", "--json", ends=None)
    assert told.returncode != 0
    assert json.loads(told.stderr)["error"]["code"] == "store_not_shared"
