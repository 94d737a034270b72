"""What a login's file stands on, kept with the journal: an undo on another ground would pass over what comes back later."""

from .errors import Failed
from .host import FindAccount, Ground
from .plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List

    Play = Generator[Any, Any, Any]


def grounds(steps: "List[Step]", account: "Any") -> "Play":
    """Return path -> what it stands on, for each step in a login's own files."""
    found = {}  # type: Dict[str, List[Any]]
    for step in steps:
        if step.kind in ("directory", "mode", "owner", "label", "keys") and step.path not in found:
            owner = account if step.login == account.name else (yield FindAccount(step.login))
            found[step.path] = list((yield Ground(step.path, owner)))
    return found


def refuse_other_ground(path: str, account: "Any", journal: "Dict[str, Any]") -> "Play":
    """Raise Failed where path does not stand on what the journal says it stood on."""
    before = journal.get("grounds", {}).get(path)
    if before is not None and list((yield Ground(before[0], account))) != before:
        # What is not to be seen now is no file that somebody has removed: it comes back with its file system, the key in it.
        raise Failed("disk_gone", "{} is not the directory that it was; is it mounted?".format(before[0]), path=before[0])
