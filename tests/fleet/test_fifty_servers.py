"""Fifty servers, bound by one command: all at the same time, each with its own password, each proved."""

import json
import resource
import time
from random import Random

import pytest

from controller.demo.fleet import Fleet
from tests.fleet import judge
from tests.fleet.product import Product

SERVERS = 50
JUDGED = 8


@pytest.mark.long
def test_fifty_servers_are_bound_by_one_command(tmp_path, record_property):
    with Fleet(SERVERS) as fleet:
        product = Product(tmp_path / "home")
        listed = "".join(f"{one.name},{one.host},{one.port},{one.host_key}\n" for one in fleet)
        (tmp_path / "servers.csv").write_text("name,host,port,host_key\n" + listed)
        product.kps("server", "import", str(tmp_path / "servers.csv"))
        product.kps("keypair", "create", "ops")
        passwords = "".join(f"{one.name}\t{one.root_password}\n" for one in fleet)

        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = product.kps("bind", "--all", "--keypair", "ops", "--password-stdin", "--json", given=passwords)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall, cpu = time.monotonic() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        spent = {"seconds for them": round(wall), "ms of CPU for each of them": round(1000 * cpu / SERVERS)}
        counted = {"servers bound by one command": SERVERS} | spent
        record_property("counted", {f"fifty servers: {what}": number for what, number in counted.items()})

        told = json.loads(done.stdout)
        assert {one["server"] for one in told} == {one.name for one in fleet}
        proved = [("key", "logged_in"), ("password", "refused")]
        assert all([(each["way"], each["method"]) for each in one["proof"]] == proved for one in told)
        assert {(one["status"], one["server_state"]) for one in told} == {("succeeded", "as_asked")}
        spans = [(one["started_at"], one["finished_at"]) for one in told]
        assert max(begin for begin, _ in spans[: SERVERS // 3]) < min(end for _, end in spans), "they ran one after the other"
        private = product.kps("keypair", "export", "ops").stdout
        for one in Random(0).sample(fleet.servers, JUDGED):
            assert judge.key_login_works(one, "root", private)
            assert not judge.password_login_works(one, "root", one.root_password)
