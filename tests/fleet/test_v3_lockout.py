"""A v3 call has no way to name whom it locks out: it locks out nobody, unless the tenant's administrator has said that it may."""

import huaweicloudsdkkps.v3 as v3

from controller.demo.fleet import Login
from tests.fleet import judge, test_sdk

served = test_sdk.served
OTHERS = ["alice", "deploy"]


def test_others_are_locked_out_by_a_v3_call_only_where_the_tenant_lets_it(served, make_server):
    kps, server = served.kps, make_server(logins=tuple(Login(name, f"{name}'s own word") for name in OTHERS))
    server_id = served.add(server)
    made = test_sdk.create(kps, "closing", key_protection=test_sdk.protection())

    def close():
        answer = test_sdk.associate(kps, "closing", server_id, test_sdk.password(server), disable_password=True)
        word = test_sdk.ended(kps, answer.task_id)
        status, task = served.ask("GET", f"/tasks/{answer.task_id}")
        assert status == 200
        return word, task

    def passwords_work():
        return [judge.password_login_works(server, name, server.passwords[name]) for name in OTHERS]

    word, task = close()
    assert (word, task["cause"], task["server_state"]) == ("FAILED_BIND", "others_locked_out", "as_before")
    assert "accept_unnamed_lockout" not in task["request"]
    assert passwords_work() == [True, True]

    status, tenant = served.ask("PATCH", "/tenant", {"v3_accepts_lockout": True})
    assert (status, tenant["v3_accepts_lockout"]) == (200, True)
    # A task that was refused before is retried as it was asked for, and is refused again.
    status, again = served.ask("POST", f"/tasks/{task['id']}/retry", {"credential": {"password": server.root_password}})
    assert status == 202
    assert test_sdk.ended(kps, again["id"]) == "FAILED_BIND"

    word, task = close()
    assert (word, task["request"]["accept_unnamed_lockout"]) == ("SUCCESS_BIND", True)
    assert sorted(task["evidence"]["accept_unnamed_lockout"]) == OTHERS
    assert all(name in task["message"] for name in OTHERS)
    assert judge.key_login_works(server, "root", made.private_key)
    assert passwords_work() == [False, False]
    _, events = served.ask("GET", "/audit/events")
    about = [each for each in events if each["task_id"] == task["id"]]
    told = {each["kind"]: each["detail"] for each in about if "accept_unnamed_lockout" in each["detail"]}
    assert told["task_ready"]["accept_unnamed_lockout"] is True
    assert sorted(told["task_phase"]["accept_unnamed_lockout"]) == OTHERS

    auth = v3.Auth(type="keypair", key=made.private_key)
    asked = v3.DisassociateKeypairRequestBody(server=v3.DisassociateEcsServerInfo(id=server_id, auth=auth))
    answer = kps.disassociate_keypair(v3.DisassociateKeypairRequest(body=asked))
    assert test_sdk.ended(kps, answer.task_id) == "SUCCESS_UNBIND"
    assert passwords_work() == [True, True]
    # One that was asked for while it was let, and runs when it is not any more.
    wrong = v3.Auth(type="password", key="not this one")
    answer = test_sdk.associate(kps, "closing", server_id, wrong, disable_password=True)
    assert test_sdk.ended(kps, answer.task_id) == "FAILED_BIND"
    assert served.ask("PATCH", "/tenant", {"v3_accepts_lockout": False})[1]["v3_accepts_lockout"] is False
    _, again = served.ask("POST", f"/tasks/{answer.task_id}/retry", {"credential": {"password": server.root_password}})
    assert again["request"]["accept_unnamed_lockout"] is True
    assert test_sdk.ended(kps, again["id"]) == "FAILED_BIND"
    assert served.ask("GET", f"/tasks/{again['id']}")[1]["cause"] == "others_locked_out"
    assert passwords_work() == [True, True]
    assert close()[0] == "FAILED_BIND"
