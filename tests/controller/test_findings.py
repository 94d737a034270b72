"""The closed list of findings, and what becomes of what an agent says of them."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from controller import diagnosis
from controller.causes import CAUSES
from controller.findings import FINDINGS, repair
from tests.drills.plants import ALONE, PLANTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/doctor.md").read_text()
ROW = re.compile(r"^\| `([a-z_]+)` \| (?:`([a-z_]+)`|-) \| (.*) \| `(.*)`( \*)? \|$", re.MULTILINE)


def finding(code, kind="key", **more):
    return {"code": code, "kind": kind, "message": "seen", "path": "", "line": 0, "seen": {}} | more


def test_every_finding_is_explained_in_the_words_of_the_list():
    rows = [
        (code, cause, meaning, command.replace("\\|", "|"), bool(star))
        for code, cause, meaning, command, star in ROW.findall(PAGE)
    ]
    assert rows == [(code, one.cause, one.meaning, one.repair, one.safe) for code, one in FINDINGS.items()]


def test_a_word_that_is_a_cause_too_means_that_cause():
    assert {one.cause for one in FINDINGS.values()} <= {*CAUSES, ""}
    assert [code for code in FINDINGS.keys() & CAUSES.keys() if FINDINGS[code].cause != code] == []


def test_the_agent_and_the_list_have_the_same_words():
    tree = ast.parse((ROOT / "kpsagent/doctor.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    said = {
        call.args[0].value for call in calls if call.func.id in ("_finding", "_at") and isinstance(call.args[0], ast.Constant)
    }
    assert said <= set(FINDINGS)
    assert set(FINDINGS) - words == {"login_missing", "refused_unseen", "unexplained", "session_fails"}


def test_every_finding_is_planted_by_the_drill():
    assert {code for plant in (*PLANTS, *ALONE) for code in plant.codes} == set(FINDINGS)


def test_a_repair_is_made_of_what_is_known():
    assert repair("line_commented_out", LINE=3, PATH="/root/.ssh/authorized_keys") == (
        "su -s /bin/sh LOGIN -c \"sed -i '3s/^[# \\t]*//' /root/.ssh/authorized_keys\""
    )
    given = {"LOGIN": "deploy", "PATH": "/home/deploy"}
    assert repair("path_writable", **given) == "su -s /bin/sh deploy -c 'chmod go-w /home/deploy'"


def test_no_repair_changes_what_a_server_names_but_with_the_login_s_own_rights():
    only_shows = re.compile(r"(ls -ld|namei -l|file|ssh-keygen -l -f|sed -n LINEp) PATH( \| cat -A)?")
    by_login = re.compile(r"su -s /bin/sh LOGIN -c (\"[^\"$`]*\"|'[^']*')")
    named = {code: one.repair for code, one in FINDINGS.items() if "PATH" in one.repair}
    assert {
        code for code, command in named.items() if not (only_shows.fullmatch(command) or by_login.fullmatch(command))
    } == set()


def test_a_repair_is_read_by_a_shell_as_it_is_meant(tmp_path):
    keys = tmp_path / "authorized_keys"
    for code, before, after in (
        ("line_commented_out", "a\n# \tb\n", "a\nb\n"),
        ("line_byte_order_mark", "\ufeffa\nb\n", "a\nb\n"),
        ("line_carriage_return", "a\rb\n", "a\nb\n"),
        ("line_shadowed", "a\nc\nb\n", "a\nb\n"),
    ):
        keys.write_text(before, newline="")
        command = repair(code, LINE=2, PATH=str(keys)).removeprefix("su -s /bin/sh LOGIN -c ")
        subprocess.run(["sh", "-c", f"eval {command}"], check=True)
        assert keys.read_text() == after


@pytest.mark.parametrize("path", ["/home/$(reboot)", "/home/a b", "/x;reboot", "/x\nreboot", "-rf", "/x`id`", "~root/x", "/x'"])
def test_what_a_server_says_is_no_part_of_a_command_unless_it_is_a_plain_name(path):
    command = repair("path_writable", LOGIN="deploy", PATH=path)
    assert command == "su -s /bin/sh deploy -c 'chmod go-w PATH'"


def test_a_word_that_an_agent_made_up_is_left_out():
    assert diagnosis.told([finding("reboot_now"), finding("key_not_listed")], SERVER="web-1")[0]["code"] == "key_not_listed"


def test_a_login_that_works_is_no_alarm_whatever_was_found():
    found = [finding("deny_users"), finding("force_command", "session"), finding("path_writable", "doubt")]
    assert diagnosis.believed(found, "logged_in") == []


def test_what_waits_to_be_read_is_a_warning():
    found = [finding("deny_users"), finding("setting_pending", "warning")]
    told = diagnosis.believed(found, "logged_in")
    assert [(one["code"], one["kind"]) for one in told] == [("setting_pending", "warning"), ("deny_users", "warning")]


def test_a_key_that_is_only_accepted_may_still_be_ended_at_once():
    found = [finding("deny_users"), finding("shell_ends_at_once", "session")]
    assert [one["code"] for one in diagnosis.believed(found, "accepted")] == ["shell_ends_at_once"]


def test_what_only_some_sshds_mind_is_the_reason_where_there_is_no_other():
    doubt, reason = finding("path_writable", "doubt"), finding("line_from")
    assert diagnosis.believed([doubt], "refused") == [doubt]
    assert diagnosis.believed([reason, doubt], "refused") == [reason]


def test_a_refusal_that_nothing_explains_says_so():
    assert [one["code"] for one in diagnosis.explained([], "refused", SERVER="web-1", LOGIN="deploy")] == ["unexplained"]
    assert [one["code"] for one in diagnosis.explained([], "let_in", SERVER="web-1", LOGIN="deploy")] == ["session_fails"]


def test_what_comes_once_a_key_was_taken_is_no_reason_for_a_refusal():
    rule, label = finding("pam_rule", "doubt"), finding("path_label", "doubt")
    assert diagnosis.believed([rule, label], "refused") == [label]
    assert diagnosis.believed([rule, label], "taken") == [rule]
    assert diagnosis.believed([finding("nologin_file", "session"), rule], "taken")[0]["code"] == "nologin_file"
    for method in ("logged_in", "accepted", "let_in"):
        assert diagnosis.believed([rule, label], method) == []


def test_how_a_login_ended_is_read_from_what_was_seen():
    assert [diagnosis.ended(evidence) for evidence in ({"let_in": True}, {"taken": True}, {}, {"login": "root"})] == [
        "let_in", "taken", "refused", "refused",
    ]  # fmt: skip
    assert [one["code"] for one in diagnosis.explained([], "taken")] == ["session_fails"]
