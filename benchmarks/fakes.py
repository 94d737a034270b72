"""Fake servers, any number of them in one process: what ten thousand of them cost a controller can't be had with real ones here.

What is real: SSH with its key exchange, host key and signatures (asyncssh's server), the agent's frames, the plan (parsed by
the agent's own code), and that each login takes just the keys and passwords that the plans so far leave it. What is not: there
is no agent, no file and no sshd behind it, nothing is undone, and no server has anything in it but root.

Each server is an address of 127.0.0.0/8; all listen on one port. (tests/fleet/fakes.py plays the agent's whole transaction, undo
and all, on a disk in memory: true enough to be killed in the middle, and dearer than the controller that is measured here.)
"""

import asyncio
import json
import multiprocessing
import os
import re
import resource
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import asyncssh

from kpsagent import plan as plans

PASSWORD = "the password of every fake server"  # noqa: S105  (it opens nothing else)
_MARKER = re.compile(r" kps ([0-9a-f]{32}) none ")
_MSG_IGNORE = 2  # RFC 4253, 12
Say = Callable[..., None]
_NONCE = re.compile(r"^echo ([0-9a-f]{16}); exec /bin/cat (/[A-Za-z0-9_./-]+)$")


@dataclass
class Fake:
    """One server: what its root login takes, and what it has been told."""

    keys: set[str] = field(default_factory=set)  # "type blob"
    passwords: bool = True
    generation: int = 0
    nonces: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    logins: int = 0
    refused: int = 0  # plans that were not for it, or older than what it has been told


def address(number: int) -> str:
    """Return the address of the fake with this number, from 1."""
    return f"127.{64 + (number >> 16 & 63)}.{number >> 8 & 255}.{number & 255}"


class _Login(asyncssh.SSHServer):
    def __init__(self, fakes: dict[str, Fake]) -> None:
        self._fakes = fakes
        self._fake: Fake

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        found = self._fakes.get(conn.get_extra_info("sockname")[0])
        if found is None:
            conn.abort()
            return
        self._fake = found
        self._fake.connections += 1
        conn.set_extra_info(fake=self._fake)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return self._fake.passwords

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "root" and bare(key.export_public_key().decode("ascii")) in self._fake.keys

    def validate_password(self, username: str, password: str) -> bool:
        return username == "root" and self._fake.passwords and password == PASSWORD

    def auth_completed(self) -> None:
        self._fake.logins += 1


async def _session(process: asyncssh.SSHServerProcess[bytes]) -> None:
    fake: Fake = process.get_extra_info("fake")
    command = process.command or ""
    nonce, marker = _NONCE.match(command), _MARKER.search(command)
    if nonce is not None:
        process.stdout.write(f"{nonce[1]}\n{fake.nonces.get(nonce[2], '')}\n".encode())
    elif marker is not None:
        await _agent(process, fake, marker[1])
    process.exit(0)


async def _agent(process: asyncssh.SSHServerProcess[bytes], fake: Fake, marker: str) -> None:
    """Play the agent's part for one plan."""

    def say(**frame: Any) -> None:
        process.stdout.write(f"{marker} {json.dumps(frame)}\n".encode("ascii"))

    process.stdout.write(b"kps-started\n")
    head = await process.stdin.readline()
    await process.stdin.readexactly(int(head.split()[1]))
    order = json.loads(await process.stdin.readline())
    plan = plans.parse(dict(order["plan"], connection=None))
    say(say="hello", boot="00000000-0000-0000-0000-000000000000", python="3.11.2", root=True)
    result: dict[str, Any] = {"say": "result", "status": "unchanged", "server_state": "as_asked", "phase": "done"}
    if order["marker"] != marker or plan.login != "root" or plan.generation < fake.generation:
        fake.refused += 1
        say(**result | {"status": "failed", "server_state": "as_before", "phase": "look", "cause": "stale_generation"})
        return
    fake.generation = plan.generation
    say(say="phase", phase="look")
    if not plans.reads_only(plan):
        result |= await _changed(process, say, fake, plan)
    say(**result, logins={"root": "on" if fake.passwords else "off"})


async def _changed(process: asyncssh.SSHServerProcess[bytes], say: Say, fake: Fake, plan: plans.Plan) -> dict[str, Any]:
    """Do what the plan asks for, and back again where a proof is wanting; return how it ended."""
    before = set(fake.keys), fake.passwords
    # What is to be shown is told by the agent's own code.
    steps = plans._with_questions(plan, [], [])
    say(say="phase", phase="widen", detail={"steps": 1})
    if plan.key is not None:
        fake.keys.add(bare(plan.key))
    if plan.passwords == "on":
        fake.passwords = True
    proved = await _shown(process, say, fake, "widen", steps.widened)
    if proved:
        say(say="phase", phase="narrow", detail={"steps": 1})
        fake.keys -= {bare(line) for line in plan.remove}
        if plan.passwords == "off":
            fake.passwords = False
        proved = await _shown(process, say, fake, "narrow", steps.narrowed)
    if not proved:
        fake.keys, fake.passwords = before
        return {"status": "failed", "server_state": "reverted", "phase": "undo", "cause": "new_key_refused"}
    return {"status": "succeeded", "closed": plan.passwords == "off"}


async def _shown(
    process: asyncssh.SSHServerProcess[bytes], say: Say, fake: Fake, phase: str, questions: list[plans.Question]
) -> bool:
    """Ask for these proofs; return whether each was made, with the nonce where somebody had to log in."""
    if not questions:
        return True
    path, nonce, logins = f"/run/kps/{secrets.token_hex(8)}", secrets.token_hex(16), fake.logins
    fake.nonces[path] = nonce
    say(say="ask", phase=phase, questions=[question._asdict() for question in questions], path=path)
    answers = json.loads(await process.stdin.readline())["answers"]
    del fake.nonces[path]
    by_login = [each for each in answers if each.get("nonce") == nonce]
    wanted = [question for question in questions if question.way == "key"]
    return (
        len(answers) == len(questions)
        and all("method" in each for each in answers)
        and (len(by_login) == len(wanted) and fake.logins > logins)
    )


def bare(line: str) -> str:
    """Return a public key line without its comment."""
    return " ".join(line.split()[:2])


def _say_no_more_than_sshd() -> None:
    """Leave out the empty packet that asyncssh puts before each other: sshd sends none, and reading them would be measured."""
    send = asyncssh.SSHServerConnection.send_packet

    def sent(connection: asyncssh.SSHServerConnection, kind: int, *parts: bytes, **how: Any) -> None:
        if kind != _MSG_IGNORE:
            send(connection, kind, *parts, **how)

    asyncssh.SSHServerConnection.send_packet = sent  # type: ignore[assignment]


def _serve(count: int, host_key: str, told: Connection) -> None:
    """Be so many servers, until the pipe is told to count; in a process of its own."""
    _say_no_more_than_sshd()
    fakes = {address(number): Fake() for number in range(1, count + 1)}

    async def all_of_them() -> None:
        everywhere = "0.0.0.0"  # noqa: S104 - each of them is another address; who comes by one that is none of theirs is sent away
        listener = await asyncssh.listen(
            everywhere, 0, server_factory=lambda: _Login(fakes), server_host_keys=[asyncssh.import_private_key(host_key)],
            process_factory=_session, encoding=None, backlog=4096, login_timeout=0, agent_forwarding=False,
            line_editor=False,
        )  # fmt: skip
        told.send(listener.get_port())
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def ask() -> None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            if told.recv() == "end":
                asked.set()
            told.send((used.ru_utime + used.ru_stime, {name: vars(fake) for name, fake in fakes.items()}))

        loop.add_reader(told.fileno(), ask)
        await asked.wait()
        listener.close()

    asyncio.run(all_of_them())


class Fakes:
    """So many fake servers in a process of their own, within a with statement."""

    def __init__(self, count: int, cores: Collection[int] = ()) -> None:
        """cores: where that process may run; anywhere without."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = bare(key.export_public_key().decode("ascii"))
        self.addresses = [address(number) for number in range(1, count + 1)]
        self._here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        private = key.export_private_key().decode("ascii")
        self._process = context.Process(target=_serve, args=(count, private, there), daemon=True)
        self._cores = cores

    def __enter__(self) -> "Fakes":
        self._process.start()
        if self._cores and self._process.pid is not None:
            os.sched_setaffinity(self._process.pid, self._cores)
        self.port = int(self._here.recv())
        return self

    def __exit__(self, *_: object) -> None:
        self._here.send("end")
        self._here.recv()
        self._process.join(10)

    def seen(self) -> tuple[float, dict[str, dict[str, Any]]]:
        """Return the seconds of CPU that they have used, and what is known of each by its address (Fake)."""
        self._here.send("seen")
        found: tuple[float, dict[str, dict[str, Any]]] = self._here.recv()
        return found
