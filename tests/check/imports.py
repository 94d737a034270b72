"""Holds the rule of docs/design.md about who may import whom, over the code's own imports.

`a <- b` means that b may import a, and everything a may import. Names beside each other (with a comma or a bar) are
siblings and never import each other.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
VALUES = frozenset(
    """model policy errors causes events findings settings keyfiles privacy addresses signing answers measures plain
    doors doorbyhand kps_audit_verify stages storeplace""".split()  # noqa: SIM905
)
# Only this part may know the queue library.
QUEUE = ("procrastinate", "dispatch")
# What python3-minimal has on Debian 11, 12 and 13, and of that what is quick to load: only this at the top of a module.
QUICK = frozenset(
    """os sys base64 hashlib fcntl pwd grp struct stat errno time signal select socket zlib binascii
    collections""".split()  # noqa: SIM905
)
SLOW = frozenset({"ast", "ctypes", "fnmatch", "glob", "random", "re", "subprocess", "typing"})


class Import(NamedTuple):
    """One import statement: who imports what, and where it stands."""

    importer: str
    imported: str
    place: str
    only_for_types: bool
    at_start: bool


def complaints(root: Path = ROOT) -> list[str]:
    """What in the tree under root breaks the rule, one line each with file and line."""
    design = (root / "docs/design.md").read_text()
    found = []
    for package in ("kpsagent", "controller"):
        allowed = _allowed(design, package)
        for each in _imports(root, package):
            found += _judge(package, allowed, each)
    return found


def _judge(package: str, allowed: dict[str, frozenset[str]], each: Import) -> Iterator[str]:
    top, _, rest = each.imported.partition(".")
    importer = _part(each.importer)
    if top == package:
        part = _part(each.imported)
        if importer == part or not rest or not importer:
            return
        known = allowed | {"__init__": frozenset()}
        if importer not in known or part not in known:
            yield f"{each.place}: docs/design.md does not say where {importer if importer not in known else part} belongs"
        elif part not in known[importer]:
            yield f"{each.place}: {importer} must not import {part}"
    elif package == "kpsagent":
        if each.only_for_types:
            return
        if top not in sys.stdlib_module_names and top != "__future__":
            yield f"{each.place}: the agent imports nothing but the standard library, not {top}"
        elif top not in QUICK | SLOW:
            yield f"{each.place}: the agent does not import {top}: python3-minimal lacks it"
        elif top in SLOW and each.at_start:
            yield f"{each.place}: the agent imports {top} where it is used, not at its start: it is slow to load"
    elif top == QUEUE[0] and importer != QUEUE[1]:
        yield f"{each.place}: only {QUEUE[1]} may import {QUEUE[0]}"
    elif top == "tests":
        yield f"{each.place}: what we ship does not import tests"


def _part(module: str) -> str:
    """The name by which the rule knows a module: its first name inside the package; for values their common one."""
    words = module.split(".")
    name = words[1] if len(words) > 1 else ""
    return "values" if words[0] == "controller" and name in VALUES else name


def _allowed(design: str, package: str) -> dict[str, frozenset[str]]:
    """For every part that the rule in docs/design.md names: the parts it may import."""
    lines = re.findall(rf"^    {package}:\s+(.*<-.*)$", design, re.MULTILINE)
    found: dict[str, set[str]] = {}
    for chain in " ; ".join(lines).split(";"):
        below: list[str] = []
        for step in chain.split("<-"):
            names = [name for name in re.split(r"[,|\s]+", step) if name]
            for name in names:
                if name != "all":
                    found.setdefault(name, set()).update(below)
            below = [*below, *(sorted(found) if names == ["all"] else names)]
    # What a part may import it may also reach through another: the rule is transitive.
    while True:
        wider = {name: parts.union(*(found[part] for part in parts)) for name, parts in found.items()}
        if wider == found:
            return {name: frozenset(parts) for name, parts in found.items()}
        found = wider


def _imports(root: Path, package: str) -> Iterator[Import]:
    for path in sorted((root / package).rglob("*.py")):
        relative = path.relative_to(root)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(), str(path))
        for_types = {
            id(inside)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for inside in ast.walk(node)
        }
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        later = {id(inside) for function in functions for inside in ast.walk(function)}
        for node in ast.walk(tree):
            for name in _names(node, module, path.name == "__init__.py"):
                place = f"{relative}:{getattr(node, 'lineno', 0)}"
                yield Import(module, name, place, id(node) in for_types, id(node) not in later)


def _names(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """The full names of the modules (or names in them) that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
        base = ".".join([*parents, *filter(None, [base])])
    return [f"{base}.{alias.name}" for alias in node.names]


if __name__ == "__main__":
    for complaint in (all_of_them := complaints()):
        print(complaint)
    sys.exit(bool(all_of_them))
