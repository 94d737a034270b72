"""The README's session, typed as it stands."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import lacking

ROOT = Path(__file__).parents[2]


def session(section: str = "A session") -> list[tuple[str, list[str], int]]:
    """The commands of a section of the README, what it shows of their output, and the exit code it shows."""
    (text,) = (part for part in (ROOT / "README.md").read_text().split("\n## ") if part.startswith(f"{section}\n"))
    found: list[tuple[str, list[str], int]] = []
    for line in "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).split("\n"):
        if line.startswith("$ "):
            found.append((line[2:], [], 0))
        elif code := re.fullmatch(r"\[exit code (\d+)\]", line):
            found[-1] = (found[-1][0], found[-1][1], int(code.group(1)))
        elif line and line != "...":
            found[-1][1].append(line)
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the session makes its own directory; whatever of a fleet still lives in it afterwards is ended."""
    found = Path(tempfile.mkdtemp(prefix="kps-"))  # short: a socket's path may have some hundred bytes
    yield found
    for left in found.glob("*/try"):
        subprocess.run([Path(sys.executable).with_name("kps"), "demo", "--end", left], check=False)
    shutil.rmtree(found)


def play(place: Path, first: str) -> None:
    """Type the session in place, beginning with first, which says which kps is meant; fails where it shows something else."""
    steps = session()
    assert len(steps) > 10
    steps[0] = (first, [], 0)
    script = "set -u\n"
    for number, (command, _, _) in enumerate(steps):
        script += f"echo '<<{number}'\n{command}\necho \">>{number} $?\"\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KPS_")}
    environment |= {"COLUMNS": "120", "TMPDIR": str(place)}
    done = subprocess.run(["bash"], input=script, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    for number, (command, shown, code) in enumerate(steps):
        said = re.search(rf"<<{number}\n(.*?)>>{number} (\d+)\n", done.stdout, re.DOTALL)
        assert said is not None, f"{command}: the session stopped: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        if command.startswith("kps demo --fleet-only") and said.group(2) == "5":
            lacking(done.stderr)
        assert int(said.group(2)) == code, f"{command}: {said.group(1)}{done.stderr[-2000:]}"
        printed = [" ".join(line.split()) for line in said.group(1).split("\n")]
        for line in shown:
            assert " ".join(line.split()) in printed, f"{command}: {line!r} is not in {said.group(1)}"


@pytest.mark.long
def test_the_readmes_session_works_as_it_stands(place: Path) -> None:
    assert session()[0][0] == ". .venv/bin/activate"
    play(place, f"cd {ROOT}; . .venv/bin/activate")
