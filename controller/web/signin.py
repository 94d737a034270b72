"""Signing in to the console, by a password or a link."""

from collections.abc import Awaitable, Callable

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from controller.errors import NotAllowed, Problem, TooMany
from controller.model import Secret
from controller.service.console import Begun
from controller.service.fleet import Fleet
from controller.web.asking import TheForm, fit_path, open_router
from controller.web.attempts import Attempts
from controller.web.door import ADDRESS, ROOT, SIGNED_IN, cookie_name
from controller.web.rendering import rendered

router = open_router()
Enter = Callable[[Fleet, str, bytes | None], Awaitable[Begun]]
_TOO_MANY = "too many tries did not let anybody in; wait a minute, or have a link made (kps console link)"


@router.get("/sign-in")
async def ask(request: Request, next: str = "", undone: str = "") -> Response:
    """Ask who is there. undone: say that what was sent last was not done, for nobody was signed in any more."""
    if request.scope[SIGNED_IN] is not None:
        return RedirectResponse(fit_path(next), status_code=303)
    return _asked(fit_path(next), undone=bool(undone))


@router.post("/sign-in")
async def sign_in(request: Request, form: TheForm) -> Response:
    """Let somebody in with a password."""
    tenant, name, back = form.text("tenant", most=64), form.text("name", most=64), fit_path(form.text("next", most=4000))
    password = form.secret("password") or Secret("")
    try:
        counted = await request.app.state.fleet.console.canonical(tenant or None, name)
        begun = await _tried(request, counted, lambda fleet, *rest: fleet.console.sign_in(tenant or None, name, password, *rest))
    except (NotAllowed, TooMany) as problem:
        return _asked(back, name, tenant, problem)
    finally:
        password.wipe()
    return _entered(request, begun, back)


@router.get("/link")
async def ask_link() -> Response:
    """Take what a link carries behind its #: a browser sends that to nobody, and a page has to be asked to."""
    return _link_asked()


@router.post("/link")
async def follow(request: Request, form: TheForm) -> Response:
    """Let somebody in by a link."""
    try:
        code = form.text("code", most=200)
        begun = await _tried(request, "", lambda fleet, *rest: fleet.console.follow(code, *rest))
    except (NotAllowed, TooMany) as problem:
        return _link_asked(problem)
    return _entered(request, begun, f"{ROOT}/")


async def _tried(request: Request, name: str, enter: Enter) -> Begun:
    """Return the session that somebody has begun. TooMany(too_many_tries), NotAllowed."""
    before = request.scope[SIGNED_IN]
    fleet, digest = request.app.state.fleet, None if before is None else before.digest
    return await tried(request, name, lambda: enter(fleet, request.scope[ADDRESS], digest))


async def tried(request: Request, name: str, enter: Callable[[], Awaitable[Begun]]) -> Begun:
    """Return the session that somebody has begun; the try counts first. name: as whom. TooMany(too_many_tries), NotAllowed."""
    attempts, address = _attempts(request), request.scope[ADDRESS]
    if attempts.too_many(address, name):
        raise TooMany("too_many_tries", _TOO_MANY)
    attempts.tried(address, name)
    begun = await enter()
    attempts.passed(address, name)
    return begun


def _attempts(request: Request) -> Attempts:
    state = request.app.state
    if not hasattr(state, "attempts"):
        state.attempts = Attempts()
    found: Attempts = state.attempts
    return found


def _entered(request: Request, begun: Begun, back: str) -> Response:
    """Send the browser on, with its new session."""
    answer = RedirectResponse(back, status_code=303)
    keep(request, answer, begun.id.open().decode())
    return answer


def keep(request: Request, answer: Response, id: str) -> None:
    """Have the browser keep a session's id; none: forget it."""
    # Lax, not strict: a page that somebody was sent in a message opens signed in. Nothing is changed by opening one.
    answer.set_cookie(
        cookie_name(request.scope),
        id,
        max_age=None if id else 0,
        path="/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="lax",
    )


def _asked(back: str, name: str = "", tenant: str = "", problem: Problem | None = None, *, undone: bool = False) -> HTMLResponse:
    values = {
        "signed_in": None, "title": "Sign in", "here": "", "next": back, "name": name, "tenant": tenant,
        "problem": problem, "undone": undone,
    }  # fmt: skip
    return HTMLResponse(rendered("signin/sign-in.html", values), status_code=200 if problem is None else problem.status)


def _link_asked(problem: Problem | None = None) -> HTMLResponse:
    values = {"signed_in": None, "title": "Sign in by a link", "here": "", "problem": problem}
    return HTMLResponse(rendered("signin/link.html", values), status_code=200 if problem is None else problem.status)
