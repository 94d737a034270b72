"""The collection as Ansible's own tools see it, and the script that turns tasks of authorized_key into ours."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def run(place, program, *words, directory="."):
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
        [programs / program, *words], cwd=place / directory, env=environ, capture_output=True, text=True, timeout=300, check=False
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


def test_every_option_of_authorized_key_has_a_row(script):
    rows = (ROOT / "docs/ansible.md").read_text().partition("## From `ansible.posix.authorized_key`")[2]
    for option in script.OPTIONS:
        assert f"\n| `{option}" in rows, option


def test_a_file_that_is_no_yaml_is_told_and_left(script, tmp_path: Path, capsys):
    path = tmp_path / "odd.yml"
    path.write_text("a: [")
    assert script.main(["--write", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == "a: ["
