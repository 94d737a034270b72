"""The trail as its readers see it: who did what, what was refused, and that it is given out whole."""

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import Awaitable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from controller import kps_audit_verify as verifier
from controller.app import in_process
from controller.errors import Conflict, Invalid, NotAllowed, NotFound, Unavailable
from controller.events import Actor, acting
from controller.kms import Kms
from controller.model import Caller, Server, Task, now
from controller.order import Order
from controller.record import Record
from controller.service.allowances import AT_ONCE as REFUSALS_AT_ONCE
from controller.service.allowances import SECONDS_FOR_ONE
from controller.service.audit import Audit
from controller.service.auditkeys import AuditKeys
from controller.settings import Settings
from controller.store import Store
from controller.transport import frames
from kpsagent.errors import Failed
from tests.controller.faces import here

T = TypeVar("T")
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def run(asked: Awaitable[T]) -> T:
    async def answered() -> T:
        return await asked

    return asyncio.run(answered())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(store: Store, kms: Kms, clock: Clock) -> Audit:
    keys = AuditKeys(store, kms)
    store.sign_with(keys)
    return Audit(store, keys, clock=clock)


# -- who


def test_what_happens_names_who_did_it(store: Store, who: Caller) -> None:
    acting.set(Actor(who.tenant_id, who.user_id, "task-1"))
    try:
        store.add_servers([Server("s1", who.tenant_id, "web-1", "192.0.2.1")])
    finally:
        acting.set(Actor())
    store.pin_host_key("s1", "ssh-ed25519 AAAA")
    done = [(event.kind, event.user_id, event.task_id) for event in store.events(who.tenant_id)[-2:]]
    assert done == [("server_added", who.user_id, "task-1"), ("host_key_pinned", None, None)]


def test_every_change_by_a_request_names_its_user(settings: Settings, made: dict[str, str]) -> None:
    """Through the commands, so through the API: what is the controller's own has no user, all else has."""
    home = settings.home
    for words in (
        ["keypair", "create", "ops"],
        ["keypair", "export", "ops", "--out", str(home / "ops")],
        ["server", "add", "web-1", "192.0.2.1"],
        ["server", "set", "web-1", "--allow-old-algorithms", "all"],
        ["server", "remove", "web-1"],
        ["keypair", "delete", "ops"],
    ):
        result = here(home, *words)
        assert result.exit_code == 0, result.output
    events = json.loads(here(home, "audit", "list", "--json").stdout)
    by_nobody = {event["kind"] for event in events if event["user_id"] is None}
    assert by_nobody == {"master_key_created", "audit_key_made"}
    assert {event["user_id"] for event in events} - {None} == {made["user_id"]}
    told = here(home, "audit", "list", "--user", "administrator", "--kind", "server_added").stdout
    assert re.search(r"^\d+ +\S+ \S+ +administrator +server_added", told, re.MULTILINE)


def test_a_finished_task_tells_which_files_it_changed(store: Store, who: Caller) -> None:
    """As the agent says it, line for line, through the border where its words are parsed."""
    said = frames.parse(
        b'{"say": "result", "status": "succeeded", "server_state": "as_asked", "phase": "done", "files":'
        b' [{"path": "/root/.ssh/authorized_keys", "before": null, "after": "' + b"0f" * 32 + b'"}]}'
    )
    assert isinstance(said, frames.Result)
    server = Server("s1", who.tenant_id, "web-1", "192.0.2.1")
    store.add_servers([server])
    [task] = store.add_tasks([Task("t1", who.tenant_id, who.user_id, "s1", "web-1", "root", "bind", {}, now())])
    store.claim("t1", "me", 30)
    plan = {"only_plan": False, "key": None}
    order = Order(plan, [], None, "root")
    outcome, changes = Record(task, server, order).concluded(said.model_dump())
    assert store.finish("t1", "me", 1, outcome, **changes)
    [told] = [event for event in store.events(who.tenant_id) if event.kind == "task_finished"]
    assert told.detail["files"] == [{"path": "/root/.ssh/authorized_keys", "before": None, "after": "0f" * 32}]
    assert (told.user_id, told.task_id) == (who.user_id, "t1")


@pytest.mark.parametrize("digest", ["", "0f" * 31, "0F" * 32, "0f" * 31 + "\n\x1b", 7])
def test_what_is_no_digest_is_not_taken_for_one(digest: object) -> None:
    said = {"say": "result", "status": "succeeded", "server_state": "as_asked", "phase": "done"}
    with pytest.raises(Failed):
        frames.parse(json.dumps(said | {"files": [{"path": "/x", "before": digest}]}).encode())


# -- refusals


def test_refusals_are_on_record_and_cannot_fill_the_disk(store: Store, audit: Audit, clock: Clock, who: Caller) -> None:
    def refused() -> list[dict[str, str]]:
        return [event.detail for event in store.events(who.tenant_id, limit=10_000) if event.kind == "request_refused"]

    for _ in range(10 * REFUSALS_AT_ONCE):
        run(audit.refused(who, NotAllowed("role_reads_only", "no"), "POST", "/fleet/v1/keypairs" + "x" * 10_000))
    assert len(refused()) == REFUSALS_AT_ONCE
    assert refused()[0]["code"] == "role_reads_only"
    assert len(refused()[0]["request"]) == 200
    clock.now += SECONDS_FOR_ONE
    run(audit.refused(who, Conflict("already_bound", "no"), "DELETE", "/fleet/v1/keypairs/ops"))
    assert refused()[-1] == {
        "code": "already_bound", "request": "DELETE /fleet/v1/keypairs/ops", "unrecorded_before": str(9 * REFUSALS_AT_ONCE),
    }  # fmt: skip


def test_what_is_no_decision_is_not_on_record(store: Store, audit: Audit, who: Caller) -> None:
    before = store.reach(who.tenant_id).number
    run(audit.refused(who, NotFound("server_not_found", "no"), "GET", "/fleet/v1/servers/none"))
    run(audit.refused(who, Invalid("name_unusable", "no"), "POST", "/fleet/v1/servers"))
    assert store.reach(who.tenant_id).number == before
    run(audit.refused(who, NotAllowed("audit_not_yours", "no"), "GET", "/fleet/v1/audit/events"))
    assert store.reach(who.tenant_id).number == before + 1


def test_a_refused_request_is_on_record_with_its_user(settings: Settings, made: dict[str, str]) -> None:
    assert here(settings.home, "keypair", "delete", "none").exit_code == 3
    [told] = json.loads(here(settings.home, "audit", "list", "--kind", "request_refused", "--json").stdout)
    assert told["user_id"] == made["user_id"]
    assert told["detail"] == {"code": "keypair_not_found", "request": "DELETE /fleet/v1/keypairs/none"}


def test_the_v3_api_names_its_callers_too(settings: Settings, made: dict[str, str]) -> None:
    async def story() -> list[dict[str, Any]]:
        async with in_process(settings) as application:
            assert application.application.networked  # what the network has, the owner has too
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://kps") as http:
                calls = f"/v3/{made['project_id']}/keypairs"
                assert (await http.post(calls, json={"keypair": {"name": "ops"}})).status_code == 200
                assert (await http.delete(f"{calls}/none")).status_code == 404
                return list((await http.get("/fleet/v1/audit/events", params={"limit": 2})).json())

    refused, created = run(story())
    assert (refused["kind"], refused["detail"]["code"]) == ("request_refused", "keypair_not_found")
    assert created["kind"] == "keypair_created"
    assert refused["user_id"] == created["user_id"] == made["user_id"]


# -- reading


@pytest.mark.parametrize("role", ["operator", "auditor", "administrator"])
def test_the_trail_is_for_auditors_and_administrators(audit: Audit, who: Caller, role: str) -> None:
    reader = replace(who, role=role)
    reads = [
        lambda: audit.events(reader), lambda: audit.names(reader), lambda: audit.key(reader),
        lambda: audit.export(reader), lambda: audit.checkpoint(reader), lambda: audit.exported(reader, 1, 1, "0" * 64),
    ]  # fmt: skip
    for read in reads:
        if role == "operator":
            with pytest.raises(NotAllowed, match="for auditors"):
                run(read())
        else:
            with contextlib.suppress(Conflict):  # that digest is not the one
                run(read())
    if role != "administrator":
        with pytest.raises(NotAllowed):
            run(audit.prune(reader, LATER))


def test_events_are_found_by_what_they_are_about(store: Store, audit: Audit, who: Caller) -> None:
    store.add_servers([Server(f"s{n}", who.tenant_id, f"web-{n}", "192.0.2.1") for n in range(5)])
    store.note_refusal(who.tenant_id, "u2", {"code": "x", "keypair_id": "k1"})
    everything = run(audit.events(who))
    assert [event.number for event in everything] == list(range(len(everything), 0, -1))
    assert run(audit.events(who, after=0)) == everything[::-1]
    assert run(audit.events(who, before=4, limit=2)) == [event for event in everything if event.number in (3, 2)]
    assert [event.server_id for event in run(audit.events(who, server="web-3"))] == ["s3"]
    assert [event.server_id for event in run(audit.events(who, server="s3"))] == ["s3"]
    assert [event.user_id for event in run(audit.events(who, user="u2"))] == ["u2"]
    assert [event.keypair_id for event in run(audit.events(who, keypair="k1"))] == ["k1"]
    assert {event.kind for event in run(audit.events(who, kinds=["server_added"]))} == {"server_added"}
    middle = everything[3].at
    since, until = run(audit.events(who, since=middle)), run(audit.events(who, until=middle))
    assert [event.number for event in [*since, *until]] == [event.number for event in everything]
    assert since
    assert all(event.at >= middle for event in since)
    with pytest.raises(NotFound):
        run(audit.events(who, kinds=["nothing"]))


def test_every_filter_has_an_index(store: Store, settings: Settings, who: Caller) -> None:
    with closing(sqlite3.connect(settings.database)) as database:
        for column in ("number", "kind", "user_id", "server_id", "keypair_id", "task_id"):
            query = f"EXPLAIN QUERY PLAN SELECT * FROM events WHERE tenant_id = 't' AND {column} = 'x' ORDER BY number DESC"  # noqa: S608
            assert "USING INDEX" in str(database.execute(query).fetchall()), column


# -- giving it out


def test_an_export_is_verified_by_itself(settings: Settings, made: dict[str, str], tmp_path: Path) -> None:
    home, out = settings.home, tmp_path / "trail.jsonl"
    for number in range(3):
        here(home, "keypair", "create", f"pair-{number}")
    key = here(home, "audit", "key").stdout.strip()
    assert here(home, "audit", "export", "--out", str(out)).exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with verifier.trails(str(out)) as [trail]:
        found = verifier.check(trail, key)
    assert (found["first"], found["number"], found["key_given"]) == (1, 6, True)
    lines = out.read_text().split("\n")
    for wrong, text in (
        (4, "\n".join(lines[:4] + lines[5:])),
        (5, out.read_text().replace("pair-1", "pair-9")),
        (7, out.read_text() + lines[-2].replace('"number": 6', '"number": 7') + "\n"),
        (6, "\n".join(lines[:-2]) + "\n"),
        (3, "\n".join([*lines[:3], "{", *lines[4:]])),
    ):
        with pytest.raises(verifier.Wrong) as named:
            verifier.check(verifier.of_export(text.splitlines()), key)
        assert named.value.number == wrong


def test_part_of_the_trail_is_verified_by_itself(audit: Audit, store: Store, who: Caller) -> None:
    store.add_servers([Server(f"s{n}", who.tenant_id, f"web-{n}", "192.0.2.1") for n in range(5)])
    at = store.events(who.tenant_id)[4].at
    made = run(audit.export(who, since=at))
    assert made.reach.first == 5
    with pytest.raises(Conflict, match="no events of that time"):
        run(audit.export(who, since=LATER))


def test_the_commands_verify_and_name_what_is_wrong(settings: Settings, made: dict[str, str], tmp_path: Path) -> None:
    home, kept = settings.home, tmp_path / "checkpoint"
    here(home, "keypair", "create", "ops")
    assert here(home, "audit", "checkpoint", "--out", str(kept)).exit_code == 0
    key = here(home, "audit", "key").stdout.strip()
    good = here(home, "audit", "verify", "--key", key, "--checkpoint", str(kept), "--json")
    assert (good.exit_code, json.loads(good.stdout)["checkpoint"]) == (0, 4)
    with closing(sqlite3.connect(settings.database)) as database, database:
        database.execute("UPDATE events SET user_id = NULL WHERE number = 3")
    bad = here(home, "audit", "verify", "--json")
    assert (bad.exit_code, json.loads(bad.stdout)["event"]) == (1, 3)
    assert here(home, "audit", "verify", "--checkpoint", "/dev/null").exit_code == 2


def test_an_export_that_does_not_come_on_record_leaves_no_file(
    settings: Settings, made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "trail"
    with monkeypatch.context() as patched:
        full = Unavailable("store_unusable", "the disk is full")
        patched.setattr(Store, "note_audit_export", lambda *_: (_ for _ in ()).throw(full))
        assert here(settings.home, "audit", "export", "--out", str(out)).exit_code == 5
    assert not out.exists()
    assert here(settings.home, "audit", "export", "--out", str(out)).exit_code == 0


def test_pruning_waits_for_an_export(settings: Settings, made: dict[str, str], tmp_path: Path) -> None:
    home, tomorrow = settings.home, (datetime.now(UTC) + timedelta(days=1)).isoformat()
    refused = here(home, "audit", "prune", "--before", tomorrow, "--json")
    assert (refused.exit_code, json.loads(refused.stderr)["error"]["code"]) == (4, "not_exported")
    assert here(home, "audit", "export", "--out", str(tmp_path / "trail")).exit_code == 0
    # That file is soon all that is left of them.
    exported = (tmp_path / "trail").read_bytes()
    for what in ("export", "checkpoint"):
        again = here(home, "audit", what, "--out", str(tmp_path / "trail"), "--json")
        assert (again.exit_code, json.loads(again.stderr)["error"]["code"]) == (4, "file_exists")
    assert (tmp_path / "trail").read_bytes() == exported
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    done = json.loads(here(home, "audit", "prune", "--before", tomorrow, "--json").stdout)
    assert done["deleted"] == done["first"] - 1 > 0
    assert here(home, "audit", "verify").exit_code == 0


# -- the key


def test_a_root_key_that_does_not_open_stops_no_event(store: Store, who: Caller) -> None:
    class Away:
        def open(self, *_: object) -> None:
            raise Conflict("away", "the token is away")

    clock = Clock()
    keys = AuditKeys(store, Away(), clock)  # type: ignore[arg-type]
    store.sign_with(keys)
    store.note_refusal(who.tenant_id, "u", {"code": "x"})
    assert store.events(who.tenant_id)[-1].signature is None
