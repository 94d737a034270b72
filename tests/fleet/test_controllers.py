"""Two controllers of one PostgreSQL, each in a home of its own: what is done at one is told at the other."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.fleet.looks import until
from tests.fleet.product import SECONDS, Product
from tests.fleet.test_rollouts import ALL_AT_ONCE, connected, last_tasks, order, over
from tests.fleet.test_upgrade import PATIENT, silent, told_to_stop


@pytest.fixture
def two(tmp_path, postgresql) -> Iterator[tuple[Product, Product]]:
    # The tables of the queue are not the store's: a database of its own.
    with postgresql.database() as url, Product(tmp_path / "home", database_url=url) as here:
        shutil.copytree(here.home, tmp_path / "there", ignore=shutil.ignore_patterns("*.sock", "*.lock", "*.log"))
        with Product(tmp_path / "there", database_url=url) as there:
            yield here, there


def test_what_is_done_at_one_is_told_at_the_other(two):
    here, there = two
    newest = there.ask("GET", "/events", params={"after": 0})[-1]["id"]

    def heard(kind):
        """Hear what is told until it is this; keys for what is to be sealed later are made in the background meanwhile."""
        told, after = [], newest
        while kind not in told:
            events = there.ask("GET", "/events", params={"after": after, "wait": 20})
            assert events, told
            after = events[-1]["id"]
            told += [each["kind"] for each in events]

    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(heard, "keypair_created")
        made = here.keypair()
        waiting.result()
    assert made["name"] in [each["name"] for each in there.ask("GET", "/keypairs")]


def test_a_task_that_one_is_asked_for_ends_at_both(two, server):
    here, there = two
    here.add(server)
    keypair = here.keypair()
    here.succeeds("bind", server, keypair=keypair, password=server.root_password)
    [task] = there.begin("check", server)
    assert here.ended(task)["status"] == "unchanged"
    assert there.server(server)["keypair"] == keypair["name"]


def test_a_second_one_in_the_same_home_is_refused(two):
    here, _ = two
    told = here.kps("serve", "--json", ends=None)
    assert told.returncode != 0
    assert "already_served" in told.stderr


def test_while_one_waits_for_what_it_runs_another_drives_its_rollout_on(tmp_path, postgresql, make_server):
    servers = [make_server() for _ in range(3)]
    with postgresql.database() as url, Product(tmp_path / "home", database_url=url, **PATIENT) as here, ExitStack() as at_last:
        for server in servers:
            here.add(server)
        silences = [ExitStack(), ExitStack()]
        for silence, server in zip(silences, servers, strict=False):
            at_last.enter_context(silence).enter_context(silent(server))
        rollout_id = order(here, servers, here.keypair(), ALL_AT_ONCE | {"concurrency": 2})
        for server in servers[:2]:
            until(lambda server=server: connected(server.host, server.port), SECONDS, what="nobody connects")
        shutil.copytree(here.home, tmp_path / "there", ignore=shutil.ignore_patterns("*.sock", "*.lock", "*.log"))
        with Product(tmp_path / "there", database_url=url) as there, told_to_stop(here):
            silences[1].close()
            until(
                lambda: last_tasks(there, rollout_id)[servers[2].name]["status"] == "succeeded", SECONDS, what="nobody drives it"
            )
            silences[0].close()
            assert over(there, rollout_id)["reason"] == "3 as asked"
