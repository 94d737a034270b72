"""What every page needs: who is signed in, the services, the form that was sent, and how a page is answered."""

import hmac
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.params import Depends as Needs
from starlette.datastructures import FormData, UploadFile
from starlette.responses import HTMLResponse, RedirectResponse, Response

from controller.errors import Conflict, Invalid, NotAllowed, Problem
from controller.events import Actor, acting
from controller.model import Caller, Secret
from controller.service.console import SignedIn, form_token
from controller.service.fleet import Fleet
from controller.service.roles import refusal
from controller.web.door import ROOT, SESSION_ID, SIGNED_IN, comes_by_itself
from controller.web.rendering import rendered

SIGN_IN = f"{ROOT}/sign-in"
FORM_TOKEN = "form_token"  # noqa: S105  (the name of a field)
Kind = Literal["good", "bad"]
_SESSIONS_TOLD = 1000
_TOLD = 10  # of one session, and the last of them
MOST_FILE_BYTES = 64 * 1024  # as the APIs have it
_MOST_FIELDS = 25_000  # ten thousand servers that were chosen one by one, and more
_LONGEST_PATH = 2000


@dataclass(frozen=True, slots=True)
class Said:
    """What the next page tells of what was just done."""

    text: str
    kind: Kind


class Flashes:
    """What is to be told to whom, once. Held here: a controller that starts anew has nothing to tell."""

    def __init__(self) -> None:
        self._of: OrderedDict[bytes, list[Said]] = OrderedDict()

    def add(self, session: bytes, said: Said) -> None:
        """Tell this on the next page of a session."""
        self._of[session] = [*self._of.get(session, ()), said][-_TOLD:]
        while len(self._of) > _SESSIONS_TOLD:
            self._of.popitem(last=False)

    def taken(self, session: bytes) -> list[Said]:
        """Return what is to be told now, and forget it."""
        return self._of.pop(session, [])


class Form:
    """What was sent with a form. Invalid where it is not as the form has it."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str, default: str = "", most: int = 1000) -> str:
        """Return a field's text without blanks around it. most: characters."""
        found = self._data.get(name, default)
        if not isinstance(found, str) or len(found) > most:
            raise Invalid("invalid", f"{name}: at most {most} characters")
        return found.strip()

    def long_text(self, name: str, most: int = 256 * 1024) -> str:
        """Return a field's text as it was typed, line ends as Unix has them."""
        found = self._data.get(name, "")
        if not isinstance(found, str) or len(found) > most:
            raise Invalid("invalid", f"{name}: at most {most} characters")
        return found.replace("\r\n", "\n")

    def all(self, name: str) -> list[str]:
        """Return all that was chosen under a name."""
        return [each for each in self._data.getlist(name) if isinstance(each, str)]

    def on(self, name: str) -> bool:
        """Whether a box was ticked."""
        return name in self._data

    def number(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number; default where the field was left empty."""
        found = self.text(name)
        if not found:
            return default
        if not (found.isascii() and found.isdigit()) or len(found) > 9:
            raise Invalid("invalid", f"{name}: give a whole number")
        return int(found)

    def secret(self, name: str) -> Secret | None:
        """Return what was typed into a field that shows nothing, blanks and all; None where that is nothing."""
        found = self._data.get(name, "")
        return Secret(found) if isinstance(found, str) and found else None

    async def file(self, name: str) -> Secret | None:
        """Return the content of a file that was chosen, this once; None where none was. Invalid: larger than any key file."""
        found = self._data.get(name)
        if not isinstance(found, UploadFile) or not found.size:
            return None
        if found.size > MOST_FILE_BYTES:
            raise Invalid("invalid", f"{name}: at most {MOST_FILE_BYTES} bytes")
        try:
            return Secret(bytearray(await found.read()))
        finally:
            await found.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of somebody who is signed in."""

    request: Request
    fleet: Fleet
    signed_in: SignedIn
    form: Form

    @property
    def who(self) -> Caller:
        """Whom the services are told."""
        return self.signed_in.who

    @property
    def by_htmx(self) -> bool:
        """Whether a part of a page is asked for, not a page."""
        return self.request.headers.get("hx-request") == "true"

    def may(self, verb: str, scope: str = "tenant") -> bool:
        """Whether the caller may do this, by the table that the services ask too (controller/service/roles)."""
        return refusal(self.who.role, self.who.kind, verb, scope) is None

    async def show(self, template: str, here: str, title: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page. here: the entry of the navigation that it belongs to; title: its heading, and the window's."""
        values = await around(self) | {"here": here, "title": title} | values
        return HTMLResponse(rendered(template, values), status_code=status)

    async def note_refused(self, problem: Problem) -> None:
        """Put on record what is told on a page of its own, and not raised."""
        await self.fleet.audit.refused(self.who, problem, self.request.method, self.request.scope["path"])

    def refuse_another(self, name: str, id: str) -> None:
        """Conflict(selection_outdated) where the form's page was about another one, that had this name before."""
        if self.form.text("id", id) != id:
            raise Conflict("selection_outdated", f"{name} is another one by now than on the page that asked; open its page again")

    def say(self, text: str, kind: Kind = "good") -> None:
        """Have the next page tell this."""
        self.request.app.state.flashes.add(self.signed_in.digest, Said(text, kind))

    def go(self, path: str, said: str = "", kind: Kind = "good") -> Response:
        """Send the browser on to another page of the console, after something was done. said: told there."""
        if said:
            self.say(said, kind)
        if self.by_htmx:
            return Response(headers={"HX-Redirect": path})
        return RedirectResponse(path, status_code=303)


async def page_of(request: Request) -> Asked:
    """Return the request of somebody who is signed in, with what was sent."""
    return asked_by(request, await form_of(request))


def asked_by(request: Request, form: Form) -> Asked:
    """Return the request of somebody who is signed in; what happens from here on is theirs, in the events."""
    signed_in: SignedIn = request.scope[SIGNED_IN]
    acting.set(Actor(signed_in.who.tenant_id, signed_in.who.user_id))
    return Asked(request, request.app.state.fleet, signed_in, form)


async def form_of(request: Request) -> Form:
    """Return the form that came with a request."""
    if request.method in ("GET", "HEAD"):
        return Form(FormData())
    # The door has read it whole, and no more than is held in memory: no file of it ever comes to a disk.
    return Form(await request.form(max_files=10, max_fields=_MOST_FIELDS, max_part_size=1024 * 1024))


Page = Annotated[Asked, Depends(page_of)]
TheForm = Annotated[Form, Depends(form_of)]


async def around(page: Asked) -> dict[str, Any]:
    """Return what is on every page: who is signed in, what they may, and what is to be told them."""
    unseen = page.by_htmx or comes_by_itself(page.request.scope)  # a part of it is, or nothing
    return {
        "signed_in": page.signed_in,
        "may": page.may,
        "form_token": form_token(page.request.scope[SESSION_ID]),
        "newest": await page.fleet.news.newest(),
        "doors_open": (await page.fleet.emergency.counted(page.who))[0],
        "said": [] if unseen else page.request.app.state.flashes.taken(page.signed_in.digest),
        "path": own_path(page.request),
    }


# -- who may come to a page at all

OPEN = "open to strangers"


def open_router() -> APIRouter:
    """Return a router of pages for whoever is not signed in too. What they are sent is still from our own pages only."""
    return APIRouter(tags=[OPEN])


def guarded(router: APIRouter) -> Needs:
    """Return what stands before every page of a router."""
    return Needs(_own_pages_only if OPEN in router.tags else _signed_in)


class NotSignedIn(NotAllowed):
    """nobody is signed in; the browser is sent to where they can"""


async def _signed_in(request: Request) -> None:
    if request.scope[SIGNED_IN] is None:
        raise NotSignedIn("not_signed_in", "sign in first")
    if request.method in ("GET", "HEAD"):
        return
    await _own_pages_only(request)
    given = (await form_of(request)).text(FORM_TOKEN)
    if not hmac.compare_digest(given.encode(), form_token(request.scope[SESSION_ID]).encode()):
        raise NotAllowed("form_outdated", "this form is not one of your session; open the page again, and send it from there")


async def _own_pages_only(request: Request) -> None:
    """NotAllowed(foreign_form) where another site's page sent this. Browsers say so, and no page can have them say otherwise."""
    if request.method in ("GET", "HEAD"):
        return
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    fits = origin is not None and _origin_is_ours(origin, headers.get("host", ""), request.scope["scheme"])
    if not ((site == "same-origin" and origin is None) or (fits and site in (None, "same-origin"))):
        raise NotAllowed(
            "foreign_form", "this was not sent from a page of this console; open the page here, and send it from there"
        )


def _origin_is_ours(origin: str, host: str, scheme: str) -> bool:
    try:
        found = urlsplit(origin)
    except ValueError:
        return False
    # Behind a proxy that ends TLS the scheme is another one here; the host is what the browser asked.
    return found.netloc.lower() == host.lower() != "" and (found.scheme == "https" or found.scheme == scheme)


def sign_in_first(request: Request) -> Response:
    """Send the browser to where its user can sign in, and back afterwards; who sent something is told that it was not done."""
    if request.headers.get("hx-request") == "true":
        back = _path_in(request.headers.get("hx-current-url", ""))
        return Response(status_code=401, headers={"HX-Redirect": f"{SIGN_IN}?next={quote(back, safe='')}"})
    reads = request.method in ("GET", "HEAD")
    back = fit_path(own_path(request)) if reads else _page_before(request)
    asked = ([("next", back)] if back != f"{ROOT}/" else []) + ([] if reads else [("undone", "yes")])
    return RedirectResponse(f"{SIGN_IN}?{urlencode(asked)}" if asked else SIGN_IN, status_code=303)


def _page_before(request: Request) -> str:
    """Return the page that something was sent from; what another site's page sent came from none."""
    before = request.headers.get("referer", "")
    try:
        ours = urlsplit(before).netloc.lower() == request.headers.get("host", "").lower()
    except ValueError:
        ours = False
    return _path_in(before) if ours else f"{ROOT}/"


def _path_in(url: str) -> str:
    try:
        there = urlsplit(url)
    except ValueError:
        return f"{ROOT}/"
    return fit_path(f"{there.path}?{there.query}" if there.query else there.path)


def own_path(request: Request) -> str:
    """Return the path and query of a request."""
    query = request.scope["query_string"].decode("ascii", "replace")
    path = request.scope["raw_path"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def fit_path(path: str) -> str:
    """Return a path of the console as it is, and its first page in the place of everything else."""
    plain = path.startswith(f"{ROOT}/") and path.isascii() and path.isprintable() and not set(path) & set("\\ \"'<>")
    return path if plain and ".." not in path.partition("?")[0] and len(path) <= _LONGEST_PATH else f"{ROOT}/"
