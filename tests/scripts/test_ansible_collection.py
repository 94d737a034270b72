"""The collection as Ansible's own tools see it, and the script that turns tasks of authorized_key into ours."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from controller.rolling import SEEN
from tests.fleet.playing import ROOT, environment

COLLECTION = ROOT / "ansible"
CORPUS = ROOT / "tests/corpus/authorized_key"
MODULES = sorted(path.stem for path in (COLLECTION / "plugins/modules").glob("*.py"))
OTHERS = {"inventory": "servers", "connection": "ssh", "lookup": "private_key"}
# Those that need nothing from a package index.
SANITY = """action-plugin-docs compile empty-init ignores line-endings no-assert no-get-exception no-illegal-filenames
no-smart-quotes replace-urlopen shebang symlinks use-argspec-type-path use-compat-six"""
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SPECS = """
import importlib, json, sys
found = {}
for name in sys.argv[1:]:
    module = importlib.import_module(f"ansible_collections.kps.fleet.plugins.action.{name}")
    from ansible_collections.kps.fleet.plugins.plugin_utils.asking import CONTROLLER
    spec = {**CONTROLLER, **module.ActionModule.SPEC}
    found[name] = {each: {k: v for k, v in about.items() if k != "fallback"} for each, about in spec.items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a copy of the collection where Ansible looks for one, and nothing else of this machine's."""
    found = tmp_path_factory.mktemp("tools")
    copy = found / "ansible_collections/kps/fleet"
    shutil.copytree(COLLECTION, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return found


def run(place, program, *words, directory=".", given=""):
    programs = environment()
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(place / "home"),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(place),
        "PYTHONPATH": str(place),
    }
    (place / "home").mkdir(exist_ok=True)
    done = subprocess.run(
        [programs / program, *words],
        cwd=place / directory,
        env=environ,
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_each_option_of_each_action_is_documented_as_it_is(place):
    names = [f"kps.fleet.{name}" for name in MODULES]
    documents = json.loads(run(place, "ansible-doc", "--json", *names).stdout)
    specs = json.loads(run(place, "python", "-c", SPECS, *MODULES).stdout)
    assert set(specs) == {path.stem for path in (COLLECTION / "plugins/action").glob("*.py")}
    for name in MODULES:
        options = documents[f"kps.fleet.{name}"]["doc"]["options"]
        assert set(options) == set(specs[name]), name
        for option, about in options.items():
            spec = specs[name][option]
            for word in ("type", "elements", "choices", "default"):
                assert about.get(word) == spec.get(word), (name, option, word)
            assert bool(about.get("required")) == bool(spec.get("required")), (name, option)
            secret = any(word in option for word in ("secret", "password", "passphrase", "private_key", "identity", "token"))
            harmless = ("password_of", "private_key_file", "keep_password_login", "close_password_login")
            assert bool(spec.get("no_log")) == ((secret and option not in harmless) or option == "credentials"), (name, option)
    runtime = yaml.safe_load((COLLECTION / "meta/runtime.yml").read_text())
    assert runtime["action_groups"]["fleet"] == MODULES


def test_each_plugin_has_a_document_that_renders(place):
    for kind, name in OTHERS.items():
        done = run(place, "ansible-doc", "-t", kind, f"kps.fleet.{name}")
        assert "secret_key" in done.stdout
        assert "WARNING" not in done.stderr
    shown = run(place, "ansible-doc", "-t", "role", "kps.fleet.enrol").stdout
    assert "enrol_keypair" in shown
    page = (ROOT / "docs/ansible.md").read_text()
    for name in [*MODULES, *OTHERS.values(), "enrol"]:
        assert f"`{name}`" in page


def test_ansibles_own_checks_that_need_no_network_find_nothing(place):
    words = [word for name in SANITY.split() for word in ("--test", name)]
    run(place, "ansible-test", "sanity", "--python", VERSION, *words, directory="ansible_collections/kps/fleet")


def test_ansible_lint_finds_nothing_at_its_strictest(place):
    words = ("--offline", "--nocolor", "--profile", "production", "--strict")
    done = run(place, "ansible-lint", *words, directory="ansible_collections/kps/fleet")
    looked = re.search(r"0 failure\(s\), 0 warning\(s\) in (\d+) files .* 'production' was required, and it passed", done.stderr)
    assert looked, done.stderr
    assert int(looked[1]) > len(MODULES) + len(OTHERS)


PATHS = """
import json
from pathlib import Path
from ansible_collections.kps.fleet.plugins.connection import ssh
run = Path("/tmp/kps-12345678")
servers = [{"id": "a"}, {"id": "b"}]  # both at one address, behind different jump servers
logins, keys = ("root", "deploy"), ("t k1 x", "t k2 x")
paths = [ssh.control_path(run, each, login, key) for each in servers for login in logins for key in keys]
print(json.dumps({
    "paths": paths,
    "again": ssh.control_path(run, {"id": "a"}, "root", "t k1 another comment"),
    "percent": ssh.control_path(Path("/tmp/100%/kps-1"), {"id": "a"}, "root", "t k1"),
    "long": ssh.control_path(Path("/" + 80 * "x"), {"id": "a"}, "root", "t k1"),
}))
"""


def test_a_connection_that_is_kept_open_is_of_one_server_login_and_key(place):
    found = json.loads(run(place, "python", "-c", PATHS).stdout)
    assert len(set(found["paths"])) == 8
    assert found["again"] == found["paths"][0]
    assert all(path.startswith("/tmp/kps-12345678/") and len(path) < 104 - 17 for path in found["paths"])
    assert found["percent"].startswith("/tmp/100%%/kps-1/")
    assert found["long"] == "none"


WAYS = """
import json, sys
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.kps.fleet.plugins.connection import ssh
def server(name, host, *jump):
    return {"id": f"id-{name}", "name": name, "host": host, "port": 22, "login": "root", "jump": jump}
known = {each["name"]: each for each in (
    server("a", "fe80::1%eth0"), server("b", "b.example", "a"), server("c", "10.0.0.3"), server("t", "10.0.0.4", "b", "c"),
    server("x", "x.example", "y"), server("y", "y.example", "x"),
)}
way = ssh.way_to(known["t"], known.__getitem__)
try:
    refused = ssh.way_to(known["x"], known.__getitem__)
except AnsibleConnectionFailure as failure:
    refused = str(failure)
command = ssh.proxy_command([(each, ["-o", "IdentityFile=" + ssh.literal("/100%h/" + each["name"])]) for each in way])
print(json.dumps({"way": [each["name"] for each in way], "command": command, "refused": refused}))
"""


def test_each_jump_server_is_told_where_the_next_is_and_only_the_last_where_the_target_is(place):
    """Taken apart as ssh does it: it puts its target for %h and one % for two, and hands the rest to a shell."""
    found = json.loads(run(place, "python", "-c", WAYS).stdout)
    assert found["way"] == ["a", "b", "c"]
    assert "lead in a circle" in found["refused"]

    def as_ssh(text, host):
        return re.sub("%([%hp])", lambda token: {"%": "%", "h": host, "p": "2222"}[token[1]], text)

    command, host = found["command"], "10.0.0.4"
    for name, address, to in (
        ("c", "10.0.0.3", "[10.0.0.4]:2222"),
        ("b", "b.example", "[10.0.0.3]:22"),
        ("a", "fe80::1%eth0", "[b.example]:22"),
    ):
        words = shlex.split(as_ssh(command, host))
        assert (words[words.index("-W") + 1], words[-1]) == (to, address)
        assert f"IdentityFile=/100%%h/{name}" in words
        command, host = next(word for word in words if word.startswith("ProxyCommand=")).removeprefix("ProxyCommand="), address
    assert command == "none"


ROLLOUTS = """
import json
from ansible_collections.kps.fleet.plugins.action import rollout
def cause(state, reason, *statuses):
    return rollout.cause_of({"state": state, "reason": reason}, [{"status": each} for each in statuses])
seen = rollout.CANARY_ENDED
print(json.dumps([seen, [
    cause("paused", seen, "succeeded", None),
    cause("finished", "", "succeeded", "unchanged"),
    cause("paused", seen, "succeeded", "failed", None),
    cause("paused", "somebody asked", "succeeded", None),
    cause("stopped", "too many failed", "failed", None),
    cause("cancelled", "", "succeeded", None),
]]))
"""


def test_a_paused_rollout_is_well_where_its_canary_is_and_nobody_else_has_paused_it(place):
    seen, causes = json.loads(run(place, "python", "-c", ROLLOUTS).stdout)
    assert seen == SEEN
    assert causes == [None, None, "rollout_paused", "rollout_paused", "rollout_failed", "rollout_failed"]


HALVES = """
import json, sys
from ansible_collections.kps.fleet.plugins.plugin_utils.keys import public_half
print(json.dumps([public_half(*each) for each in json.load(sys.stdin)]))
"""


def test_the_public_half_of_a_private_key_is_read_in_each_of_its_forms(place, tmp_path):
    forms = ("ed25519", "", []), ("rsa", "", ["-m", "PEM"]), ("ecdsa", "", ["-m", "PKCS8"]), ("ecdsa", "a word", ["-m", "PKCS8"])
    given, wanted = [], []
    for number, (kind, word, more) in enumerate(forms):
        path = tmp_path / str(number)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", word, *more, "-f", path], check=True)
        given.append([path.read_text(), word or None])
        wanted.append(Path(f"{path}.pub").read_text().split()[:2])
    given.append([given[-1][0], "another word"])
    given.append(["no key", None])
    found = json.loads(run(place, "python", "-c", HALVES, given=json.dumps(given)).stdout)
    assert [each and each.split()[:2] for each in found] == [*wanted, None, None]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("from_authorized_key", COLLECTION / "scripts/from_authorized_key.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tasks_that_have_an_equal_are_turned_and_the_others_are_told(script, tmp_path, capsys):
    path = tmp_path / "several.yml"
    shutil.copy(CORPUS / "several.in.yml", path)
    assert script.main([str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == (CORPUS / "several.want.yml").read_text()
    told = [line.removeprefix(f"{path}:") for line in printed.err.splitlines()]
    assert told == (CORPUS / "several.told").read_text().splitlines()
    assert script.main(["--write", str(path)]) == 1
    assert path.read_text() == printed.out
    # What was turned is no longer there to be turned, and what stays still stays.
    capsys.readouterr()
    assert script.main([str(path)]) == 1
    assert capsys.readouterr().out == printed.out
    found = yaml.load(printed.out.replace("!vault", ""), Loader=yaml.SafeLoader)
    assert [next(iter(task)) for task in found[0]["tasks"][:3]] == ["name"] * 3


THEIRS = yaml.safe_load((CORPUS / "options.yml").read_text())


def test_every_option_of_authorized_key_has_a_row_and_every_value_a_case(script):
    page = (ROOT / "docs/ansible.md").read_text().partition("## From `ansible.posix.authorized_key`")[2]
    assert set(script.OPTIONS) == set(THEIRS["options"])
    assert f"ansible.posix {THEIRS['version']}" in page
    for option, about in THEIRS["options"].items():
        rows = re.findall(rf"^\| `{option}\b.*$", page, re.MULTILINE)
        assert rows, option
        spec, cases = about["spec"], about["cases"]
        assert {True, False} <= {each["given"] for each in cases} or spec["type"] != "bool", option
        assert set(spec.get("choices", ())) <= {each["given"] for each in cases}, option
        # Where a task stays as it is, the row says so, and the other way round.
        assert any("stays" in each for each in cases) == any("stays" in row for row in rows), option


@pytest.mark.parametrize(
    ("option", "case"), [(option, case) for option, about in THEIRS["options"].items() for case in about["cases"]]
)
def test_a_task_that_says_an_option_is_turned_or_stays_as_its_case_says(script, option, case):
    words = {"user": "deploy", "key": "ssh-ed25519 AAAA one", option: case["given"]}
    task = {"name": "x", "ansible.posix.authorized_key": words}
    text = yaml.safe_dump([{"hosts": "all", "tasks": [task]}], sort_keys=False, width=10**6)
    new, ((_line, turned, why),) = script.turned(text, "account")
    assert turned == ("turned" in case), why
    if not turned:
        assert new == text
        assert case["stays"] in why
        return
    assert "authorized_key" not in new
    assert case["turned"] in [line.strip(" -") for line in new.splitlines()], new


def test_a_file_that_is_no_yaml_is_told_and_left(script, tmp_path: Path, capsys):
    path = tmp_path / "odd.yml"
    path.write_text("a: [")
    assert script.main(["--write", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == "a: ["
