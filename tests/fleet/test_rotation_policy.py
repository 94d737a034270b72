"""A key pair is rotated on real servers: the controller is killed in the middle, one server is away, and nothing is lost."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import time

from tests.fleet import judge
from tests.fleet.product import KPS, SECONDS, Product

CAREFUL = ("--canary", "1", "--batch", "1", "--max-failures", "100%", "--tries", "3", "--concurrency", "1")


def succeeded(product: Product) -> int:
    """How many tasks of rollouts have ended well, read from under the controller."""
    with contextlib.closing(sqlite3.connect(product.home / "kps.db", timeout=SECONDS)) as connection:
        query = "SELECT count(*) FROM tasks WHERE rollout_id IS NOT NULL AND status = 'succeeded'"
        return int(connection.execute(query).fetchone()[0])


def test_the_old_private_half_goes_after_the_last_server(make_server, tmp_path):
    servers = sorted((make_server() for _ in range(3)), key=lambda each: each.name)
    away = servers[-1]
    product = Product(tmp_path / "home")
    listed = "".join(f"{one.name},{one.host},{one.port},{one.host_key}\n" for one in servers)
    (tmp_path / "servers.csv").write_text("name,host,port,host_key\n" + listed)
    product.kps("server", "import", str(tmp_path / "servers.csv"))
    product.kps("keypair", "create", "ops", "--scope", "account")
    passwords = "".join(f"{one.name}\t{one.root_password}\n" for one in servers)
    product.kps("bind", "--all", "--keypair", "ops", "--password-stdin", given=passwords)
    old = product.kps("keypair", "export", "ops").stdout
    product.kps("policy", "set", "fleet", "--all", "--max-age", "90", "--grace", "0", *CAREFUL)
    product.kps("policy", "run", "--due")
    assert json.loads(product.kps("policy", "due", "--json").stdout) == []

    away.stop()
    command = [KPS, "policy", "run", "fleet", "--early"]
    with subprocess.Popen(command, env=product.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        until = time.monotonic() + SECONDS
        while not succeeded(product) and time.monotonic() < until:
            time.sleep(0.05)  # what another process has written down announces itself to nobody
        first.send_signal(signal.SIGKILL)
    (rotation,) = json.loads(product.kps("policy", "run", "--due", "--json").stdout)
    assert (rotation["old"], rotation["new"], rotation["state"]) == ("ops", "ops-v2", "rolling")
    new = product.kps("keypair", "export", "ops-v2").stdout
    for one in servers[:-1]:
        assert judge.key_login_works(one, "root", new)
        assert not judge.key_login_works(one, "root", old)
    assert json.loads(product.kps("keypair", "show", "ops", "--json").stdout)["managed"]

    away.start()
    assert judge.key_login_works(away, "root", old)
    product.kps("policy", "run", "fleet")
    product.kps("policy", "run", "--due")
    assert judge.key_login_works(away, "root", new)
    assert not judge.key_login_works(away, "root", old)
    shown = json.loads(product.kps("policy", "show", "fleet", "--json").stdout)
    assert [each["state"] for each in shown["rotations"]] == ["done"]
    assert not json.loads(product.kps("keypair", "show", "ops", "--json").stdout)["managed"]
    pairs = json.loads(product.kps("keypair", "list", "--json").stdout)
    assert [each["name"] for each in pairs] == ["ops", "ops-v2"]
