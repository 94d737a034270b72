"""Bodies of requests: how they are read, and how much of what nobody has vouched for yet is held at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from controller.admission import party

BODY_BYTES = 1024 * 1024
# Of the one call that takes a whole fleet in at once, or none of it; below what is held of one address.
LARGE = {"/fleet/v1/servers/import": 8 * 1024 * 1024}
BODY_SECONDS = 20
SMALL_BYTES = 16 * 1024  # of each body; that many connections as there may be hold 8 MiB of these
HELD_BYTES = 64 * 1024 * 1024  # beyond those, of all unverified bodies together
HELD_OF_ONE = 16 * 1024 * 1024  # and of those from one address


class TooLarge(Exception):
    """the body is larger than it may be"""


class TooSlow(Exception):
    """the body did not come within BODY_SECONDS"""


class BrokenOff(Exception):
    """whoever sent it is gone"""


class NoRoom(Exception):
    """too much is held already"""


class Room:
    """What may be held of unverified bodies. The first SMALL_BYTES of each are not counted: small requests find room always."""

    def __init__(self, most: int = HELD_BYTES, of_one: int = HELD_OF_ONE) -> None:
        self._most = most
        self._of_one = of_one
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """How many bytes are counted now."""
        return self._held.total()

    @contextmanager
    def share(self, address: str) -> Iterator["Share"]:
        """Give room for one body from an address, until the block ends."""
        share = Share(self, party(address))
        try:
            yield share
        finally:
            self._held[share.whom] -= share.counted
            if not self._held[share.whom]:
                del self._held[share.whom]

    def take(self, whom: str, size: int) -> None:
        """Count so many bytes more. NoRoom: they may not be held."""
        if self.held + size > self._most or self._held[whom] + size > self._of_one:
            raise NoRoom
        self._held[whom] += size


class Share:
    """The room that one body takes."""

    def __init__(self, room: Room, whom: str) -> None:
        self._room = room
        self.whom = whom
        self.counted = 0

    def grown_to(self, size: int) -> None:
        """The body is of this size now. NoRoom."""
        more = max(size - SMALL_BYTES, 0) - self.counted
        if more > 0:
            self._room.take(self.whom, more)
            self.counted += more


def most(scope: Scope) -> int:
    """Return how many bytes the body of a request may have."""
    return LARGE.get(scope["path"], BODY_BYTES)


def announced(scope: Scope) -> int | None:
    """Return how many bytes the head says that the body has; None where it comes in chunks, and nobody knows."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    return int(headers.get(b"content-length", b"0"))


async def read(scope: Scope, receive: Receive, share: Share | None = None) -> bytes:
    """Return the whole body. TooLarge (also where that was announced), TooSlow, BrokenOff, NoRoom."""
    size, allowed = announced(scope), most(scope)
    if size == 0:
        return b""
    if size is not None and size > allowed:
        raise TooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BrokenOff
                body += message.get("body", b"")
                if len(body) > allowed:
                    raise TooLarge
                if share is not None:
                    share.grown_to(len(body))
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise TooSlow from None


def once(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives a body that was read, and then what comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
