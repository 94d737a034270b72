"""The agent as bytes: the sources of kpsagent in one file, without what only people read."""

import ast
import base64
import contextlib
import functools
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Mapping
from importlib import resources, util
from pathlib import Path
from typing import Any

from controller.model import DOOR_OPERATIONS

# In the order in which they import each other.
_BEFORE = (
    "errors", "wire", "doorstate", "swap", "labels", "keys", "permissions", "host", "sshd", "plan", "ground", "look", "removal",
    "undo",
)  # fmt: skip
# What few runs need, and is shipped to those only.
_FOR_SOME = ("password", "reset", "revoke", "pam", "doctor", "preview", "doors", "doororders")
_AFTER = ("transaction", "accounts", "files", "processes", "arming", "sessions", "local")
_OF_DOORS = ("halfopen", "doorhost", "doorwatch")  # they stand on all of these

_LOADER = """\
import sys, types
for _name, _source in _MODULES:
    _module = types.ModuleType(_name)
    _module.__package__ = "kpsagent"
    if _name == "kpsagent":
        _module.__path__ = []
    sys.modules[_name] = _module
    exec(compile(_source, _name, "exec", dont_inherit=True), _module.__dict__)
    if "." in _name:
        setattr(sys.modules["kpsagent"], _name.partition(".")[2], _module)
sys.modules["kpsagent.__main__"].main(sys.argv[1:], globals().get("_bundle", b""))
"""

STARTED = b"kps-started"
# What is on the command line, and so can be seen in ps: no more than how to read the rest from standard input.
BOOTSTRAP = """\
import os,zlib
os.write(1,b"kps-started\\n")
def take(n):
    got=b""
    while len(got)<n:
        more=os.read(0,n-len(got))
        if not more: os._exit(3)
        got+=more
    return got
line=b""
while not line.startswith(b"kps-agent "):
    line=take(1)
    while line[-1:]!=b"\\n": line+=take(1)
_bundle=zlib.decompress(take(int(line.split()[1])))
exec(compile(_bundle,"kpsagent","exec"))
"""
# The same where it has to pass through shells: as one word of letters, and what unpacks it.
PACKED_BOOTSTRAP = base64.b64encode(BOOTSTRAP.encode("ascii")).decode("ascii")
STARTER = "import base64,sys;exec(base64.b64decode(sys.argv.pop(1)))"


def needed(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modules that this plan needs and most do not."""
    wanted = {
        "password": plan["operation"] in ("reset", "password-set"),
        "reset": plan["operation"] == "reset",
        "revoke": bool(plan.get("revoke")),
        "pam": plan.get("diagnose") is not None,
        "doctor": plan.get("diagnose") is not None,
        "preview": bool(plan.get("only_plan")),
        # On a disk at rest nobody else closes a door that stands there.
        "doors": plan["operation"] in ("reset", *DOOR_OPERATIONS),
        "doororders": plan["operation"] in DOOR_OPERATIONS,
    }
    return tuple(name for name in _FOR_SOME if wanted[name])


@functools.cache
def bundle(*extra: str) -> bytes:
    """Return the agent as one Python source file; what it needs at its arguments is said in kpsagent/__main__.py.

    extra: what needed() says.
    """
    last = (*_OF_DOORS, "__main__") if "doors" in extra else ("__main__",)
    names = [f"kpsagent.{name}" for name in (*_BEFORE, *extra, *_AFTER, *last)]
    modules = [(name, _modules()[name]) for name in ("kpsagent", *names)]
    return f"_MODULES = {modules!r}\n{_LOADER}".encode()


@functools.cache
def payload(*extra: str) -> bytes:
    """Return what BOOTSTRAP reads: a line with the length, then the compressed bundle."""
    packed = zlib.compress(bundle(*extra), 9)
    return b"kps-agent %d\n" % len(packed) + packed


@functools.cache
def _modules() -> dict[str, str]:
    """Return the agent's modules without what only people read, by name.

    To take it off needs a third of a second, so the result is kept where Python keeps what it makes of sources (__pycache__), and
    as much trusted: who can write there can change what runs here anyway. It counts only for these very sources, taken off by
    this very code.
    """
    package = resources.files("kpsagent")
    names = ("__init__", *_BEFORE, *_FOR_SOME, *_AFTER, *_OF_DOORS, "__main__")
    sources = {name: package.joinpath(f"{name}.py").read_text("utf-8") for name in names}
    rules = resources.files(__package__).joinpath(f"{__name__.rpartition('.')[2]}.py").read_text("utf-8")
    made_from = hashlib.sha256(json.dumps([sys.version, rules, sources]).encode()).hexdigest()
    place = Path(util.cache_from_source(str(package.joinpath("__init__.py")))).with_name("shipped.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(_trusted(place))
        if kept["made_from"] == made_from and _digest(kept["modules"]) == kept["digest"]:
            return {str(name): str(source) for name, source in kept["modules"].items()}
    modules = {"kpsagent" if name == "__init__" else f"kpsagent.{name}": _bare(source) for name, source in sources.items()}
    if not sys.dont_write_bytecode:
        _keep(place, json.dumps({"made_from": made_from, "digest": _digest(modules), "modules": modules}))
    return modules


def _digest(modules: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(modules).encode()).hexdigest()


def _trusted(place: Path) -> str:
    """Return the text of a file that only its owner may write: us, root, or whose the directory is. OSError, ValueError."""
    with open(place, encoding="utf-8") as stream:
        about, directory = os.fstat(stream.fileno()), place.parent.stat()
        if about.st_mode & 0o022 or about.st_uid not in (0, os.geteuid(), directory.st_uid):
            raise PermissionError(f"{place}: others may write it")
        return stream.read()


def _keep(place: Path, text: str) -> None:
    """Write a file whole, or not at all where that is not allowed here."""
    new = place.with_name(f"{place.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Nobody else may write it, whatever the umask: what is in it runs as root on every server.
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(new, place)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


class _Bare(ast.NodeTransformer):
    """Takes docstrings and annotations off: they cost the server time to compile."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        every = [*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        for argument in every:
            if argument is not None:
                argument.annotation = None
        return _without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        return _without_docstring(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = node.targets[0]
        return None if isinstance(target, ast.Attribute) and target.attr == "__doc__" else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


def _without_docstring(node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
    return node


def _bare(source: str) -> str:
    tree = ast.parse(source)
    if ast.get_docstring(tree, clean=False) is not None:
        tree.body = tree.body[1:]
    return ast.unparse(ast.fix_missing_locations(_Bare().visit(tree)))
