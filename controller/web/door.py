"""The door of the console: who is signed in, how much they may send and how often; headers, a number and a line of log."""

import logging
import re
import time
import uuid
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import structlog
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller import bodies
from controller.admission import HEAD_BYTES, party
from controller.errors import Problem
from controller.pace import Pace
from controller.service.console import SignedIn, called, digest
from controller.service.fleet import Fleet
from controller.settings import Settings
from controller.web import refusals

SIGNED_IN = "kps.signed_in"  # in the scope of a request, with the three below it: None where nobody is
SESSION_ID = "kps.session_id"
NUMBER = "kps.number"
ADDRESS = "kps.address"
ROOT = "/console"
LIVE = f"{ROOT}/live"
_ID = re.compile(r"[A-Za-z0-9_-]{43}")  # as a session's id is made
_MET = 10_000  # sessions
_STRANGERS_BYTES = 16 * 1024  # of a body from somebody who is not signed in: a name and a password
_READING = frozenset({"GET", "HEAD"})
# A page that refreshes itself says so: that is no sign of anybody being there.
BY_ITSELF = b"x-by-itself"

log = structlog.get_logger("kps.access")
faults = logging.getLogger("uvicorn.error")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer: with that, a browser says of our own forms that they come from "null", and older ones say no more.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"x-frame-options", b"DENY"),
)


def cookie_name(scope: Scope) -> str:
    """Return what the cookie with a session's id is called. The prefix has browsers hold it to this host, and to HTTPS."""
    return "__Host-kps" if scope["scheme"] == "https" else "kps"


class Turned(Exception):
    """a request that is not let in"""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Door:
    """The console with its door before it."""

    def __init__(self, application: ASGIApp, fleet: Fleet, settings: Settings) -> None:
        self._application = application
        self._fleet = fleet
        self._pace = Pace(settings.requests_per_second, settings.requests_at_once)
        self._room = bodies.Room()
        # Sessions that somebody was signed in by. Others are looked for in the database within their address's allowance alone.
        self._met: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun, number, status, is_whole = time.monotonic(), uuid.uuid4().hex, 0, False
        told: dict[str, Any] = {}
        address = str(scope["client"][0]) if scope.get("client") else ""

        async def sent(message: Message) -> None:
            nonlocal status, is_whole
            is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {
                    **message,
                    "headers": [*_kept(message.get("headers", [])), *HEADERS, (b"x-request-id", number.encode())],
                }
            await send(message)

        try:
            scope = dict(scope, **{NUMBER: number, ADDRESS: address, SIGNED_IN: None, SESSION_ID: None})
            await self._enter(scope, receive, sent, told)
        except Turned as turned:
            await refusals.page(scope, turned.status, turned.code, turned.message)(scope, receive, sent)
        except Problem as problem:  # of the home, as a disk that is full
            await refusals.page(scope, problem.status, problem.code, problem.message)(scope, receive, sent)
        except Exception:
            if status and not is_whole:
                raise
            faults.exception("request %s", number)
            if not status:
                await refusals.page(scope, 500, "unexpected", refusals.FAULT)(scope, receive, sent)
        finally:
            log.info(
                "request",
                id=number,
                method=scope["method"],
                path=scope["raw_path"].decode("ascii", "backslashreplace")[:500],
                status=status or 500,
                ms=round((time.monotonic() - begun) * 1000, 1),
                address=address or None,
                **told,
            )

    async def _enter(self, scope: Scope, receive: Receive, send: Send, told: dict[str, Any]) -> None:
        if _head_bytes(scope) > HEAD_BYTES:
            raise Turned(400, "invalid", f"the head of a request may hold {HEAD_BYTES} bytes")
        reads = scope["method"] in _READING
        if self._fleet.stopping.begun and not reads:
            raise Turned(503, "stopping", "the controller stops and begins nothing more; come again once it is back")
        shown = _shown(scope)
        kept = None if shown is None else digest(shown)
        if not self._pace.admits(kept if kept in self._met else party(scope[ADDRESS])):
            raise Turned(429, "too_many_requests", "too many requests; come again in a second")
        signed_in = None if shown is None else await self._signed_in(scope, shown)
        if signed_in is not None:
            told |= {"user": signed_in.who.user_id, "by": f"session {called(signed_in.digest)}"}
        if signed_in is not None and not comes_by_itself(scope):
            with suppress(Problem):  # a disk that is full keeps nobody from reading
                await self._fleet.console.seen(signed_in)
        body = b"" if reads else await self._body(scope, receive, signed_in)
        await self._application(scope, bodies.once(body, receive), send)

    async def _signed_in(self, scope: Scope, shown: str) -> SignedIn | None:
        found = await self._fleet.console.known(shown, scope[ADDRESS])
        self._met.pop(digest(shown), None)
        if found is not None:
            self._met[found.digest] = None
            while len(self._met) > _MET:
                self._met.popitem(last=False)
            scope.update({SIGNED_IN: found, SESSION_ID: shown})
        return found

    async def _body(self, scope: Scope, receive: Receive, signed_in: SignedIn | None) -> bytes:
        size = bodies.announced(scope)
        if signed_in is None and (size is None or size > _STRANGERS_BYTES):
            raise Turned(413, "body_too_large", "nobody is signed in, and nothing of this was done; sign in first")
        try:
            with self._room.share(scope[ADDRESS]) as share:
                return await bodies.read(scope, receive, share)
        except bodies.BrokenOff:
            raise Turned(400, "invalid", "the request broke off") from None
        except bodies.TooLarge:
            raise Turned(413, "body_too_large", f"a request may hold {bodies.BODY_BYTES} bytes") from None
        except bodies.TooSlow:
            raise Turned(408, "too_slow", f"the body did not come within {bodies.BODY_SECONDS} s") from None
        except bodies.NoRoom:
            raise Turned(503, "unavailable", "too much is being sent at once; come again in a second") from None


def _shown(scope: Scope) -> str | None:
    """Return the session's id that a browser shows; None where it shows none that could be one."""
    cookies = [value for name, value in scope["headers"] if name == b"cookie"]
    shown = cookie_parser("; ".join(each.decode("latin-1") for each in cookies)).get(cookie_name(scope), "")
    return shown if _ID.fullmatch(shown) else None


def _kept(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer; what says nothing of it is kept by nobody."""
    said = any(name.lower() == b"cache-control" for name, _ in headers)
    return headers if said else [*headers, (b"cache-control", b"no-store")]


def comes_by_itself(scope: Scope) -> bool:
    """Whether an open page asks, and nobody need be there: its stream begins anew by itself, and can say no more of itself."""
    return scope["raw_path"] == LIVE.encode() or any(name == BY_ITSELF for name, _ in scope["headers"])


def _head_bytes(scope: Scope) -> int:
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return len(scope["raw_path"]) + len(scope["query_string"]) + headers
