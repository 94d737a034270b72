"""Reads a private key file that somebody has given, in a process of its own.

What that costs is the file's choice, and while OpenSSL computes it no other thread of its process gets on.
"""

import asyncio
import base64
import json
import resource
import struct
import sys
from typing import Any

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import Converted, PublicKey
from controller.model import KeyFormat, PublicFormat, Secret
from controller.privacy import keep_memory_private

PROCESSOR_SECONDS = 5
MEMORY_BYTES = 512 * 1024 * 1024
SECONDS = 60  # where the machine is busy with other things

_LENGTHS = struct.Struct(">IIII")
_NOTHING = Secret(b"")


async def read_private(text: Secret, passphrase: Secret | None = None, *, allow_weak: bool = False) -> tuple[PublicKey, Secret]:
    """Return what keyfiles.read_private returns, or raise what it raises, while everything else goes on.

    A file that takes more than PROCESSOR_SECONDS or MEMORY_BYTES is private_key_unreadable.
    """
    said, stored = await _asked({"allow_weak": allow_weak}, text, passphrase)
    return _public(said["public"]), stored


async def convert(
    text: Secret,
    to: KeyFormat | PublicFormat,
    *,
    curve: str | None = None,
    passphrase: Secret | None = None,
    new_passphrase: Secret | None = None,
    comment: str | None = None,
    allow_weak: bool = False,
) -> Converted:
    """Return what keyfiles.convert returns, or raise what it raises; as read_private."""
    asked = {"to": to, "curve": curve, "comment": comment, "allow_weak": allow_weak}
    said, made = await _asked(asked, text, passphrase, new_passphrase)
    return Converted(said["type"], None if said["public"] is None else _public(said["public"]), made)


async def _asked(
    asked: dict[str, Any], text: Secret, passphrase: Secret | None, new_passphrase: Secret | None = None
) -> tuple[dict[str, Any], Secret]:
    """Have a process answer one question: what it says, and the secret that comes with it."""
    question = Secret(json.dumps(asked))
    parts = (question, text, passphrase or _NOTHING, new_passphrase or _NOTHING)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __name__, str(PROCESSOR_SECONDS), str(MEMORY_BYTES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # a trace may quote what was read
    )
    try:
        async with asyncio.timeout(SECONDS):
            told = _LENGTHS.pack(*map(len, parts)) + b"".join(part.view() for part in parts)
            answer, _ = await process.communicate(told)
    except TimeoutError:
        answer = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    head, _, secret = answer.partition(b"\n")
    if not head:
        raise Invalid(
            "private_key_unreadable",
            f"opening it takes more than {PROCESSOR_SECONDS} s or {MEMORY_BYTES >> 20} MiB; "
            "ssh-keygen -p -f FILE rewrites it with the usual effort",
        )
    said: dict[str, Any] = json.loads(head)
    if "code" in said:
        raise Invalid(said["code"], said["message"])
    return said, Secret(bytearray(secret))


def _public(said: dict[str, str]) -> PublicKey:
    return PublicKey(said["type"], base64.b64decode(said["blob"]))


def _told(public: PublicKey) -> dict[str, str]:
    return {"type": public.type, "blob": base64.b64encode(public.blob).decode("ascii")}


def _answered(asked: dict[str, Any], text: Secret, passphrase: Secret, new_passphrase: Secret) -> tuple[dict[str, Any], Secret]:
    try:
        if "to" not in asked:
            public, stored = keyfiles.read_private(text, passphrase, **asked)
            return {"public": _told(public)}, stored
        made = keyfiles.convert(text, passphrase=passphrase, new_passphrase=new_passphrase or None, **asked)
        return {"type": made.type, "public": None if made.public is None else _told(made.public)}, made.text
    except Invalid as refused:
        return {"code": refused.code, "message": refused.message}, _NOTHING


def main() -> None:
    """Answer the one question on standard input: a line of JSON, and after it the secret. Arguments: the limits."""
    keep_memory_private()
    for limit, word in zip((resource.RLIMIT_CPU, resource.RLIMIT_AS), sys.argv[1:], strict=True):
        hard = resource.getrlimit(limit)[1]
        most = int(word) if hard == resource.RLIM_INFINITY else min(int(word), hard)
        resource.setrlimit(limit, (most, most))
    read = sys.stdin.buffer.read
    lengths = _LENGTHS.unpack(read(_LENGTHS.size))
    question, text, passphrase, new_passphrase = (Secret(read(length)) for length in lengths)
    answer, secret = _answered(json.loads(question.open()), text, passphrase, new_passphrase)
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii") + b"\n" + secret.view())


if __name__ == "__main__":
    main()
