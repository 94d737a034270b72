"""The gate before both APIs: who asks, how much they may send and how often; a number for each request, and a line of log.

On the owner's socket whoever connects is the owner. On the network a request is signed.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller import signing
from controller.api import problems
from controller.errors import Problem
from controller.model import Caller, Secret, now
from controller.service.identity import Unknown

BODY_BYTES = 1024 * 1024
BODY_SECONDS = 20
CALLER = "kps.caller"  # in the scope of a request; where it is missing nobody asks
OPEN_TO_ALL = (b"/fleet/v1/health", b"/fleet/v1/ready", b"/")
_BUCKETS = 10_000

log = structlog.get_logger("kps.access")


class People(Protocol):
    """Knows who is behind an access key, and from where they may ask. Unknown for everything else."""

    async def of_access_key(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Secret]: ...
    async def used(self, access_key: str) -> None: ...


class Local:
    """An application that only the home's owner reaches."""

    def __init__(self, application: ASGIApp, owner: Callable[[], Caller]) -> None:
        self.application = application
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = dict(scope, **{CALLER: self._owner()})
        await self.application(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Turned(Exception):
    """a request that is not let in"""

    status: int
    code: str
    message: str


class Gate:
    """An application on the network, with the gate before it."""

    def __init__(self, application: ASGIApp, people: Callable[[], People], per_second: float, burst: int) -> None:
        self._application = application
        self._people = people
        self._pace = Pace(per_second, burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun = time.monotonic()
        number = uuid.uuid4().hex
        status = 500
        told: dict[str, Any] = {}

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", number.encode()), (b"cache-control", b"no-store")]
                added.append((b"x-content-type-options", b"nosniff"))  # what was stored is never more than text
                kept = [each for each in message.get("headers", []) if each[0] != b"cache-control"]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        try:
            body = await _read(scope, receive)
            if scope["raw_path"] not in OPEN_TO_ALL:
                who, by = await self._asking(scope, body)
                told = {"user": who.user_id, "by": by}
                if not self._pace.admits(by):
                    raise Turned(429, "APIGW.0308", "too many requests; come again in a second")
                scope = dict(scope, **{CALLER: who})
            await self._application(scope, _once(body, receive), numbered)
        except Turned as turned:
            await _refusal(scope, turned, number)(scope, receive, numbered)
        finally:
            log.info(
                "request",
                id=number,
                method=scope["method"],
                path=scope["raw_path"].decode("ascii", "backslashreplace")[:500],
                status=status,
                ms=round((time.monotonic() - begun) * 1000, 1),
                address=_address(scope),
                **told,
            )

    async def _asking(self, scope: Scope, body: bytes) -> tuple[Caller, str]:
        """Return who asks, and by which access key."""
        headers = scope["headers"]
        request = signing.Request(scope["method"], scope["raw_path"], scope["query_string"], headers, body)
        address = _address(scope)
        try:
            if request.values("x-auth-token") and not request.values("authorization"):
                raise Unknown("token is wrong or expired")  # none is given out
            claim = signing.claimed(request, now())
            security = request.values("x-security-token")
            if len(security) > 1:
                raise Unknown("security token is wrong or expired")
            given = security[0].decode("latin-1") if security else None
            who, secret = await self._people().of_access_key(claim.access_key, given, address)
            try:
                signing.verify(request, claim, secret)
            finally:
                secret.wipe()
            # Only now: an access key's id is no secret, and whoever merely names it has not used it.
            await self._people().used(claim.access_key)
        except Problem as problem:  # of the home, as a root key that does not open
            raise Turned(503, "KPS.0003", problem.message) from None
        except (Unknown, signing.NotSigned) as unknown:
            message = f"Incorrect IAM authentication information: {unknown.reason}"
            raise Turned(401, "APIGW.0301", message) from None
        return who, claim.access_key


class Pace:
    """How often each may ask: so many per second in the long run, and at most burst at once."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._now = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by whom: how many are left, and since when

    def admits(self, whom: str) -> bool:
        """Say whether whom may ask now; if so, that counts."""
        at = self._now()
        left, since = self._left.pop(whom, (float(self._burst), at))
        left = min(float(self._burst), left + (at - since) * self._per_second)
        admitted = left >= 1
        self._left[whom] = (left - 1 if admitted else left, at)
        # Whoever is forgotten has asked least lately, and has most of theirs back.
        while len(self._left) > _BUCKETS:
            self._left.popitem(last=False)
        return admitted


async def _read(scope: Scope, receive: Receive) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Turned(400, "APIGW.0201", "the request broke off")
                body += message.get("body", b"")
                if len(body) > BODY_BYTES:
                    raise Turned(413, "APIGW.0201", f"a request may hold {BODY_BYTES} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Turned(408, "APIGW.0201", f"the body did not come within {BODY_SECONDS} s") from None


def _once(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _refusal(scope: Scope, turned: Turned, number: str) -> JSONResponse:
    if scope["raw_path"].startswith(b"/fleet/"):
        return problems.answer(turned.status, _CODES[turned.status], turned.message)
    body = {"error_msg": turned.message, "error_code": turned.code, "request_id": number}
    return JSONResponse(body, status_code=turned.status)


_CODES = {400: "invalid", 401: "not_signed", 408: "too_slow", 413: "body_too_large", 429: "too_many_requests", 503: "unavailable"}


def _address(scope: Scope) -> str | None:
    client = scope.get("client")
    return None if client is None else str(client[0])
