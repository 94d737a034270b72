"""Mutants of the safety protocol and the editors, kept as patches: the suite catches every one.

Each patch begins with what it breaks and `# catches: PYTEST ARGUMENTS`. It is applied to a copy of the tree, where those tests
must fail; unmutated they run, and pass, as part of this suite. A patch that no longer applies is a failure.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATCHES = sorted(HERE.glob("*.patch"))
TESTS_FAILED = 1  # pytest's exit code; 2 to 5 mean that it did not get to testing


def test_there_are_enough_of_them() -> None:
    of_the_transaction = [patch for patch in PATCHES if patch.name < "1"]
    assert len(PATCHES) >= 25
    assert len(of_the_transaction) >= 15


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_mutant_is_caught(patch: Path, tmp_path: Path) -> None:
    for part in ("kpsagent", "controller", "tests", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = patch.read_text()
    subprocess.run(["patch", "-p1", "--quiet", "--fuzz=2", "-d", str(tmp_path)], input=text, text=True, check=True)
    catches = next(line for line in text.split("\n") if line.startswith("# catches: ")).removeprefix("# catches: ")
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *shlex.split(catches),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))}
    done = subprocess.run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == TESTS_FAILED, f"{patch.name}: not caught by {catches}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
