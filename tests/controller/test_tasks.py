"""Tasks: what can be done about them, and how they are followed."""

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.errors import Conflict, NotAllowed, NotFound, Problem
from controller.kms import Kms
from controller.model import Caller, Credential, Outcome, Secret, Server, Task, now
from controller.service.keypairs import Keypairs
from controller.service.tasks import Tasks
from controller.store import Store

run = asyncio.run
FAILED = Outcome("failed", "as_before", "connect", "connection_refused", "no")


class Dispatch:
    """Remembers who rang."""

    owner = "me"
    lease_seconds = 30.0

    def __init__(self) -> None:
        self.rung: list[tuple[list[str], dict[str, Credential]]] = []

    def ring(self, task_ids: Collection[str], credentials: Mapping[str, Credential], *, urgent: bool = False) -> None:
        self.rung.append((list(task_ids), dict(credentials)))

    def called_off(self, task_id: str) -> None:
        """Let it be."""


@pytest.fixture
def dispatch() -> Dispatch:
    return Dispatch()


@pytest.fixture
def tasks(store: Store, dispatch: Dispatch) -> Tasks:
    return Tasks(store, dispatch)


@pytest.fixture
def server(store: Store, who: Caller) -> Server:
    return store.add_servers([Server("s1", who.tenant_id, "web-1", "192.0.2.1")])[0]


def ready(store: Store, who: Caller, id: str) -> Task:
    task = Task(id, who.tenant_id, who.user_id, "s1", "web-1", "root", "bind", {"keypair": "laptop"}, now())
    return store.add_tasks([task])[0]


def ended(store: Store, who: Caller, id: str, outcome: Outcome = FAILED) -> Task:
    ready(store, who, id)
    claimed = store.claim(id, "me", 30)
    assert claimed is not None
    assert store.finish(id, "me", claimed.generation, outcome)
    return store.task(who.tenant_id, id)


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem]) -> str:
    with pytest.raises(kind) as caught:
        run(work)
    return caught.value.code


def test_tasks_are_listed_by_how_they_stand(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    failed, done = ended(store, who, "1"), ended(store, who, "2", Outcome("succeeded", "as_asked"))
    waiting = ready(store, who, "3")
    assert run(tasks.list(who)) == [failed, done, waiting]
    assert run(tasks.list(who, failed=True)) == [failed]
    assert run(tasks.list(who, running=True)) == [waiting]
    assert run(tasks.list(who, ids=["2"])) == [done] == [run(tasks.get(who, "2"))]
    assert refused(tasks.get(who, "none"), NotFound) == "task_not_found"


def test_a_retry_is_a_new_task_with_the_same_request(
    tasks: Tasks, store: Store, who: Caller, server: Server, dispatch: Dispatch
) -> None:
    old = ended(store, who, "1")
    credential = Credential(password=Secret("x"))
    again = run(tasks.retry(who, "1", credential))
    assert (again.status, again.retry_of, again.request, again.seq) == (
        "ready",
        "1",
        {**old.request, "given": ["password"]},
        old.seq + 1,
    )
    assert again.lease_owner == "me"  # who has the credential in its memory
    assert dispatch.rung == [([again.id], {"s1": credential})]
    assert store.task(who.tenant_id, "1") == old
    assert run(tasks.list(who, failed=True)) == []
    with pytest.raises(Conflict, match=again.id):
        run(tasks.retry(who, "1"))
    assert len(dispatch.rung) == 1


def test_a_retry_without_a_credential_rings_without(
    tasks: Tasks, store: Store, who: Caller, server: Server, dispatch: Dispatch
) -> None:
    ended(store, who, "1")
    again = run(tasks.retry(who, "1"))
    assert dispatch.rung == [([again.id], {})]


def test_a_retry_with_somebody_elses_private_key_pair_is_refused(
    tasks: Tasks, store: Store, kms: Kms, who: Caller, other: Caller, server: Server
) -> None:
    keypair, _ = run(Keypairs(store, kms).create(who, "laptop"))
    task = replace(ready(store, who, "1"), id="2", request={"keypair": "laptop", "keypair_id": keypair.id})
    store.add_tasks([task])
    store.cancel(who.tenant_id, "2", "no password")
    assert refused(tasks.retry(other, "2"), NotFound) == "keypair_not_found"
    assert run(tasks.retry(who, "2")).request == task.request


def test_a_cancelled_task_is_retried(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    ready(store, who, "1")
    store.cancel(who.tenant_id, "1", "no password")
    assert run(tasks.retry(who, "1")).retry_of == "1"


def test_a_task_that_nobody_has_begun_is_cancelled(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    ready(store, who, "1")
    assert refused(tasks.retry(who, "1"), Conflict) == "task_not_failed"
    with pytest.raises(Conflict, match="kps task delete 1"):
        store.remove_server(server.id, who.user_id)
    assert run(tasks.delete(who, "1")) == "cancelled"
    assert run(tasks.get(who, "1")).status == "cancelled"
    assert refused(tasks.delete(who, "1"), Conflict) == "task_not_failed"
    store.remove_server(server.id, who.user_id)


@pytest.mark.parametrize("status", ["running", "succeeded", "unchanged"])
def test_only_what_failed_is_retried_or_deleted(
    tasks: Tasks, store: Store, who: Caller, server: Server, dispatch: Dispatch, status: Any
) -> None:
    if status == "running":
        ready(store, who, "1")
        store.claim("1", "me", 30)
    else:
        ended(store, who, "1", Outcome(status, "as_asked"))
    assert refused(tasks.retry(who, "1"), Conflict) == "task_not_failed"
    assert refused(tasks.delete(who, "1"), Conflict) == "task_not_failed"
    assert run(tasks.delete_failed(who)) == 0
    assert dispatch.rung == []


def test_a_retry_on_a_server_that_is_gone_says_so(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    ended(store, who, "1")
    store.remove_server(server.id, who.user_id)
    assert refused(tasks.retry(who, "1"), NotFound) == "server_not_found"


def test_failed_tasks_are_deleted_one_or_all(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    for id in "123":
        ended(store, who, id)
    assert run(tasks.delete(who, "2")) == "deleted"
    assert [task.id for task in run(tasks.list(who))] == ["1", "3"]
    assert refused(tasks.delete(who, "2"), NotFound) == "task_not_found"
    assert run(tasks.delete_failed(who)) == 2
    assert run(tasks.list(who)) == []


def test_an_auditor_only_looks(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    ended(store, who, "1")
    auditor = replace(who, role="auditor")
    assert len(run(tasks.list(auditor))) == 1
    for work in (tasks.retry(auditor, "1"), tasks.delete(auditor, "1"), tasks.delete_failed(auditor)):
        assert refused(work, NotAllowed) == "role_reads_only"


def test_another_tenant_sees_nothing(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    ended(store, who, "1")
    stranger = replace(who, tenant_id="f" * 32)
    assert (run(tasks.list(stranger)), run(tasks.events(stranger))) == ([], [])
    assert run(tasks.delete_failed(stranger)) == 0
    for work in (tasks.get(stranger, "1"), tasks.retry(stranger, "1"), tasks.delete(stranger, "1")):
        assert refused(work, NotFound) == "task_not_found"


def test_events_come_at_once_when_there_are_some(tasks: Tasks, store: Store, who: Caller, server: Server) -> None:
    ended(store, who, "1")
    everything = run(tasks.events(who, wait_seconds=30))
    assert run(tasks.events(who, everything[0].id, wait_seconds=30)) == everything[1:]
    assert {event.task_id for event in run(tasks.events(who, task_ids=["1"]))} == {"1"}
    assert run(tasks.events(who, everything[-1].id)) == []


def test_a_waiting_reader_gets_what_another_process_writes(
    tasks: Tasks, store: Store, who: Caller, server: Server, settings: Any
) -> None:
    elsewhere = Store(settings.database_url)
    last = store.events(who.tenant_id)[-1].id

    async def follow() -> list[str]:
        reader = asyncio.create_task(tasks.events(who, last, wait_seconds=30))
        await asyncio.sleep(0)
        assert not reader.done()
        await asyncio.to_thread(ready, elsewhere, who, "1")
        return [event.kind for event in await reader]

    assert run(follow()) == ["task_ready"]
    elsewhere.close()


def test_a_waiting_reader_goes_home_with_nothing(tasks: Tasks, who: Caller, store: Store) -> None:
    last = store.events(who.tenant_id)[-1].id
    assert run(tasks.events(who, last, wait_seconds=0.01)) == []
