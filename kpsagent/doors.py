"""Emergency doors: password login for one login, for a time, closed by the server itself. Shipped for these operations only.

Our lines at the top of sshd's main file include one file of ours, which holds a Match for the login. Before OpenSSH 8.2, which
has no Include, the Match stands right before the first one of the main file, so that it takes in nothing that was outside.

    opening -> open -> closing -> gone           each arrow is one rename of one file; exactly one wins
    opening ---------> closing

It is watched before it is opened, and closing takes out our own lines only. The journal of other operations is not used: keys are
bound while a door is open. sshd_config(5).
"""

from . import sshd
from .doorstate import LASTING, PASSING
from .errors import Failed
from .host import (
    MAIN_CONFIG,
    ArmDoor,
    Clock,
    Daemon,
    DisarmDoor,
    DropDoor,
    EndHalfOpen,
    Lock,
    MoveDoor,
    Overwrite,
    Read,
    ReadDoor,
    ReadJournal,
    ReadState,
    ReloadOthers,
    Replace,
    Wall,
    WriteDoor,
    WriteState,
)
from .plan import DROP_IN, door_told
from .undo import reload_after_undo, rewritten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional, Set, Tuple

    Play = Generator[Any, Any, Any]
    Door = Dict[str, Any]

MARK = "# kps: door"
DAMAGED = "damage"  # why a door was closed whose record could not be made out
_END = MARK + " end"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@+-")


# -- text --------------------------------------------------------------------------------------------------------------


def match(login: str, network: "Optional[str]", settings: "List[Tuple[str, str]]") -> str:
    """Return the lines that open the door. ValueError for a login that sshd would take for more than its name."""
    if not is_plain(login):
        raise ValueError("{}: more than a name".format(login))
    head = "Match User {}{}\n".format(login, " Address " + network if network else "")
    return head + "".join("    {} {}\n".format(word, value) for word, value in settings)


def is_plain(login: str) -> bool:
    """Say whether sshd takes this login in a Match for nothing but its name."""
    return bool(login) and login[0] not in "-+@." and set(login) <= _NAME


def entry(number: str, lines: str) -> str:
    """Return lines of sshd_config between our marks."""
    return "{} {}. kps closes it by itself, and takes these lines out again\n{}{}\n".format(MARK, number, lines, _END)


def before_first_match(text: str, ours: str) -> "Tuple[str, str]":
    """Return (text with ours right before its first Match, or else at its end; what was put in)."""
    at = sshd.first_match(text)
    if at is None:
        ours = ("" if not text or text.endswith("\n") else "\n") + ours
        at = len(text)
    return text[:at] + ours + text[at:], ours


def without(text: str, ours: str) -> str:
    """Return text without ours; where others wrote into that, theirs stays: in a Match of ours, under its own head."""
    for each in (ours, muted(ours)):
        at = text.find(each)
        if at >= 0:
            return text[:at] + text[at + len(each) :]
    lines = [line for line in ours.split("\n") if line.strip()]
    head = [line for line in lines if _keyword(line) == "match"]
    settings = {_keyword(line) for line in lines if line.startswith(" ")}
    known = {line.strip() for line in lines if not line.startswith(" ")}
    kept, within, matching = [], False, False
    for line in text.split("\n"):
        within = within or line.startswith(MARK)
        word, is_ours = _keyword(line), within and line.strip() in known
        if word == "match":
            matching = is_ours
            known.discard(line.strip())  # the next one of these words is theirs
        # However somebody has respelled a setting of ours: without its Match it would hold for everybody.
        if not (is_ours or (matching and word in settings)):
            if matching and word:
                kept += head
                head = []
            kept.append(line)
        within = within and line.strip() != _END
        matching = matching and within
    return "\n".join(kept)


def muted(ours: str) -> str:
    """Return our lines as comments of the same length."""
    return "\n".join("#" + line[1:] if line else line for line in ours.split("\n"))


def _keyword(line: str) -> str:
    words = line.partition("#")[0].replace("=", " ").split()
    return words[0].lower() if words else ""


def left_in(text: str) -> "Tuple[str, str]":
    """Return (number of the door whose lines stand in this text, those lines without what others wrote there); "" for none."""
    lines = text.split("\n")
    begin = next((at for at, line in enumerate(lines) if line.startswith(MARK + " ") and line != _END), None)
    if begin is None or _END not in lines[begin:]:
        return "", ""
    between = lines[begin + 1 : lines.index(_END, begin)]
    kept = []  # type: List[str]
    for line in between:
        word = _keyword(line)
        # The Include, or before OpenSSH 8.2 the Match, which is the first of its kind there, with what is indented below it.
        if (word in ("include", "match") and not kept) or (kept and line.startswith("    ")):
            kept.append(line)
    number = (lines[begin].split() + [""])[3].rstrip(".")
    return number, "\n".join([lines[begin]] + kept + [_END]) + "\n"


def over(name: str, door: "Door", wall: float, clock: "Tuple[float, str]") -> str:
    """Return why a door is to be closed now: "order" (it was begun), "deadline" or "boot"; "" where it is not.

    It is over as soon as either clock says so: the one that never jumps stands still while the machine does (a paused guest), and
    a wall clock may be early until somebody has told it the time (a machine that keeps none). After a boot a wall clock that is
    before the opening is not believed.
    """
    now, boot = clock
    if name == "closing":
        return str(door.get("closed_by") or "deadline")
    is_this_boot = door["boot"] == boot
    if is_this_boot and now >= (door["until"] if name == "open" else door["opening_until"]):
        return "deadline"
    if is_this_boot and boot:
        return "deadline" if wall >= door["deadline"] else ""
    return "boot" if name == "opening" or not door["opened_at"] <= wall < door["deadline"] else ""


# -- what stands -------------------------------------------------------------------------------------------------------


def standing() -> "Play":
    """Return (its name, the door that stands), or None. One whose record is damaged is over: nobody knows when it would be."""
    try:
        return (yield ReadDoor())
    except ValueError:
        return "closing", (yield from _made_out())


def _made_out() -> "Play":
    """Return the door whose record is damaged, as far as our lines in sshd's files tell of it."""
    config = MAIN_CONFIG
    number, entry = left_in((yield Read(MAIN_CONFIG, None)).text or "")
    if not entry:
        number, entry = left_in((yield Read(DROP_IN, None)).text or "")
        config = DROP_IN if entry else MAIN_CONFIG
    place, text = "", entry
    for path in (PASSING, LASTING):
        there = (yield Read(path, None)).text
        if there is not None or path in entry:
            place, text = path, there or ""
    words = text.partition("Match User ")[2].split()
    about = {  # type: Door
        "id": number or "0" * 32,
        "login": words[0] if words else "unknown",
        "from": None,
        "watchers": [],
        "operation": number or "0" * 32,
        "generation": 0,
        "opened": True,
        "closed_by": DAMAGED,
    }
    files = {"place": place, "match": "", "config": config, "entry": entry, "before": config == MAIN_CONFIG}
    # As of one that is started for each connection: whatever listens is told all the same.
    daemon = {"daemon": ["each", 0, "", [], MAIN_CONFIG, ""], "connection": None}
    return dict(about, boot="", opened_at=0, deadline=0, until=0, opening_until=0, **dict(files, **daemon))


# -- closing -----------------------------------------------------------------------------------------------------------


def closed(name: str, door: "Door", why: str, anyway: bool = True, heard: "Optional[Set[str]]" = None) -> "Play":
    """Close the door that stands under this name: idempotent, and safe to be killed in. Returns it as it was closed.

    anyway: sshd is told to re-read its configuration also where nothing of ours is left in it: whoever began may not have.
    heard: kept by whoever tries again, for who was told needs not be told again: that ends those who are about to log in.
    Where lines of ours could not be taken out that open nothing any more, it has "left": why.
    """
    heard = set() if heard is None else heard
    unkept = None  # type: Optional[Exception]
    if name != "closing":
        moved = True
        try:
            moved = yield MoveDoor("closing")
        except OSError as stop:
            unkept = stop  # a disk that is read-only, say
        if not moved:
            try:
                found = yield ReadDoor()
            except OSError:
                found = ("open", door)  # what somebody has moved cannot be read: by what is known, then
            if found is None:
                return dict({"opened": True}, **door)  # somebody else was quicker, and is through
            name, door = found
        if name != "closing":
            door = dict(door, closed_by=why, opened=name == "open")
            try:
                if unkept is None:
                    yield WriteDoor("closing", door)
            except OSError:
                pass  # a full disk, say: it is closed all the same, and nothing but who closed it may be forgotten
    door = dict({"opened": True}, **door)
    left = []  # type: List[Exception]
    changed, shut = False, False
    for part in (_file_gone, _lines_out):
        try:
            done = yield from part(door)
            # What was never included needs no reload: somebody else's edit may wait there.
            changed = changed or (done and (part is _lines_out or door["opened"]))
            # What includes a file that is not there opens nothing, and nor does a file that nothing includes.
            shut = shut or part is _lines_out or bool(door["place"])
        except Exception as stop:
            left.append(stop)
    if not shut and door["entry"]:
        # Before OpenSSH 8.2 the entry stands in the main file. Whoever fills the disk does not keep it open.
        try:
            changed = (yield Overwrite(door["config"], door["entry"], muted(door["entry"]))) or changed
            shut = True
        except Exception as stop:
            left.append(stop)
    if not shut:
        raise left[0]  # sshd has nothing new to read
    if changed or anyway:
        yield from _told(door, changed or not heard, heard)
    if unkept is not None and why == "order":
        raise unkept  # its time is not over: a boot would put it back
    return dict(door, left=str(left[0])) if left else door


def _told(door: "Door", first: bool, heard: "Set[str]") -> "Play":
    """Have each sshd read that the door is closed that may have read what opened it. first: the one where we came in, too."""
    daemon, told = Daemon(*door["daemon"]), False
    if first:
        # Where sshd was stopped while the door was open, somebody meant that; of our edit it can't have died then.
        told = yield from reload_after_undo(dict(door, boot="") if door["opened"] else door)
        # For these the door is open until sshd itself has them go: they are not to get in while the others are waited for.
        yield EndHalfOpen(door["login"], daemon.config, door["connection"])
    others, deaf, hear = yield ReloadOthers(daemon, door["connection"] if told else None, sorted(heard))
    heard.update(hear)
    if others:
        yield EndHalfOpen(door["login"], daemon.config, door["connection"])
    if deaf:
        raise Failed(
            "reload_failed",
            "an sshd here may have read what opened the door, and was not seen to read that it is closed (process {}): look what "
            "it is (ps), and end it or start it anew".format(", ".join(str(pid) for pid in deaf)),
        )


def _file_gone(door: "Door") -> "Play":
    """Take the file of the entry away; return whether it was there."""
    return bool(door["place"]) and (yield from rewritten(door["place"], None, lambda now: None))


def _lines_out(door: "Door") -> "Play":
    """Take our lines out of the main file; return whether any were there."""

    def wanted(now: "Optional[str]") -> "Optional[str]":
        text = now if now is None else without(now, door["entry"])
        return None if text == "" and text != now and not door["before"] else text

    return (yield from rewritten(door["config"], None, wanted))


def finished(door: "Door", state: "Optional[Dict[str, Any]]" = None) -> "Play":
    """Write how it ended, and take away what closing needed; for the holder of the lock. state: what is on record otherwise."""
    if door.get("left"):
        raise Failed("door_stuck", "the door is closed, and the server goes on tidying up after it: {}".format(door["left"]))
    known = (yield ReadState()) if state is None else state
    if door["opened"]:
        known = dict(known, door=dict(door_told(door, "closed")))
        if "operation" not in known:
            known = dict(known, operation=door["operation"], generation=door["generation"], result="succeeded")
    elif known.get("generation", 0) <= door["generation"]:
        known = dict(known, operation=door["operation"], generation=door["generation"], result="reverted")
    yield WriteState(known)
    yield ReadJournal()  # the nonce of its proof goes
    yield DropDoor()
    yield DisarmDoor()  # last: a watcher may be what runs this, and ends with its unit


def goes_on(stop: "Exception") -> Failed:
    if isinstance(stop, Failed) and stop.cause == "door_stuck":
        return stop
    return Failed(
        "door_stuck",
        "the door could not be closed: {}; the server goes on trying by itself, until it can".format(stop),
        why=str(stop),
    )


def tidied() -> "Play":
    """Close a door whose time is over, or that was left half open or half closed; return the one that stays open, or None.

    For whoever holds the lock.
    """
    found = yield from standing()
    if found is None:
        yield DisarmDoor()
        return None
    name, door = found
    why = over(name, door, (yield Wall()), (yield Clock()))
    if name == "opening":
        why = "order"  # we have the lock: whoever was opening it is no more
    if not why:
        return door
    try:
        yield from finished((yield from closed(name, door, why)))
    except Exception as stop:
        raise goes_on(stop)
    return None


def unattended(anyway: bool, heard: "Optional[Set[str]]" = None, known: "Optional[Tuple[str, Door]]" = None) -> "Play":
    """What a watcher does at the deadline: close, beside whoever holds the lock; -> why it is to be called again, or "".

    heard: as for closed(). known: what the watcher takes the door for, for where what is on the disk tells less.
    """
    try:
        found = yield ReadDoor()
    except (OSError, ValueError):
        found = known if known is not None else (yield from standing())
    if found is None:
        return ""
    name, door = found
    why = over(name, door, (yield Wall()), (yield Clock()))
    if not why:
        return ""
    door = yield from closed(name, door, why, anyway, heard)
    # It is closed. What hinders the rest is returned: sshd is not told anew each time that this is tried.
    try:
        if not (yield Lock(False)):
            return "whoever holds the lock may be about to write what opens it"  # it is looked at until they have ended
        if why != DAMAGED:  # of such a one less can be made out now that it is closed
            found = yield ReadDoor()
        if found is not None:
            name, door = ("closing", door) if why == DAMAGED else found
            yield from finished((yield from closed(name, door, why, False)))
    except Exception as stop:
        return str(stop) or type(stop).__name__
    return ""


def disarmed(door: "Optional[Door]") -> "Play":
    """Take away what watched a door that stands no more, and what is left of that: where our directory was deleted, all of it."""
    if (yield Lock(False)) and (yield ReadDoor()) is None:
        if door:
            yield from closed("closing", door, "order", False)
        yield DisarmDoor()


def at_boot() -> "Play":
    """Close a door whose time is over, or that never was open, before sshd starts; one that stays is watched, then open again."""
    locked = yield Lock(False)
    found = yield from standing()
    if found is None:
        if locked:
            yield DisarmDoor()
        return
    name, door = found
    wall, clock = (yield Wall()), (yield Clock())
    why = over(name, door, wall, clock)
    try:
        yield ArmDoor(False)  # also where it is closed now: that may fail, or be killed
    except Exception:
        why = why or "boot"  # what nobody would watch does not stay
    if why:
        door = yield from closed(name, door, "boot" if why == "deadline" else why)
        if locked:
            yield from finished(door)
        return
    if door["boot"] != clock[1]:
        door = dict(door, boot=clock[1], until=clock[0] + door["deadline"] - wall)
        yield WriteDoor(name, door)
    found = yield ReadDoor()
    is_open = found is not None and found[0] == "open"  # a watcher may have been quicker
    if is_open and door["place"] and (yield Read(door["place"], None)).text is None:
        yield Replace(door["place"], None, None, door["match"], False)
        yield from reload_after_undo(dict(door, boot=""))


def closed_at_rest() -> "Play":
    """Close the door that stands on a disk at rest: whoever resets a server has found another way in."""
    found = yield from standing()
    if found is not None:
        yield from finished((yield from closed(found[0], found[1], "order")))
