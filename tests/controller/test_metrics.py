"""The metrics: what they count, who may read them, that they name nobody, and that docs/metrics.md has them all."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed

from controller import keyfiles
from controller.app import Application
from controller.causes import CAUSES
from controller.dispatch import owner_name
from controller.model import TAKING, Binding, Caller, KeyPair, Outcome, now, session_name
from controller.service import metrics
from controller.settings import Settings
from controller.store import Store
from tests.controller import given
from tests.controller.test_gate import Signed

DOC = Path(__file__).parents[2] / "docs/metrics.md"
TOKEN = "0123456789abcdef" * 3


def asked(
    settings: Settings,
    headers: dict[str, str] | None = None,
    at_home: bool = True,
    before: Callable[[Application], None] = lambda served: None,
    path: str = "/metrics",
    auth: httpx.Auth | None = None,
) -> httpx.Response:
    """The answer of a home that is served to who asks for its metrics."""

    async def story() -> httpx.Response:
        served = Application(settings, serving=True)
        async with served.lifespan():
            before(served)
            where = served.local if at_home else served.networked
            async with httpx.AsyncClient(transport=httpx.ASGITransport(where), base_url="http://kps") as http:
                return await http.get(path, headers=headers or {}, auth=auth)

    return asyncio.run(story())


def samples(answer: httpx.Response) -> dict[tuple[str, ...], float]:
    """What was told, by name and the values of labels."""
    assert answer.status_code == 200, answer.text
    return {(sample.name, *sample.labels.values()): sample.value for family in parsed(answer.text) for sample in family.samples}


@pytest.fixture
def secret(settings: Settings, tmp_path: Path) -> Settings:
    """The settings with a metrics token."""
    file = tmp_path / "metrics.token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return settings.model_copy(update={"metrics_token_file": file})


def test_what_is_there_is_counted_and_nobody_is_named(settings: Settings, store: Store, who: Caller) -> None:
    done = [given.task(store, who, f"secret-{number}") for number in range(4)]
    ends = [("disk_full", "as_before"), ("connection_lost", "unknown"), (None, "as_asked")]
    for task, (cause, state) in zip(done, ends, strict=False):
        claimed = store.claim(task.id, "me", 30)
        assert claimed is not None
        status: Any = "failed" if cause else "succeeded"
        assert store.finish(task.id, "me", claimed.generation, Outcome(status, state, cause=cause, message="m"))  # type: ignore[arg-type]

    assert store.claim(done[3].id, "me", 600)  # another process of the home, which lives

    def counts(served: Application) -> None:
        found = served.services.metrics
        assert found is not None
        found.measured.ended("bind", "failed", "disk_full", 2.0, 0.3)
        found.measured.ended("bind", "failed", "a cause of yesterday", -1.0, 0.3)
        found.measured.phase("widen", 0.02)
        found.measured.connected("let_in", 0.2)
        found.measured.proved("logged_in", 0.2)

    answer = asked(settings, before=counts)
    told = samples(answer)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert told["kps_tasks", "running"] == 1
    assert told["kps_tasks", "ready"] == told["kps_undo_open",] == 0
    assert told["kps_tasks", "failed"] == 2
    assert told["kps_tasks_failed", "disk_full"] == told["kps_tasks_failed", "connection_lost"] == 1
    assert told["kps_tasks_in_doubt",] == 1
    assert told["kps_tasks_waiting_oldest_seconds",] == 0
    assert told["kps_servers",] == 4
    assert told["kps_rollouts", "running"] == 0
    assert told["kps_tasks_ended_total", "bind", "failed"] == 2
    assert told["kps_tasks_failures_total", "other"] == 1
    assert told["kps_task_phase_seconds_count", "widen"] == 1
    assert told["kps_task_wait_seconds_count",] == 2
    assert told["kps_ready", "root_key"] == told["kps_ready", "database"] == 1
    assert 0 < told["kps_events_total",] <= store.newest_event()  # what is due at the start goes on meanwhile
    assert told["kps_doors_open",] == told["kps_doors_unconfirmed",] == 0
    assert told["kps_store_bytes", "database"] > 0
    for named in ("secret-", who.tenant_id, who.user_id, "kps/default", "administrator"):
        assert named not in answer.text


def test_key_pairs_on_logins_are_told_by_age_and_proof(settings: Settings, store: Store, who: Caller) -> None:
    public, _ = keyfiles.generate("ed25519")
    at = now()
    old = KeyPair(
        "k1", who.tenant_id, who.user_id, "account", "ops", public.type, False, public.line("ops"), public.fingerprint,
        public.fingerprint_md5, created_at=at.replace(year=at.year - 2, day=1),
    )  # fmt: skip
    store.add_keypair(old, None)
    task, other = given.task(store, who), given.task(store, who, "web-2")
    assert store.claim(task.id, "me", 600)
    assert store.progress(task.id, "me", "widen", {})
    assert store.cancel(who.tenant_id, other.id, "not wanted")
    given.bind(store, Binding(other.server_id, "root", "k1", "accepted", False, other.id, at))
    told = samples(asked(settings))
    assert told["kps_undo_open",] == told["kps_tasks", "running"] == 1
    assert told["kps_bindings", "accepted"] == told["kps_keypairs_bound", "over_365d"] == told["kps_keypairs", "not_kept"] == 1
    assert told["kps_keypairs_bound", "under_30d"] == told["kps_bindings", "logged_in"] == 0
    assert told["kps_keypairs_bound_oldest_seconds",] > 366 * 86400


def test_openmetrics_is_given_to_who_asks_for_it(settings: Settings, made: Any) -> None:
    answer = asked(settings, {"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {"kps_tasks", "kps_events", "kps_build"} <= {each.name.removesuffix("_info") for each in openmetrics(answer.text)}


def test_on_the_network_only_the_token_opens_them(secret: Settings, settings: Settings, made: Any) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert samples(asked(secret, bearer, at_home=False))["kps_servers",] == 0
    for headers in ({}, {"authorization": f"Bearer {TOKEN[:-1]}"}, {"authorization": "Bearer "}, {"x-auth-token": TOKEN}):
        assert asked(secret, headers, at_home=False).status_code == 401
    assert asked(settings, bearer, at_home=False).status_code == 401  # none is set
    assert asked(secret, bearer, at_home=False, path="/fleet/v1/servers").status_code == 401
    assert secret.metrics_token_file is not None
    secret.metrics_token_file.chmod(0o604)
    assert asked(secret, bearer, at_home=False).status_code == 401


def test_no_tenants_user_reads_them(settings: Settings, made: dict[str, Any]) -> None:
    answer = asked(settings, at_home=False, auth=Signed(made["access_key"], made["secret_key"]))
    assert (answer.status_code, answer.json()["code"]) == (403, "metrics_not_yours")


def test_the_database_is_not_asked_for_each_scrape(settings: Settings, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def before(served: Application) -> None:
        found = served.services.metrics
        assert found is not None
        whole = found._store.figures
        monkeypatch.setattr(found._store, "figures", lambda: counted.append(1) or whole())

        async def thrice() -> None:
            await asyncio.gather(*(found.exposed() for _ in range(3)))
            await found.exposed()

        found.thrice = thrice  # type: ignore[attr-defined]

    async def story() -> None:
        served = Application(settings, serving=True)
        async with served.lifespan():
            before(served)
            await served.services.metrics.thrice()  # type: ignore[union-attr]

    asyncio.run(story())
    assert counted == [1]


def test_the_document_has_each_metric_and_no_other(store: Store, settings: Settings) -> None:
    found = metrics.Metrics(store, settings.database, lambda: 0)
    found._figures = store.figures()
    there = set(_names(found))
    written = set(re.findall(r"^\| `(.*)` \|", DOC.read_text(), re.MULTILINE))
    documented = {name for cell in written for name in cell.split("`, `") if not name.startswith("GET")}
    documented = {name.partition("` | `")[0] for name in documented}
    assert {name for name in documented if name.startswith(("kps_", "process_"))} == there


def test_every_series_has_words_of_closed_lists(store: Store, settings: Settings) -> None:
    found = metrics.Metrics(store, settings.database, lambda: 0)
    for cause in (*CAUSES, "made up", None):
        found.measured.ended("made up", "failed", cause, 0, 0)
        found.measured.connected(str(cause), 0)
    values = {value for family in found.registry.collect() for each in family.samples for value in each.labels.values()}
    assert "made up" not in values
    assert metrics.OTHER in values


def test_what_of_a_process_may_be_long_is_told_apart_by_its_end() -> None:
    owners = [owner_name(serving) for serving in (True, False)] + ["h" * 70 + "/1234/0123abcd", "h" * 70 + "/1234/0123abce"]
    names = {session_name(owner) for owner in owners}
    assert len(names) == len(owners)
    assert all(name.startswith(TAKING) and len(name) <= 63 for name in names)


def _names(found: metrics.Metrics) -> Iterator[str]:
    for family in found.registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        yield family.name + suffix
