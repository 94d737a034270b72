"""The road to a server, through its jump servers."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial

from controller import addresses
from controller.entrance import Entrance
from controller.model import Server, route
from controller.run.job import Job
from controller.run.keys import held, private_half
from controller.transport.connect import Target, first_host_key
from controller.transport.jumps import Jump
from controller.transport.offer import Held


async def hops_to(job: Job) -> list[Server]:
    """Return the jump servers on the way to the server, the nearest to us first."""
    known: dict[str, Server] = {}
    wanted = set(job.server.jumps)
    while wanted:  # these alone: a fleet behind one jump server is not read for each of its servers
        found = await job.means.off(job.means.store.servers, job.task.tenant_id, called=wanted)
        known |= {each.id: each for each in found}
        wanted = {jump for each in found for jump in each.jumps} - known.keys()
    return route(job.server, known)


@contextlib.asynccontextmanager
async def reached(job: Job, hops: list[Server]) -> AsyncIterator[Target]:
    """Give the server as it is to be reached, with a place at each jump server on the way; what is opened there is closed."""
    async with job.means.places.taken(hop.id for hop in hops):
        try:
            yield await _target(job, job.server, await _way_through(job, hops))
        finally:
            for jump in reversed(job.road):
                jump.close()


def entrance_to(job: Job, target: Target) -> Entrance:
    """Return the ways into the server itself."""
    return Entrance(target, job.order, job.given, job.identity, partial(private_half, job), job.means.measures)


async def _way_through(job: Job, hops: list[Server]) -> Jump | None:
    """Return the last of the jump servers, each of which is reached through the one before it."""
    through: Jump | None = None
    for hop in hops:
        through = Jump(await _target(job, hop, through), await ways_into(job, hop))
        job.road.append(through)
    return through


async def ways_into(job: Job, hop: Server) -> list[tuple[str, Callable[[], Awaitable[Held]]]]:
    """Return what may open a jump server: a key pair in custody that is bound there, and the key given. Never a password."""
    bound = await job.means.off(job.means.store.bindings, job.task.tenant_id, server_id=hop.id)
    bound.sort(key=lambda each: each.login != hop.login)
    ways: list[tuple[str, Callable[[], Awaitable[Held]]]] = []
    for each in bound:
        keypair = await job.means.off(job.means.store.keypair_by_id, each.keypair_id)
        if keypair.managed and keypair.seen_by(job.task.user_id):
            job.private = job.private or keypair.scope == "private"
            ways.append((each.login, partial(held, job, keypair)))
    if job.identity is not None:
        identity = job.identity

        async def as_given() -> Held:
            return identity

        ways.insert(1, (hop.login, as_given))
    return ways


async def _target(job: Job, server: Server, through: Jump | None) -> Target:
    target = Target(
        name=server.name,
        host=server.host,
        port=server.port,
        host_key=server.host_key,
        timeout_seconds=job.means.settings.connect_timeout_seconds,
        through=through,
        old=tuple(server.old_algorithms),
        pace=job.means.pace,
        admits=None if server.any_address else partial(addresses.admitted, allowed=job.means.settings.allowed_networks),
    )
    if server.host_key is None and server.trust_on_first_use:
        pinned = await job.means.off(job.means.store.pin_host_key, server.id, await first_host_key(target))
        return replace(target, host_key=pinned.host_key)
    return target
