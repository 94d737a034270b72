"""Files that are their owner's alone: the root key's, and the one with a token's PIN.

One that systemd hands to a service as a credential is that service's alone too, though root's: systemd.exec(5), LoadCredential=.
"""

import os
import stat
from pathlib import Path

from controller.errors import Unavailable


def read(path: Path, what: str, code: str, most: int) -> bytearray:
    """Return what a file holds. what: how it is called in a sentence, "root key"; code: how in a code, "root_key".

    Unavailable: CODE_missing, CODE_exposed (mode, owner, or not a file of its own), CODE_malformed (longer than most bytes).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unavailable(f"{code}_missing", f"{path}: there is no {what}; put it back from its backup") from error
    except OSError as error:
        message = f"{path}: {error.strerror}; the {what} is a file of its own, readable by its owner"
        raise Unavailable(f"{code}_exposed", message) from error
    try:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        alone = found.st_uid == os.geteuid() and not mode & 0o077
        if not stat.S_ISREG(found.st_mode) or not (alone or _is_credential(path, found)):
            raise Unavailable(
                f"{code}_exposed",
                f"{path}: mode {mode:04o}, owner {found.st_uid}; the {what} must be a file of user {os.geteuid()}, mode 0600; "
                f"others may have read it: make another {what} unless you know better",
            )
        if found.st_size > most:
            raise Unavailable(
                f"{code}_malformed", f"{path}: {found.st_size} bytes, and a {what} has {most} at most; restore its backup"
            )
        content = bytearray(found.st_size)
        del content[os.readv(descriptor, [content]) if content else 0 :]
        return content
    finally:
        os.close(descriptor)


def _is_credential(path: Path, found: os.stat_result) -> bool:
    """Whether systemd put a file there for this service: root's, and shown to it by an ACL, whose mask the group's bits are."""
    given = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return os.path.isabs(given) and path.parent == Path(given) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o027
