"""Events as server-sent events: what /events tells, sent as it happens. Format: WHATWG HTML, section 9.2."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from controller.api import shapes
from controller.api.fleet.asking import Asking, Fleet, Serving, Words
from controller.errors import NotFound, Problem
from controller.model import Caller, Event

# A request is signed for once: what was revoked since is found out when the stream ends and is asked for again.
STREAM_SECONDS = 300
BEAT_SECONDS = 15  # less than what is between takes for silence; and how often it is looked whether the user still may
AT_ONCE = 100  # events that are held for a stream; no more are read before these have been taken
RETRY_MILLISECONDS = 2000
BEAT = ": \n\n"
LARGEST = 2**63 - 1  # what the store can count to

router = APIRouter()
Number = Annotated[int | None, Query(ge=0, le=LARGEST)]
LastSeen = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=LARGEST)]


class Held(StreamingResponse):
    """A stream that gives its place back, however it ends."""

    def __init__(self, told: AsyncIterator[str], give_back: Callable[[], None]) -> None:
        # Proxies are asked not to gather what is to be sent at once.
        super().__init__(told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._give_back = give_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._give_back()


@router.get("/events/stream", response_class=StreamingResponse)
async def stream(
    fleet: Serving, who: Asking, task: Words, after: Number = None, last_event_id: LastSeen = None
) -> StreamingResponse:
    """Send what happens after an event, as it happens; Last-Event-ID, as a client sends when it comes back, goes before after."""
    begin = last_event_id if last_event_id is not None else after or 0
    return Held(_told(fleet, who, begin, task or None), fleet.streams.take(who.user_id))


async def _told(fleet: Fleet, who: Caller, after: int, task_ids: list[str] | None) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    end, beat = loop.time() + STREAM_SECONDS, loop.time() + BEAT_SECONDS
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    try:
        while not fleet.stopping.over and loop.time() < end:
            found = await fleet.tasks.events(who, after, task_ids, max(0.0, min(beat, end) - loop.time()), AT_ONCE)
            for event in found:
                yield _block(event)
                after = event.id
            if loop.time() >= beat:
                if not (await fleet.users.get(who, who.user_id)).enabled:
                    return
                beat = loop.time() + BEAT_SECONDS
                yield BEAT
    except NotFound:  # the user
        return
    except Problem:  # of the home or its disk: whoever comes again is told
        return


def _block(event: Event) -> str:
    # One line: JSON has no bare line ends. No name, so that whoever listens hears each of them; the kind is in the data.
    return f"id: {event.id}\ndata: {json.dumps(shapes.event(event), separators=(',', ':'))}\n\n"
