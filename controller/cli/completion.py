"""Names from the home, for TAB.

Reads the database itself: loading the application takes longer than a person waits for TAB. A home that cannot be read,
or is kept elsewhere, completes nothing.
"""

import sqlite3
from urllib.parse import quote

import typer

from controller.cli.exits import Declined
from controller.cli.session import home_of
from controller.model import OLD_NAMES

PROPOSED = 200


def servers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of servers that begin like this."""
    return _names(ctx, "SELECT name FROM servers WHERE name GLOB ? ORDER BY name LIMIT ?", incomplete)


def old_algorithms(incomplete: str) -> list[str]:
    """Return the old algorithms that begin like this."""
    return [name for name in ("all", *OLD_NAMES) if name.startswith(incomplete)]


def keypairs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of key pairs that begin like this."""
    return _names(ctx, "SELECT name FROM keypairs WHERE name GLOB ? ORDER BY name LIMIT ?", incomplete)


def failed_tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of failed tasks that begin like this, the newest first."""
    return _names(ctx, "SELECT id FROM tasks WHERE status = 'failed' AND id GLOB ? ORDER BY seq DESC LIMIT ?", incomplete)


def tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of tasks that begin like this, the newest first."""
    return _names(ctx, "SELECT id FROM tasks WHERE id GLOB ? ORDER BY seq DESC LIMIT ?", incomplete)


def _names(ctx: typer.Context, query: str, incomplete: str) -> list[str]:
    given = ctx.params.get("home")
    at = ctx.parent
    while given is None and at is not None:
        given, at = at.params.get("home"), at.parent
    try:
        database = home_of(given).absolute() / "kps.db"
    except Declined:
        return []
    begins = "".join(f"[{char}]" if char in "*?[" else char for char in incomplete) + "*"
    try:
        connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=0.2)
    except sqlite3.Error:
        return []
    try:
        return [str(name) for (name,) in connection.execute(query, (begins, PROPOSED))]
    except sqlite3.Error:
        return []
    finally:
        connection.close()
