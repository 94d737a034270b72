"""How many streams of events are open: each holds a connection, and somebody who opens them without end has enough one day."""

from collections import Counter
from collections.abc import Callable

from controller.errors import TooMany

OF_EACH = 8  # user
IN_ALL = 64  # leaves most connections to everybody else (admission.CONNECTIONS)


class Streams:
    """The places for streams."""

    def __init__(self, of_each: int = OF_EACH, in_all: int = IN_ALL) -> None:
        self._of_each = of_each
        self._in_all = in_all
        self._open: Counter[str] = Counter()

    def take(self, user_id: str) -> Callable[[], None]:
        """Take a place for a stream of a user; returns what gives it back. TooMany(too_many_streams)."""
        if self._open[user_id] >= self._of_each:
            raise TooMany("too_many_streams", f"{self._of_each} streams of events of this user are open; end one of them")
        if self._open.total() >= self._in_all:
            raise TooMany("too_many_streams", f"{self._in_all} streams of events are open in all; ask /events, or come again")
        self._open[user_id] += 1

        def give_back() -> None:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]

        return give_back
