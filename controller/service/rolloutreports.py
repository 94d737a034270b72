"""Reports of rollouts: what was asked, how it went over time, and what is left to do."""

import asyncio
from collections import defaultdict
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any

from controller.causes import CAUSES, handling
from controller.errors import NotFound
from controller.events import KINDS
from controller.model import FINAL, Caller, Event, Rollout, RolloutServer, Task, now
from controller.rollout import nextsteps, told
from controller.rollout.strategy import Member, Strategy
from controller.rollout.timeline import Try, points, wave_starts
from controller.rollout.waves import waves
from controller.service import sight
from controller.service.rollouts import MOST_REST, REST, Rollouts
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.chain import spelt
from controller.store.events import Wanted

Json = dict[str, Any]
MOST_NAMES = 1000  # of servers that one group lists; all are counted
_CHANGES = tuple(kind for kind in ("rollout_changed", "rollout_again") if kind in KINDS)
_PAGE = 1000
_COURSES = 20  # of the last that were asked for, kept
_RATE_OVER = timedelta(minutes=1)
_MOST_CHANGES = 10_000  # events that are looked through: of all rollouts since this one began
_WELL = ("succeeded", "unchanged")


class RolloutReports:
    """Reports of the rollouts of the caller's tenant."""

    def __init__(self, store: Store, rollouts: Rollouts, executor: Executor | None = None) -> None:
        self._store = store
        self._rollouts = rollouts
        self._executor = executor
        # By rollout: until when that will do while it runs, of which state it is, and the course.
        self._courses: dict[str, tuple[float, tuple[str, str | None] | None, Json]] = {}

    async def report(self, who: Caller, id: str) -> tuple[Rollout, Json, Json]:
        """Return a rollout, how far it is (as Rollouts.get), and the rest of its report, JSON.

        asked_by, keypair, at, ended_at; failed_by: each cause with its meaning, its handling and one server as an example;
        not_done: the servers that are not as asked, grouped, with the next command; over_time: points, marks and pauses.
        """
        rollout, counts = await self._rollouts.get(who, id)
        return rollout, counts, await off_loop(self._executor, self._report, who, rollout)

    async def document(self, who: Caller, id: str) -> Json:
        """Return the whole report as one JSON object, as the API gives it."""
        rollout, counts, report = await self.report(who, id)
        return told.rollout(rollout) | counts | report

    async def course(self, who: Caller, id: str) -> Json:
        """Return of the report what its picture is made of: the rollout, and how it went over time.

        While it runs, as it was a moment ago where that takes long.
        """
        rollout = sight.rollout(who, await off_loop(self._executor, self._store.rollout, who.tenant_id, id))
        loop = asyncio.get_running_loop()
        ended = None if rollout.finished_at is None else rollout.finished_at.isoformat()
        until, of, course = self._courses.get(id, (0.0, None, {}))
        if (ended is None and loop.time() >= until) or of != (rollout.state, ended):
            began = loop.time()
            course = await off_loop(self._executor, self._course, rollout)
            until = loop.time() + min(MOST_REST, REST * (loop.time() - began))
            self._courses.pop(id, None)
            self._courses = dict([*self._courses.items()][1 - _COURSES :]) | {id: (until, (rollout.state, ended), course)}
        return told.rollout(rollout) | {"over_time": course}

    async def rate(self, who: Caller, rollout: Rollout) -> float:
        """Return how many servers a second came to their end, over the last minute or since it was asked for."""
        at = now()
        since = max(rollout.created_at, at - _RATE_OVER)
        ended = await off_loop(self._executor, self._store.rollout_ended_since, rollout.id, since)
        return ended / max(1.0, (at - since).total_seconds())

    def _course(self, rollout: Rollout) -> Json:
        servers, tries = self._store.rollout_servers(rollout.id), self._tries(rollout)
        return _over_time(rollout, servers, tries, self._changes(rollout), _until(rollout, tries))

    def _tries(self, rollout: Rollout) -> list[Try]:
        return [
            Try(server_id, begun, ended, None if ended is None else status in _WELL)
            for server_id, status, begun, ended in self._store.rollout_tries(rollout.id)
        ]

    def _report(self, who: Caller, rollout: Rollout) -> Json:
        servers, tries = self._store.rollout_servers(rollout.id), self._tries(rollout)
        changes = self._changes(rollout)
        keypair = self._keypair(who, rollout)
        users = {user.id: user.name for user in self._store.users(who.tenant_id)}
        ended_at = _until(rollout, tries)
        return {
            "asked_by": users.get(rollout.user_id, rollout.user_id),
            "keypair": keypair,
            "at": spelt(now()),
            "ended_at": spelt(ended_at),
            "failed_by": self._causes(who, servers),
            "not_done": _not_done(rollout, servers, servers) + self._left_out(who, rollout, servers),
            "over_time": _over_time(rollout, servers, tries, changes, ended_at),
        }

    def _keypair(self, who: Caller, rollout: Rollout) -> Json | None:
        """Return name and fingerprint of the key pair, where it is still there and the caller may see it."""
        keypair_id = sight.rollout(who, rollout).request.get("keypair_id")
        if keypair_id is None:
            return None
        try:
            keypair = self._store.keypair_by_id(str(keypair_id))
        except NotFound:
            return None
        return {"name": keypair.name, "fingerprint": keypair.fingerprint}

    def _left_out(self, who: Caller, rollout: Rollout, servers: list[RolloutServer]) -> list[Json]:
        """Return the servers of its plan that are not in a rollout, grouped; next: how they come into that plan."""
        if rollout.plan_id is None:
            return []
        # Its key pair may be another user's private one, whose name is theirs.
        plan = sight.rollout(who, self._store.rollout(rollout.tenant_id, rollout.plan_id))
        planned, ours = self._store.rollout_servers(plan.id), {each.server_id for each in servers}
        left = [each for each in planned if each.server_id not in ours]
        return [group | {"status": "left_out"} for group in _not_done(plan, left, planned)]

    def _changes(self, rollout: Rollout) -> list[Event]:
        """Return the events that tell how this rollout was halted, resumed and retried, as far as they are kept."""
        found: list[Event] = []
        after = looked = 0
        wanted = Wanted(kinds=_CHANGES, since=rollout.created_at)
        while page := self._store.trail(rollout.tenant_id, wanted, after=after, limit=_PAGE):
            found += [event for event in page if event.detail.get("rollout") == rollout.id]
            after, looked = page[-1].number, looked + len(page)
            if looked >= _MOST_CHANGES:
                break
        return found

    def _causes(self, who: Caller, servers: list[RolloutServer]) -> list[Json]:
        failed: defaultdict[str, list[RolloutServer]] = defaultdict(list)
        for each in servers:
            if each.status == "failed":
                failed[each.cause or "unexpected"].append(each)
        ids = [of[0].task_id for of in failed.values() if of[0].task_id is not None]
        tasks = {task.id: sight.task(who, task) for task in self._store.tasks(who.tenant_id, ids=ids)} if ids else {}
        found = sorted(failed.items(), key=lambda each: (-len(each[1]), each[0]))
        return [_cause(cause, of, tasks.get(of[0].task_id or "")) for cause, of in found]


def _until(rollout: Rollout, tries: list[Try]) -> datetime:
    """Return until when a rollout ran, as far as it has come."""
    if rollout.state == "running":
        return now()
    return rollout.finished_at or max([each.ended or each.begun for each in tries], default=rollout.created_at)


def _cause(cause: str, servers: list[RolloutServer], example: Task | None) -> Json:
    known = CAUSES.get(cause)
    as_on = None
    if example is not None:
        as_on = {
            "server": example.server_name,
            "task_id": example.id,
            "server_state": example.server_state,
            "message": example.message,
            "evidence": example.evidence,
        }
    return {
        "cause": cause,
        "servers": len(servers),
        "meaning": "" if known is None else known.meaning,
        "handling": (example and example.handling) or ("" if known is None else handling(cause)),
        "example": as_on,
    }


def _not_done(rollout: Rollout, servers: list[RolloutServer], every: list[RolloutServer]) -> list[Json]:
    """Return those of these servers that are not as asked, grouped. every: all that the order was for."""
    said = nextsteps.options(rollout.request, [each.login for each in every])
    groups: defaultdict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for each in servers:
        status: str = "held" if each.held else each.status or ("failed" if each.tries else "waiting")
        status = "running" if status not in (*FINAL, "held", "waiting") else status
        if status not in _WELL:
            groups[status, each.cause if status == "failed" else None, each.held].append(each.server_name)
    keypair = rollout.request.get("keypair")
    found = []
    for (status, cause, why), names in sorted(groups.items(), key=lambda each: (-len(each[1]), each[0][0])):
        step = nextsteps.command(rollout.id, rollout.state, rollout.operation, keypair, status, cause, names, said)
        group = {"status": status, "cause": cause, "why": why, "servers": len(names), "names": names[:MOST_NAMES], "next": step}
        found.append(group)
    return found


def _over_time(
    rollout: Rollout, servers: list[RolloutServer], tries: list[Try], changes: list[Event], ended_at: datetime
) -> Json:
    strategy = Strategy.read(rollout.strategy)
    strategy = strategy.looking() if rollout.plans else strategy
    members = [Member(each.server_id, each.label) for each in servers]
    canary, batches = waves(members, strategy)
    ids = [[each.server_id for each in wave] for wave in ([canary, *batches] if canary else batches)]
    marks = [
        {"seconds": _seconds(rollout, at), "what": "canary" if canary and not number else f"batch {number + (not canary)}"}
        for number, at in wave_starts(ids, tries)
    ]
    pauses: list[Json] = []
    for event in changes:
        at = _seconds(rollout, event.at)
        if event.kind == "rollout_again":
            cause = event.detail.get("cause")
            marks.append({"seconds": at, "what": f"retry of {cause}" if cause else "retry"})
            continue
        state = str(event.detail.get("state"))
        if pauses and pauses[-1]["until"] is None:
            pauses[-1]["until"] = at
        if state in ("paused", "stopped"):
            pauses.append({"seconds": at, "until": None, "what": state, "reason": str(event.detail.get("reason") or "")})
        elif state in ("finished", "cancelled"):
            marks.append({"seconds": at, "what": state})
    return {
        "seconds": _seconds(rollout, max([ended_at, *(event.at for event in changes)])),
        "points": [
            {"seconds": _seconds(rollout, each.at), "begun": each.begun, "done": each.done, "failed": each.failed}
            for each in points(tries)
        ],
        "marks": sorted(marks, key=lambda mark: float(mark["seconds"])),
        "pauses": pauses,
    }


def _seconds(rollout: Rollout, at: datetime) -> float:
    return round(max(0.0, (at - rollout.created_at).total_seconds()), 3)
