"""An operation without root that was cut off waits in the login's home: the next one as root finds it, by either agent."""

import json

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge

ALICE = Login("alice", "alice's own word")
KEYS, LEFT = "/home/alice/.ssh/authorized_keys", "/home/alice/.kps/journal.armed"


@pytest.mark.parametrize("python", [True, False], ids=["with Python", "without"])
def test_root_binds_no_key_that_an_undo_still_to_come_would_take_away(make_server, product, python):
    server = make_server(logins=(ALICE,), python=python)
    product.add(server)
    pair = product.keypair()
    journal = {
        "operation": "op-1", "generation": 1, "login": "alice", "deadline": 1.0, "boot": "sftp", "connection": None,
        "daemon": ["hidden", 0, "", [], "/etc/ssh/sshd_config", ""], "grounds": {}, "widening": 1, "remove": [], "revoke": [],
        "steps": [["keys", KEYS, "alice", None, pair["public_key"] + "\n"]],
    }  # fmt: skip
    about = {"mode": 0o600, "owner": "alice:alice"}
    server.write(KEYS, pair["public_key"] + "\n", **about)
    server.write(LEFT, json.dumps(journal), **about)
    server.run(["sh", "-c", "cd /home/alice; chown -R alice:alice .; chmod 700 .ssh; chmod 711 .kps"])
    order = {"login": "alice", "password": server.root_password, "keypair": pair, "accept_lockout": ["root"]}
    task = product.fails("undo_incomplete", "bind", server, **order)
    assert task["server_state"] == "partial"
    assert LEFT in str(task["evidence"]["remains"])
    assert judge.password_login_works(server, "alice", ALICE.password)
    server.run(["rm", LEFT])
    product.succeeds("bind", server, **order)
    assert judge.key_login_works(server, "alice", product.private(pair))
