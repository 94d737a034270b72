"""The console in this process, and somebody signed in to it: for tests that need no browser."""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from controller.app import Application
from controller.model import Role, UserKind
from controller.service.fleet import Fleet
from controller.settings import Settings

TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')
HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')
ADDRESS = "192.0.2.7"


class Visitor:
    """A browser without scripts: it keeps cookies, follows redirects, and sends forms with the token of the page they are on."""

    def __init__(self, served: Application, fleet: Fleet, secure: bool = False) -> None:
        self.fleet = fleet
        self.base = "https://kps" if secure else "http://kps"
        transport = httpx.ASGITransport(served.networked, client=(ADDRESS, 4711))
        self.http = httpx.AsyncClient(transport=transport, base_url=self.base, follow_redirects=True)
        self.http.headers["accept"] = "text/html"

    async def sign_in(self, role: Role = "operator", name: str = "", kind: UserKind = "local") -> None:
        """Sign in by a link, as a user of this role who is made for it; administrator: as the home's owner."""
        owner = self.fleet.owner
        if role != "administrator" or name:
            name = name or f"the-{role}"
            await self.fleet.users.create(owner, name, role, kind)
        _, token, _ = await self.fleet.console.link(owner, name or None)
        answer = await self.send("/console/link", {"code": token.open().decode()})
        assert answer.status_code == 200, answer.text
        assert "Sign out" in answer.text

    async def press(self, page: str, path: str, form: dict[str, Any] | None = None, **said: str) -> httpx.Response:
        """Send the form of a page that goes there and says this, with more filled in."""
        shown = await self.get(page)
        return await self.send(path, hidden(shown.text, path, **said) | (form or {}))

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask for a page, or with htmx's headers for a part of one."""
        return await self.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def send(
        self, path: str, form: dict[str, Any] | None = None, page: str | None = None, files: Any = None, **headers: str
    ) -> httpx.Response:
        """Send a form: with the token of the page that it is on (None: none), from our own origin."""
        fields = dict(form or {})
        if page is not None:
            shown = await self.http.get(page)
            found = TOKEN.search(shown.text)
            assert found is not None, f"{page}: {shown.status_code} and no form"
            fields["form_token"] = found.group(1)
        given = {"origin": self.base, "sec-fetch-site": "same-origin"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, data=fields, files=files, headers={k: v for k, v in given.items() if v})


@asynccontextmanager
async def visiting(settings: Settings, secure: bool = False) -> AsyncIterator[Visitor]:
    """Open the home and give a visitor who is not signed in."""
    served = Application(settings)
    async with served.lifespan():
        visitor = Visitor(served, served.services, secure)
        async with visitor.http:
            yield visitor


def hidden(page: str, action: str, **said: str) -> dict[str, str]:
    """Return the hidden fields of the form on a page that is sent there and says this."""
    for form in re.findall(f'<form [^>]*action="{re.escape(action)}".*?</form>', page, re.DOTALL):
        fields = {name: html.unescape(value) for name, value in HIDDEN.findall(form)}
        if said.items() <= fields.items():
            return fields
    raise AssertionError(f"no form to {action} that says {said}")


def visit(
    settings: Settings, story: Callable[[Visitor], Awaitable[None]], role: Role | None = None, secure: bool = False
) -> None:
    """Run a story with a visitor; role: who is signed in as a user of that role."""

    async def told() -> None:
        async with visiting(settings, secure) as visitor:
            if role is not None:
                await visitor.sign_in(role)
            await story(visitor)

    asyncio.run(told())
