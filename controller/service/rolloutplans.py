"""Plans of rollouts: what was seen of each server and what would be done there, sealed; and the rollout that does it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from controller.errors import Conflict, NotFound, Unavailable
from controller.model import Caller, Credential, Rollout, RolloutServer, Server, Task, now
from controller.service import sight
from controller.service.bindings import login_of
from controller.service.rollouts import NOT_KEPT, Planned, Rollouts
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.chain import Signer, canonical, spelt

FORMAT = "rollout plan 1"
_PAGE = 1000
# What is signed of a plan and must be so still; how long it is good is as in the file, whatever the database says by now.
_HELD = ("operation", "good_until", "servers_sha256", "keypair", "strategy", "request")
_HIDDEN = (
    "plan_hidden"  # of a server whose changes only whoever asked for the plan may see: nobody agrees to what they have not seen
)
_NOT_SEEN = "plan_too_large"  # of a server whose changes were too large to be told, and so to be compared


@dataclass(frozen=True, slots=True)
class Look:
    """What a plan has found of one server. seen: None where it would be refused or could not be looked at; cause says why.

    With both, what was seen is not for the caller to see.
    """

    position: int
    server: str
    server_id: str
    login: str
    seen: str | None
    changes: list[dict[str, Any]] = field(default_factory=list)
    locked_out: list[str] = field(default_factory=list)
    first: str = ""  # what is undone before anything else
    cause: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The head of a plan, and its signature (Ed25519, hex) by the key that signs the tenant's events."""

    head: dict[str, Any]
    signature: str


class RolloutPlans:
    """The plans of the caller's tenant."""

    def __init__(self, store: Store, rollouts: Rollouts, signer: Signer, executor: Executor | None = None) -> None:
        self._store = store
        self._rollouts = rollouts
        self._signer = signer
        self._executor = executor

    async def sealed(self, who: Caller, id: str, looks: Sequence[Look] | None = None) -> Sealed:
        """Return the head of a plan, signed: what was asked, by whom, and digests of what was found of its servers.

        looks: all of it, as it was read a moment ago; the digests are of that. NotFound(plan_not_found);
        Conflict(plan_not_ready) while servers are still looked at.
        """
        return await off_loop(self._executor, self._sealed, who, id, looks)

    async def looks(self, who: Caller, id: str, after: int = -1, limit: int | None = None) -> list[Look]:
        """Return what a plan has found of its servers, in their order: after a position, so many."""
        plan = await off_loop(self._executor, self._plan, who, id)
        if limit is None:
            return await off_loop(self._executor, lambda: list(self._looks(who, plan, after)))
        return await off_loop(self._executor, self._page, who, plan, after, limit)

    async def begun_as(self, who: Caller, id: str) -> str | None:
        """Return the id of the rollout that a plan was begun as; None where it was not, or that was cancelled."""
        return await off_loop(self._executor, lambda: self._store.begun_from(self._plan(who, id).id))

    async def start(
        self, who: Caller, id: str, given: Mapping[str, Credential], sealed: Sealed | None = None, hours: float | None = None
    ) -> tuple[Rollout, dict[str, int]]:
        """Start what was planned, on the servers that were seen; returns it, and how many of the others stay out, by cause.

        given: what opens servers, by their ids. sealed: as somebody kept it; None: as it is here. hours: as in Rollouts.
        Conflict: plan_not_ready, plan_altered, plan_outdated, plan_expired, plan_begun.
        """
        plan, servers, seen, logins, out = await off_loop(self._executor, self._held_to, who, id, sealed)
        request = {name: value for name, value in plan.request.items() if name not in NOT_KEPT}
        request |= _login(plan, servers, logins)
        planned = Planned(plan, {server.id: seen[server.id] for server in servers})
        opens = {server_id: credential for server_id, credential in given.items() if server_id in planned.seen}
        order = (plan.operation, servers, request, plan.strategy, opens, hours)
        started = await self._rollouts.start(who, *order, planned=planned)
        return started, out

    def _held_to(
        self, who: Caller, id: str, sealed: Sealed | None
    ) -> tuple[Rollout, list[Server], dict[str, str], dict[str, str], dict[str, int]]:
        """Return the plan, the servers to be begun, what was seen of them, their logins, and how many stay out, by cause.

        Refused where the plan does not hold any more.
        """
        plan = self._plan(who, id)
        own = self._sealed(who, id)
        if sealed is not None:
            self._refuse_altered(who, id, sealed, own)
        if plan.good_until is not None and now() > plan.good_until:
            raise Conflict("plan_expired", f"plan {id} was good until {spelt(plan.good_until)[:19]}Z; plan anew", plan=id)
        known = {server.id: server for server in self._store.servers(who.tenant_id)}
        servers, seen, logins = [], dict[str, str](), dict[str, str]()
        out: dict[str, int] = {}
        for look in self._looks(who, plan):
            if look.seen is not None and look.cause is None and look.server_id in known:
                servers.append(known[look.server_id])
                seen[look.server_id], logins[look.server_id] = look.seen, look.login
            else:
                why = look.cause or "server_not_found"
                out[why] = out.get(why, 0) + 1
        if not servers:
            raise Conflict(
                "plan_empty", f"plan {id} has no server on which anything could be done; kps rollout show {id} says why"
            )
        return plan, servers, seen, logins, out

    def _refuse_altered(self, who: Caller, id: str, sealed: Sealed, own: Sealed) -> None:
        """Refuse what is not what we have signed; and what we did, but of a plan that has been gone on with since."""
        try:
            signature, message = bytes.fromhex(sealed.signature), _message(sealed.head)
        except ValueError:
            signature, message = b"", b""
        good = self._signer.signed(who.tenant_id, message, signature)
        if good is None:
            raise Unavailable("audit_key_missing", "the key that signs plans is not there; run kps audit verify")
        if not good or sealed.head.get("id") != id:
            raise Conflict("plan_altered", f"plan {id}: this is not what was signed when it was made; plan anew", plan=id)
        changed = [name for name in _HELD if sealed.head[name] != own.head[name]]
        if changed:
            told = "servers were looked at again" if changed == ["servers_sha256"] else f"{', '.join(changed)} is another one"
            raise Conflict("plan_outdated", f"plan {id}: {told} since this was written; plan anew", plan=id)

    def _plan(self, who: Caller, id: str) -> Rollout:
        plan = self._store.rollout(who.tenant_id, id)
        if not plan.plans or (plan.private and plan.user_id != who.user_id):
            raise NotFound("plan_not_found", f"{id}: no plan of this id that is yours to see", plan=id)
        return plan

    def _sealed(self, who: Caller, id: str, looks: Sequence[Look] | None = None) -> Sealed:
        plan = self._plan(who, id)
        if plan.state != "finished":
            next_step = {"running": "watch", "cancelled": "plan"}.get(plan.state, "resume")
            raise Conflict("plan_not_ready", f"plan {id} is {plan.state}; kps rollout {next_step}", plan=id, state=plan.state)
        seen, shown, count, refused = hashlib.sha256(), hashlib.sha256(), 0, dict[str, int]()
        for look in self._looks(who, plan) if looks is None else looks:
            seen.update(canonical({"login": look.login, "seen": look.seen, "server_id": look.server_id}) + b"\n")
            shown.update(spelling(look))
            count += look.seen is not None
            if look.seen is None:
                refused[str(look.cause)] = refused.get(str(look.cause), 0) + 1
        keypair_id = plan.request.get("keypair_id")
        try:
            keypair = None if keypair_id is None else self._store.keypair_by_id(str(keypair_id))
        except NotFound:
            raise Conflict("plan_outdated", f"plan {id}: its key pair is not there any more; plan anew", plan=id) from None
        head = {
            "kps": FORMAT,
            "id": plan.id,
            "tenant_id": plan.tenant_id,
            "operation": plan.operation,
            "request": {name: value for name, value in plan.request.items() if name not in NOT_KEPT},
            "keypair": None if keypair is None else {"name": keypair.name, "id": keypair.id, "fingerprint": keypair.fingerprint},
            "strategy": plan.strategy,
            "made_by": next((user.name for user in self._store.users(who.tenant_id) if user.id == plan.user_id), plan.user_id),
            "made_at": spelt(plan.created_at),
            "good_until": None if plan.good_until is None else spelt(plan.good_until),
            "servers": plan.servers,
            "planned": count,
            "refused": refused,
            "servers_sha256": seen.hexdigest(),
            "shown_sha256": shown.hexdigest(),
        }
        signature = self._signer.sign(plan.tenant_id, _message(head))
        if signature is None:
            raise Unavailable("audit_key_missing", "the key that signs plans is not there; run kps audit verify")
        return Sealed(head, signature.hex())

    def _looks(self, who: Caller, plan: Rollout, after: int = -1) -> Iterator[Look]:
        while page := self._page(who, plan, after, _PAGE):
            yield from page
            after = page[-1].position

    def _page(self, who: Caller, plan: Rollout, after: int, limit: int) -> list[Look]:
        servers = self._store.rollout_servers(plan.id, after, limit)
        ids = [each.task_id for each in servers if each.task_id is not None]
        tasks = {task.id: task for task in self._store.tasks(who.tenant_id, ids=ids)} if ids else {}
        return [_look(who, each, tasks.get(each.task_id or "")) for each in servers]


def _login(plan: Rollout, servers: list[Server], logins: Mapping[str, str]) -> dict[str, str]:
    """Return the login named for all servers, as in a request. Conflict(plan_outdated): a server's own is another now."""
    others = [server for server in servers if logins[server.id] != login_of(server, plan.operation)]
    if not others:
        return {}
    named = set(logins.values())
    if len(named) > 1:
        told = f"the login of {others[0].name} is another one than when it was made; plan anew"
        raise Conflict("plan_outdated", f"plan {plan.id}: {told}", plan=plan.id)
    return {"login": named.pop()}


def spelling(look: Look) -> bytes:
    """Return the spelling of what was found of a server; shown_sha256 is the digest of these: canonical JSON, a newline."""
    return canonical({name: getattr(look, name) for name in Look.__slots__}) + b"\n"


def _message(head: Mapping[str, Any]) -> bytes:
    """Return what is signed of a plan: a statement that cannot be shown as one about the trail."""
    return f"kps {FORMAT}\n".encode() + canonical(head)


def _look(who: Caller, server: RolloutServer, task: Task | None) -> Look:
    names = (server.position, server.server_name, server.server_id, server.login)
    if task is None or task.status not in ("succeeded", "unchanged", "failed"):
        none = "its task was deleted" if server.tries else "not looked at"
        there = "its task was cancelled" if task and task.status == "cancelled" else "it is being looked at"
        why = server.held or (there if task else none)
        return Look(*names, None, cause="not_looked_at", message=f"{server.server_name}: {why}")
    if task.status == "failed":
        return Look(*names, None, cause=task.cause or "unexpected", message=sight.task(who, task).message)
    # A digest, and the same whoever asks. Of what was too large to be kept (evidence has a limit) there is nothing to show.
    seen = task.evidence.get("seen") if "changes" in (task.evidence.get("plan") or {}) else None
    task = sight.task(who, task)
    plan = task.evidence.get("plan") or {}
    if seen and not plan:
        told = f"{server.server_name}: what would be changed there is told to whoever asked for this plan"
        return Look(*names, seen, cause=_HIDDEN, message=told)
    changes = [_short(change) for change in plan.get("changes", [])]
    cause, message = (None, "") if seen else (_NOT_SEEN, f"{server.server_name}: more would be changed than can be compared")
    first = str(task.evidence.get("first") or "")
    return Look(*names, seen, changes, list(plan.get("locked_out", [])), first, cause, message)


def _short(change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change with those lines of its diff alone that come or go."""
    kept = {name: value for name, value in change.items() if name != "diff"}
    lines = [line for line in change.get("diff", []) if line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ")]
    return kept | ({"lines": lines} if "diff" in change else {})
