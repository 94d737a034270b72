"""What OpenSSH's client is told: read back by ssh itself, and never more than was meant."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from controller.cli import sshfiles
from controller.cli.exits import Declined
from controller.client.reaching import Hop
from controller.model import OLD_NAMES
from tests.needs import lacking

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIArHxGO8Uzq2Y2ut7Q3/6WdiHzw77lgxU30Di3BHULSQ"
ID = "5b873bc2-7852-454d-b124-f682a1453ed4"
HOP = Hop("web-1", ID, "192.0.2.1", 22, "root", f"ssh-ed25519 {BLOB}", (), ())
BOUND = replace(HOP, keypair="ops", keypair_id=ID, public_key=f"ssh-ed25519 {BLOB} ops", managed=True)


@pytest.fixture(autouse=True)
def client():
    if shutil.which("ssh") is None:
        lacking("OpenSSH's client: apt-get install openssh-client")


def told(directory: Path, servers: list[list[Hop]], *words: str) -> dict[str, list[str]]:
    """What ssh itself makes of the configuration for a server: setting to values."""
    sshfiles.write(directory, servers, "here")
    asked = ["ssh", "-G", "-F", directory / "config", *words]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
    found: dict[str, list[str]] = {}
    for line in shown.split("\n")[:-1]:
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def test_ssh_reads_what_was_meant(tmp_path):
    jump = replace(BOUND, name="gate", id=ID.replace("5", "6"), host="gate.example.net")
    hop = replace(BOUND, port=2022, login="admin", jump=("gate",), host="fe80::1%eth0")
    other = replace(hop, login="deploy", keypair_id=ID.replace("5", "7"), managed=False)
    servers = [[jump], [hop, other]]
    found = told(tmp_path / "made", servers, "web-1")
    assert {name: found[name] for name in ("hostname", "port", "user", "proxyjump", "hostkeyalias")} == {
        "hostname": ["fe80::1%eth0"], "port": ["2022"], "user": ["admin"], "proxyjump": ["gate"], "hostkeyalias": [f"kps-{ID}"],
    }  # fmt: skip
    assert found["stricthostkeychecking"] == ["true"]
    assert found["userknownhostsfile"] == [f"{tmp_path}/made/known_hosts"]
    assert found["identityfile"] == [f"{tmp_path}/made/keys/{ID}.pub"]
    assert found["identityagent"] == [f"{tmp_path}/made/agent"]
    assert found["identitiesonly"] == ["yes"]
    # Another login has another key, and here the agent is the user's own.
    found = told(tmp_path / "made", servers, "deploy@web-1")
    assert found["identityfile"] == [f"{tmp_path}/made/keys/{other.keypair_id}.pub"]
    assert "identityagent" not in found
    # Nothing of it holds for a server that is not in it.
    found = told(tmp_path / "made", servers, "elsewhere")
    assert "hostkeyalias" not in found
    assert found["stricthostkeychecking"] == ["ask"]


def test_old_algorithms_are_for_the_server_that_is_allowed_them(tmp_path):
    old = replace(BOUND, name="old", old_algorithms=OLD_NAMES)
    for name, allowed in (("old", True), ("web-1", False)):
        found = told(tmp_path / "made", [[BOUND], [old]], name)
        said = {
            word for setting in ("kexalgorithms", "hostkeyalgorithms", "ciphers", "macs") for word in found[setting][0].split(",")
        }
        assert (set(OLD_NAMES) <= said) == allowed
        assert ("ssh-rsa" in found["pubkeyacceptedalgorithms"][0].split(",")) == allowed


@pytest.mark.parametrize(
    "bad", ["a b", "a\nHost *", "-oProxyCommand=id", "*", "!a", "a,b", "$(id)", "`id`", "a;b", '"', "%h", "ä", ""]
)
@pytest.mark.parametrize("field", ["name", "login", "host", "jump", "id", "keypair_id", "host_key"])
def test_a_hostile_word_is_not_written(tmp_path, field, bad):
    refused(tmp_path, field, bad)


@pytest.mark.parametrize("bad", ["none", "NONE", "None"])
def test_a_jump_server_whose_name_means_none_is_not_gone_around(tmp_path, bad):
    refused(tmp_path, "jump", bad)
    # It is a server like others where nothing is behind it.
    assert told(tmp_path / "made", [[replace(BOUND, name=bad)]], bad)["hostkeyalias"] == [f"kps-{ID}"]


def refused(tmp_path, field, bad):
    value = (bad,) if field == "jump" else f"ssh-ed25519 {bad}" if field == "host_key" else bad
    with pytest.raises(Declined) as declined:
        sshfiles.write(tmp_path / "made", [[replace(BOUND, **{field: value})]], "here")
    assert declined.value.code == "not_for_ssh"
    assert not (tmp_path / "made/config").exists()


def test_a_comment_of_a_public_key_is_not_written(tmp_path):
    hop = replace(BOUND, public_key=f"ssh-ed25519 {BLOB} x\nssh-rsa AAAA")
    sshfiles.write(tmp_path / "made", [[hop]], "here\nHost *\n  ProxyCommand id")
    assert (tmp_path / f"made/keys/{ID}.pub").read_text() == f"ssh-ed25519 {BLOB}\n"
    assert "\n  ProxyCommand" not in (tmp_path / "made/config").read_text()


@pytest.mark.parametrize("name", ["with space", "a'b", "a$b", "a%h", "a;b", 'a"b', "x" * 100])
def test_a_directory_that_a_shell_would_read_is_refused(tmp_path, name):
    with pytest.raises(Declined) as declined:
        sshfiles.usable(tmp_path / name)
    assert declined.value.code == "directory_unusable"


def test_a_directory_in_which_others_write_is_refused(tmp_path):
    (tmp_path / "made").mkdir(mode=0o770)
    (tmp_path / "made").chmod(0o770)
    with pytest.raises(Declined) as declined:
        sshfiles.write(tmp_path / "made", [[BOUND]], "here")
    assert declined.value.code == "directory_unusable"


def test_what_is_another_controllers_is_not_written_over_and_what_is_gone_goes(tmp_path):
    sshfiles.write(tmp_path / "made", [[BOUND]], "here")
    with pytest.raises(Declined) as declined:
        sshfiles.write(tmp_path / "made", [[BOUND]], "there")
    assert declined.value.code == "file_exists"
    assert "it is of here" in declined.value.message
    sshfiles.write(tmp_path / "made", [[HOP]], "here")
    assert list((tmp_path / "made/keys").iterdir()) == []
    assert sshfiles.key_ids(tmp_path / "made") == set()
    (tmp_path / "made/config").write_text("Host mine\n")
    with pytest.raises(Declined, match="it is of something else"):
        sshfiles.write(tmp_path / "made", [[HOP]], "here")
