"""The v3 API on the wire, as the reference says: key pairs on servers, tasks, and each error code as the SDK's exception."""

import itertools
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huaweicloudsdkkps.v3 as v3
import pytest
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException, ServerResponseException

from controller.api import kps
from controller.api.kps.refusals import refusal_of
from controller.errors import Damaged, Unavailable
from controller.model import Outcome
from tests.controller.wire import LINE, OTHER_PRIVATE, PRIVATE, SUCCEEDED, Wire, serve

Json = dict[str, Any]
NUMBERS = itertools.count(1001)  # as many digits for each, so that names keep their order
UNREACHED = Outcome("failed", "as_before", "connect", "connection_refused", "nobody listens at 192.0.2.1:22", retryable=True)
WRONG = Outcome("failed", "as_before", "connect", "wrong_password", "the password of root is another one")
UNCHANGED = Outcome("unchanged", "as_before")
PASSWORD = {"type": "password", "key": "of root"}
KEY = {"type": "keypair", "key": OTHER_PRIVATE}
DEFAULT = {"encryption": {"type": "default"}}
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with serve(tmp_path_factory.mktemp("wire") / "home") as served:
        for name in ("one", "two"):
            body = {"keypair": {"name": name, "public_key": LINE}}
            assert served.ask("POST", "/keypairs", body).status_code == 200
        yield served


def server(wire: Wire, outcome: Outcome = SUCCEEDED, **how: Any) -> Any:
    return wire.server(f"s{next(NUMBERS)}", outcome, **how)


def associate(wire: Wire, where: Any, keypair: str = "one", **more: Any) -> Any:
    return wire.ask("POST", "/keypairs/associate", {"keypair_name": keypair, "server": {"id": where.id} | more})


def disassociate(wire: Wire, where: Any, **more: Any) -> Any:
    return wire.ask("POST", "/keypairs/disassociate", {"server": {"id": where.id} | more})


def bound(wire: Wire, **how: Any) -> Any:
    """A server with key pair one."""
    where = server(wire, **how)
    wire.become(associate(wire, where, auth=PASSWORD).json()["task_id"], "SUCCESS_BIND")
    return where


def shut_down(wire: Wire, where: Any) -> Any:
    wire.do(lambda: wire.fleet.servers.change(wire.owner, where.name, reset_root="/mnt/disk"))
    return where


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error_code"]


def asked(wire: Wire, task_id: str) -> Any:
    """The task that was run, and what it was given to get in."""
    return next((task, given) for task, given in wire.given if task.id == task_id)


# -- which operation it comes down to


@pytest.mark.parametrize(
    ("is_bound", "is_down", "auth", "word"),
    [
        (False, False, PASSWORD, "SUCCESS_BIND"),
        (False, False, KEY, "SUCCESS_REPLACE"),
        (True, False, KEY, "SUCCESS_REPLACE"),
        (True, False, PASSWORD, "SUCCESS_REPLACE"),
        (True, False, None, "SUCCESS_REPLACE"),
        (True, False, {}, "SUCCESS_REPLACE"),
        (False, True, None, "SUCCESS_RESET"),
        (True, True, None, "SUCCESS_RESET"),
        (True, True, {}, "SUCCESS_RESET"),
        (False, False, None, None),
        (False, False, {}, None),
        (False, True, PASSWORD, None),
        (True, True, KEY, None),
        (False, False, {"type": "password"}, None),
        (True, False, {"key": PRIVATE}, None),
        (True, False, {"type": "keypair", "key": ""}, None),
        (True, False, {"type": "token", "key": "x"}, None),
    ],
)
def test_what_associating_comes_down_to(wire: Wire, is_bound: bool, is_down: bool, auth: Json | None, word: str | None) -> None:
    where = bound(wire) if is_bound else server(wire)
    if is_down:
        shut_down(wire, where)
    answer = associate(wire, where, "two", **({} if auth is None else {"auth": auth}))
    if word is None:
        assert code(answer) == (400, "KPS.0002")
        return
    assert answer.status_code == 202
    told = answer.json()
    assert told == {"task_id": told["task_id"], "server_id": where.id, "status": "SUCCESS"}
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", told["task_id"])
    assert wire.become(told["task_id"], word) == {"task_id": told["task_id"], "server_id": where.id, "task_status": word}


@pytest.mark.parametrize("given", [{"disable_password": True}, {"disable_password": "true"}, {"disable_password": False}, {}])
def test_passwords_go_off_only_where_that_is_asked_for(wire: Wire, given: Json) -> None:
    goes_off = given.get("disable_password") in (True, "true")
    task, credential = asked(wire, _done(wire, associate(wire, server(wire), auth=PASSWORD, **given), "SUCCESS_BIND"))
    assert (bool(task.request.get("keep_password_login")), credential.password.open()) == (not goes_off, b"of root")
    task, _ = asked(wire, _done(wire, associate(wire, bound(wire), "two", **given), "SUCCESS_REPLACE"))
    assert bool(task.request.get("close_password_login")) == goes_off


def _done(wire: Wire, answer: Any, word: str) -> str:
    assert answer.status_code == 202, answer.text
    return str(wire.become(answer.json()["task_id"], word)["task_id"])


def test_a_private_key_may_have_lost_its_lines(wire: Wire) -> None:
    for text in (OTHER_PRIVATE, OTHER_PRIVATE.replace("\n", " "), OTHER_PRIVATE.replace("\n", "\\n")):
        answer = associate(wire, bound(wire), "two", auth={"type": "keypair", "key": text})
        _, given = asked(wire, _done(wire, answer, "SUCCESS_REPLACE"))
        lines = given.identity.open().decode().split("\n")
        assert lines[0] == "-----BEGIN OPENSSH PRIVATE KEY-----"
        assert "".join(lines) == OTHER_PRIVATE.replace("\n", "")


@pytest.mark.parametrize(
    ("port", "is_right"),
    [(2222, True), ("2222", True), (22, True), (None, True), (23, False), (True, False), ("x", False), (2222.5, False)],
)
def test_the_port_is_that_of_the_record(wire: Wire, port: Any, is_right: bool) -> None:
    answer = associate(wire, server(wire, port=2222), auth=PASSWORD, port=port)
    assert (answer.status_code == 202) is is_right
    assert is_right or code(answer) == (400, "KPS.0002")


def test_what_cannot_be_associated(wire: Wire) -> None:
    where = server(wire)
    assert code(associate(wire, where, "none-such", auth=PASSWORD)) == (404, "KPS.4016")
    for body in ({}, {"keypair_name": "one"}, {"server": {"id": where.id}}, {"keypair_name": "one", "server": {}},
                 {"keypair_name": "one", "server": {"id": where.name, "auth": PASSWORD}},
                 {"keypair_name": "one", "server": {"id": NOBODY, "auth": PASSWORD}},
                 {"keypair_name": "one", "server": {"id": "", "auth": PASSWORD}}):  # fmt: skip
        assert code(wire.ask("POST", "/keypairs/associate", body)) == (400, "KPS.0002")


def test_taking_off(wire: Wire) -> None:
    for more in ({}, {"auth": KEY, "port": 22}, {"auth": {}}):
        answer = disassociate(wire, bound(wire), **more)
        assert answer.json()["status"] == "SUCCESS"
        _done(wire, answer, "SUCCESS_UNBIND")
    bare = server(wire)
    for more in ({}, {"auth": PASSWORD}, {"auth": {}}):
        assert code(disassociate(wire, bare, **more)) == (400, "KPS.0002")
    _done(wire, disassociate(wire, bare, auth=KEY), "SUCCESS_UNBIND")  # one that is not on record
    assert code(disassociate(wire, shut_down(wire, bound(wire)))) == (400, "KPS.0002")
    assert code(wire.ask("POST", "/keypairs/disassociate", {"server": {}})) == (400, "KPS.0002")


def test_a_key_pair_that_is_bound_is_not_deleted_nor_its_only_way_in_cleared(wire: Wire) -> None:
    body = {"keypair": {"name": "needed", "public_key": LINE, "key_protection": {"private_key": PRIVATE} | DEFAULT}}
    assert wire.ask("POST", "/keypairs", body).status_code == 200
    where = server(wire)
    _done(wire, associate(wire, where, "needed", auth=PASSWORD, disable_password=True), "SUCCESS_BIND")
    for path in ("/keypairs/needed", "/keypairs/needed/private-key"):
        answer = wire.ask("DELETE", path)
        assert code(answer) == (409, "KPS.0002")
        assert where.name in answer.json()["error_msg"]
    _done(wire, disassociate(wire, where), "SUCCESS_UNBIND")
    assert wire.ask("DELETE", "/keypairs/needed/private-key").status_code == 200
    assert wire.ask("DELETE", "/keypairs/needed").status_code == 204


# -- several at once


def element(where: Any, keypair: Any = "one", **more: Any) -> Json:
    return {"keypair_name": keypair, "server": {"id": getattr(where, "id", where), "auth": PASSWORD} | more}


def batch(wire: Wire, *elements: Any) -> Any:
    return wire.ask("POST", "/keypairs/batch-associate", {"batch_keypairs": list(elements)})


def test_of_a_batch_each_element_is_told_in_its_place(wire: Wire) -> None:
    first, second, taken, down = server(wire), server(wire, UNREACHED), bound(wire), shut_down(wire, server(wire))
    answer = batch(
        wire,
        element(first),
        element(taken),
        element(down, auth=None),
        element("nowhere"),
        element(second),
        element(first),
        element(second, port=4711),
        {"keypair_name": "one", "server": {"auth": PASSWORD}},
        {"keypair_name": "one"},
        element(server(wire), auth={"type": "password"}),
    )
    assert answer.status_code == 202
    tasks = answer.json()["tasks"]
    assert [each["status"] for each in tasks] == ["SUCCESS", *["FAILED"] * 3, "SUCCESS", *["FAILED"] * 5]
    for each in tasks:
        if each["status"] == "SUCCESS":
            assert set(each) == {"task_id", "server_id", "status"}
        else:
            assert set(each) == {"server_id", "status", "error_code", "error_msg"}
            assert each["error_code"] == "KPS.0002"
    ids = [each["server_id"] for each in tasks]
    assert ids[:9] == [first.id, taken.id, down.id, "nowhere", second.id, first.id, second.id, "", ""]
    assert "already has a key pair" in tasks[1]["error_msg"]
    assert "twice" in tasks[5]["error_msg"]
    wire.become(tasks[0]["task_id"], "SUCCESS_BIND")
    wire.become(tasks[4]["task_id"], "FAILED_BIND")


def test_a_batch_is_of_one_to_ten_and_of_one_key_pair(wire: Wire) -> None:
    where = server(wire)
    for elements in ([], [element(where)] * 11, [element(where), element(where, "two")], [element(where), {}]):
        assert code(batch(wire, *elements)) == (400, "KPS.0002")
    for body in ({}, [], {"batch_keypairs": {}}, {"batch_keypairs": None}):
        assert code(wire.ask("POST", "/keypairs/batch-associate", body)) == (400, "KPS.0002")
    tasks = batch(wire, element(where, "none-such")).json()["tasks"]
    assert (tasks[0]["status"], tasks[0]["error_code"]) == ("FAILED", "KPS.4016")
    tasks = batch(wire, *[element(server(wire)) for _ in range(10)]).json()["tasks"]
    assert {each["status"] for each in tasks} == {"SUCCESS"}


# -- tasks


def listed(wire: Wire, path: str, where: Any) -> list[Json]:
    return [each for each in wire.ask("GET", path).json()["tasks"] if each["server_id"] == where.id]


def test_a_task_has_a_word_at_each_stage_and_answers_after_its_end(wire: Wire) -> None:
    where = server(wire, held=True)
    first, second = (associate(wire, where, name, auth=PASSWORD).json()["task_id"] for name in ("one", "two"))
    for task_id, word in ((first, "RUNNING_BIND"), (second, "READY_BIND")):
        wire.become(task_id, word)
    running = listed(wire, "/running-tasks", where)
    assert [(each["task_id"], each["operate_type"]) for each in running] == [(first, "RUNNING_BIND"), (second, "READY_BIND")]
    assert list(running[0]) == ["task_id", "operate_type", "task_time", "server_name", "server_id", "keypair_name"]
    assert (running[0]["server_name"], running[1]["keypair_name"]) == (where.name, "two")
    assert re.fullmatch("[0-9]{13}", running[0]["task_time"])
    assert abs(int(running[0]["task_time"]) / 1000 - time.time()) < 600
    assert code(wire.ask("DELETE", f"/failed-tasks/{first}")) == (400, "KPS.0005")  # it runs
    wire.let_go(where.name)
    for task_id in (first, second):
        wire.become(task_id, "SUCCESS_BIND")
    assert listed(wire, "/running-tasks", where) == listed(wire, "/failed-tasks", where) == []
    assert wire.ask("GET", f"/tasks/{first}").json() == {"task_id": first, "server_id": where.id, "task_status": "SUCCESS_BIND"}


def test_what_was_so_already_is_a_success(wire: Wire) -> None:
    _done(wire, associate(wire, server(wire, UNCHANGED), auth=PASSWORD), "SUCCESS_BIND")


def test_an_unbind_names_the_key_pair_that_it_is_about(wire: Wire) -> None:
    where = bound(wire)
    wire.outcomes[where.name] = UNREACHED
    task_id = _done(wire, disassociate(wire, where), "FAILED_UNBIND")
    (found,) = listed(wire, "/failed-tasks", where)
    assert (found["task_id"], found["operate_type"], found["keypair_name"]) == (task_id, "FAILED_UNBIND", "one")
    assert found["task_error_code"] == "KPS.0003"


def test_failed_tasks_are_paged_and_taken_off(wire: Wire) -> None:
    where = server(wire, WRONG)
    ids = [_done(wire, associate(wire, where, auth=PASSWORD), "FAILED_BIND") for _ in range(3)]
    everything = wire.ask("GET", "/failed-tasks").json()
    assert everything["total"] == len(everything["tasks"])
    seen: list[Json] = []
    while (page := wire.ask("GET", f"/failed-tasks?limit=2&offset={len(seen)}").json())["tasks"]:
        assert page["total"] == everything["total"]
        seen += page["tasks"]
    assert seen == everything["tasks"]
    found = [each for each in seen if each["server_id"] == where.id]
    assert [each["task_id"] for each in found] == ids
    assert list(found[0])[-2:] == ["task_error_code", "task_error_msg"]
    assert (found[0]["task_error_code"], found[0]["task_error_msg"]) == ("KPS.0004", f"{WRONG.message} (wrong_password)")
    answer = wire.ask("DELETE", f"/failed-tasks/{ids[0]}")
    assert (answer.status_code, answer.json()) == (200, {})
    for gone in (ids[0], NOBODY, "x", "%20"):
        assert code(wire.ask("DELETE", f"/failed-tasks/{gone}")) == (400, "KPS.0005")
    assert code(wire.ask("GET", f"/tasks/{ids[0]}")) == (404, "KPS.0001")
    # What is not shown here is not this call's to take away.
    (check,) = wire.do(lambda: wire.fleet.bindings.start(wire.owner, "check", [where], {}, {}))
    until = time.monotonic() + 60
    while wire.do(lambda: wire.fleet.tasks.get(wire.owner, check.id)).status != "failed":
        assert time.monotonic() < until
    for _ in range(2):
        answer = wire.ask("DELETE", "/failed-tasks")
        assert (answer.status_code, answer.json()) == (200, {})
        assert wire.ask("GET", "/failed-tasks").json() == {"total": 0, "tasks": []}
    assert wire.do(lambda: wire.fleet.tasks.get(wire.owner, check.id)).status == "failed"
    assert code(wire.ask("GET", f"/tasks/{check.id}")) == (404, "KPS.0001")
    assert code(wire.ask("DELETE", f"/failed-tasks/{check.id}")) == (400, "KPS.0005")


@pytest.mark.parametrize("path", ["running-tasks", "failed-tasks"])
@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "offset=-1", "offset=x", "offset=99999999999"])
def test_a_page_of_tasks_that_cannot_be_is_refused(wire: Wire, path: str, query: str) -> None:
    assert code(wire.ask("GET", f"/{path}?{query}")) == (400, "KPS.0002")
    assert wire.ask("GET", f"/{path}?offset=100000").json()["tasks"] == []


# -- every error code, as a user of the SDK sees it


def _create(**fields: Any) -> Any:
    return v3.CreateKeypairRequest(v3.CreateKeypairRequestBody(v3.CreateKeypairAction(**fields)))


def _kms(name: str) -> Any:
    return v3.KeyProtection(encryption=v3.Encryption(type="kms", kms_key_name=name))


def _import(name: str, key: str) -> Any:
    half = v3.ImportPrivateKeyProtection(private_key=key, encryption=v3.Encryption(type="default"))
    return v3.ImportPrivateKeyRequest(v3.ImportPrivateKeyRequestBody(v3.ImportPrivateKeyKeypairBean("one", None, half)))


def _export(name: str) -> Any:
    return v3.ExportPrivateKeyRequest(v3.ExportPrivateKeyRequestBody(v3.KeypairBean(name=name)))


CAUSED: dict[str, tuple[Any, int, str, str]] = {
    "KPS.0001 ill-formed": (lambda kps: kps.list_keypair_task(v3.ListKeypairTaskRequest("x")), 400, "KPS.0001", "UUID"),
    "KPS.0001 unknown": (lambda kps: kps.list_keypair_task(v3.ListKeypairTaskRequest(NOBODY)), 404, "KPS.0001", "no such task"),
    "KPS.0002": (lambda kps: kps.create_keypair(_create(name="a b")), 400, "KPS.0002", "letters, digits, _ and -"),
    "KPS.0002 twice": (lambda kps: kps.create_keypair(_create(name="one")), 409, "KPS.0002", "one: there is a key pair"),
    "KPS.0002 page": (lambda kps: kps.list_keypairs(v3.ListKeypairsRequest(limit="many")), 400, "KPS.0002", "limit: must be"),
    "KPS.0005": (lambda kps: kps.delete_failed_task(v3.DeleteFailedTaskRequest(NOBODY)), 400, "KPS.0005", "no such failed task"),
    "KPS.0006": (lambda kps: kps.create_keypair(_create(name="x", user_id="0" * 32)), 400, "KPS.0006", "leave it out"),
    "KPS.4016": (lambda kps: kps.list_keypair_detail(v3.ListKeypairDetailRequest("gone")), 404, "KPS.4016", "gone: no key pair"),
    "KPS.4016 delete": (lambda kps: kps.delete_keypair(v3.DeleteKeypairRequest("gone")), 404, "KPS.4016", "gone: no key pair"),
    "KPS.4016 clear": (lambda kps: kps.clear_private_key(v3.ClearPrivateKeyRequest("one")), 404, "KPS.4016", "custody"),
    "KPS.6005": (lambda kps: kps.export_private_key(_export("one")), 400, "KPS.6005", "one: the private half is not in custody"),
    "KPS.6008": (lambda kps: kps.create_keypair(_create(name="x", key_protection=_kms("no"))), 400, "KPS.6008", "no master key"),
    "KPS.6011": (lambda kps: kps.import_private_key(_import("one", OTHER_PRIVATE)), 400, "KPS.6011", "two halves of one pair"),
    "APIGW.0101": (lambda kps: kps.list_keypair_detail(v3.ListKeypairDetailRequest("")), 404, "APIGW.0101", "no such method"),
}  # fmt: skip


@pytest.mark.parametrize("which", CAUSED)
def test_a_refusal_is_an_exception_with_code_words_and_request_id(wire: Wire, which: str) -> None:
    work, status, error_code, words = CAUSED[which]
    with pytest.raises(ClientRequestException) as caught:
        work(wire.sdk())
    assert (caught.value.status_code, caught.value.error_code) == (status, error_code)
    assert words in caught.value.error_msg
    assert re.fullmatch("[0-9a-f]{32}", caught.value.request_id)


def test_what_a_role_forbids(wire: Wire) -> None:
    user = wire.do(lambda: wire.fleet.users.create(wire.owner, "looker", "auditor"))
    key, secret = wire.do(lambda: wire.fleet.access_keys.create(wire.owner, user.name))
    kps = wire.sdk(access_key=key.access_key, secret_key=secret.open().decode(), project_id=key.project_id)
    with pytest.raises(ClientRequestException) as caught:
        kps.create_keypair(_create(name="x"))
    assert (caught.value.status_code, caught.value.error_code) == (403, "KPS.9003")


@pytest.mark.parametrize("other", [{"secret_key": "x"}, {"access_key": "x"}])
def test_who_is_not_known(wire: Wire, other: dict[str, str]) -> None:
    with pytest.raises(ClientRequestException) as caught:
        wire.sdk(**other).list_keypairs(v3.ListKeypairsRequest())
    assert (caught.value.status_code, caught.value.error_code) == (401, "APIGW.0301")
    assert len(caught.value.request_id) == 32


def test_a_damaged_secret_is_the_servers_fault(wire: Wire) -> None:
    kps = wire.sdk()
    kps.create_keypair(_create(name="damaged", key_protection=v3.KeyProtection(encryption=v3.Encryption(type="default"))))
    with sqlite3.connect(wire.home / "kps.db") as connection:
        ((sealed,),) = connection.execute("SELECT sealed FROM keypairs WHERE name = 'damaged'")
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        connection.execute("UPDATE keypairs SET sealed = ? WHERE name = 'damaged'", [changed])
    connection.close()
    with pytest.raises(ServerResponseException) as caught:
        kps.export_private_key(_export("damaged"))
    assert (caught.value.status_code, caught.value.error_code) == (500, "KPS.5001")
    assert len(caught.value.request_id) == 32


def test_what_is_not_ready_on_the_controllers_machine_is_the_servers_fault() -> None:
    """What is told of each: test_v3_faults makes them happen."""
    for problem, found in ((Unavailable("x", "y"), (500, "KPS.0003")), (Damaged("x", "y"), (500, "KPS.5001"))):
        refusal = refusal_of(problem)
        assert (refusal.status, refusal.code, refusal.message) == (*found, "y")


def test_every_code_is_told_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs/v3.md").read_text()
    sources = Path(kps.__file__).parent.glob("*.py")
    codes = {code for source in sources for code in re.findall(r"(?:KPS|APIGW)\.[0-9]{4}", source.read_text())}
    assert len(codes) >= 12
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []
