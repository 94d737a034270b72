"""The collection as Ansible runs it: real ansible-core, a real controller over TLS, real servers."""

import base64
import contextlib
import datetime
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from controller.demo.fleet import Login
from controller.demo.trees import HOST_PYTHON
from tests.fleet import judge
from tests.fleet.playing import LOCK, OLDEST, ROOT, Ansible, OnNetwork
from tests.fleet.watching import Watch

MORE_THAN_FORKS = 7  # so that three forks of Ansible's (playing.py) each have more than one server, and one has to wait


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with OnNetwork(tmp_path_factory.mktemp("collection") / "home") as served:
        yield served


@pytest.fixture
def ansible(request, tmp_path, served):
    return Ansible(tmp_path, served, getattr(request, "param", LOCK))


def inventory(servers, **wanted):
    hosts = {
        each.name: {
            "ansible_host": each.host,
            "ansible_port": each.port,
            "host_key": each.host_key,
            "root_password": each.root_password,
        }
        for each in servers
    }
    return {"all": {"hosts": hosts, "vars": wanted}}


def keys(server):
    return server.read("/root/.ssh/authorized_keys")


@pytest.mark.long
@pytest.mark.parametrize(
    ("ansible", "number"), [(LOCK, MORE_THAN_FORKS), (OLDEST, 2)], indirect=["ansible"], ids=["now", "oldest"]
)
def test_a_playbook_binds_replaces_and_unbinds_and_finds_nothing_to_do_the_second_time(ansible, served, make_server, number):
    servers = [make_server() for _ in range(number)]
    wrong = make_server()
    keypair = f"play-{number}"
    hosts = inventory([*servers, wrong], keypair=keypair, wanted="bound")
    hosts["all"]["hosts"][wrong.name]["root_password"] = "not this one either"
    good = {each.name for each in servers}

    def on_record():
        return [served.ask("GET", path) for path in ("/servers", "/keypairs")] + [len(served.ask("GET", "/tasks"))]

    def public(name):
        return served.ask("GET", f"/keypairs/{name}")["public_key"]

    # Looked at before anything is there: nothing is made, and what would be is what is.
    before = on_record()
    looked = ansible.play("site.yml", hosts, "--check", "--diff")
    assert looked.code == 0, looked.printed
    assert on_record() == before
    done = ansible.play("site.yml", hosts, "--diff", "-vvv")
    assert {pair for pair in done.changed() if pair[1] in good} == {pair for pair in looked.changed() if pair[1] in good}
    assert {("bound", name) for name in good} < done.changed()
    for each in servers:
        assert not judge.password_login_works(each, "root", each.root_password)
        assert f"+{public(keypair)}" in done.printed
        assert "+PasswordAuthentication no" in done.printed

    # One failed: why, what was seen, what to do, and how the server was left.
    failed = done.of("bound")[wrong.name]
    assert (done.code, done.failed(), failed["changed"]) == (2, {("bound", wrong.name)}, False)
    assert (failed["cause"], failed["server_state"], failed["retryable"]) == ("wrong_password", "as_before", True)
    assert failed["evidence"]["host"] == wrong.host
    assert failed["msg"].startswith(f"{wrong.name} ({wrong.host}:22): the password for root was not accepted")
    assert failed["handling"] in failed["msg"]

    # No secret was printed or written, at the most talkative that a person would choose.
    secrets = [served.secret_key, "not this one either", *(each.root_password for each in servers)]
    written = [path for path in ansible.place.rglob("*") if path.is_file() and path.name != "hosts.yml"]
    for text in [done.printed, *(path.read_text(errors="replace") for path in written)]:
        assert not [secret for secret in secrets if secret in text]

    only = ("--limit", ",".join(good))
    again = ansible.play("site.yml", hosts, *only)
    assert (again.code, again.changed()) == (0, set()), again.printed

    # A replace is looked at on the servers, and they are as before.
    hosts["all"]["vars"]["wanted"] = "replaced"
    before = [keys(each) for each in servers]
    looked = ansible.play("site.yml", hosts, *only, "--check", "--diff")
    assert (looked.code, looked.changed()) == (0, {("replaced", name) for name in good}), looked.printed
    assert before == [keys(each) for each in servers]
    assert f"-{public(keypair)}" in looked.printed
    done = ansible.play("site.yml", hosts, *only)
    assert (done.code, done.changed()) == (0, looked.changed()), done.printed
    hosts["all"]["vars"]["wanted"] = "unbound"
    looked = ansible.play("site.yml", hosts, *only, "--check")
    assert (looked.code, looked.changed()) == (0, {("unbound", name) for name in good}), looked.printed
    assert all(public(f"{keypair}-v2") in keys(each) for each in servers)
    done = ansible.play("site.yml", hosts, *only)
    assert (done.code, done.changed()) == (0, looked.changed()), done.printed
    for each in servers:
        assert judge.password_login_works(each, "root", each.root_password)
        assert not keys(each)


def test_hosts_come_in_by_the_role_and_all_that_there_is_can_be_asked_and_ordered(ansible, served, make_server):
    servers = [make_server(), make_server()]
    names = {each.name for each in servers}
    hosts = inventory(servers, stage="two", playbook_place=str(ansible.place))
    for each in servers:
        hosts["all"]["hosts"][each.name]["ansible_password"] = each.root_password
    done = ansible.play("more.yml", hosts, "-vvv")
    assert done.code == 0, done.printed

    def results(task):
        return [[bool(one["changed"]) for one in result["results"]] for result in done.of(task).values()]

    assert results("passwords") == results("no passwords") == [[True, False]] * 2
    assert {each["cause"] for each in done.of("a wrong bind").values()} == {"keypair_not_found"}
    assert {each["cause"] for each in done.of("a bind of another").values()} == {"already_bound"}
    (failed,) = done.of("what failed").values()
    assert {task["server"] for task in failed["tasks"]} == names
    assert [each["tasks"] for each in done.of("what cannot be helped by that is not tried again").values()] == [[], []]
    again = done.of("once more all the same").values()
    assert [(each["cause"], each["changed"], len(each["tasks"])) for each in again] == [("already_bound", False, 1)] * 2
    assert results("off the list") == [[True, False]] * 2
    assert not [task for task in served.ask("GET", "/tasks", params={"failed": "true"}) if task["server"] in names]
    (found,) = done.of("key pairs").values()
    assert {"enrolled", "other"} <= {each["name"] for each in found["keypairs"]}
    assert {each["name"] for each in next(iter(done.of("servers").values()))["servers"]} == names
    assert {each["server"] for each in next(iter(done.of("bindings").values()))["bindings"]} == names
    (looked,) = done.of("looked at").values()
    assert looked["changed"]
    assert f"+{served.ask('GET', '/keypairs/enrolled-v2')['public_key']}" in done.printed
    assert results("rolled out") == [[True, False]]
    (found,) = done.of("rollouts").values()
    assert [each["plans"] for each in found["rollouts"][-3:]] == [True, False, False]
    private = (ansible.place / "enrolled-v2").read_text()
    assert (ansible.place / "enrolled-v2").stat().st_mode & 0o777 == 0o600
    assert all(judge.key_login_works(each, "root", private) for each in servers)
    assert "PRIVATE KEY" not in done.printed
    assert not [each.root_password for each in servers if each.root_password in done.printed]


def test_a_rollout_that_stops_or_waits_is_told_as_that(ansible, served, make_server):
    servers = [make_server() for _ in range(3)]
    names = {each.name for each in servers}
    hour = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=6)
    about = {
        "wrong": {name: {"password": "not this one"} for name in names},
        "right": {each.name: {"password": each.root_password} for each in servers},
        "never_now": f"{hour:%H:%M}-{hour + datetime.timedelta(hours=6):%H:%M}",
    }
    hosts = inventory(servers, keypair="rolled", crew="rolled", **about)

    def waiting():
        return [
            each["id"] for each in served.ask("GET", "/rollouts") if (each["operation"], each["state"]) == ("check", "running")
        ]

    with ThreadPoolExecutor(1) as playing:
        played = playing.submit(ansible.play, "rollouts.yml", hosts)
        while not (found := waiting()) and not played.done():
            time.sleep(0.2)
        for each in found:
            served.ask("POST", f"/rollouts/{each}/pause")
        done = played.result()
    assert done.code == 0, done.printed

    def the(task):
        (result,) = done.of(task).values()
        return result

    # One server was tried, and the others not begun: the play hears which, why, and what is left.
    stopped = the("the canary fails")
    assert {task for task, _ in done.failed()} == {"the canary fails", "somebody pauses it"}
    assert (stopped["changed"], stopped["cause"]) == (False, "rollout_failed")
    assert (stopped["rollout"]["state"], "1 failed" in stopped["msg"]) == ("stopped", True)
    assert stopped["evidence"]["causes"] == {"wrong_password": 1}
    assert sorted(each["status"] for each in stopped["servers"]) == ["failed", "waiting", "waiting"]

    # Paused as it was asked to be: no failure, and it has changed one server.
    well = the("the canary is well")
    assert (well["rollout"]["state"], well["changed"]) == ("paused", True)
    assert [each["status"] for each in well["servers"]].count("succeeded") == 1
    assert [the(f"gone on with{more}")["changed"] for more in ("", " again")] == [True, False]
    assert {each["status"] for each in the("gone on with")["servers"]} == {"succeeded"}
    assert not [each for each in servers if judge.password_login_works(each, "root", each.root_password)]

    # Paused by somebody else while the play waited: not what it was there for.
    paused = the("somebody pauses it")
    assert (paused["cause"], paused["rollout"]["state"]) == ("rollout_paused", "paused")
    assert [each["changed"] for each in the("given up")["results"]] == [True, False]


def test_ansible_connects_with_managed_keys_that_are_in_no_file(ansible, served, make_server):
    gate, inner = make_server(tree=HOST_PYTHON), make_server(tree=HOST_PYTHON)  # Ansible's modules want more than python3-minimal
    innermost = make_server()
    keypair = served.keypair(scope="account")
    served.add(gate, labels={"stage": "managed"})
    served.add(inner, labels={"stage": "managed", "zone": "b-1"}, jump=[gate.name])
    for each in (gate, inner):
        served.succeeds("bind", each, keypair=keypair, password=each.root_password)
    about = ansible.place / "fleet.kps.yml"
    about.write_text("plugin: kps.fleet.servers\nselect: [stage=managed]\n")

    listed = json.loads(ansible.run("ansible-inventory", "-i", about, "--list").stdout)
    assert set(listed["stage_managed"]["hosts"]) == {gate.name, inner.name}
    assert listed["zone_b_1"]["hosts"] == [inner.name]
    # What comes from a controller is marked by Ansible as what it makes no template of.
    known = listed["_meta"]["hostvars"][inner.name]
    assert known["kps_host_key"]["__ansible_unsafe"] in inner.host_key
    assert known["kps_keypair"] == {"__ansible_unsafe": keypair["name"]}

    # No key was opened for that. Now each is, once, and what is written meanwhile is watched: each call that writes or opens,
    # with where to, and each file on this machine's file systems, whoever wrote it and however.
    pieces = pieces_of(served.private(keypair))
    opened = served.ask("GET", "/audit/events", params={"kind": "keypair_opened", "keypair": keypair["name"]})
    trace = ansible.place / "trace"
    calls = "trace=execve,openat,write,writev,pwrite64,pwritev,sendto,sendmsg"
    words = ["strace", "-f", "-y", "-s", "8192", "-o", trace, "-e", calls]
    command = [*words, ansible.programs / "ansible", "all", "-i", about, "-m", "ping"]
    places = {os.stat(each).st_dev: Path(each) for each in ("/tmp", "/dev/shm", "/run", ansible.place, ansible.place / "home")}
    with Watch([*places.values()], pieces) as watch:
        done = subprocess.run(command, env=ansible.environment, cwd=ansible.place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"ping": "pong"') == 2
    assert watch.holding == {str(trace)}  # what strace wrote down, so the watch sees what it is there to see
    traced = trace.read_text(errors="replace")
    assert re.search(rf'execve.* "-W", "\[{inner.host}\]:{inner.port}", "{gate.host}"', traced)
    # Two workers tell ssh of the gate: what one writes for it is never half there for the ssh of the other.
    read = re.findall(r'openat\(.*"\S+/kps-\w+/\w+\.(?:pub|known|json)", .*', traced)
    assert [line for line in read if "O_RDONLY" in line]
    assert not [line for line in read if "O_WRONLY" in line]
    keys = [line for line in traced.splitlines() if "PRIVATE KEY" in line]
    assert keys  # it was given to ssh-add by a pipe, so the watch sees what it is there to see
    assert not [line for line in keys if re.search(r"\(\d+</(?!dev/)", line)], keys
    after = served.ask("GET", "/audit/events", params={"kind": "keypair_opened", "keypair": keypair["name"]})
    assert len(after) == len(opened) + 1

    # The agent has ended with the run, and what it lay in is gone.
    assert left_of("ssh-agent", ansible.place) == []
    assert list((ansible.place / "temporary").glob("kps-*")) == []

    # Through two, the first of them the jump of the other; connections are kept open while the run lasts, and no longer.
    served.add(innermost, jump=[inner.name])
    served.succeeds("bind", innermost, keypair=keypair, password=innermost.root_password)
    about.write_text(f"plugin: kps.fleet.servers\nselect: [stage=managed, {innermost.name}]\n")
    keeps = "-o ControlMaster=auto -o ControlPersist=600s"
    with tempfile.TemporaryDirectory(prefix="t") as short:  # the path of a socket has a limit
        words = ("all", "-i", about, "-vvv", "-m", "raw", "-a", "echo $SSH_CONNECTION")
        done = ansible.run("ansible", *words, ANSIBLE_SSH_ARGS=keeps, TMPDIR=short)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{innermost.host} {innermost.port}" in done.stdout
        paths = set(re.findall(rf"ControlPath=({short}/kps-[^ ]+\.cp)", done.stdout))
        assert len(paths) == 3
        assert left_of("ssh-agent", short) == left_of("ssh:", short) == []

    # Another machine at that address is not spoken to.
    for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
        inner.write(f"/etc/ssh/{name}", gate.read(f"/etc/ssh/{name}"))
    inner.reboot()
    done = ansible.run("ansible", inner.name, "-i", about, "-m", "raw", "-a", "true")
    assert done.returncode != 0
    assert "Host key verification failed" in done.stdout + done.stderr


def pieces_of(private_key):
    """What would tell a private key: its secret as bytes, in hex, in Base64 wherever it begins, and lines of its file."""
    lines = [line.encode() for line in private_key.split("\n") if line and not line.startswith("-----")]
    seed = load_ssh_private_key(private_key.encode(), None).private_bytes_raw()
    texts = [base64.b64encode(bytes(before) + seed)[4 * (before > 0) :][:36] for before in range(3)]
    return [seed, seed.hex().encode(), *texts, *(line[:40] for line in lines[-3:])]


def left_of(program, place):
    """The processes of a program that were told of a place, and do not end."""
    until = time.monotonic() + 15
    while (found := running(program, place)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def running(program, place):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").split()
            if words and words[0] == program.encode() and str(place).encode() in b" ".join(words):
                found.append(words)
    return found


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "all", "ungrouped", "db", "databases"])
def test_a_server_does_not_take_the_place_of_what_ansible_means_by_its_name(ansible, served, name):
    # Where this one is: what tasks are delegated to, and what another source tells of, does not lead there.
    _private, public = judge.new_key_pair()
    label = f"n{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    about = {"host": "127.0.0.99", "host_key": public, "labels": {"taken": label}}
    for each in (name, f"fine-{label}"):
        served.ask("POST", "/servers", body={"name": each, **about})
    hosts = ansible.place / "hosts.ini"
    hosts.write_text("db ansible_host=127.0.0.7\n[databases]\ndb\n")
    path = ansible.place / "fleet.kps.yml"
    path.write_text(f"plugin: kps.fleet.servers\nselect: ['taken={label}']\n")
    done = ansible.run("ansible-inventory", "-i", hosts, "-i", path, "--list")
    known = json.loads(done.stdout)["_meta"]["hostvars"]
    assert known == {"db": {"ansible_host": "127.0.0.7"}}
    told = " ".join(done.stderr.split())
    assert f"the controller's server {name}: " in told
    assert "or leave it out by select" in told
    done = ansible.run("ansible-inventory", "-i", hosts, "-i", path, "--list", ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED="true")
    assert done.returncode != 0


def test_another_private_key_than_the_one_that_is_kept_is_refused(ansible, served):
    (private, _public), (other, public) = judge.new_key_pair(), judge.new_key_pair()

    def ok(name, **given):
        path = ansible.place / f"{name}.yml"
        task = {"name": name, "kps.fleet.keypair": {"name": "given", **given}}
        path.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
        done = ansible.play(path, {"all": {"hosts": {"one": {}}}})
        assert private not in done.printed
        result = done.of(name)["one"]
        return result.get("cause") or result["changed"]

    assert ok("taken in", private_key=private) is True
    assert ok("again", private_key=private) is False
    assert ok("another", private_key=other) == "keypair_differs"
    assert ok("another, though with", private_key=private, public_key=public) == "keypair_differs"
    assert ok("unreadable", private_key="sealed") == "public_key_missing"
    kept = served.ask("GET", "/keypairs/given")["public_key"]
    assert ok("unreadable, said", private_key="sealed", public_key=kept) is False


def test_a_host_without_a_host_key_does_not_get_a_password_by_the_role(ansible, served):
    path = ansible.place / "enrol.yml"
    role = {"role": "kps.fleet.enrol", "vars": {"enrol_keypair": "never", "enrol_password": "a password"}}
    path.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": [role]}]))
    hosts = {"all": {"hosts": {"unknown": {"ansible_host": "127.0.0.98"}}}}
    done = ansible.play(path, hosts)
    assert done.code != 0
    assert "unknown: no host key; say enrol_host_key" in done.printed
    assert not [each for each in served.ask("GET", "/servers") if each["name"] == "unknown"]
    # Said, the host is asked for its key; nobody is there.
    done = ansible.play(path, hosts, "-e", '{"enrol_trust_on_first_use": true}')
    assert done.code != 0
    assert "no host key" not in done.printed


def test_keys_do_not_outlive_who_keeps_the_agent(ansible):
    """Killed, so that nothing of it is run any more, and its agent with the keys is left to itself."""
    keeper = ROOT / "ansible/plugins/plugin_utils/keeper.py"
    with tempfile.TemporaryDirectory(prefix="k") as place:
        kept = subprocess.Popen([ansible.programs / "python", keeper, place, str(os.getpid())])
        until = time.monotonic() + 10
        while not running("ssh-agent", place) and time.monotonic() < until:
            time.sleep(0.05)
        (agent,) = running("ssh-agent", place)
        assert agent[:2] == [b"ssh-agent", b"-a"]
        kept.kill()
        kept.wait()
        assert left_of("ssh-agent", place) == []


def test_a_task_of_authorized_key_turned_into_ours_does_what_it_did(ansible, served, make_server):
    """The key logs in, and password login, which such a task never touched, is as it was."""
    server = make_server(logins=(Login("deploy", "mother's maiden name"),))
    served.add(server)
    private, public = judge.new_key_pair(comment="turned")
    restricted, other = judge.new_key_pair()
    server.run(["install", "-d", "-o", "deploy", "-m", "0700", "/home/deploy/.ssh"])
    server.write("/home/deploy/.ssh/authorized_keys", f'from="127.0.0.0/8",no-pty {other}\n', 0o600, "deploy")
    path = ansible.place / "turned.yml"
    task = {"name": "deploy gets in", "ansible.posix.authorized_key": {"user": "deploy", "key": public}}
    path.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}], sort_keys=False))
    done = ansible.run("python", ROOT / "ansible/scripts/from_authorized_key.py", "--write", path)
    assert (done.returncode, "turned: " in done.stderr) == (0, True), done.stderr
    hosts = inventory([server])
    served.succeeds("bind", server, keypair=served.keypair(), password=server.root_password, keep_password_login=True)
    looked = ansible.play(path, hosts, "--check")
    done = ansible.play(path, hosts)
    assert done.code == 0, done.printed
    assert done.changed() == looked.changed() == {("The key pair turned", server.name), ("deploy gets in", server.name)}
    assert judge.key_login_works(server, "deploy", private)
    assert judge.key_login_works(server, "deploy", restricted)
    assert judge.password_login_works(server, "deploy", "mother's maiden name")
    assert ansible.play(path, hosts).changed() == set()
