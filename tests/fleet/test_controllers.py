"""Two controllers of one PostgreSQL, each in a home of its own: what is done at one is told at the other."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.product import Product


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
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(there.ask, "GET", "/events", params={"after": newest, "wait": 20})
        made = here.keypair()
        told = waiting.result()
    assert "keypair_created" in [each["kind"] for each in told]
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
