"""Where a root key lives, as a URI. It holds no secret, so it may be stored, shown and typed.

file:PATH                                            a path that is not absolute is in the home
pkcs11:token=T;object=O?module-path=P&pin-source=S   RFC 7512; S is file:PATH or fd:NUMBER
awskms:KEY?region=R&endpoint=E                       KEY is a key's id, its ARN, or alias/NAME
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from controller.errors import Invalid

MOST_CHARACTERS = 2048
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.DOTALL)
_KNOWN: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "file": (frozenset(), frozenset()),
    "pkcs11": (
        frozenset({"token", "serial", "manufacturer", "model", "object", "id", "type"}),
        frozenset({"module-path", "pin-source"}),
    ),
    "awskms": (frozenset(), frozenset({"region", "endpoint"})),
}


@dataclass(frozen=True, slots=True)
class Uri:
    """A URI, taken apart."""

    text: str
    scheme: str
    path: str  # decoded; of pkcs11: as it was
    attributes: Mapping[str, str]  # of the path, decoded: pkcs11 only
    query: Mapping[str, str]  # decoded

    def refused(self, why: str) -> Invalid:
        """Return the error that says why this URI is none."""
        return Invalid("root_key_uri_unusable", f"{self.text}: {why}")


def parse(text: str) -> Uri:
    """Take a URI apart. Invalid(root_key_uri_unusable); a PIN that was given in it is not repeated."""
    if len(text) > MOST_CHARACTERS or not text.isprintable():
        raise _unusable(f"a root key's URI has up to {MOST_CHARACTERS} characters that can be printed")
    found = _SCHEME.fullmatch(text)
    if found is None or found[1] not in _KNOWN:
        what = "no scheme" if found is None else f"scheme {found[1]}"
        raise _unusable(f"{what}; a root key is one of " + ", ".join(f"{scheme}:..." for scheme in _KNOWN))
    scheme, rest = found[1], found[2]
    # A path may hold a question mark where there are no options.
    path, _, query = rest.partition("?") if _KNOWN[scheme][1] else (rest, "", "")
    allowed = _KNOWN[scheme]
    options = _pairs(query, "&", allowed[1], scheme)
    attributes = _pairs(path, ";", allowed[0], scheme) if allowed[0] else {}
    made = Uri(text, scheme, path if allowed[0] else unquote(path), attributes, options)
    if not rest or "\0" in made.path or any("\0" in value for value in (*attributes.values(), *options.values())):
        raise made.refused("it names no root key")
    return made


def _pairs(text: str, between: str, allowed: frozenset[str], scheme: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for each in text.split(between) if text else []:
        name, equals, value = each.partition("=")
        if name.startswith("pin") and name != "pin-source":
            # RFC 7512 knows pin-value. A URI is shown, stored and typed where others see it.
            raise _unusable(
                f"{name}: a PIN does not belong in a URI; put it in a file and give pin-source=file:PATH, or "
                "pin-source=fd:NUMBER; and change this one, for others may have seen it"
            )
        if name not in allowed:
            raise _unusable(f"{name!r}: not known in a {scheme} URI; known are " + ", ".join(sorted(allowed)))
        if not equals or not value or name in pairs:
            raise _unusable(f"{name}: give it one value, once")
        # An id is bytes; every other attribute is text.
        pairs[name] = unquote(value, "latin-1" if name == "id" else "utf-8")
    return pairs


def _unusable(why: str) -> Invalid:
    return Invalid("root_key_uri_unusable", f"the root key's URI: {why}")
