"""What is behind a port where no login came about: knock once more, as an SSH client would, and listen.

An SSH server greets and says what it can do before anything is encrypted: RFC 4253, sections 4.2 and 7.1.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import asyncssh

SECONDS = 5.0
_GREETING = b"SSH-2.0-kps\r\n"
_LONGEST = 64 * 1024
_KEXINIT = 20
_BEFORE_LISTS = 1 + 16  # the message's number, and its cookie
_SIGNS = ("ext-info-", "kex-strict-")  # stand among the key exchanges, and are none: RFC 8308, and OpenSSH's PROTOCOL
_LISTS = ("key exchange", "host key", "cipher", "cipher back", "MAC", "MAC back")


class Reader(Protocol):
    """What comes from the other end."""

    async def read(self, n: int, /) -> bytes: ...


class Writer(Protocol):
    """What goes there."""

    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...


Opens = Callable[[], Awaitable[tuple[Reader, Writer]]]  # a new connection to the server in question


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back. said: bytes; silent: the connection was taken, and then nothing came."""

    said: bytes
    silent: bool = False

    @property
    def greets(self) -> bool:
        """Whether an SSH server greeted, of the version that is spoken here: RFC 4253, sections 4.2 and 5.1."""
        return self.said.startswith((b"SSH-2.0-", b"SSH-1.99-"))

    @property
    def broken_off(self) -> bool:
        """Whether it ended before it could be told what it is."""
        return b"SSH-2.0-".startswith(self.said)

    @property
    def first_line(self) -> str:
        return self.said.split(b"\n")[0].decode("ascii", "replace")


async def knock(opens: Opens, seconds: float) -> Heard:
    """Return what a server says to an SSH client that has only greeted. No credential is at hand here, so none is sent."""
    said = b""
    try:
        async with asyncio.timeout(min(SECONDS, seconds)):
            reader, writer = await opens()
            try:
                writer.write(_GREETING)
                while len(said) < _LONGEST and not _whole(said):
                    some = await reader.read(_LONGEST)
                    if not some:
                        break
                    said += some
            finally:
                writer.close()
    except TimeoutError:
        return Heard(said, silent=not said)
    except (OSError, asyncssh.Error):
        pass  # what was heard before it broke is all there is
    return Heard(said)


def _whole(said: bytes) -> bool:
    """Whether this is all that is needed: a greeting with the packet that follows, or the first line of something else."""
    return bool(algorithms(said)) if said.startswith(b"SSH-"[: len(said)]) else b"\n" in said


def algorithms(said: bytes) -> dict[str, list[str]]:
    """Return what the server can do, by kind and in its order; {} where it has not said so completely."""
    _, _, packet = said.partition(b"\n")
    try:
        length, padding = struct.unpack_from(">IB", packet)
        payload = packet[5 : 4 + length - padding]
        if len(packet) < 4 + length or payload[0] != _KEXINIT:
            return {}
        found, at = {}, _BEFORE_LISTS
        for kind in _LISTS:
            (size,) = struct.unpack_from(">I", payload, at)
            names = payload[at + 4 : at + 4 + size].decode("ascii").split(",")
            found[kind] = [name for name in names if not name.startswith(_SIGNS)]
            at += 4 + size
    except (struct.error, IndexError, UnicodeDecodeError):
        return {}
    return found
