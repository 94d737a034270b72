"""Which pages open for whom, and what each offers: found by visiting them as users of every role and kind.

`python -m tests.web.console_roles > docs/console-roles.md` writes down what came of it.
"""

import asyncio
import re
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from fastapi.routing import APIRoute

from controller.model import Role, UserKind
from controller.service.home import initialise
from controller.settings import Settings
from controller.web import attempts, entry
from controller.web.asking import OPEN
from tests.controller.world import KINDS, ROLES
from tests.web import trouble
from tests.web.client import Visitor, visiting
from tests.web.hostile import NOT_ASKED, Reader

Who = tuple[UserKind, Role]
# By method and path as the routes have it: for each user "yes", "-" (not offered), or the code that refuses it.
Table = dict[str, dict[Who, str]]
_CODE = re.compile(r'<p class="small">([a-z_]+)[,.<]')
FIELDS = {
    "days": "30", "format": "openssh", "name": "made", "scope": "account", "type": "ed25519", "custody": "kept", "alias": "x",
    "operation": "check", "which": "some", "servers": "web-1", "canary": "0", "batch": "100%", "max_failures": "100%",
    "keypair": "ops", "confirmed": "web-1", "every": "on",
}  # fmt: skip


# What is asked of a page that shows nothing else.
ASKED = {
    "/orders/new": "?server={server}", "/emergency/doors/new": "?servers={server}&reason=why&minutes=10",
    "/failed-tasks/again": "?task={task}", "/failed-tasks/delete": "?task={task}",
}  # fmt: skip


def routes() -> list[tuple[str, str]]:
    """Return method and path of each route for which somebody has to be signed in."""
    return [
        (method, route.path_format)
        for part in entry.PARTS
        if OPEN not in part.router.tags
        for route in part.router.routes
        if isinstance(route, APIRoute) and route.path_format not in NOT_ASKED
        for method in sorted(route.methods)
    ]


def sent_to(path: str, known: dict[str, str]) -> set[str]:
    """Return where a route's form is sent, of a rollout that is a plan too."""
    return {"/console" + trouble.at(path, known, plans) for plans in (False, True)}


async def visited(visitor: Visitor, known: dict[str, str], who: Who, table: Table) -> None:
    """Write into the table what a user is shown: each page, and each form and link to a page that asks."""
    offered: set[str] = set()
    # The page of a rollout is another one where it is a plan.
    pages = [(path, path, False) for method, path in routes() if method == "GET"]
    pages += [("/rollouts/{id}, a plan", "/rollouts/{id}", True)]
    # So is that of a master key, by its state.
    pages += [
        (f"/keys/{{key_id}}, {state.replace('_', ' ')}", f"/keys/{known[state]}", False)
        for state in ("disabled", "to_be_destroyed")
    ]
    for called, path, plans in pages:
        answer = await visitor.get("/console" + trouble.at(path, known, plans) + ASKED.get(path, "").format_map(known))
        refused = _CODE.search(answer.text) if answer.status_code in (403, 404) else None
        code = "yes" if answer.status_code == 200 else refused.group(1) if refused else str(answer.status_code)
        table.setdefault(f"open {called}", {})[who] = code
        reader = Reader(path)
        reader.feed(answer.text)
        if answer.status_code == 200:
            offered |= {form.action for form in reader.forms}
    for method, path in routes():
        if method == "POST":
            table.setdefault(f"do {path}", {})[who] = (
                "yes" if sent_to(path, known) & {urlsplit(each).path for each in offered} else "-"
            )


async def told() -> Table:
    """Return the table of a home that is made for it."""
    table: Table = {}
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(home=Path(place) / "home", requests_per_second=10_000, requests_at_once=10_000)
        initialise(settings)
        with pytest.MonkeyPatch.context() as patched:
            # Everybody signs in from one address here, and faster than people do.
            patched.setattr(attempts, "_OF_ADDRESS", (10_000, 10_000))
            trouble.stub(patched, {"web-1": trouble.WRONG, "web-2": trouble.SEEN})
            async with visiting(settings) as visitor:
                known = await trouble.whole(visitor)
                for kind in KINDS:
                    for role in ROLES:
                        await as_one(visitor, kind, role)
                        seen = known | await own(visitor, f"{kind}-{role}")
                        await visited(visitor, seen, (kind, role), table)
                        await refused(visitor, seen, (kind, role), table)
    return table


async def as_one(visitor: Visitor, kind: UserKind, role: Role) -> None:
    """Sign in as a new user of a kind and role, who is signed in elsewhere too."""
    fleet, name = visitor.fleet, f"{kind}-{role}"
    await fleet.users.create(fleet.owner, name, role, kind, **({"external_id": name} if kind == "federated" else {}))
    for _ in range(2):
        visitor.http.cookies.clear()
        _, token, _ = await fleet.console.link(fleet.owner, name)
        assert "Sign out" in (await visitor.send("/console/link", {"code": token.open().decode()})).text


async def own(visitor: Visitor, login: str) -> dict[str, str]:
    """Order what only who has ordered it goes on with: a door by a one-time password; returns its id, nothing for who may not."""
    asked = {"server": "db-1", "login": login, "reason": "no key gets in", "minutes": "10", "one_time": "on"}
    answer = await visitor.send("/console/emergency/doors/open", asked, page="/console/servers/")
    await trouble.settled(visitor)
    return {"one_time": answer.url.path.split("/")[-2]} if answer.status_code == 200 else {}


async def refused(visitor: Visitor, known: dict[str, str], who: Who, table: Table) -> None:
    """Send what a user is not offered, where an administrator is: the code that refuses it takes the place of "-"."""
    first = ("local", "administrator")
    for method, path in routes():
        cells = table.get(f"do {path}", {})
        if method != "POST" or cells.get(first) != "yes" or cells[who] == "yes":
            continue
        answer = await visitor.send("/console" + trouble.at(path, known), FIELDS, page="/console/servers/")
        code = _CODE.search(answer.text)
        assert answer.status_code in (403, 404), (who, path, answer.status_code)
        cells[who] = code.group(1) if code else str(answer.status_code)


INTRODUCTION = """\
# Who is shown what in the console

Made by visiting every page as users of every role and kind: `python -m tests.web.console_roles`. *open*: a page. *do*: what a
page has a button for; where there is none, what the services say to whoever sends that all the same. In that home are a failed
task, a plan, an order, a rollout that stopped, a key pair, master keys in each state, a policy, a server whose disk is mounted,
doors that are open and asked for, and one of each user's own whose one-time password is set. What no page of it has a button
for is left out: what is done while a task or a rollout runs. Who may do what at all: [roles](roles.md).
"""


def page(table: Table) -> str:
    """Return docs/console-roles.md."""
    lines = [INTRODUCTION]
    for kind in KINDS:
        lines += [f"## A {kind} user\n", f"| | {' | '.join(ROLES)} |", f"|---|{'---|' * len(ROLES)}"]
        for what, cells in table.items():
            shown = [cells[kind, role] for role in ROLES]
            if set(shown) - {"-"}:
                verb, _, path = what.partition(" ")
                told = " | ".join(each if each in ("yes", "-") else f"`{each}`" for each in shown)
                lines.append(f"| {verb} `{path}` | {told} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    """Write the page to stdout."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    sys.stdout.write(page(asyncio.run(told())))


if __name__ == "__main__":
    main()
