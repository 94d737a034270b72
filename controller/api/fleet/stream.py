"""Events as server-sent events: what /events tells, sent as it happens. Format: WHATWG HTML, section 9.2."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from controller.api import shapes
from controller.api.fleet.asking import Asking, Fleet, Serving, StillAsking, Words, router_of
from controller.api.gate import Again
from controller.errors import Problem
from controller.model import Caller, Event

STREAM_SECONDS = 300  # a request is signed for once, and a signature is not to be good for ever
BEAT_SECONDS = 15  # less than what is between takes for silence
LOOKED_SECONDS = 1.0  # for so long it is believed that whoever was let in still would be
AT_ONCE = 100  # events that are held for a stream; no more are read before these have been taken
RETRY_MILLISECONDS = 2000
BEAT = ": \n\n"
LARGEST = 2**63 - 1  # what the store can count to

router = router_of()
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
    fleet: Serving, who: Asking, again: StillAsking, task: Words, after: Number = None, last_event_id: LastSeen = None
) -> StreamingResponse:
    """Send what happens after an event, as it happens; Last-Event-ID, as a client sends when it comes back, goes before after."""
    begin = last_event_id if last_event_id is not None else after or 0
    return Held(_told(fleet, who, again, begin, task or None), fleet.streams.take(who.user_id))


async def _told(fleet: Fleet, who: Caller, again: Again, after: int, task_ids: list[str] | None) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    looked = loop.time()
    end, beat = looked + STREAM_SECONDS, looked + BEAT_SECONDS
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    try:
        while not fleet.stopping.over and loop.time() < end:
            found = await fleet.tasks.events(who, after, task_ids, max(0.0, min(beat, end) - loop.time()), AT_ONCE)
            if loop.time() >= looked + LOOKED_SECONDS:
                # After the events were read: what was revoked by then tells none of them.
                today, looked = await again(), loop.time()
                if today is None:
                    return
                who = today
            for event in found:
                yield _block(event)
                after = event.id
            if loop.time() >= beat:
                beat = loop.time() + BEAT_SECONDS
                yield BEAT
    except Problem:  # of the home or its disk: whoever comes again is told
        return


def _block(event: Event) -> str:
    # One line: JSON has no bare line ends. No name, so that whoever listens hears each of them; the kind is in the data.
    return f"id: {event.id}\ndata: {json.dumps(shapes.event(event), separators=(',', ':'))}\n\n"
