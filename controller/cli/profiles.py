"""Profiles: what a controller on the network is reached with, one file each, which nobody else can read."""

import contextlib
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli import exits
from controller.cli.exits import Declined, usage

if TYPE_CHECKING:
    from controller.client import Remote

FILE_BYTES = 16 * 1024
NEEDED = ("url", "access_key", "secret_key")
OPTIONAL = ("ca_certificate", "fingerprint")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SUFFIX = ".toml"


def directory() -> Path:
    """Return where profiles are kept."""
    configuration = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configuration) if configuration else Path.home() / ".config") / "kps" / "profiles"


def checked(name: str) -> str:
    """Return the name of a profile, if it is one."""
    if not _NAME.fullmatch(name):
        raise usage(f"{name!r}: a profile is called by 1 to 64 letters, digits, _ . and -, the first no mark")
    return name


def path_of(name: str) -> Path:
    """Return the file of a profile."""
    return directory() / f"{checked(name)}{_SUFFIX}"


def names() -> list[str]:
    """Return what profiles there are."""
    with contextlib.suppress(OSError):
        found = sorted(each.name.removesuffix(_SUFFIX) for each in directory().iterdir() if each.suffix == _SUFFIX)
        return [name for name in found if _NAME.fullmatch(name)]
    return []


def beginning(incomplete: str) -> list[str]:
    """Return the profiles whose names begin like this."""
    return [name for name in names() if name.startswith(incomplete)]


def read(name: str) -> "Remote":
    """Return what a profile says.

    Declined: profile_not_found; profile_exposed where others can read or change the file; profile_unusable.
    """
    import tomllib

    from controller.client import Remote
    from controller.model import Secret

    path = path_of(name)
    try:
        said = tomllib.loads(_private_text(path, name))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # Neither what stands there nor where: it may be the secret.
        raise _unusable(path, "no TOML in UTF-8") from None
    strange = sorted(said.keys() - {*NEEDED, *OPTIONAL})
    if strange:
        raise _unusable(path, f"there is no {', '.join(strange)} in a profile; it has {', '.join((*NEEDED, *OPTIONAL))}")
    wrong = [key for key in NEEDED if key not in said] + [key for key, value in said.items() if not isinstance(value, str)]
    if wrong:
        raise _unusable(path, f"{', '.join(wrong)}: needed, and in quotation marks")
    authority = said.get("ca_certificate")
    return Remote(
        said["url"],
        said["access_key"],
        Secret(said["secret_key"]),
        ca_certificate=Path(authority).expanduser() if authority else None,
        fingerprint=said.get("fingerprint"),
    )


def write(name: str, remote: "Remote", *, replace: bool) -> Path:
    """Write a profile, whole or not at all, readable by its owner alone. Declined(profile_exists): unless replace."""
    path = path_of(name)
    said = {"url": remote.url, "access_key": remote.access_key, "secret_key": remote.secret_key.open().decode()}
    if remote.ca_certificate is not None:
        said["ca_certificate"] = os.path.abspath(remote.ca_certificate)
    if remote.fingerprint is not None:
        said["fingerprint"] = remote.fingerprint
    # A JSON string is a TOML string, but for DEL, which none of these values has.
    text = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in said.items())
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # A link does not take the place of a file that came meanwhile; a rename would.
            os.replace(unfinished, path) if replace else os.link(unfinished, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
    except FileExistsError as error:
        raise Declined(exits.REFUSED, "profile_exists", f"{name}: there is such a profile; --replace writes it anew") from error
    except OSError as error:
        raise Declined(exits.UNAVAILABLE, "profile_not_written", f"{path}: {error.strerror}") from error
    return path


def remove(name: str) -> Path:
    """Delete a profile. Declined: profile_not_found."""
    path = path_of(name)
    try:
        path.unlink()
    except FileNotFoundError as error:
        raise _none(name) from error
    except OSError as error:
        raise Declined(exits.UNAVAILABLE, "profile_not_written", f"{path}: {error.strerror}") from error
    return path


def _private_text(path: Path, name: str) -> str:
    """Return what stands in a file that belongs to who asks, and that nobody else may read or write."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(path, "not a regular file")
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise Declined(
                    exits.REFUSED,
                    "profile_exposed",
                    f"{path}: others can read the secret key in it (owner {found.st_uid}, mode {found.st_mode & 0o777:04o}): "
                    f"`chmod 600 {path}`, and if somebody may have read it, `kps access-key rotate`",
                )
            content = file.read(FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise _none(name) from error
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    if len(content) > FILE_BYTES:
        raise _unusable(path, f"larger than {FILE_BYTES} bytes")
    return content.decode("utf-8")


def _none(name: str) -> Declined:
    there = ", ".join(names()) or "none"
    told = f"{name}: no such profile in {directory()} (there: {there}); `kps profile add` makes one"
    return Declined(exits.NOT_FOUND, "profile_not_found", told)


def _unusable(path: Path, why: str) -> Declined:
    return Declined(exits.USAGE, "profile_unusable", f"{path}: {why}")
