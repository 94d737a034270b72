"""A home in one file: what is in it, what opens it, and the home that is made of it."""

import asyncio
import io
import json
import os
import sqlite3
import stat
import tarfile
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.cli.reference import FIELDS
from controller.errors import Problem
from controller.kms import FileRootKey, Kms, root
from controller.model import KEY_TYPES, Caller, Secret, Server, now
from controller.service import backup
from controller.service.keypairs import Keypairs
from controller.service.secrets import Secrets
from controller.settings import Settings
from controller.store import Store
from controller.store.copies import GENERATIONS
from tests.controller import given, secret_search
from tests.controller.faces import here, program
from tests.controller.world import Dispatch

FEW = [each for each in KEY_TYPES if not each.startswith("rsa-3") and not each.startswith("rsa-4")]


@pytest.fixture
def full(store: Store, kms: Kms, who: Caller) -> None:
    """A home with a key pair of every type, one of them unmanaged."""

    async def make() -> None:
        for each in FEW:
            await Keypairs(store, kms).create(who, each, each)
        await Keypairs(store, kms).create(who, "loose", managed=False)

    asyncio.run(make())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.backup"


def elsewhere(tmp_path: Path, **more: Any) -> Settings:
    return Settings(home=tmp_path / "other-machine" / "home", **more)


def code(work: Callable[[], Any]) -> str:
    with pytest.raises(Problem) as refused:
        work()
    return refused.value.code


def test_with_the_root_key_every_private_half_opens_and_belongs(full: None, settings: Settings, out: Path) -> None:
    content = backup.back_up(settings, out, with_root_key=True)
    assert (content.counts["keypairs"], content.counts["managed"]) == (len(FEW) + 1, len(FEW))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert backup.look(out) == content
    done = backup.verify(out)
    assert (done.private_halves, done.unopenable) == (len(FEW), {})
    assert done.master_keys >= 1
    # Nothing is left beside it.
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.backup", "home"]


def test_without_the_root_key_it_gives_nothing_away_and_opens_with_one_from_elsewhere(
    full: None, settings: Settings, out: Path, store: Store, kms: Kms, who: Caller
) -> None:
    backup.back_up(settings, out)
    secrets = secret_search.raw("root key", settings.root_key.read_bytes())
    for keypair in store.keypairs(who.tenant_id, who.user_id):
        if keypair.managed:
            stored = kms.open_private(keypair, store.sealed_private(keypair.id))
            found = secret_search.private_key(keypair.type, stored)
            secrets |= {f"{name} of {keypair.name}": forms for name, forms in found.items()}
    assert secret_search.in_files(secrets, [out]) == []
    assert code(lambda: backup.verify(out)) == "root_key_missing"
    assert backup.verify(out, f"file:{settings.root_key}").private_halves == len(FEW)


def test_another_root_key_is_told_apart(full: None, settings: Settings, out: Path, tmp_path: Path) -> None:
    backup.back_up(settings, out)
    FileRootKey.make(tmp_path / "another.key")
    uri = f"file:{tmp_path}/another.key"
    assert code(lambda: backup.verify(out, uri)) == "root_key_wrong"
    new = elsewhere(tmp_path)
    assert code(lambda: backup.restore(out, new.model_copy(update={"root_key_uri": uri}))) == "root_key_wrong"
    assert code(lambda: backup.restore(out, new)) == "root_key_missing"
    assert [path.name for path in new.home.iterdir()] == []


@pytest.mark.parametrize("with_root_key", [True, False])
def test_a_restored_home_opens_everything_on_another_machine(
    full: None, settings: Settings, out: Path, tmp_path: Path, with_root_key: bool
) -> None:
    backup.back_up(settings, out, with_root_key=with_root_key)
    new = elsewhere(tmp_path)
    given_key = new if with_root_key else new.model_copy(update={"root_key_uri": f"file:{settings.root_key}"})
    done = backup.restore(out, given_key)
    assert done.root_key == ("file:root.key" if with_root_key else f"file:{settings.root_key}")
    if not with_root_key:
        assert not new.root_key.exists()
    for name in FEW:
        exported = here(new.home, "keypair", "export", name)
        assert exported.exit_code == 0, exported.output
    assert not list(new.home.glob(".kps.db*"))
    assert code(lambda: backup.restore(out, given_key)) == "home_exists"


def test_a_root_key_that_lies_in_the_new_home_already_is_used(full: None, settings: Settings, out: Path, tmp_path: Path) -> None:
    backup.back_up(settings, out)
    new = elsewhere(tmp_path)
    new.home.mkdir(mode=0o700, parents=True)
    new.root_key.write_bytes(settings.root_key.read_bytes())
    new.root_key.chmod(0o600)
    assert backup.restore(out, new).root_key == "file:root.key"
    assert here(new.home, "keypair", "export", FEW[0]).exit_code == 0


def test_after_a_restore_servers_take_our_orders_and_what_had_not_ended_is_ended(
    settings: Settings, store: Store, who: Caller, out: Path, tmp_path: Path
) -> None:
    running, waiting = given.task(store, who, "web-1"), given.task(store, who, "web-2")
    claimed = store.claim(running.id, "gone", 30)
    assert claimed is not None
    backup.back_up(settings, out, with_root_key=True)
    new = elsewhere(tmp_path)
    done = backup.restore(out, new)
    assert done.tasks_ended == [running.id, waiting.id]
    restored = Store(new.database_url)
    try:
        tasks = {task.id: task for task in restored.tasks(who.tenant_id)}
        interrupted, given_up = tasks[running.id], tasks[waiting.id]
        assert (interrupted.status, interrupted.server_state, interrupted.cause) == ("failed", "unknown", "interrupted")
        assert (given_up.status, given_up.server_state) == ("cancelled", "unknown")
        assert [task.id for task in restored.unsettled()] == [running.id]  # its server is asked
        before = store.server(who.tenant_id, "web-1").generation
        assert restored.server(who.tenant_id, "web-1").generation == before + GENERATIONS
        # One that came after the backup, and is added again, has seen orders that nobody here remembers.
        later = restored.add_servers([Server("later", who.tenant_id, "web-3", "192.0.2.3")])[0]
        assert later.generation == GENERATIONS
        assert restored.events(who.tenant_id)[-2].kind == "home_restored"
    finally:
        restored.close()


def test_a_database_that_was_put_back_otherwise_goes_on_as_a_restored_home_does(
    settings: Settings, store: Store, who: Caller, tmp_path: Path
) -> None:
    running, waiting = given.task(store, who, "web-1"), given.task(store, who, "web-2")
    assert store.claim(running.id, "gone", 30) is not None
    before = store.server(who.tenant_id, "web-1").generation
    refused = program(settings.home, "after-restore", "--root-key", "x")  # no such option: it is the home's own
    assert refused.returncode == 2
    with root.in_use(settings.home):
        assert code(lambda: backup.begin_anew(settings)) == "home_in_use"
    key = settings.root_key.read_bytes()
    settings.root_key.write_bytes(bytes(32))
    assert code(lambda: backup.begin_anew(settings)) == "root_key_wrong"
    assert store.server(who.tenant_id, "web-1").generation == before
    settings.root_key.write_bytes(key)
    told = json.loads(program(settings.home, "after-restore", "--json").stdout)
    assert told == {"home": str(settings.home), "tasks_ended": [running.id, waiting.id]}
    assert store.server(who.tenant_id, "web-1").generation == before + GENERATIONS
    assert {task.status for task in store.tasks(who.tenant_id)} == {"failed", "cancelled"}
    assert "home_restored" in [each.kind for each in store.events(who.tenant_id)]


def test_a_copy_is_of_one_moment_while_others_write(settings: Settings, store: Store, who: Caller, out: Path) -> None:
    """Each transaction adds a server and its event: a copy never has the one without the other."""
    stop = threading.Event()
    written = []

    def write() -> None:
        while not stop.wait(0.005):  # SQLite's lock is not fair: without a pause nobody else gets it
            number = len(written)
            store.add_servers([Server(f"s{number}", who.tenant_id, f"web-{number}", "192.0.2.1")])
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 5:
            pass
        seen = [backup.back_up(settings, out.with_name(f"{n}.backup")).counts for n in range(5)]
    finally:
        stop.set()
        writer.join()
    assert seen[0]["servers"] >= 5
    for n, counts in enumerate(seen):
        with backup.reading(out.with_name(f"{n}.backup")) as found:
            copy = out.with_name(f"{n}.db")
            found.unpack(copy)
        with sqlite3.connect(copy) as database:
            (added,) = database.execute("SELECT count(*) FROM events WHERE kind = 'server_added'").fetchone()
        database.close()
        assert counts["servers"] == added


def test_an_existing_file_and_a_root_key_in_no_file_are_refused(settings: Settings, made: Any, out: Path) -> None:
    out.write_text("mine")
    assert code(lambda: backup.back_up(settings, out)) == "file_exists"
    assert out.read_text() == "mine"
    out.unlink()
    record = settings.home / "root.json"
    known = json.loads(record.read_text())
    known["roots"][0]["uri"] = "awskms:alias/kps?region=eu-west-1"
    record.write_text(json.dumps(known))
    assert code(lambda: backup.back_up(settings, out, with_root_key=True)) == "root_key_elsewhere"
    backup.back_up(settings, out)
    assert backup.look(out).roots[0].uri == known["roots"][0]["uri"]


@pytest.mark.parametrize("root_kind", ["pkcs11", "awskms"], indirect=True)
def test_where_the_root_key_is_in_no_file_a_restored_home_finds_it_there(
    full: None, settings: Settings, out: Path, tmp_path: Path, root_kind: str
) -> None:
    assert code(lambda: backup.back_up(settings, out, with_root_key=True)) == "root_key_elsewhere"
    content = backup.back_up(settings, out)
    uri = content.roots[0].uri
    assert uri.startswith(f"{root_kind}:")
    assert backup.verify(out, uri).private_halves == len(FEW)
    new = elsewhere(tmp_path)
    assert code(lambda: backup.restore(out, new)) == "root_key_missing"  # where it is, the backup says and we do not believe
    new = elsewhere(tmp_path, root_key_uri=uri)
    assert backup.restore(out, new).root_key == uri
    assert [path.name for path in new.home.iterdir() if "root" in path.name] == ["root.json"]
    assert here(new.home, "keypair", "export", FEW[0]).exit_code == 0


class Killed(BaseException):
    """Nothing after it is done, not even what is done on failure."""


STEPS = ("controller.service.backup.open_master", "controller.store.Store.is_whole", "controller.store.Store.begin_anew",
         "controller.kms.root.record", "controller.service.backup.os.link")  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tidied", [True, False])
def test_a_restore_that_is_broken_off_leaves_no_home_and_can_be_repeated(
    full: None, settings: Settings, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, tidied: bool
) -> None:
    backup.back_up(settings, out, with_root_key=True)
    new = elsewhere(tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(step, killed)
        if not tidied:
            patched.setattr("controller.service.backup.contextlib.ExitStack.__exit__", lambda *_: None)
        with pytest.raises(Killed):
            backup.restore(out, new)
    assert not new.database.exists()
    if tidied:
        assert {path.name for path in new.home.iterdir()} <= {"root.json"}
    backup.restore(out, new)
    assert here(new.home, "keypair", "export", FEW[0]).exit_code == 0
    assert not list(new.home.glob(".kps.db*"))


def altered(out: Path, name: str, content: bytes | None, *, kind: bytes = tarfile.REGTYPE) -> Path:
    """A backup in which one member is another, or (None) is not there."""
    made = out.with_name("altered.backup")
    with tarfile.open(out) as before, tarfile.open(made, "w") as after:
        for member in before:
            file = before.extractfile(member)
            assert file is not None
            text = file.read()
            if member.name == name:
                if content is None:
                    continue
                text, member.size, member.type = content, len(content), kind
            after.addfile(member, io.BytesIO(text))
    return made


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("backup.json", b"{}", tarfile.REGTYPE),
        ("backup.json", b"[", tarfile.REGTYPE),
        ("backup.json", b"x" * 70_000, tarfile.REGTYPE),
        ("backup.json", None, tarfile.REGTYPE),
        ("kps.db", None, tarfile.REGTYPE),
        ("kps.db", b"", tarfile.SYMTYPE),
        ("kps.db", b"SQLite format 3\0", tarfile.REGTYPE),
        ("root-0.key", None, tarfile.REGTYPE),
        ("root-0.key", b"x" * 33, tarfile.REGTYPE),
    ],
)
def test_a_backup_that_was_changed_is_refused(
    settings: Settings, made: Any, out: Path, tmp_path: Path, name: str, content: bytes | None, kind: bytes
) -> None:
    backup.back_up(settings, out, with_root_key=True)
    bad = altered(out, name, content, kind=kind)
    assert code(lambda: backup.verify(bad)) == "backup_damaged"
    new = elsewhere(tmp_path)
    assert code(lambda: backup.restore(bad, new)) == "backup_damaged"
    assert not new.home.exists() or list(new.home.iterdir()) == []


def test_a_few_bytes_that_would_fill_a_disk_are_refused(settings: Settings, made: Any, out: Path, tmp_path: Path) -> None:
    backup.back_up(settings, out, with_root_key=True)
    with tarfile.open(out) as archive:
        file = archive.extractfile("backup.json")
        assert file is not None
        said = json.loads(file.read())
    said["database"]["bytes"] = 1 << 40
    bomb = tmp_path / "bomb"
    with tarfile.open(bomb, "w:") as archive:
        text = json.dumps(said).encode()
        first = tarfile.TarInfo("backup.json")
        first.size = len(text)
        archive.addfile(first, io.BytesIO(text))
        sparse = tarfile.TarInfo("GNUSparseFile.0/kps.db")
        sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "kps.db"}
        sparse.pax_headers["GNU.sparse.realsize"] = str(1 << 40)
        body = f"1\n{(1 << 40) - 1}\n1\n".encode().ljust(512, b"\0") + b"x"
        sparse.size = len(body)
        archive.addfile(sparse, io.BytesIO(body))
        key = tarfile.TarInfo("root-0.key")
        key.size = 32
        archive.addfile(key, io.BytesIO(settings.root_key.read_bytes()))
    with tarfile.open(bomb) as archive:
        assert archive.getmembers()[1].size == 1 << 40  # it is one
    assert code(lambda: backup.look(bomb)) == "backup_damaged"  # before a byte of it is written anywhere


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
        "CREATE VIEW v AS SELECT * FROM users",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
    ],
)
def test_a_database_that_would_act_by_itself_is_refused(
    settings: Settings, made: Any, out: Path, tmp_path: Path, planted: str
) -> None:
    connection = sqlite3.connect(settings.database)
    connection.execute(planted)
    connection.close()
    backup.back_up(settings, out, with_root_key=True)
    assert code(lambda: backup.verify(out)) == "backup_damaged"
    assert code(lambda: backup.restore(out, elsewhere(tmp_path))) == "backup_damaged"


@pytest.mark.parametrize("said_first", [True, False])
@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=kps;object=root?module-path=/tmp/theirs.so&pin-source=file:/etc/shadow",
        "awskms:key?endpoint=http://192.0.2.1",
        "file:/etc/shadow",
        "file:../elsewhere/root.key",
        "file:",
    ],
)
def test_nothing_that_a_backup_names_is_opened(
    settings: Settings, made: Any, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said_first: bool
) -> None:
    backup.back_up(settings, out)
    with tarfile.open(out) as archive:
        file = archive.extractfile("backup.json")
        assert file is not None
        said = json.loads(file.read())
    (theirs,) = said["roots"]
    bad = {"uri": uri, "check": "0" * 16, "key": None}
    said["roots"] = [dict(theirs, uri=uri)] if said_first else [theirs, bad]
    evil = altered(out, "backup.json", json.dumps(said).encode())
    tried: list[str] = []
    opened = root.open_root
    monkeypatch.setattr("controller.kms.root.open_root", lambda uri, home: tried.append(uri) or opened(uri, home))
    mine = f"file:{settings.root_key}"
    new = elsewhere(tmp_path) if said_first else elsewhere(tmp_path, root_key_uri=mine)
    assert code(lambda: backup.restore(evil, new)) == "root_key_missing"
    assert tried == []
    assert not new.home.exists() or [path.name for path in new.home.iterdir()] == []


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_backup_that_is_cut_off_is_refused(settings: Settings, made: Any, out: Path, tmp_path: Path, part: float) -> None:
    backup.back_up(settings, out)
    os.truncate(out, int(out.stat().st_size * part))
    uri = f"file:{settings.root_key}"
    assert code(lambda: backup.verify(out, uri)) == "backup_damaged"
    assert code(lambda: backup.restore(out, elsewhere(tmp_path, root_key_uri=uri))) == "backup_damaged"


def test_what_is_no_backup_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n" * 1000)
    assert code(lambda: backup.look(tmp_path / "text")) == "backup_unknown"
    assert code(lambda: backup.look(tmp_path / "nowhere")) == "backup_unreadable"
    assert code(lambda: backup.look(tmp_path)) == "backup_unreadable"


def test_a_private_half_that_was_exchanged_is_named(
    full: None, settings: Settings, store: Store, kms: Kms, who: Caller, out: Path
) -> None:
    """A record that opens, because whoever wrote it had everything, and holds another key."""
    first, second = (store.keypair(who.tenant_id, who.user_id, name) for name in FEW[:2])
    other = kms.open_private(second, store.sealed_private(second.id))
    lying = kms.seal_private(replace(first), other)
    store.move_private(first.id, store.sealed_private(first.id), lying, who.user_id)
    backup.back_up(settings, out, with_root_key=True)
    done = backup.verify(out)
    assert list(done.unopenable) == [first.name]
    assert done.private_halves == len(FEW) - 1


# -- as commands


def test_the_commands(settings: Settings, full: None, tmp_path: Path) -> None:
    out, home = str(tmp_path / "b"), tmp_path / "restored"
    made = program(settings.home, "backup", "--out", out, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["with_root_key"] is False
    told = program(settings.home, "backup", "verify", out)
    assert (told.returncode, "managed" in told.stdout, "root key in it  no" in told.stdout) == (5, True, True)
    verified = program(settings.home, "backup", "verify", out, "--root-key", f"file:{settings.root_key}", "--json")
    assert json.loads(verified.stdout)["opened"]["private_halves"] == len(FEW)
    loud = program(settings.home, "backup", "create", "--out", f"{out}2", "--with-root-key")
    assert "WITH THE ROOT KEY" in loud.stdout
    restored = program(settings.home, "restore", f"{out}2", "--home", str(home), "--json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["root_key"] == "file:root.key"
    told_of = {*json.loads(made.stdout), *json.loads(verified.stdout), *json.loads(restored.stdout)}
    assert told_of == set(FIELDS["backup"])
    again = program(settings.home, "restore", f"{out}2", "--home", str(home), "--json")
    assert (again.returncode, json.loads(again.stderr)["error"]["code"]) == (4, "home_exists")
    assert json.loads(program(home, "keypair", "list", "--json").stdout) != []


def test_a_backup_is_taken_while_the_home_is_served(settings: Settings, made: Any, tmp_path: Path) -> None:
    import subprocess

    from tests.controller.faces import KPS

    environment = {"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home)}
    with subprocess.Popen([KPS, "serve"], stdout=subprocess.PIPE, text=True, env=environment) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith("serving")
        program(settings.home, "keypair", "create", "ops")
        done = program(settings.home, "backup", "--out", str(tmp_path / "b"), "--with-root-key", "--json")
        serving.terminate()
    assert json.loads(done.stdout)["counts"]["managed"] == 1
    assert backup.verify(tmp_path / "b").private_halves == 1


def test_secrets_open_from_a_backup_and_a_restored_home_rotates_no_password_by_itself(
    settings: Settings, made: Any, store: Store, kms: Kms, who: Caller, out: Path, tmp_path: Path
) -> None:
    async def make() -> None:
        secrets = Secrets(store, kms, Dispatch())
        server = store.add_servers([Server(str(uuid.uuid4()), who.tenant_id, "web-1", "192.0.2.1")])[0]
        await secrets.create(who, "text", Secret("one"))
        await secrets.keep(who, "text", Secret("two"))
        await secrets.create(who, "web-1-root", Secret("w0rd"), server=server)
        await secrets.schedule(who, "web-1-root", "30d")

    asyncio.run(make())
    content = backup.back_up(settings, out, with_root_key=True)
    assert content.counts["secrets"] == 2
    done = backup.verify(out)
    assert (done.secrets, done.unopenable) == (3, {})

    new = elsewhere(tmp_path)
    backup.restore(out, new)
    restored = Store(new.database_url)
    try:
        found = restored.secret(who.tenant_id, who.user_id, "web-1-root")
        # Nobody knows what the server has by now; and the home that this is a copy of may live.
        assert (found.version, found.works, found.rotates_every, found.rotates_at) == (1, None, None, None)
        assert restored.secrets_due(now() + timedelta(days=400)) == []
        (event,) = [each for each in restored.events(who.tenant_id) if each.detail.get("reason", "").startswith("this home was")]
        assert event.kind == "secret_changed"
        value = asyncio.run(Secrets(restored, Kms(restored, *root.roots(new.home)), Dispatch()).open(who, "web-1-root"))[1]
        assert value.open() == b"w0rd"
    finally:
        restored.close()


def test_a_secret_that_was_put_into_another_row_is_named_when_a_backup_is_verified(
    settings: Settings, made: Any, store: Store, kms: Kms, who: Caller, out: Path
) -> None:
    async def make() -> None:
        secrets = Secrets(store, kms, Dispatch())
        for name in ("one", "other"):
            await secrets.create(who, name, Secret(name))

    asyncio.run(make())
    with closing(sqlite3.connect(settings.database)) as connection, connection:
        connection.execute("UPDATE secret_versions SET sealed = (SELECT sealed FROM secret_versions ORDER BY secret_id LIMIT 1)")
    backup.back_up(settings, out, with_root_key=True)
    done = backup.verify(out)
    assert done.secrets == 1
    assert [why.partition(":")[0] for why in done.unopenable.values()] == ["sealed_for_another"]
