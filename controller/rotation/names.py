"""What the key pair after this one is called."""

import re
from collections.abc import Collection

MOST_CHARACTERS = 255  # of a key pair's name
_VERSIONED = re.compile(r"(.+)-v([1-9][0-9]{0,5})", re.DOTALL)


def next_name(name: str, taken: Collection[str]) -> str:
    """Return the name of the next version: ops, ops-v2, ops-v3 and so on; the first that is not taken.

    A name that would be too long loses its end, not its number.
    """
    found = _VERSIONED.fullmatch(name)
    base, number = (found[1], int(found[2])) if found else (name, 1)
    while True:
        number += 1
        ending = f"-v{number}"
        wanted = base[: MOST_CHARACTERS - len(ending)] + ending
        if wanted not in taken:
            return wanted
