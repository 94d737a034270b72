"""Logins, from the server's own files: passwd, group, shadow. A directory service is asked about one login, never listed."""

import grp
import os
import pwd
import stat
import time

from .errors import Refused
from .host import Account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

_DAY = 86400
_NO_LOGINS = "/etc/nologin"  # while it is there only root gets in: sshd(8)


def _rows(path: str, fields: int) -> "List[List[str]]":
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            rows = [line.rstrip("\n").split(":") for line in stream]
    except (FileNotFoundError, PermissionError):
        return []
    return [row for row in rows if len(row) >= fields and not row[0].startswith(("+", "-", "#"))]


def find(name: str, at_rest: bool) -> "Optional[Account]":
    """Return the login of this name, or None. A disk at rest has its files only."""
    row = next((row for row in _rows("/etc/passwd", 7) if row[0] == name), None)
    if row is None and not at_rest:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        row = [entry.pw_name, "", str(entry.pw_uid), str(entry.pw_gid), "", entry.pw_dir, entry.pw_shell]
    return _account(row, _groups(), {each[0]: each for each in _rows("/etc/shadow", 9)}, at_rest) if row else None


def listed(at_rest: bool) -> "Tuple[List[Account], bool]":
    """Return every login in the server's own files, and whether a directory service may know more."""
    groups, shadow = _groups(), {each[0]: each for each in _rows("/etc/shadow", 9)}
    accounts = []
    for row in _rows("/etc/passwd", 7):
        if row[2].isdigit() and row[3].isdigit():
            accounts.append(_account(row, groups, shadow, at_rest))
    return accounts, _directory_service()


def _directory_service() -> bool:
    try:
        with open("/etc/nsswitch.conf", encoding="utf-8", errors="replace") as stream:
            lines = [line.split("#")[0] for line in stream]
    except OSError:
        return False
    sources = [word for line in lines if line.startswith("passwd:") for word in line.split()[1:]]
    return any(word not in ("files", "compat", "systemd") and not word.startswith("[") for word in sources)


Group = "Tuple[str, int, List[str]]"


def _groups() -> "List[Tuple[str, int, List[str]]]":
    return [(row[0], int(row[2]), row[3].split(",")) for row in _rows("/etc/group", 4) if row[2].isdigit()]


def _account(
    row: "List[str]", groups: "List[Tuple[str, int, List[str]]]", shadow: "Dict[str, List[str]]", at_rest: bool
) -> Account:
    name, uid, gid, home, shell = row[0], int(row[2]), int(row[3]), row[5], row[6] or "/bin/sh"
    mine = {number: group for group, number, members in groups if number == gid or name in members}
    if not at_rest:
        for number in os.getgrouplist(name, gid):
            if number not in mine:
                mine[number] = _group_name(number)
    password, expired = _password(name, row[1], shadow)
    group_ids = sorted(number for number in mine if number != gid)
    return Account(name, uid, gid, sorted(mine.values()), group_ids, home or "/", shell, password, expired, _barred(uid, shell))


def _barred(uid: int, shell: str) -> str:
    """What sshd looks at before it looks at any credential: allowed_user() in its auth.c, and /etc/nologin."""
    try:
        found = os.stat(shell)
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
            return "its shell {} is not executable".format(shell)
    except OSError:
        return "its shell {} is not there".format(shell)
    return "{} is there, so only root may log in now".format(_NO_LOGINS) if uid != 0 and os.path.exists(_NO_LOGINS) else ""


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _password(name: str, field: str, shadow: "Dict[str, List[str]]") -> "Tuple[str, str]":
    if field == "x" and name not in shadow:
        return "unknown", ""
    row = shadow.get(name, [name, field, "", "", "", "", "", "", ""])
    hashed, today = row[1], int(time.time()) // _DAY
    kind = "usable" if hashed.startswith(("$", "_")) or len(hashed) == 13 else "none"
    if hashed.startswith("!"):
        kind = "locked"
    elif not hashed:
        kind = "empty"
    changed, longest, ends = (int(row[place]) if row[place].lstrip("-").isdigit() else -1 for place in (2, 4, 7))
    if 0 <= ends < today:
        return kind, "account"
    if changed == 0 or (changed > 0 and 0 <= longest < 99999 and changed + longest < today):
        return kind, "password"
    return kind, ""


def private_group(account: Account) -> bool:
    """Whether nobody but this login is in its own group, as Debian's and Ubuntu's sshd ask before they let it write."""
    members = [name for _, number, names in _groups() if number == account.gid for name in names if name]
    owners = [row[0] for row in _rows("/etc/passwd", 7) if row[3] == str(account.gid)]
    return all(name == account.name for name in members + owners)


def hash_of(name: str) -> str:
    """Return "hash:day it was set" of this login in shadow."""
    row = next((row for row in _rows("/etc/shadow", 9) if row[0] == name), None)
    if row is None:
        raise Refused("login_missing", "{} is not in /etc/shadow".format(name), login=name)
    return ":".join(row[1:3])


def with_hash(text: str, name: str, hashed: str) -> str:
    """Return the text of shadow with this login's "hash:day", or hash of today; every other line byte for byte."""
    hashed, _, day = hashed.partition(":")
    lines = text.split("\n")
    for index, line in enumerate(lines):
        row = line.split(":")
        if row[0] == name and len(row) >= 9:
            row[1], row[2] = hashed, day or str(int(time.time()) // _DAY)
            lines[index] = ":".join(row)
    return "\n".join(lines)
