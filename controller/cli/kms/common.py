"""What the commands about master keys share: their options, and bytes that come in and go out."""

import base64
import binascii
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli import completion, inputs, output
from controller.cli.command import group
from controller.cli.exits import REFUSED, Declined, usage
from controller.cli.output import Known
from controller.cli.session import Session

kms = group(
    "Customer master keys: they encrypt, seal data keys, sign and make codes, and never leave this home in the clear.",
    "kps kms key create orders",
    "kps kms encrypt --key orders --in secret.txt --out secret.bin",
)

_STEP = "make a data key and encrypt with that"
MOST_BYTES = 12 * 1024  # what comes in is at most 4096 bytes of data, or their ciphertext, perhaps as Base64

_WHICH = "The master key's id, or one of its aliases."
OneKey = Annotated[str, typer.Argument(metavar="KEY", help=_WHICH, autocompletion=completion.master_keys)]
Key = Annotated[str, typer.Option("--key", metavar="KEY", help=_WHICH, autocompletion=completion.master_keys)]
In = Annotated[Path | None, typer.Option("--in", metavar="FILE", help="Read that from there; else from stdin.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the bytes there, mode 0600; an existing file is refused."),
]
AdditionalData = Annotated[
    str,
    typer.Option("--additional-data", metavar="TEXT", help="Up to 128 bytes that must be given again to open it; not secret."),
]
EvenIf = Annotated[
    bool,
    typer.Option(
        "--even-if-only-way-in",
        metavar="",
        help="Also where this key seals the private half of some login's only proved way in: nobody may get in there afterwards.",
    ),
]


def content(path: Path | None) -> bytes:
    """Return what a file holds, or stdin where there is none."""
    if path is None:
        if inputs.somebody_types():
            output.say("Reading from the terminal, to the end of input (Ctrl-D).", errors=True)
        if sys.stdin is None:
            raise usage("stdin is closed; give --in FILE")
        with inputs.interruptible():
            found = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        return inputs.file_bytes(path, MOST_BYTES, _STEP)
    if len(found) > MOST_BYTES:
        raise usage(f"stdin: larger than {MOST_BYTES} bytes; {_STEP}")
    return found


def unwrapped(found: bytes) -> bytes:
    """Return bytes that may have come as Base64: what kps prints, in contrast to what it writes to a file."""
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(b"".join(found.split()), validate=True) or found
    return found


def travelling(found: bytes | str) -> str:
    """Return bytes, or text as UTF-8, as the API takes them."""
    given = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
    return base64.b64encode(given).decode("ascii")


@contextlib.contextmanager
def to_file(path: Path | None) -> Iterator[Any]:
    """Make a new file for the bytes that the block fills in, as inputs.new_private_file; None: there is none to fill."""
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Declined(REFUSED, "file_exists", f"{path}: there is a file already; it was left as it is") from error
    except OSError as error:
        raise usage(f"{path}: {error.strerror}") from error
    filled = False

    def fill(given: bytes) -> None:
        nonlocal filled
        try:
            file.write(given)
            os.fsync(descriptor)
        except OSError as error:
            raise Declined(REFUSED, "file_not_written", f"{path}: {error.strerror}") from error
        filled = True

    with open(descriptor, "wb", buffering=0) as file:
        try:
            yield fill
        finally:
            if not filled:
                path.unlink()


def give(session: Session, answer: Known, field: str, fill: Any, *, raw: bool = False) -> None:
    """Give the bytes in a field of an answer: to the file, else to stdout, as Base64 or (raw) as they are."""
    if fill is not None:
        fill(base64.b64decode(answer[field]))
        answer = {name: value for name, value in answer.items() if name != field}
    if session.json:
        output.as_json(answer)
    elif fill is None and raw:
        with output.delivered():
            sys.stdout.buffer.write(base64.b64decode(answer[field]))
            sys.stdout.buffer.flush()
    elif fill is None:
        output.write(answer[field] + "\n")


def show_key(session: Session, key: Known) -> None:
    """Print one master key."""
    if session.json:
        output.as_json(key)
        return
    rotation = key["rotation"]
    rotates = (
        "no"
        if rotation["every_days"] is None
        else f"every {rotation['every_days']} days, next {output.seconds(rotation['next_at'])}"
    )
    output.facts(
        {
            "alias": key["alias"],
            "id": key["id"],
            "spec": key["spec"],
            "usage": key["usage"],
            "state": key["state"],
            "origin": key["origin"],
            "version": key["version"],
            "rotated by itself": rotates,
            "created": output.seconds(key["created_at"]),
        }
        | ({"destroyed at": output.seconds(key["deletes_at"])} if key["deletes_at"] else {})
        | ({"material expires": output.seconds(key["material_expires_at"])} if key["material_expires_at"] else {})
        | ({"description": key["description"]} if key["description"] else {})
        | ({"tags": output.pairs(key["tags"])} if key.get("tags") else {})
        | ({"further aliases": " ".join(key["aliases"])} if key.get("aliases") else {})
    )
