"""From where a user may ask: source networks."""

import ipaddress
from collections.abc import Sequence

from controller.errors import Invalid

MOST = 64


def read(given: Sequence[str]) -> list[str]:
    """Return networks in their one spelling, each once. Invalid(network_unusable) names what is none, and what may be meant."""
    if len(given) > MOST:
        raise Invalid("network_unusable", f"{len(given)} source networks; at most {MOST}")
    found = [str(_network(each)) for each in given]
    return list(dict.fromkeys(found))


def refused(networks: Sequence[str], address: str) -> bool:
    """Whether a request from this address is to be refused: there are networks, and it is in none of them.

    An IPv4 address that is written as an IPv6 one (::ffff:192.0.2.1) is the IPv4 address. What is no address is in no network.
    """
    if not networks:
        return False
    try:
        from_here = ipaddress.ip_address(address)
    except ValueError:
        return True
    if isinstance(from_here, ipaddress.IPv6Address) and from_here.ipv4_mapped is not None:
        from_here = from_here.ipv4_mapped
    return not any(from_here in ipaddress.ip_network(each) for each in networks)


def _network(given: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise Invalid("network_unusable", f"{given!r}: no network; write it as 192.0.2.0/24 or 2001:db8::/32") from None
    if "/" in given and str(network.network_address) != str(ipaddress.ip_interface(given).ip):
        raise Invalid("network_unusable", f"{given!r}: that is an address in a network; for the whole network write {network}")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise Invalid("network_unusable", f"{given!r}: write an IPv4 network as one, as in 192.0.2.0/24")
    return network
