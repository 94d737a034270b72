"""Real servers for tests: one fleet per worker, to which each test adds servers of its own."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.causes import CAUSES
from controller.demo.fleet import Fleet, FleetUnavailable, Server, Spec
from tests.fleet.product import Json, Product
from tests.needs import lacking

CONSOLE_COMMAND = "docker exec -it {server} sh"
HURRIED_DEADLINE = 15
# As many digits for each: the product takes servers in the order of their names, and there web-10 comes before web-9.
_NUMBERS = itertools.count(1001)
MakeServer = Callable[..., Server]
Told = Callable[..., Json]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cause(code): the test causes this on a real server, and the fixture told expects it")


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """A fleet without servers yet; they are added in some 50 ms each."""
    started = Fleet(max_age_seconds=2 * 3600)  # longer than all tests take, on a busy machine too
    try:
        started.open()
    except FleetUnavailable as error:
        lacking(str(error))
    with started:
        yield started


@pytest.fixture
def make_server(fleet: Fleet) -> Iterator[MakeServer]:
    """Makes servers that live as long as the test: make_server(tree="trixie", logins=(...)). Their names tell their order."""
    made: list[Server] = []

    def make(**wanted: Any) -> Server:
        try:
            server = fleet.add(Spec(**{"name": f"web-{next(_NUMBERS)}"} | wanted))
        except FleetUnavailable as error:
            lacking(str(error))
        made.append(server)
        return server

    yield make
    for server in made:
        fleet.remove(server)


@pytest.fixture
def server(make_server: MakeServer) -> Server:
    """One server as the demo has them, for this test alone."""
    return make_server()


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A controller that serves a home of its own, for all tests of this worker."""
    with Product(tmp_path_factory.mktemp("product") / "home") as served:
        yield served


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A controller that waits for nothing long: for what must fail. Where the machine is busy, nothing need succeed in time."""
    with Product(tmp_path_factory.mktemp("impatient") / "home", connect_timeout_seconds=2, deadline_seconds=5) as served:
        yield served


@pytest.fixture(scope="session")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A controller that soon gives up what is lost, and gives what can succeed time enough on a busy machine."""
    settings = {"connect_timeout_seconds": 5, "deadline_seconds": HURRIED_DEADLINE, "console_command": CONSOLE_COMMAND}
    with Product(tmp_path_factory.mktemp("hurried") / "home", **settings) as served:
        yield served


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Somebody else's controller, which knows nothing of what the other one does."""
    with Product(tmp_path_factory.mktemp("stranger") / "home", fresh=True) as served:
        yield served


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """told(task, state) checks that a task failed for the cause that its test is marked with, and left its server so."""
    code = request.node.get_closest_marker("cause").args[0]

    def check(task: Json, state: str = "as_before") -> Json:
        assert (task["status"], task["cause"], task["server_state"]) == ("failed", code, state), task
        handling = re.sub(r"\b(ID|LOGIN|HOST|PORT|SOURCE)\b", r"\\S+", re.escape(CAUSES[code].handling))
        assert re.fullmatch(handling, task["handling"])
        assert task["retryable"] == CAUSES[code].retryable
        assert task["message"].startswith(task["server"])
        return task

    return check
