"""What holds for every test: in CI nothing is skipped, and never fewer tests run than tests/minimum says."""

import gc
import os
import signal
import textwrap
from collections import Counter
from collections.abc import Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.postgresql import Cluster

MINIMUM = Path(__file__).parent / "minimum"


def pytest_configure(config: pytest.Config) -> None:
    """Have what tests start hear Ctrl-C: a shell that runs us in the background had it ignored, and that is inherited."""
    config.addinivalue_line("markers", "long: the test takes most of a minute or more; it begins before the others")
    config.addinivalue_line("markers", "hazard(row, ...): the test is about these rows of tests/test_hazards.py")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have each worker begin with some of the long tests, so that nobody waits for one of them at the end.

    `--dist worksteal` gives each worker one stretch of the list; who is through takes from the end of another's.
    """
    workers = config.workerinput["workercount"] if hasattr(config, "workerinput") else 1
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        first = long[worker::workers]
        share = len(items) * (worker + 1) // workers - len(ordered) - len(first)
        ordered += first + rest[: max(share, 0)]
        del rest[: max(share, 0)]
    items[:] = ordered + rest


def pytest_collection_finish() -> None:
    """Never look for garbage again in what was loaded for thousands of tests: it is there to stay."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, make a run fail that skipped something or ran too little."""
    if _complaints(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Generator[None]:
    """Say how many tests ran, and what of that CI does not accept."""
    yield
    for line in _lines(_counted(config)):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"{_ran(config)} tests ran, {_skipped(config)} were skipped")
    for complaint in _complaints(config):
        terminalreporter.write_line(complaint, red=True)


def _complaints(config: pytest.Config) -> list[str]:
    # Workers of xdist have no terminal; the process that started them judges for all.
    if os.environ.get("CI") != "true" or hasattr(config, "workerinput"):
        return []
    found = []
    if _skipped(config):
        found.append("in CI no test may be skipped: install what is missing")
    if _is_whole_suite(config) and _ran(config) < (least := int(MINIMUM.read_text())):
        found.append(f"in CI at least {least} tests must run (tests/minimum)")
    return found


def _is_whole_suite(config: pytest.Config) -> bool:
    narrowed = config.option.keyword or config.option.markexpr or config.option.collectonly
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not narrowed


def _ran(config: pytest.Config) -> int:
    return sum(_count(config, outcome) for outcome in ("passed", "failed", "xfailed", "xpassed"))


def _skipped(config: pytest.Config) -> int:
    return _count(config, "skipped")


def _counted(config: pytest.Config) -> Counter[str]:
    """What tests counted on their way: each put a dict of numbers into its property "counted"."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    counted: Counter[str] = Counter()
    for report in chain.from_iterable(reporter.stats.values()) if reporter is not None else ():
        if getattr(report, "when", "") == "teardown":
            for name, numbers in report.user_properties:
                counted.update(numbers if name == "counted" else {})
    return counted


def _lines(counted: Counter[str]) -> list[str]:
    """The counts in lines for people; those that are named "part: what" together."""
    parts: dict[str, list[str]] = {}
    for name, number in sorted(counted.items()):
        part, _, what = name.rpartition(": ")
        parts.setdefault(part, []).append(f"{number:,} {what}")
    texts = [f"{part}: {', '.join(numbers)}" if part else ", ".join(numbers) for part, numbers in parts.items()]
    return [line for text in texts for line in textwrap.wrap(text, 120, subsequent_indent="    ")]


def _count(config: pytest.Config, outcome: str) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get(outcome, [])) if reporter is not None else 0


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[Cluster]":
    """A PostgreSQL server; who stops it starts it again."""
    from tests.postgresql import Cluster  # it takes its time to be loaded

    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def database(postgresql: "Cluster") -> str:
    """The URL of a database of PostgreSQL with this version's tables, and nothing in them."""
    return postgresql.emptied()
