"""A controller that is killed: what it had begun and what it had not, seen by whoever comes next; what was given is sealed."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.dispatch import LEASE_SECONDS
from tests.fleet.causes import Place, deaf
from tests.fleet.looks import until
from tests.fleet.product import Json, Product

HANDED_IN = "a password that no file of the home shows"


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """Two servers that never answer."""
    with deaf() as one, deaf() as other:
        yield sorted([one, other], key=lambda place: place.name)  # as their tasks are ordered


@pytest.fixture
def busy(tmp_path: Path, places: list[Place]) -> Iterator[tuple[Product, str, str]]:
    """A controller that works on one server at a time, and now at the first of two."""
    with Product(tmp_path / "home", concurrency=1, connect_timeout_seconds=300, stop_seconds=0) as product:
        for place in places:
            product.add(place)  # type: ignore[arg-type]
        begun, waiting = product.begin("bind", *places, keypair=product.keypair(), password=HANDED_IN)  # type: ignore[arg-type]
        product.at_phase(begun, "connect")
        yield product, begun, waiting


def once_the_lease_has_run_out(home: Path) -> None:
    with closing(sqlite3.connect(home / "kps.db")) as connection, connection:
        shift = f"-{LEASE_SECONDS} seconds"
        connection.execute("UPDATE tasks SET lease_until = strftime('%Y-%m-%d %H:%M:%f000', lease_until, ?)", (shift,))


def listed(product: Product, *words: str) -> dict[str, Json]:
    return {task["id"]: task for task in json.loads(product.kps("task", "list", "--json", *words).stdout)}


def kept(product: Product) -> set[str]:
    """The tasks for which something is kept sealed."""
    with closing(sqlite3.connect(product.home / "kps.db")) as connection:
        return {owner_id for (owner_id,) in connection.execute("SELECT owner_id FROM credentials")}


def test_what_a_killed_controller_left_is_ended_and_blocks_nothing(busy: tuple[Product, str, str], places: list[Place]) -> None:
    product, begun, waiting = busy
    product.end(signal.SIGKILL)
    # It might still be there: until its lease has run out nobody touches what it holds.
    assert listed(product, "--running").keys() == {begun, waiting}
    refused = product.kps("server", "remove", places[1].name, ends=4)
    assert f"kps task delete {waiting}" in " ".join(refused.stderr.split())
    once_the_lease_has_run_out(product.home)
    left = listed(product, "--failed")
    told = {id: (task["cause"], task["phase"], task["server_state"], task["retryable"]) for id, task in left.items()}
    assert told == {begun: ("interrupted", "connect", "unknown", True)}
    # The other one waits for the next controller, which will have the password.
    assert listed(product, "--running").keys() == {waiting}
    assert kept(product) == {waiting}
    product.kps("task", "delete", waiting)
    product.kps("server", "remove", places[1].name)
    assert kept(product) == set()


def test_a_task_that_a_killed_controller_had_not_begun_is_cancelled_at_once(
    busy: tuple[Product, str, str], places: list[Place]
) -> None:
    product, begun, waiting = busy
    product.end(signal.SIGKILL)
    assert json.loads(product.kps("task", "delete", waiting, "--json").stdout) == {"deleted": 0, "cancelled": 1}
    product.kps("server", "remove", places[1].name)
    refused = product.kps("task", "delete", begun, "--json", ends=4)
    assert json.loads(refused.stderr)["error"]["code"] == "task_not_failed"


def test_a_task_that_waits_in_a_living_controller_is_cancelled(busy: tuple[Product, str, str]) -> None:
    product, begun, waiting = busy
    assert "cancelled" in product.kps("task", "delete", waiting).stdout
    assert product.task(waiting)["status"] == "cancelled"
    assert product.task(begun)["status"] == "running"


def test_what_a_controller_that_is_told_to_stop_had_not_begun_is_begun_by_the_next_with_what_was_given(
    busy: tuple[Product, str, str],
) -> None:
    product, begun, waiting = busy
    product.end(signal.SIGTERM)
    left = listed(product)
    assert {id: (task["status"], task["cause"]) for id, task in left.items()} == {
        begun: ("failed", "interrupted"),
        waiting: ("ready", None),
    }
    assert left[begun]["server_state"] == "as_before"
    assert kept(product) == {waiting}
    product.serve()
    product.at_phase(waiting, "connect")
    until(lambda: ("credential_opened", "") in product.events(waiting), what="what was given is not opened")


def test_no_file_shows_a_password_while_it_is_kept(busy: tuple[Product, str, str]) -> None:
    product, begun, waiting = busy
    product.end(signal.SIGKILL)
    assert kept(product) == {begun, waiting}
    for path in product.home.iterdir():
        assert path.is_socket() or HANDED_IN.encode() not in path.read_bytes()
