"""Random and half-right bytes on all that parses what others wrote: only the errors that it promises, in little memory."""

import contextlib
import random
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh

from controller import keyfiles
from controller.errors import Invalid
from controller.model import Secret
from controller.transport import frames
from kpsagent import keys, plan, sshd, wire
from kpsagent.errors import Stop
from tests.agent import hostile_configs, hostile_keys

LARGEST_MEMORY = 200 << 20  # bytes
LONGEST_SECONDS = 10.0  # for one input: nothing that is sent to us may keep us busy
_FRAMES = [
    b'{"say":"hello","boot":"b","python":"3.9.2","root":true}',
    b'{"say":"phase","phase":"widen","detail":{"steps":2}}',
    b'{"say":"ask","phase":"widen","path":"/n","questions":[{"way":"key","login":"root","want":"logged_in","key":"k"}]}',
    b'{"say":"result","status":"failed","server_state":"as_before","phase":"look","cause":"busy","evidence":{"a":[1]}}',
]
_PLAN = (
    b'{"operation":"bind","id":"i","generation":1,"login":"root","key":"ssh-ed25519 AAAA","remove":[],"passwords":"off",'
    b'"connection":["127.0.0.1","1","127.0.0.1","22"]}'
)
_PIECES = [
    b"\0", b"\r", b"\n", b"\xff", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b"=", b"#", b" ", b"\t", b"-", b"1e999",
    b"NaN", b"\\ud800", b"\xed\xa0\x80", b"null", b"[" * 2000, b'{"a":' * 300, b"9" * 400, b"%" * 50, b"*" * 40, b"Match ",
    b"Include *\n",
]  # fmt: skip


class Target(NamedTuple):
    """One parser. seeds: what it takes gladly, from which the others are made; allowed: the errors that it promises."""

    name: str
    parse: Callable[[bytes], Any]
    seeds: list[bytes]
    allowed: tuple[type[BaseException], ...]


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _authorized_keys(raw: bytes) -> None:
    content = text(raw)
    keys.refuse_odd(content, "/x")
    key = keys.parse(_KEY.line)
    held = keys.find(content, key)
    assert keys.find(keys.remove(content, key), key) == []
    assert keys.remove(keys.add(content, _KEY.line), key) == keys.remove(content, key)
    for line in held:
        keys.option_names(line.options)
    keys.inherit(content, key, _OTHER.line)


def _public_key(raw: bytes) -> None:
    key = keys.parse(text(raw))
    assert keys.parse(keys.text(key)) == key
    keys.fingerprint(key)


def _sshd_config(raw: bytes) -> None:
    content = text(raw)
    assert sshd.without_block(sshd.with_block(content, [("PasswordAuthentication", "no")])) == sshd.without_block(content)
    sshd.includes(content)
    found = sshd.password_places([("/x", content)])
    sshd.opening(found, {"usepam": ["yes"]})
    sshd.authorized_keys_anywhere([("/x", content)], "alice", ["alice"], 1000, "/home/alice")
    sshd.scan({"/x": content}, "/x", "alice", ["alice"])
    sshd.refuse_odd(content, "/x")


def _what_sshd_says(raw: bytes) -> None:
    settings = sshd.effective(text(raw))
    sshd.password_ways(settings, "alice", 1000)
    sshd.methods_left(settings)
    sshd.login_allowed(settings, "alice", ["alice"], "10.0.0.1", "10.0.0.1")
    sshd.authorized_keys_paths(settings, "alice", 1000, "/home/alice")


def _json(raw: bytes) -> None:
    value = wire.decode(raw.decode("utf-8"))
    assert wire.decode(wire.encode(value)) == value or "NaN" in text(raw)


def _plan(raw: bytes) -> None:
    order = wire.decode(raw.decode("utf-8"))
    if isinstance(order, dict):
        plan.parse(order)


def _frame(raw: bytes) -> None:
    frames.parse(raw)


def _private_key(raw: bytes) -> None:
    keyfiles.read_private(Secret(bytearray(raw)), Secret(bytearray(b"word")))


_R = random.Random(0)
_KEY = hostile_keys.public_key(_R, "ssh-rsa")
_OTHER = hostile_keys.public_key(_R, "ssh-ed25519")


def targets() -> list[Target]:
    """Every parser of what others wrote."""
    r = random.Random(1)
    some = [_KEY, _OTHER, *hostile_keys.some_keys(r)[:6]]
    private = [asyncssh.generate_private_key(kind) for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256")]
    private.append(asyncssh.generate_private_key("ssh-rsa", key_size=2048))
    exported = [key.export_private_key(form) for key in private for form in ("openssh", "pkcs8-pem")]
    exported += [private[1].export_private_key("pkcs1-pem"), private[0].export_private_key("openssh", "word", rounds=2)]
    configs = [hostile_configs.file(r, Path("/d")).text.encode("utf-8", "surrogateescape") for _ in range(40)]
    files = [hostile_keys.file(r, some).text.encode("utf-8", "surrogateescape") for _ in range(40)]
    said = (
        b"port 22\nusepam yes\nauthenticationmethods publickey,password\nallowusers a@10.0.0.0/8 b\nauthorizedkeysfile %h/x %u\n"
    )
    return [
        Target("authorized_keys", _authorized_keys, files, (Stop,)),
        Target("public key lines", _public_key, [key.line.encode() for key in some], (Stop,)),
        Target("sshd_config", _sshd_config, configs, (Stop,)),
        Target("what sshd -T says", _what_sshd_says, [said], ()),
        Target("JSON of the agent", _json, [*_FRAMES, _PLAN], (ValueError,)),
        Target("plans", _plan, [_PLAN], (ValueError, Stop)),
        Target("frames of a server", _frame, _FRAMES, (Stop,)),
        Target("private key files", _private_key, exported, (Invalid,)),
    ]


def mutated(r: random.Random, seeds: list[bytes]) -> bytes:
    """Something near to one of the seeds, or to none."""
    if r.random() < 0.05:
        return r.randbytes(r.choice([0, 1, 7, 300]))
    raw = r.choice(seeds)
    for _ in range(r.choice([1, 1, 2, 4, 12])):
        at = r.randrange(len(raw) + 1)
        match r.randrange(6):
            case 0:
                raw = raw[:at] + r.choice(_PIECES) + raw[at:]
            case 1:
                raw = raw[:at] + raw[at + r.choice([1, 2, 8, 60]) :]
            case 2:
                raw = raw[:at] + r.randbytes(1) + raw[at + 1 :]
            case 3:
                other = r.choice(seeds)
                raw = raw[:at] + other[r.randrange(len(other) + 1) :]
            case 4:
                raw = raw[:at] + raw[max(0, at - 40) : at] * r.choice([2, 50]) + raw[at:]
            case _:
                raw = re.sub(rb"\d+", lambda _: r.choice([b"-1", b"0", b"4294967296", b"1.5", b"1e400"]), raw, count=1)
        raw = raw[:200_000]
    return raw


def tried(target: Target, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Give a parser what nobody would, for so long."""
    r = random.Random(f"{seed}/{target.name}")
    tally: Counter[str] = Counter()
    misses: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        raw = mutated(r, target.seeds)
        tally["inputs"] += 1
        begun = time.process_time()
        try:
            target.parse(raw)
        except target.allowed:
            tally["refused"] += 1
        except Exception as error:
            tally["uncaught"] += 1
            misses.append(f"parsers --seed {seed}: {target.name}: {type(error).__name__}: {error}: {raw[:3000]!r}")
        took = time.process_time() - begun
        if took > LONGEST_SECONDS:
            tally["too slow"] += 1
            misses.append(f"parsers --seed {seed}: {target.name}: {took:.1f} s for {len(raw)} bytes: {raw[:500]!r}")
        tally["slowest ms"] = max(tally["slowest ms"], int(took * 1000))
    # What Python itself allocates at most for one of a few more inputs; counting it throughout would take most of the time.
    tracemalloc.start()
    for _ in range(50):
        with contextlib.suppress(Exception):
            target.parse(mutated(r, target.seeds))
    tally["peak MiB"] = -(-tracemalloc.get_traced_memory()[1] >> 20)  # rounded up: 0 would look like nothing measured
    tracemalloc.stop()
    return tally, misses[:20]
