"""Nothing is written in the store that is not an event too: held over the store's own code."""

import ast
from pathlib import Path

from controller import store

BELOW = {"base.py", "chain.py", "engine.py", "schema.py"}
NO_EVENT = {
    "renew": "a lease goes on",
    "access_key_used": "when it last signed a request; what that asked for is an event",
    "token_used": "when it last came with a request; what that asked for is an event",
    "console_session_seen": "when somebody last did something in the console; what they did is an event",
    "drop_ended": "what has run out by itself",
    "drop_credentials": "what has run out by itself",
    "drop_secret_rotations": "what has been over for long; how it went is an event",
    "drop_import_tokens": "what has run out by itself",
    "door_password_changing": "the rotation that does it is an event",
    "door_hook_goes": "that it goes, and what is lost with it, are events of what comes next",
    "door_alert_told": "what was told is an event already",
    "add_checkpoint": "a statement about the events",
    "move": "every row as it is, the events among them: a new one would be no copy",
}


def test_every_write_is_an_event() -> None:
    bodies: dict[str, ast.FunctionDef] = {}
    for path in sorted(Path(store.__file__).parent.glob("*.py")):
        if path.name not in BELOW:
            bodies |= {node.name: node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    telling = {"_event"}
    while True:
        more = {name for name, body in bodies.items() if _calls(body) & telling} | telling
        if more == telling:
            break
        telling = more
    writing = {name for name, body in bodies.items() if "engine.writing(" in ast.unparse(body)}
    assert len(writing) > 20
    assert sorted(writing - telling) == sorted(NO_EVENT)


def _calls(body: ast.FunctionDef) -> set[str]:
    """The names of the methods and functions of the store that a function calls."""
    called = [node.func for node in ast.walk(body) if isinstance(node, ast.Call)]
    own = {node.attr for node in called if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"}
    return own | {node.id for node in called if isinstance(node, ast.Name)}
