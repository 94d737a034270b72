"""Many writers on one authorized_keys file: fifty agents of ours at once, and others who know nothing of a lock.

Nobody else's line is lost. Each of our lines is there, or its agent has said that it is not.
"""

import itertools
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from controller.demo.fleet import Fleet, Login, Server, Spec
from controller.transport import ship
from kpsagent import files, swap
from kpsagent.errors import Changed
from tests.contracts.places import local_place
from tests.drills.faults import Scale
from tests.drills.figures import Figure, Report, zero
from tests.fleet import judge

OURS, OURS_SAMPLE = 50, 12
FOREIGN, FOREIGN_SAMPLE = 300, 80
FAST, FAST_SAMPLE = 400, 150
SECONDS = 240  # in which every writer must have come through
LOGIN = "deploy"
KEYS = f"/home/{LOGIN}/.ssh/authorized_keys"
MARKER = "0" * 32

Json = dict[str, Any]


def part(report: Report, scale: Scale) -> None:
    """Writers that race: whole operations on a real server, then the one effect at full speed."""
    for how in ("append", "rename"):
        _operations(report, scale, how)
    ways: dict[str, Callable[[], Any]] = {"ctypes": swap._library, "perl": lambda: None}
    for way, library in ways.items():
        for how in ("append", "rename"):
            _at_full_speed(report, scale, how, way, library)


# -- whole operations --------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """One agent of ours after another, until one has bound this key."""

    number: int
    key: str
    results: list[Json] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return bool(self.results) and self.results[-1]["status"] in ("succeeded", "unchanged")

    def outlived_by(self, copies: list[tuple[float, ...]]) -> bool:
        """Whether a copy that others had read before we had ended came into place only after that."""
        return any(begun < self.results[-1]["heard"] < there for begun, there in copies)


def _operations(report: Report, scale: Scale, how: str) -> None:
    ours, foreign = (OURS_SAMPLE, FOREIGN_SAMPLE) if scale.sample else (OURS, FOREIGN)
    writers = [Writer(n, judge.new_key_pair(comment=f"ours-{n}")[1]) for n in range(ours)]
    until = time.monotonic() + SECONDS
    with Fleet([Spec(tree="trixie", logins=(Login(LOGIN),))]) as fleet:
        server = fleet.servers[0]
        server.run(["install", "-d", "-m", "700", "-o", LOGIN, "-g", LOGIN, os.path.dirname(KEYS)])
        server.write(KEYS, "# begin\n", 0o600, f"{LOGIN}:{LOGIN}")
        # One who renames: two of that kind lose each other's lines, whatever we do.
        editors = [_foreign(server, how, foreign // count, n) for count in [4 if how == "append" else 1] for n in range(count)]
        with ThreadPoolExecutor(ours) as pool:
            list(pool.map(lambda writer: _write(server, writer, until), writers))
        copies = [tuple(map(float, line.split())) for editor in editors for line in editor.communicate()[0].decode().splitlines()]
        text = server.read(KEYS)
        # Whoever read the file before we wrote it, and saves it after we have ended, is for the next check to find.
        late = [
            writer for writer in writers if writer.succeeded and writer.key not in text.split("\n") and writer.outlived_by(copies)
        ]
        unfound = [writer for writer in late if _check(server, writer)]
        left = server.run(["ls", "-A", os.path.dirname(KEYS)]).stdout.split()
    lines = text.split("\n")
    lost = [
        f"{n} of {how} {place}"
        for place in range(len(editors))
        for n in _numbers(foreign, len(editors))
        if f"# {place}-{n} theirs" not in lines
    ]
    unseen = [each for each in writers if each.succeeded and each.key not in lines and each not in late] + unfound
    twice = [writer for writer in writers if lines.count(writer.key) > 1]
    against = [writer for writer in writers if not writer.succeeded and writer.key in lines]
    ends = Counter(result["cause"] or result["status"] for writer in writers for result in writer.results)
    for what, found in (
        ("foreign line lost", lost),
        ("our line lost unseen", unseen),
        ("twice there", twice),
        ("there unsaid", against),
    ):
        report.misses += [f"writers: {how}: {what}: {one}" for one in found[:5]]
    spans = sorted(result["span"] for writer in writers for result in writer.results if len(result.get("span", [])) == 2)
    name = f"writers: {how}"
    report.add(
        zero(f"{name}: operations that interleave", sum(end > begin for (_, end), (begin, _) in itertools.pairwise(spans))),
        Figure(f"{name}: ours", len(writers), ours),
        Figure(f"{name}: of them bound", sum(writer.succeeded for writer in writers), ours),
        # Those of which we know when they held the lock: without them nothing is said of interleaving.
        Figure(f"{name}: operations heard from begin to end", len(spans), ours // 2),
        Figure(f"{name}: operations", sum(ends.values())),
        Figure(f"{name}: refused as busy", ends["busy"]),
        Figure(f"{name}: foreign edits found and told", ends["authorized_keys_changed"]),
        Figure(
            f"{name}: ended otherwise",
            sum(ends.values()) - ends["busy"] - ends["authorized_keys_changed"] - ends["succeeded"],
            0,
            0,
        ),
        zero(f"{name}: foreign lines lost", len(lost)),
        Figure(f"{name}: ours lost to a copy that came after our end, and found by a check", len(late) - len(unfound)),
        zero(f"{name}: ours lost undetected", len(unseen) + len(against)),
        zero(f"{name}: ours twice or left over", len(twice) + (left != ["authorized_keys"])),
    )


def _numbers(foreign: int, editors: int) -> range:
    return range(foreign // editors)


_APPENDS = """
import os, random, sys, time
path, count, place = sys.argv[1], int(sys.argv[2]), sys.argv[3]
chance = random.Random(place)
for n in range(count):
    with open(path, "a") as stream:
        time.sleep(chance.choice((0, 0, 0, 0.005)))
        stream.write("# %s-%d theirs\\n" % (place, n))
    time.sleep(chance.uniform(0, 0.3))
"""
# Says of each copy when it was read and when it is there: on the clock that is the same for every process.
_RENAMES = """
import os, random, sys, time
path, count, place = sys.argv[1], int(sys.argv[2]), sys.argv[3]
chance = random.Random(place)
for n in range(count):
    begun = time.monotonic()
    with open(path) as stream:
        text = stream.read()
    time.sleep(chance.choice((0, 0, 0.002, 0.01)))
    with open(path + ".swp", "w") as stream:
        stream.write(text + "# %s-%d theirs\\n" % (place, n))
    os.rename(path + ".swp", path)
    print(begun, time.monotonic(), flush=True)
    time.sleep(chance.uniform(0, 0.2))
"""


def _foreign(server: Server, how: str, count: int, place: int) -> subprocess.Popen[bytes]:
    """Somebody in the server who edits the file as the login, and honours no lock."""
    script = _APPENDS if how == "append" else _RENAMES
    inside = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "python3", "-c", script, KEYS, str(count), str(place)]
    return subprocess.Popen([*server._way_in(), *inside], stdout=subprocess.PIPE)


def _write(server: Server, writer: Writer, until: float) -> None:
    chance = Random(writer.number)
    while not writer.succeeded and time.monotonic() < until:
        writer.results.append(_bind(server, writer))
        time.sleep(chance.uniform(0, 0.5))


def _bind(server: Server, writer: Writer) -> Json:
    plan = {"operation": "bind", "id": f"{writer.number}-{len(writer.results)}", "generation": 1, "login": LOGIN}
    return run_agent(server, plan | {"deadline_seconds": 60, "key": writer.key, "provable": True}, SECONDS)


def _check(server: Server, writer: Writer) -> bool:
    """Whether a check takes the key for one that is there."""
    plan = {"operation": "check", "id": f"{writer.number}-check", "generation": 1, "login": LOGIN, "diagnose": writer.key}
    found = run_agent(server, plan, SECONDS)["findings"]
    return "key_not_listed" not in [each["code"] for each in found]


def run_agent(server: Server, plan: Json, seconds: float) -> Json:
    """Run our agent in the server as a controller does, with proofs that always hold; return its result, or that it said none."""
    python = ["python3", "-I", "-S", "-E", "-B", "-c", ship.BOOTSTRAP, "run", f"127.0.0.1 4711 {server.host} {server.port}"]
    agent = subprocess.Popen([*server._way_in(), *python], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin is not None
    assert agent.stdout is not None
    ending = threading.Timer(seconds, agent.kill)
    ending.start()
    span: list[float] = []  # from when we heard that it changes something, to our last answer: within that it holds the lock
    try:
        agent.stdin.write(ship.payload(*ship.needed(plan)) + json.dumps({"marker": MARKER, "plan": plan}).encode() + b"\n")
        agent.stdin.flush()
        for line in agent.stdout:
            frame = json.loads(line.partition(b" ")[2] or b"{}")
            if frame.get("say") == "phase" and not span:
                span.append(time.monotonic())
            elif frame.get("say") == "ask":
                nonce = Path(f"/proc/{server.pid}/root{frame['path']}").read_text().strip()
                answers = [{"method": each["want"], "nonce": nonce} for each in frame["questions"]]
                agent.stdin.write(json.dumps({"answers": answers}).encode() + b"\n")
                agent.stdin.flush()
                span[1:] = [time.monotonic()]
            elif frame.get("say") == "result":
                return {"cause": None, "span": span, "heard": time.monotonic()} | frame
    except BrokenPipeError:
        pass
    finally:
        agent.communicate()
        ending.cancel()
    return {"status": "none", "cause": "nothing said"}


# -- the one effect, at full speed -------------------------------------------------------------------------------------


def _at_full_speed(report: Report, scale: Scale, how: str, way: str, library: Callable[[], Any]) -> None:
    """Replace over and over while somebody edits without a pause: what of theirs is lost?"""
    count = FAST_SAMPLE if scale.sample else FAST
    with local_place() as place:
        path = f"{place.home}/authorized_keys"
        place.put(path, "# begin\n")
        editor = os.fork()
        if editor == 0:
            _edit(path, how, count, place.account.uid)
        really, done = swap._library, []
        swap._library = library
        told = number = 0
        try:
            while os.waitpid(editor, os.WNOHANG) == (0, 0):
                number += 1
                now = files.read(path, place.account).text or ""
                try:
                    files.replace(path, place.account, now, f"{now}ours-{number}\n")
                except (Changed, FileNotFoundError):
                    told += 1
                    continue
                done.append(f"ours-{number}")
        finally:
            swap._library = really
        lines = Path(path).read_text().split("\n")
    lost = [n for n in range(count) if f"theirs-{n}" not in lines]
    overwritten = [line for line in done if line not in lines]
    name = f"writers: {how} at full speed, by {way}"
    report.misses += [f"{name}: theirs-{n} is lost" for n in lost[:5]]
    report.add(
        Figure(f"{name}: theirs", count),
        # Against one who never pauses none may come through; what counts is that it was tried, and theirs is there.
        Figure(f"{name}: tried by us", number, 5),
        Figure(f"{name}: ours", len(done)),
        Figure(f"{name}: found and told", told),
        zero(f"{name}: theirs lost", len(lost)),
        # Who renames may put away a line of ours that was already there: that is for the look before the commit.
        Figure(f"{name}: ours lost later", len(overwritten), None, 0 if how == "append" else None),
    )


def _edit(path: str, how: str, count: int, uid: int) -> None:
    try:
        os.setgroups([])
        os.setuid(uid)
        for n in range(count):
            if how == "append":
                with open(path, "a") as stream:
                    stream.write(f"theirs-{n}\n")
            else:
                text = Path(path).read_text()
                Path(f"{path}.swp").write_text(f"{text}theirs-{n}\n")
                os.rename(f"{path}.swp", path)
            time.sleep(0.002)
    finally:
        os._exit(0)
