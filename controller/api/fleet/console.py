"""How people come into the console: passwords, and links that let somebody in once."""

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.shapes import Json
from controller.model import Secret

LINK = "/console/link"

router = router_of()


@router.put("/users/{name}/console-password", status_code=204)
async def set_console_password(fleet: Serving, who: Asking, name: str, asked: shapes.NewConsolePassword) -> None:
    """Set the password with which a user signs in to the console; whoever is signed in as them is no more."""
    password = Secret(asked.password.get_secret_value())
    try:
        await fleet.console.set_password(who, name, password)
    finally:
        password.wipe()


@router.post("/console-links", status_code=201)
async def create_console_link(fleet: Serving, who: Asking, asked: shapes.NewConsoleLink) -> Json:
    """Make a link that lets a user into the console once; its code is in this answer and nowhere else."""
    user, token, ends = await fleet.console.link(who, asked.user, asked.minutes)
    code = token.open().decode()
    url = None if fleet.console.url is None else f"{fleet.console.url}{LINK}#{code}"
    return {"user": user.name, "code": code, "path": LINK, "url": url, "expires_at": shapes.instant(ends)}
