"""To which addresses a controller connects for whom: those of its own machine and link are the home's owner's to name. Pure."""

import ipaddress
import socket
from collections.abc import Sequence

from controller.errors import Invalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# "This network" (RFC 1122), and where clouds tell a machine about itself other than on its link, its credentials among it.
_NEVER = [
    ipaddress.ip_network(each)
    for each in ("0.0.0.0/8", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128")
]


def networks(text: str, name: str) -> list[Network]:
    """Return the networks of a list with commas. Invalid(setting_unusable) names the setting."""
    try:
        return [ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise Invalid("setting_unusable", f"{name} must be networks with commas between them, as 10.0.0.0/8: {error}") from error


def admitted(address: str, allowed: Sequence[Network]) -> bool:
    """Say whether a user may have the controller connect there: not to itself, its link, or what is no host's address.

    allowed: networks that are all the same. An IPv4 address in IPv6 clothes is looked at as what it is.
    """
    try:
        here = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(here, ipaddress.IPv6Address):
        here = here.ipv4_mapped or here.sixtofour or here
    if any(here in each for each in allowed):
        return True
    if any(here in each for each in _NEVER):
        return False
    return not (here.is_loopback or here.is_link_local or here.is_unspecified or here.is_multicast or here.is_reserved)


def meant(host: str) -> str | None:
    """Return the address that a host is without being looked up, in its one usual spelling; None: it is a name.

    As inet_aton(3) reads it, which getaddrinfo(3) does too: 127.1, 0x7f.1, 017700000001 and 2130706433 are all 127.0.0.1. And
    localhost, with whatever stands before it, is that machine itself (RFC 6761).
    """
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    name = host.lower().removesuffix(".")
    if name in ("localhost", "localhost.localdomain") or name.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.IPv4Address(socket.inet_aton(host)))
    except OSError:
        return None
