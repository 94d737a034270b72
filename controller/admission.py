"""Who may connect: so many at once in all, and so many of one address. Asked before TLS, and before anything is read.

And how long the head of a request may be, whoever counts it.
"""

import ipaddress
import socket
from collections import Counter

CONNECTIONS = 512  # at the same time
OF_ONE_ADDRESS = 128
HEAD_BYTES = 64 * 1024  # of a request
_IPV6_PREFIX = 64  # what one customer is given at least
_REFUSED_AT_ONCE = 100


def party(address: str) -> str:
    """Return who is counted as one: an IPv4 address, also where it is written as an IPv6 one, or an IPv6 network of /64.

    What is no address is a party by itself.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.scope_id is not None or found.is_loopback:
        return address
    return str(ipaddress.ip_network((int(found), _IPV6_PREFIX), strict=False))


class Counted:
    """How many connections there are, in all and of each party."""

    def __init__(self, most: int = CONNECTIONS, of_one: int = OF_ONE_ADDRESS) -> None:
        self._most = most
        self._of_one = of_one
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._of.total()

    def admits(self, whom: str) -> bool:
        """Say whether one more connection of this party may be; if so, it counts until left()."""
        if self._of.total() >= self._most or self._of[whom] >= self._of_one:
            return False
        self._of[whom] += 1
        return True

    def left(self, whom: str) -> None:
        """Count one less."""
        self._of[whom] -= 1
        if self._of[whom] <= 0:
            del self._of[whom]


class Listener(socket.socket):
    """A listening socket that gives out only connections which may be; every other one is closed at once.

    An event loop is given this one as it would be given an ordinary one: it is asked where the loop would ask the kernel, so that
    a connection counts from its first moment, in its TLS handshake too.
    """

    counted: Counted

    def accept(self) -> tuple[socket.socket, object]:
        """Return the next connection that may be, and its address. BlockingIOError: none waits; else those of accept()."""
        for _ in range(_REFUSED_AT_ONCE):
            plain, address = super().accept()
            connection = Connection(self.family, self.type, self.proto, fileno=plain.detach())
            whom = party(str(address[0]))
            if self.counted.admits(whom):
                connection.counted, connection.whom = self.counted, whom
                return connection, address
            connection.close()
        raise BlockingIOError  # so that whoever floods us does not keep the loop: it asks again


class Connection(socket.socket):
    """A connection that counts until it is closed."""

    counted: Counted | None = None
    whom: str = ""

    def close(self) -> None:
        """Close it, and let another one be."""
        super().close()
        counted, self.counted = self.counted, None
        if counted is not None:
            counted.left(self.whom)
