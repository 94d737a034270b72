"""Mutants of the safety protocol and the editors, kept as patches: the suite catches every one.

Each patch begins with what it breaks and `# catches: NODE IDS`, of tests that must fail on a copy of the tree to which it is
applied, and must pass on the same copy without it. A patch that no longer applies is a failure. The numbers are names: those of
patches that are gone are not given again.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATCHES = sorted(HERE.glob("*.patch"))
PASSED, TESTS_FAILED = 0, 1  # pytest's exit codes; 2 to 5 mean that it did not get to testing


class Copy:
    """A copy of the tree, in which tests run. What was compiled comes along: it holds for every file that is not mutated."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
        self.output = directory / "output"
        for part in ("kpsagent", "controller", "tests", "docs"):
            shutil.copytree(ROOT / part, self.tree / part)
        shutil.copy(ROOT / "pyproject.toml", self.tree)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))}
        # Nothing is compiled for keeps: two mutants of one size and one second could not be told apart. And plugins take long.
        environment |= {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        self._nursery = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            cwd=self.tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, node_ids: list[str]) -> int:
        """Run these tests until one fails, and return pytest's exit code; output holds what it said."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        quick = ["-x", "-q", "-p", "no:cacheprovider"]
        self._nursery.stdin.write(json.dumps([str(self.output), *quick, *node_ids]) + "\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def said(self) -> str:
        return self.output.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        self._nursery.communicate()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    copy = Copy(tmp_path_factory.mktemp("mutants"))
    yield copy
    copy.close()


@pytest.fixture
def mutated(copy: Copy, request: pytest.FixtureRequest) -> Iterator[Copy]:
    """The copy with the patch of the test in it, as long as the test lasts."""
    text = request.getfixturevalue("patch").read_text()
    changed = [copy.tree / name for name in re.findall(r"(?m)^\+\+\+ b/(\S+)", text)]
    before = {path: (path.read_bytes(), path.stat()) for path in changed}
    try:
        argv = ["patch", "-p1", "--quiet", "--fuzz=2", "--no-backup-if-mismatch", "-d", str(copy.tree)]
        applied = subprocess.run(argv, input=text, text=True, capture_output=True)
        assert applied.returncode == 0, f"does not fit this tree any more: {applied.stdout}{applied.stderr}"
        yield copy
    finally:
        for path, (content, seen) in before.items():
            path.write_bytes(content)
            # With its own time again, what was compiled from it holds again.
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def catching(patch: Path) -> list[str]:
    """The tests that a patch says it is caught by."""
    return shlex.split(re.findall(r"(?m)^# catches: (.*)$", patch.read_text())[0])


def test_there_are_enough_of_them() -> None:
    of_the_transaction = [patch for patch in PATCHES if patch.name < "1"]
    assert len(PATCHES) >= 25
    assert len(of_the_transaction) >= 15


@pytest.mark.long
def test_without_a_mutant_the_tests_that_catch_them_pass(copy: Copy) -> None:
    every = sorted({node_id for patch in PATCHES for node_id in catching(patch)})
    assert copy.run(every) == PASSED, copy.said()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_mutant_is_caught(patch: Path, mutated: Copy) -> None:
    code = mutated.run(catching(patch))
    assert code == TESTS_FAILED, f"{patch.name}: not caught by {catching(patch)}\n{mutated.said()}"
