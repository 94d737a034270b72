"""The public service's own SDK, unchanged, against kps serve with real servers behind it."""

import io
import json
import subprocess
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import huaweicloudsdkkps.v3 as v3
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException

from controller import keyfiles, signing
from controller.model import Secret
from tests.fleet import judge
from tests.fleet.product import KPS

HOST_KEY = keyfiles.generate("ed25519")[0].line()
INSIDE = "inside.example"
DONE = 60  # seconds that a task may take here


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A home that is served over HTTP on loopback, with clients of its owner."""
    home = tmp_path_factory.mktemp("sdk") / "home"
    made = json.loads(subprocess.run([KPS, "init", "--home", home, "--json"], check=True, capture_output=True).stdout)
    # A name that leads to this machine, and is known to this controller alone.
    hosts = home.with_name("hosts")
    hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {INSIDE}\n")
    apart = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts]
    process = subprocess.Popen(
        [*apart, KPS, "serve", "--home", home, "--http", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = ""
    while not told.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        told += line
    url = json.loads(told)["url"]

    def client(access_key=made["access_key"], secret_key=made["secret_key"], project=made["project_id"]):
        credentials = BasicCredentials(access_key, secret_key, project)
        return v3.KpsClient.new_builder().with_credentials(credentials).with_endpoint(url).build()

    def add(server):
        words = [server.host, "--port", str(server.port), "--host-key", server.host_key]
        asked = [KPS, "server", "add", server.name, *words, "--home", home, "--json"]
        return json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)["id"]

    def ask(method, path, body=None):
        """Ask the fleet API over the network, signed by the owner's access key."""
        sent = b"" if body is None else json.dumps(body).encode()
        headers = [(b"Host", url.partition("//")[2].encode()), (b"Content-Type", b"application/json")]
        bare = signing.Request(method, f"/fleet/v1{path}".encode(), b"", headers, sent)
        signed = signing.sign(bare, made["access_key"], Secret(made["secret_key"]), datetime.now(UTC))
        answer = httpx.request(method, f"{url}/fleet/v1{path}", content=sent, headers=[*headers, *signed], trust_env=False)
        return answer.status_code, answer.json() if answer.content else None

    yield SimpleNamespace(made=made, client=client, kps=client(), add=add, ask=ask, url=url)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def create(kps, name, **more):
    action = v3.CreateKeypairAction(name=name, **more)
    return kps.create_keypair(v3.CreateKeypairRequest(body=v3.CreateKeypairRequestBody(keypair=action))).keypair


def detail(kps, name):
    return kps.list_keypair_detail(v3.ListKeypairDetailRequest(keypair_name=name)).keypair


def protection(private_key=None):
    return v3.KeyProtection(private_key=private_key, encryption=v3.Encryption(type="kms", kms_key_name="kps/default"))


def ended(kps, task_id):
    """Poll a task to its end, and return its word."""
    until = time.monotonic() + DONE
    while time.monotonic() < until:
        word = kps.list_keypair_task(v3.ListKeypairTaskRequest(task_id=task_id)).task_status
        if not word.startswith(("READY", "RUNNING")):
            return word
        time.sleep(0.2)
    raise AssertionError(f"{task_id} did not end")


def associate(kps, name, server_id, auth=None, **more):
    about = v3.EcsServerInfo(id=server_id, auth=auth, **more)
    asked = v3.AssociateKeypairRequestBody(keypair_name=name, server=about)
    return kps.associate_keypair(v3.AssociateKeypairRequest(body=asked))


def refused(work):
    with pytest.raises(ClientRequestException) as caught:
        work()
    error = caught.value
    assert len(error.request_id) == 32
    return error.status_code, error.error_code, error.error_msg


def password(server):
    return v3.Auth(type="password", key=server.root_password)


def listed(kps, limit):
    """All names, page by page."""
    names, marker = [], None
    while True:
        page = kps.list_keypairs(v3.ListKeypairsRequest(limit=limit, marker=marker))
        found = [each.keypair.name for each in page.keypairs]
        assert page.page_info.current_count == len(found) <= int(limit)
        names += found
        marker = page.page_info.next_marker
        if not marker:
            return names


def test_key_pairs_are_made_shown_listed_described_and_deleted(served):
    kps = served.kps
    made = create(kps, "first")
    assert (made.name, made.type, made.user_id) == ("first", "ssh", served.made["user_id"])
    assert made.private_key.startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    public, _ = keyfiles.read_private(Secret(made.private_key))
    assert (public.type, public.fingerprint_md5) == ("rsa-2048", made.fingerprint)
    shown = detail(kps, "first")
    assert (shown.scope, shown.is_key_protection, shown.deleted, shown.frozen_state) == ("user", False, False, 0)
    assert (shown.algorithm, shown.description, shown.key_id) == ("SSH_RSA_2048", "", None)
    assert abs(shown.create_time / 1000 - time.time()) < 600
    asked = v3.UpdateKeypairDescriptionRequestBody(keypair=v3.UpdateKeypairDescriptionReq(description="the büro's"))
    assert kps.update_keypair_description(v3.UpdateKeypairDescriptionRequest("first", asked)).status_code == 200
    again = detail(kps, "first")
    assert (again.description, again.id) == ("the büro's", shown.id)
    assert again.update_time >= again.create_time
    assert kps.delete_keypair(v3.DeleteKeypairRequest(keypair_name="first")).status_code == 204
    assert refused(lambda: detail(kps, "first"))[:2] == (404, "KPS.4016")


def test_lists_are_paged_to_their_end_and_no_further(served):
    kps = served.kps
    public = [keyfiles.generate("ed25519")[0].line() for _ in range(7)]
    names = [f"page-{number}" for number in range(7)]
    for name, line in zip(names, public, strict=True):
        create(kps, name, public_key=line, scope="domain")
    for limit in ("1", "3", "7", "50"):
        assert [name for name in listed(kps, limit) if name in names] == names
    last = kps.list_keypairs(v3.ListKeypairsRequest(marker="zzz"))
    assert (last.keypairs, last.page_info.next_marker) == ([], None)
    elements = {each.keypair.name: each.keypair for each in kps.list_keypairs(v3.ListKeypairsRequest()).keypairs}
    found = elements["page-3"]
    assert (found.scope, found.frozen_state, found.is_key_protection) == ("domain", "0", False)
    assert found.public_key.split()[:2] == public[3].split()[:2]


def test_several_are_imported_at_once_and_each_that_is_refused_is_told(served):
    kps = served.kps
    line = keyfiles.generate("ecdsa-nistp256")[0].line()
    wanted = [
        v3.CreateKeypairRequestBody(v3.CreateKeypairAction(name="batch-1", public_key=line)),
        v3.CreateKeypairRequestBody(v3.CreateKeypairAction(name="b 2", public_key="not a key")),
        v3.CreateKeypairRequestBody(v3.CreateKeypairAction(name="batch-3", key_protection=protection())),
    ]
    answer = kps.batch_import_keypair(v3.BatchImportKeypairRequest(body=wanted))
    assert [each.keypair.name for each in answer.succeeded_keypairs] == ["batch-1", "batch-3"]
    assert [(each.keypair_name, bool(each.failed_reason)) for each in answer.failed_keypairs] == [("b 2", True)]
    assert detail(kps, "batch-3").is_key_protection
    eleven = [wanted[0]] * 11
    assert refused(lambda: kps.batch_import_keypair(v3.BatchImportKeypairRequest(body=eleven)))[:2] == (400, "KPS.0002")


def test_private_halves_go_into_custody_come_out_and_are_cleared(served):
    kps = served.kps
    kept = create(kps, "kept", key_protection=protection())
    shown = detail(kps, "kept")
    assert (shown.is_key_protection, len(shown.key_id)) == (True, 36)

    def export(name):
        asked = v3.ExportPrivateKeyRequestBody(keypair=v3.KeypairBean(name=name))
        return kps.export_private_key(v3.ExportPrivateKeyRequest(body=asked)).keypair.private_key

    assert export("kept") == kept.private_key
    public, private = keyfiles.generate("ed25519")
    text = keyfiles.openssh_private("ed25519", private).open().decode()
    create(kps, "later", public_key=public.line())
    assert refused(lambda: export("later"))[:2] == (400, "KPS.6005")

    def take_in(name, text):
        half = v3.ImportPrivateKeyProtection(private_key=text, encryption=v3.Encryption(type="default"))
        asked = v3.ImportPrivateKeyRequestBody(v3.ImportPrivateKeyKeypairBean(name=name, key_protection=half))
        return kps.import_private_key(v3.ImportPrivateKeyRequest(body=asked))

    assert refused(lambda: take_in("later", kept.private_key))[:2] == (400, "KPS.6011")
    assert take_in("later", text).keypair.name == "later"
    assert take_in("later", text).status_code == 200  # again
    assert keyfiles.read_private(Secret(export("later")))[1] == private

    asked = [v3.Keypairs(keypair=v3.Keypair(name=name)) for name in ("kept", "later")]
    answer = kps.batch_export_private_key(v3.BatchExportPrivateKeyRequest(body=asked))
    with zipfile.ZipFile(io.BytesIO(answer.raw_content)) as packed:
        assert packed.namelist() == ["kept.pem", "later.pem"]
        assert packed.read("kept.pem").decode() == kept.private_key
        assert keyfiles.read_private(Secret(packed.read("later.pem")))[1] == private

    assert kps.clear_private_key(v3.ClearPrivateKeyRequest(keypair_name="later")).status_code == 200
    assert refused(lambda: kps.clear_private_key(v3.ClearPrivateKeyRequest(keypair_name="later")))[:2] == (404, "KPS.4016")
    assert not detail(kps, "later").is_key_protection


def test_a_key_pair_is_bound_replaced_and_taken_off(served, make_server):
    kps, server = served.kps, make_server()
    server_id = served.add(server)
    one, two = create(kps, "one", key_protection=protection()), create(kps, "two")
    answer = associate(kps, "one", server_id, password(server), disable_password=True, port=22)
    assert (answer.status_code, answer.status, answer.server_id) == (202, "SUCCESS", server_id)
    assert ended(kps, answer.task_id) == "SUCCESS_BIND"
    assert judge.key_login_works(server, "root", one.private_key)
    assert not judge.password_login_works(server, "root", server.root_password)

    auth = v3.Auth(type="keypair", key=one.private_key.replace("\n", " "))  # as some samples have it
    assert ended(kps, associate(kps, "two", server_id, auth).task_id) == "SUCCESS_REPLACE"
    assert judge.key_login_works(server, "root", two.private_key)
    assert not judge.key_login_works(server, "root", one.private_key)

    about = v3.DisassociateEcsServerInfo(id=server_id, auth=v3.Auth(type="keypair", key=two.private_key))
    asked = v3.DisassociateKeypairRequestBody(server=about)
    answer = kps.disassociate_keypair(v3.DisassociateKeypairRequest(body=asked))
    assert ended(kps, answer.task_id) == "SUCCESS_UNBIND"
    assert not judge.key_login_works(server, "root", two.private_key)
    assert judge.password_login_works(server, "root", server.root_password)


def test_several_servers_at_once_one_of_them_unknown(served, make_server):
    kps = served.kps
    servers = [make_server(), make_server()]
    ids = [served.add(each) for each in servers]
    made = create(kps, "batch")

    def elements(ids, auths):
        return [
            v3.AssociateKeypairRequestBody(
                keypair_name="batch", server=v3.EcsServerInfo(id=each, auth=auth, disable_password=False)
            )
            for each, auth in zip(ids, auths, strict=True)
        ]

    wanted = elements([*ids, "nowhere"], [*map(password, servers), password(servers[0])])
    asked = v3.BatchAssociateKeypairRequestBody(batch_keypairs=wanted)
    tasks = kps.batch_associate_keypair(v3.BatchAssociateKeypairRequest(body=asked)).tasks
    assert [each.status for each in tasks] == ["SUCCESS", "SUCCESS", "FAILED"]
    assert (tasks[2].server_id, tasks[2].error_code) == ("nowhere", "KPS.0002")
    for server, task in zip(servers, tasks, strict=False):
        assert ended(kps, task.task_id) == "SUCCESS_BIND"
        assert judge.key_login_works(server, "root", made.private_key)
        assert judge.password_login_works(server, "root", server.root_password)
    eleven = v3.BatchAssociateKeypairRequestBody(batch_keypairs=[wanted[2]] * 11)
    assert refused(lambda: kps.batch_associate_keypair(v3.BatchAssociateKeypairRequest(body=eleven)))[:2] == (400, "KPS.0002")


def test_failed_tasks_are_listed_and_taken_off(served, make_server):
    kps, server = served.kps, make_server()
    server_id = served.add(server)
    create(kps, "never")
    wrong = v3.Auth(type="password", key="not this one")
    ids = []
    for _ in range(3):
        ids.append(associate(kps, "never", server_id, wrong).task_id)
        assert ended(kps, ids[-1]) == "FAILED_BIND"
    found, offset = [], 0
    while True:
        page = kps.list_failed_task(v3.ListFailedTaskRequest(limit=2, offset=offset))
        if not page.tasks:
            break
        assert page.total >= 3
        found += page.tasks
        offset += len(page.tasks)
    ours = [each for each in found if each.server_id == server_id]
    assert [each.task_id for each in ours] == ids
    first = ours[0]
    assert (first.operate_type, first.server_name, first.keypair_name) == ("FAILED_BIND", server.name, "never")
    assert "wrong_password" in first.task_error_msg
    assert abs(int(first.task_time) / 1000 - time.time()) < 600
    running = kps.list_running_task(v3.ListRunningTaskRequest(limit=10, offset=0))
    assert not [each for each in running.tasks if each.server_id == server_id]
    assert kps.delete_failed_task(v3.DeleteFailedTaskRequest(task_id=ids[0])).status_code == 200
    assert refused(lambda: kps.delete_failed_task(v3.DeleteFailedTaskRequest(task_id=ids[0])))[:2] == (400, "KPS.0005")
    assert kps.delete_all_failed_task(v3.DeleteAllFailedTaskRequest()).status_code == 200
    assert kps.list_failed_task(v3.ListFailedTaskRequest()).total == 0


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"secret_key": "another"}, (401, "APIGW.0301")),
        ({"access_key": "A" * 20}, (401, "APIGW.0301")),
        ({"project": "0" * 32}, (404, "APIGW.0101")),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_whoever_is_not_known_is_refused(served, given, answer):
    assert refused(lambda: served.client(**given).list_keypairs(v3.ListKeypairsRequest()))[:2] == answer


def test_what_is_wrong_is_told_with_our_words(served):
    kps = served.kps
    public, _ = keyfiles.generate("ed25519")
    for fields in (
        {},
        {"name": "x", "type": "dsa"},
        {"name": "x", "scope": "world"},
        {"name": "../x"},
        {"name": "x", "public_key": "y"},
    ):
        action = v3.CreateKeypairRequestBody(keypair=v3.CreateKeypairAction(**fields))
        status, code, message = refused(lambda action=action: kps.create_keypair(v3.CreateKeypairRequest(body=action)))
        assert (status, code, bool(message)) == (400, "KPS.0002", True)
    half = {"public_key": public.line(), "key_protection": protection()}
    assert refused(lambda: create(kps, "half", **half))[:2] == (400, "KPS.0002")
    create(kps, "twice")
    assert refused(lambda: create(kps, "twice"))[:2] == (409, "KPS.0002")
    assert refused(lambda: kps.list_keypair_task(v3.ListKeypairTaskRequest(task_id="x")))[:2] == (400, "KPS.0001")
    for name in ("", "a/b", "%00"):
        assert refused(lambda name=name: detail(kps, name))[0] == 404


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "::ffff:127.0.0.1", "fe80::1", "127.8.9.10", "::", "224.0.0.1"]
)
def test_a_user_names_no_address_of_the_controllers_own_machine(served, host):
    status, problem = served.ask("POST", "/servers", {"name": "inside", "host": host})
    assert (status, problem["code"]) == (400, "address_not_allowed")


@pytest.mark.cause("address_not_allowed")
def test_a_name_that_leads_to_the_controllers_own_machine(served, told):
    status, server = served.ask("POST", "/servers", {"name": "inside", "host": INSIDE, "host_key": HOST_KEY})
    assert status == 201, server
    create(served.kps, "hidden")
    auth = v3.Auth(type="password", key="never to be sent")
    task_id = associate(served.kps, "hidden", server["id"], auth).task_id
    assert ended(served.kps, task_id) == "FAILED_BIND"
    told(served.ask("GET", f"/tasks/{task_id}")[1])


def test_what_is_on_the_controllers_machine_is_not_a_users_to_name(served, make_server):
    server = make_server()
    served.add(server)
    create(served.kps, "offline")
    orders = [
        ("POST", "/operations", {"operation": "reset", "servers": [server.name], "keypair": "offline", "root": "/"}),
        ("PATCH", f"/servers/{server.name}", {"reset_root": "/"}),
        (
            "POST",
            "/operations",
            {"operation": "bind", "servers": [server.name], "keypair": "offline", "agent_socket": "/run/x", "agent_key": "x"},
        ),
    ]
    for method, path, body in orders:
        status, problem = served.ask(method, path, body)
        assert (status, problem["code"]) == (403, "only_at_home"), problem


def test_nothing_is_answered_to_who_does_not_sign(served):
    answer = httpx.get(f"{served.url}/fleet/v1/servers", trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_signed")
    assert len(answer.headers["x-request-id"]) == 32
    answer = httpx.get(f"{served.url}/v3/{served.made['project_id']}/keypairs", trust_env=False)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "APIGW.0301")
    for path in ("/", "/fleet/v1/health"):
        assert httpx.get(served.url + path, trust_env=False).status_code == 200
