"""Connections made while a door was open that give their password after it do not get in, and nobody else's is ended."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import asyncssh
import pytest

from controller.demo.fleet import Login, Server
from tests.fleet import judge
from tests.fleet.causes import KEYS
from tests.fleet.doors import OFF, Doors, time_is_over, until_gone

LOGINS = (Login("alice", "pw-alice"), Login("bob", "pw-bob"))
BOB = "Match User bob\n    PasswordAuthentication yes\n"
TREES = ("host", "bullseye", "trixie")


class Waiting(asyncssh.SSHClient):
    """A client that is asked for a password, and gives it when it is told to."""

    def __init__(self, asked: threading.Event, go: threading.Event, password: str) -> None:
        self._asked, self._go, self._password = asked, go, password

    async def password_auth_requested(self) -> str:
        self._asked.set()
        await asyncio.to_thread(self._go.wait, 60)
        return self._password


class HalfOpen:
    """A connection that has come as far as to be asked for its password, or with early as to be greeted."""

    def __init__(self, server: Server, login: str, early: bool) -> None:
        self.got_in: bool | None = None
        self._about = (server, login)
        self._socket = socket.create_connection((server.host, server.port))
        self._asked, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._connect()), daemon=True)
        if early:
            assert self._socket.recv(4, socket.MSG_PEEK) == b"SSH-"
        else:
            self._thread.start()
            assert self._asked.wait(30)

    def goes_on(self) -> bool:
        """Give the password; return whether that lets it in."""
        self._go.set()
        if not self._thread.ident:
            self._thread.start()
        self._thread.join(30)
        assert self.got_in is not None
        return self.got_in

    async def _connect(self) -> None:
        server, login = self._about
        try:
            connection = await asyncssh.connect(
                sock=self._socket,
                known_hosts=None,
                username=login,
                client_keys=[],
                agent_path=None,
                preferred_auth="password",
                client_factory=lambda: Waiting(self._asked, self._go, server.passwords[login]),
            )
        except (asyncssh.Error, OSError):
            self.got_in = False
            return
        self.got_in = (await connection.run("echo in")).stdout == "in\n"
        connection.close()


@pytest.mark.parametrize("early", [False, True], ids=["asked", "greeted"])
@pytest.mark.parametrize("tree", TREES)
def test_who_came_before_the_end_does_not_get_in_after_it(make_server, tree, early):
    server = make_server(tree=tree, logins=LOGINS, sshd_config_top=OFF)
    doors = Doors(server)
    door = doors.open("alice", password="pw-alice")["door"]
    waits = HalfOpen(server, "alice", early)
    task = doors.order("close", "alice", door)
    assert task["status"] == "succeeded"
    assert not waits.goes_on()


def test_at_the_deadline_too(make_server):
    server = make_server(logins=LOGINS, sshd_config_top=OFF)
    Doors(server).open("alice", password="pw-alice")
    waits = HalfOpen(server, "alice", False)
    time_is_over(server)
    until_gone(server)
    assert not waits.goes_on()


@pytest.mark.parametrize("tree", TREES)
def test_whoever_has_got_in_stays_and_so_does_another_login(make_server, tree):
    server = make_server(tree=tree, logins=LOGINS, sshd_config_top=OFF, sshd_config_end=BOB)
    private, public = judge.new_key_pair()
    doors = Doors(server)
    server.write(KEYS, server.read(KEYS) + public + "\n")
    door = doors.open("alice", password="pw-alice")["door"]
    ended, other = HalfOpen(server, "alice", True), HalfOpen(server, "bob", False)
    with (
        judge.OpenSession(server, "alice", password="pw-alice") as by_password,
        judge.OpenSession(server, "root", private_key=private) as of_root,
        idle(server, "alice", "pw-alice") as alone,
        idle(server, "root", private) as alone_of_root,
    ):
        titles = [title for title in server.processes().values() if title.startswith("sshd")]
        assert [title for title in titles if title.endswith("alice [priv]")], titles  # of those that have got in
        assert doors.order("close", "alice", door)["status"] == "succeeded"
        assert by_password.lives()
        assert of_root.lives()
        assert alone() == "here\n"
        assert alone_of_root() == "here\n"
    assert not ended.goes_on()
    assert other.goes_on()


@contextlib.contextmanager
def idle(server: Server, login: str, secret: str) -> Iterator[Callable[[], str]]:
    """A connection that has got in, and has asked for no session; gives what asks for one."""
    loop = asyncio.new_event_loop()
    keys = [asyncssh.import_private_key(secret)] if "PRIVATE KEY" in secret else []
    about = {"known_hosts": None, "username": login, "client_keys": keys, "agent_path": None, "password": secret}
    try:
        connection = loop.run_until_complete(asyncssh.connect(server.host, server.port, **about))
        yield lambda: str(loop.run_until_complete(connection.run("echo here")).stdout)
        connection.close()
        loop.run_until_complete(connection.wait_closed())
    finally:
        loop.close()
