"""What other programs build on: fields, exit codes, bare arrays, times, modes of files."""

import json
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import Result

import controller.app
from controller.cli.reference import FIELDS
from controller.model import KEY_TYPES, Outcome
from controller.settings import Settings
from tests.controller.faces import TIMED_OUT, Given, answering, here, program
from tests.controller.given import bind

Kps = Callable[..., Result]

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def given() -> Given:
    return {}


@pytest.fixture
def outcomes() -> dict[str, Outcome]:
    return {"web-2": TIMED_OUT}


@pytest.fixture
def kps(settings: Settings, made: Any, outcomes: dict[str, Outcome], given: Given, monkeypatch: pytest.MonkeyPatch) -> Kps:
    """Run kps in this process, on a home whose servers answer what `outcomes` says."""
    monkeypatch.setattr(controller.app, "dispatching", answering(outcomes, given))

    def run(*words: str, stdin: str | None = None, code: int = 0) -> Result:
        result = here(settings.home, *words, stdin=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return run


@pytest.fixture
def two(kps: Kps) -> None:
    """Two servers and a key pair."""
    kps("server", "add", "web-1", "192.0.2.1", "--label", "env=prod")
    kps("server", "add", "web-2", "192.0.2.2", "--label", "env=prod")
    kps("keypair", "create", "ops")


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def error_of(result: Result) -> Any:
    """The one object on stderr; nothing on stdout."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return json.loads(result.stderr)["error"]


def test_init_prints_the_access_key_and_shows_the_secret_key_only_once(tmp_path: Path) -> None:
    first = json.loads(program(tmp_path / "home", "init", "--json").stdout)
    again = json.loads(program(tmp_path / "home", "init", "--json").stdout)
    assert set(first) == set(FIELDS["init"])
    assert first["secret_key"]
    assert again == first | {"secret_key": None}
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_server_has_the_fields_of_the_contract(kps: Kps) -> None:
    words = ("--port", "2222", "--login", "deploy", "--label", "env=prod", "--label", "tier=1")
    server = parsed(kps("server", "add", "web-1", "192.0.2.1", *words, "--json"))
    assert set(server) == set(FIELDS["server"])
    assert str(UUID(server["id"])) == server["id"]
    assert {name: server[name] for name in ("name", "host", "port", "login", "labels")} == {
        "name": "web-1",
        "host": "192.0.2.1",
        "port": 2222,
        "login": "deploy",
        "labels": {"env": "prod", "tier": "1"},
    }
    assert (server["keypair"], server["bindings"], server["password_login"]) == (None, [], "unknown")
    assert parsed(kps("server", "show", "web-1", "--json")) == server
    assert parsed(kps("server", "list", "--json")) == [server]
    assert parsed(kps("server", "list", "env=prod", "--json")) == [server]
    kps("server", "list", "env=test", "--json", code=3)


def test_a_binding_shows_up_at_its_server(kps: Kps, two: None, settings: Settings) -> None:
    bound = parsed(kps("bind", "web-1", "--keypair", "ops", "--json"))[0]
    from controller.model import Binding, now
    from controller.store import Store

    store = Store(settings.database_url)
    who = store.caller_by_local_home()
    server, keypair = store.server(who.tenant_id, "web-1"), store.keypair(who.tenant_id, who.user_id, "ops")
    bind(store, Binding(server.id, "root", keypair.id, "logged_in", True, bound["task_id"], now()))
    store.close()
    found = parsed(kps("server", "show", "web-1", "--json"))
    assert found["keypair"] == "ops"
    (binding,) = found["bindings"]
    assert RFC_3339.fullmatch(binding.pop("created_at"))
    assert binding == {
        "login": "root",
        "keypair": "ops",
        "another_users": False,
        "proof": "logged_in",
        "closed_password_login": True,
        "task_id": bound["task_id"],
    }
    assert "ops" in kps("server", "list").stdout
    assert error_of(kps("keypair", "delete", "ops", "--json", code=4))["code"] == "already_bound"
    kps("server", "remove", "web-1", "--json", code=4)
    assert parsed(kps("server", "remove", "web-1", "--force", "--json")) == {"name": "web-1", "removed": True}


@pytest.mark.parametrize("type_", [one for one in KEY_TYPES if one not in ("rsa-3072", "rsa-4096")])
def test_a_key_pair_has_the_fields_of_the_contract(kps: Kps, type_: str) -> None:
    made = parsed(kps("keypair", "create", "ops", "--type", type_, "--json"))
    assert set(made) == set(FIELDS["key pair"]) - {"private_key"}
    assert (made["name"], made["type"], made["scope"], made["managed"]) == ("ops", type_, "private", True)
    assert re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", made["fingerprint"])
    assert re.fullmatch(r"([0-9a-f]{2}:){15}[0-9a-f]{2}", made["fingerprint_md5"])
    assert RFC_3339.fullmatch(made["created_at"])
    assert len(made["public_key"].split(" ")) == 3
    assert parsed(kps("keypair", "show", "ops", "--json")) == made
    assert parsed(kps("keypair", "list", "--json")) == [made]


def test_an_unmanaged_key_pair_gives_its_private_half_out_once(kps: Kps) -> None:
    made = parsed(kps("keypair", "create", "mine", "--unmanaged", "--scope", "account", "--json"))
    assert set(made) == set(FIELDS["key pair"])
    assert made["private_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert (made["managed"], made["scope"]) == (False, "account")
    assert "private_key" not in parsed(kps("keypair", "show", "mine", "--json"))
    kps("keypair", "export", "mine", code=3)


def test_a_private_key_that_went_into_a_file_is_nowhere_else(kps: Kps, tmp_path: Path) -> None:
    result = kps("keypair", "create", "mine", "--unmanaged", "--out", str(tmp_path / "mine"), "--json")
    assert parsed(result)["private_key"] is None
    assert "PRIVATE KEY" in (tmp_path / "mine").read_text()
    assert "PRIVATE KEY" not in result.stdout + result.stderr


def test_without_json_stdout_is_the_private_key_and_nothing_else(kps: Kps) -> None:
    result = kps("keypair", "create", "mine", "--unmanaged")
    assert result.stdout.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert result.stdout.endswith("-----END OPENSSH PRIVATE KEY-----\n")
    assert "SHA256:" in result.stderr


@pytest.mark.parametrize("words", [("create", "mine", "--unmanaged"), ("create", "kept"), ("export", "ops")])
def test_a_private_key_file_is_0600_and_never_overwrites(kps: Kps, tmp_path: Path, words: tuple[str, ...]) -> None:
    kps("keypair", "create", "ops")
    out = tmp_path / "key"
    result = kps("keypair", *words, "--out", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "PRIVATE KEY" not in result.stdout
    kps("keypair", "delete", words[1])
    before = out.read_bytes()
    assert error_of(kps("keypair", "create", "again", "--out", str(out), "--json", code=4))["code"] == "file_exists"
    assert out.read_bytes() == before
    kps("keypair", "show", "again", code=3)


def test_a_symbolic_link_is_not_written_through(kps: Kps, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    kps("keypair", "create", "ops", "--out", str(tmp_path / "link"), code=4)
    assert not (tmp_path / "elsewhere").exists()


def test_a_refused_export_leaves_no_file(kps: Kps, tmp_path: Path) -> None:
    kps("keypair", "export", "nobody", "--out", str(tmp_path / "key"), code=3)
    assert not (tmp_path / "key").exists()


def test_a_pair_is_not_kept_where_its_only_private_half_could_not_be_written(kps: Kps) -> None:
    kps("keypair", "create", "mine", "--unmanaged", "--out", "/dev/full", code=4)
    kps("keypair", "show", "mine", code=3)


def test_a_key_pair_comes_in_and_goes_out_again(kps: Kps, tmp_path: Path) -> None:
    kps("keypair", "create", "ops", "--out", str(tmp_path / "key"))
    public = parsed(kps("keypair", "show", "ops", "--json"))["public_key"]
    (tmp_path / "key.pub").write_text(public + "\n")
    both = parsed(kps("keypair", "import", "both", "--private-key", str(tmp_path / "key"), "--json"))
    half = parsed(kps("keypair", "import", "half", "--public-key", str(tmp_path / "key.pub"), "--json"))
    assert (both["managed"], half["managed"]) == (True, False)
    assert both["fingerprint"] == half["fingerprint"]
    exported = parsed(kps("keypair", "export", "both", "--json"))
    assert set(exported) == {"name", "private_key"}
    (tmp_path / "out").touch(0o600)
    (tmp_path / "out").write_text(exported["private_key"])
    derived = subprocess.run(["ssh-keygen", "-y", "-f", tmp_path / "out"], capture_output=True, text=True, check=True, timeout=10)
    assert derived.stdout.split(" ")[:2] == public.split(" ")[:2]
    assert parsed(kps("keypair", "delete", "half", "--json")) == {"name": "half", "deleted": True}


def test_each_server_gets_its_result(kps: Kps, two: None) -> None:
    result = kps("bind", "env=prod", "--keypair", "ops", "--json", code=1)
    one, other = parsed(result)
    for found in (one, other):
        assert set(found) == (set(FIELDS["task"]) | set(FIELDS["operation"])) - {"logins", "password"}
        assert found["task_id"] == found["id"] == str(UUID(found["id"]))
        assert RFC_3339.fullmatch(found["created_at"])
        assert RFC_3339.fullmatch(found["finished_at"])
    assert (one["server"], one["operation"], one["status"], one["server_state"]) == (
        "web-1",
        "bind",
        "succeeded",
        "as_asked",
    )
    assert one["proof"] == [
        {"way": "key", "login": "root", "method": "logged_in"},
        {"way": "password", "login": "root", "method": "refused"},
    ]
    assert (one["cause"], other["cause"]) == (None, "connection_timed_out")
    assert other["message"] == "web-2: 192.0.2.2:22 does not answer"
    assert (other["status"], other["server_state"], other["retryable"]) == ("failed", "as_before", True)


def test_the_table_explains_what_failed(kps: Kps, two: None) -> None:
    shown = kps("bind", "--all", "--keypair", "ops", code=1).stdout
    for expected in (
        "key of root logged_in, password of root refused",
        "connection_timed_out",
        "web-2: 192.0.2.2:22 does not answer",
        "192.0.2.2",
        "Admit 10.0.0.1 to port 22.",
        "kps task retry ",
    ):
        assert expected in shown


def test_unchanged_is_as_asked(kps: Kps, two: None, outcomes: dict[str, Outcome]) -> None:
    outcomes["web-2"] = Outcome("unchanged", "as_asked")
    kps("bind", "--all", "--keypair", "ops", "--json")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_anything_else_exits_with_1(kps: Kps, two: None, outcomes: dict[str, Outcome], status: Any) -> None:
    outcomes["web-2"] = Outcome(status, "unknown")
    assert parsed(kps("bind", "web-2", "--keypair", "ops", "--json", code=1))[0]["status"] == status


def test_password_login_shows_each_login(kps: Kps, two: None, outcomes: dict[str, Outcome]) -> None:
    outcomes["web-1"] = Outcome("succeeded", "as_asked", evidence={"logins": {"root": "off", "deploy": "on"}})
    found = parsed(kps("password-login", "status", "web-1", "--json"))[0]
    assert found["logins"] == {"root": "off", "deploy": "on"}
    assert found["operation"] == "password-login-status"
    assert re.search(r"web-1 +deploy +on", kps("password-login", "status", "web-1").stdout)


def test_the_one_time_password_is_shown_once(kps: Kps, two: None, given: Given, tmp_path: Path) -> None:
    words = ("reset", "web-1", "--keypair", "ops", "--root", str(tmp_path), "--set-password", "--json")
    (found,) = parsed(kps(*words))
    credential = given["web-1"]
    assert credential is not None
    assert credential.password is not None
    assert credential.password.open().decode() == found["password"]
    assert len(found["password"]) >= 16
    assert found["request"]["root"] == str(tmp_path)
    task = parsed(kps("task", "show", found["task_id"], "--json"))
    assert "password" not in task
    assert found["password"] not in json.dumps(task)


def test_the_disk_is_found_from_where_the_command_was_typed(
    kps: Kps, two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnt").mkdir()
    monkeypatch.chdir(tmp_path)
    (found,) = parsed(kps("reset", "web-1", "--keypair", "ops", "--root", "mnt", "--json"))
    assert found["request"]["root"] == str(tmp_path / "mnt")
    kps("reset", "web-1", "--keypair", "ops", "--root", "nowhere", "--json", code=2)


def test_what_was_asked_for_reaches_the_task(kps: Kps, two: None) -> None:
    consent = ("--accept-lockout", "backup", "--accept-lockout", "git", "--accept-unproved", "--fix-permissions")
    words = ("bind", "web-1", "--keypair", "ops", "--login", "deploy", "--keep-password-login", *consent, "--json")
    (found,) = parsed(kps(*words))
    assert found["login"] == "deploy"
    assert {name: found["request"].get(name) for name in FLAGS} == {
        "keypair": "ops",
        "keep_password_login": True,
        "accept_lockout": ["backup", "git"],
        "accept_unproved": True,
        "fix_permissions": True,
        "force": None,
    }
    (found,) = parsed(kps("password-login", "enable", "web-1", "--force", "--json"))
    assert found["request"]["force"] is True


FLAGS = ("keypair", "keep_password_login", "accept_lockout", "accept_unproved", "fix_permissions", "force")


def test_tasks_are_listed_shown_retried_and_deleted(kps: Kps, two: None, outcomes: dict[str, Outcome], given: Given) -> None:
    kps("bind", "--all", "--keypair", "ops", code=1)
    assert [one["server"] for one in parsed(kps("task", "list", "--json"))] == ["web-1", "web-2"]
    assert parsed(kps("task", "list", "--running", "--json")) == []
    (failed,) = parsed(kps("task", "list", "--failed", "--json"))
    assert set(failed) == set(FIELDS["task"])
    assert parsed(kps("task", "show", failed["id"], "--json")) == failed
    shown = kps("task", "show", failed["id"]).stdout
    assert "Look whether it is up." in shown
    assert "connect" in shown

    outcomes.clear()
    (again,) = parsed(kps("task", "retry", failed["id"], "--password-stdin", "--json", stdin="secret\n"))
    assert (again["server"], again["status"], again["retry_of"]) == ("web-2", "succeeded", failed["id"])
    credential = given["web-2"]
    assert credential is not None
    assert credential.password is not None
    assert credential.password.open() == b"secret"
    assert parsed(kps("task", "list", "--failed", "--json")) == []
    assert error_of(kps("task", "retry", again["id"], "--json", code=4))["code"] == "task_not_failed"


def test_failed_tasks_are_deleted_one_by_one_or_all_at_once(kps: Kps, two: None) -> None:
    for _ in range(3):
        kps("bind", "web-2", "--keypair", "ops", code=1)
    (first, *_) = parsed(kps("task", "list", "--failed", "--json"))
    assert parsed(kps("task", "delete", first["id"], "--json")) == {"deleted": 1, "cancelled": 0}
    assert parsed(kps("task", "delete", "--all", "--json")) == {"deleted": 2}
    assert parsed(kps("task", "list", "--json")) == []
    kps("task", "show", first["id"], code=3)


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        (2, "usage", ("bind", "--keypair", "ops")),
        (2, "usage", ("bind", "web-1", "--all", "--keypair", "ops")),
        (2, "usage", ("bind", "web-1", "--keypair", "ops", "--identity", "/nowhere")),
        (2, "usage", ("bind", "web-1", "--keypair", "ops", "--passphrase-stdin")),
        (2, "usage", ("bind", "web-1", "--keypair", "ops", "--password-stdin", "--passphrase-stdin", "--identity", "/x")),
        (2, "usage", ("task", "delete")),
        (2, "usage", ("task", "list", "--failed", "--running")),
        (2, "usage", ("keypair", "import", "x")),
        (2, "usage", ("server", "add", "x", "192.0.2.9", "--label", "novalue")),
        (2, "name_unusable", ("server", "add", "--", "-x\x1b[31m", "192.0.2.9")),
        (2, "name_unusable", ("server", "add", "--", "x", "-oProxyCommand=true")),
        (3, "server_not_found", ("bind", "nobody", "--keypair", "ops")),
        (3, "keypair_not_found", ("bind", "web-1", "--keypair", "nobody")),
        (3, "not_found", ("server", "show", "../../etc")),
        (3, "not_found", ("task", "delete", "..")),
        (3, "not_found", ("keypair", "export", "ops/../ops")),
        (3, "task_not_found", ("task", "show", "0")),
        (4, "server_exists", ("server", "add", "web-1", "192.0.2.9")),
        (4, "keypair_exists", ("keypair", "create", "ops")),
    ],
)
def test_a_refusal_is_one_object_on_stderr_and_its_exit_code(
    kps: Kps, two: None, code: int, name: str, words: tuple[str, ...]
) -> None:
    assert error_of(kps("--json", *words, code=code))["code"] == name


def test_a_name_that_is_taken_exits_with_4(kps: Kps, two: None) -> None:
    assert "web-1" in kps("server", "add", "web-1", "192.0.2.9", code=4).stderr


def test_without_a_home_the_next_step_is_told(tmp_path: Path) -> None:
    result = program(tmp_path / "none", "server", "list", "--json")
    assert result.returncode == 5
    assert "kps init" in json.loads(result.stderr)["error"]["message"]
    assert not (tmp_path / "none").exists()


def test_a_home_that_others_may_enter_is_refused(settings: Settings, made: Any) -> None:
    settings.home.chmod(0o755)
    assert program(settings.home, "server", "list").returncode == 5


def test_usage_errors_are_json_where_json_was_asked_for(tmp_path: Path) -> None:
    result = program(tmp_path / "home", "bind", "web-1", "--json")
    assert (result.returncode, result.stdout) == (2, "")
    assert json.loads(result.stderr)["error"]["code"] == "usage"
    result = program(tmp_path / "home", "bind", "web-1")
    assert result.returncode == 2
    assert result.stderr.startswith("kps: ")


@pytest.mark.parametrize("before", [True, False])
def test_json_and_home_are_taken_before_and_after_the_command(settings: Settings, made: Any, before: bool) -> None:
    common = ("--json", "--home", str(settings.home))
    words = (*common, "server", "list") if before else ("server", "list", *common)
    result = program(settings.home.parent / "other", *words)
    assert json.loads(result.stdout) == []


def test_a_fault_of_ours_is_not_taken_for_a_server_that_failed(kps: Kps, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(controller.app, "dispatching", broken)
    assert error_of(kps("server", "list", "--json", code=70))["code"] == "unexpected"
    assert "Traceback" in kps("server", "list", code=70).stderr


@pytest.mark.parametrize("words", [("--json", "keypair", "list"), ("keypair", "--json", "list"), ("keypair", "list", "--json")])
def test_json_is_taken_at_each_place(kps: Kps, words: tuple[str, ...]) -> None:
    assert parsed(kps(*words)) == []


@pytest.mark.parametrize("words", [("keypair", "--home", "HOME", "list"), ("--home", "/x", "keypair", "list", "--home", "HOME")])
def test_home_is_taken_at_each_place_and_the_nearest_counts(settings: Settings, made: Any, words: tuple[str, ...]) -> None:
    result = here(settings.home / "none", *(str(settings.home) if word == "HOME" else word for word in words))
    assert result.exit_code == 0, result.stderr


def test_a_server_that_cannot_be_used_yet_is_told_when_it_is_added(kps: Kps, tmp_path: Path) -> None:
    never = kps("server", "add", "web-1", "127.0.0.1", "--port", "1").stderr
    assert "web-1" in never
    assert "--host-key" in never
    silent = kps("server", "add", "web-2", "127.0.0.1", "--port", "1", "--trust-on-first-use").stderr
    assert "kps server check web-2" in silent
    (tmp_path / "more.csv").write_text("name,host\nweb-3,127.0.0.1\nweb-4,127.0.0.1\n")
    assert "web-3, web-4" in kps("server", "import", str(tmp_path / "more.csv")).stderr
    assert kps("server", "add", "web-5", "127.0.0.1", "--json").stderr == ""


def test_a_file_that_holds_no_key_is_named(kps: Kps, tmp_path: Path) -> None:
    (tmp_path / "nothing").write_text("nothing")
    for option in ("--public-key", "--private-key"):
        assert f"{tmp_path}/nothing: " in kps("keypair", "import", "x", option, str(tmp_path / "nothing"), code=2).stderr


def test_a_task_says_what_was_given_with_it_but_not_what_it_was(kps: Kps, two: None, tmp_path: Path) -> None:
    kps("keypair", "create", "mine", "--unmanaged", "--out", str(tmp_path / "mine"))
    words = ("bind", "web-2", "--keypair", "ops", "--password-stdin", "--identity", str(tmp_path / "mine"), "--json")
    (failed,) = parsed(kps(*words, stdin="hunter2\n", code=1))
    assert failed["request"]["given"] == ["password", "identity"]
    assert f"kps task retry {failed['id']} --identity FILE --password-stdin" in kps("task", "show", failed["id"]).stdout
    (again,) = parsed(kps("task", "retry", failed["id"], "--json", code=1))
    assert "given" not in again["request"]


def test_what_opens_a_key_or_vouches_for_it_is_asked_for_again_too(kps: Kps, two: None, tmp_path: Path) -> None:
    for name in ("mine", "authority"):
        locked = ["-N", "open sesame" if name == "mine" else ""]
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", *locked, "-f", str(tmp_path / name)], check=True)
    sign = ["ssh-keygen", "-q", "-s", str(tmp_path / "authority"), "-I", "me", "-n", "root", str(tmp_path / "mine.pub")]
    subprocess.run(sign, check=True)
    key = ("--identity", str(tmp_path / "mine"), "--passphrase-stdin", "--certificate", str(tmp_path / "mine-cert.pub"))
    (failed,) = parsed(kps("bind", "web-2", "--keypair", "ops", *key, "--json", stdin="open sesame\n", code=1))
    assert failed["request"]["given"] == ["identity", "passphrase", "certificate"]
    shown = " ".join(kps("task", "show", failed["id"]).stdout.split())
    assert f"kps task retry {failed['id']} --identity FILE --passphrase-stdin --certificate FILE" in shown
