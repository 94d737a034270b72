"""In CI a run with a skipped test, or with fewer tests than the committed number, fails; elsewhere it passes and says so."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
TWO_PASS = "def test_one(): pass\ndef test_two(): pass\n"
ONE_IS_SKIPPED = TWO_PASS + "import pytest\ndef test_three(): pytest.skip('nothing here')\n"


@pytest.mark.parametrize(
    ("tests", "minimum", "in_ci", "status", "said"),
    [
        (TWO_PASS, 2, True, 0, "2 tests ran, 0 were skipped"),
        (TWO_PASS, 3, True, 1, "in CI at least 3 tests must run"),
        (TWO_PASS, 3, False, 0, "2 tests ran, 0 were skipped"),
        (ONE_IS_SKIPPED, 2, True, 1, "in CI no test may be skipped"),
        (ONE_IS_SKIPPED, 2, False, 0, "2 tests ran, 1 were skipped"),
    ],
)
def test_a_run_is_judged_by_what_it_left_out(tmp_path: Path, tests, minimum, in_ci, status, said):
    finished = _run(tmp_path, tests, minimum, in_ci)
    assert finished.returncode == status, finished.stdout
    assert said in finished.stdout
    assert " passed" in finished.stdout.rstrip("\n").split("\n")[-1]


def test_a_run_with_workers_is_judged_as_a_whole(tmp_path: Path):
    finished = _run(tmp_path, ONE_IS_SKIPPED, 4, True, "-n", "2")
    assert finished.returncode == 1
    for said in ("2 tests ran, 1 were skipped", "in CI no test may be skipped", "in CI at least 4 tests must run"):
        assert finished.stdout.count(said) == 1


def test_a_run_of_a_few_named_tests_is_not_held_to_the_number(tmp_path: Path):
    finished = _run(tmp_path, TWO_PASS, 3, True, "tests/test_given.py")
    assert finished.returncode == 0, finished.stdout


def _run(root: Path, tests: str, minimum: int, in_ci: bool, *words: str) -> subprocess.CompletedProcess[str]:
    (root / "tests").mkdir()
    shutil.copy(CONFTEST, root / "tests")
    (root / "tests/minimum").write_text(f"{minimum}\n")
    (root / "tests/test_given.py").write_text(tests)
    (root / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *words],
        cwd=root,
        env=environment | ({"CI": "true"} if in_ci else {}),
        capture_output=True,
        text=True,
    )
