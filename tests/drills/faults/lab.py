"""A real server of this process's own, and real agents started on it over SSH, each followed by a tracer."""

import asyncio
import contextlib
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
from passlib.hash import sha512_crypt

from controller.demo.fleet import Fleet, Login, Spec
from controller.model import Secret
from controller.prover import Prover
from controller.transport import rope, ship
from controller.transport.connect import Target
from controller.transport.frames import Ask, Result, parse
from controller.transport.played import Played
from kpsagent.errors import Stop
from tests.drills.faults import FLEET_SECONDS
from tests.drills.faults.files import STATE, Entry, Files, apart_from_state, looked_at, put_back
from tests.drills.faults.tracer import Call, Tracer

LOGIN_SECONDS = 10
RETRY_SECONDS = 6.0  # a listener that re-reads its configuration refuses connections for a moment
CONFIG = "/etc/ssh/sshd_config"


@dataclass(frozen=True)
class Way:
    """A way in: a login with its password, or with a key."""

    login: str
    password: str = ""
    key: asyncssh.SSHKey | None = None

    @property
    def line(self) -> str:
        assert self.key is not None
        return " ".join(self.key.export_public_key().decode().split()[:2]) + " drill"

    def __str__(self) -> str:
        return f"{self.login} by {'key' if self.key else 'password'}"


@dataclass
class Case:
    """One operation from one state of the server to the next.

    revoked: a way in that is never to come back once it is gone; has_session: and a session by it is open meanwhile.
    """

    name: str
    plan: dict[str, Any]
    before: Files
    old: Way
    new: Way
    password: str = ""
    revoked: Way | None = None
    has_session: bool = False
    after: Files = field(default_factory=dict)
    on_the_way: list[Files] = field(default_factory=list)

    @property
    def commit(self) -> str:
        """What the journal is called from when on the operation stays."""
        return "confirmed" if self.revoked is None else "revoking"

    @property
    def finished(self) -> Files:
        """The files once somebody has finished what was cut off as it was all but committed, or a revoke just after that."""
        return self.before if self.revoked is None else self.after

    def holding(self, now: Files) -> set[str]:
        """Return the files that hold the revoked key."""
        if self.revoked is None:
            return set()
        material = self.revoked.line.split()[1].encode()
        return {path for path, entry in now.items() if path.startswith(("/root/", "/home/")) and material in entry.held}

    def is_whole(self, now: Files) -> list[str]:
        """Return the paths of now that hold neither what they held before, nor at any proof, nor afterwards."""
        legal = [apart_from_state(files) for files in (self.before, *self.on_the_way, self.after)]
        seen = apart_from_state(now)
        paths = set(seen).union(*legal)
        return sorted(path for path in paths if not any(seen.get(path) == files.get(path) for files in legal))


class Lab:
    """One server, its cases, and what is done to agents on it."""

    suffix = ""  # of its cases' names
    with_python = True
    deadline_seconds = 5
    title = "-I -S -E -B"  # in the command line of everything that is of the agent
    boot = "/usr/bin/python3 -I -S -E -B {state}/agent boot {state}"

    def __init__(self) -> None:
        spec = Spec(logins=(Login("alice"),), python=self.with_python)
        self._fleet = Fleet([spec], max_age_seconds=FLEET_SECONDS)
        self._fleet.open()
        self.server = self._fleet.servers[0]
        self.key, self.other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        self.cases: dict[str, Case] = {}
        self.broken: dict[str, Files] = {}
        self.stopped: Stop | None = None  # why the controller gave up the last run, if it did
        self.target = Target(self.server.name, self.server.host, self.server.port, self.server.public_host_key, LOGIN_SECONDS)

    def close(self) -> None:
        self._fleet.close()

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.server.pid}/root")

    def files(self) -> Files:
        return looked_at(self.root)

    # -- ways in

    async def lets_in(self, way: Way) -> bool:
        """Whether a login by this way, and nothing else, runs a command. Nobody at the door for a moment is no answer."""
        until = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return await self._logs_in(way)
            except asyncssh.PermissionDenied:
                return False
            except (OSError, asyncssh.Error):
                if time.monotonic() > until:
                    return False
            await asyncio.sleep(0.05)

    async def _logs_in(self, way: Way) -> bool:
        connection = await self.connected(way)
        async with connection:
            token = secrets.token_hex(8)
            ran = await connection.run(f"echo {token}")
            return str(ran.stdout).strip().endswith(token)

    async def connected(self, way: Way) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            self.server.host,
            self.server.port,
            username=way.login,
            password=way.password or None,
            client_keys=[way.key] if way.key else None,
            preferred_auth="publickey" if way.key else "password,keyboard-interactive",
            known_hosts=([asyncssh.import_public_key(self.server.public_host_key)], [], []),
            config=None,
            agent_path=None,
            encryption_algs=["aes128-gcm@openssh.com"],
            connect_timeout=LOGIN_SECONDS,
            login_timeout=LOGIN_SECONDS,
        )

    async def way_in(self, case: Case) -> Way | None:
        """Return the old way in or the new one, whichever works; None is a lock-out."""
        for way in (case.new, case.old):
            if await self.lets_in(way):
                return way
        return None

    # -- states

    async def become(self, files: Files) -> None:
        """Put the server back: its files, its sshd with what they say, and nothing of ours running."""
        self.kill_agents()
        if not self.server.running:
            await asyncio.to_thread(self.server.start)
        if CONFIG in put_back(self.root, files) or self._is_unread():
            try:
                await asyncio.to_thread(self.server.reload)
            except Exception:  # it has died of what the drill did to it
                await asyncio.to_thread(self.server.reboot)

    def _is_unread(self) -> bool:
        """Whether sshd runs on an older configuration than the one that stands there: an undo was killed before its reload."""
        return (self.root / CONFIG[1:]).stat().st_mtime_ns > (self.root / "run/sshd.pid").stat().st_mtime_ns

    def kill_agents(self) -> None:
        """Kill whatever of the agent runs on the server, its watchers too."""
        for pid, title in self.server.processes().items():
            if self._is_agent(title):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def quiet(self, seconds: float, holds: Callable[[], object] | None = None) -> bool:
        """Wait until nothing of the agent runs (or holds() says so); return whether that was within so many seconds."""
        until = time.monotonic() + seconds
        while self.agents() if holds is None else not holds():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    def agents(self) -> list[str]:
        return [title for title in self.server.processes().values() if self._is_agent(title)]

    def _is_agent(self, title: str) -> bool:
        return self.title in title

    def tracer(self, at: int | None = None, how: str = "", call: str = "") -> Tracer:
        """Return what follows an agent, and disturbs it at a call: how is "" for nothing, a kill, or an errno's name."""
        return Tracer(at, getattr(errno, how, 0))

    def unfollowed(self) -> Tracer:
        """Return a tracer for a run that is only to be carried out."""
        return Tracer()

    def numbered(self, calls: list[Call]) -> list[tuple[int, Call]]:
        """Return each call with the number by which tracer() knows it."""
        return list(enumerate(calls))

    # -- agents

    async def run(self, case: Case, plan: dict[str, Any], tracer: Tracer, way: Way, looks: bool = False) -> Result | None:
        """Have an agent carry out plan, followed by tracer; return its result, or None where it ended without one.

        looks: keep how the files are at each question.
        """
        async with contextlib.AsyncExitStack() as held:
            if case.has_session:
                await self._session(case, held)
            return await self._run(case, plan, tracer, way, looks)

    async def _session(self, case: Case, held: contextlib.AsyncExitStack) -> None:
        """Have a session open by the key that is revoked, where it still gets in; and no other is."""
        assert case.revoked is not None
        await self.quiet(LOGIN_SECONDS, lambda: not self.server.sessions())
        with contextlib.suppress(asyncssh.PermissionDenied):
            connection = await self.connected(case.revoked)
            held.callback(connection.abort)
            await connection.create_process("exec sleep 300")

    async def _run(self, case: Case, plan: dict[str, Any], tracer: Tracer, way: Way, looks: bool) -> Result | None:
        connection = await self.connected(way)
        try:
            process = await connection.create_process(
                rope.command_line(marker := secrets.token_hex(16), "none"), encoding=None, window=1 << 18
            )
            while (line := await process.stdout.readline()).strip() != ship.STARTED:
                assert line, "the agent did not start"
            self._seized(connection, tracer)
            order = json.dumps({"marker": marker, "plan": plan}).encode() + b"\n"
            process.stdin.write(ship.payload(*ship.needed(plan)) + order)
            return await self._heard(case, plan, rope.Rope(process, marker, None, silence_seconds=60, whole_seconds=120), looks)
        finally:
            connection.abort()

    def _seized(self, connection: asyncssh.SSHClientConnection, tracer: Tracer) -> None:
        """Have the agent at the end of this connection followed; it waits for something."""
        ours, theirs = connection.get_extra_info("sockname"), connection.get_extra_info("peername")
        tracer.seize(_agent_of(f"{ours[0]} {ours[1]} {theirs[0]} {theirs[1]}", self.with_python))

    async def _heard(self, case: Case, plan: dict[str, Any], agent: rope.Rope | Played, looks: bool) -> Result | None:
        password = Secret(case.password) if case.password else None
        prover = Prover(self.target, plan, self._private_of, password)
        self.stopped = None
        try:
            async for frame in agent.frames():
                if isinstance(frame, Result):
                    return frame
                if isinstance(frame, Ask):
                    if looks:
                        case.on_the_way.append(self.files())
                    await agent.answer(await prover.answers(frame))
        except Stop as stop:
            self.stopped = stop
        return None

    async def _private_of(self, line: str) -> asyncssh.SSHKey | None:
        return next((key for key in (self.key, self.other) if Way("", key=key).line == line), None)

    def at_rest(self, plan: dict[str, Any], tracer: Tracer, disk: Path) -> Result | None:
        """The same for an agent on the disk of the server that is shut down."""
        # Not asyncio's: it waits for its children itself, and would take what the tracer waits for.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", "-B", "-c", ship.BOOTSTRAP, "rest", str(disk)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        result = None
        with process.stdout, process.stdin:
            assert process.stdout.readline().strip() == ship.STARTED
            tracer.seize(process.pid)
            process.stdin.write(ship.payload(*ship.needed(plan)) + json.dumps({"marker": "drill", "plan": plan}).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                frame = parse(line.partition(b" ")[2])
                result = frame if isinstance(frame, Result) else result
            tracer.ended.wait(30)
        process.wait()
        return result

    # -- cases

    def plan(self, operation: str, **more: Any) -> dict[str, Any]:
        return {
            "operation": operation,
            "id": f"drill-{operation}",
            "generation": 10,
            "login": "root",
            "deadline_seconds": 60,
        } | more

    async def prepare(self, sample: bool = False) -> None:
        """Make every case, or those of a sample: each is carried out once, undisturbed, to see where it leads."""
        fresh, bound, password, one, other = await self._keys_and_passwords()
        alice = Way("alice", key=self.key)
        await self._case("bind", fresh, password, alice, name="bind of another login", key=alice.line, login="alice")
        await self._reset("reset", bound, one, other)
        config = fresh[CONFIG]._replace(held=b"PubkeyAuthentication no\nPermitRootLogin no\n" + fresh[CONFIG].held)
        await self._revokes(bound, one, other, password)
        await self._repair(fresh, password, alice)
        hashed = sha512_crypt.hash("drill", rounds=1000)
        await self._reset("reset of a shut server", fresh | {CONFIG: config}, other, other, password_hash=hashed)

    async def _bind(self) -> tuple[Files, Files, Way, Way, Way]:
        """Make the case of a bind; return the files before and after it, and the ways in: by password, and two keys."""
        password = Way("root", password=self.server.root_password)
        one, other = Way("root", key=self.key), Way("root", key=self.other)
        fresh = self.files()
        bound = await self._case("bind", fresh, password, one, key=one.line, passwords="off", given=password.password)
        return fresh, bound, password, one, other

    async def _keys_and_passwords(self) -> tuple[Files, Files, Way, Way, Way]:
        """Make all cases of root's own, and return the same."""
        fresh, bound, password, one, other = await self._bind()
        await self._case("replace", bound, one, other, key=other.line, remove=[one.line])
        await self._case(
            "unbind", bound, one, password, remove=[one.line], passwords="restore", given=password.password, password_known=True
        )
        opened = await self._case("password-login-enable", bound, one, password, passwords="on")
        await self._case("password-login-disable", opened, password, one, key=one.line, passwords="off")
        return fresh, bound, password, one, other

    async def _revokes(self, bound: Files, one: Way, other: Way, password: Way) -> None:
        """A key in wrong hands: it is in several files, and in another login's, who also has a key of his own."""
        both = f"{one.line}\n# his own\n{other.line}\n".encode()
        spread = bound | {
            "/root/.ssh/authorized_keys2": Entry("-", 0o600, 0, 0, f"no-pty {one.line}\n".encode()),
            "/home/alice/.ssh": Entry("d", 0o700, 1000, 1000, b""),
            "/home/alice/.ssh/authorized_keys": Entry("-", 0o600, 1000, 1000, both),
        }
        about: dict[str, Any] = {"remove": [one.line], "revoke": True, "everywhere": True}
        given = {"given": password.password, "password_known": True}
        await self._case("unbind", spread, one, password, "unbind --revoke", revoked=one, passwords="restore", **given, **about)
        about.update(key=other.line, end_sessions=True)
        await self._case("replace", spread, one, other, "replace --revoke", revoked=one, has_session=True, **about)

    async def _repair(self, fresh: Files, password: Way, alice: Way) -> None:
        crooked = fresh | {
            "/home/alice/.ssh": Entry("d", 0o777, 1000, 1000, b""),
            "/home/alice/.ssh/authorized_keys": Entry("-", 0o666, 0, 0, f"{alice.line}\n".encode()),
        }
        about = {"login": "alice", "key": alice.line, "diagnose": alice.line, "repair": True}
        await self._case("check", crooked, password, alice, "check --repair", **about)
        # Owner and mode are changed one after the other.
        owned = crooked["/home/alice/.ssh/authorized_keys"]._replace(uid=1000, gid=1000)
        self.cases["check --repair"].on_the_way.append(crooked | {"/home/alice/.ssh/authorized_keys": owned})

    async def _case(
        self,
        operation: str,
        before: Files,
        old: Way,
        new: Way,
        name: str = "",
        given: str = "",
        revoked: Way | None = None,
        has_session: bool = False,
        **wanted: Any,
    ) -> Files:
        case = Case(
            (name or operation) + self.suffix, self.plan(operation, **wanted), before, old, new, given, revoked, has_session
        )
        await self.become(before)
        result = await self.run(case, case.plan, self.unfollowed(), old, looks=True)
        assert result is not None
        assert result.status == "succeeded", (case.name, result)
        case.after = self.files()
        self.cases[case.name] = case
        return case.after

    async def _reset(self, name: str, before: Files, old: Way, new: Way, **wanted: Any) -> None:
        """A case of a server that is shut down; old is new where nothing gets in before."""
        case = Case(name, self.plan("reset", key=new.line, **wanted), before, old, new)
        await self.become(before)
        await asyncio.to_thread(self.server.stop)
        disk = await asyncio.to_thread(self.server.mounted_root)
        result = await asyncio.to_thread(self.at_rest, case.plan, self.unfollowed(), disk)
        assert result is not None
        assert result.status == "succeeded", (name, result)
        case.after = looked_at(disk)
        # Once more: the same settings may then stand in another order.
        await asyncio.to_thread(self.at_rest, case.plan | {"generation": 11}, self.unfollowed(), disk)
        case.on_the_way.append(looked_at(disk))
        self.cases[name] = case


def _agent_of(connection: str, is_python: bool) -> int:
    """Return the process whose last argument is this connection: the agent that it carries."""
    wanted = b"\0run\0" + connection.encode() + b"\0"
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                said = Path("/proc", name, "cmdline").read_bytes()
                if said.endswith(wanted) and said.startswith(b"/bin/sh\0") is not is_python:
                    return int(name)
    raise AssertionError("no agent is to be seen")


def left_over(files: Files, agents: list[str]) -> list[str]:
    """Return what an agent left behind: all but its one state file, temporary files, what runs at a boot, processes."""
    left = [path for path in files if path.startswith(STATE + "/") and path != STATE + "/state.json"]
    left += [path for path in files if ".kps-" in path or "kps-undo" in path]
    return left + agents
