"""What a run has left is taken back, or finished: by itself, the next run, a watcher at the deadline or the boot unit."""

from . import keys, sshd
from .errors import Changed, Failed, Refused
from .ground import refuse_other_ground
from .host import (
    AskSshd,
    Clock,
    Daemon,
    Delete,
    Disarm,
    DropJournal,
    FindAccount,
    FindDaemon,
    Lock,
    MoveJournal,
    Read,
    ReadJournal,
    ReadState,
    Reload,
    RemoveDirectory,
    Replace,
    SetLabel,
    SetMode,
    SetOwner,
    SetPassword,
    Sweep,
    WriteState,
)
from .plan import Step
from .removal import each_removal, still_owed, try_owed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Generator, List, Optional  # noqa: F401 - in a comment

    Play = Generator[Any, Any, Any]

_TRIES = 3  # against somebody who edits the same file at the same time


def unattended(must: bool = False) -> "Play":
    """What a watcher at the deadline and the boot do: recover(); unless the lock is a must, also beside an agent that has it."""
    locked = yield Lock(must)
    return (yield from recover(locked))


def disarmed() -> "Play":
    """Take away what was armed, where no operation is left that it was for: whose agent died as it did so itself."""
    yield Lock(True)
    if (yield ReadJournal()) is None:
        yield Disarm()


def recover(locked: bool = True) -> "Play":
    """Finish what an earlier run left: tidy up after a commit, take away what is revoked, undo anything else.

    Idempotent, and safe to be killed in.

    Returns None where nothing was left, else {"operation", "result"}. Raises Failed undo_incomplete where something stays; but
    a file that keys of a revoke could not be taken out of holds nobody up: it is owed, and tried again each time.
    Two may undo at once; but what tells the next run that it may begin is for the holder of the lock, so without it all that
    can be undone is, and then Refused busy is raised.
    """
    found = yield ReadJournal()
    if found is None:
        if locked:
            yield from try_owed()
            yield Disarm()
        return None
    name, journal = found
    if name == "armed" and not (yield MoveJournal("reverting")):
        found = yield ReadJournal()  # somebody decided just before us
        if found is None:
            return None
        name, journal = found
    if name == "confirmed":
        state = {"operation": journal["operation"], "generation": journal["generation"], "result": "succeeded"}
    elif name == "revoking":
        owed = yield from still_owed(each_removal(journal))
        left = [each["why"] for each in owed]
        if left and not locked:
            raise Failed("undo_incomplete", "an earlier revoke could not be finished: {}".format("; ".join(left)), remains=left)
        # What is not owed is gone, and nobody has shown that sshd takes it no more.
        state = {"operation": journal["operation"], "generation": journal["generation"], "result": "partial"}
        if locked and owed:
            state["owed"] = owed
    else:
        left = yield from undo(journal)
        if left:
            raise Failed("undo_incomplete", "an earlier operation could not be undone: {}".format("; ".join(left)), remains=left)
        state = reverted(journal)
    if not locked:
        raise Refused("busy", "undone; whoever holds the lock has not ended")
    yield from finish(state)
    return {"operation": state["operation"], "result": state["result"]}


def fenced(plan: "Any", state: "Dict[str, Any]") -> "Play":
    """See that an order which has ended on record is not carried out should it come after this look, nor an older one.

    What has to be proved would fail without a proof, but not all has to be. Who carries it out now holds the lock.
    """
    if plan.ended > max(state.get("generation", 0), state.get("ended", 0)):
        yield WriteState(dict(state, ended=plan.ended))


def reverted(journal: "Dict[str, Any]") -> "Dict[str, Any]":
    """Return what state.json says after an undo."""
    return {"operation": journal["operation"], "generation": journal["generation"], "result": "reverted"}


def finish(state: "Dict[str, Any]") -> "Play":
    """Write how it ended, and take away what an undo would have needed."""
    before = yield ReadState()
    owed = before.get("owed", []) + [each for each in state.get("owed", []) if each not in before.get("owed", [])]
    if owed:
        # Kept whatever has been here since: a state of a lower generation would not be written.
        state = dict(state, owed=owed, generation=max(state["generation"], before.get("generation", 0)))
    if "door" in before:
        state = dict(state, door=before["door"])
    yield WriteState(state)
    yield DropJournal()
    yield Disarm()  # last: a watcher may be what runs this, and ends with its unit


def undo(journal: "Dict[str, Any]") -> "Play":
    """Take back the steps of the journal, the last one first; return what could not be taken back, in words.

    What narrowed is taken back whatever else cannot be: that only lets in. What widened is not, while anything is left: the
    new way in could go before the old one is back.
    """
    try:
        account = yield FindAccount(journal["login"])
    except Exception:
        account = None  # a directory service that is not up yet, it may be
    left = []  # type: List[str]
    for number, each in reversed(list(enumerate(journal["steps"]))):
        step = Step(*each)
        if left and number < journal.get("widening", len(journal["steps"])):
            left.append(step.path)
            continue
        try:
            yield from _undo_step(step, account, journal)
        except Exception as stop:
            left.append("{} ({}): {}".format(step.path, step.kind, stop))
    return left


def _undo_step(step: Step, account: "Any", journal: "Dict[str, Any]") -> "Play":
    owner = account if step.login is not None else None
    if step.login is not None and account is None:
        # Root's own rights are not for a login's files.
        raise Failed("login_missing", "{} is not known to the server now".format(step.login), login=step.login)
    yield from refuse_other_ground(step.path, account, journal)
    if step.kind == "directory":
        yield RemoveDirectory(step.path, owner)
    elif step.kind in ("mode", "owner", "label", "password"):
        try:
            if step.kind == "mode":
                yield SetMode(step.path, owner, step.after, step.before)
            elif step.kind == "owner":
                yield SetOwner(step.path, owner, step.after, step.before)
            elif step.kind == "label":
                yield SetLabel(step.path, owner, step.after, step.before)
            else:
                yield SetPassword(account, step.after, step.before)
        except Changed:
            return  # not as we left it: not ours to change
    else:
        yield from rewritten(step.path, owner, lambda now: undone(step, now))
        if step.kind == "block":
            yield from reload_after_undo(journal)


def rewritten(path: str, owner: "Any", wanted: "Callable[[Optional[str]], Optional[str]]") -> "Play":
    """Have a file hold what wanted makes of its text (None: no file), whoever else writes in it; nothing of ours stays beside it.

    Returns whether it had to be changed.
    """
    yield Sweep(path, owner)
    for _ in range(_TRIES):
        now = (yield Read(path, owner)).text
        new = wanted(now)
        if new == now:
            return False
        try:
            if new is None:
                yield Delete(path, owner, now)
            else:
                yield Replace(path, owner, now, new, True)
            return True
        except Changed:
            continue  # look again
        except FileNotFoundError:
            if now is None:
                raise  # it is the directory that is gone
    raise Failed("undo_incomplete", "{}: somebody else keeps changing it".format(path))


def undone(step: Step, now: "Optional[str]") -> "Optional[str]":
    """Return what the file should hold once step is taken back: the old bytes, or where others edited it, theirs without ours."""
    if now == step.after or now == step.before:
        return step.before  # type: ignore[no-any-return]
    if now is None:
        return None if step.before is None else now
    if step.kind == "block":
        return sshd.with_block(now, sshd.block(step.before or "") or [])
    return _lines_undone(now, step.before or "", step.after)


def _lines_undone(now: str, before: str, after: str) -> str:
    """Return now without the lines that after has over before, and with those at its end that before has over after."""
    old, new, lines = before.split("\n"), after.split("\n"), now.split("\n")
    for line in keys.lines_over(new, old):
        if line in lines:
            lines.remove(line)
    end = len(lines) if lines[-1:] != [""] else len(lines) - 1
    lines[end:end] = [line for line in keys.lines_over(old, new) if line not in lines]
    return "\n".join(lines)


def reload_after_edit(daemon: "Any") -> "Play":
    """Have sshd run on the file that we have edited."""
    if daemon.how != "listener":
        return  # each connection has the file read anew
    check = yield AskSshd(daemon, ["-t"], None)
    if check.code != 0:
        raise Failed("sshd_config_invalid", "sshd -t after our edit: {}".format(check.err[-300:].strip()))
    if not (yield Reload(daemon, False)):
        raise Failed("reload_failed", "sshd did not listen anew after it was told to re-read its configuration")


def reload_after_undo(journal: "Dict[str, Any]") -> "Play":
    """Have sshd run on the restored file; return whether one was told.

    A file that sshd does not accept is never loaded: the running one is then better.
    """
    before = Daemon(*journal["daemon"])
    if before.how != "listener":
        return False  # each connection has the file read anew
    daemon = yield FindDaemon(journal["connection"])
    _, boot = yield Clock()
    died = daemon.how != "listener"
    if died and boot != journal["boot"]:
        return False  # the system starts its own
    if died:
        # Of our edit, it may be. It is started as it was; what is found now, if anything, serves a session that outlives it.
        daemon = before
    check = yield AskSshd(daemon, ["-t"], None)
    if check.code != 0:
        raise Failed("sshd_config_invalid", "sshd -t: {}".format(check.err[-300:].strip()))
    if not (yield Reload(daemon, died)):
        raise Failed("reload_failed", "sshd does not listen anew")
    return True
