"""On a disk at rest nothing of this machine can be imported any more: what is imported late must have been had before."""

import ast
import sys
from pathlib import Path

import kpsagent

# Not for a reset: a check is made of running servers only. ctypes is had, where it is, by swap.confine().
NOT_THERE = {"doctor.py", "__main__.py"}
BEFORE = {"ctypes"}


def test_what_is_imported_late_is_had_before_the_disk_is_all_there_is() -> None:
    package = Path(kpsagent.__file__).parent
    late = {}
    for path in package.glob("*.py"):
        if path.name not in NOT_THERE | {"reset.py"}:
            late |= {name: path.name for name in _late(path) if name in sys.stdlib_module_names}
    had = set(_late(package / "reset.py")) | BEFORE
    assert late.keys() >= {"glob", "hashlib", "socket"}
    assert {name: file for name, file in late.items() if name not in had} == {}


def _late(path: Path) -> list[str]:
    """The modules that a file's functions import."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)]
    found = [alias.name for node in inside if isinstance(node, ast.Import) for alias in node.names]
    return found + [node.module or "" for node in inside if isinstance(node, ast.ImportFrom) and not node.level]
