"""Rotation policies: how old key pairs may be, which are due, and the rotations that come of it."""

import builtins
import re
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

import structlog

from controller import keyfiles
from controller.errors import Conflict, Invalid, NotFound, Problem
from controller.events import Actor, acting
from controller.kms import Kms
from controller.model import KEY_TYPES, BoundKey, Caller, KeyPair, KeyType, Quotas, Rollout, RolloutState
from controller.order import REPLACES
from controller.policy import Aged, Policy, Rotation
from controller.rollout.strategy import Strategy
from controller.rotation import due, names, steps
from controller.service import ways_in
from controller.service.roles import allow, refusal
from controller.service.rollouts import Drives, member
from controller.service.worker import off_loop
from controller.store import Store

MOST_DAYS = 36_500
MOST_REMINDERS = 20
REMIND_DAYS = (14, 7, 1)
GRACE_DAYS = 7
_HIDDEN = "its owner can see why"
_RUNNING: tuple[RolloutState, ...] = ("running",)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_DEFAULT_TYPE: KeyType = "ed25519"  # in the place of what is only ever imported
_AFTER_REFUSED = timedelta(minutes=30)
# What failed was tried by itself already, in a round that was watched: one that is away must not hold the others.
_STRAGGLERS = {"canary": "0", "max_failures": "100%", "max_failures_of": {}, "pause_after_canary": False}

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("kps.policies")


@dataclass(frozen=True, slots=True)
class Due:
    """How a key pair stands by a policy. name, fingerprint: None for another user's private one."""

    policy: str
    name: str | None
    fingerprint: str | None
    created_at: datetime
    age_days: int
    due_at: datetime
    standing: due.Standing
    logins: int
    elsewhere: int
    obstacle: str  # why it is not rotated by itself; "": it is
    rotation: Rotation | None
    next_name: str | None  # of its new key pair, where that is the caller's to see


class Policies:
    """The policies of the caller's tenant; and, for whoever serves the home, what is due by those of all tenants."""

    def __init__(
        self,
        store: Store,
        kms: Kms,
        drives: Drives,
        executor: Executor | None = None,
        quotas: Quotas | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """quotas: as in Keypairs. clock: as in Secrets."""
        self._store = store
        self._kms = kms
        self._drives = drives
        self._executor = executor
        self._quotas = quotas
        self._now = clock or store.now
        self._not_before: dict[
            tuple[str, str], datetime
        ] = {}  # by policy and key pair: what cannot begin is not tried all the time

    async def set(
        self,
        who: Caller,
        name: str,
        servers: str | None,
        max_age_days: int,
        *,
        remind_days: Collection[int] | None = None,
        grace_days: int = GRACE_DAYS,
        strategy: Mapping[str, Any] | None = None,
        key_type: KeyType | None = None,
    ) -> Policy:
        """Set a policy, in the place of the one of its name. servers: label=value; None: all. What it does is the caller's.

        Invalid: name_unusable, selection_unusable, days_unusable, key_type_unknown, and what Strategy.read() refuses.
        """
        allow(who, "policy.change", what=name)
        if not _NAME.fullmatch(name):
            raise Invalid("name_unusable", f"{name!r}: a policy's name is 1 to 64 letters, digits, _ . and -")
        label, equals, value = (servers or "").partition("=")
        if servers is not None and not (label and equals):
            raise Invalid("selection_unusable", f"{servers!r}: a policy is about label=value, or about all servers")
        before = [days for days in REMIND_DAYS if days < max_age_days] if remind_days is None else remind_days
        _check_days("maximum age", max_age_days, 1, MOST_DAYS)
        _check_days("grace", grace_days, 0, MOST_DAYS)
        if len(before) > MOST_REMINDERS:
            raise Invalid("days_unusable", f"remind: at most {MOST_REMINDERS} times")
        for days in before:
            _check_days("remind", days, 1, max_age_days - 1)
        if key_type is not None and key_type not in KEY_TYPES:
            raise Invalid("key_type_unknown", f"{key_type}: no such type; one of " + ", ".join(KEY_TYPES))
        wanted = Policy(
            id=str(uuid.uuid4()),
            tenant_id=who.tenant_id,
            user_id=who.user_id,
            name=name,
            label=label if servers is not None else None,
            value=value if servers is not None else None,
            max_age_days=max_age_days,
            remind_days=sorted({*before}, reverse=True),
            grace_days=grace_days,
            strategy=Strategy.read(strategy or {}).told(),
            created_at=self._now(),
            key_type=key_type,
        )
        return await self._off(self._store.set_policy, wanted, who.user_id)

    async def list(self, who: Caller) -> builtins.list[Policy]:
        """Return the tenant's policies, by name."""
        return await self._off(self._store.policies, who.tenant_id)

    async def get(self, who: Caller, name: str) -> tuple[Policy, str, builtins.list[tuple[Rotation, str | None, str | None]]]:
        """Return a policy, why it does nothing ("": it does), and its rotations, each with the names of both key pairs."""
        policy = await self._off(self._store.policy, who.tenant_id, name)
        _, blocked = await self._off(self._acting_for, policy)
        return policy, blocked, await self.rotations(who, name)

    async def delete(self, who: Caller, name: str, *, give_up: bool = False) -> None:
        """Delete a policy. Conflict(policy_busy) while a rotation of it is under way; give_up: that is given up with it."""
        allow(who, "policy.change", what=name)
        for rollout in await self._off(self._store.delete_policy, who.tenant_id, name, who.user_id, give_up=give_up):
            self._drives.changed(rollout.id)

    async def pause(self, who: Caller, name: str) -> Policy:
        """Have a policy do nothing more for now: no rotation, no round, nothing cleared; its rollouts that run are paused too."""
        return await self._pause(who, name, paused=True)

    async def resume(self, who: Caller, name: str) -> Policy:
        """Have a paused policy go on, with the rollouts that were paused with it."""
        return await self._pause(who, name, paused=False)

    async def due(self, who: Caller, policy: str | None = None, *, all: bool = False) -> builtins.list[Due]:
        """Return how the key pairs of the tenant's policies, or of one, stand, the most due first; all: also what is fresh."""
        chosen = await self._chosen(who, policy)
        found = [each for one in chosen for each in await self._off(self._stand, who, one)]
        wanted = (each for each in found if all or each.standing != "fresh" or each.rotation is not None)
        return sorted(wanted, key=lambda each: (each.due_at, each.policy, each.name or ""))

    async def rotations(
        self, who: Caller, policy: str | None = None, *, under_way: bool = False
    ) -> builtins.list[tuple[Rotation, str | None, str | None]]:
        """Return rotations, the oldest first, each with the names of both key pairs; None: not the caller's to see."""

        def read() -> builtins.list[tuple[Rotation, str | None, str | None]]:
            seen = {each.id: each.name for each in self._store.keypairs(who.tenant_id, who.user_id)}
            found = self._store.rotations(who.tenant_id, policy=policy, under_way=under_way)
            return [(_seen_by(each, seen), seen.get(each.old_id), seen.get(each.new_id)) for each in found]

        return await self._off(read)

    async def run(
        self, who: Caller, policy: str | None = None, *, keypairs: Collection[str] = (), early: bool = False, again: bool = True
    ) -> builtins.list[tuple[Rotation, str | None, str | None]]:
        """Look now at a policy, or (None) at all: begin what is due, go on with what is under way; returns the latter.

        again: a policy that is named does not wait with what failed before. early: also the key pairs that are not due yet;
        keypairs: of these names alone. Conflict(policy_paused), NotFound(keypair_not_found): none of this name is bound there.
        """
        allow(who, "policy.change", what=policy or "policies")
        chosen = await self._chosen(who, policy)
        if policy is not None and chosen[0].paused:
            raise Conflict("policy_paused", f"{policy}: it is paused; kps policy resume {policy}")
        if policy is not None and keypairs:
            known = {each.name for each in await self._off(self._stand, who, chosen[0])}
            unknown = sorted(set(keypairs) - {each for each in known if each})
            if unknown:
                raise NotFound("keypair_not_found", f"{', '.join(unknown)}: not bound on servers of {policy}", keypair=unknown[0])
        for each in chosen:
            await self._look(each, pressed=policy is not None and again, early=early, only=keypairs)
        found = await self.rotations(who, policy, under_way=True)
        running = {each.id: each for each in await self._off(self._store.rollouts, who.tenant_id, _RUNNING)}
        for rotation, _, _ in found:
            if rotation.rollout_id in running:
                self._drives.begin(running[rotation.rollout_id])  # where nobody serves the home, this process does
        return found

    async def sweep(self) -> None:
        """Look at the policies of all tenants. What one of them meets does not keep the others from theirs."""
        for policy in await self._off(self._store.policies, None):
            before = acting.set(Actor(policy.tenant_id, policy.user_id))
            try:
                await self._look(policy)
            except Problem as problem:
                log.warning("policy", name=policy.name, code=problem.code, message=problem.message)
            finally:
                acting.reset(before)

    # -- what is due ---------------------------------------------------------------------------------------------------

    async def _look(self, policy: Policy, *, pressed: bool = False, early: bool = False, only: Collection[str] = ()) -> None:
        """Do what is to be done for a policy now: remind, begin rotations, and take the next step of those under way."""
        who, blocked = await self._off(self._acting_for, policy)
        said = await self._off(self._store.said, policy.id)
        at = self._now()
        found = await self._off(self._store.aged, policy)
        chosen_ids = {each.keypair_id for each in found if not only or each.name in only}
        for aged in found:
            due_at = due.due_at(aged.created_at, policy.max_age_days)
            told, refused = said.get(aged.keypair_id, (None, ""))
            days = due.reminder(due_at, policy.remind_days, told, at)
            if days is not None:
                await self._off(self._store.say_due, policy, aged, days, due_at)
            chosen = aged.keypair_id in chosen_ids
            wanted = at >= due_at or (early and chosen and aged.begun_by is None)
            if not wanted or aged.rotation is not None or policy.paused or (only and not chosen):
                continue
            key = (policy.id, aged.keypair_id)
            if not pressed and at < self._not_before.get(key, at):
                continue
            why = blocked or _obstacle(policy, aged) or await self._begin(policy, who, aged)
            self._not_before[key] = at + (_AFTER_REFUSED if why else timedelta())
            if why != refused:
                await self._off(self._store.say_refused, policy, aged, why)
        under_way = await self._off(self._store.rotations, policy.tenant_id, under_way=True)
        for rotation in (each for each in under_way if each.policy_id == policy.id):
            await self._step(policy, rotation, blocked, pressed and (not only or rotation.old_id in chosen_ids))

    def _acting_for(self, policy: Policy) -> tuple[Caller, str]:
        """Return as whom a policy acts, and why it must not ("": it may): who set it may have been made less since."""
        tenant = self._store.tenant(policy.tenant_id)
        who = Caller(tenant.id, tenant.projects[0], policy.user_id, "auditor")
        try:
            user = self._store.user(policy.tenant_id, policy.user_id)
        except NotFound:
            return who, "who has set the policy was deleted; an administrator may set it anew"
        who = Caller(tenant.id, tenant.projects[0], user.id, user.role, user.kind)
        if not user.enabled or refusal(user.role, user.kind, "policy.change", "tenant") is not None:
            return who, f"{user.name}, who has set the policy, may not do so any more; an administrator may set it anew"
        return who, ""

    def _stand(self, who: Caller, policy: Policy) -> builtins.list[Due]:
        at = self._now()
        _, blocked = self._acting_for(policy)
        said = self._store.said(policy.id)
        names_seen = {each.id: each.name for each in self._store.keypairs(who.tenant_id, who.user_id)}
        found = []
        for aged in self._store.aged(policy):
            due_at = due.due_at(aged.created_at, policy.max_age_days)
            refused = said.get(aged.keypair_id, (None, ""))[1]
            if refused and aged.keypair_id not in names_seen:
                refused = _HIDDEN
            obstacle = blocked or _obstacle(policy, aged) or refused
            found.append(
                Due(
                    policy.name,
                    names_seen.get(aged.keypair_id),
                    aged.fingerprint if aged.keypair_id in names_seen else None,
                    aged.created_at,
                    (at - aged.created_at).days,
                    due_at,
                    due.standing(due_at, policy.remind_days, at),
                    aged.logins,
                    aged.elsewhere,
                    "" if aged.rotation is not None else obstacle or ("the policy is paused" if policy.paused else ""),
                    None if aged.rotation is None else _seen_by(aged.rotation, names_seen),
                    None if aged.rotation is None else names_seen.get(aged.rotation.new_id),
                )
            )
        return found

    async def _chosen(self, who: Caller, policy: str | None) -> builtins.list[Policy]:
        if policy is None:
            return await self._off(self._store.policies, who.tenant_id)
        return [await self._off(self._store.policy, who.tenant_id, policy)]

    # -- a rotation ----------------------------------------------------------------------------------------------------

    async def _begin(self, policy: Policy, who: Caller, aged: Aged) -> str:
        """Begin the rotation of a key pair; returns why that cannot be ("": it could)."""
        try:
            await self._begun(policy, who, aged)
        except Problem as problem:  # a quota, a master key that is disabled, a role; of the home or its disk too
            return problem.message
        return ""

    async def _begun(self, policy: Policy, who: Caller, aged: Aged) -> None:
        old = await self._off(self._store.keypair_by_id, aged.keypair_id)
        for verb in ("keypair.create", "keypair.use", "keypair.clear"):
            allow(who, verb, old.scope, old.name)
        same = next((each for each in KEY_TYPES if each == old.type), _DEFAULT_TYPE)
        type_: KeyType = policy.key_type or same
        public, stored = await off_loop(None, keyfiles.generate, type_)
        try:
            new = await self._off(self._next, policy, old, public)
            sealed = await self._off(self._kms.seal_private, new, stored)
            wanted = Rotation(
                id=str(uuid.uuid4()),
                tenant_id=policy.tenant_id,
                policy_id=policy.id,
                policy_name=policy.name,
                user_id=policy.user_id,
                old_id=old.id,
                new_id=new.id,
                created_at=self._now(),
            )
            # A next version that is due itself is none.
            not_before = self._now() - timedelta(days=policy.max_age_days)
            await self._off(self._store.begin_rotation, wanted, new, sealed, not_before=not_before, defaults=self._quotas)
        finally:
            stored.wipe()

    def _next(self, policy: Policy, old: KeyPair, public: keyfiles.PublicKey) -> KeyPair:
        """Return the next version of a key pair, to be sealed under the same master key."""
        name = names.next_name(old.name, self._store.keypair_names(old.tenant_id))
        return KeyPair(
            id=str(uuid.uuid4()),
            tenant_id=old.tenant_id,
            owner_id=old.owner_id,
            scope=old.scope,
            name=name,
            type=public.type,
            managed=True,
            public_key=public.line(name),
            fingerprint=public.fingerprint,
            fingerprint_md5=public.fingerprint_md5,
            created_at=self._now(),
            master_key_id=old.master_key_id,
            description=old.description,
        )

    async def _step(self, policy: Policy, rotation: Rotation, blocked: str, pressed: bool) -> None:
        """Take the next step of a rotation. Whoever comes after a kill finds it before that step, or after it."""
        rounds = await self._off(self._store.rounds, rotation)
        where = await self._off(self._store.whereabouts, rotation, policy)
        at = self._now()
        found = steps.step(where, rounds, rotation.removed_at, policy.grace_days, at, paused=policy.paused, pressed=pressed)
        if blocked and not isinstance(found, steps.Wait):
            found = steps.Wait("held", blocked, removed=isinstance(found, steps.Clear))
        if isinstance(found, steps.Begin):
            new = await self._off(self._store.newest_version, rotation)
            if new is not None:
                await self._round(policy, rotation, new, found)
                return
            found = steps.Wait("held", "the new private half is not in custody any more; nothing is rolled out")
        if isinstance(found, steps.Clear):
            try:
                # Not done where it is bound somewhere again, or the policy is another one now: the next look says which.
                await self._off(self._clear, rotation, policy)
                return
            except Conflict as problem:  # a task works with it, or it is somebody's only way in
                found = steps.Wait("waiting", problem.message)
        removed_at = (rotation.removed_at or at) if found.removed else None
        await self._off(self._store.note_rotation, rotation, found.state, found.reason, removed_at)

    def _clear(self, rotation: Rotation, policy: Policy) -> None:
        def check(bound: Sequence[BoundKey]) -> None:
            ways_in.refuse(ways_in.only_way_in(bound, {rotation.old_id}), "clearing the old private half")

        self._store.finish_rotation(rotation, policy, check)
        # What the write-ahead log still holds of it goes too.
        self._store.checkpoint()

    async def _round(self, policy: Policy, rotation: Rotation, new: KeyPair, wanted: steps.Begin) -> None:
        """Begin the next rollout of a rotation."""
        how = Strategy.read(policy.strategy | (_STRAGGLERS if wanted.stragglers else {}))
        known = {each.id: each for each in await self._off(self._store.servers, policy.tenant_id)}
        places = sorted(
            ((known[each.server_id].name, each) for each in wanted.places if each.server_id in known), key=lambda each: each[0]
        )
        if not places:
            return
        rollout = Rollout(
            id=str(uuid.uuid4()),
            tenant_id=policy.tenant_id,
            user_id=policy.user_id,
            operation="replace",
            request={"keypair": new.name, "keypair_id": new.id, REPLACES: rotation.old_id},
            strategy=how.told(),
            servers=len(places),
            private=new.scope == "private",
            created_at=self._now(),
        )
        members = [
            member(rollout, position, known[place.server_id], place.login, how, known)
            for position, (_, place) in enumerate(places)
        ]
        if await self._off(self._store.begin_round, rotation, policy, rollout, members) is not None:
            self._drives.begin(rollout)

    async def _pause(self, who: Caller, name: str, *, paused: bool) -> Policy:
        allow(who, "policy.change", what=name)
        policy, rollouts = await self._off(self._store.pause_policy, who.tenant_id, name, who.user_id, paused=paused)
        for rollout in rollouts:
            self._drives.changed(rollout.id) if paused else self._drives.begin(rollout)
        return policy

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)


def _seen_by(rotation: Rotation, seen: Mapping[str, str]) -> Rotation:
    """Return a rotation as it is told to who sees these key pairs: why it waits may name one."""
    hidden = rotation.old_id not in seen and rotation.ended_at is None
    return replace(rotation, reason=_HIDDEN) if hidden else rotation


def _check_days(what: str, days: int, least: int, most: int) -> None:
    if not least <= days <= most:
        raise Invalid("days_unusable", f"{what}: {days} days; give {least} to {most}")


def _obstacle(policy: Policy, aged: Aged) -> str:
    """Return why a policy must not rotate a key pair, "" where it may."""
    if aged.scope == "private" and aged.owner_id != policy.user_id:
        return "another user's private key pair; its owner replaces it"
    if not aged.managed:
        return "its private half is not in custody; take it in (kps keypair manage), or replace it by hand"
    return ""
