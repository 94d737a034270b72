"""The templates: everything that they write is escaped, and a name that is not there is an error."""

import json
from collections import defaultdict
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from controller.model import Task, now
from controller.web.files import address
from controller.web.text import age, ago, moment, shown

# Name, how a page says that it belongs there, path, and the verb that somebody may to whom it is of any use.
NAVIGATION = (
    ("Overview", "overview", "", None),
    ("Servers", "servers", "servers/", None),
    ("Key pairs", "keypairs", "keypairs/", None),
    ("Failed tasks", "failed-tasks", "failed-tasks/", None),
    ("Rollouts", "rollouts", "rollouts/", None),
    ("Emergency", "emergency", "emergency/", None),
    ("Audit", "audit", "audit/", "audit.read"),
    ("Keys", "keys", "keys/", None),
)
# Words of states, by how a page shows them; one that is not here has no colour.
STATES = defaultdict(
    str,
    {"succeeded": "good", "unchanged": "good", "as_asked": "good", "finished": "good", "enabled": "good", "off": "good"}
    | {"failed": "bad", "unknown": "bad", "partial": "bad", "stopped": "bad", "destroyed": "bad"}
    | {"running": "busy", "ready": "busy", "paused": "warn", "reverted": "warn", "on": "warn", "disabled": "warn"}
    | {"cancelled": "warn", "pending_deletion": "bad", "pending_import": "warn"},
)


def what(task: Task) -> str:
    """Return what a task does. One of a plan only looks: once it is tried again and went well, still nothing is done."""
    return f"plan: {task.operation}" if task.request.get("plan") else task.operation


@cache
def templates() -> Environment:
    """Return the environment of all templates, made once."""
    made = Environment(
        loader=PackageLoader("controller.web"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "what": what,
        "moment": moment,
        "ago": lambda at: ago(at, now()),
        "age": lambda at: age(at, now()),
        "tojson_text": json.dumps,
    }
    made.globals |= {"navigation": NAVIGATION, "states": STATES, "file": address}
    return made


def rendered(template: str, values: dict[str, Any]) -> str:
    """Return a template with these values."""
    return templates().get_template(template).render(values)
