"""Plans of rollouts: sealed, kept in a file, and held to. What a server would say is said here."""

import asyncio
import importlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import controller.app
from controller import rolling, seen
from controller.cli.wholefile import written
from controller.dispatch import InProcess
from controller.kms import Kms
from controller.model import Caller, Credential, Outcome, Server, Task
from controller.run import Runner
from controller.service.auditkeys import AuditKeys
from controller.service.keypairs import Keypairs
from controller.service.rolloutplans import RolloutPlans
from controller.settings import Settings
from controller.store import Store
from tests.controller.faces import SUCCEEDED, here

KEYS = "/root/.ssh/authorized_keys"
CHANGE = {"kind": "keys", "path": KEYS, "login": "root", "made": False}
DIFF = [f"--- {KEYS}", f"+++ {KEYS}", "@@ -1 +1,2 @@", " ssh-ed25519 AAAA theirs", "+ssh-ed25519 BBBB ops"]
LOOKED = Outcome(
    "unchanged", "as_before", evidence={"seen": "a" * 64, "plan": {"changes": [CHANGE | {"diff": DIFF}], "locked_out": []}}
)
REFUSED = Outcome("failed", "as_before", phase="connect", cause="wrong_password", message="web-2: not accepted")
Kps = Callable[..., Any]


class Fleet:
    """Servers that say of a plan what is in looked, and do everything else as asked."""

    def __init__(self) -> None:
        self.looked: dict[str, Outcome] = {"web-2": REFUSED}
        self.ran: list[Task] = []

    def dispatching(self, settings: Settings, runner: Runner, owner: str) -> InProcess:
        async def run(task: Task, credential: Credential | None) -> None:
            self.ran.append(task)
            outcome = self.looked.get(task.server_name, LOOKED) if task.request.get("plan") else SUCCEEDED
            await runner.means.off(runner.means.store.finish, task.id, owner, task.generation, outcome)
            runner.ended(task)

        return InProcess(runner, run, owner, settings.concurrency)

    @property
    def done(self) -> list[str]:
        return sorted(task.server_name for task in self.ran if not task.request.get("plan"))


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet()
    monkeypatch.setattr(controller.app, "dispatching", fleet.dispatching)
    monkeypatch.setattr(importlib.import_module("controller.cli.rollouts"), "LOOK_SECONDS", 0.02)
    return fleet


@pytest.fixture
def kps(settings: Settings, fleet: Fleet, store: Store, kms: Kms, who: Caller) -> Kps:
    """Run kps on a home with three servers and a key pair; ends: the exit code that it must have."""
    store.add_servers([Server(f"s{number}", who.tenant_id, f"web-{number}", f"192.0.2.{number}") for number in (1, 2, 3)])
    asyncio.run(Keypairs(store, kms).create(who, "ops"))

    def run(*words: str, ends: int = 0) -> Any:
        result = here(settings.home, *words)
        assert result.exit_code == ends, (words, result.stdout, result.stderr)
        return result

    return run


@pytest.fixture
def file(kps: Kps, tmp_path: Path) -> Path:
    """A plan, as it was written."""
    path = tmp_path / "plan.json"
    kps("rollout", "plan", "bind", "--all", "--keypair", "ops", "--canary", "2", "-o", str(path), ends=1)
    return path


def error(result: Any) -> str:
    return str(json.loads(result.stderr.splitlines()[-1])["error"]["code"])


def test_a_plan_says_what_would_be_done_where_and_who_would_be_refused(kps: Kps, file: Path, fleet: Fleet) -> None:
    plan = json.loads(file.read_text())
    head = plan["head"]
    assert (head["operation"], head["servers"], head["planned"], head["refused"]) == ("bind", 3, 2, {"wrong_password": 1})
    assert head["strategy"]["canary"] == "2"
    assert head["keypair"]["fingerprint"].startswith("SHA256:")
    assert [(each["server"], each["seen"], each["cause"]) for each in plan["servers"]] == [
        ("web-1", "a" * 64, None), ("web-2", None, "wrong_password"), ("web-3", "a" * 64, None)
    ]  # fmt: skip
    assert plan["servers"][0]["changes"] == [CHANGE | {"lines": ["+ssh-ed25519 BBBB ops"]}]
    assert file.stat().st_mode & 0o777 == 0o600
    shown = kps("rollout", "show", head["id"]).stdout
    for told in ("2 of 3 can be done", "2 servers: web-1, web-3", "+ssh-ed25519 BBBB ops", "wrong_password"):
        assert told in shown
    assert fleet.done == []
    assert "bind (plan)" in kps("rollout", "list").stdout


def test_what_was_planned_is_done_where_it_was_seen_and_the_rest_is_left_out(
    kps: Kps, file: Path, fleet: Fleet, store: Store
) -> None:
    result = kps("rollout", "start", "--plan", str(file), ends=1)  # one of three is not as asked
    assert "left out, as the plan says: 1 by wrong_password" in result.stderr
    assert "1 not begun: left out by the plan" in result.stdout.replace("\n", " ")
    assert fleet.done == ["web-1", "web-3"]
    ran = [task for task in fleet.ran if not task.request.get("plan")]
    assert [task.request["seen"] for task in ran] == ["a" * 64] * 2
    assert ran[0].request.keys() == {"keypair", "keypair_id", "seen"}
    (started,) = [each for each in store.rollouts(None) if each.plan_id]
    assert started.strategy["canary"] == "2"
    assert started.plan_id == json.loads(file.read_text())["head"]["id"]


def _server_taken_out(plan: Any) -> None:
    del plan["servers"][2]


def _other_lines(plan: Any) -> None:
    plan["servers"][0]["changes"][0]["lines"] = []


def _other_canary(plan: Any) -> None:
    plan["head"]["strategy"]["canary"] = "0"


def _longer(plan: Any) -> None:
    plan["head"]["good_until"] = "2099-01-01T00:00:00.000000Z"


def _other_digest(plan: Any) -> None:
    plan["servers"][0]["seen"] = "b" * 64


def _other_key(plan: Any) -> None:
    plan["head"]["keypair"]["fingerprint"] = "SHA256:of another one"


def _other_signature(plan: Any) -> None:
    plan["signature"] = "00" * 64


ALTERED = (_server_taken_out, _other_lines, _other_canary, _longer, _other_digest, _other_key, _other_signature)


def test_an_altered_plan_is_refused(kps: Kps, file: Path, fleet: Fleet) -> None:
    written = file.read_text()
    for alter in ALTERED:
        plan = json.loads(written)
        alter(plan)
        file.write_text(json.dumps(plan))
        assert error(kps("rollout", "start", "--plan", str(file), "--json", ends=4)) == "plan_altered", alter
    assert fleet.done == []
    # However it is written, it is the same plan.
    file.write_text(json.dumps(json.loads(written)))
    kps("rollout", "start", "--plan", str(file), ends=1)
    assert fleet.done == ["web-1", "web-3"]


def test_an_expired_plan_is_refused_by_its_file_and_by_its_id(
    kps: Kps, file: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = rolling.now() + timedelta(hours=25)
    monkeypatch.setattr("controller.service.rolloutplans.now", lambda: later)
    for named in (str(file), json.loads(file.read_text())["head"]["id"]):
        result = kps("rollout", "start", "--plan", named, "--json", ends=4)
        assert error(result) == "plan_expired"
    assert fleet.done == []


@pytest.mark.parametrize("changed", ["good_until = '2099-01-01 00:00:00.000000'", "operation = 'replace'"])
def test_a_database_that_says_otherwise_than_the_file_does_not_start_it(
    kps: Kps, file: Path, fleet: Fleet, settings: Settings, changed: str
) -> None:
    with closing(sqlite3.connect(settings.home / "kps.db")) as connection, connection:
        assert connection.execute(f"UPDATE rollouts SET {changed}").rowcount == 1  # noqa: S608
    assert error(kps("rollout", "start", "--plan", str(file), "--json", ends=4)) == "plan_outdated"
    assert fleet.done == []


def test_what_only_another_may_see_is_not_agreed_to(
    kps: Kps, file: Path, store: Store, who: Caller, settings: Settings, kms: Kms
) -> None:
    """The way in was by a private key pair of whoever planned: what would be changed there is told to them."""
    plan_id = json.loads(file.read_text())["head"]["id"]
    with closing(sqlite3.connect(settings.home / "kps.db")) as connection, connection:
        connection.execute("UPDATE rollouts SET private = 0")
        connection.execute("UPDATE tasks SET private = (server_name = 'web-1')")
    plans = RolloutPlans(store, None, AuditKeys(store, kms))  # type: ignore[arg-type]
    another = replace(who, user_id="another")
    looks = {each.server: each for each in asyncio.run(plans.looks(another, plan_id))}
    assert (looks["web-1"].cause, looks["web-1"].changes) == ("plan_hidden", [])
    assert looks["web-3"].cause is None
    _, servers, _, _, out = plans._held_to(another, plan_id, None)
    assert [each.name for each in servers] == ["web-3"]
    assert out == {"plan_hidden": 1, "wrong_password": 1}
    assert {each.cause for each in asyncio.run(plans.looks(who, plan_id))} == {None, "wrong_password"}


def test_a_server_that_is_looked_at_again_is_said_to_be(
    kps: Kps, file: Path, store: Store, who: Caller, settings: Settings
) -> None:
    plan_id = json.loads(file.read_text())["head"]["id"]
    with closing(sqlite3.connect(settings.home / "kps.db")) as connection, connection:
        connection.execute("UPDATE tasks SET status = 'running' WHERE server_name = 'web-1'")
    looks = asyncio.run(RolloutPlans(store, None, None).looks(who, plan_id))  # type: ignore[arg-type]
    assert (looks[0].cause, looks[0].message) == ("not_looked_at", "web-1: it is being looked at")


def test_hours_without_anything_to_keep_are_refused(kps: Kps, file: Path) -> None:
    plan_id = json.loads(file.read_text())["head"]["id"]
    for words in (["resume", plan_id], ["retry", plan_id], ["start", "--plan", str(file)]):
        assert "--credential-hours goes with" in kps("rollout", *words, "--credential-hours", "72", ends=2).stderr


def test_a_plan_that_could_not_be_written_whole_is_not_there(kps: Kps, file: Path, tmp_path: Path) -> None:
    before, kept = set(tmp_path.iterdir()), file.read_text()

    def broken_off(path: Path, *, replace: bool) -> None:
        with written(path, replace=replace) as put:
            put("half")
            raise RuntimeError("killed")

    for path, replace_ in ((tmp_path / "half.json", False), (file, True)):
        with pytest.raises(RuntimeError, match="killed"):
            broken_off(path, replace=replace_)
    assert (set(tmp_path.iterdir()), file.read_text()) == (before, kept)


def test_a_plan_that_was_gone_on_with_is_not_the_one_in_the_file(kps: Kps, file: Path, fleet: Fleet) -> None:
    plan_id = json.loads(file.read_text())["head"]["id"]
    fleet.looked.clear()
    kps("rollout", "retry", plan_id)
    assert error(kps("rollout", "start", "--plan", str(file), "--json", ends=4)) == "plan_outdated"
    kps("rollout", "start", "--plan", plan_id)
    assert fleet.done == ["web-1", "web-2", "web-3"]


def test_another_key_pair_of_the_same_name_is_not_what_was_planned(kps: Kps, file: Path, fleet: Fleet) -> None:
    kps("keypair", "delete", "ops")
    kps("keypair", "create", "ops")
    assert error(kps("rollout", "start", "--plan", str(file), "--json", ends=4)) == "plan_outdated"
    assert fleet.done == []


def test_a_plan_is_no_rollout_and_a_rollout_no_plan(kps: Kps, fleet: Fleet, tmp_path: Path) -> None:
    kps("rollout", "start", "bind", "--all", "--keypair", "ops")
    (rollout,) = json.loads(kps("rollout", "list", "--json").stdout)
    assert error(kps("rollout", "start", "--plan", rollout["id"], "--json", ends=3)) == "plan_not_found"
    (tmp_path / "none.json").write_text("{}")
    assert error(kps("rollout", "start", "--plan", str(tmp_path / "none.json"), "--json", ends=2)) == "plan_unreadable"


def test_a_server_that_is_gone_is_left_out(kps: Kps, file: Path, fleet: Fleet) -> None:
    kps("server", "remove", "web-3")
    result = kps("rollout", "start", "--plan", str(file), ends=1)
    assert "1 by server_not_found" in result.stderr
    assert fleet.done == ["web-1"]


# -- what is seen ------------------------------------------------------------------------------------------------------

RESULT = {
    "plan": {"changes": [CHANGE | {"diff": DIFF}], "locked_out": [], "reload": "sshd (process 12)", "proofs": []},
    "logins": {"root": "on"},
    "closed": False,
    "first": "",
    "sessions": [{"pid": 3}],
}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"logins": {"root": "off"}}, False),
        ({"closed": True}, False),
        ({"first": "an earlier operation is undone first"}, False),
        ({"plan": RESULT["plan"] | {"locked_out": ["git"]}}, False),  # type: ignore[operator]
        ({"plan": RESULT["plan"] | {"changes": [CHANGE | {"diff": [*DIFF[:2], "@@ -2 +2,2 @@", *DIFF[3:]]}]}}, False),  # type: ignore[operator]
        ({"plan": RESULT["plan"] | {"seen": {KEYS: "b" * 64}}}, False),  # type: ignore[operator]
        ({"plan": RESULT["plan"] | {"reload": "sshd (process 77)"}}, True),  # type: ignore[operator]
        ({"sessions": []}, True),
    ],
)
def test_a_digest_is_of_what_counts_for_the_operation(change: dict[str, Any], same: bool) -> None:
    assert (seen.digest(RESULT | change) == seen.digest(RESULT)) is same


def test_what_was_too_large_to_be_told_has_no_digest() -> None:
    assert seen.digest({"plan": {"changes": [], "cut": "too large to keep: locked_out"}}) is None
    assert seen.digest({"plan": {}}) is None


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_report_of_what_came_of_a_plan(kps: Kps, file: Path, fleet: Fleet, tmp_path: Path) -> None:
    kps("rollout", "start", "--plan", str(file), ends=1)
    (rollout,) = [each for each in json.loads(kps("rollout", "list", "--json").stdout) if not each["plans"]]
    told = json.loads(kps("rollout", "report", rollout["id"], "--format", "json").stdout)
    assert (told["asked_by"], told["keypair"]["name"]) == ("administrator", "ops")
    assert told["failed_by"] == []
    (left,) = told["not_done"]
    assert (left["status"], left["cause"], left["names"]) == ("left_out", "wrong_password", ["web-2"])
    assert left["next"] == f"kps rollout retry {rollout['plan_id']} --cause wrong_password --password-stdin < passwords"
    assert told["over_time"]["points"][-1] == {
        "seconds": told["over_time"]["points"][-1]["seconds"],
        "begun": 2,
        "done": 2,
        "failed": 0,
    }
    assert [mark["what"] for mark in told["over_time"]["marks"]] == ["canary", "finished"]
    shown = kps("rollout", "report", rollout["id"]).stdout
    assert "# bind on 2 servers" in shown
    assert "left out by the plan" in shown
    kps("rollout", "report", rollout["id"], "--format", "svg", "-o", str(tmp_path / "rollout.svg"))
    assert (tmp_path / "rollout.svg").read_text().startswith("<svg ")
    of_plan = json.loads(kps("rollout", "report", told["plan_id"], "--json").stdout)
    assert [(each["status"], each["cause"], each["names"]) for each in of_plan["not_done"]] == [
        ("failed", "wrong_password", ["web-2"])
    ]
    assert of_plan["failed_by"][0]["example"]["message"] == "web-2: not accepted"
