"""Servers out of lists that others have written: OpenSSH's reading decides, nothing in them is run, and each has its bounds."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from controller import keyfiles
from controller.cli import foreign, inputs
from controller.cli.exits import Declined
from controller.settings import Settings
from tests.controller.faces import here
from tests.needs import lacking

KEY = keyfiles.generate("ed25519")[0].line()
OTHER = keyfiles.generate("ecdsa-nistp256")[0].line()

CONFIG = """\
# Jump servers first, or not.
Include {include}
Host web-1 web-2
  HostName %h.example.net
  ProxyJump gate
Host "web-2"
  Port=2200
Host gate
  HostName 192.0.2.1
  User jumper
Host db-* !db-2
  Port 2222
Match host db-2
  User two
Match originalhost web-2 user admin
  User never
Host db-1 db-2
  HostName 10.0.0.7
  IdentityFile %d/there/is/no/such
  User three
Host *.example.net ?x
  User pattern
Host *
  User admin
  ServerAliveInterval 30
"""


def listed(path: Path, text: str, **more: Any) -> foreign.Listed:
    path.write_text(text)
    return foreign.ssh_config(path, **more)[0]


def test_a_configuration_is_read_as_ssh_reads_it(tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        lacking("OpenSSH's client: apt-get install openssh-client")
    include = tmp_path / "more.conf"
    include.write_text("Host far\n  HostName far.example.net\n  ProxyJump gate,web-1\nHost web-*\n  Port 2022\n")
    path = tmp_path / "config"
    found = listed(path, CONFIG.format(include=include))
    assert (found.wrong, found.notes) == ({}, [])
    servers = {each["name"]: each for each in found.servers.values()}
    assert set(servers) == {"far", "web-1", "web-2", "gate", "db-1", "db-2"}
    for name, server in servers.items():
        asked = ["ssh", "-G", "-F", path, name]
        shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
        said = dict(line.partition(" ")[::2] for line in shown.split("\n"))
        assert (server["host"], str(server.get("port", 22)), server["login"]) == (said["hostname"], said["port"], said["user"]), (
            name
        )
        assert ",".join(server.get("jump", [])) == said.get("proxyjump", ""), name
    assert next(iter(found.servers)) == f"{include}:1"
    found.in_order()
    order = [each["name"] for each in found.servers.values()]
    assert order.index("gate") < order.index("web-1") < order.index("far")


def test_nothing_of_a_configuration_is_run(tmp_path: Path) -> None:
    would = f"touch {tmp_path}/run"
    text = f'Match host web-1 exec "{would}"\n  User evil\nHost web-1\n  ProxyCommand {would}\n  User good\n'
    found = listed(tmp_path / "config", text)
    (server,) = found.servers.values()
    assert server == {"name": "web-1", "host": "web-1", "login": "good"}
    assert [note.partition(": ")[0] for note in found.notes] == [f"{tmp_path}/config:1", f"{tmp_path}/config:3"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Host web-1\n  Port x\n", ":2: Invalid Port integer"),
        ('Host web-1\n  User "open\n', ":2: No closing quotation"),
        ("Host *\n  User x\n", "no Host line names a server"),
        ("Host web-1\nMatch nonsense x\n", ":2: Invalid match condition"),
        ('Host web-1\nMatch ""\n  User x\n', ":2: an empty word"),
        ("Host web-1\n=\n", ":2: an empty word"),
        ('Host web-1\nHost ""\n', ":2: Host names an empty word"),
        ('Host web-1\n  HostName ""\n', ":2: Hostname names nothing"),
        ('Host web-1\n  ProxyJump ""\n', ":2: ProxyJump names nothing"),
        ("Host web-1\n  ProxyJump a,,b\n", ":2: ProxyJump names nothing"),
        ('Host web-1\n  User ""\n', ":2: User names nothing"),
        ('Host web-1\n  Include ""\n', ":2: Unacceptable pattern"),
        ("Host web-1\n  HostName %z\n", ":2: Invalid token expansion: z"),
        ("Include {itself}\nHost web-1\n", "include one another"),
        ("Include {large}\nHost web-1\n", "larger than"),
        ("Host web-1\n" + "#" * foreign.CONFIG_BYTES, "larger than"),
        ("Host " + " ".join(f"w{n}" for n in range(foreign.MOST_HOSTS + 1)), "more than"),
    ],
)
def test_a_configuration_that_is_none_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config"
    (tmp_path / "large").write_text("#" * (foreign.CONFIG_BYTES + 1))
    with pytest.raises(Declined) as declined:
        listed(path, text.replace("{itself}", str(path)).replace("{large}", f"{tmp_path}/large"))
    assert told in declined.value.message
    assert str(tmp_path) in declined.value.message


def test_a_login_that_ssh_would_not_put_into_an_address_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "-x;y")
    with pytest.raises(Declined, match=r"config:2: Unsafe username"):
        listed(tmp_path / "config", "Host web-1\n  HostName %u.example\n")


def test_a_jump_server_has_a_host_of_its_own(tmp_path: Path) -> None:
    found = listed(tmp_path / "config", "Host web-1\n  ProxyJump me@gate:2222\nHost web-2\n  ProxyJump none\n")
    assert list(found.wrong) == [f"{tmp_path}/config:1"]
    assert "a Host of its own" in found.wrong[f"{tmp_path}/config:1"]
    found.only(["web-2"])
    assert (list(found.wrong), [each["name"] for each in found.servers.values()]) == ([], ["web-2"])


def test_host_keys_are_found_as_ssh_would(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    lines = [
        f"web-1,192.0.2.1 {OTHER}",
        f"web-1 {KEY}",
        f"[192.0.2.2]:2222 {KEY}",
        f"alias {OTHER}",
        f"@revoked bad {KEY}",
        f"bad {KEY}",
    ]
    path.write_text("\n".join(lines) + "\n")
    if shutil.which("ssh-keygen"):
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=False, capture_output=True)
        assert "192.0.2.2" not in path.read_text()
    found = foreign.host_keys(path)
    assert found({"name": "web-1", "host": "web-1"}, "") == " ".join(KEY.split()[:2])  # of two the better one
    assert found({"name": "x", "host": "192.0.2.1"}, "") == " ".join(OTHER.split()[:2])
    assert found({"name": "x", "host": "192.0.2.2", "port": 2222}, "") == " ".join(KEY.split()[:2])
    assert found({"name": "x", "host": "192.0.2.2"}, "") is None
    assert found({"name": "x", "host": "192.0.2.9"}, "alias") == " ".join(OTHER.split()[:2])
    assert found({"name": "x", "host": "bad"}, "") is None


INVENTORY: Any = {
    "_meta": {
        "hostvars": {
            "db": {"ansible_host": "10.0.0.7", "ansible_port": 2222, "ansible_user": {"__ansible_unsafe": "dba"}},
            "web": {
                "ansible_ssh_common_args": "-J gate -o ControlMaster=auto -4 -p2222 -i ~/.ssh/hunter2",
                "ansible_ssh_extra_args": "-o 'ProxyCommand sshpass -p hunter2 ssh x' -o ' SetEnv\tA=hunter2' -o =hunter2",
                "kps_host_key": KEY,
                "kps_labels": {"stage": "prod"},
            },
            "win": {"ansible_connection": "winrm"},
        }
    },
    "all": {"children": ["ungrouped", "front", "back"]},
    "ungrouped": {"hosts": ["gate"]},
    "front": {"hosts": ["web"], "children": ["back"]},
    "back": {"hosts": ["db", "win"], "children": ["front"]},
}


def inventory(path: Path, **variables: Any) -> foreign.Listed:
    said = json.loads(json.dumps(INVENTORY))
    said["_meta"]["hostvars"]["db"] |= variables
    path.write_text(json.dumps(said))
    return foreign.ansible_inventory(path, "me")


def test_an_inventory_is_taken_over_with_its_groups(tmp_path: Path) -> None:
    found = inventory(tmp_path / "i")
    assert {each["name"]: each for each in found.servers.values()} == {
        "db": {"name": "db", "host": "10.0.0.7", "port": 2222, "login": "dba", "labels": {"back": "yes", "front": "yes"}},
        "web": {
            "name": "web", "host": "web", "login": "me", "host_key": KEY, "jump": ["gate"],
            "labels": {"back": "yes", "front": "yes", "stage": "prod"},
        },
        "gate": {"name": "gate", "host": "gate", "login": "me", "labels": {}},
    }  # fmt: skip
    assert found.notes == [
        "web: not taken over of its SSH arguments: -o ControlMaster -4 -p -i -o ProxyCommand -o SetEnv -o",
        "win: left out: it is reached by winrm",
    ]  # fmt: skip  # not what the options are given: a password may be in it


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ansible_host": "{{ lookup('pipe', 'id') }}"}, "ansible_host is a template"),
        ({"ansible_user": {"__ansible_vault": "$ANSIBLE_VAULT;1.1"}}, "ansible_user is encrypted"),
        ({"ansible_port": "ssh"}, "ansible_port 'ssh' is not a number"),
        ({"ansible_port": True}, "ansible_port is no text"),
        ({"ansible_ssh_common_args": "-o ProxyJump=me@gate"}, "its jump server me@gate is no host of this inventory"),
        ({"ansible_ssh_common_args": "-o 'open"}, "No closing quotation"),
    ],
)
def test_a_host_that_cannot_be_taken_over_is_named(tmp_path: Path, variables: Any, told: str) -> None:
    found = inventory(tmp_path / "i", **variables)
    assert list(found.wrong) == [f"{tmp_path}/i: db"]
    assert told in found.wrong[f"{tmp_path}/i: db"]


@pytest.mark.parametrize(
    "text", ["[web]\nweb-1 ansible_host=192.0.2.1\n", "{}", "[]", '{"_meta": {"hostvars": []}}', "[" * 100_000]
)
def test_what_is_no_inventory_says_what_is_wanted(tmp_path: Path, text: str) -> None:
    (tmp_path / "i").write_text(text)
    with pytest.raises(Declined, match=r"ansible-inventory -i INVENTORY --list"):
        foreign.ansible_inventory(tmp_path / "i")


@pytest.fixture
def imported(settings: Settings, made: Any) -> Any:
    def run(*words: str, stdin: str | None = None, code: int = 0) -> Result:
        result = here(settings.home, "server", "import", *words, stdin=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return run


def names(settings: Settings) -> list[str]:
    return [one["name"] for one in json.loads(here(settings.home, "server", "list", "--json").stdout)]


def test_a_plan_adds_nothing_and_the_import_adds_what_it_showed(imported: Any, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        f"Include {tmp_path}/none\nHost web-1\n  ProxyJump gate\nHost gate github.com\n  HostName 192.0.2.1\n  User me\n"
    )
    (tmp_path / "known").write_text(f"192.0.2.1 {KEY}\n")
    words = ("--ssh-config", str(path), "--only", "web-*", "--only", "gate", "--known-hosts", str(tmp_path / "known"))
    planned = json.loads(imported(*words, "--plan", "--json").stdout)["servers"]
    assert names(settings) == []
    assert [one["name"] for one in planned] == ["gate", "web-1"]
    added = json.loads(imported(*words, "--json").stdout)
    for before, after in zip(planned, added, strict=True):
        assert {name: after[name] for name in before} == before
    # A second time the names are taken, and each is told with its line; or they are passed over.
    (first, *told) = imported(*words, code=2).stderr.rstrip("\n").split("\n")
    assert first == "kps: nothing was imported"
    assert [line.partition(": ")[0] for line in told] == [f"{path}:2", f"{path}:4"]
    assert imported(*words, "--skip-existing").stdout == "0 servers added\n"


def test_an_inventory_comes_from_stdin(imported: Any, settings: Settings) -> None:
    result = imported("--ansible-inventory", "-", stdin=json.dumps(INVENTORY))
    assert result.stdout == "3 servers added\n"
    assert "win: left out" in result.stderr
    assert names(settings) == ["db", "gate", "web"]


@pytest.mark.parametrize("words", [(), ("a.csv", "--ssh-config", "b"), ("a.csv", "--login", "me")])
def test_one_kind_of_file_is_given(imported: Any, words: tuple[str, ...]) -> None:
    assert "kps: " in imported(*words, code=2).stderr


def test_ten_thousand_servers_with_the_longest_keys_fit(imported: Any, tmp_path: Path) -> None:
    key = "ssh-rsa " + base64.b64encode(b"\0\0\0\7ssh-rsa\0\0\0\3\1\0\1\0\0\1\x81\0" + bytes(range(1, 129)) * 3).decode()
    path = tmp_path / "servers.csv"
    rows = [f"web-{n},10.0.{n // 250}.{n % 250},{key}\n" for n in range(10_000)]
    path.write_text("name,host,host_key\n" + "".join(rows))
    assert 5_500_000 < path.stat().st_size < inputs.CSV_BYTES
    result = imported(str(path), "--plan", "--json")
    assert len(json.loads(result.stdout)["servers"]) == 10_000
    path.write_text("name,host\n" + "".join(f"web-{n},h\n" for n in range(10_001)))
    assert "send at most 10000" in imported(str(path), "--plan", code=2).stderr
