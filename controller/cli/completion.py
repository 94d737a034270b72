"""Names from the home, for TAB.

Reads the database itself: loading the application takes longer than a person waits for TAB. A home that cannot be read,
or is kept elsewhere, completes nothing; nor does a controller on the network.
"""

import sqlite3
from urllib.parse import quote

import typer

from controller.cli.exits import Declined
from controller.cli.session import home_of
from controller.cli.where import network
from controller.model import OLD_NAMES

PROPOSED = 200
# Who completes here is the home's owner, and sees no more than they do.
_OWNER = (
    "CREATE TEMP VIEW owner AS SELECT users.tenant_id, users.id AS me FROM main.home JOIN main.users ON users.id = home.user_id"
)


def servers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of servers that begin like this."""
    query = "SELECT name FROM servers JOIN owner USING (tenant_id) WHERE name GLOB ? ORDER BY name LIMIT ?"
    return _names(ctx, query, incomplete)


def old_algorithms(incomplete: str) -> list[str]:
    """Return the old algorithms that begin like this."""
    return [name for name in ("all", *OLD_NAMES) if name.startswith(incomplete)]


def keypairs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of key pairs that begin like this: the owner's and the account's."""
    query = (
        "SELECT name FROM keypairs JOIN owner USING (tenant_id) WHERE (scope = 'account' OR owner_id = me) AND name GLOB ? "
        "ORDER BY name LIMIT ?"
    )
    return _names(ctx, query, incomplete)


def users(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of users that begin like this."""
    query = "SELECT name FROM users JOIN owner USING (tenant_id) WHERE deleted_at IS NULL AND name GLOB ? ORDER BY name LIMIT ?"
    return _names(ctx, query, incomplete)


def access_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the access keys that begin like this."""
    query = (
        "SELECT access_key FROM access_keys JOIN users ON users.id = access_keys.user_id JOIN owner USING (tenant_id) "
        "WHERE access_key GLOB ? ORDER BY access_key LIMIT ?"
    )
    return _names(ctx, query, incomplete)


def master_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the aliases of customer master keys that begin like this."""
    query = "SELECT alias FROM master_keys WHERE state <> 'destroyed' AND alias GLOB ? ORDER BY alias LIMIT ?"
    return _names(ctx, query, incomplete)


def failed_tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of failed tasks that begin like this, the newest first."""
    query = "SELECT id FROM tasks JOIN owner USING (tenant_id) WHERE status = 'failed' AND id GLOB ? ORDER BY seq DESC LIMIT ?"
    return _names(ctx, query, incomplete)


def tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of tasks that begin like this, the newest first."""
    query = "SELECT id FROM tasks JOIN owner USING (tenant_id) WHERE id GLOB ? ORDER BY seq DESC LIMIT ?"
    return _names(ctx, query, incomplete)


def doors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the servers that have a door, and the ids of doors, that begin like this: of those that are not over."""
    here = "FROM doors JOIN owner USING (tenant_id) WHERE state IN ('asked', 'opening', 'open', 'closing')"
    query = f"SELECT name FROM (SELECT server_name AS name {here} UNION SELECT id {here}) WHERE name GLOB ? ORDER BY name LIMIT ?"  # noqa: S608
    return _names(ctx, query, incomplete)


def door_orders(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of orders for doors that wait for a second user and begin like this, the newest first."""
    query = (
        "SELECT id FROM door_orders JOIN owner USING (tenant_id) WHERE state = 'asked' AND id GLOB ? "
        "ORDER BY created_at DESC LIMIT ?"
    )
    return _names(ctx, query, incomplete)


def _names(ctx: typer.Context, query: str, incomplete: str) -> list[str]:
    given, profile = ctx.params.get("home"), ctx.params.get("profile")
    at = ctx.parent
    while at is not None:
        given, profile, at = given or at.params.get("home"), profile or at.params.get("profile"), at.parent
    try:
        if network(given, profile) is not None:
            return []
        database = home_of(given).absolute() / "kps.db"
    except Declined:
        return []
    begins = "".join(f"[{char}]" if char in "*?[" else char for char in incomplete) + "*"
    try:
        connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=0.2)
    except sqlite3.Error:
        return []
    try:
        connection.execute(_OWNER)
        return [str(name) for (name,) in connection.execute(query, (begins, PROPOSED))]
    except sqlite3.Error:
        return []
    finally:
        connection.close()
