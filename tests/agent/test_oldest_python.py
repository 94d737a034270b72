"""The agent runs on every Python that servers have: each module is imported by each interpreter that can be found."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controller.demo.fleet import Fleet, FleetUnavailable, Spec
from tests.needs import lacking

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "kpsagent").glob("*.py") if path.stem not in ("__init__", "__main__"))
VERSIONS = [f"3.{minor}" for minor in range(6, 14)]
TREES = {"host": None, "bullseye": "3.9", "trixie": "3.13"}

# __main__ is imported under its own name, so that it does not run. Only the tree given is searched besides the library.
IMPORT = f"""
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
for name in {[*MODULES, "__main__"]!r}:
    __import__("kpsagent." + name)
print("%d.%d" % sys.version_info[:2])
"""


def _interpreters() -> dict[str, str]:
    """The interpreters of this machine by version: from PATH, and those that pyenv keeps."""
    found = {"{}.{}".format(*sys.version_info): sys.executable}
    for version in VERSIONS:
        homes = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"))
        for directory in [*map(str, homes), *os.environ["PATH"].split(os.pathsep)]:
            program = shutil.which(f"python{version}", path=directory)
            # pyenv's stand-ins are in PATH for every version, and fail for those that were not chosen.
            if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
                found[version] = program
                break
    return found


INTERPRETERS = _interpreters()


@pytest.mark.parametrize("version", INTERPRETERS)
def test_every_module_is_imported_by_this_python(version, record_property):
    record_property("interpreter", INTERPRETERS[version])
    finished = subprocess.run(
        [INTERPRETERS[version], "-I", "-W", "error", "-c", IMPORT, str(ROOT)], capture_output=True, text=True
    )
    assert finished.stderr == ""
    assert finished.stdout == f"{version}\n"


@pytest.mark.parametrize("tree", TREES)
def test_every_module_is_imported_by_a_small_server_that_has_python3_minimal(tree):
    try:
        with Fleet([Spec(tree=tree)]) as fleet:
            (server,) = fleet
            for path in (ROOT / "kpsagent").glob("*.py"):
                server.write(f"/opt/agent/kpsagent/{path.name}", path.read_text())
            said = server.run(["python3", "-I", "-W", "error", "-c", IMPORT, "/opt/agent"])
    except FleetUnavailable as error:
        lacking(str(error))
    assert said.stderr == ""
    assert re.fullmatch(r"3\.\d+\n", said.stdout)
    assert TREES[tree] in (None, said.stdout.strip())
