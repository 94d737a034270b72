"""How commands end where something around them is wrong: the documented code, one clear line, no trace."""

import asyncio
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controller.cli.keypairs import made_or_not
from controller.client import Refused, Unreachable
from controller.settings import Settings
from tests.controller.faces import KPS, here, program


def refusal(result: "subprocess.CompletedProcess[str]") -> str:
    """The one line of stderr; nothing stands on stdout."""
    assert result.stdout == ""
    assert result.stderr.startswith("kps: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# -- the home


@pytest.mark.parametrize("name", ["q?a", "q%20b", "q#c", "ü d"])
def test_a_home_of_whatever_name_holds_its_database(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    assert program(home, "init").returncode == 0
    assert program(home, "keypair", "create", "ops").returncode == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}
    assert modes == dict.fromkeys(("kps.db", "root.key", "root.json"), 0o600)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_home_is_refused_and_nothing_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    result = subprocess.run(
        [KPS, "--home", "", "init"], capture_output=True, text=True, timeout=60, cwd=tmp_path, env={"HOME": str(tmp_path)}
    )
    assert result.returncode == 2
    assert "--home is empty" in refusal(result)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_nobody_known_is_wrong_usage(tmp_path: Path) -> None:
    result = program(tmp_path, "server", "list", "--home", "~nosuchuser")
    assert result.returncode == 2
    assert "~nosuchuser" in refusal(result)


@pytest.mark.parametrize("content", [b"garbage" * 1000, None, "directory"])
def test_a_database_that_is_none_is_told_by_name(tmp_path: Path, content: Any) -> None:
    home = tmp_path / "home"
    assert program(home, "init").returncode == 0
    database = home / "kps.db"
    if content is None:
        os.truncate(database, database.stat().st_size // 2)
    else:
        database.unlink()
        if content == "directory":
            database.mkdir(mode=0o700)
        else:
            database.write_bytes(content)
            database.chmod(0o600)
    for words in (("server", "list"), ("keypair", "create", "ops")):
        result = program(home, *words)
        assert result.returncode == 5, result.stderr
        assert str(database) in refusal(result)


def held_back(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run kps as one for whom modes count: root without its privileges."""
    powerless = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*powerless, KPS, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(home.parent), "KPS_HOME": str(home)},
    )


WORDS = [("server", "list"), ("keypair", "create", "ops"), ("serve",), ("init",)]
NOT_OURS = [(name, mode, words) for name, mode in ((".", 0o500), (".", 0), ("kps.db", 0)) for words in WORDS]


@pytest.mark.parametrize(("name", "mode", "words"), [*NOT_OURS, ("kps.db", 0o400, ("keypair", "create", "ops"))])
def test_a_home_that_may_not_be_used_is_told_by_name(
    settings: Settings, made: Any, name: str, mode: int, words: tuple[str, ...]
) -> None:
    (settings.home / name).chmod(mode)
    result = held_back(settings.home, *words)
    (settings.home / name).chmod(0o700)
    assert result.returncode == 5, result.stderr
    assert str(settings.home) in refusal(result)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("KPS_DEADLINE_SECONDS", "abc", "a whole number from 5 to 3600"),
        ("KPS_CONCURRENCY", "0", "a whole number from 1 to 1000"),
        ("KPS_CONNECT_TIMEOUT_SECONDS", "0", "a number above 0, up to 300"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_range(
    settings: Settings, made: Any, name: str, value: str, told: str
) -> None:
    result = program(settings.home, "server", "list", **{name: value})
    assert result.returncode == 2
    assert f"{name} must be {told}" in refusal(result)


# -- stdout


@pytest.mark.parametrize(
    "words",
    [("server", "list"), ("server", "list", "--json"), ("keypair", "export", "ops"), ("--help",), ("bind", "--help")],
    ids=" ".join,
)
def test_whoever_stops_reading_gets_no_complaint(settings: Settings, made: Any, words: tuple[str, ...]) -> None:
    here(settings.home, "server", "add", "web-1", "127.0.0.1", "--port", "1")
    here(settings.home, "keypair", "create", "ops")
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [KPS, *words], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env={"KPS_HOME": str(settings.home)}
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("words", [("server", "list"), ("server", "list", "--json")], ids=" ".join)
def test_a_full_disk_behind_stdout_is_told(settings: Settings, made: Any, words: tuple[str, ...]) -> None:
    here(settings.home, "server", "add", "web-1", "127.0.0.1", "--port", "1")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [KPS, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env={"KPS_HOME": str(settings.home)}
        )
    assert result.returncode == 5
    assert "stdout: No space left on device" in result.stderr


# -- the terminal


def at_the_prompt(home: Path, *words: str, press: bytes) -> tuple[int, str]:
    """Run a command at a terminal, press keys when it asks, and return its code and what it printed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(KPS, [str(KPS), *words], {**os.environ, "KPS_HOME": str(home)})  # noqa: S606
    shown = b""
    try:
        while b"password for web-1" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, press)
        while piece := _read(terminal):
            shown += piece
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when nobody has the other end open any more
        return b""


@pytest.mark.parametrize(("press", "code", "told"), [(b"\x03", 130, "interrupted"), (b"\x04", 2, "no password for web-1")])
def test_a_prompt_can_be_left(settings: Settings, made: Any, press: bytes, code: int, told: str) -> None:
    here(settings.home, "server", "add", "web-1", "127.0.0.1", "--port", "1")
    here(settings.home, "keypair", "create", "ops")
    words = ("bind", "web-1", "--keypair", "ops", "--password-stdin")
    ended, shown = at_the_prompt(settings.home, *words, press=press)
    assert (ended, told in shown) == (code, True), shown
    assert "Traceback" not in shown
    assert json.loads(here(settings.home, "task", "list", "--json").stdout) == []


# -- what is shown once


def into_nothing(home: Path, *words: str) -> int:
    """Run a command whose stdout takes nothing, and return its code."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [KPS, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env={"KPS_HOME": str(home)}
        )
    assert "stdout: No space left on device" in done.stderr
    return done.returncode


@pytest.mark.parametrize("words", [("init",), ("init", "--json")], ids=" ".join)
def test_a_secret_key_that_could_not_be_printed_was_not_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    home = tmp_path / "home"
    assert into_nothing(home, *words) == 5
    assert program(home, "server", "list").returncode == 5
    made = json.loads(program(home, "init", "--json").stdout)
    assert made["secret_key"]
    assert json.loads(program(home, "init", "--json").stdout) == made | {"secret_key": None}
    assert program(home, "keypair", "create", "ops").returncode == 0


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_a_private_key_that_could_not_be_printed_was_not_made(settings: Settings, made: Any, words: tuple[str, ...]) -> None:
    assert into_nothing(settings.home, "keypair", "create", "lost", "--unmanaged", *words) == 5
    assert here(settings.home, "keypair", "show", "lost").exit_code == 3


class KeypairsOnly:
    """A controller that makes key pairs, at the time that the test says, and then loses its answers if asked to."""

    def __init__(self, *, lost: bool = False) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        self.lost = lost
        self.there: set[str] = set()

    async def create_keypair(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.set()
        await self.answer.wait()
        if request["name"] in self.there:
            raise Refused(409, "keypair_exists", "taken")
        self.there.add(request["name"])
        if self.lost:
            raise Unreachable("the controller did not answer")
        return dict(request)

    async def delete_keypair(self, name: str) -> None:
        self.there.remove(name)


async def interrupted(client: KeypairsOnly) -> None:
    """Ask for a key pair, and be interrupted while the controller makes it."""

    async def create() -> None:
        async with made_or_not(client, {"name": "ops"}):  # type: ignore[arg-type]
            pytest.fail("it went on")

    asking = asyncio.create_task(create())
    await client.asked.wait()
    asking.cancel()
    await asyncio.sleep(0)
    client.answer.set()
    await asking


def test_an_interrupted_create_leaves_no_key_pair() -> None:
    async def story() -> None:
        client = KeypairsOnly()
        with pytest.raises(asyncio.CancelledError):
            await interrupted(client)
        assert client.there == set()

    asyncio.run(story())


def test_a_key_pair_that_was_there_is_not_taken_back() -> None:
    async def story() -> None:
        client = KeypairsOnly()
        client.there.add("ops")
        with pytest.raises(Refused):
            await interrupted(client)
        assert client.there == {"ops"}

    asyncio.run(story())


def test_a_lost_answer_says_what_may_be_there() -> None:
    async def story() -> None:
        with pytest.raises(Unreachable, match="kps keypair show ops"):
            await interrupted(KeypairsOnly(lost=True))

    asyncio.run(story())


def test_what_comes_after_the_making_takes_it_back_as_well() -> None:
    async def story() -> None:
        client = KeypairsOnly()
        client.answer.set()
        with pytest.raises(ZeroDivisionError):
            async with made_or_not(client, {"name": "ops"}):  # type: ignore[arg-type]
                raise ZeroDivisionError
        assert client.there == set()

    asyncio.run(story())
