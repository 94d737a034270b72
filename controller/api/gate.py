"""The gate before both APIs: who asks, how much they may send and how often; a number for each request, and a line of log.

On the owner's socket whoever connects is the owner. On the network a request is signed.
"""

import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller import bodies, signing
from controller.admission import HEAD_BYTES
from controller.api import problems, scraping
from controller.errors import Away, Problem
from controller.model import Caller, Secret, now
from controller.pace import Failures, Pace
from controller.service.fleet import People
from controller.service.identity import NO_SECURITY_TOKEN, NO_TOKEN, Unknown
from controller.settings import Settings

CALLER = "kps.caller"  # in the scope of a request; where it is missing nobody asks
AGAIN = "kps.again"  # beside it: who would be let in now by what came with the request
OPEN_TO_ALL = (b"/fleet/v1/health", b"/fleet/v1/ready", b"/")
_TOKEN_BYTES = 256

log = structlog.get_logger("kps.access")
faults = logging.getLogger("uvicorn.error")  # where the server tells of its own

Again = Callable[[], Awaitable[Caller | None]]


class Local:
    """An application that only the home's owner reaches."""

    def __init__(self, application: ASGIApp, owner: Callable[[], Caller]) -> None:
        self.application = application
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = dict(scope, **{CALLER: self._owner(), AGAIN: self._again})
        await self.application(scope, receive, send)

    async def _again(self) -> Caller:
        return self._owner()


@dataclass(frozen=True, slots=True)
class Turned(Exception):
    """a request that is not let in"""

    status: int
    code: str
    message: str
    retry_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was let in: who asks, by what (an id, never a secret), whose requests count together, and what they sent.

    again: tells for an answer that takes long who would be let in now; None where nobody would.
    """

    who: Caller
    by: str
    paced: str
    body: bytes
    again: Again


class Gate:
    """An application on the network, with the gate before it."""

    def __init__(self, application: ASGIApp, people: Callable[[], People], settings: Settings) -> None:
        self._application = application
        self._people = people
        self._settings = settings
        self._pace = Pace(settings.requests_per_second, settings.requests_at_once)
        self._failures = Failures(settings.failures_per_second, settings.failures_at_once)
        self._room = bodies.Room()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun = time.monotonic()
        number = uuid.uuid4().hex
        status = 0
        is_whole = False
        told: dict[str, Any] = {}

        async def numbered(message: Message) -> None:
            nonlocal status, is_whole
            is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", number.encode()), (b"cache-control", b"no-store")]
                added.append((b"x-content-type-options", b"nosniff"))  # what was stored is never more than text
                if any(name == b"expect" for name, _ in scope["headers"]):
                    # The body may be on its way or not: what comes next cannot be told from it.
                    added.append((b"connection", b"close"))
                kept = [each for each in message.get("headers", []) if each[0] != b"cache-control"]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        try:
            if _head_bytes(scope) > HEAD_BYTES:  # one that came whole; h11 counts those of which more is to come
                raise Turned(400, "APIGW.0201", f"the head of a request may hold {HEAD_BYTES} bytes")
            if scope["raw_path"] in OPEN_TO_ALL:
                # Nothing of what these are sent is read.
                await self._application(scope, bodies.once(b"", receive), numbered)
                return
            if scope["raw_path"] == scraping.PATH.encode() and (token := scraping.bearer(scope["headers"])) is not None:
                told = {"by": "metrics token"}
                self._scrapes(token, scope)
                await self._application(dict(scope, **{scraping.SCRAPES: True}), bodies.once(b"", receive), numbered)
                return
            asked = await self._asked(scope, receive)
            told = {"user": asked.who.user_id, "by": asked.by}
            if not self._pace.admits(asked.paced):
                raise Turned(429, "APIGW.0308", "too many requests; come again in a second")
            scope = dict(scope, **{CALLER: asked.who, AGAIN: asked.again})
            await self._application(scope, bodies.once(asked.body, receive), numbered)
        except Turned as turned:
            await _refusal(scope, turned, number)(scope, receive, numbered)
        except Exception:
            if status and not is_whole:
                raise  # cut off, and the connection with it
            # Let out of here, it would end the connection: at once, and without a word to whoever asks next on it.
            faults.exception("request %s", number)
            if not status:
                await _refusal(scope, Turned(500, "KPS.0004", problems.FAULT), number)(scope, receive, numbered)
        finally:
            log.info(
                "request",
                id=number,
                method=scope["method"],
                path=scope["raw_path"].decode("ascii", "backslashreplace")[:500],
                status=status or 500,
                ms=round((time.monotonic() - begun) * 1000, 1),
                address=_address(scope),
                **told,
            )

    def _scrapes(self, token: str, scope: Scope) -> None:
        """Turned, unless this is the token with which the metrics are read. Guesses count as all that is not let in does."""
        address, name = _address(scope) or "", scraping.PATH
        self._still_heard(address, name)
        if not scraping.is_token(token, self._settings.metrics_token_file):
            self._failures.failed(address, name)
            raise Turned(401, "APIGW.0301", "Incorrect IAM authentication information: not the metrics token")
        self._failures.passed(address, name)
        if not self._pace.admits(name):
            raise Turned(429, "APIGW.0308", "too many requests; come again in a second")

    async def _asked(self, scope: Scope, receive: Receive) -> Asked:
        """Return who asks, and what, once that is proved. Turned for everything else, as early as it can be told."""
        request = signing.Request(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"], b"")
        address = _address(scope) or ""
        name = ""
        try:
            if request.values("x-auth-token") and not request.values("authorization"):
                token = _token(request)
                name = hashlib.sha256(token.encode("latin-1")).hexdigest()
                self._still_heard(address, name)
                asked = await self._by_token(token, scope, receive)
            else:
                claim = signing.claimed(request, now())
                name = claim.access_key
                self._still_heard(address, name)
                asked = await self._by_signature(request, claim, scope, receive)
        except Problem as problem:  # of the home, as a root key that does not open
            retry = problem.retry_seconds if isinstance(problem, Away) else None
            raise Turned(503, "KPS.0003", problem.message, retry) from None
        except (Unknown, signing.NotSigned) as unknown:
            if name:  # what is not even a claim has cost nothing
                self._failures.failed(address, name)
            message = f"Incorrect IAM authentication information: {unknown.reason}"
            raise Turned(401, "APIGW.0301", message) from None
        except bodies.BrokenOff:
            raise Turned(400, "APIGW.0201", "the request broke off") from None
        except bodies.TooLarge:
            raise Turned(413, "APIGW.0201", f"a request may hold {bodies.most(scope)} bytes") from None
        except bodies.TooSlow:
            raise Turned(408, "APIGW.0201", f"the body did not come within {bodies.BODY_SECONDS} s") from None
        except bodies.NoRoom:
            raise Turned(503, "KPS.0003", "too much is being sent at once; come again in a second") from None
        self._failures.passed(address, name)
        return asked

    async def _by_signature(self, request: signing.Request, claim: signing.Claim, scope: Scope, receive: Receive) -> Asked:
        people, address = self._people(), _address(scope)
        security = _security_token(request)
        with self._room.share(address or "") as share:
            unread = bodies.announced(scope) != 0
            # Nobody makes us wait for a body in the name of an access key that there is not.
            if unread and await people.known(claim.access_key, security, address) is not None:
                request = replace(request, body=await bodies.read(scope, receive, share))
                unread = False
            try:
                # Asked (again) only now: what was disabled while the body came is refused.
                who, secret = await people.of_access_key(claim.access_key, security, address)
            except Unknown as unknown:
                if unknown.decoy is not None:
                    with suppress(signing.NotSigned):
                        _verified(request, claim, unknown.decoy)
                raise
            _verified(request, claim, secret)
        if unread:
            raise signing.NotSigned(signing.WRONG)  # there is such an access key since this moment
        # Only now: an access key's id is no secret, and whoever merely names it has not used it.
        await people.used(who.access_key or claim.access_key)
        again = partial(people.known, claim.access_key, security, address)
        return Asked(who, claim.access_key, who.user_id if who.passing else claim.access_key, request.body, again)

    async def _by_token(self, token: str, scope: Scope, receive: Receive) -> Asked:
        people, address = self._people(), _address(scope)
        who, token_id = await people.of_token(token, address)
        body = await bodies.read(scope, receive)
        await people.token_used(token_id)

        async def again() -> Caller | None:
            try:
                return (await people.of_token(token, address))[0]
            except Unknown:
                return None

        return Asked(who, f"token {token_id}", who.user_id, body, again)

    def _still_heard(self, address: str, name: str) -> None:
        if self._failures.too_many(address, name):
            raise Turned(429, "APIGW.0308", "too many requests from this address were not let in; come again later")


def _verified(request: signing.Request, claim: signing.Claim, secret: Secret) -> None:
    try:
        signing.verify(request, claim, secret)
    finally:
        secret.wipe()


def _token(request: signing.Request) -> str:
    given = request.values("x-auth-token")
    if len(given) != 1 or len(given[0]) > _TOKEN_BYTES:
        raise Unknown(NO_TOKEN)
    return given[0].decode("latin-1")


def _security_token(request: signing.Request) -> str | None:
    given = request.values("x-security-token")
    if len(given) > 1 or any(len(each) > _TOKEN_BYTES for each in given):
        raise Unknown(NO_SECURITY_TOKEN)
    return given[0].decode("latin-1") if given else None


def _refusal(scope: Scope, turned: Turned, number: str) -> JSONResponse:
    if scope["raw_path"].startswith(b"/fleet/"):
        refused = problems.answer(turned.status, _CODES[turned.status], turned.message)
    else:
        body = {"error_msg": turned.message, "error_code": turned.code, "request_id": number}
        refused = JSONResponse(body, status_code=turned.status)
    if turned.retry_seconds is not None:
        refused.headers["Retry-After"] = str(turned.retry_seconds)
    return refused


_CODES = {400: "invalid", 401: "not_signed", 408: "too_slow", 413: "body_too_large", 429: "too_many_requests"} | {
    500: "unexpected",
    503: "unavailable",
}


def _head_bytes(scope: Scope) -> int:
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return len(scope["raw_path"]) + len(scope["query_string"]) + headers


def _address(scope: Scope) -> str | None:
    client = scope.get("client")
    return None if client is None else str(client[0])
