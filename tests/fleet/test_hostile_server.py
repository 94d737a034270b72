"""A server whose root lies to us: its login shell plays the agent. It gets nothing on record, and nothing out of us."""

import asyncio
import json
import re
import resource
import struct
import time
from pathlib import Path

import asyncssh
import pytest

from controller.causes import CAUSES
from controller.transport.rope import Rope
from kpsagent.errors import Failed
from tests.fleet import judge
from tests.fleet.causes import install_key, listener

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
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NASTY = "\x1b[2J\x1b]0;owned\x07\x9b31m \u202e"


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
    failed = DONE | {
        "status": "failed",
        "server_state": "as_before",
        "cause": "disk_full",
        "message": NASTY,
        "evidence": {"path": NASTY},
    }
    lying(liar, HELLO, failed)
    _, task = bind(product, liar)
    assert task["status"] == "failed"
    for words in (["show", task["id"]], ["show", task["id"], "--json"], ["list"]):
        shown = product.kps("task", *words).stdout
        assert words == ["list"] or "owned" in shown
        assert not OBEYED.search(shown)
    assert not OBEYED.search("".join(_texts(task)))


def test_a_flood_costs_neither_memory_nor_the_controller(product, liar):
    lying(liar, HELLO, "head -c 300000000 /dev/zero | tr '\\0' a")
    before = _memory_of(product)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"]) == ("failed", "connection_lost")
    assert _memory_of(product) - before < 100 << 20
    assert product.ask("GET", "/health") == {"status": "ok"}


LIES = DONE | {"status": "failed", "server_state": "as_before", "cause": "disk_full", "message": "it is full"}


@pytest.mark.parametrize(
    "result",
    [
        LIES | {"message": NASTY * 1000, "evidence": {NASTY: [NASTY, {NASTY: NASTY}]}, "remains": [NASTY], "leftover": NASTY},
        LIES | {"logins": {NASTY: "on"}, "armed": [NASTY], "cause": NASTY},
        LIES | {"recovered": {"operation": NASTY, "result": NASTY}, "last": {"operation": NASTY, "result": NASTY}},
        LIES | {"evidence": {"path": "x" * 60_000}, "logins": {f"{number:0>250}": "on" for number in range(1000)}},
        LIES | {"remains": ["\x1b" * 4000] * 32, "leftover": "\x1b" * 4000, "message": "\u20ac" * 4000},
        LIES | {"evidence": {"number": 10**4000}},
        f"say '{json.dumps(LIES | {'evidence': {'number': float('nan'), 'other': float('inf')}})}'",
        f"say '{json.dumps(LIES | {'evidence': {'text': chr(0xD800)}})}'",
    ],
    ids=[
        "escapes",
        "escapes in names",
        "escapes in the journal",
        "large",
        "large in pieces",
        "large number",
        "no number",
        "surrogate",
    ],
)
def test_what_a_server_says_is_kept_small_and_plain(product, liar, result):
    before = _size_of(product)
    lying(liar, HELLO | {"boot": "\x1b" * 250, "python": NASTY}, result)
    _, task = bind(product, liar)
    _is_plain_and_small(product, task, before)


def test_a_flood_in_one_frame_is_not_kept(product, liar):
    before = _size_of(product)
    lying(liar, HELLO, f'printf \'%s {{"say":"result","message":"\' $marker; head -c {3 << 20} /dev/zero | tr \'\\0\' \'\\033\'')
    _, task = bind(product, liar)
    _is_plain_and_small(product, task, before)


@pytest.mark.parametrize("where", [1, 2])
def test_what_stands_in_the_agent_s_place_is_shown_plain(product, liar, where):
    before = _size_of(product)
    lying(liar, f"printf '%s' '{NASTY}' >&{where}; exit 1")
    _, task = bind(product, liar)
    assert "owned" in task["evidence"]["limits"][0]  # what else was there to be used is SFTP
    _is_plain_and_small(product, task, before)


def _ends_at_once(reason: str):
    """A listener's answer: a greeting, and RFC 4253's disconnect message (11.1) with this reason."""
    said = reason.encode()
    payload = struct.pack(">BII", 1, 2, len(said)) + said + struct.pack(">I", 0)
    padding = 8 - (5 + len(payload)) % 8 + 8
    packet = struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)

    def answer(connection) -> None:
        connection.sendall(b"SSH-2.0-rude\r\n" + packet)
        connection.recv(1 << 16)

    return answer


@pytest.mark.parametrize("known", [True, False])
def test_a_reason_to_end_is_shown_short_and_plain(product, known):
    before = _size_of(product)
    with listener(_ends_at_once(NASTY * 5000)) as place:
        product.add(place, **({} if known else {"host_key": None, "trust_on_first_use": True}))
        task = product.run("bind", place, keypair=product.keypair(), password="whatever")
    assert "owned" in task["message"]
    _is_plain_and_small(product, task, before)


def _is_plain_and_small(product, task, before) -> None:
    assert task["status"] == "failed"
    assert task["cause"] in CAUSES
    events = product.ask("GET", "/events", params=[("after", 0), ("task", task["id"])])
    for kept in (task, events, product.ask("GET", "/servers")):
        assert not OBEYED.search("".join(_texts(kept)))
        json.dumps(kept, allow_nan=False)
    assert len(json.dumps(task)) < 100_000
    assert _size_of(product) - before < 1 << 20


def _texts(value):
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else [str(value)]


def _size_of(product) -> int:
    return sum(path.stat().st_size for path in product.home.glob("kps.db*"))


WIDEN = {"say": "phase", "phase": "widen", "detail": {"steps": 1}}


@pytest.mark.parametrize("frame", [WIDEN, WIDEN | {"detail": {"x": "y" * 60_000}}, HELLO])
def test_frames_without_end_are_cut_off(product, liar, frame):
    lying(liar, HELLO, f"while :; do say '{json.dumps(frame)}'; done")
    begun, before = time.monotonic(), _memory_of(product)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "session_disturbed", "unknown")
    assert time.monotonic() - begun < 30
    assert _memory_of(product) - before < 50 << 20
    events = product.ask("GET", "/events", params=[("after", 0), ("task", task["id"])])
    assert len(events) < 50
    assert len(json.dumps(events)) < 100_000


def test_questions_without_end_are_not_answered(product, liar):
    keypair = product.keypair()
    question = {"way": "key", "login": "root", "want": "logged_in", "key": keypair["public_key"]}
    ask = {"say": "ask", "phase": "widen", "questions": [question], "path": "/var/lib/kps/nonce"}
    lying(liar, HELLO, f"while :; do say '{json.dumps(ask)}'; done")
    task = product.run("bind", liar, keypair=keypair, password=liar.root_password)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "session_disturbed", "unknown")
    events = product.ask("GET", "/events", params=[("after", 0), ("task", task["id"])])
    assert len([event for event in events if event["phase"] == "prove"]) < 6


def test_a_proof_reads_no_more_than_a_nonce_takes(product, liar):
    keypair = product.keypair()
    question = {"way": "key", "login": "root", "want": "logged_in", "key": keypair["public_key"]}
    lying(liar, HELLO, {"say": "ask", "phase": "widen", "questions": [question], "path": "/var/lib/kps/nonce"}, DONE)
    install_key(liar, keypair["public_key"])
    flood = 'case "$2" in *"; exec /bin/cat "*) eval "${2%%;*}"; exec cat /dev/zero;; esac'
    liar.write(SHELL, liar.read(SHELL).replace("#!/bin/bash\n", f"#!/bin/bash\n{flood}\n"), mode=0o755)
    before = _memory_of(product)
    (task_id,) = product.begin("bind", liar, keypair=keypair, password=liar.root_password)
    most = 0
    while product.task(task_id)["status"] in ("ready", "running"):
        most = max(most, _memory_of(product) - before)
        time.sleep(0.1)
    assert product.task(task_id)["cause"] == "session_disturbed"
    assert most < 50 << 20


def test_a_server_that_ends_and_then_floods_is_not_asked_for_ever(product, liar):
    """The first connection breaks in the middle; the one that asks how it ended hears frames without end."""
    endless = f"while :; do say '{json.dumps(WIDEN)}'; done"
    lying(liar, HELLO, f"if mkdir /root/once 2>/dev/null; then say '{json.dumps(WIDEN)}'; exit 1; else {endless}; fi")
    _, task = bind(product, liar)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "connection_lost", "unknown")


def test_noise_without_end_ends_the_task(product, liar):
    lying(liar, HELLO, "exec yes noise")
    before = _memory_of(product)
    _, task = bind(product, liar)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "connection_lost", "unknown")
    assert _memory_of(product) - before < 50 << 20


async def _heard(server, command: str, **how: float) -> list[str]:
    known = ([asyncssh.import_public_key(server.public_host_key)], [], [])
    reached = asyncssh.connect(
        server.host, server.port, username="root", password=server.root_password, known_hosts=known, config=None, agent_path=None
    )
    async with reached as connection:
        process = await connection.create_process(command, encoding=None)
        return [frame.say async for frame in Rope(process, "m", password=None, **how).frames()]


@pytest.mark.parametrize("said", ["noise", f"m {json.dumps(WIDEN)}"])
def test_who_never_falls_silent_and_never_ends_is_given_up(server, said):
    with pytest.raises(Failed, match="not through within 2 s") as failed:
        asyncio.run(_heard(server, f"while :; do echo '{said}'; sleep 0.2; done", silence_seconds=60, whole_seconds=2))
    assert failed.value.cause == "connection_lost"


def test_who_falls_silent_is_given_up(server):
    with pytest.raises(Failed, match="nothing was heard for 1 s") as failed:
        asyncio.run(_heard(server, "sleep 60", silence_seconds=1, whole_seconds=60))
    assert failed.value.cause == "connection_lost"


def test_errors_without_end_are_not_kept(server):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Failed) as failed:
        asyncio.run(_heard(server, "exec yes noise >&2", silence_seconds=2, whole_seconds=60))
    assert failed.value.cause == "connection_lost"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def _memory_of(product) -> int:
    pages = int(Path(f"/proc/{product.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
