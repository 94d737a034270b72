"""One call of the API: what is asked, when it is asked again, and what its answer means. Knows nothing of how it is sent.

A verb says which calls it takes; the async and the sync client make the same method of it. So each verb is written once.
"""

import functools
from collections.abc import Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload
from urllib.parse import quote

import httpx

from controller.client.refusals import ClockDiffers, NotTrusted, Refused, Unreachable
from controller.signing import CLOCK_DIFFERENCE

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

PAGE = 1000  # of a list, in one answer
IDS_PER_REQUEST = 200  # keeps the request line below the 16 KiB that servers commonly take
AGAIN_AFTER_SECONDS = (0.2, 1.0)  # a question to which no answer came: so often, and no more
TOO_MANY_SECONDS = 1.0  # before a request that came too soon is made again
TOO_MANY_TIMES = 10
ANSWER_SECONDS_OF_A_POLL = 15.0  # beyond what it was asked to wait
_SMALL = timedelta(seconds=30)  # two clocks that differ by less are not why a signature was refused

# What a flow gives: a call to be sent, or seconds to wait. It is sent the answer, or thrown Unreachable; at its end it returns
# what came of it.
Flow = Generator["Call[Any] | float", Any, T]


class Flowing(Protocol[T_co]):
    """What a verb returns: one call, or a generator that takes several."""

    def __iter__(self) -> Generator["Call[Any] | float", Any, T_co]: ...


class Awaited(Protocol):
    """A client whose verbs are awaited."""

    async def play(self, described: Callable[[], Flowing[T]]) -> T:
        """Send what a verb describes, and return what comes of it."""


class Waiting(Protocol):
    """A client whose verbs return when they are through."""

    def play(self, described: Callable[[], Flowing[T]]) -> T:
        """Send what a verb describes, and return what comes of it."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and of which type what it answers is. path: below /fleet/v1.

    wait_seconds: so long the controller is asked to wait for something to tell, or may take.
    """

    method: str
    path: str
    params: Any = None
    body: Any = None
    wait_seconds: float | None = None

    @property
    def wanted(self) -> dict[str, Any]:
        """What httpx is to send."""
        asked = {"method": self.method, "url": self.path, "params": self.params, "json": self.body}
        # Of who is silent for longer than they may be, nothing more is to be heard.
        return asked if self.wait_seconds is None else asked | {"timeout": self.wait_seconds + ANSWER_SECONDS_OF_A_POLL}

    def __iter__(self) -> Flow[T]:
        """Have it sent until it is answered, within bounds: what came too soon, and a question to which no answer came.

        Anything else that is not answered may have been done, so it is not sent again.
        """
        waits = iter(AGAIN_AFTER_SECONDS if self.method == "GET" else ())
        too_many = 0
        while True:
            try:
                answer: httpx.Response = yield self
            except NotTrusted:
                raise
            except Unreachable:
                wait = next(waits, None)
                if wait is None:
                    raise
                yield wait
                continue
            if answer.status_code == 429 and too_many < TOO_MANY_TIMES:
                too_many += 1
                yield TOO_MANY_SECONDS
                continue
            found: T = understood(answer)
            return found


class Verb(Generic[P, T]):
    """A method that is written once: it says what is to be called, and each client sends it in its own way."""

    def __init__(self, described: Callable[Concatenate[Any, P], Flowing[T]]) -> None:
        self._described = described
        functools.update_wrapper(self, described)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type) -> "Verb[P, T]": ...
    @overload
    def __get__(self, client: Awaited, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: Waiting, owner: type) -> Callable[P, T]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        @functools.wraps(self._described)
        def sent(*given: P.args, **named: P.kwargs) -> Any:
            return client.play(functools.partial(self._described, client, *given, **named))

        return sent


def understood(answer: httpx.Response) -> Any:
    """Return what an answer says. Refused, ClockDiffers: it says no."""
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        problem = answer.json()
        code, message, evidence = str(problem["code"]), str(problem["detail"]), problem.get("evidence")
    except (ValueError, KeyError, TypeError):
        message = f"{answer.request.url.copy_with(query=None)} answered {answer.status_code} without saying why"
        raise Refused(answer.status_code, "unexpected", message) from None
    if answer.status_code == 401:
        _compare_clocks(answer)
    raise Refused(answer.status_code, code, message, evidence)


def _compare_clocks(answer: httpx.Response) -> None:
    """ClockDiffers where an answer's Date is too far from this machine's clock for a signature to be taken."""
    try:
        theirs = parsedate_to_datetime(answer.headers["date"])
        differs = datetime.now(UTC) - theirs.astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return
    if abs(differs) > CLOCK_DIFFERENCE - _SMALL:
        seconds = round(abs(differs).total_seconds())
        way = "ahead of" if differs > timedelta() else "behind"
        raise ClockDiffers(
            401,
            "clock_differs",
            f"the clock of this machine is {timedelta(seconds=seconds)} {way} the controller's ({theirs:%Y-%m-%d %H:%M:%S} UTC), "
            f"and a signature holds for {CLOCK_DIFFERENCE.seconds // 60} minutes: set the one that is wrong",
        )


def segment(name: str) -> str:
    """Return name as one segment of a path. What a path would not take as a name is the name of nothing."""
    if name in ("", ".", "..") or "/" in name:
        raise Refused(404, "not_found", f"{name!r}: there is nothing of this name")
    return quote(name, safe="")


def pages(path: str, params: Iterable[tuple[str, str]] = (), after: str = "name") -> Flow[list[Any]]:
    """Return all that a list has, asked for page after page: each begins after what the last one ended with."""
    found: list[Any] = []
    while True:
        begins = [("after", str(found[-1][after]))] if found else []
        page: list[Any] = yield from Call("GET", path, params=[*params, *begins, ("limit", str(PAGE))])
        found += page
        if len(page) < PAGE:  # a few more come where what belongs together is not parted
            return found


def by_ids(path: str, ids: Iterable[str], params: Iterable[tuple[str, str]] = ()) -> Flow[list[Any]]:
    """Return what there is of these ids, asked for in as many requests as that takes."""
    wanted = list(ids)
    found: list[Any] = []
    for first in range(0, len(wanted), IDS_PER_REQUEST):
        some = [("id", each) for each in wanted[first : first + IDS_PER_REQUEST]]
        found += yield from Call("GET", path, params=[*params, *some])
    return found
