"""A rollout as JSON: the same in answers of the API and in reports."""

from datetime import UTC, datetime
from typing import Any

from controller.model import Rollout

Json = dict[str, Any]
_NOT_SHOWN = ("keypair_id", "plan", "replaces_id")  # of what a rollout was asked


def instant(at: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None


def rollout(found: Rollout) -> Json:
    """Return a rollout; none of its request is secret."""
    return {
        "id": found.id,
        "operation": found.operation,
        "request": {name: value for name, value in found.request.items() if name not in _NOT_SHOWN},
        "strategy": found.strategy,
        "servers": found.servers,
        "state": found.state,
        "reason": found.reason,
        "created_at": instant(found.created_at),
        "finished_at": None if found.finished_at is None else instant(found.finished_at),
        "user_id": found.user_id,
        "plans": found.plans,
        "plan_id": found.plan_id,
        "good_until": instant(found.good_until),
    }
