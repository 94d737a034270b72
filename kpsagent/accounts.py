"""Logins, from the server's own files: passwd, group, shadow. A directory service is asked about one login, never listed."""

import fcntl
import grp
import os
import pwd
import stat
import time
from collections import namedtuple

from .errors import Failed, Refused
from .host import Account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Tuple

    MoreGroups = Callable[[str, int], List[Tuple[int, str]]]
    Entry = Callable[[str], str]

_DAY = 86400
_LOCK = "/etc/.pwd.lock"
_LOCK_SECONDS = 10  # lckpwdf(3) waits for 15
_NO_LOGINS = "/etc/nologin"  # while it is there only root gets in: sshd(8)


Texts = namedtuple("Texts", "passwd group shadow nsswitch")
Texts.__doc__ = """What the server's own files say; "" for one that is not there, or may not be read."""


def _texts() -> Texts:
    return Texts(*(_text("/etc/" + name) for name in ("passwd", "group", "shadow", "nsswitch.conf")))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            return stream.read()
    except OSError:
        return ""


def _rows(text: str, fields: int) -> "List[List[str]]":
    rows = [line.split(":") for line in text.split("\n")]
    return [row for row in rows if len(row) >= fields and not row[0].startswith(("+", "-", "#"))]


def find(name: str, at_rest: bool) -> "Optional[Account]":
    """Return the login of this name, or None. A disk at rest has its files only."""
    found = find_in(_texts(), name, _nothing_more if at_rest else _more_groups, _nobody_else if at_rest else _entry)
    return found and found._replace(barred=_barred(found.uid, found.shell))


def find_in(texts: Texts, name: str, more: "MoreGroups", entry: "Entry") -> "Optional[Account]":
    """Return the login that the texts, or else entry (name -> a line of passwd), know by this name; barred is left open.

    more: name and group -> the numbers and names of groups that the texts may not know of.
    """
    rows = _rows(texts.passwd, 7) + _rows(entry(name) if not _is_known(texts, name) else "", 7)
    row = next((row for row in rows if row[0] == name and row[2].isdigit() and row[3].isdigit()), None)
    return _account(row, _groups(texts.group), _shadow(texts.shadow), more) if row else None


def _is_known(texts: Texts, name: str) -> bool:
    return any(row[0] == name for row in _rows(texts.passwd, 7))


def listed(at_rest: bool) -> "Tuple[List[Account], bool]":
    """Return every login in the server's own files, and whether a directory service may know more."""
    found, more = listed_in(_texts(), _nothing_more if at_rest else _more_groups)
    return [each._replace(barred=_barred(each.uid, each.shell)) for each in found], more


def listed_in(texts: Texts, more: "MoreGroups") -> "Tuple[List[Account], bool]":
    rows = [row for row in _rows(texts.passwd, 7) if row[2].isdigit() and row[3].isdigit()]
    groups, shadow = _groups(texts.group), _shadow(texts.shadow)
    return [_account(row, groups, shadow, more) for row in rows], _directory_service(texts.nsswitch)


def _directory_service(text: str) -> bool:
    lines = [line.split("#")[0] for line in text.split("\n")]
    sources = [word for line in lines if line.startswith("passwd:") for word in line.split()[1:]]
    return any(word not in ("files", "compat", "systemd") and not word.startswith("[") for word in sources)


def _groups(text: str) -> "List[Tuple[str, int, List[str]]]":
    return [(row[0], int(row[2]), row[3].split(",")) for row in _rows(text, 4) if row[2].isdigit()]


def _shadow(text: str) -> "Dict[str, List[str]]":
    return {row[0]: row for row in _rows(text, 9)}


def _account(
    row: "List[str]", groups: "List[Tuple[str, int, List[str]]]", shadow: "Dict[str, List[str]]", more: "MoreGroups"
) -> Account:
    name, uid, gid, home, shell = row[0], int(row[2]), int(row[3]), row[5], row[6] or "/bin/sh"
    mine = {number: group for group, number, members in groups if number == gid or name in members}
    for number, group in more(name, gid):
        mine.setdefault(number, group)
    password, expired = _password(name, row[1], shadow)
    group_ids = sorted(number for number in mine if number != gid)
    return Account(name, uid, gid, sorted(mine.values()), group_ids, home or "/", shell, password, expired, "")


def _barred(uid: int, shell: str) -> str:
    """What sshd looks at before it looks at any credential: allowed_user() in its auth.c, and /etc/nologin."""
    try:
        found = os.stat(shell)
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
            return "its shell {} is not executable".format(shell)
    except OSError:
        return "its shell {} is not there".format(shell)
    return "{} is there, so only root may log in now".format(_NO_LOGINS) if uid != 0 and os.path.exists(_NO_LOGINS) else ""


def _nothing_more(name: str, gid: int) -> "List[Tuple[int, str]]":
    return []


def _more_groups(name: str, gid: int) -> "List[Tuple[int, str]]":
    return [(number, _group_name(number)) for number in os.getgrouplist(name, gid)]


def _nobody_else(name: str) -> str:
    return ""


def _entry(name: str) -> str:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return ""
    return ":".join([entry.pw_name, "", str(entry.pw_uid), str(entry.pw_gid), "", entry.pw_dir, entry.pw_shell])


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
    return private_group_in(_texts(), account)


def private_group_in(texts: Texts, account: Account) -> bool:
    members = [name for _, number, names in _groups(texts.group) if number == account.gid for name in names if name]
    owners = [row[0] for row in _rows(texts.passwd, 7) if row[3] == str(account.gid)]
    return all(name == account.name for name in members + owners)


def hash_of(name: str) -> str:
    """Return "hash:day it was set" of this login in shadow."""
    row = next((row for row in _rows(_text("/etc/shadow"), 9) if row[0] == name), None)
    if row is None:
        raise Refused("login_missing", "{} is not in /etc/shadow".format(name), login=name)
    return ":".join(row[1:3])


def lock() -> int:
    """Return a descriptor that holds the system's lock on its accounts until it is closed: lckpwdf(3), passwd(1), useradd(8).

    Failed busy where somebody holds it for long.
    """
    opened = os.open(_LOCK, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return opened
        except (BlockingIOError, PermissionError):  # POSIX allows either: fcntl(2)
            if time.monotonic() > until:
                os.close(opened)
                raise Failed(
                    "busy", "{}: somebody is changing the accounts of this server; retry when they are done".format(_LOCK)
                )
            time.sleep(0.05)


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
