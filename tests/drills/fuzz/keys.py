"""Hostile authorized_keys files: whole operations of the product on each, and a real sshd as the judge of what came of it.

sshd is asked over one connection: the file is rewritten between public-key queries, and no query is ever signed, which gives
about a hundred verdicts a second. Beside the files whose lines are known by construction there are mutations of key lines, about
which nobody but sshd knows whether they hold the key.
"""

import asyncio
import contextlib
import os
import queue
import random
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import asyncssh

from controller.demo.fleet import Login
from kpsagent import keys, processes
from kpsagent.host import Output
from tests.agent import hostile_keys
from tests.agent.judge import _algorithm, _Offered
from tests.drills import inside
from tests.drills.fuzz.host import Host, carried_out, ordered

LOGINS = (Login("alice", "pw-alice"),)
HOME = "/home/alice"
KEYS = Path(HOME, ".ssh/authorized_keys")
SOURCE = "192.0.2.9"
ANSWER_SECONDS = 60
A_CONNECTION = 1000  # questions; sshd ends a connection at 1,024 whatever MaxAuthTries says (auth2.c)
# One connection asks for ever; the judge looks at the lines and not at owners, which have a part of their own.
JUDGE = "MaxAuthTries 1000000\nLoginGraceTime 0\nUsePAM no\nKbdInteractiveAuthentication no\nPasswordAuthentication no\n"


class Case(NamedTuple):
    """A file about one key. pieces: what the generator knows of its lines; None where only sshd knows."""

    key: hostile_keys.PublicKey
    text: str
    file: hostile_keys.File | None
    dangers: frozenset[str]


def generated(number: int, seed: int, some: list[hostile_keys.PublicKey]) -> tuple[random.Random, Case]:
    """The file of this number, always the same for the same seed, and the generator to go on with."""
    r = random.Random(f"{seed}/{number}")
    file = hostile_keys.file(r, some)
    if r.random() < 0.7 or not file.pieces:
        return r, Case(file.key, file.text, file, file.dangers)
    holding = [index for index, piece in enumerate(file.pieces) if piece.holds]
    at = r.choice(holding or range(len(file.pieces)))
    lines = [piece.text for piece in file.pieces]
    lines[at] = mutated(r, lines[at] if holding else f"{lines[at]} {file.key.line}")
    text = hostile_keys.joined(lines, file.final_newline)
    return r, Case(file.key, text, None, file.dangers | {"mutation"})


def mutated(r: random.Random, line: str) -> str:
    """A line with a few bytes put in, taken out or changed; it stays one line."""
    raw = line.encode("utf-8", "surrogateescape")
    for _ in range(r.choice([1, 1, 2, 3])):
        at = r.randrange(len(raw) + 1)
        some = r.choice(
            [b"\0", b"\t", b" ", b"\x0b", b"\x0c", b"\r", b"=", b'"', b"\\", b",", b"#", b"A", b"\xff", r.randbytes(1)]
        )
        some = b"" if some == b"\n" else some
        match r.randrange(4):
            case 0:
                raw = raw[:at] + some + raw[at:]
            case 1:
                raw = raw[:at] + some + raw[at + 1 :]
            case 2:
                raw = raw[:at] + raw[at + r.choice([1, 2, 4]) :]
            case _:
                raw = raw[:at] + bytes(raw[at : at + 1]).swapcase() + raw[at + 1 :]
    return raw.decode("utf-8", "surrogateescape")


class Judge:
    """A real sshd that says, as often as one likes, whether it would accept a key with the file as it is at that moment."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = 0
        self._questions: queue.Queue[_Offered | None] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._connected()), daemon=True)
        self._thread.start()

    def accepts(self, key: hostile_keys.PublicKey) -> bool:
        """Whether sshd would accept this key now."""
        self.asked += 1
        self._questions.put(_Offered(_algorithm(key.blob), key.blob))
        answer = self._answers.get(timeout=ANSWER_SECONDS)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    def close(self) -> None:
        self._questions.put(None)
        self._thread.join()

    async def _connected(self) -> None:
        try:
            while await self._one_connection():
                continue
        except Exception as error:
            self._answers.put(error)

    async def _one_connection(self) -> bool:
        """Ask over one connection as often as sshd allows; return whether there is more to be asked."""
        judge, waiting, left, more = self, [], iter(range(A_CONNECTION)), [True]

        class Client(asyncssh.SSHClient):
            async def public_key_auth_requested(self) -> _Offered | None:
                if waiting:  # that the next one is asked for is how the last one ends
                    judge._answers.put(waiting.pop().accepted)
                if next(left, None) is None:
                    return None
                offered = await asyncio.to_thread(judge._questions.get)
                waiting.extend([offered] if offered is not None else [])
                more[0] = offered is not None
                return offered

        with contextlib.suppress(asyncssh.PermissionDenied):
            await asyncssh.connect(
                inside.HERE, self.port, username="alice", local_addr=(SOURCE, 0), client_factory=Client, known_hosts=None,
                config=None, agent_path=None, client_keys=[], preferred_auth="publickey", signature_algs=["ssh-ed25519",
                "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-256"],
            )  # fmt: skip
        return more[0]


class Asked(Host):
    """The host, whose sshd is asked about its configuration once: here it never changes."""

    known: ClassVar[dict[tuple[str, ...], Output]] = {}

    def _AskSshd(self, effect: Any) -> Output:
        words = tuple(effect.flags)
        if words not in self.known:
            self.known[words] = processes.ask_sshd(effect.daemon, effect.flags, effect.text, self._path("candidate"))
        return self.known[words]


class Bench:
    """A login whose file is hostile, again and again."""

    def __init__(self, seed: int, judge: Judge) -> None:
        self.seed, self.judge = seed, judge
        self.tally: Counter[str] = Counter()
        self.misses: list[str] = []
        self.generation = 0
        self.keys = hostile_keys.some_keys(random.Random(seed))
        self.new = hostile_keys.public_key(random.Random(f"{seed}/new"), "ssh-ed25519")
        self.lines: dict[bytes, hostile_keys.PublicKey] = {
            keys.parse(each.line).material: each for each in [*self.keys, self.new]
        }

    def answer(self, question: dict[str, Any], path: str) -> dict[str, Any]:
        """What a controller without private halves can prove: that sshd would accept a key, or that it does not."""
        accepted = self.judge.accepts(self.lines[keys.parse(question["key"]).material])
        if question["want"] == "refused":
            return {"cause": "still_accepted", "message": "still accepted"} if accepted else {"method": "refused"}
        return {"method": "accepted"} if accepted else {"cause": "new_key_refused", "message": "not accepted"}

    def operation(self, operation: str, **wanted: Any) -> dict[str, Any]:
        self.generation += 1
        plan = ordered(
            self.generation, [SOURCE, "40000", inside.HERE, "22"], operation=operation, login="alice",
            provable=False, accept_unproved=True, accept_lockout=["alice"], **wanted,
        )  # fmt: skip
        result = carried_out(plan, Asked(self.answer))
        if result.get("cause") == "unexpected":
            self.tally["exceptions"] += 1
        return result

    def put(self, text: str) -> None:
        KEYS.write_bytes(text.encode("utf-8", "surrogateescape"))

    def text(self) -> str:
        return KEYS.read_bytes().decode("utf-8", "surrogateescape")

    def try_one(self, number: int) -> None:
        """Bind, replace or unbind on the file of this number, and have sshd look at what came of it."""
        r, case = generated(number, self.seed, self.keys)
        trial = Trial(self, number, case)
        self.tally["files"] += 1
        for danger in case.dangers:
            self.tally[f"danger: {danger}"] += 1
        self.put(case.text)
        trial.found()
        self.put(case.text)
        trial.unbound()
        self.put(case.text)
        trial.bound(and_unbound=r.random() < 0.2)
        if r.random() < 0.2:
            self.put(case.text)
            trial.replaced()


class Trial:
    """One file, several operations."""

    def __init__(self, bench: Bench, number: int, case: Case) -> None:
        self.bench, self.number, self.case = bench, number, case
        self.line = case.key.line
        self.odd = "\0\0" in (case.text[0:4:2], case.text[1:4:2]) or case.text[:2] in ("\udcff\udcfe", "\udcfe\udcff")
        self.was_accepted = False

    def miss(self, what: str, why: object) -> None:
        self.bench.tally[what] += 1
        self.bench.misses.append(f"keys --seed {self.bench.seed} --number {self.number}: {what}: {why}")

    def accepted(self, key: hostile_keys.PublicKey | None = None) -> bool:
        return self.bench.judge.accepts(key or self.case.key)

    def found(self) -> None:
        """What sshd accepts, our finder finds."""
        self.was_accepted = self.accepted()
        self.bench.tally["accepted by sshd as they were"] += self.was_accepted
        if self.was_accepted and not keys.find(self.case.text, keys.parse(self.line)):
            self.miss("finder missed a key", repr(self.case.text))

    def refused(self, result: dict[str, Any]) -> bool:
        """Whether the operation was refused for what the file is; then it is as it was."""
        if result["status"] != "failed":
            return False
        self.bench.tally[f"{result['server_state']}: {result['cause']}"] += 1
        if self.bench.text() != self.case.text:
            self.miss("not as before", result)
        if not self.odd and result["cause"] != "options_block_proof":
            self.miss("operation failed", result)
        return True

    def unbound(self) -> None:
        if self.refused(self.bench.operation("unbind", remove=[self.line])):
            return
        self.bench.tally["unbound"] += 1
        if self.accepted():
            self.miss("removed key still accepted", repr(self.case.text))
        self.neighbours(self.bench.text(), added=0)

    def bound(self, and_unbound: bool) -> None:
        if self.refused(self.bench.operation("bind", key=self.line)):
            return
        self.bench.tally["bound"] += 1
        if not self.accepted():
            self.miss("bound key not accepted", repr(self.case.text))
        now = self.bench.text()
        self.neighbours(now, added=1)
        if and_unbound and self.refused(self.bench.operation("unbind", remove=[self.line])):
            return
        if and_unbound and self.accepted():
            self.miss("removed key still accepted", f"after a bind: {self.case.text!r}")

    def replaced(self) -> None:
        """A new key takes the old one's place; where its line's options let nobody in, that is undone to the byte."""
        new = self.bench.new
        result = self.bench.operation("replace", key=new.line, remove=[self.line])
        if result["status"] == "failed" and result["cause"] == "new_key_refused" and not self.was_accepted:
            self.bench.tally["reverted: the old line let nobody in either"] += 1
            if self.bench.text() != self.case.text or result["server_state"] != "reverted":
                self.miss("not as before", result)
            return
        if self.refused(result):
            return
        self.bench.tally["replaced"] += 1
        if self.accepted() or not self.accepted(new):
            self.miss("removed key still accepted" if self.accepted() else "bound key not accepted", repr(self.case.text))
        self.neighbours(self.bench.text(), added=None)

    def neighbours(self, now: str, added: int | None) -> None:
        """Every line that is not the key's stays byte for byte and in its order; where the generator knows them, to the byte."""
        held = {line.index for line in keys.find(self.case.text, keys.parse(self.line))}
        lines = self.case.text.split("\n")
        others = [line for index, line in enumerate(lines) if index not in held and line]
        left = iter(now.split("\n"))
        if not all(line in left for line in others):
            self.miss("untouched bytes changed", repr((self.case.text, now)))
        if self.case.file is not None and added == 0 and now != without_key(self.case.file):
            self.miss("untouched bytes changed", repr((self.case.text, now)))
        if (
            added == 1
            and now != self.case.text
            and keys.remove(now, keys.parse(self.line)).count("\n") > self.case.text.count("\n")
        ):
            self.miss("untouched bytes changed", repr((self.case.text, now)))


def without_key(file: hostile_keys.File) -> str:
    """The file as it must be when the key has been removed, from what the generator knows."""
    kept = [piece.text for piece in file.pieces if not piece.holds]
    last_goes = not file.final_newline and bool(file.pieces) and file.pieces[-1].holds
    return hostile_keys.joined(kept, file.final_newline) if not last_goes else "\n".join(kept)


def tried(numbers: list[int], seed: int, seconds: float) -> tuple[Counter[str], list[str], list[str]]:
    """Inside a server: try the files of these numbers, as many as the time allows."""
    inside.on_memory("/var/lib", HOME, "/etc/ssh")
    os.mkdir(KEYS.parent, 0o700)
    KEYS.touch(0o600)
    for path in (HOME, KEYS.parent, KEYS):
        os.chown(path, 1000, 1000)
    shutil.copy(inside.CONFIG, "/run/judge")
    Path("/run/judge").write_text(JUDGE)
    over = inside.wait_for(seconds)
    with inside.inetd((23, ["-f", "/run/judge"])):
        judge = Judge(23)
        bench = Bench(seed, judge)
        for number in numbers:
            if over():
                break
            bench.try_one(number)
        bench.tally["verdicts"] = judge.asked
        with contextlib.suppress(Exception):
            judge.close()
    return bench.tally, bench.misses, []
