"""A home in which every word that somebody may write is an attack, and a reader of pages that finds the attack where it works."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from fastapi.routing import APIRoute
from sqlalchemy import select, update

from controller import keyfiles
from controller.model import Outcome
from controller.store import Store, engine, tables
from controller.web import entry
from controller.web.asking import OPEN
from tests.web import trouble
from tests.web.client import Visitor
from tests.web.trouble import HOSTILE

# What is named in a path: without a slash, at which the path would end.
NAMED = HOSTILE.replace("/", "")
FAILED = Outcome(
    "failed", "unknown", phase="connect", cause="wrong_password", message=f"web-1: {HOSTILE}",
    evidence={HOSTILE: HOSTILE, "banner": HOSTILE, "deep": [{"text": HOSTILE}]}, handling=HOSTILE, retryable=True,
)  # fmt: skip
# What people and servers may fill, whatever the services would refuse of it. Ids and words of closed lists stay.
WRITTEN: dict[str, dict[str, Any]] = {
    "tenants": {"name": None},
    "users": {"name": None},
    "servers": {
        "name": None, "host": None, "login": HOSTILE, "labels": {HOSTILE: HOSTILE}, "boot_id": HOSTILE, "reset_root": HOSTILE,
        "old_algorithms": [HOSTILE], "after_reset": {HOSTILE: {"close_passwords": True}},
    },
    "keypairs": {"name": None, "description": HOSTILE, "public_key": None},
    "tasks": {
        "server_name": HOSTILE, "login": HOSTILE, "message": HOSTILE, "handling": HOSTILE,
        "proofs": [{"way": HOSTILE, "login": HOSTILE, "method": HOSTILE}],
    },
    "bindings": {"login": HOSTILE},
    "rollouts": {"reason": HOSTILE},
    "rollout_servers": {"server_name": HOSTILE, "login": HOSTILE, "label": HOSTILE, "quorum": HOSTILE, "subnet": HOSTILE},
    "policies": {"name": None, "label": HOSTILE, "value": HOSTILE},
    "doors": {"server_name": HOSTILE, "login": HOSTILE, "reason": HOSTILE, "network": HOSTILE, "note": HOSTILE},
    "door_orders": {"reason": HOSTILE, "rules": [HOSTILE]},
    "secrets": {"name": None, "description": HOSTILE, "server_name": HOSTILE, "login": HOSTILE},
    "master_keys": {"alias": None, "description": HOSTILE},
    "master_key_tags": {"tag": HOSTILE, "value": HOSTILE},
    "master_key_aliases": {"alias": HOSTILE},
    "master_key_grants": {"name": HOSTILE, "grantee": HOSTILE, "retiring": HOSTILE},
    "events": {"detail": {HOSTILE: HOSTILE, "deep": [HOSTILE]}},
}  # fmt: skip
# What is an attack beside what the product itself reads there.
ADDED: dict[str, dict[str, Any]] = {
    "tasks": {"request": {"keypair": HOSTILE, HOSTILE: HOSTILE, "accept_lockout": [HOSTILE]}},
    "rollouts": {"request": {"keypair": HOSTILE, "accept_lockout": [HOSTILE]}, "strategy": {"per_label": HOSTILE}},
}
# All other columns with text: why nothing in them is an attack in a page.
NOT_WRITTEN: dict[str, str] = {
    "one word of a few": """users.role users.kind console_sessions.how master_keys.spec master_keys.usage
        master_keys.origin master_keys.state servers.password_login keypairs.scope keypairs.type bindings.proof tasks.operation
        tasks.status tasks.server_state tasks.phase tasks.cause rollouts.operation rollouts.state events.kind events.phase
        policies.key_type rotations.state rollout_servers.held quotas.name master_key_grants.operations
        doors.state doors.closed_by door_orders.does door_orders.state secrets.scope secrets.kind""",
    "made here": """keypairs.fingerprint keypairs.fingerprint_md5 console_passwords.hash tasks.lease_owner
        rollout_servers.bastions rollout_servers.given master_key_versions.root_check doors.given door_orders.doors""",
    "read as what it is, or refused": "servers.host_key servers.jumps users.source_networks policies.remind_days",
    "in no page": """users.external_id tokens.description policies.strategy policy_keys.refused left_addresses.host
        rotations.reason rotations.policy_name tasks.evidence""",  # evidence: of an outcome, FAILED
}
# What changes by looking, or by being refused: who was seen last, and that somebody was refused.
CHANGES_BY_ITSELF = frozenset({"console_sessions", "events", "event_heads", "event_checkpoints"})
# They go on for as long as the page is open, or need nobody.
NOT_ASKED = frozenset({"/live", "/static/{name}"})


@dataclass
class Sent:
    """A form as a page has it."""

    page: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Reader(HTMLParser):
    """Reads a page: complains of what would run, load or go elsewhere, and keeps the forms that change something."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.complaints: list[str] = []
        self.forms: list[Sent] = []
        self.attacks = 0  # times that an attack is shown, as text
        self._options: tuple[str, str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag in ("img", "iframe", "object", "embed", "base", "style"):
            self.complaints.append(f"<{tag}>")
        if tag == "script" and not given.get("src", "").startswith("/console/static/"):
            self.complaints.append(f"a script {given}")
        for name, value in given.items():
            if name.startswith("on") or name in ("style", "srcdoc") or not re.fullmatch(r"[a-z][a-z0-9-]*|viewbox", name):
                self.complaints.append(f"an attribute {name} of <{tag}>")
            goes = name in ("href", "src", "action", "formaction", "hx-get", "hx-post")
            if goes and not value.startswith(("/console", "#", "?")):
                self.complaints.append(f"{name}={value}")
        if tag == "form" and given.get("method") == "post":
            self.forms.append(Sent(self.path, given["action"]))
        name = given.get("name", "")
        if not self.forms or not name:
            return
        ticked = given.get("type") not in ("checkbox", "radio") or "checked" in given
        if tag in ("input", "button") and ticked and given.get("type") != "file":
            self.forms[-1].fields.setdefault(name, given.get("value", ""))
        elif tag in ("select", "textarea"):
            self.forms[-1].fields.setdefault(name, "")

    def handle_data(self, data: str) -> None:
        self.attacks += data.count("<script>alert(1)")


def read(path: str, page: str) -> Reader:
    """Return what a page holds. AssertionError where an attack works in it."""
    found = Reader(path)
    found.feed(page)
    assert found.complaints == [], f"{path}: {found.complaints}"
    assert "\x1b" not in page, path
    assert "\u202e" not in page, path
    return found


async def fill(visitor: Visitor) -> dict[str, str]:
    """Fill a home whose servers are trouble's, and have everything there called as an attack; returns how, or its id, by kind."""
    known = await trouble.whole(visitor)
    public, _ = keyfiles.generate("ed25519")
    await visitor.fleet.keypairs.import_(visitor.fleet.owner, "mine", public_key=public.line() + " comment")
    write(visitor.fleet.audit._store)
    return known | {"server": "web-1" + NAMED, "keypair": "ops" + NAMED}


def write(store: Store) -> None:
    """Write the attack into every field."""
    with engine.writing(store._engine) as connection:
        for name, columns in WRITTEN.items():
            table = tables.metadata.tables[name]
            values = {column: table.c[column].concat(NAMED) if value is None else value for column, value in columns.items()}
            if name in ("master_key_tags", "master_key_aliases"):  # there is one of each
                values = dict.fromkeys(columns, HOSTILE)
            connection.execute(update(table).values(values))
        for name, more in ADDED.items():
            table = tables.metadata.tables[name]
            for kept in connection.execute(select(table)).mappings().all():
                where = [column == kept[column.name] for column in table.primary_key]
                merged = {column: kept[column] | added for column, added in more.items()}
                connection.execute(update(table).where(*where).values(merged))


def paths(known: dict[str, str], method: str = "GET") -> Iterator[str]:
    """Give the paths of all pages that somebody signed in may ask for; those of a rollout of a plan too."""
    for part in entry.PARTS:
        if OPEN in part.router.tags:
            continue
        for route in part.router.routes:
            if isinstance(route, APIRoute) and method in route.methods and route.path_format not in NOT_ASKED:
                yield "/console" + trouble.at(route.path_format, known)
                if route.path_format.startswith("/rollouts/{id}"):
                    yield "/console" + trouble.at(route.path_format, known, plans=True)


def contents(store: Store) -> dict[str, tuple[int, str]]:
    """Return of each table how many rows it has, and what is in them, but for what changes by itself."""
    found = {}
    with engine.reading(store._engine) as connection:
        for name, table in tables.metadata.tables.items():
            if name in CHANGES_BY_ITSELF:
                continue
            rows = connection.execute(select(table)).all()
            found[name] = (len(rows), repr(sorted(map(repr, rows))))
    return found
