"""What happens, told to open pages as it does: which part of the fleet has changed, so that a page fetches its own part anew."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from controller.errors import Problem
from controller.web.asking import Asked, Page
from controller.web.door import ADDRESS

STREAM_SECONDS = 300
BEAT_SECONDS = 15
GATHER_SECONDS = 0.4  # what happens in so short a time is told once
LARGEST = 2**63 - 1
RETRY_MILLISECONDS = 2000
MOST_EVENTS = 10_000  # that are gone through for whoever comes back
# By how the kind of an event begins; "trail" is told of all of them.
TOPICS: dict[str, tuple[str, ...]] = {
    "server_": ("servers",),
    "host_key_": ("servers",),
    "binding_": ("servers", "keypairs"),
    "task_": ("tasks",),
    "task_finished": ("tasks", "servers", "rollouts"),
    "task_running": ("tasks", "rollouts"),
    "task_deleted": ("tasks", "servers"),
    "rollout_": ("rollouts",),
    "keypair_": ("keypairs",),
    "key_due": ("keypairs",),
    "rotation_": ("keypairs", "rollouts"),
    "policy_": ("keypairs",),
    "door_": ("doors",),
    "master_key_": ("keys",),
}

router = APIRouter()


class Held(StreamingResponse):
    """A stream that gives its place back, however it ends."""

    def __init__(self, told: AsyncIterator[str], give_back: Callable[[], None]) -> None:
        super().__init__(told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._give_back = give_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._give_back()


@router.get("/live")
async def live(
    page: Page,
    after: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    last_event_id: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=LARGEST)] = None,
) -> StreamingResponse:
    """Tell the topics of what happens after an event."""
    begin = after if last_event_id is None else last_event_id
    # What was long ago is counted by nobody: such a page is fetched anew as a whole.
    begin = max(begin, await page.fleet.news.newest() - MOST_EVENTS)
    return Held(_told(page, begin), page.fleet.streams.take(page.who.user_id))


async def _told(page: Asked, after: int) -> AsyncIterator[str]:
    loop, fleet, signed_in = asyncio.get_running_loop(), page.fleet, page.signed_in
    end = loop.time() + STREAM_SECONDS
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    try:
        while not fleet.stopping.over and loop.time() < end:
            kinds, after = await fleet.news.after(signed_in.who, after, min(BEAT_SECONDS, end - loop.time()))
            still = await fleet.console.still(signed_in, page.request.scope[ADDRESS])
            if still is None:
                yield "event: gone\ndata: signed out\n\n"
                return
            signed_in = still
            # A page hears by the beat that it is not cut off; an event without data would not be told.
            yield f"id: {after}\ndata: {' '.join(topics(kinds))}\n\n" if kinds else "event: beat\ndata: -\n\n"
            if kinds:
                await fleet.stopping.rest(GATHER_SECONDS)
    except Problem:  # of the home or its disk: whoever comes again is told
        return


def topics(kinds: Collection[str]) -> list[str]:
    """Return what pages listen to, for kinds of events."""
    found = {"trail"} if kinds else set[str]()
    for kind in kinds:
        begins = [begin for begin in TOPICS if kind.startswith(begin)]
        found.update(TOPICS[max(begins, key=len)] if begins else ())
    return sorted(found)
