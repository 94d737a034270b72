"""kps user, access-key, quota, tenant and keypair upgrade: what they print, and what they refuse."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

from controller.cli import completion
from controller.cli.reference import FIELDS
from tests.controller.faces import here
from tests.controller.test_cli_contract import error_of, parsed


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("users") / "home"
    assert here(place, "init", "--json").exit_code == 0
    return place


def kps(home: Path, *words: str, code: int = 0) -> Result:
    result = here(home, *words)
    assert result.exit_code == code, result.output
    return result


def test_a_user_from_the_first_to_the_last_command(home: Path) -> None:
    words = ("--role", "auditor", "--source-network", "192.0.2.0/24", "--json")
    made = parsed(kps(home, "user", "create", "alice", *words))
    assert set(made) == set(FIELDS["user"])
    assert made in parsed(kps(home, "user", "list", "--json"))
    assert parsed(kps(home, "user", "show", "alice", "--json")) == made
    changed = parsed(kps(home, "user", "set", "alice", "--role", "operator", "--from-anywhere", "--json"))
    assert changed == made | {"role": "operator", "source_networks": []}
    assert parsed(kps(home, "user", "disable", "alice", "--json"))["enabled"] is False
    assert parsed(kps(home, "user", "enable", "alice", "--json"))["enabled"] is True
    for table in (kps(home, "user", "list"), kps(home, "user", "show", "alice")):
        assert "alice" in table.stdout
    assert parsed(kps(home, "user", "delete", "alice", "--json")) == {"name": "alice", "keypairs": [], "deleted": True}
    assert error_of(kps(home, "user", "show", "alice", "--json", code=3))["code"] == "user_not_found"


def test_what_makes_no_sense_is_a_usage_error(home: Path) -> None:
    for words in (
        ("user", "set", "administrator"),
        ("user", "set", "administrator", "--from-anywhere", "--source-network", "192.0.2.0/24"),
        ("quota", "set", "users"),
        ("quota", "set", "users", "5", "--default"),
    ):
        assert error_of(kps(home, *words, "--json", code=2))["code"] == "usage"


def test_the_last_administrator_stays_and_the_exit_code_says_that_something_stands_against_it(home: Path) -> None:
    assert error_of(kps(home, "user", "disable", "administrator", "--json", code=4))["code"] == "home_owner"
    assert error_of(kps(home, "user", "delete", "administrator", "--json", code=4))["code"] == "home_owner"


def test_an_access_key_from_the_first_to_the_last_command(home: Path) -> None:
    kps(home, "user", "create", "bob")
    made = parsed(kps(home, "access-key", "create", "--user", "bob", "--days", "90", "--json"))
    assert set(made) == set(FIELDS["access key"])
    secret, key = made.pop("secret_key"), made["access_key"]
    assert parsed(kps(home, "access-key", "list", "--user", "bob", "--json")) == [made]
    assert key in kps(home, "access-key", "list").stdout
    assert parsed(kps(home, "access-key", "disable", key, "--json")) == made | {"enabled": False}
    assert parsed(kps(home, "access-key", "enable", key, "--json")) == made
    shown = kps(home, "access-key", "rotate", key, "--beside-hours", "1").stdout
    assert "Keep the secret key now" in shown
    assert secret not in shown
    assert parsed(kps(home, "access-key", "delete", key, "--json")) == {"access_key": key, "deleted": True}
    assert error_of(kps(home, "access-key", "disable", key, "--json", code=3))["code"] == "access_key_not_found"


def test_what_is_given_for_a_while_from_the_first_to_the_last_command(home: Path) -> None:
    made = parsed(kps(home, "temporary-key", "create", "--for", "15m", "--json"))
    assert set(made) == set(FIELDS["temporary access key"])
    secrets = [made.pop(name) for name in ("secret_key", "security_token")]
    del made["project_id"]
    assert parsed(kps(home, "temporary-key", "list", "--json")) == [made]
    key = made["access_key"]
    assert key in kps(home, "temporary-key", "list").stdout
    assert parsed(kps(home, "temporary-key", "revoke", key, "--json")) == {"access_key": key, "revoked": True}
    assert error_of(kps(home, "temporary-key", "revoke", key, "--json", code=3))["code"] == "temporary_key_not_found"
    assert "security token" in kps(home, "temporary-key", "create", made["parent"]).stdout

    given = parsed(kps(home, "token", "create", "--for", "8h", "--description", "report", "--json"))
    assert set(given) == set(FIELDS["token"])
    secrets.append(given.pop("token"))
    assert parsed(kps(home, "token", "list", "--json")) == [given]
    assert "report" in kps(home, "token", "list").stdout
    assert parsed(kps(home, "token", "revoke", given["id"], "--json")) == {"id": given["id"], "revoked": True}
    assert error_of(kps(home, "token", "revoke", given["id"], "--json", code=3))["code"] == "token_not_found"
    assert "kpst_" in kps(home, "token", "create", "--for", "1h30m").stdout
    told = kps(home, "audit", "export").stdout + kps(home, "token", "list", "--json").stdout
    assert not [each for each in secrets if each in told]
    for wrong in ("h", "-1h", "1.5h", "1h30", "30m1h", "9999999h"):
        assert error_of(kps(home, "token", "create", "--for", wrong, "--json", code=2))["code"] == "usage"
    for kind, far in (("temporary-key", "25h"), ("token", "31d"), ("token", "0m"), ("token", "59")):
        kps(home, kind, "create", "--for", far, "--json", code=2)


def test_quotas_are_shown_set_and_enforced(home: Path) -> None:
    kps(home, "user", "create", "carol")
    before = parsed(kps(home, "quota", "show", "--json"))
    assert [set(each) for each in before] == [set(FIELDS["quota"])] * 3
    (set_,) = parsed(kps(home, "quota", "set", "private_keypairs", "0", "--user", "administrator", "--json"))
    assert (set_["limit"], set_["set"]) == (0, True)
    refused: Any = error_of(kps(home, "keypair", "create", "one-too-many", "--json", code=4))
    assert refused["code"] == "quota_exceeded"
    kps(home, "quota", "set", "private_keypairs", "--default", "--user", "administrator")
    assert parsed(kps(home, "quota", "show", "--json")) == before
    assert "default" in kps(home, "quota", "show", "--user", "carol").stdout


def test_a_tenant_is_made_with_its_administrator(home: Path) -> None:
    made = parsed(kps(home, "tenant", "create", "acme", "--administrator", "root", "--json"))
    assert set(made) - set(FIELDS["tenant"]) == {"user_id", "access_key", "secret_key"}
    listed = parsed(kps(home, "tenant", "list", "--json"))
    assert {each["name"] for each in listed} == {"home", "acme"}
    assert made["secret_key"] not in str(listed)
    assert "acme" in kps(home, "tenant", "list").stdout
    assert "secret key" in kps(home, "tenant", "create", "other").stdout
    rescued = parsed(kps(home, "tenant", "access-key", "acme", "--json"))
    assert (set(rescued), rescued["user"]) == (set(FIELDS["access key"]), "root")


def test_a_key_pair_is_upgraded_for_everybody(home: Path) -> None:
    kps(home, "keypair", "create", "mine")
    assert parsed(kps(home, "keypair", "upgrade", "mine", "--json"))["scope"] == "account"
    assert error_of(kps(home, "keypair", "upgrade", "mine", "--json", code=4))["code"] == "already_account"
    assert "account" in kps(home, "keypair", "list").stdout


def test_completion_proposes_what_the_homes_owner_sees(home: Path) -> None:
    context: Any = SimpleNamespace(params={"home": str(home)}, parent=None)
    kps(home, "keypair", "create", "seen")
    kps(home, "user", "create", "dave")
    with sqlite3.connect(home / "kps.db") as connection:
        dave = connection.execute("SELECT id FROM users WHERE name = 'dave'").fetchone()[0]
        connection.execute("UPDATE keypairs SET owner_id = ? WHERE name = 'seen'", (dave,))
    connection.close()
    kps(home, "keypair", "create", "seldom")
    assert completion.keypairs(context, "se") == ["seldom"]
    assert "dave" in completion.users(context, "")
    assert "root" not in completion.users(context, "")
    assert completion.access_keys(context, "")
