"""The examples as they are run: fabfile, paramiko and client, on real servers, over a socket, the network and in process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import paramiko
import pytest

from controller.client import Refused
from controller.demo.fleet import Spec
from controller.fabric import connection, group
from controller.paramiko import connect
from controller.scripts import Controller
from tests.fleet.looks import until
from tests.fleet.playing import OnNetwork, environment
from tests.fleet.product import SECONDS, Product
from tests.fleet.test_openssh import another_machine

EXAMPLES = Path(__file__).parents[2] / "examples"
FAB = str(Path(sys.executable).with_name("fab"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with OnNetwork(tmp_path_factory.mktemp("scripts") / "home") as served:
        yield served


@pytest.fixture(scope="module")
def three(fleet, served):
    """A jump server and two behind it; nobody's own configuration of ssh leads there."""
    gate, one, two = made = [fleet.add(Spec()) for _ in range(3)]
    pair = served.keypair(type="ecdsa-nistp256")
    served.add(gate)
    for each in (one, two):
        served.add(each, jump=[gate.name], labels={"part": gate.name})
    for each in (gate, one, two):
        served.succeeds("bind", each, keypair=pair, password=each.root_password)
    own = served.home.parent / ".ssh"
    own.mkdir(exist_ok=True)
    (own / "config").write_text("Host *\n    User nobody\n    Port 1\n    ProxyCommand false\n")
    yield gate, one, two
    for each in made:
        fleet.remove(each)


def run(served, *words, **more):
    """Run a program that asks the controller; what it printed."""
    environment = served.environment | more
    done = subprocess.run(words, env=environment, cwd=EXAMPLES, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_run(three, served, tmp_path):
    gate, one, two = three
    kernel = one.run(["uname", "-r"]).stdout.strip()
    shown = run(served, FAB, "uptime", "--select", f"part={gate.name}")
    assert [line.partition(": ")[0] for line in shown.splitlines()] == sorted([one.name, two.name])
    shown = run(served, FAB, "uptime", "--all")
    assert [line.partition(": ")[0] for line in shown.splitlines()] == sorted(each.name for each in three)
    (tmp_path / "site").write_text("a page\n")
    # From another machine, as somebody with an access key.
    afar = {"KPS_URL": served.url, "KPS_FINGERPRINT": served.fingerprint, "KPS_ACCESS_KEY": served.access_key}
    afar["KPS_SECRET_KEY"] = served.secret_key
    run(served, FAB, "deploy", "--server", two.name, "--path", str(tmp_path / "site"), KPS_HOME="/nowhere", **afar)
    assert two.read("/root/deployed") == "a page\n"
    assert (
        run(served, sys.executable, "paramiko_script.py", gate.name, one.name) == f"{gate.name}: {kernel}\n{one.name}: {kernel}\n"
    )
    assert f"{one.name}: the key logs in\n" in run(served, sys.executable, "kps_script.py", f"part={gate.name}")
    # With nobody serving, the home is opened in this process.
    served.end()
    try:
        assert run(served, sys.executable, "paramiko_script.py", one.name) == f"{one.name}: {kernel}\n"
        assert len(run(served, FAB, "uptime", "--select", one.name).splitlines()) == 1
    finally:
        served.serve()


def test_a_group_goes_through_one_connection_and_opens_its_key_once(three, served):
    gate, one, two = three
    keypair = served.server(one)["keypair"]

    def given():
        return len(served.ask("GET", "/audit/events", params={"kind": "keypair_exported", "keypair": keypair}))

    before = given()
    with group(f"part={gate.name}", home=served.home) as servers:
        found = servers.run("hostname", hide=True, in_stream=False)
        assert {each.name: result.stdout for each, result in found.items()} == {
            each.name: f"{each.name}\n" for each in (one, two)
        }
        assert len(servers.gateways) == 1
        assert servers.gateways[0].is_connected
    assert given() == before + 1
    assert not servers.gateways[0].is_connected
    until(lambda: gate.sessions() == [], what="somebody is still logged in at the jump server")


def test_another_machine_is_not_spoken_to(three, served):
    gate, one, _two = three
    with another_machine(one, gate):
        with pytest.raises(paramiko.BadHostKeyException):
            connection(one.name, home=served.home).run("true", hide=True)
        with pytest.raises(paramiko.BadHostKeyException):
            connect(one.name, home=served.home)


def test_what_is_not_bound_is_refused_before_anything_is_sent(make_server, served):
    server = make_server()
    served.add(server)
    controller = Controller(home=served.home)
    for asked in (lambda: connect(server.name, controller=controller), lambda: group(server.name, controller=controller)):
        with pytest.raises(Refused, match="no key pair is bound to root") as refused:
            asked()
        assert refused.value.code == "nothing_bound"
    with pytest.raises(Refused, match="nobody-here"):
        connection("nobody-here", controller=controller)
    served.kps("server", "remove", server.name)


def test_what_selects_nothing_is_not_all_servers(tmp_path):
    for asked in (lambda: group(*[], home=tmp_path), lambda: Controller(home=tmp_path).ways([])):
        with pytest.raises(Refused, match="every=True") as refused:
            asked()
        assert refused.value.code == "selection_empty"
    done = subprocess.run(
        [FAB, "uptime"], env=os.environ | {"KPS_HOME": str(tmp_path)}, cwd=EXAMPLES, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "every=True" in done.stderr


def test_what_ansible_prints_of_its_inventory_is_taken_in(tmp_path):
    """Real ansible-inventory, of an inventory as people write them."""
    (tmp_path / "hosts.ini").write_text(
        "gate ansible_host=192.0.2.1 ansible_user=jumper\n[web]\nweb-[1:2] ansible_port=2222\n"
        "[front:children]\nweb\n[front:vars]\nansible_ssh_common_args=-o ProxyJump=gate\n"
    )
    asked = [environment() / "ansible-inventory", "-i", tmp_path / "hosts.ini", "--list"]
    apart = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    printed = subprocess.run(asked, capture_output=True, text=True, check=True, env=apart, timeout=SECONDS).stdout
    product = Product(tmp_path / "home")
    told = product.kps("server", "import", "--ansible-inventory", "-", "--login", "ops", "--json", given=printed).stdout
    shown = [(one["name"], one["host"], one["port"], one["login"], one["labels"], one["jump"]) for one in json.loads(told)]
    groups = {"web": "yes", "front": "yes"}
    assert shown == [
        ("gate", "192.0.2.1", 22, "jumper", {}, []),
        ("web-1", "web-1", 2222, "ops", groups, ["gate"]),
        ("web-2", "web-2", 2222, "ops", groups, ["gate"]),
    ]
