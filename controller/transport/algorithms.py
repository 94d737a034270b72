"""Which algorithms a connection may use: what is considered safe, and what a server of the inventory is allowed besides."""

from collections.abc import Collection

from controller.model import OLD_ALGORITHMS

Offered = dict[str, list[str]]  # what a server can do, by kind: knock.algorithms

# The kinds of a key exchange, and of each what is good today, the best first: RFC 9142, and what OpenSSH's own client offers.
SAFE: dict[str, tuple[str, ...]] = {
    "key exchange": (
        "mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521", "diffie-hellman-group-exchange-sha256", "diffie-hellman-group16-sha512",
        "diffie-hellman-group18-sha512", "diffie-hellman-group14-sha256",
    ),
    "host key": (
        "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256",
    ),
    # Cheap where both ends have it; asyncssh builds a cipher context for every name it is asked to try.
    "cipher": (
        "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr",
    ),
    "MAC": (
        "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "umac-128-etm@openssh.com", "hmac-sha2-256",
        "hmac-sha2-512", "umac-128@openssh.com", "hmac-sha1-etm@openssh.com", "hmac-sha1",
    ),
}  # fmt: skip
_AGAINST_RECORDING = ("mlkem768x25519-sha256",)
_WITH_MAC_OF_ITS_OWN = ("gcm@openssh.com", "poly1305@openssh.com")
# What a login's key in hardware signs with; no host key is of this kind.
_IN_HARDWARE = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
_RSA = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")  # what a key of type ssh-rsa signs with: RFC 8332


def wanted(kind: str, old: Collection[str] = ()) -> tuple[str, ...]:
    """Return the algorithms of a kind that we take, the best first. old: the old ones that this server is allowed."""
    return SAFE[kind] + tuple(name for name in OLD_ALGORITHMS[kind] if name in old)


def key_exchanges(old: Collection[str] = (), *, keeps_nothing: bool) -> tuple[str, ...]:
    """Return the key exchanges that we take, the best first.

    keeps_nothing: what goes over the connection is worth nothing to who records it and can read it in many years. Then those are
    last that only help against that: they cost the most.
    """
    names = wanted("key exchange", old)
    return tuple(sorted(names, key=lambda name: name in _AGAINST_RECORDING)) if keeps_nothing else names


def signed_by(key_type: str, old: Collection[str] = ()) -> tuple[str, ...]:
    """Return the signatures that we take of a key of this type."""
    return tuple(name for name in wanted("host key", old) if name in (_RSA if key_type == "ssh-rsa" else (key_type,)))


def shown(only_asked: Collection[str], old: Collection[str] = ()) -> tuple[str, ...]:
    """Return by which signatures a login's keys are offered. only_asked: those of keys that are offered and never signed for.

    A key of another kind would be passed over in silence, and so look refused.
    """
    return tuple(dict.fromkeys((*wanted("host key", old), *_IN_HARDWARE, *only_asked)))


def serves(key_type: str) -> tuple[str, ...]:
    """Return every signature that a key of this type can make, good or not."""
    return _RSA if key_type == "ssh-rsa" else (key_type,)


def missing(offered: Offered, old: Collection[str] = ()) -> str:
    """Return the kind of algorithm of which the server offers none that we take; "" where there is one of each.

    The host key is another matter: of it one is known.
    """
    if not set(offered["key exchange"]) & set(wanted("key exchange", old)):
        return "key exchange"
    usable = set(offered["cipher"]) & set(wanted("cipher", old))
    if not usable:
        return "cipher"
    needs_mac = not any(name.endswith(_WITH_MAC_OF_ITS_OWN) for name in usable)
    return "MAC" if needs_mac and not set(offered["MAC"]) & set(wanted("MAC", old)) else ""


def would_help(offered: Offered, kind: str) -> list[str]:
    """Return the old algorithms of a kind that this server offers, and that it could be allowed."""
    return [name for name in OLD_ALGORITHMS[kind] if name in offered[kind]]
