"""To which addresses a controller connects for whom: those of its own machine and link are the home's owner's to name. Pure."""

import ipaddress
from collections.abc import Sequence

from controller.errors import Invalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    return not (here.is_loopback or here.is_link_local or here.is_unspecified or here.is_multicast or here.is_reserved)


def literal(host: str) -> bool:
    """Say whether a host is an address in the one usual spelling; every other is looked up, and looked at then."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
