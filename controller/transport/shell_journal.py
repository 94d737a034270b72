"""The journal as either agent reads it: JSON, with an array that says the undo in lines for a shell program.

The Python agent takes the whole for JSON and passes over the array; the shell program reads the lines that begin with its words.
"""

import math
from typing import Any, NamedTuple

from controller.transport.far import word
from kpsagent import wire
from kpsagent.keys import lines_over
from kpsagent.plan import Step

_FIELD = "shell"


class Place(NamedTuple):
    """Where a step's file is, and with whose rights it is touched (None: the program's own)."""

    rights: str | None
    directory: str
    name: str


def encode(journal: dict[str, Any], places: list[Place], sshd: list[str], gone: list[Place]) -> str:
    """Return the journal's text. places: of its steps; sshd: words with which the undo has sshd re-read its configuration.

    gone: of what is revoked; [] leaves that to whoever reads keys.
    """
    head = [
        "head",
        word(str(journal["operation"])),
        str(journal["generation"]),
        str(math.ceil(journal["deadline"])),
        journal["boot"],
    ]
    lines = [head] + ([["sshd", *sshd]] if sshd else [])
    for number, (each, place) in reversed(list(enumerate(zip(journal["steps"], places, strict=True)))):
        half = "widen" if number < journal["widening"] else "narrow"
        lines.append(["step", half, *_step(Step(*each), place, journal["grounds"])])
    for each, place in zip(journal.get("gone", []), gone, strict=False):
        kind, path, login, before, after = each
        # The removal of a key is done as the undo of its being there.
        lines.append(["gone", "narrow", *_step(Step(kind, path, login, after, before), place, journal["grounds"])])
    quoted = ",\n".join('"' + " ".join(words).replace("\\", "\\\\") + '"' for words in lines)
    return f'{wire.encode(journal)[:-1]},"{_FIELD}":[\n{quoted}\n]}}\n'


def _step(step: Step, place: Place, grounds: dict[str, Any]) -> list[str]:
    before, after, added, removed, where, mode = "-", "-", "=", "=", "end", "600"
    if step.kind in ("keys", "block"):
        old, new = (step.before or "").split("\n"), (step.after or "").split("\n")
        before, after = word(step.before), word(step.after)
        added = word("".join(line + "\n" for line in lines_over(new, old)))
        removed = word("".join(line + "\n" for line in lines_over(old, new)))
        where = "top" if step.kind == "block" else "end"
    elif step.kind == "mode":
        mode = f"{letters(step.after)} {step.before:o}"
    directory, inode = grounds.get(step.path, (None, None))
    links = "one"
    words = [step.kind, word(place.rights), word(place.directory), word(place.name), word(mode), links]
    return [*words, before, after, added, removed, where, word(directory), str(inode) if inode is not None else "none"]


def letters(mode: int) -> str:
    """Return a mode as ls writes it, without the kind of the file."""
    bits = "".join(letter if mode & (0o400 >> place) else "-" for place, letter in enumerate("rwx" * 3))
    found = list(bits)
    for place, bit, letter in ((2, 0o4000, "s"), (5, 0o2000, "s"), (8, 0o1000, "t")):
        if mode & bit:
            found[place] = letter if found[place] == "x" else letter.upper()
    return "".join(found)


def decode(text: str) -> dict[str, Any]:
    """Return the journal of either agent, without the lines for a shell."""
    journal = wire.decode(text)
    if not isinstance(journal, dict):
        raise ValueError("a journal that is no JSON object")
    journal.pop(_FIELD, None)
    return journal
