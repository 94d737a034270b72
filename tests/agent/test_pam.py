"""PAM's account rules: which of them may turn a login away. What a real PAM makes of them is planted by `make causes`."""

import pytest

from kpsagent import pam

SSHD_OF_DEBIAN = """@include common-auth
account    required     pam_nologin.so
# account  required     pam_access.so
@include common-account
"""
ACCOUNT_OF_DEBIAN = """account\t[success=1 new_authtok_reqd=done default=ignore]\tpam_unix.so\x20
account\trequisite\tpam_deny.so
account required pam_permit.so
"""
SSHD_OF_RED_HAT = """auth substack password-auth
account    required     pam_nologin.so
account    include      password-auth
"""
PASSWORDS_OF_RED_HAT = """account required pam_unix.so
account sufficient pam_localuser.so
account sufficient pam_usertype.so issystem
account required pam_permit.so
"""
DEBIAN = {"sshd": ("/etc/pam.d/sshd", SSHD_OF_DEBIAN), "common-account": ("/etc/pam.d/common-account", ACCOUNT_OF_DEBIAN)}
RED_HAT = {"sshd": ("/etc/pam.d/sshd", SSHD_OF_RED_HAT), "password-auth": ("/etc/pam.d/password-auth", PASSWORDS_OF_RED_HAT)}


@pytest.mark.parametrize("texts", [DEBIAN, RED_HAT])
def test_what_a_distribution_ships_turns_nobody_away_that_would_be_named(texts):
    assert pam.rules("sshd", texts) == []


def test_what_is_included_is_named():
    assert pam.includes(DEBIAN["sshd"][1]) == ["common-auth", "common-account"]
    assert pam.includes(RED_HAT["sshd"][1]) == ["password-auth"]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("account required pam_access.so", ("pam_access", "")),
        ("-account\trequired\t/lib/security/pam_access.so\taccessfile=/etc/a b # why", ("pam_access", "accessfile=/etc/a b")),
        ("account [default=bad success=ok user_unknown=ignore] pam_sss.so", ("pam_sss", "")),
        ("ACCOUNT Requisite pam_time.so", ("pam_time", "")),
        ("account required pam_deny.so", ("pam_deny", "")),
        ("account required \\\n  pam_listfile.so item=user", ("pam_listfile", "item=user")),
    ],
)
def test_a_rule_that_may_is_named_with_its_place(line, rule):
    for texts in (DEBIAN, RED_HAT):
        path, text = texts["sshd"]
        found = pam.rules("sshd", texts | {"sshd": (path, f"{line}\n{text}")})
        assert [(each.module, each.arguments) for each in found] == [rule]
        assert (found[0].path, found[0].line) == (path, line.count("\n") + 1)


@pytest.mark.parametrize(
    "line",
    [
        "account optional pam_access.so",
        "account sufficient pam_succeed_if.so uid < 500",
        "account",
        "account required",
        "@include",
        "",
    ],
)
def test_what_has_no_say_is_passed_over(line):
    path, text = DEBIAN["sshd"]
    assert pam.rules("sshd", DEBIAN | {"sshd": (path, f"{line}\n{text}")}) == []


def test_rules_that_include_each_other_end():
    round_about = {
        "sshd": ("/a", "account include two\naccount required pam_time.so\n"),
        "two": ("/b", "account substack sshd\n"),
    }
    assert {each.module for each in pam.rules("sshd", round_about)} == {"pam_time"}
