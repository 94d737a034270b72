"""Rotation policies: which key pairs are too old, and what comes of it."""

from typing import Annotated

from fastapi import Query

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.shapes import Json, instant
from controller.policy import Policy, Rotation
from controller.service.policies import GRACE_DAYS, Due

router = router_of()
OfPolicy = Annotated[str | None, Query(max_length=255)]


@router.get("/policies")
async def list_policies(fleet: Serving, who: Asking) -> list[Json]:
    """List the rotation policies, by name."""
    return [_policy(each) for each in await fleet.policies.list(who)]


@router.get("/policies/{name}")
async def show_policy(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one policy with its rotations."""
    policy, blocked, rotations = await fleet.policies.get(who, name)
    return _policy(policy) | {"blocked": blocked, "rotations": [_rotation(*each) for each in rotations]}


@router.put("/policies/{name}")
async def set_policy(fleet: Serving, who: Asking, name: str, asked: shapes.SetPolicy) -> Json:
    """Set a policy, in the place of the one of its name."""
    policy = await fleet.policies.set(
        who,
        name,
        asked.servers,
        asked.max_age_days,
        remind_days=asked.remind_days,
        grace_days=GRACE_DAYS if asked.grace_days is None else asked.grace_days,
        strategy=asked.strategy.words(),
        key_type=asked.key_type,
    )
    return _policy(policy)


@router.delete("/policies/{name}", status_code=204)
async def delete_policy(fleet: Serving, who: Asking, name: str, give_up: bool = False) -> None:
    """Delete a policy; give_up: also while a rotation of it is under way, which is given up."""
    await fleet.policies.delete(who, name, give_up=give_up)


@router.post("/policies/{name}/pause")
async def pause_policy(fleet: Serving, who: Asking, name: str) -> Json:
    """Have a policy do nothing more for now; its rollouts are paused too."""
    return _policy(await fleet.policies.pause(who, name))


@router.post("/policies/{name}/resume")
async def resume_policy(fleet: Serving, who: Asking, name: str) -> Json:
    """Have a paused policy go on."""
    return _policy(await fleet.policies.resume(who, name))


@router.post("/policies/{name}/run")
async def run_policy(fleet: Serving, who: Asking, name: str, asked: shapes.RunPolicy) -> list[Json]:
    """Look at a policy now, and answer with its rotations under way; what failed is tried again without waiting for a day."""
    found = await fleet.policies.run(who, name, keypairs=asked.keypairs, early=asked.early, again=asked.again)
    return [_rotation(*each) for each in found]


@router.get("/rotations")
async def list_rotations(fleet: Serving, who: Asking, policy: OfPolicy = None, under_way: bool = False) -> list[Json]:
    """List rotations, the oldest first: of one policy, or of all; under_way: those that have not ended."""
    return [_rotation(*each) for each in await fleet.policies.rotations(who, policy, under_way=under_way)]


@router.get("/rotations/due")
async def list_due(fleet: Serving, who: Asking, policy: OfPolicy = None, all: bool = False) -> list[Json]:
    """List the key pairs that are due, soon due, or being rotated, the most due first; all: the others too."""
    return [_due(each) for each in await fleet.policies.due(who, policy, all=all)]


@router.post("/rotations/run")
async def run_due(fleet: Serving, who: Asking) -> list[Json]:
    """Look at all policies now: begin what is due, go on with what is under way, and answer with that."""
    return [_rotation(*each) for each in await fleet.policies.run(who)]


def _policy(found: Policy) -> Json:
    return {
        "name": found.name,
        "servers": None if found.label is None else found.where,
        "max_age_days": found.max_age_days,
        "remind_days": found.remind_days,
        "grace_days": found.grace_days,
        "key_type": found.key_type,
        "strategy": found.strategy,
        "paused": found.paused,
        "user_id": found.user_id,
        "created_at": instant(found.created_at),
    }


def _rotation(found: Rotation, old: str | None, new: str | None) -> Json:
    return {
        "id": found.id,
        "policy": found.policy_name,
        "old": old,
        "new": new,
        "state": found.state,
        "reason": found.reason,
        "rollout_id": found.rollout_id,
        "created_at": instant(found.created_at),
        "removed_at": instant(found.removed_at),
        "ended_at": instant(found.ended_at),
    }


def _due(found: Due) -> Json:
    rotation = found.rotation
    return {
        "policy": found.policy,
        "keypair": found.name,
        "fingerprint": found.fingerprint,
        "standing": found.standing,
        "age_days": found.age_days,
        "due_at": instant(found.due_at),
        "created_at": instant(found.created_at),
        "logins": found.logins,
        "elsewhere": found.elsewhere,
        "obstacle": found.obstacle,
        "rotation": None if rotation is None else _rotation(rotation, found.name, found.next_name),
    }
