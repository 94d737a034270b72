"""Rotations: one key pair in the place of another, in rounds; the old private half goes last."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select, update

from controller.model import FINAL, KeyPair, Quotas, Rollout, RolloutServer, Sealed
from controller.policy import OVER, Place, Policy, Rotation, RotationState, Round, Whereabouts
from controller.store import engine, rows, tables
from controller.store.custody import Check, Custody
from controller.store.doubt import in_doubt, put_in_doubt
from controller.store.doubt import told as told_doubt
from controller.store.keypairs import Keypairs, told
from controller.store.queries import one
from controller.store.rollouts import Rollouts


class Rotations(Keypairs, Custody, Rollouts):
    """The rotations of all tenants. Each step says what it read: of two that take it at the same moment one does."""

    def rotations(self, tenant_id: str, *, policy: str | None = None, under_way: bool = False) -> list[Rotation]:
        """Return the rotations of a tenant, the oldest first: of a policy of this name alone; under_way: not ended."""
        table = tables.rotations
        query = select(table).where(table.c.tenant_id == tenant_id).order_by(table.c.created_at, table.c.id)
        if policy is not None:
            query = query.where(table.c.policy_name == policy)
        if under_way:
            query = query.where(table.c.ended_at.is_(None))
        with engine.reading(self._engine) as connection:
            return [rows.rotation(found) for found in connection.execute(query).mappings()]

    def begin_rotation(
        self, wanted: Rotation, new: KeyPair, sealed: Sealed, *, not_before: datetime, defaults: Quotas | None = None
    ) -> Rotation | None:
        """Keep a rotation, and with it its new key pair, in custody: both or neither.

        Where another rotation has made a next version of the old one already, after a moment, that is taken, and new is not
        kept. None where it is under way already, the policy is paused or gone, or the old one is not in custody any more.
        """
        table = tables.rotations
        with engine.writing(self._engine) as connection:
            policy = one(connection, tables.policies, tables.policies.c.id == wanted.policy_id)
            old = one(connection, tables.keypairs, tables.keypairs.c.id == wanted.old_id)
            busy = under_way(connection, table.c.old_id == wanted.old_id, policy_id=wanted.policy_id)
            if policy is None or policy["paused"] or old is None or not old["managed"] or busy:
                return None
            next_ = _newest_version(connection, wanted.old_id)
            if next_ is None or next_.created_at <= not_before:
                next_ = self._add_keypair(connection, new, sealed, imported=False, may_be_first=False, defaults=defaults)
            rotation = replace(wanted, new_id=next_.id)
            connection.execute(table.insert().values(rows.row(rotation)))
            self._rotation_event(connection, rotation, "rotation_begun")
            return rotation

    def begin_round(
        self, rotation: Rotation, policy: Policy, rollout: Rollout, servers: Sequence[RolloutServer]
    ) -> Rotation | None:
        """Keep the next rollout of a rotation; None, and nothing kept, where it or its policy is another by now, or paused."""
        table, rounds = tables.rotations, tables.rotation_rollouts
        with engine.writing(self._engine) as connection:
            if not _may_go_on(connection, rotation, policy):
                return None
            self._add_rollout(connection, rollout, servers)
            count = len(connection.execute(select(rounds).where(rounds.c.rotation_id == rotation.id)).all())
            connection.execute(rounds.insert().values(rotation_id=rotation.id, rollout_id=rollout.id, ordinal=count))
            reason = f"rollout {rollout.id} is under way"
            new_id = str(rollout.request["keypair_id"])
            changed = replace(rotation, new_id=new_id, rollout_id=rollout.id, state="rolling", reason=reason, removed_at=None)
            connection.execute(update(table).where(table.c.id == rotation.id).values(rows.row(changed)))
            self._rotation_event(connection, changed, "rotation_round", rollout=rollout.id, servers=rollout.servers)
            return changed

    def newest_version(self, rotation: Rotation) -> KeyPair | None:
        """Return the key pair that a rotation's next round brings: its new one, or what later rotations have made of that.

        None: none of them is in custody any more.
        """
        with engine.reading(self._engine) as connection:
            return _newest_version(connection, rotation.old_id)

    def note_rotation(
        self, rotation: Rotation, state: RotationState, reason: str, removed_at: datetime | None
    ) -> Rotation | None:
        """Record how a rotation stands, in an event too where that has changed. None: it is not as it was read."""
        table = tables.rotations
        changed = replace(rotation, state=state, reason=reason, removed_at=removed_at)
        if changed == rotation:
            return rotation
        with engine.writing(self._engine) as connection:
            if not _is_as_read(connection, rotation):
                return None
            connection.execute(update(table).where(table.c.id == rotation.id).values(rows.row(changed)))
            if removed_at is not None and rotation.removed_at is None:
                self._rotation_event(connection, changed, "rotation_removed")
            elif (state, reason) != (rotation.state, rotation.reason):
                self._rotation_event(connection, changed, "rotation_held" if state == "held" else "rotation_noted")
            return changed

    def finish_rotation(self, rotation: Rotation, policy: Policy, check: Check) -> Rotation | None:
        """Destroy the private half of a rotation's old key pair, and end the rotation: both or neither.

        None where the key pair is, or may be, somewhere still, or the rotation or its policy is not as it was read, or paused.
        Conflict(keypair_busy), and what check raises.
        """
        with engine.writing(self._engine) as connection:
            if not _may_go_on(connection, rotation, policy):
                return None
            where = _whereabouts(connection, rotation, frozenset())
            if where.inside or where.outside or where.doubts:
                return None
            if where.managed:
                self._clear_private(connection, rotation.old_id, rotation.user_id, check, even_if=False)
            # Without a grace period nobody has noted that yet.
            removed = replace(rotation, removed_at=rotation.removed_at or self._now())
            return self._end_rotation(connection, removed, "done", "the old private half is cleared", None)

    def whereabouts(self, rotation: Rotation, policy: Policy) -> Whereabouts:
        """Return where the old key pair of a rotation still is."""
        with engine.reading(self._engine) as connection:
            return _whereabouts(connection, rotation, servers_of(connection, policy))

    def rounds(self, rotation: Rotation) -> list[Round]:
        """Return the rollouts of a rotation, the oldest first; which logins they are about only where none of them goes on."""
        link, rollouts, members, tasks = tables.rotation_rollouts, tables.rollouts, tables.rollout_servers, tables.tasks
        query = select(rollouts).join(link, link.c.rollout_id == rollouts.c.id)
        query = query.where(link.c.rotation_id == rotation.id).order_by(link.c.ordinal)
        with engine.reading(self._engine) as connection:
            found = [rows.rollout(each) for each in connection.execute(query).mappings()]
            if any(each.state == "running" for each in found):
                return [Round(each.id, each.state, each.reason) for each in found]
            rounds = []
            for rollout in found:
                joined = members.outerjoin(tasks, tasks.c.id == members.c.task_id)
                about = select(members.c.server_id, members.c.login, members.c.task_id, tasks.c.status).select_from(joined)
                its = connection.execute(about.where(members.c.rollout_id == rollout.id)).all()
                rounds.append(
                    Round(
                        rollout.id,
                        rollout.state,
                        rollout.reason,
                        frozenset(Place(each.server_id, each.login) for each in its),
                        frozenset(Place(each.server_id, each.login) for each in its if each.task_id),
                        rollout.finished_at,
                        any(each.status is not None and each.status not in FINAL for each in its),
                    )
                )
            return rounds

    # -- steps inside a transaction

    def _end_rotation(
        self, connection: Connection, rotation: Rotation, state: RotationState, reason: str, user_id: str | None
    ) -> Rotation:
        ended = replace(rotation, state=state, reason=reason, ended_at=self._now())
        connection.execute(update(tables.rotations).where(tables.rotations.c.id == rotation.id).values(rows.row(ended)))
        self._rotation_event(connection, ended, "rotation_done" if state == "done" else "rotation_given_up", user_id)
        return ended

    def _rotation_event(
        self, connection: Connection, rotation: Rotation, kind: str, user_id: str | None = None, **detail: object
    ) -> None:
        pairs = {}
        for name, keypair_id in (("old", rotation.old_id), ("new", rotation.new_id)):
            found = one(connection, tables.keypairs, tables.keypairs.c.id == keypair_id)
            pairs[name] = None if found is None else rows.keypair(found)
        whose = next((told(each) for each in (pairs["old"], pairs["new"]) if each is not None), {})
        about = {
            "policy": rotation.policy_name,
            "rotation": rotation.id,
            "state": rotation.state,
            "reason": rotation.reason,
            "scope": whose.get("scope"),
            "owner_id": whose.get("owner_id", rotation.user_id),
            **{name: None if each is None else each.name for name, each in pairs.items()},
            "new_id": rotation.new_id,
        }
        self._event(connection, rotation.tenant_id, kind, about | detail, user_id=user_id, keypair_id=rotation.old_id)


def servers_of(connection: Connection, policy: Policy) -> frozenset[str]:
    """Return the ids of a policy's servers."""
    table = tables.servers
    if policy.label is None:
        return frozenset(connection.execute(select(table.c.id).where(table.c.tenant_id == policy.tenant_id)).scalars())
    query = select(table.c.id, table.c.labels).where(table.c.tenant_id == policy.tenant_id)
    return frozenset(found.id for found in connection.execute(query) if found.labels.get(policy.label) == policy.value)


def under_way(connection: Connection, which: ColumnElement[bool], *, policy_id: str | None = None) -> list[Rotation]:
    table = tables.rotations
    query = select(table).where(table.c.ended_at.is_(None), which)
    if policy_id is not None:
        query = query.where(table.c.policy_id == policy_id)
    return [rows.rotation(found) for found in connection.execute(query.order_by(table.c.created_at)).mappings()]


def _is_as_read(connection: Connection, rotation: Rotation) -> bool:
    found = one(connection, tables.rotations, tables.rotations.c.id == rotation.id)
    return found is not None and rows.rotation(found) == rotation and rotation.state not in OVER


def _may_go_on(connection: Connection, rotation: Rotation, policy: Policy) -> bool:
    """Say whether both still are as a step was thought out by: a grace that was made longer meanwhile counts."""
    found = one(connection, tables.policies, tables.policies.c.id == policy.id)
    return found is not None and rows.policy(found) == policy and not policy.paused and _is_as_read(connection, rotation)


def _newest_version(connection: Connection, old_id: str) -> KeyPair | None:
    """Return the key pair that rotations have put, or are putting, in the place of another: the last one in custody."""
    rotations, keypairs = tables.rotations, tables.keypairs
    found: KeyPair | None = None
    here, seen = old_id, {old_id}
    while True:
        query = select(keypairs).join(rotations, rotations.c.new_id == keypairs.c.id)
        query = query.where(rotations.c.old_id == here, rotations.c.state != "given_up", keypairs.c.id.not_in(seen))
        row = connection.execute(query.order_by(keypairs.c.created_at.desc(), keypairs.c.number.desc())).mappings().first()
        if row is None:
            return found
        here = row["id"]
        seen.add(here)
        found = rows.keypair(row) if row["managed"] else found


def _whereabouts(connection: Connection, rotation: Rotation, inside: Collection[str]) -> Whereabouts:
    bindings, servers = tables.bindings, tables.servers
    bound = connection.execute(
        select(bindings.c.server_id, bindings.c.login).where(bindings.c.keypair_id == rotation.old_id)
    ).all()
    here = frozenset(Place(server_id, login) for server_id, login in bound if server_id in inside)
    doubts = [
        told_doubt(task)
        for task in in_doubt(connection, tables.tasks.c.tenant_id == rotation.tenant_id)
        if put_in_doubt(task) == rotation.old_id
    ]
    rollouts = tables.rollouts
    open_ = select(rollouts.c.id, rollouts.c.request).where(
        rollouts.c.tenant_id == rotation.tenant_id, rollouts.c.state.in_(("running", "paused", "stopped"))
    )
    doubts += [
        f"rollout {id_} is about to bind it to servers; let it come to its end, or cancel it"
        for id_, request in connection.execute(open_.order_by(rollouts.c.created_at))
        if request.get("keypair_id") == rotation.old_id
    ]
    old = one(connection, tables.keypairs, tables.keypairs.c.id == rotation.old_id)
    if old is not None:
        line = _bare(old["public_key"])
        waiting = select(servers.c.name, servers.c.after_reset).where(
            servers.c.tenant_id == rotation.tenant_id, servers.c.after_reset.is_not(None)
        )
        for name, after_reset in connection.execute(waiting.order_by(servers.c.name)):
            if any(_bare(each) == line for waits in (after_reset or {}).values() for each in waits.get("remove", [])):
                doubts.append(f"{name}: the old key is still to be taken away there; kps server check {name} does it")
    return Whereabouts(here, len(bound) - len(here), doubts, old is not None and bool(old["managed"]))


def _bare(line: str) -> str:
    return " ".join(line.split()[:2])
