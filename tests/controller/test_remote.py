"""kps against a controller on the network: a real `kps serve` with its own certificate, and people with access keys."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from controller.client import KpsClient, Refused, call, remote
from tests.controller.faces import KPS, here
from tests.controller.remotely import SECONDS, Person, Served, another_certificate, elsewhere

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served") / "home")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def anna(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return served.person("anna", "administrator", tmp_path_factory.mktemp("people") / "anna")


@pytest.fixture(scope="module")
def carl(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return served.person("carl", "auditor", tmp_path_factory.mktemp("people") / "carl")


def error(result: Result) -> tuple[int, str]:
    return result.exit_code, json.loads(result.stderr)["error"]["code"]


# -- commands


def test_every_group_of_commands_works_from_afar(served: Served, anna: Person) -> None:
    who = json.loads(anna.kps(served, "whoami", "--json").stdout)
    assert (who["controller"], who["said_by"], who["user"], who["role"], who["at_home"]) == (
        served.url, "KPS_URL", "anna", "administrator", False
    )  # fmt: skip
    for words in (
        ("server", "add", "web-1", "192.0.2.1", "--host-key", HOST_KEY),
        ("server", "show", "web-1"),
        ("keypair", "create", "ops"),
        ("keypair", "list"),
        ("kms", "key", "list"),
        ("task", "list"),
        ("user", "list"),
        ("access-key", "list"),
        ("quota", "show"),
        ("tenant", "list"),
        ("audit", "list", "--limit", "3"),
        ("audit", "verify"),
    ):
        result = anna.kps(served, *words, "--json")
        assert result.exit_code == 0, (words, result.stderr)
        json.loads(result.stdout)
    missing = anna.kps(served, "server", "show", "gone", "--json")
    assert error(missing) == (3, "server_not_found")


def test_orders_are_followed_to_their_end_from_afar(served: Served, anna: Person) -> None:
    with socket.socket() as refusing:  # bound, and nobody listens
        refusing.bind(("127.0.0.1", 0))
        added = here(
            served.home, "server", "add", "away", "127.0.0.1", "--port", str(refusing.getsockname()[1]), "--host-key", HOST_KEY
        )
        assert added.exit_code == 0, added.stderr
        assert anna.kps(served, "keypair", "create", "pair").exit_code == 0
        result = anna.kps(served, "bind", "away", "--keypair", "pair", "--password-stdin", "--json", stdin="secret\n")
    assert result.exit_code == 1, result.stderr
    (task,) = json.loads(result.stdout)
    assert (task["status"], task["cause"]) == ("failed", "connection_refused")


@pytest.mark.parametrize(
    "words",
    [
        ("init",), ("serve",), ("demo",), ("root", "show"), ("root", "check"), ("root", "rotate"),
        ("backup", "create", "--out", "x"), ("restore", "x"), ("after-restore",),
        ("reset", "web-1", "--keypair", "ops", "--root", "/mnt"),
        ("check-nothing",),
    ][:-1],
    ids=" ".join,
)  # fmt: skip
def test_what_needs_the_home_says_so(served: Served, anna: Person, words: tuple[str, ...]) -> None:
    result = anna.kps(served, *words, "--json")
    assert error(result) == (2, "home_only")
    assert "KPS_URL" in result.stderr
    assert not (anna.place / ".local").exists()


def test_a_home_that_is_named_wins_over_the_environment(served: Served, anna: Person) -> None:
    said = json.loads(anna.kps(served, "whoami", "--home", str(served.home), "--json").stdout)
    assert (said["controller"], said["user"]) == (str(served.home), "administrator")


def test_a_private_key_goes_to_the_person_alone(served: Served, anna: Person) -> None:
    assert anna.kps(served, "keypair", "create", "mine").exit_code == 0
    file = anna.place / "mine"
    result = anna.kps(served, "keypair", "export", "mine", "--out", str(file))
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert "PRIVATE" not in result.stdout + result.stderr


def test_an_auditor_looks_and_changes_nothing(served: Served, carl: Person) -> None:
    assert json.loads(carl.kps(served, "whoami", "--json").stdout)["role"] == "auditor"
    assert carl.kps(served, "server", "list").exit_code == 0
    assert error(carl.kps(served, "keypair", "create", "x", "--json")) == (4, "role_reads_only")
    assert error(carl.kps(served, "server", "add", "x", "192.0.2.9", "--trust-on-first-use", "--json")) == (4, "role_reads_only")


# -- whom one speaks to, and as whom


def test_only_the_certificate_that_is_known_is_spoken_to(served: Served, anna: Person) -> None:
    own = str(served.home / "tls.crt")
    assert anna.kps(served, "server", "list", KPS_FINGERPRINT="", KPS_CA_CERTIFICATE=own).exit_code == 0
    other = served.fingerprint[:-2] + ("00" if served.fingerprint[-2:] != "00" else "01")
    for wrong in (
        {"KPS_FINGERPRINT": other},
        {"KPS_FINGERPRINT": ""},  # what this machine trusts
        {"KPS_FINGERPRINT": "", "KPS_CA_CERTIFICATE": str(another_certificate(anna.place))},
    ):
        result = anna.kps(served, "server", "list", "--json", **wrong)
        assert error(result) == (5, "certificate_not_trusted"), wrong
    assert error(anna.kps(served, "server", "list", "--json", KPS_FINGERPRINT="12:34")) == (2, "fingerprint_unusable")
    gone = anna.kps(served, "server", "list", "--json", KPS_FINGERPRINT="", KPS_CA_CERTIFICATE=str(anna.place / "gone"))
    assert error(gone) == (2, "ca_certificate_unusable")


def test_an_access_key_that_has_ended_is_refused_without_its_secret(served: Served, anna: Person, tmp_path: Path) -> None:
    eve = served.person("eve", "operator", tmp_path / "eve")
    assert eve.kps(served, "server", "list").exit_code == 0
    assert anna.kps(served, "access-key", "disable", eve.access_key).exit_code == 0
    result = eve.kps(served, "server", "list", "--json")
    assert error(result) == (4, "not_signed")
    wrong = anna.kps(served, "server", "list", "--json", KPS_SECRET_KEY="another-secret-key")
    assert error(wrong) == (4, "not_signed")
    for text in (result.stdout, result.stderr, wrong.stderr):
        assert eve.secret_key not in text
        assert "another-secret-key" not in text


def test_temporary_keys_are_signed_with_too(served: Served, anna: Person) -> None:
    made = json.loads(anna.kps(served, "temporary-key", "create", "--for", "1h", "--json").stdout)
    short = Person(anna.place, made["access_key"], made["secret_key"])
    who = short.kps(served, "whoami", "--json", KPS_SECURITY_TOKEN=made["security_token"])
    assert json.loads(who.stdout)["user"] == "anna"
    assert error(short.kps(served, "whoami", "--json")) == (4, "not_signed")


def test_a_clock_that_is_off_is_told(served: Served, anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Late":
            return cls.fromtimestamp((datetime.now(UTC) - timedelta(hours=2)).timestamp(), tz)

    monkeypatch.setattr(remote, "datetime", Late)
    monkeypatch.setattr(call, "datetime", Late)
    with KpsClient.over_network(served.remote(anna)) as kps, pytest.raises(Refused) as refused:
        kps.servers()
    assert refused.value.code == "clock_differs"
    assert "behind the controller's" in refused.value.message
    assert "2:00:0" in refused.value.message or "1:59:5" in refused.value.message


def test_the_sync_client_has_the_verbs_of_the_async_one(served: Served, anna: Person) -> None:
    with KpsClient.over_network(served.remote(anna)) as kps:
        assert kps.whoami()["user"] == "anna"
        assert kps.create_keypair({"name": "by-a-script"})["name"] == "by-a-script"
        assert kps.export_keypair("by-a-script").startswith("-----BEGIN")
        assert kps.tasks(["no-such-task"]) == []
        kps.delete_keypair("by-a-script")
        with pytest.raises(Refused, match="nothing of this name"):
            kps.keypair("../users")
    with KpsClient.over_socket(served.home / "kps.sock") as kps:
        assert kps.whoami()["at_home"] is True


# -- profiles


def test_a_profile_is_all_that_is_needed(served: Served, anna: Person, tmp_path: Path) -> None:
    def kps(*words: str, stdin: str = "", **more: str) -> Result:
        return elsewhere({"HOME": str(tmp_path)} | more, *words, stdin=stdin)

    words = ("profile", "add", "prod", "--url", served.url, "--access-key", anna.access_key, "--fingerprint", served.fingerprint)
    made = kps(*words, "--json", stdin=anna.secret_key + "\n")
    assert made.exit_code == 0, made.stderr
    file = Path(json.loads(made.stdout)["file"])
    assert file == tmp_path / ".config/kps/profiles/prod.toml"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    assert [each.name for each in file.parent.iterdir()] == ["prod.toml"]
    assert error(kps(*words, "--json", stdin="other\n")) == (4, "profile_exists")
    assert json.loads(kps("--profile", "prod", "whoami", "--json").stdout)["user"] == "anna"
    assert json.loads(kps("whoami", "--json", KPS_PROFILE="prod").stdout)["said_by"] == "KPS_PROFILE=prod"
    # The environment before a profile that it merely names, and an option before both.
    another = {"KPS_URL": "https://127.0.0.1:1", "KPS_ACCESS_KEY": "x", "KPS_SECRET_KEY": "y", "KPS_PROFILE": "prod"}
    assert error(kps("server", "list", "--json", **another)) == (5, "controller_unreachable")
    assert kps("server", "list", "--profile", "prod", **another).exit_code == 0
    shown = kps("profile", "show", "prod")
    assert served.url in shown.stdout
    assert anna.secret_key not in made.stdout + shown.stdout
    assert kps("--profile", "prod", "--home", str(served.home), "server", "list").exit_code == 2
    for mode in (0o640, 0o604, 0o622):
        file.chmod(mode)
        assert error(kps("--profile", "prod", "server", "list", "--json")) == (4, "profile_exposed")
    file.chmod(0o600)
    assert kps("profile", "remove", "prod").exit_code == 0
    assert error(kps("--profile", "prod", "server", "list", "--json")) == (3, "profile_not_found")


@pytest.mark.parametrize(
    "text", ["secret_key = hunter2", 'secret_key = "hunter2"', 'url = "https://x"\nfingerprnt = "hunter2"', "\xff"]
)
def test_a_profile_that_cannot_be_used_gives_nothing_away(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kps/profiles/odd.toml"
    file.parent.mkdir(parents=True)
    file.touch(mode=0o600)
    file.write_bytes(text.encode("latin-1"))
    result = elsewhere({"XDG_CONFIG_HOME": str(tmp_path)}, "--profile", "odd", "server", "list", "--json")
    assert error(result) == (2, "profile_unusable")
    assert "hunter2" not in result.stderr


# -- while a task runs


@pytest.fixture
def waiting(served: Served, anna: Person) -> Iterator["subprocess.Popen[str]"]:
    """A command from afar that waits for a task of it: its server says nothing."""
    name = f"silent-{os.urandom(4).hex()}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        assert here(served.home, "server", "add", name, "127.0.0.1", "--port", port, "--host-key", HOST_KEY).exit_code == 0
        assert anna.kps(served, "keypair", "create", name).exit_code == 0
        command = subprocess.Popen(
            [KPS, "bind", name, "--keypair", name, "--password-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=anna.environment(served) | {"PYTHONUNBUFFERED": "1"},
        )
        assert command.stdin is not None
        command.stdin.write("secret\n")
        command.stdin.close()
        command.stdin = None
        silent.settimeout(SECONDS)
        connection, _ = silent.accept()
        yield command
        connection.close()
    command.kill()
    command.communicate()


def test_an_interrupted_command_leaves_its_task_to_the_controller(
    served: Served, anna: Person, waiting: "subprocess.Popen[str]"
) -> None:
    shown = Path(f"/proc/{waiting.pid}/cmdline").read_bytes().decode()
    assert anna.secret_key not in shown
    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate(timeout=SECONDS)
    assert waiting.returncode == 130
    assert f"the controller at {served.url} works on, and the task goes on" in errors
    (task_id,) = re.findall(r"kps task show ([0-9a-f-]{36})", errors)
    assert json.loads(anna.kps(served, "task", "show", task_id, "--json").stdout)["status"] == "running"


def test_a_controller_that_is_started_again_is_followed_on(served: Served, waiting: "subprocess.Popen[str]") -> None:
    served.kill()
    assert waiting.stderr is not None
    told = waiting.stderr.readline()
    assert f"{served.url} did not answer" in told
    assert "asking again for 120 s" in told
    served.start()
    output, errors = waiting.communicate(timeout=SECONDS)
    assert f"{served.url} answers again" in errors
    assert waiting.returncode == 1
    assert "interrupted" in output


def test_the_trail_is_followed_over_a_controller_that_is_started_again(served: Served, carl: Person) -> None:
    words = ["audit", "list", "--follow", "--limit", "1"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = carl.environment(served) | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([KPS, *words, "--json"], env=environment, **pipes) as command:
        try:
            assert command.stdout is not None
            assert command.stderr is not None
            numbers = [json.loads(command.stdout.readline())["number"]]
            served.kill()
            assert "asking again for 120 s" in command.stderr.readline()
            served.start()
            assert f"{served.url} answers again" in command.stderr.readline()
            assert here(served.home, "user", "create", "dora").exit_code == 0
            name = ""
            while name != "dora":
                event = json.loads(command.stdout.readline())
                numbers.append(event["number"])
                name = event["detail"].get("name")
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        finally:
            command.kill()


def test_whoever_is_taken_in_while_the_trail_is_followed_has_a_name(served: Served, carl: Person) -> None:
    environment = carl.environment(served) | {"PYTHONUNBUFFERED": "1"}
    words = [KPS, "audit", "list", "--follow", "--kind", "keypair_created"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout is not None
            # Something has been told: the names that there are then are known.
            assert here(served.home, "keypair", "create", "before-emil").exit_code == 0
            while "before-emil" not in command.stdout.readline():
                pass
            emil = served.person("emil", "operator", carl.place / "emil")
            assert emil.kps(served, "keypair", "create", "emils").exit_code == 0
            assert "  emil  " in command.stdout.readline()
        finally:
            command.kill()
