"""The controller's own doctor: each finding is caused on a real home, and nothing is changed by looking."""

import asyncio
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import re
import resource
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from controller.app import Application
from controller.cli import doctor as command
from controller.client import KpsClient, Refused
from controller.dispatch.queue import Queue
from controller.kms import root
from controller.model import SERVING, now, session_name
from controller.service import certificate
from controller.service.backup import back_up
from controller.service.doctor import CODES, Finding, Process, files, look, records
from controller.service.doctor.machine import boottime
from controller.service.home import initialise
from controller.settings import Settings
from controller.store import Store
from tests.controller import given
from tests.controller.faces import here, program
from tests.controller.remotely import Served
from tests.needs import lacking
from tests.postgresql import Cluster

# Of the machine that the tests run on, and not of the home.
OF_THE_PLACE = {"home_in_memory", "home_path_open", "open_files_few"}


def codes(findings: list[Finding]) -> set[str]:
    """What is wrong with the home; each finding says what was seen, and each that is not well what to do."""
    for each in findings:
        assert each.seen
        assert bool(each.step) == bool(each.code) == (each.level != "ok"), each
    return {each.code for each in findings if each.code} - OF_THE_PLACE


def change(settings: Settings, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(settings.database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def backed_up(settings: Settings, made: Any, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup")


def test_a_home_that_is_well_is_told_so_and_left_as_it_is(settings: Settings, backed_up: None) -> None:
    certificate.ensure(settings.certificate, settings.certificate_key)

    def seen() -> dict[str, tuple[str, int, int]]:
        return {
            path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns, path.stat().st_mode)
            for path in settings.home.iterdir()
        }

    before = seen()
    findings = look(settings)
    assert codes(findings) == set()
    assert {each.about for each in findings} == {
        "home", "leftovers", "disk", "database", "entropy", "root_key", "clock", "trail", "backup", "open_files", "certificate",
    }  # fmt: skip
    assert seen() == before


Spoil = Callable[[Settings], None]


def _others_write_beside_it(settings: Settings) -> None:
    settings.home.parent.chmod(0o777)


def _home_is_open(settings: Settings) -> None:
    settings.home.chmod(0o750)


def _key_is_readable(settings: Settings) -> None:
    settings.root_key.chmod(0o640)


def _file_of_another(settings: Settings) -> None:
    os.chown(settings.home / "root.json", 1, -1)


def _second_name(settings: Settings) -> None:
    os.link(settings.root_key, settings.home.parent / "copy")


def _left_behind(settings: Settings) -> None:
    left = settings.home / ".root.key.0123456789abcdef"
    left.write_bytes(b"half")
    left.chmod(0o600)
    os.utime(left, (1, 1))
    (settings.home / ".kps.db.fedcba9876543210").touch(0o600)  # under way still


def _damaged(settings: Settings) -> None:
    with contextlib.closing(sqlite3.connect(settings.database)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_tenants_1'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with open(settings.database, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x0a" + bytes(size - 1))  # an index page that is empty now


def _no_database(settings: Settings) -> None:
    settings.database.write_text("no database" * 100)


def _trigger(settings: Settings) -> None:
    change(settings, "CREATE TRIGGER theirs AFTER INSERT ON servers BEGIN DELETE FROM servers; END")


def _table_gone(settings: Settings) -> None:
    change(settings, "DROP TABLE quotas")


def _column_gone(settings: Settings) -> None:
    change(settings, "ALTER TABLE event_heads DROP COLUMN signature")


def _older(settings: Settings) -> None:
    change(settings, "UPDATE alembic_version SET version_num = '0001'")


def _newer(settings: Settings) -> None:
    change(settings, "UPDATE alembic_version SET version_num = '9000'")


def _root_key_away(settings: Settings) -> None:
    settings.root_key.rename(settings.home / "away")


def _another_root_key(settings: Settings) -> None:
    settings.root_key.write_bytes(bytes(32))


def _root_key_half_changed(settings: Settings) -> None:
    other = root.make_root("file:other.key", settings.home)
    root.record(settings.home, [root.Known("file:other.key", other.check_value), *root.known(settings.home)])


def _wrapped_by_nobody(settings: Settings) -> None:
    change(settings, "UPDATE master_key_versions SET wrapped = zeroblob(length(wrapped))")


def _another_certificate(settings: Settings) -> None:
    certificate.ensure(settings.certificate, settings.certificate_key)
    settings.certificate.unlink()
    key = settings.certificate_key.read_bytes()
    settings.certificate_key.unlink()
    certificate.ensure(settings.certificate, settings.certificate_key)
    settings.certificate_key.write_bytes(key)


def _event_edited(settings: Settings) -> None:
    change(settings, "UPDATE events SET user_id = 'x' WHERE number = (SELECT max(number) - 1 FROM events)")


def _event_gone(settings: Settings) -> None:
    change(settings, "DELETE FROM events WHERE number = (SELECT max(number) - 1 FROM events)")


def _last_event_gone(settings: Settings) -> None:
    change(settings, "DELETE FROM events WHERE number = (SELECT max(number) FROM events)")


def _first_event_edited(settings: Settings) -> None:
    change(settings, "UPDATE events SET user_id = 'x' WHERE number = 1")


def _another_signature(settings: Settings) -> None:
    change(settings, "UPDATE events SET signature = (SELECT signature FROM events WHERE number = 1) WHERE number = 2")


def _end_moved(settings: Settings) -> None:
    change(settings, "UPDATE event_heads SET number = number - 1")


def _unsigned(settings: Settings) -> None:
    settings.root_key.rename(settings.home / "away")
    assert here(settings.home, "server", "add", "web-1", "127.0.0.1", "--trust-on-first-use").exit_code == 0
    (settings.home / "away").rename(settings.root_key)


CAUSED: list[tuple[Spoil, set[str]]] = [
    (_others_write_beside_it, set()),  # home_path_open, which is asked for below
    (_home_is_open, {"home_exposed"}),
    (_key_is_readable, {"file_exposed", "root_key_exposed"}),
    (_file_of_another, {"file_not_yours"}),
    (_second_name, {"file_odd"}),
    (_left_behind, {"leftover"}),
    (_damaged, {"store_damaged", "not_looked_at"}),
    (_no_database, {"store_unusable", "not_looked_at"}),
    (_trigger, {"store_foreign", "not_looked_at"}),
    (_table_gone, {"store_incomplete", "not_looked_at"}),
    (_column_gone, {"store_incomplete", "not_looked_at"}),
    (_older, {"store_old", "not_looked_at"}),
    (_newer, {"store_too_new", "not_looked_at"}),
    (_root_key_away, {"root_key_missing"}),
    (_another_root_key, {"root_key_wrong"}),
    (_root_key_half_changed, {"root_key_changing"}),
    (_wrapped_by_nobody, {"master_key_damaged"}),
    (_another_certificate, {"certificate_unusable"}),
    (_event_edited, {"trail_wrong"}),
    (_event_gone, {"trail_wrong"}),
    (_last_event_gone, {"trail_wrong", "backup_missing"}),  # the event that told of it
    (_first_event_edited, {"trail_wrong"}),
    (_another_signature, {"trail_wrong"}),
    (_end_moved, {"trail_wrong"}),
    (_unsigned, {"trail_unsigned"}),
]


@pytest.mark.parametrize(("spoil", "wanted"), CAUSED, ids=[spoil.__name__.strip("_") for spoil, _ in CAUSED])
def test_what_is_wrong_with_a_home_is_found_and_nothing_else(
    settings: Settings, backed_up: None, spoil: Spoil, wanted: set[str]
) -> None:
    if os.geteuid() != 0 and spoil is _file_of_another:
        lacking("root, to give a file away")
    spoil(settings)
    findings = look(settings)
    assert codes(findings) == wanted
    if spoil is _others_write_beside_it:
        assert "home_path_open" in {each.code for each in findings}


def test_what_is_somebody_elses_is_not_looked_into(settings: Settings, made: Any) -> None:
    if os.geteuid() != 0:
        lacking("root, to give a home away")
    for path in (settings.home, *settings.home.iterdir()):
        os.chown(path, 1, -1)
    result = here(settings.home, "doctor", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["status"], [each["code"] for each in told["findings"]]) == (1, "error", ["home_not_yours"])
    assert "sudo -u" in told["findings"][0]["next_step"]
    assert {path.stat().st_uid for path in settings.home.iterdir()} == {1}


def test_where_there_is_no_home_that_is_told(settings: Settings) -> None:
    result = here(settings.home, "doctor", "--json")
    assert (result.exit_code, [each["code"] for each in json.loads(result.stdout)["findings"]]) == (1, ["not_initialised"])
    assert not settings.home.exists()


@contextlib.contextmanager
def in_memory(place: Path, mebibytes: int) -> Iterator[None]:
    """A file system of its own, of this size, at a place."""
    place.mkdir(0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode:
        lacking(f"the right to mount: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_or_forgets_is_told(settings: Settings) -> None:
    def found() -> set[str]:
        return {each.code for each in look(settings) if each.about == "disk"}

    with in_memory(settings.home, 160):
        initialise(settings)
        assert found() == {"home_in_memory"}
        change(settings, "CREATE TABLE large (bytes)", "INSERT INTO large VALUES (zeroblob(60000000))")
        assert found() == {"home_in_memory", "disk_filling"}
        with open(settings.home / "more", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 50 * 2**20)
        assert found() == {"home_in_memory", "disk_nearly_full"}


def test_a_home_on_a_network_file_system_is_told(settings: Settings, made: Any, tmp_path: Path) -> None:
    device = settings.home.stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = "36 35 {}:{} / /srv rw,noatime shared:1 - nfs4 disk:/srv rw\n"
    mounts.write_text("a b\n" + line.format(0, 999) + line.format(os.major(device), os.minor(device)))
    assert "home_on_network" in {each.code for each in files.disk(settings, mounts)}
    mounts.write_text(line.format(0, 999))
    assert "home_on_network" not in {each.code for each in files.disk(settings, mounts)}


def test_who_holds_the_database_is_told(settings: Settings, backed_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BUSY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert codes(look(settings)) == {"store_busy"}
    with (
        contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as reader,
        contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as writer,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        writer.execute("PRAGMA synchronous = OFF")
        writer.execute("CREATE TABLE large (bytes)")
        writer.execute("INSERT INTO large VALUES (zeroblob(?))", (records.LARGE_WAL,))
        assert codes(look(settings)) == {"wal_large"}


def test_a_clock_that_is_behind_or_was_set_is_told(settings: Settings, backed_up: None) -> None:
    def clock(ahead: timedelta) -> set[str]:
        return {each.code for each in look(settings, clock=lambda: now() + ahead) if each.about == "clock" and each.code}

    assert clock(timedelta()) == set()
    assert clock(timedelta(seconds=-30)) == {"clock_differs"}
    assert clock(timedelta(hours=-1)) == {"clock_behind", "clock_differs"}
    opened = root.roots(settings.home)
    for jump, wanted in ((0, set()), (3600, {"clock_was_set"}), (-3600, {"clock_was_set"})):
        process = Process(opened, began=(now() - timedelta(seconds=1000 + jump), boottime() - 1000))
        assert codes(look(settings, process)) == wanted


def test_what_ends_or_grows_old_is_told_in_time(settings: Settings, made: Any, tmp_path: Path) -> None:
    certificate.ensure(settings.certificate, settings.certificate_key)

    def after(days: int, about: str) -> set[str]:
        return {each.code for each in look(settings, clock=lambda: now() + timedelta(days=days)) if each.about == about}

    assert after(0, "backup") == {"backup_missing"}
    back_up(settings, tmp_path / "backup")
    assert [after(days, "backup") for days in (0, 6, 8)] == [{""}, {""}, {"backup_old"}]
    held = [after(days, "certificate") for days in (0, 800, 826)]
    assert held == [{""}, {"certificate_expires_soon"}, {"certificate_expired"}]


def test_too_few_open_files_are_told(settings: Settings, backed_up: None) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = Process(root.roots(settings.home))

    def files_open(soft: int, process: Process | None = None) -> set[str]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
        try:
            return {each.code for each in look(settings, process) if each.about == "open_files"}
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert files_open(min(2048, before[1])) == {""}
    assert files_open(400) == files_open(400, process) == {"open_files_few"}
    with contextlib.ExitStack() as held:
        for _ in range(370):
            held.enter_context(open(os.devnull))
        assert files_open(400, process) == {"open_files_used_up"}


# A filter of the kernel's (seccomp): who asks for random numbers, and not to wait, is told that there are none yet.
WITHOUT_ENTROPY = """
import ctypes, os, platform, struct, sys
NUMBER = {"x86_64": 318, "aarch64": 278}[platform.machine()]
EAGAIN = 11
def step(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
LOAD, SAME, RETURN = 0x20, 0x15, 0x06
program = b"".join((
    step(LOAD, 0, 0, 0), step(SAME, 0, 3, NUMBER),  # the number of the call
    step(LOAD, 0, 0, 32), step(SAME, 0, 1, os.GRND_NONBLOCK),  # its third argument
    step(RETURN, 0, 0, 0x00050000 | EAGAIN), step(RETURN, 0, 0, 0x7FFF0000),
))
buffer = ctypes.create_string_buffer(program)
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
system = ctypes.CDLL(None, use_errno=True)
if system.prctl(38, 1, 0, 0, 0) or system.prctl(22, 2, filters, 0, 0):
    sys.exit("no seccomp")
from controller.cli import main
sys.argv = ["kps", "doctor", "--json"]
main()
"""


def test_no_random_numbers_are_told_and_not_waited_for(settings: Settings, backed_up: None) -> None:
    """As on a machine that has just been started: who would have to wait, and does not want to, is told so."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENTROPY],
        env={"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.stderr == "no seccomp\n":
        lacking("a kernel with seccomp filters")
    told = json.loads(done.stdout)
    assert {each["code"] for each in told["findings"]} - OF_THE_PLACE - {""} == {"entropy_missing", "not_looked_at"}
    assert done.returncode == 1


def test_the_command_tells_the_gravest_first_and_what_to_do(settings: Settings, made: Any) -> None:
    result = here(settings.home, "doctor")
    assert result.exit_code == 0  # a warning is no error
    assert "backup: kps backup --out FILE" in result.stdout
    settings.root_key.chmod(0o644)
    result = here(settings.home, "doctor")
    assert result.exit_code == 1
    rows = [line.split()[1] for line in result.stdout.splitlines()[1:] if line.split()[1] in ("error", "warning", "ok")]
    assert rows == sorted(rows, key=["error", "warning", "ok"].index)
    assert f"chmod 600 {settings.root_key}" in result.stdout
    assert here(settings.home, "doctor", "--json", "--profile", "prod").exit_code != 0


def test_a_home_that_is_taken_by_who_does_not_answer_is_told(
    settings: Settings, backed_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> dict[str, Any]:
        result = here(settings.home, "doctor", "--json")
        found: dict[str, Any] = json.loads(result.stdout)
        return {each["about"]: each["code"] for each in found["findings"]} | {"served": found["served"], "exit": result.exit_code}

    assert told().items() >= {"controller": "", "served": False, "exit": 0}.items()
    with open(settings.home / "serve.lock", "w") as lock:
        os.chmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert told().items() >= {"controller": "controller_silent", "served": False, "exit": 1}.items()
        monkeypatch.setattr(command, "ANSWER_SECONDS", 0.5)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(settings.socket))
            os.chmod(settings.socket, 0o600)
            deaf.listen()
            assert told().items() >= {"controller": "controller_silent", "served": False, "exit": 1}.items()


class OlderKps(http.server.BaseHTTPRequestHandler):
    """A controller that knows no doctor yet: kps was replaced, and what serves was not started anew."""

    def do_GET(self) -> None:
        body = b'{"status": 404, "code": "not_found", "title": "Not Found", "detail": "Not Found"}'
        self.send_response(404)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "here"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_who_serves_and_refuses_is_told_and_the_command_looks_by_itself(settings: Settings, backed_up: None) -> None:
    with socketserver.UnixStreamServer(str(settings.socket), OlderKps) as older:
        os.chmod(settings.socket, 0o600)
        serving = threading.Thread(target=older.serve_forever)
        serving.start()
        try:
            result = here(settings.home, "doctor", "--json")
        finally:
            older.shutdown()
            serving.join()
    found = json.loads(result.stdout)
    by_about = {each["about"]: each for each in found["findings"]}
    assert (result.exit_code, found["served"], found["status"]) == (1, False, "error")
    assert by_about["controller"]["code"] == "controller_refuses"
    assert "it serves the home, and refuses to look: not_found: " in by_about["controller"]["seen"]
    assert by_about["controller"]["next_step"]
    assert by_about["database"]["status"] == "ok"


def test_who_serves_looks_by_itself_and_its_certificate_is_seen(settings: Settings, backed_up: None) -> None:
    served = Served(settings.home)
    try:

        def told() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(program(settings.home, "doctor", "--json").stdout)
            assert found["served"]
            return {each["about"]: each for each in found["findings"]}

        found = told()
        assert {each["code"] for each in found.values()} - OF_THE_PLACE == {""}
        assert served.url in found["controller"]["seen"]
        assert "the controller may have" in found["open_files"]["seen"]
        # It has the root key open and works on; the next one that starts would not.
        settings.root_key.rename(settings.home / "away")
        assert told()["root_key"]["code"] == "root_key_missing"
        (settings.home / "away").rename(settings.root_key)
        certificate.renew(settings.certificate, settings.certificate_key)
        assert told()["certificate"]["code"] == "certificate_not_taken_up"
        served.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: told()["certificate"]["code"] == "")
    finally:
        served.stop()


def eventually(holds: Callable[[], bool]) -> bool:
    return any(holds() for _ in range(20))


def test_work_that_has_ended_by_itself_is_told_and_only_to_the_owner(settings: Settings, backed_up: None) -> None:
    async def story() -> tuple[set[str], dict[str, Any]]:
        served = Application(settings)
        async with served.lifespan():
            served.services.doctor._readiness._background[0].cancel()
            await asyncio.sleep(0)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(served.local), base_url="http://kps") as http:
                found = (await http.get("/fleet/v1/doctor", timeout=60)).json()
            return {each["code"] for each in found["findings"]}, found

    seen, found = asyncio.run(story())
    assert seen - OF_THE_PLACE == {"", "runner_stopped"}
    assert found["status"] == "error"


def test_paths_are_told_at_home_only(settings: Settings, backed_up: None, tmp_path: Path) -> None:
    served = Served(settings.home)
    try:
        anna = served.person("anna", "administrator", tmp_path / "anna")
        with KpsClient.over_network(served.remote(anna)) as kps, pytest.raises(Refused) as refused:
            kps.doctor()
        assert refused.value.code == "only_at_home"
    finally:
        served.stop()


def test_who_takes_the_tasks_of_a_database_is_told_and_that_nobody_does(tmp_path: Path, postgresql: Cluster) -> None:
    with postgresql.database() as url, contextlib.ExitStack() as sessions:
        settings = Settings(home=tmp_path / "home", store_url=url, lease_seconds=2)
        initialise(settings)

        def told() -> list[tuple[str, str]]:
            return [(each.code, each.seen) for each in look(settings) if each.about == "workers"]

        def takes(name: str) -> psycopg.Connection[Any]:
            session = psycopg.connect(url, autocommit=True, application_name=session_name(f"{SERVING}{name}"))
            return sessions.enter_context(session)

        async def ordered() -> None:
            queue = Queue(url, settings.lease_seconds)
            await queue.open()
            await queue.put([given.task(store, store.caller_by_local_home())])
            await queue.close()

        assert told() == [("", "nobody takes tasks; 0 wait")]
        with contextlib.closing(Store(url)) as store:
            asyncio.run(ordered())
        ((code, seen),) = told()
        assert (code, seen.partition(",")[0]) == ("nobody_takes_tasks", "1 waits")
        first, second = takes("web-1/17/0123abcd"), takes("web-2/18/4567abcd")
        with alive(first):
            until = time.monotonic() + 60
            while "worker_silent" not in {code for code, _ in told()}:
                assert time.monotonic() < until
            ((code, seen),) = told()
        assert (code, seen.partition(":")[0]) == ("worker_silent", "web-2/18/4567abcd")
        with alive(first, second):
            assert told() == [("", "web-1/17/0123abcd (0 run), web-2/18/4567abcd (0 run); 1 wait")]


@contextlib.contextmanager
def alive(*sessions: psycopg.Connection[Any]) -> Iterator[None]:
    """Have these say something all the time, however long a look takes."""
    over = threading.Event()

    def says() -> None:
        while not over.wait(0.1):
            for each in sessions:
                each.execute("SELECT 1")

    for each in sessions:
        each.execute("SELECT 1")
    with ThreadPoolExecutor() as pool:
        saying = pool.submit(says)
        try:
            yield
        finally:
            over.set()
        saying.result()


def test_each_code_is_caused_here_and_explained() -> None:
    text = Path(__file__).read_text()
    page = (Path(__file__).parents[2] / "docs/kps-doctor.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(code, level, meaning) for code, (level, meaning) in CODES.items()]
    assert not [code for code in CODES if f'"{code}"' not in text]
