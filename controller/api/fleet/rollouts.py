"""Rollouts: one order for many servers."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from fastapi import Query

from controller.api import planshapes, shapes
from controller.api.fleet.asking import PAGE, Asking, Fleet, Limit, Serving, router_of
from controller.api.shapes import Json
from controller.errors import Invalid
from controller.model import Caller, Credential

router = router_of("/rollouts")


@router.post("", status_code=202)
async def start(fleet: Serving, who: Asking, asked: shapes.NewRollout) -> Json:
    """Start a rollout, or with plan look at its servers for one: answered at once, and it goes on by itself."""
    chosen = await fleet.servers.select(who, asked.servers, asked.all)
    given = _opens(asked, {one.name: one.id for one in chosen}, "selected")
    order = (asked.operation, chosen, asked.options(), asked.strategy.words(), given, asked.credential_hours)
    good_for = timedelta(seconds=asked.good_for_seconds)
    return shapes.rollout(await fleet.rollouts.start(who, *order, good_for=good_for))


@router.get("")
async def list_rollouts(fleet: Serving, who: Asking) -> list[Json]:
    """List rollouts, the oldest first."""
    return [shapes.rollout(each) for each in await fleet.rollouts.list(who)]


@router.get("/{id}")
async def show(fleet: Serving, who: Asking, id: str) -> Json:
    """Show one rollout, and how many of its servers are how far."""
    rollout, counts = await fleet.rollouts.get(who, id)
    return shapes.rollout(rollout) | counts


@router.get("/{id}/servers")
async def list_servers(
    fleet: Serving, who: Asking, id: str, after: Annotated[int, Query(ge=-1, le=2**31)] = -1, limit: Limit = PAGE
) -> list[Json]:
    """List the servers of a rollout in their order, each with what its last task has come to: after a position, so many."""
    return [shapes.rollout_server(each) for each in await fleet.rollouts.servers(who, id, after, limit)]


@router.post("/{id}/pause")
async def pause(fleet: Serving, who: Asking, id: str) -> Json:
    """Begin no further server for now."""
    return shapes.rollout(await fleet.rollouts.pause(who, id))


@router.post("/{id}/resume")
async def resume(fleet: Serving, who: Asking, id: str, asked: shapes.ResumeRollout) -> Json:
    """Go on with a rollout that was paused or stopped; what failed before counts no more."""
    given = await _given(fleet, who, id, asked)
    return shapes.rollout(await fleet.rollouts.resume(who, id, given, asked.credential_hours))


@router.post("/{id}/cancel")
async def cancel(fleet: Serving, who: Asking, id: str) -> Json:
    """Begin no further server, now or ever."""
    return shapes.rollout(await fleet.rollouts.cancel(who, id))


@router.post("/{id}/retry")
async def retry(fleet: Serving, who: Asking, id: str, asked: shapes.RetryRollout) -> Json:
    """Have servers that failed, by one cause or any, tried once more; set: reached otherwise than before."""
    given = await _given(fleet, who, id, asked)
    if asked.set is not None:
        await fleet.servers.change_all(who, await fleet.rollouts.failed(who, id, asked.cause), **asked.set.model_dump())
    return shapes.rollout(await fleet.rollouts.retry(who, id, asked.cause, given, asked.credential_hours))


@router.get("/{id}/report")
async def report(fleet: Serving, who: Asking, id: str) -> Json:
    """Report a rollout: what was asked, by whom, causes with an example each, what is left to do, and how it went over time."""
    found, counts, told = await fleet.rollout_reports.report(who, id)
    return shapes.rollout(found) | counts | told


@router.get("/{id}/plan")
async def show_plan(fleet: Serving, who: Asking, id: str) -> Json:
    """Show the head of a plan, signed: what was asked, by whom, and digests of what was found of its servers."""
    return planshapes.sealed(await fleet.rollout_plans.sealed(who, id))


@router.get("/{id}/plan/servers")
async def list_plan(
    fleet: Serving, who: Asking, id: str, after: Annotated[int, Query(ge=-1, le=2**31)] = -1, limit: Limit = PAGE
) -> list[Json]:
    """List what a plan has found of its servers, in their order: after a position, so many."""
    return [planshapes.look(each) for each in await fleet.rollout_plans.looks(who, id, after, limit)]


@router.post("/{id}/start", status_code=202)
async def start_plan(fleet: Serving, who: Asking, id: str, asked: planshapes.StartPlan) -> Json:
    """Start what was planned, as a rollout of its own, on the servers that were seen; left_out counts the others by cause."""
    known = {each.server: each.server_id for each in await fleet.rollout_plans.looks(who, id)}
    kept = None if asked.sealed is None else asked.sealed.sealed()
    started, left_out = await fleet.rollout_plans.start(who, id, _opens(asked, known, "planned"), kept, asked.credential_hours)
    return shapes.rollout(started) | {"left_out": left_out}


async def _given(fleet: Fleet, who: Caller, id: str, asked: shapes.ResumeRollout) -> dict[str, Credential]:
    """Return what opens servers of a rollout, by their ids."""
    if not asked.credentials:
        return {}
    known = {each.server_name: each.server_id for each in await fleet.rollouts.servers(who, id)}
    strangers = sorted(asked.credentials.keys() - known.keys())
    if strangers:
        raise Invalid("credential_for_others", f"credentials for servers that are not in it: {', '.join(strangers)}")
    return {known[name]: opens.credential() for name, opens in asked.credentials.items()}


def _opens(asked: shapes.Opening, known: Mapping[str, str], chosen: str) -> dict[str, Credential]:
    """Return what opens servers, by their ids. known: the ids of those that are meant, by their names."""
    strangers = sorted(asked.credentials.keys() - known.keys())
    if strangers:
        raise Invalid("credential_for_others", f"credentials for servers that were not {chosen}: {', '.join(strangers)}")
    opens = {server_id: asked.opens(name) for name, server_id in known.items()}
    return {server_id: credential for server_id, credential in opens.items() if credential is not None}
