"""Reads a private key file that somebody has given, in a process of its own.

What that costs is the file's choice, and while OpenSSL computes it no other thread of its process gets on.
"""

import asyncio
import base64
import json
import resource
import struct
import sys

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import PublicKey
from controller.model import Secret
from controller.privacy import keep_memory_private

PROCESSOR_SECONDS = 5
MEMORY_BYTES = 512 * 1024 * 1024
SECONDS = 60  # where the machine is busy with other things

_LENGTHS = struct.Struct(">II")


async def read_private(text: Secret, passphrase: Secret | None = None) -> tuple[PublicKey, Secret]:
    """Return what keyfiles.read_private returns, or raise what it raises, while everything else goes on.

    A file that takes more than PROCESSOR_SECONDS or MEMORY_BYTES is private_key_unreadable.
    """
    word = Secret(b"") if passphrase is None else passphrase
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __name__, str(PROCESSOR_SECONDS), str(MEMORY_BYTES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # a trace may quote what was read
    )
    try:
        async with asyncio.timeout(SECONDS):
            answer, _ = await process.communicate(_LENGTHS.pack(len(text), len(word)) + text.open() + word.open())
    except TimeoutError:
        answer = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    head, _, stored = answer.partition(b"\n")
    if not head:
        raise Invalid(
            "private_key_unreadable",
            f"opening it takes more than {PROCESSOR_SECONDS} s or {MEMORY_BYTES >> 20} MiB; "
            "ssh-keygen -p -f FILE rewrites it with the usual effort",
        )
    said = json.loads(head)
    if "code" in said:
        raise Invalid(said["code"], said["message"])
    return PublicKey(said["type"], base64.b64decode(said["blob"])), Secret(bytearray(stored))


def main() -> None:
    """Answer the one question on standard input: a line of JSON, and after it the stored form. Arguments: the limits."""
    keep_memory_private()
    for limit, word in zip((resource.RLIMIT_CPU, resource.RLIMIT_AS), sys.argv[1:], strict=True):
        hard = resource.getrlimit(limit)[1]
        most = int(word) if hard == resource.RLIM_INFINITY else min(int(word), hard)
        resource.setrlimit(limit, (most, most))
    text_length, word_length = _LENGTHS.unpack(sys.stdin.buffer.read(_LENGTHS.size))
    text, passphrase = Secret(sys.stdin.buffer.read(text_length)), Secret(sys.stdin.buffer.read(word_length))
    try:
        public, stored = keyfiles.read_private(text, passphrase)
    except Invalid as refused:
        answer, secret = {"code": refused.code, "message": refused.message}, b""
    else:
        answer, secret = {"type": public.type, "blob": base64.b64encode(public.blob).decode("ascii")}, stored.open()
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii") + b"\n" + secret)


if __name__ == "__main__":
    main()
