"""A server whose root lies to us: its login shell plays the agent. It gets nothing on record, and nothing out of us."""

import json
import re
import resource
from pathlib import Path

import pytest

from tests.fleet import judge

SHELL = "/usr/local/bin/liar"
HELLO = {"say": "hello", "boot": "b/1", "python": "3.11", "root": True}
DONE = {
    "say": "result",
    "status": "succeeded",
    "server_state": "as_asked",
    "phase": "done",
    "closed": True,
    "logins": {"root": "off"},
}


def lying(server, *lines):
    """Have root's login shell say these lines in the agent's place; everything else it runs as asked."""
    said = "\n".join(line if isinstance(line, str) else f"say '{json.dumps(line)}'" for line in lines)
    script = f"""#!/bin/bash
marker=$(printf '%s' "$2" | grep -oE '[0-9a-f]{{32}}' | head -n 1)
[ -n "$marker" ] || exec /bin/sh -c "$2"
say() {{ printf '%s %s\\n' "$marker" "$1"; }}
{said}
cat >/dev/null
"""
    server.write(SHELL, script, mode=0o755)
    server.run(["sed", "-i", f"s|^\\(root:.*:\\)[^:]*$|\\1{SHELL}|", "/etc/passwd"])


@pytest.fixture
def liar(product, server):
    product.add(server)
    return server


def bind(product, server):
    keypair = product.keypair()
    return keypair, product.run("bind", server, keypair=keypair, password=server.root_password)


def test_a_success_that_was_never_proved_is_not_believed(product, liar):
    lying(liar, HELLO, DONE)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "session_disturbed", "unknown")
    assert "never had it proved" in task["message"]
    assert product.server(liar)["bindings"] == []


def test_a_proof_for_another_login_is_not_made(product, liar):
    question = {"way": "password", "login": "somebody", "want": "password_offered", "least": "password_offered"}
    lying(liar, HELLO, {"say": "ask", "phase": "widen", "questions": [question], "path": "/var/lib/kps/nonce"}, DONE)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"]) == ("failed", "session_disturbed")
    assert "not part of its plan" in task["message"]


def test_a_proof_with_another_key_is_not_made(product, liar):
    _, other = judge.new_key_pair()
    question = {"way": "key", "login": "root", "want": "logged_in", "least": "logged_in", "key": other}
    lying(liar, HELLO, {"say": "ask", "phase": "widen", "questions": [question], "path": "/var/lib/kps/nonce"}, DONE)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"]) == ("failed", "session_disturbed")


@pytest.mark.parametrize(
    "line",
    [
        {"say": "result", "status": "succeeded"},
        {"say": "surprise"},
        DONE | {"status": "splendid"},
        DONE | {"logins": {f"login{number}": "on" for number in range(2000)}},
        {"say": "ask", "phase": "widen", "questions": [], "path": "/etc/passwd; reboot"},
        f"say '{'[' * 5000}'",
        "say 'no JSON at all'",
    ],
)
def test_what_is_no_frame_ends_the_task_and_nothing_else(product, liar, line):
    lying(liar, HELLO, line)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"]) == ("failed", "session_disturbed")


def test_what_it_says_reaches_no_terminal_as_an_order(product, liar):
    nasty = "\x1b[2J\x1b]0;owned\x07 gone\r\n\u202e"
    failed = DONE | {
        "status": "failed",
        "server_state": "as_before",
        "cause": "disk_full",
        "message": nasty,
        "evidence": {"path": nasty},
    }
    lying(liar, HELLO, failed)
    _, task = bind(product, liar)
    assert task["status"] == "failed"
    shown = product.kps("task", "show", task["id"]).stdout
    assert "owned" in shown
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f\u202e]", task["message"] + json.dumps(task["evidence"], ensure_ascii=False) + shown
    )


def test_a_flood_costs_neither_memory_nor_the_controller(product, liar):
    lying(liar, HELLO, "head -c 300000000 /dev/zero | tr '\\0' a")
    before = _memory_of(product)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"]) == ("failed", "connection_lost")
    assert _memory_of(product) - before < 100 << 20
    assert product.ask("GET", "/health") == {"status": "ok"}


def _memory_of(product) -> int:
    pages = int(Path(f"/proc/{product.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
