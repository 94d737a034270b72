"""A door is opened though the root key is away; what was made is sealed once it is back."""

import json
import os
import signal
import subprocess

from controller.demo.fleet import Login
from tests import roots
from tests.fleet import judge
from tests.fleet.causes import install_key
from tests.fleet.looks import until
from tests.fleet.product import KPS
from tests.fleet.test_emergency import OFF, WHY, lets_in


def test_with_the_token_taken_away_a_door_opens_and_its_password_is_sealed_later(make_server, tmp_path):
    server = make_server(logins=(Login("alice", "pw-alice"),), sshd_config_top=OFF)
    private, public = judge.new_key_pair()
    install_key(server, public)
    key = tmp_path / "rescue"
    key.write_text(private)
    key.chmod(0o600)
    token = roots.token(tmp_path)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KPS_HOME": str(tmp_path / "home"), **token}

    def kps(*words, code=0):
        done = subprocess.run([KPS, *words, "--json"], capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stderr)["error"] if code else json.loads(done.stdout or "null")

    def served():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([KPS, "serve"], env=environment, text=True, **pipes)
        assert "kps.sock" in process.stdout.readline()
        return process

    def ended(process):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    kps("init", "--root-key", roots.pkcs11(tmp_path))
    kps("server", "add", server.name, server.host, "--port", str(server.port), "--host-key", server.host_key)
    kps("keypair", "create", "ops")
    ended(served())  # what cannot be sealed can be laid by from then on
    away = tmp_path / "away"
    (tmp_path / "tokens").rename(away)
    assert kps("keypair", "export", "ops", code=5)["code"].startswith("root_")
    order = ("emergency", "open", server.name, "--login", "alice", "--for", "10m", *WHY, "--identity", str(key))
    told = kps(*order, "--set-password")
    (made,) = told["passwords"]
    assert told["doors"][0]["state"] == "open"
    assert lets_in(server, "alice", made["password"])
    kps("secret", "show", made["secret"], code=5)
    away.rename(tmp_path / "tokens")
    again = served()
    try:
        until(lambda: _shown(environment, made["secret"]) == made["password"], 60)
        set_by_it = server.run(["sh", "-c", "grep ^alice: /etc/shadow"]).stdout
        kps("emergency", "close", server.name, "--identity", str(key))
        assert not lets_in(server, "alice", made["password"])
        # No managed key gets in: with the key that came to close it another password was set, as the server's own file says.
        until(lambda: not kps("emergency", "show", server.name)["password_works"], 90)
        assert server.run(["sh", "-c", "grep ^alice: /etc/shadow"]).stdout != set_by_it
    finally:
        ended(again)
    assert made["password"].encode() not in (tmp_path / "home/kps.db").read_bytes()


def _shown(environment, name):
    done = subprocess.run([KPS, "secret", "show", name, "--json"], capture_output=True, text=True, env=environment, timeout=60)
    return json.loads(done.stdout)["value"] if done.returncode == 0 else None
