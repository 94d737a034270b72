"""The chain of events: what was written is proved, and whoever tampers with it is found out, by the event."""

import base64
import json
import multiprocessing
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.exc import IntegrityError

from controller import kps_audit_verify as verifier
from controller.errors import AlreadyExists, Conflict
from controller.kms import FileRootKey, Kms
from controller.model import Caller, KeyPair, Outcome, Sealed, Server, Task, now
from controller.service import trail
from controller.service.auditkeys import AuditKeys
from controller.settings import Settings
from controller.store import Store, engine
from controller.store.chain import CHECKPOINT_EVERY
from tests.controller import tampering

spawn = multiprocessing.get_context("spawn")
TRIALS = 1000
OF_ONE_SERVER = 10  # events


def live(store: Store, who: Caller, servers: int = 2) -> None:
    """Have things happen: a dozen events for each server, as a rollout writes them."""
    count = len(store.servers(who.tenant_id))
    for number in range(count, count + servers):
        server = Server(f"{number:036}", who.tenant_id, f"web-{number}", f"192.0.2.{number}")
        store.add_servers([server])
        store.pin_host_key(server.id, "ssh-ed25519 AAAA")
        keypair = KeyPair(
            f"k{number:035}", who.tenant_id, who.user_id, "private", f"pair-{number}", "ed25519", False,
            "ssh-ed25519 AAAA x", "SHA256:x", "aa:bb", now(),
        )  # fmt: skip
        store.add_keypair(keypair, None)
        task = Task(f"t{number:035}", who.tenant_id, who.user_id, server.id, server.name, "root", "bind", {}, now())
        store.add_tasks([task])
        claimed = store.claim(task.id, "me", 30)
        assert claimed is not None
        for phase in ("look", "decide", "widen", "prove"):
            store.progress(task.id, "me", phase, {"steps": 1, "ü": ["\N{SNOWMAN}", 0.1, None]})
        store.finish(task.id, "me", claimed.generation, Outcome("succeeded", "as_asked"))


@pytest.fixture
def signing(store: Store, kms: Kms, who: Caller) -> Store:
    keys = AuditKeys(store, kms)
    store.sign_with(keys)
    keys.prepare(who.tenant_id)
    return store


@pytest.fixture
def written(signing: Store, who: Caller, settings: Settings) -> Path:
    """A copy of a database in which things happened."""
    live(signing, who)
    return copy(settings.database, settings.home / "copy.db")


def copy(database: Path, to: Path) -> Path:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
    return to


def verified(path: Path, who: Caller, key: str | None = None, kept: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the verifier finds to be well of the tenant."""
    with verifier.trails(str(path)) as found:
        [ours] = [trail for trail in found if trail.tenant == who.tenant_id]
        return verifier.check(ours, key, kept)


def test_what_was_written_is_proved(written: Path, signing: Store, who: Caller) -> None:
    found = verified(written, who)
    events = signing.events(who.tenant_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert (found["first"], found["number"], found["unsigned"]) == (1, len(events), 0)
    assert found["digest"] == events[-1].digest
    assert events[2].kind == "home_initialised"


def test_whoever_tampers_is_found_out_by_the_event(written: Path, who: Caller, tmp_path: Path) -> None:
    chance, done = random.Random(8), Counter[str]()
    forged = tmp_path / "forged.db"
    for number in range(TRIALS):
        forged.unlink(missing_ok=True)  # as long as the last failure is looked at, its reader holds the file
        shutil.copy(written, forged)
        what, first_wrong = tampering.trial(forged, chance)
        done[what] += 1
        with pytest.raises(verifier.Wrong) as wrong:
            verified(forged, who)
        assert wrong.value.number == first_wrong, f"trial {number}: {what}: {wrong.value}"
    assert len(done) == 4 * len(tampering.WAYS)
    assert sum(done.values()) == TRIALS


# -- the end of the trail


def test_an_old_end_put_back_is_shown_by_a_checkpoint_kept_elsewhere(
    signing: Store, who: Caller, settings: Settings, tmp_path: Path
) -> None:
    live(signing, who)
    old = copy(settings.database, tmp_path / "old.db")
    live(signing, who)
    kept = signing.add_checkpoint(who.tenant_id)
    assert kept is not None
    # The whole of an earlier database, or its events with its head: in itself it is whole.
    before = verified(old, who)["number"]
    assert before < kept.number
    with pytest.raises(verifier.Wrong) as wrong:
        verified(old, who, kept=trail.reach(kept))
    assert (wrong.value.number, wrong.value.how) == (before + 1, "removed")
    assert verified(copy(settings.database, tmp_path / "new.db"), who, kept=trail.reach(kept))["checkpoint"] == kept.number


def test_a_checkpoint_is_kept_from_time_to_time(signing: Store, who: Caller, settings: Settings, tmp_path: Path) -> None:
    live(signing, who)
    assert signing.checkpoints(who.tenant_id) == []
    signing.add_servers([Server(f"{n:036}", who.tenant_id, f"s{n}", "192.0.2.1") for n in range(100, 100 + CHECKPOINT_EVERY)])
    [kept] = signing.checkpoints(who.tenant_id)
    assert kept.number == signing.reach(who.tenant_id).number
    forged = copy(settings.database, tmp_path / "forged.db")
    with closing(sqlite3.connect(forged)) as database, database:
        database.execute("UPDATE event_checkpoints SET digest = ?", ("0" * 64,))
    with pytest.raises(verifier.Wrong, match="checkpoint"):
        verified(forged, who)


def test_a_checkpoint_is_not_taken_for_the_end(signing: Store, who: Caller, settings: Settings, tmp_path: Path) -> None:
    """Each statement says what kind it is: else an old checkpoint would do as a head, and everything after it could go."""
    live(signing, who)
    kept = signing.add_checkpoint(who.tenant_id)
    assert kept is not None
    live(signing, who)
    forged = copy(settings.database, tmp_path / "forged.db")
    with closing(sqlite3.connect(forged)) as database, database:
        database.execute("DELETE FROM events WHERE number > ?", (kept.number,))
        database.execute("DELETE FROM event_heads")
        database.execute(
            "INSERT INTO event_heads (tenant_id, first, previous, number, digest, at, signature)"
            " SELECT tenant_id, first, previous, number, digest, at, signature FROM event_checkpoints"
        )
    with pytest.raises(verifier.Wrong) as wrong:
        verified(forged, who)
    assert (wrong.value.number, wrong.value.how) == (kept.number + 1, "forged")


def test_what_was_cut_off_is_not_written_over(signing: Store, kms: Kms, who: Caller, settings: Settings, tmp_path: Path) -> None:
    """Whoever comes next signs a new end; that the one before it was not signed stays in the trail."""
    live(signing, who)
    last = signing.reach(who.tenant_id).number
    with closing(sqlite3.connect(settings.database)) as database, database:
        database.execute("DELETE FROM events WHERE number > ?", (last - 5,))
        found = database.execute("SELECT number, digest, at FROM events WHERE number = ?", (last - 5,)).fetchone()
        database.execute("UPDATE event_heads SET number = ?, digest = ?, at = ?", found)
    next_process = Store(settings.database_url)
    next_process.sign_with(AuditKeys(next_process, kms))
    next_process.note_refusal(who.tenant_id, who.user_id, {"code": "x"})
    next_process.close()
    with pytest.raises(verifier.Wrong) as wrong:
        verified(copy(settings.database, tmp_path / "copy.db"), who)
    assert (wrong.value.number, wrong.value.how) == (last - 4, "doubted")


def test_a_key_of_somebody_else_proves_nothing(written: Path, who: Caller) -> None:
    strangers = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    with pytest.raises(verifier.Wrong) as wrong:
        verified(written, who, key=strangers)
    assert wrong.value.number == 1


# -- writers


def test_without_the_key_events_go_on_unsigned_and_are_told(
    signing: Store, who: Caller, settings: Settings, tmp_path: Path
) -> None:
    without = Store(settings.database_url)
    without.note_refusal(who.tenant_id, who.user_id, {"code": "x"})
    without.close()
    unsigned = signing.reach(who.tenant_id).number
    with pytest.raises(verifier.Wrong) as wrong:
        verified(copy(settings.database, tmp_path / "copy.db"), who)
    assert (wrong.value.number, wrong.value.how) == (unsigned, "unsigned")
    live(signing, who, servers=1)
    assert signing.trail(who.tenant_id, after=unsigned, limit=1)[0].kind == "head_unproved"
    # Whoever has looked into it says so by keeping a checkpoint of what came after.
    kept = signing.add_checkpoint(who.tenant_id)
    assert kept is not None
    assert verified(copy(settings.database, tmp_path / "later.db"), who, kept=trail.reach(kept))["unsigned"] == 1


def _write(url: str, root: str, tenant_id: str, times: int) -> None:
    store = Store(url)
    store.sign_with(AuditKeys(store, Kms(store, FileRootKey(Path(root)))))
    for number in range(times):
        store.note_refusal(tenant_id, "u" * 32, {"code": "x", "number": number})
    store.close()


def test_writers_in_several_processes_make_one_chain(signing: Store, who: Caller, settings: Settings, tmp_path: Path) -> None:
    each, processes = 20, 3
    before = signing.reach(who.tenant_id).number
    args = (settings.database_url, str(settings.home / "root.key"), who.tenant_id, each)
    writing = [spawn.Process(target=_write, args=args) for _ in range(processes)]
    for process in writing:
        process.start()
    live(signing, who, servers=1)
    for process in writing:
        process.join()
        assert process.exitcode == 0
    found = verified(copy(settings.database, tmp_path / "copy.db"), who)
    assert (found["unsigned"], found["number"]) == (0, before + each * processes + OF_ONE_SERVER)
    assert not [event for event in signing.events(who.tenant_id) if event.kind == "head_unproved"]


def test_a_new_key_signs_nothing_before_it_is_the_only_one_to_write(
    store: Store, who: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what another thread writes meanwhile is signed with a key that may not be kept, where somebody else made one."""
    waiting: list[dict[str, Any]] = []
    writing = engine.writing

    def asked(*given: Any) -> Any:
        waiting.append(dict(store._chains._new))
        return writing(*given)

    monkeypatch.setattr(engine, "writing", asked)
    key = Ed25519PrivateKey.generate()
    tenant = "7" * 32
    with suppress(IntegrityError):  # there is no such tenant
        store.add_audit_key(tenant, "x", Sealed(b"x"), key.sign)
    assert waiting[0] == {}


def test_a_writer_that_is_killed_leaves_a_whole_chain(signing: Store, who: Caller, settings: Settings, tmp_path: Path) -> None:
    args = (settings.database_url, str(settings.home / "root.key"), who.tenant_id, 1_000_000)
    for round in range(3):
        before = signing.reach(who.tenant_id).number
        process = spawn.Process(target=_write, args=args)
        process.start()
        while signing.reach(who.tenant_id).number < before + 5 + round:
            time.sleep(0.001)
        process.kill()
        process.join()
        assert verified(copy(settings.database, tmp_path / f"{round}.db"), who)["unsigned"] == 0
        live(signing, who, servers=1)
    assert verified(copy(settings.database, tmp_path / "last.db"), who)["unsigned"] == 0


def test_what_is_rolled_back_is_in_no_chain(signing: Store, who: Caller, settings: Settings, tmp_path: Path) -> None:
    live(signing, who, servers=1)
    before = signing.reach(who.tenant_id)
    server = Server("s" * 36, who.tenant_id, "web-new", "192.0.2.99")
    with pytest.raises(AlreadyExists):
        signing.add_servers([server, server])
    assert signing.reach(who.tenant_id) == before
    live(signing, who, servers=1)
    assert verified(copy(settings.database, tmp_path / "copy.db"), who)["number"] == before.number + OF_ONE_SERVER


# -- retention


def test_what_was_exported_can_be_pruned_and_the_rest_verifies(
    signing: Store, who: Caller, settings: Settings, tmp_path: Path
) -> None:
    live(signing, who)
    server = signing.servers(who.tenant_id)[0]
    task = Task("x" * 36, who.tenant_id, who.user_id, server.id, server.name, "root", "check", {}, now())
    signing.add_tasks([task])
    signing.claim(task.id, "me", 30)
    signing.finish(task.id, "me", 2, Outcome("succeeded", "as_asked"))
    signing.remove_server(server.id, who.user_id)
    until = signing.reach(who.tenant_id)
    assert signing.prune_events(who.tenant_id, who.user_id, until.number) == 0  # the newest event stays
    signing.note_refusal(who.tenant_id, who.user_id, {"code": "x"})
    with pytest.raises(Conflict) as refused:
        signing.prune_events(who.tenant_id, who.user_id, until.number)
    assert refused.value.code == "not_exported"
    signing.note_audit_export(who.tenant_id, who.user_id, 1, 10, signing.trail(who.tenant_id, after=9)[0].digest)
    signing.note_audit_export(who.tenant_id, who.user_id, 11, until.number, until.digest)
    assert signing.prune_events(who.tenant_id, who.user_id, until.number) == until.number
    found = verified(copy(settings.database, tmp_path / "copy.db"), who)
    assert (found["first"], found["unsigned"]) == (until.number + 1, 0)
    # What the next order needs to know of a removed server is not forgotten with its events.
    [again] = signing.add_servers([replace(server, id="n" * 36, generation=0)])
    assert again.generation == 2


def test_an_old_beginning_cannot_be_cut_off_by_hand(written: Path, who: Caller, tmp_path: Path) -> None:
    with closing(sqlite3.connect(written)) as database, database:
        previous = database.execute("SELECT digest FROM events WHERE number = 4").fetchone()
        database.execute("DELETE FROM events WHERE number <= 4")
        database.execute("UPDATE event_heads SET first = 5, previous = ?", previous)
    with pytest.raises(verifier.Wrong) as wrong:
        verified(written, who)
    assert (wrong.value.number, wrong.value.how) == (1, "removed")


# -- the one file


def test_the_verifier_is_short_and_stands_alone(written: Path, who: Caller, tmp_path: Path) -> None:
    source = Path(verifier.__file__)
    assert len(source.read_text().split("\n")) <= 200
    alone = shutil.copy(source, tmp_path / "verify.py")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-I", str(alone), *words], capture_output=True, text=True, timeout=60)

    good = run(str(written))
    assert (good.returncode, json.loads(good.stdout)["tenant_id"]) == (0, who.tenant_id)
    with closing(sqlite3.connect(written)) as database, database:
        database.execute("UPDATE events SET kind = 'keypair_deleted' WHERE number = 7")
    bad = run(str(written))
    assert (bad.returncode, json.loads(bad.stdout)["event"]) == (1, 7)
    assert run(str(tmp_path / "none")).returncode == 2
    assert run(str(source)).returncode == 2
