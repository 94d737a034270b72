"""Text that is nothing but text: in one line, and with nothing in it that a terminal, or XML, would make something else of."""

import unicodedata
from collections.abc import Mapping

# Control and format characters, lone surrogates, line and paragraph separators, code points nobody assigned.
OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(value: object) -> str:
    """Return value as one line in which every character that a terminal could act on is spelled out."""
    text = value if isinstance(value, str) else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if unicodedata.category(char) not in OBEYED else char.encode("unicode_escape").decode() for char in text)


def pairs(labels: Mapping[str, object]) -> str:
    """Return `k=v` pairs in one line, in the order of their names."""
    return " ".join(f"{name}={labels[name]}" for name in sorted(labels))


def seconds(instant: str | None) -> str:
    """Return an RFC 3339 time without fractions, for a table."""
    if instant is None:
        return "-"
    return instant.partition(".")[0].rstrip("Z").replace("T", " ") + "Z"
