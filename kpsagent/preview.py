"""What an operation would do, told and not done: file by file as a diff, and everything else that a person would want to know.

Pure: the steps that decide() found in, JSON out. That nothing would refuse it is shown by having come here.
"""

import hashlib

from .errors import Refused
from .plan import refuse_lockouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Tuple

    from .plan import Plan, Seen, Step, Steps

_AROUND = 3  # lines of a file around a change
_FARTHEST = 200  # lines: what is changed at once is less
_LONGEST_DIFF = 16000
_LONGEST_LINE = 400
_ARMED = "before sshd's configuration is touched: an undo at the deadline that outlives this connection, and one at the next boot"

_FOR_GOOD = "once the removal has begun, nothing brings the key back: no failure, lost connection or reboot undoes it"
_ENDS = "; then the sessions that the key has opened are ended"


def told(plan: "Plan", seen: "Seen", steps: "Steps") -> "Dict[str, Any]":
    """Return what the steps would do: changes, for_good, reload, armed, proofs, locked_out; seen: digests of what was read."""
    every = steps.widen + steps.narrow + steps.revoke
    last = steps.narrowed + steps.revoked
    blocks = any(step.kind == "block" for step in every)
    return {
        "changes": [_change(step) for step in every],
        "for_good": _FOR_GOOD + (_ENDS if plan.end_sessions else "") if steps.revoke else "",
        "reload": _reload(seen.daemon) if blocks else "",
        "armed": _ARMED if blocks else "",
        "proofs": [_proof("after", each) for each in steps.widened] + [_proof("last", each) for each in last],
        "locked_out": _locked_out(plan, seen) if plan.passwords == "off" else [],
        "seen": _digests(seen),
    }


def _digests(seen: "Seen") -> "Dict[str, str]":
    """Return SHA-256 (hex) of the files of keys and sshd's main file, whole, and of what sshd makes of its configuration."""
    files = [(each.path, each.file.text) for of in seen.files.values() for each in of]
    files.append((seen.config.path, seen.config.text))
    # Without the address it was asked for: from another one of the controller's the server is no other.
    settings = [(login, sorted(found.items())) for login, of in seen.effective.items() for found in of.values()]
    return {
        name: hashlib.sha256(repr(sorted(found, key=repr)).encode("utf-8", "surrogateescape")).hexdigest()
        for name, found in (("files", files), ("settings", settings))
    }


def _change(step: "Step") -> "Dict[str, Any]":
    change = {"kind": step.kind, "path": step.path, "login": step.login or "root"}
    if step.kind == "mode":
        return dict(change, before="{:04o}".format(step.before), after="{:04o}".format(step.after))
    if step.kind == "directory":
        return dict(change, after="0700")
    if step.kind == "owner":
        return dict(change, before="{}:{}".format(*step.before), after="{}:{}".format(*step.after))
    if step.kind == "label":
        return dict(change, before=step.before, after=step.after)
    if step.kind == "password":
        return change
    return dict(change, diff=diff(step.path, step.before, step.after)[:_LONGEST_DIFF].split("\n")[:-1], made=step.before is None)


def _reload(daemon: "Any") -> str:
    if daemon.how == "each":
        return "none is needed: sshd reads its configuration anew for every connection"
    how = "systemctl reload {}".format(daemon.unit) if daemon.unit else "a hang-up signal"
    return "{} (process {}, {}), by {}".format(daemon.program, daemon.pid, daemon.config, how)


def _proof(when: str, question: "Any") -> "Dict[str, str]":
    return {"when": when, "way": question.way, "login": question.login, "want": question.want}


def _locked_out(plan: "Plan", seen: "Seen") -> "List[str]":
    """Return the logins that would lose their way in by consent."""
    try:
        refuse_lockouts(plan._replace(accept_lockout=[]), seen)
    except Refused as refused:
        return list(refused.evidence["logins"])
    return []


# -- diff --------------------------------------------------------------------------------------------------------------


def diff(path: str, before: "Optional[str]", after: "Optional[str]") -> str:
    """Return a unified diff of two texts, of which one comes from the other by lines put in and lines taken out.

    diff(1); its note that a file does not end in a newline is given too. None: no such file.
    """
    old, new = _split(before), _split(after)
    edits = list(_edits(old, new))
    changed = [place for place, (mark, _) in enumerate(edits) if mark != " "]
    if not changed:
        return ""
    head = ["--- {}".format("/dev/null" if before is None else path), "+++ {}".format("/dev/null" if after is None else path)]
    return "\n".join(head + [line for hunk in _hunks(edits, changed) for line in hunk]) + "\n"


def _split(text: "Optional[str]") -> "List[str]":
    lines = (text or "").split("\n")
    # The last line is one only where it does not end: diff(1) marks that line.
    return lines[:-1] if lines[-1] == "" else lines[:-1] + [lines[-1] + "\n\\ No newline at end of file"]


def _edits(old: "List[str]", new: "List[str]") -> "Iterator[Tuple[str, str]]":
    """Yield (mark, line), taking the nearest line at which both go on alike."""
    at, to = 0, 0
    while at < len(old) or to < len(new):
        if old[at : at + 1] == new[to : to + 1]:
            yield " ", old[at]
            at, to = at + 1, to + 1
            continue
        out, put = _apart(old[at : at + _FARTHEST], new[to : to + _FARTHEST])
        for line in old[at : at + out]:
            yield "-", line
        for line in new[to : to + put]:
            yield "+", line
        at, to = at + out, to + put


def _apart(old: "List[str]", new: "List[str]") -> "Tuple[int, int]":
    """Return how many lines are out, and put in, before the two go on alike."""
    for far in range(1, max(len(old), len(new)) + 1):
        for out in range(far + 1):
            if old[out : out + 1] and old[out : out + 1] == new[far - out : far - out + 1]:
                return out, far - out
    return len(old), len(new)


def _hunks(edits: "List[Tuple[str, str]]", changed: "List[int]") -> "Iterator[List[str]]":
    start = 0
    while start < len(changed):
        end = start
        while end + 1 < len(changed) and changed[end + 1] - changed[end] <= 2 * _AROUND + 1:
            end += 1
        first, last = max(changed[start] - _AROUND, 0), min(changed[end] + _AROUND + 1, len(edits))
        olds = [sum(mark in " " + side for mark, _ in edits[:first]) for side in "-+"]
        sizes = [sum(mark in " " + side for mark, _ in edits[first:last]) for side in "-+"]
        places = ["{}{}".format(seen + (size > 0), "" if size == 1 else ",{}".format(size)) for seen, size in zip(olds, sizes)]
        yield ["@@ -{} +{} @@".format(*places)] + [mark + _short(line) for mark, line in edits[first:last]]
        start = end + 1


def _short(line: str) -> str:
    text, note, rest = line.partition("\n\\ ")
    return (text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + "...") + note + rest
