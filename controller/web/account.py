"""One's own account: another password, and the sessions that one is signed in by."""

from fastapi import APIRouter
from starlette.responses import Response

from controller.errors import Invalid, NotAllowed, Problem, TooMany
from controller.model import Secret
from controller.service.console import called
from controller.web.asking import Asked, Page, Said
from controller.web.door import ADDRESS, ROOT
from controller.web.signin import keep, tried

HERE = f"{ROOT}/account"

router = APIRouter(prefix="/account")


@router.get("/")
async def shown(page: Page) -> Response:
    """Show who is signed in, and where else."""
    return await _shown(page)


@router.post("/password")
async def change_password(page: Page) -> Response:
    """Change one's own password; the session goes on under another id, and all others end."""
    form, signed_in, fleet = page.form, page.signed_in, page.fleet
    old, new, again = (form.secret(name) or Secret("") for name in ("old", "new", "again"))
    try:
        if new != again:
            raise Invalid("passwords_differ", "the new password and its repetition are not the same; type both again")
        counted = await fleet.console.canonical(signed_in.user.tenant_id, signed_in.user.name)
        address = page.request.scope[ADDRESS]
        begun = await tried(page.request, counted, lambda: fleet.console.change_password(signed_in, old, new, address))
    except (Invalid, NotAllowed, TooMany) as problem:
        return await _shown(page, problem)
    finally:
        for each in (old, new, again):
            each.wipe()
    told = Said("Your password is changed; all other sessions of yours have ended", "good")
    page.request.app.state.flashes.add(begun.signed_in.digest, told)
    answer = page.go(f"{HERE}/")
    keep(page.request, answer, begun.id.open().decode())
    return answer


@router.post("/end")
async def end(page: Page) -> Response:
    """End one of one's other sessions, or all of them."""
    count = await page.fleet.console.end_session(page.signed_in, page.form.text("session", most=64) or None)
    return page.go(f"{HERE}/", f"{count} {'session is' if count == 1 else 'sessions are'} ended")


async def _shown(page: Asked, problem: Problem | None = None) -> Response:
    who = page.signed_in
    return await page.show(
        "account/account.html",
        "account",
        "Your account",
        200 if problem is None else problem.status,
        sessions=await page.fleet.console.sessions(who),
        this=called(who.digest),
        problem=problem,
        may_change=who.user.kind == "local" and page.may("console.enter", "own"),
    )
