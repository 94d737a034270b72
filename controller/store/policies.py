"""Rotation policies: which key pairs they are about, what was said of these, and the rotations begun."""

from collections import Counter
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from controller.errors import Conflict, NotFound
from controller.model import Rollout, RolloutState
from controller.policy import Aged, Policy, Rotation
from controller.store import engine, rows, tables
from controller.store.queries import one
from controller.store.rotations import Rotations, servers_of, under_way

PAUSED = "its policy was paused"
_RUNNING: tuple[RolloutState] = ("running",)
_PAUSED: tuple[RolloutState] = ("paused",)


class Policies(Rotations):
    """The policies of all tenants."""

    def set_policy(self, wanted: Policy, user_id: str) -> Policy:
        """Keep a policy, in the place of the one of its name; that one's id, time and pause stay."""
        table = tables.policies
        with engine.writing(self._engine) as connection:
            found = one(connection, table, table.c.tenant_id == wanted.tenant_id, table.c.name == wanted.name)
            if found is None:
                kept = wanted
                connection.execute(table.insert().values(rows.row(kept)))
            else:
                before = rows.policy(found)
                kept = replace(wanted, id=before.id, created_at=before.created_at, paused=before.paused)
                connection.execute(update(table).where(table.c.id == kept.id).values(rows.row(kept)))
                # What is due, and when, has changed: it is told anew.
                connection.execute(delete(tables.policy_keys).where(tables.policy_keys.c.policy_id == kept.id))
            self._policy_event(connection, kept, "policy_set", user_id, **_rules(kept))
            return kept

    def policies(self, tenant_id: str | None) -> list[Policy]:
        """Return the policies of a tenant, or (None) of all, by name."""
        query = select(tables.policies).order_by(tables.policies.c.name)
        if tenant_id is not None:
            query = query.where(tables.policies.c.tenant_id == tenant_id)
        with engine.reading(self._engine) as connection:
            return [rows.policy(found) for found in connection.execute(query).mappings()]

    def policy(self, tenant_id: str, name: str) -> Policy:
        """Return one policy of a tenant."""
        with engine.reading(self._engine) as connection:
            return _policy(connection, tenant_id, name)

    def pause_policy(self, tenant_id: str, name: str, user_id: str, *, paused: bool) -> tuple[Policy, list[Rollout]]:
        """Pause a policy with its rollouts that run, or have both go on; returns also the rollouts that this has changed."""
        table = tables.policies
        with engine.writing(self._engine) as connection:
            found = _policy(connection, tenant_id, name)
            changed = replace(found, paused=paused)
            if found.paused != paused:
                connection.execute(update(table).where(table.c.id == found.id).values(paused=paused))
                self._policy_event(connection, changed, "policy_paused" if paused else "policy_resumed", user_id)
            with_it: list[Rollout] = []
            for rollout in _rollouts_of(connection, found.id):
                if paused and rollout.state == "running":
                    with_it.append(self._change_rollout(connection, rollout, "paused", PAUSED, of=_RUNNING))
                elif not paused and rollout.state == "paused" and rollout.reason == PAUSED:
                    with_it.append(self._change_rollout(connection, rollout, "running", "", of=_PAUSED))
            return changed, with_it

    def delete_policy(self, tenant_id: str, name: str, user_id: str, *, give_up: bool = False) -> list[Rollout]:
        """Delete a policy. Conflict(policy_busy) while a rotation of it is under way.

        give_up: those are given up, with the rollouts of theirs that are returned: both key pairs stay, and nothing is cleared.
        """
        with engine.writing(self._engine) as connection:
            policy = _policy(connection, tenant_id, name)
            open_ = under_way(connection, tables.rotations.c.policy_id == policy.id)
            if open_ and not give_up:
                raise Conflict(
                    "policy_busy",
                    f"{name}: a rotation of it is under way; wait for its end (kps policy show {name}), pause it, or say "
                    "--give-up: both key pairs stay then, and the old one's private half too",
                )
            cancelled = [
                self._change_rollout(connection, each, "cancelled", "its rotation was given up", of=(each.state,))
                for each in _rollouts_of(connection, policy.id)
                if each.state in ("running", "paused", "stopped")
            ]
            for rotation in open_:
                self._end_rotation(connection, rotation, "given_up", "somebody gave it up", user_id)
            connection.execute(delete(tables.policy_keys).where(tables.policy_keys.c.policy_id == policy.id))
            connection.execute(delete(tables.policies).where(tables.policies.c.id == policy.id))
            self._policy_event(connection, policy, "policy_deleted", user_id)
            return cancelled

    # -- the key pairs of a policy

    def aged(self, policy: Policy) -> list[Aged]:
        """Return the key pairs that are bound on a policy's servers, of whatever owner, the oldest first."""
        bindings, keypairs = tables.bindings, tables.keypairs
        with engine.reading(self._engine) as connection:
            inside = servers_of(connection, policy)
            here: Counter[str] = Counter()
            all_: Counter[str] = Counter()
            bound = select(bindings.c.keypair_id, bindings.c.server_id).join(keypairs)
            for keypair_id, server_id in connection.execute(bound.where(keypairs.c.tenant_id == policy.tenant_id)):
                here[keypair_id] += server_id in inside
                all_[keypair_id] += 1
            rotating: dict[str, Rotation] = {}
            made_by: dict[str, Rotation] = {}
            for each in under_way(connection, tables.rotations.c.tenant_id == policy.tenant_id):  # the oldest counts
                made_by.setdefault(each.new_id, each)
                if each.policy_id == policy.id:
                    rotating.setdefault(each.old_id, each)
            found = []
            for row in connection.execute(select(keypairs).where(keypairs.c.tenant_id == policy.tenant_id)).mappings():
                if not here[row["id"]]:
                    continue
                keypair = rows.keypair(row)
                maker = made_by.get(keypair.id)
                found.append(
                    Aged(
                        keypair.id,
                        keypair.name,
                        keypair.owner_id,
                        keypair.scope,
                        keypair.fingerprint,
                        keypair.type,
                        keypair.managed,
                        keypair.created_at,
                        here[keypair.id],
                        all_[keypair.id] - here[keypair.id],
                        rotating.get(keypair.id),
                        None if maker is None else maker.id,
                    )
                )
            return sorted(found, key=lambda each: (each.created_at, each.name))

    def said(self, policy_id: str) -> dict[str, tuple[int | None, str]]:
        """Return by key pair the last reminder that was given, in days before it is due, and why it is not rotated."""
        table = tables.policy_keys
        with engine.reading(self._engine) as connection:
            found = connection.execute(select(table).where(table.c.policy_id == policy_id)).mappings()
            return {each["keypair_id"]: (each["told"], each["refused"]) for each in found}

    def say_due(self, policy: Policy, aged: Aged, days: int, due: datetime) -> bool:
        """Give a reminder, once, whoever looks at the same moment; says whether it was given. days: before due; 0: it is due."""
        with engine.writing(self._engine) as connection:
            told_before = self._said(connection, policy, aged)
            if told_before is None or (told_before[0] is not None and told_before[0] <= days):
                return False
            _keep_said(connection, policy.id, aged.keypair_id, told=days)
            detail = {"due_at": due.isoformat(), "days": days, "logins": aged.logins, "managed": aged.managed}
            kind = "key_due" if days == 0 else "key_due_soon"
            self._event(connection, policy.tenant_id, kind, {"policy": policy.name} | _told(aged) | detail)
            return True

    def say_refused(self, policy: Policy, aged: Aged, why: str) -> None:
        """Record why a key pair that is due is not rotated ("": it can be); an event where that is new."""
        with engine.writing(self._engine) as connection:
            before = self._said(connection, policy, aged)
            if before is None or before[1] == why:
                return
            _keep_said(connection, policy.id, aged.keypair_id, refused=why)
            if why:
                detail = {"policy": policy.name, "reason": why}
                self._event(connection, policy.tenant_id, "rotation_refused", _told(aged) | detail)

    # -- steps inside a transaction

    def _said(self, connection: Connection, policy: Policy, aged: Aged) -> tuple[int | None, str] | None:
        """Return what was said of a key pair of a policy; None where the policy is gone, or is not the one that was read."""
        found = one(connection, tables.policies, tables.policies.c.id == policy.id)
        if found is None or replace(rows.policy(found), paused=policy.paused) != policy:
            return None
        table = tables.policy_keys
        said = one(connection, table, table.c.policy_id == policy.id, table.c.keypair_id == aged.keypair_id)
        return (None, "") if said is None else (said["told"], said["refused"])

    def _policy_event(self, connection: Connection, policy: Policy, kind: str, user_id: str, **detail: object) -> None:
        self._event(connection, policy.tenant_id, kind, {"policy": policy.name, **detail}, user_id=user_id)


def _policy(connection: Connection, tenant_id: str, name: str) -> Policy:
    table = tables.policies
    found = one(connection, table, table.c.tenant_id == tenant_id, table.c.name == name)
    if found is None:
        raise NotFound("policy_not_found", f"{name}: no policy of this name", policy=name)
    return rows.policy(found)


def _rules(policy: Policy) -> dict[str, object]:
    shown = ("label", "value", "max_age_days", "remind_days", "grace_days", "strategy", "key_type")
    return {name: getattr(policy, name) for name in shown}


def _told(aged: Aged) -> dict[str, object]:
    return {
        "keypair": aged.name,
        "keypair_id": aged.keypair_id,
        "scope": aged.scope,
        "owner_id": aged.owner_id,
        "fingerprint": aged.fingerprint,
    }


def _keep_said(connection: Connection, policy_id: str, keypair_id: str, **columns: object) -> None:
    table = tables.policy_keys
    where = (table.c.policy_id == policy_id) & (table.c.keypair_id == keypair_id)
    if not connection.execute(update(table).where(where).values(**columns)).rowcount:
        new = {"told": None, "refused": ""} | columns
        connection.execute(table.insert().values(policy_id=policy_id, keypair_id=keypair_id, **new))


def _rollouts_of(connection: Connection, policy_id: str) -> list[Rollout]:
    """Return the rollouts of a policy's rotations that are under way; an earlier round too may be tried once more by somebody."""
    rotations, rollouts, link = tables.rotations, tables.rollouts, tables.rotation_rollouts
    query = select(rollouts).join(link, link.c.rollout_id == rollouts.c.id).join(rotations, rotations.c.id == link.c.rotation_id)
    query = query.where(rotations.c.policy_id == policy_id, rotations.c.ended_at.is_(None))
    return [rows.rollout(found) for found in connection.execute(query).mappings()]
