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


def session() -> list[tuple[str, list[str], int]]:
    """The commands of the README's session, what it shows of their output, and the exit code it shows."""
    text = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert text is not None
    found: list[tuple[str, list[str], int]] = []
    for line in text.group(1).split("\n"):
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


@pytest.mark.long
def test_the_readmes_session_works_as_it_stands(place: Path) -> None:
    steps = session()
    assert len(steps) > 10
    script = "set -u\ncd " + str(ROOT) + "\n"
    for number, (command, _, _) in enumerate(steps):
        script += f"echo '<<{number}'\n{command}\necho \">>{number} $?\"\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KPS_")}
    environment |= {"COLUMNS": "120", "TMPDIR": str(place)}
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, timeout=300)
    for number, (command, shown, code) in enumerate(steps):
        said = re.search(rf"<<{number}\n(.*?)>>{number} (\d+)\n", done.stdout, re.DOTALL)
        assert said is not None, f"{command}: the session stopped: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        if command.startswith("kps demo --fleet-only") and said.group(2) == "5":
            lacking(done.stderr)
        assert int(said.group(2)) == code, f"{command}: {said.group(1)}{done.stderr[-2000:]}"
        printed = [" ".join(line.split()) for line in said.group(1).split("\n")]
        for line in shown:
            assert " ".join(line.split()) in printed, f"{command}: {line!r} is not in {said.group(1)}"
