"""Orders for doors on real servers, given over a connection of our own, made and concluded as the controller does."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncssh

from controller import order
from controller.demo.fleet import Server
from controller.model import Secret, Task, now
from controller.model import Server as Known
from controller.prover import Prover
from controller.record import Record
from controller.transport import played, rope
from controller.transport.connect import Target, connect
from controller.transport.frames import Ask, Result
from controller.transport.handshake import Client
from controller.transport.offer import Held, Offer
from kpsagent.errors import Refused
from tests.fleet import judge
from tests.fleet.causes import install_key
from tests.fleet.product import Json

STATE = "/var/lib/kps"
CONFIG = "/etc/ssh/sshd_config"
# What is there only while a door is.
HOOKS = ("/etc/cron.d/kps-door-at-boot", "/etc/rcS.d/S99kps-door-at-boot", "/run/kps-door", "/etc/ssh/kps-door")
OFF = "PasswordAuthentication no\nKbdInteractiveAuthentication no\nChallengeResponseAuthentication no\n"


class Doors:
    """Who gives orders for the doors of one server, by a key of root's."""

    def __init__(self, server: Server) -> None:
        private, public = judge.new_key_pair()
        install_key(server, public)
        self.server = server
        self._held = Held(public, asyncssh.import_private_key(private))
        self._generation = 0

    def open(self, login: str, seconds: int = 600, network: str | None = None, password: str | None = None, **more: Any) -> Json:
        """Have a door opened; password: by which that is proved."""
        return self.order("open", login, {"id": secrets.token_hex(16), "seconds": seconds, "from": network}, password, **more)

    def order(self, what: str, login: str, door: Json | None = None, password: str | None = None, **more: Any) -> Json:
        """Give an order and return how its task would end, with the door as it was told."""
        request = {f"door_{name}": value for name, value in (door or {}).items() if name in ("id", "seconds", "from")}
        return self.give(f"door-{what}", login, request, password, **more)

    def give(self, ordered: str, login: str, request: Json, password: str | None = None, **more: Any) -> Json:
        """The same for any operation; more: what the plan says besides."""
        return asyncio.run(self._done(ordered, login, request, password, **more))

    async def _done(self, ordered: str, login: str, request: Json, password: str | None = None, **more: Any) -> Json:
        self._generation += 1
        about = {"id": secrets.token_hex(8), "tenant_id": "t", "user_id": "u", "server_id": "s", "server_name": self.server.name}
        task = Task(**about, login=login, operation=ordered, request=request, created_at=now(), generation=self._generation)  # type: ignore[arg-type]
        known = Known(id="s", tenant_id="t", name=self.server.name, host=self.server.host)
        made = order.make(task, known, [], None, None, None, 30)
        made.plan.update(more)
        outcome, _ = Record(task, known, made).concluded(await self._result(made.plan, password))
        return asdict(outcome) | {"server": self.server.name, "door": outcome.evidence.get("door")}

    async def _result(self, plan: Json, password: str | None) -> Json:
        secret = None if password is None else Secret(password)
        plan = dict(plan, password_known=secret is not None)
        server, client = self.server, Client()
        target = Target(name=server.name, host=server.host, port=server.port, host_key=server.public_host_key)
        connection = await connect(target, "root", client=client, keys=[Offer.of(self._held, client)])
        try:
            prover = Prover(target, plan, self._private, secret)
            try:
                return await _played(await rope.attach(connection, plan, "none", None), prover)
            except Refused as refused:
                if refused.cause != "no_python":
                    raise
                return await _played(await played.attach(connection, plan, "none", None), prover)
        finally:
            connection.close()

    async def _private(self, line: str) -> Any:
        return None


async def _played(line: Any, prover: Prover) -> Json:
    async for frame in line.frames():
        if isinstance(frame, Ask):
            await line.answer(await prover.answers(frame))
        if isinstance(frame, Result):
            assert frame.status == "failed" or frame.status == "unchanged" or not prover.missing(), prover.missing()
            return frame.model_dump() | {"proofs": prover.proofs}
    raise AssertionError("the agent ended without a result")


def lets_in(server: Server, login: str, source: str | None = None, password: str | None = None) -> bool:
    """Whether OpenSSH's client gets in with a password, or the login's own, from an address of its own or this one.

    An sshd that reads its configuration again does not listen for a moment, which is waited for.
    """
    while True:
        try:
            return judge.password_login_works(server, login, password or server.passwords[login], source=source)
        except judge.Puzzled as puzzled:
            # Whoever was in its queue as it closed that is not greeted any more.
            if not re.search("Connection refused|kex_exchange_identification: read: Connection reset", str(puzzled)):
                raise
        server.await_greeting()  # not each time: from OpenSSH 9.8 on whoever does not log in is kept away for a while


def nothing_left(server: Server) -> list[str]:
    """Return what of a door is still there: files but for the state of generations, and watchers."""
    files = [path for path in HOOKS if server.exists(path)]
    files += [name for name in server.run(["ls", "-A", STATE]).stdout.split() if name != "state.json"]
    return files + [title for title in server.processes().values() if "door-" in title]


def until_gone(server: Server, seconds: float = 30) -> None:
    """Return once nothing of a door is left there."""
    last = time.monotonic() + seconds
    while left := nothing_left(server):
        assert time.monotonic() < last, left
        time.sleep(0.05)


def time_is_over(server: Server, root: Path | None = None) -> None:
    """Have the time of the door that stands be over by the clock on the wall: the watchers see it within a second.

    However slow the machine is, nothing is closed before a test has come so far; and on a full disk there is room for it.
    """
    state = (root or Path(f"/proc/{server.pid}/root")) / STATE.lstrip("/")
    (record,) = [state / each for each in ("door.opening", "door.open") if (state / each).exists()]
    with record.open("r+") as stream:
        text, changed = re.subn(r'"deadline":[0-9]{10}', '"deadline":1000000000', stream.read())
        assert changed == 1, text
        stream.seek(0)
        stream.write(text)


def kill_watchers(server: Server) -> None:
    """End all that waits in this server for the deadline of a door, those that are started anew meanwhile among them."""
    while found := [pid for pid, title in server.processes().items() if "door-watch" in title]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def before_include(server: Server, end: str = "") -> str:
    """Have Debian's own sshd know no Include, as before OpenSSH 8.2; return its main file, which ends with this then."""
    root = Path(f"/proc/{server.pid}/root")
    program = (root / "usr/sbin/sshd").read_bytes()
    assert program.count(b"\0include\0") == 1
    (root / "usr/sbin/sshd.new").write_bytes(program.replace(b"\0include\0", b"\0inclvde\0"))
    text = server.read(CONFIG).replace("\nInclude ", "\n#Include ") + end
    server.write(CONFIG, text)
    server.run(["sh", "-c", "chmod 755 /usr/sbin/sshd.new; mv /usr/sbin/sshd.new /usr/sbin/sshd"])
    server.reboot()
    assert "Bad configuration option" in server.run(["sshd", "-t", "-f", "/dev/stdin"], "Include /x\n", check=False).stderr
    return text
