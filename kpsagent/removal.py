"""Keys of a revoke taken away for good, by whoever comes; what of that is still owed; and the sessions that they opened."""

from . import keys
from .errors import LONGEST_SHOWN, Changed, Failed, from_os_error, shown
from .ground import refuse_other_ground
from .host import EndSession, FindAccount, Read, ReadState, Replace, Sessions, Sweep, WriteState
from .plan import Plan, Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional, Tuple

    Play = Generator[Any, Any, Any]

_MOST_SHOWN = 200  # open sessions
_TRIES = 3  # against somebody who edits the same file at the same time


def finish_revoke(journal: "Dict[str, Any]") -> "Play":
    """Take the keys of a revoke out of every file that it is about; return what could not be done, in words, and the first error.

    It does not matter who has done how much of it before.
    """
    left = []  # type: List[str]
    first = None  # type: Optional[Exception]
    for path, login in journal["revoke"]:
        try:
            yield from _keys_gone(path, login, journal)
        except Exception as stop:
            left.append("{}: {}".format(path, stop))
            first = first or (from_os_error(stop, path) if isinstance(stop, OSError) else stop)
    return left, first


def _keys_gone(path: str, login: str, journal: "Dict[str, Any]") -> "Play":
    account = yield FindAccount(login)
    if account is None:
        raise Failed("login_missing", "{} is not known to the server now".format(login), login=login)
    yield from refuse_other_ground(path, account, journal)
    yield Sweep(path, account)
    for _ in range(_TRIES + 1):
        now = (yield Read(path, account)).text
        wanted = _without(now, journal["remove"])
        if wanted == now:
            return
        try:
            yield Replace(path, account, now, wanted, True)
        except Changed:
            pass  # somebody else writes at the same time
        # Looked at again in any case: nothing but this says of other logins' files that the key is out.
    raise Failed("authorized_keys_changed", "{}: somebody else keeps changing it".format(path), path=path)


def each_removal(journal: "Dict[str, Any]") -> "List[Dict[str, Any]]":
    """Return a journal for each file of this revoke, with what finish_revoke() has to know of that file."""
    grounds = journal.get("grounds", {})
    return [
        {"remove": journal["remove"], "revoke": [[path, login]], "grounds": {path: grounds[path]} if path in grounds else {}}
        for path, login in journal["revoke"]
    ]


def still_owed(removals: "List[Dict[str, Any]]") -> "Play":
    """Try each removal, and return those that could not be done: each once, and why."""
    owed = []  # type: List[Dict[str, Any]]
    for each in removals:
        plain = {name: each[name] for name in ("remove", "revoke", "grounds")}
        if any(plain["remove"] == other["remove"] and plain["revoke"] == other["revoke"] for other in owed):
            continue
        left, _ = yield from finish_revoke(plain)
        if left:
            owed.append(dict(plain, why=left[0][:LONGEST_SHOWN]))
    return owed


def try_owed() -> "Play":
    """Take away what earlier revokes could not, where that can be done by now."""
    state = yield ReadState()
    if state.get("owed"):
        owed = yield from still_owed(state["owed"])
        if owed != state["owed"]:
            rest = {name: value for name, value in state.items() if name != "owed"}
            yield WriteState(dict(rest, owed=owed) if owed else rest)


def _owed_materials(owed: "List[Dict[str, Any]]", path: "Optional[str]" = None) -> "List[bytes]":
    """Return the material of each key that is still to go, out of this file or any."""
    lines = [line for each in owed for line in each["remove"] if path is None or each["revoke"][0][0] == path]
    return [keys.parse(line).material for line in lines]


def refuse_owed(plan: Plan, owed: "List[Dict[str, Any]]") -> None:
    """Raise Failed where plan brings a key that is still being taken away."""
    if plan.key is not None and keys.parse(plan.key).material in _owed_materials(owed):
        raise Failed(
            "undo_incomplete",
            "this key is revoked, and is taken out of these as soon as that can be done: {}".format(
                "; ".join(shown([each["why"] for each in owed]))
            ),
        )


def without_owed(seen: Seen, owed: "List[Dict[str, Any]]") -> Seen:
    """Return seen without the keys that go from other logins' files as soon as they can: nobody's way in is to rest on them."""
    files = dict(seen.files)
    for each in owed:
        ((path, _),) = each["revoke"]
        for name in [name for name in files if name != seen.account.name]:
            files[name] = [
                one._replace(file=one.file._replace(text=_without(one.file.text, each["remove"]))) if one.path == path else one
                for one in files[name]
            ]
    return seen._replace(files=files)


def _without(text: "Optional[str]", lines: "List[str]") -> "Optional[str]":
    for line in lines:
        text = None if text is None else keys.remove(text, keys.parse(line))
    return text


def sessions_of(plan: Plan, accounts: "List[Any]") -> "Play":
    """Return [(account, Session)] of what is open that a removed key let in, or may have; None where that cannot be told."""
    fingerprints = [keys.fingerprint(keys.parse(line)) for line in plan.remove]
    sessions, told = [], False  # type: List[Tuple[Any, Any]], bool
    for account in accounts:
        try:
            found = yield Sessions(account, fingerprints)
        except Exception:
            found = None  # what was asked for is done; this is only told
        told = told or found is not None
        sessions += [(account, each) for each in found or [] if not any(each == other for _, other in sessions)]
    return sessions if told else None


def told_of(sessions: "Optional[List[Tuple[Any, Any]]]") -> "Optional[List[Dict[str, Any]]]":
    """Return them as the result tells them."""
    return None if sessions is None else [dict(each._asdict()) for _, each in sessions[:_MOST_SHOWN]]


def end_sessions(sessions: "List[Any]") -> "Play":
    """End each of these sessions and return the process numbers of those that are gone."""
    ended = []
    for each in sessions:
        try:
            gone = yield EndSession(each)
        except Exception:
            gone = False  # it is told as one that is still open
        if gone:
            ended.append(each.pid)
    return ended[:_MOST_SHOWN]
