"""A server that is not OpenSSH (dropbear): nobody can be asked what it lets in, so nothing is said of it that was not tried."""

import pytest

from kpsagent.errors import Refused
from kpsagent.host import MAIN_CONFIG, Account, Daemon, File
from kpsagent.plan import Seen, decide, is_foreign, parse, password_logins
from kpsagent.sshd import scan

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDaclKEGNhR/jEFxpeDpma+HzpS9VwXrTcQ/+cwPRCc1"
ROOT = Account("root", 0, 0, ["root"], [0], "/root", "/bin/sh", "usable", "")


def seen(text=None, how="none"):
    settings = scan({} if text is None else {MAIN_CONFIG: text}, MAIN_CONFIG, "root", ["root"])
    known = dict.fromkeys(Seen._fields)
    known.update(account=ROOT, accounts=[ROOT], directory_service=False, places=[], unread=[], files={"root": []})
    known.update(daemon=Daemon(how, 0, "", [], MAIN_CONFIG, ""), config=File(MAIN_CONFIG, text, 0o644, 0, 0))
    return Seen(**known)._replace(effective={"root": dict.fromkeys(("127.0.0.1", "203.0.113.7"), settings)})


def ordered(operation, **more):
    return parse({"operation": operation, "id": "1", "generation": 1, "login": "root", **more})


def test_only_where_there_is_neither_an_sshd_nor_its_configuration():
    assert is_foreign(seen())
    assert not is_foreign(seen("PermitRootLogin no\n"))
    assert not is_foreign(seen(how="hidden"))


def test_its_password_login_is_called_unknown():
    assert password_logins(seen()) == {"root": "unknown"}
    assert password_logins(seen("PasswordAuthentication no\nKbdInteractiveAuthentication no\n")) == {"root": "off"}


def test_an_unbind_leaves_the_way_in_that_remains_to_the_proof():
    steps = decide(ordered("unbind", remove=[KEY], password_known=True), seen())
    assert [(question.way, question.least) for question in steps.widened] == [("password", "logged_in")]
    with pytest.raises(Refused, match="no usable password"):
        decide(ordered("unbind", remove=[KEY]), seen()._replace(account=ROOT._replace(password="locked")))


@pytest.mark.parametrize("passwords", ["off", "on"])
def test_its_passwords_are_not_ours_to_switch(passwords):
    with pytest.raises(Refused, match="another server has its settings elsewhere"):
        decide(ordered(f"password-login-{'disable' if passwords == 'off' else 'enable'}", passwords=passwords, key=KEY), seen())
