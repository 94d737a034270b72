"""How often somebody may try to sign in: of each address, and as each user."""

from collections import OrderedDict

from controller.admission import party
from controller.pace import Pace

_OF_ADDRESS = (0.2, 20)  # per second in the long run, and at once
_OF_USER = (0.05, 10)
_KNOWN = 10_000


class Attempts:
    """Tries to sign in, whatever came of them.

    Whoever signed in as a user from an address before has an allowance of their own there: strangers who try that user's name
    shut nobody out who is known.
    """

    def __init__(self) -> None:
        self._addresses = Pace(*_OF_ADDRESS)
        self._users = Pace(*_OF_USER)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def too_many(self, address: str, name: str) -> bool:
        """Whether a try from here, as this user ("": as nobody yet), is turned away unheard."""
        return not all(pace.would_admit(whom) for pace, whom in self._counted(address, name))

    def tried(self, address: str, name: str) -> None:
        """Count one try: before it is heard, so that many at once are not heard beyond the allowance."""
        for pace, whom in self._counted(address, name):
            pace.admits(whom)

    def passed(self, address: str, name: str) -> None:
        """Remember that somebody was let in."""
        if not name:
            return
        self._known[party(address), name] = None
        self._known.move_to_end((party(address), name))
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def _counted(self, address: str, name: str) -> list[tuple[Pace, tuple[str, ...]]]:
        here = party(address)
        if (here, name) in self._known:
            return [(self._users, (here, name))]
        return [(self._addresses, (here,)), *([(self._users, (name,))] if name else [])]
