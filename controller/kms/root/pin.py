"""A token's PIN: where it comes from, and that a wrong one is tried once.

Tokens lock themselves after a few wrong PINs, for good. So what was refused is remembered in the home, across processes, and
not tried again until the PIN is another one or a person says so.
"""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.errors import Unavailable
from controller.kms.root import owned
from controller.kms.root.uri import Uri
from controller.model import Secret

MOST_BYTES = 256
REMEMBERED = "root.pin-refused"
_AGAIN = "put the right one there, which is then tried, or: kps root check --try-pin-again"


class Refused(Exception):
    """the token did not take the PIN"""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a PIN comes from: a file, or a descriptor that whoever started us left open."""

    place: Path | int

    def which(self) -> str:
        """Return what changes when the PIN is put there anew, and tells nothing about it."""
        if isinstance(self.place, int):
            return "given by descriptor"
        with contextlib.suppress(OSError):
            found = self.place.stat()
            return f"{found.st_ino}.{found.st_ctime_ns}.{found.st_size}"
        return "none"

    def read(self) -> Secret:
        """Return the PIN, without the end of its line. Unavailable: root_pin_missing, root_pin_exposed, root_pin_malformed."""
        if isinstance(self.place, int):
            pin = _from_descriptor(self.place)
        else:
            pin = owned.read(self.place, "PIN", "root_pin", MOST_BYTES)
        while pin and pin[-1] in b"\r\n":
            pin.pop()
        if not pin:
            raise Unavailable("root_pin_missing", f"{self}: there is no PIN in it")
        return Secret(pin)

    def __str__(self) -> str:
        return f"descriptor {self.place}" if isinstance(self.place, int) else str(self.place)


def source(uri: Uri) -> Source:
    """Return where the PIN for a URI comes from. Invalid(root_key_uri_unusable)."""
    text = uri.query.get("pin-source", "")
    scheme, _, rest = text.partition(":")
    if scheme == "fd" and rest.isdecimal() and len(rest) < 8:
        return Source(int(rest))
    path = Path(rest.removeprefix("//") if scheme == "file" else text)
    if not path.is_absolute():
        raise uri.refused("give the PIN by pin-source=file:/ABSOLUTE/PATH or pin-source=fd:NUMBER")
    return Source(path)


@contextlib.contextmanager
def one_attempt(home: Path, token: str, given: Source, *, again: bool) -> Iterator[None]:
    """Let the block try the PIN, unless the token has refused this one before; a Refused from it is remembered.

    again: a person wants it tried all the same. Unavailable(root_pin_refused).
    """
    with _remembered(home) as descriptor:
        refused = _load(descriptor)
        if refused.get(token) == given.which() and not again:
            raise Unavailable(
                "root_pin_refused",
                f"{token} has refused the PIN of {given} before, and it is not tried again, for a token locks itself after "
                f"a few wrong ones; {_AGAIN}",
            )
        try:
            yield
        except Refused as error:
            _keep(descriptor, refused | {token: given.which()})
            message = f"{token} refuses the PIN of {given} ({error}); it was tried once, and is not tried again"
            raise Unavailable("root_pin_refused", f"{message}; {_AGAIN}") from error
        if refused.pop(token, None) is not None:
            _keep(descriptor, refused)


def _from_descriptor(number: int) -> bytearray:
    try:
        # What we open ourselves is never handed on: an inheritable one was given to us.
        given = os.get_inheritable(number) and not stat.S_ISDIR(os.fstat(number).st_mode)
    except OSError:
        given = False
    if not given:
        message = f"descriptor {number}: nobody has given it; start kps with {number}< FILE, and again to open the token anew"
        raise Unavailable("root_pin_missing", message)
    pin = bytearray()
    with open(number, "rb", buffering=0) as file:
        while len(pin) <= MOST_BYTES and (more := file.read(MOST_BYTES + 1 - len(pin))):
            pin += more
    if len(pin) > MOST_BYTES:
        raise Unavailable("root_pin_malformed", f"descriptor {number}: a PIN has {MOST_BYTES} bytes at most")
    return pin


@contextlib.contextmanager
def _remembered(home: Path) -> Iterator[int]:
    """Be the only one who tries a PIN in this home."""
    path = home / REMEMBERED
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"{path}: {error.strerror}; it remembers a PIN that was refused: see the home's mode, and its disk"
        raise Unavailable("home_unusable", message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _load(descriptor: int) -> dict[str, str]:
    text = os.pread(descriptor, 64 * 1024, 0)
    try:
        found = json.loads(text or b"{}")
        return {str(token): str(which) for token, which in found.items()}
    except (ValueError, AttributeError) as error:
        message = f"{REMEMBERED} in the home is not as kps wrote it; remove it when no PIN was refused"
        raise Unavailable("home_unusable", message) from error


def _keep(descriptor: int, refused: dict[str, str]) -> None:
    text = json.dumps(refused).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)
