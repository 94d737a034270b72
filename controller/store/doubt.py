"""Which tasks leave it in doubt what opens a login: until that is known, no way in that they may have left is given up.

A task that replaced a key pair and was heard no more may have left the new one alone on its server, where the record still
has the old one.
"""

from sqlalchemy import ColumnElement, Connection, select, text, union

from controller.errors import Conflict
from controller.model import FINAL, KeyPair, Task
from controller.store import rows, tables

_PUTS = frozenset({"bind", "replace", "reset"})  # a key pair on a login
_CHANGES = _PUTS | {"unbind"}
_CLOSES = "password-login-disable"  # for all logins of a server
# What has seen afterwards whether a server takes passwords.
_SEES = _CHANGES | {_CLOSES, "password-login-enable", "password-login-status", "check"}
# As the index tasks_in_doubt has it: spelt in any other way the database would go through all tasks.
UNCLEAR = "tasks.server_state IN ('unknown', 'partial')"
_UNTOUCHED = ("queued", "connect", "look", "decide")  # phases before anything is written


def in_doubt(connection: Connection, *where: ColumnElement[bool]) -> list[Task]:
    """Return the tasks after which nobody knows what opens their login, on servers that are there; the oldest first.

    They have not ended, or have failed or been given up with their server's state unknown, or partly as asked; and no task that
    would know has succeeded since.
    """
    table, servers = tables.tasks, tables.servers
    # As an expression: by the column the database would go through all failed tasks.
    unknown = select(table.c.seq).where(text(UNCLEAR), table.c.status.concat("").in_(("failed", "cancelled")))
    not_ended = select(table.c.seq).where(table.c.status.in_(("ready", "running")))
    query = select(table).join(servers, servers.c.id == table.c.server_id)
    query = query.where(table.c.seq.in_(union(not_ended, unknown)), table.c.operation.in_(_CHANGES | {_CLOSES}), *where)
    found = [rows.task(row) for row in connection.execute(query.order_by(table.c.seq)).mappings()]
    return [task for task in found if not _untouched(task) and not _done_since(connection, task)]


def put_in_doubt(task: Task) -> str | None:
    """Return the id of the key pair that a task may have put on its login."""
    found = task.request.get("keypair_id") if task.operation in _PUTS else None
    return None if found is None else str(found)


def of_key(task: Task) -> bool:
    """Say whether it is the login's key that a task in doubt may have changed, and not only that passwords are taken."""
    return task.operation in _CHANGES


def refuse_in_doubt(connection: Connection, keypair: KeyPair) -> None:
    """Conflict(keypair_in_doubt) while this may be the only key that opens a login, by a task that nobody heard the end of."""
    table = tables.tasks
    for task in in_doubt(connection, table.c.tenant_id == keypair.tenant_id, table.c.status.in_(FINAL)):
        if put_in_doubt(task) == keypair.id:
            raise Conflict("keypair_in_doubt", f"{keypair.name}: {told(task)}")


def told(task: Task) -> str:
    """Return in words what is not known, and what to do about it."""
    return (
        f"nobody knows how task {task.id} has left {task.login}@{task.server_name}, and that may be the only way in; have "
        f"the server asked (kps server check {task.server_name}), {task.operation} there again, or take it out of the "
        "inventory (kps server remove)"
    )


def _untouched(task: Task) -> bool:
    return bool(task.request.get("plan")) or (task.server_state == "partial" and task.phase in _UNTOUCHED)


def _done_since(connection: Connection, task: Task) -> bool:
    table = tables.tasks
    query = select(table.c.request).where(
        table.c.server_id == task.server_id, table.c.seq > task.seq, table.c.status.in_(("succeeded", "unchanged"))
    )
    if of_key(task):
        query = query.where(table.c.login == task.login, table.c.operation.in_(_CHANGES))
    else:
        query = query.where(table.c.operation.in_(_SEES))
    return any(not request.get("plan") for request in connection.execute(query).scalars())
