"""Things that only root can do to a real machine, each in a process or a mount namespace of its own; run as a program.

python -m tests.contracts.machine tiny DIRECTORY        the effect on a full disk, and so on: prints what came of it as JSON
"""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

from kpsagent import accounts, files
from kpsagent.errors import Stop, from_os_error
from kpsagent.host import Account, Lock, SetPassword
from kpsagent.local import LocalHost
from tests.contracts.places import OTHER

ROOT = Path(__file__).parents[2]


def account(home: str) -> Account:
    entry = pwd.getpwnam(OTHER)
    return Account(OTHER, entry.pw_uid, entry.pw_gid, ["g"], [], home, "/bin/sh", "usable", "")


def attempt(verb: Any, path: str, *rest: Any) -> str:
    """Return "done", or the cause of what stopped the verb."""
    try:
        verb(path, *rest)
    except Stop as stop:
        return stop.cause
    except OSError as error:
        return from_os_error(error, path).cause
    return "done"


def outcomes(home: str) -> dict[str, str]:
    """What each effect that writes says where nothing can be written."""
    login, path = account(home), f"{home}/authorized_keys"
    return {
        "replace": attempt(files.replace, path, login, "before\n", "after\n" * 100_000),
        "new": attempt(files.replace, f"{home}/new", login, None, "after\n" * 100_000),
        "sweep": attempt(files.sweep, path, login),
    }


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def tiny(home: str) -> Any:
    """A disk of 64 KiB."""
    mount("-t", "tmpfs", "-o", "size=64k,mode=0755", "none", home)
    return _with_file(home)


def read_only(home: str) -> Any:
    prepared(home)
    mount("--bind", home, home)
    mount("-o", "remount,bind,ro", home)
    return outcomes(home) | {"mode": attempt(files.set_mode, f"{home}/authorized_keys", account(home), 0o640, 0o600)}, left(home)


def mounted_over(home: str) -> Any:
    """The file itself is a mount, as containers have it."""
    prepared(home)
    mount("--bind", f"{home}/authorized_keys", f"{home}/authorized_keys")
    said = attempt(files.replace, f"{home}/authorized_keys", account(home), "before\n", "after\n")
    return {"replace": said}, left(home)


def stuck(disk: str, home: str) -> Any:
    """Why the file on such a disk cannot be replaced, in the eyes of root and of the login."""
    globals()[disk](home)
    return [files.read(f"{home}/authorized_keys", whose).stuck for whose in (None, account(home))]


def _with_file(home: str) -> Any:
    prepared(home)
    return outcomes(home), left(home)


def prepared(home: str) -> None:
    login = account(home)
    os.chown(home, login.uid, login.gid)
    path = f"{home}/authorized_keys"
    Path(path).write_text("before\n")
    os.chmod(path, 0o640)
    os.chown(path, login.uid, login.gid)


def left(home: str) -> dict[str, str]:
    return {name: Path(home, name).read_text() for name in sorted(os.listdir(home))}


def at_rest(root: str) -> Any:
    """A password is set, and set back, on the disk that this process is confined to."""
    os.chroot(root)
    os.chdir("/")
    host = LocalHost("/var/lib/kps", at_rest=True)
    host.do(Lock(True))
    login = accounts.find("zoe", True)
    said = [attempt(lambda _, *rest: host.do(SetPassword(login, *rest)), "/etc/shadow", "$6$other:19000", "$6$new")]
    for before, after in (("$6$old:19000", "$6$new"), ("$6$new", "$6$old:19000")):
        host.do(SetPassword(login, before, after))
        said.append(Path("/etc/shadow").read_text())
    host.close()
    return said, os.listdir("/var/lib")


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
