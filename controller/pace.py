"""How often somebody may ask, and how often an address may fail to say who asks."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from controller.admission import party

_BUCKETS = 10_000


class Pace:
    """How often each may do something: so many per second in the long run, and at most burst at once."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._now = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # by whom: how many are left, and since when

    def admits(self, whom: Hashable) -> bool:
        """Say whether whom may do it now; if so, that counts."""
        left, at = self._of(whom)
        admitted = left >= 1
        self._left.pop(whom, None)
        self._left[whom] = (left - 1 if admitted else left, at)
        # Whoever is forgotten has asked least lately, and has most of theirs back.
        while len(self._left) > _BUCKETS:
            self._left.popitem(last=False)
        return admitted

    def would_admit(self, whom: Hashable) -> bool:
        """Say the same, and count nothing."""
        return self._of(whom)[0] >= 1

    def _of(self, whom: Hashable) -> tuple[float, float]:
        at = self._now()
        left, since = self._left.get(whom, (float(self._burst), at))
        return min(float(self._burst), left + (at - since) * self._per_second), at


class Failures:
    """Which addresses are asked no more for a while, because whoever asks from there is nobody too often.

    Who was let in from an address before goes on by an allowance of their own: the failures of others who share the address
    (behind a gateway, or a proxy) shut nobody out.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(per_second, burst, clock)
        self._let_in: OrderedDict[tuple[str, str], None] = OrderedDict()

    def too_many(self, address: str, name: str) -> bool:
        """Whether whoever asks from here under this name (what came with the request, or "") is to be turned away unheard."""
        return not self._pace.would_admit(self._whose(address, name))

    def failed(self, address: str, name: str) -> None:
        """Count one more."""
        self._pace.admits(self._whose(address, name))

    def passed(self, address: str, name: str) -> None:
        """Remember that somebody was let in under this name."""
        self._let_in[party(address), name] = None
        self._let_in.move_to_end((party(address), name))
        while len(self._let_in) > _BUCKETS:
            self._let_in.popitem(last=False)

    def _whose(self, address: str, name: str) -> tuple[str, ...]:
        here = party(address)
        return (here, name) if (here, name) in self._let_in else (here,)
