"""The transaction: one generator that yields effects and never touches a machine.

    lock -> recover -> look -> decide -> journal (-> arm) -> widen -> prove -> narrow -> prove -> commit

Whatever goes wrong after the journal stands is undone in reverse, by the same records that anybody else would use who comes
after a crash: recover() is called by the next run, by a watcher at the deadline and by the boot unit.

drive() plays a generator on a host.
"""

from . import keys, sshd
from .errors import Changed, Failed, Lost, Stop, from_os_error, shown
from .ground import grounds
from .host import (
    Arm,
    Ask,
    Clock,
    Delete,
    Door,
    DropJournal,
    FindAccount,
    Limits,
    Listening,
    Lock,
    MakeDirectory,
    MoveJournal,
    Read,
    ReadJournal,
    ReadState,
    Replace,
    Say,
    SetLabel,
    SetMode,
    SetOwner,
    SetPassword,
    WriteJournal,
    WriteNonce,
)
from .look import config_files, cut_off, look, refuse_cut_off, refuse_pending
from .plan import (
    Plan,
    Question,
    Seen,
    Step,
    Steps,
    addresses,
    decide,
    door_told,
    is_foreign,
    password_logins,
    reads_only,
    refuse_door_open,
    refuse_stale,
)
from .removal import end_sessions, finish_revoke, refuse_owed, sessions_of, told_of, without_owed
from .undo import fenced, finish, recover, reload_after_edit, reverted, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional

    Play = Generator[Any, Any, Any]

# controller/transport/frames.py takes no more.
_MOST_FINDINGS = 64
_MOST_FILES = 256
_LONGEST_PATH = 4000
NO_OPENSSH = (
    "no sshd of OpenSSH serves here: what it lets in, and whether other logins need a password, cannot be asked, only tried; "
    "password login is left as it is"
)


def drive(play: "Play", host: "Any") -> "Any":
    """Do each effect that play yields on host, hand it the answer or the error, and return what play returns."""
    answer, error = None, None  # type: Any, Optional[Exception]
    try:
        while True:
            effect = play.throw(error) if error is not None else play.send(answer)
            answer, error = None, None
            try:
                answer = host.do(effect)
            except Exception as raised:  # whatever it is, the answer is to undo
                error = raised
    except StopIteration as done:
        return done.value


# -- the whole run -----------------------------------------------------------------------------------------------------


def operation(plan: Plan) -> "Play":
    """Bring the server to what plan wants, proved; or leave it as it was. Returns the result, a JSON object; raises no Stop."""
    story = {"phase": "look", "proofs": []}  # type: Dict[str, Any]
    if plan.operation.startswith("door-"):
        from . import doororders  # shipped for this only

        return (yield from doororders.operation(plan, story, _prove, _stopped))
    try:
        yield Lock(True)
        if plan.only_plan:
            left = yield ReadJournal()
            story["first"] = "" if left is None else "an earlier operation ({}) is undone first".format(left[1]["operation"])
        else:
            story["recovered"] = yield from recover()
        state = yield ReadState()
        refuse_stale(plan, state)
        yield from fenced(plan, state)
        story["last"] = {name: value for name, value in state.items() if name not in ("owed", "door", "ended")}
        door = yield Door()
        if door is not None and plan.operation == "reset":
            from .doors import closed_at_rest  # shipped with it

            yield from closed_at_rest()
        elif door is not None:
            story["door"] = door_told(door)
            refuse_door_open(plan, door)
        owed = state.get("owed", [])
        if owed and not reads_only(plan):
            refuse_owed(plan, owed)
        if owed:
            story["leftover"] = "of earlier revokes this remains, and each order tries it again: " + "; ".join(
                shown(sorted({each["why"] for each in owed}))
            )
        story["limits"] = yield Limits()
        seen = without_owed((yield from look(plan)), owed)
        if is_foreign(seen) and plan.operation != "reset":
            story["limits"] = story["limits"] + [NO_OPENSSH]
        story["logins"] = password_logins(seen)
        story["closed"] = _ours(seen.config.text)
        story["phase"] = "decide"
        opened = []  # type: List[Step]
        if plan.operation == "reset":
            from .reset import opened as opened_at_rest  # shipped for this only

            opened = opened_at_rest(plan, seen)
        elif plan.operation == "password-set":
            from . import password  # shipped for this only

            opened = [password.step(plan, seen)]
        elif plan.diagnose is not None:
            opened = yield from _diagnosed(plan, seen, story)
        steps = decide(plan, seen, opened)
        if plan.operation == "password-set" and not password.tried(seen, addresses(plan)[0]):
            story["limits"] = story["limits"] + [password.UNPROVED.format(plan.login)]
            steps = steps._replace(widened=[])
        removal = None
        left_to_logins = not (reads_only(plan) or story.get("first") or seen.daemon.how == "hidden")
        if plan.revoke:
            from . import revoke  # shipped for this only

            removal = revoke.removal(plan, seen, steps, (yield from revoke.look_elsewhere(plan, seen)))
            steps = removal.steps
            concerned = sorted({plan.login} | {step.login for step in steps.revoke})
            removal = removal._replace(remains=removal.remains + (yield from cut_off(concerned if left_to_logins else [])))
        elif left_to_logins:
            refuse_cut_off(plan.login, (yield from cut_off([plan.login])))
    except Exception as stop:
        if plan.diagnose is not None and "findings" not in story and isinstance(stop, Stop):
            from .doctor import of_stop

            story["findings"] = [of_stop(stop)._asdict()]
        # What an earlier operation left is still there, though this one did nothing.
        left = isinstance(stop, Stop) and stop.cause == "undo_incomplete"
        return _stopped(story, stop, "partial" if left else "as_before")
    if reads_only(plan):
        return dict(story, status="unchanged", server_state="as_asked")
    if plan.only_plan:
        from .preview import told  # shipped for this only

        if removal is not None:
            story["sessions"] = told_of((yield from sessions_of(plan, removal.accounts)))
            story.update(remains=shown(removal.remains), notes=shown(removal.notes))
        return dict(story, status="unchanged", server_state="as_before", plan=told(plan, seen, steps))
    return (yield from _carry_out(plan, seen, steps, story, removal))


def _diagnosed(plan: Plan, seen: Seen, story: "Dict[str, Any]") -> "Play":
    """Put what keeps a key out into the story, and return the steps that repair, where that is wanted."""
    from . import doctor  # shipped for this only

    texts = yield from config_files(seen.config.path, seen.config.text)
    notes = yield from doctor.examine(plan, seen, texts)
    # The reason comes first; a file may hold more odd lines than the controller hears out.
    story["findings"] = [finding._asdict() for finding in doctor.diagnose(plan, seen, notes)[:_MOST_FINDINGS]]
    if not plan.repair:
        return []
    steps = doctor.repairs(notes, seen.account)
    story["repairs"] = shown([doctor.in_words(step) for step in steps])
    return steps


def _carry_out(plan: Plan, seen: Seen, steps: Steps, story: "Dict[str, Any]", removal: "Any") -> "Play":
    all_steps = steps.widen + steps.narrow
    journal = None  # type: Optional[Dict[str, Any]]
    begun = []  # type: List[Step]
    try:
        now, boot = yield Clock()
        deadline = now + plan.deadline_seconds
        if all_steps or steps.revoke:
            draft = {
                "operation": plan.id,
                "generation": plan.generation,
                "login": plan.login,
                "deadline": deadline,
                "boot": boot,
                "connection": plan.connection,
                "daemon": list(seen.daemon),
                "grounds": (yield from grounds(all_steps + steps.revoke, seen.account)),
                "widening": len(steps.widen),
                "steps": [list(step) for step in all_steps],
                "remove": list(plan.remove) if steps.revoke else [],
                "revoke": [[step.path, step.login] for step in steps.revoke],
                "gone": [list(step) for step in steps.revoke],  # the same, for who does not read keys
            }
            yield WriteJournal(draft)
            journal = draft
        if any(step.kind == "block" for step in all_steps) and plan.operation != "reset":
            story["armed"] = yield Arm(deadline)
        for phase, half, questions in (
            ("widen", steps.widen, steps.widened),
            ("narrow", steps.narrow, steps.narrowed),
        ):
            story["phase"] = phase
            yield Say(phase, {"steps": len(half)})
            yield from _do_all(half, seen, deadline, begun)
            # What holds already is shown too, where nothing had to be changed for it.
            due = questions if half or phase == "widen" else [each for each in questions if each not in steps.widened]
            if due:
                story["phase"] = "prove"
                yield from _prove(plan, phase, due, deadline, story, bool(steps.narrow))
        story["phase"] = "commit"
        if steps.revoke:
            yield Say("narrow", {"steps": len(steps.revoke)})
        yield from _still_ours(all_steps, seen.account)
        yield Listening(deadline)
        # From "revoking" on all of this stays: what is removed then has nothing but that to stand on.
        if journal is not None and not (yield MoveJournal("revoking" if steps.revoke else "confirmed")):
            raise Lost("deadline_passed", "the deadline passed before the proof came; the server has undone the change")
    except Exception as stop:
        if journal is not None:
            # sshd is not told to read what we have not touched: somebody else's edit may wait there.
            journal = dict(journal, steps=journal["steps"][: len(begun)])
        return (yield from _undone(story, stop, journal))
    result = dict(story, server_state="as_asked", phase="done")
    result["status"] = "succeeded" if all_steps or steps.revoke else "unchanged"
    result["closed"] = _ours(_final(all_steps, seen))
    if seen.candidate is not None and any(step.kind == "block" for step in all_steps):
        result["logins"] = password_logins(seen._replace(effective=seen.candidate.effective))
    if removal is not None:
        result = yield from _revoking(plan, seen, removal, result, journal, deadline)
    if result["phase"] != "undo":
        ended = "partial" if result["status"] == "failed" else result["status"]
        try:
            yield from finish({"operation": plan.id, "generation": plan.generation, "result": ended})
        except Exception as stop:
            result["leftover"] = str(stop)  # the change holds; the next run tidies up
    if plan.remove and not plan.revoke:
        result["sessions"] = told_of((yield from sessions_of(plan, [seen.account])))
    result["files"] = _digests(all_steps + (steps.revoke if result["status"] == "succeeded" else []))
    if result["status"] == "succeeded":
        put_back = yield from _put_back(all_steps + steps.revoke, seen.account)
        if put_back is not None:
            # Not "removed": whatever stands there now, it is not for the record to take the new key for bound.
            return _stopped(dict(result, removed=None, remains=[put_back.message]), put_back, "partial")
    return result


# -- revoking ----------------------------------------------------------------------------------------------------------


def _revoking(
    plan: Plan,
    seen: Seen,
    removal: "Any",
    story: "Dict[str, Any]",
    journal: "Optional[Dict[str, Any]]",
    deadline: float,
) -> "Play":
    """Take the keys away for good, end what they opened if asked, prove that they are refused, and return how it ended.

    Another way in has been proved. Nothing that goes wrong from here on brings a key back: the end is partial, and says why.
    """
    wrong = None  # type: Optional[Exception]
    left, remains = [], list(removal.remains)  # type: List[str], List[str]
    story.update(phase="narrow", removed=shown(["{}: {}".format(step.login, step.path) for step in removal.steps.revoke]))
    if journal is not None:
        left, wrong = yield from finish_revoke(journal)
    found = yield from sessions_of(plan, removal.accounts)
    if plan.end_sessions:
        # Of other people only what a log says that the key opened: whoever got in otherwise goes on working.
        due = [session for account, session in found or [] if account.uid == seen.account.uid or session.used == "yes"]
        story["ended"] = yield from end_sessions(due)
    story["sessions"] = told_of(found)
    story["phase"] = "prove"
    try:
        yield from _prove(plan, "narrow", removal.steps.revoked, deadline, story, True)
    except Exception as stop:
        wrong = wrong or stop
        if getattr(stop, "cause", "") == "old_key_still_accepted":
            remains += removal.serving
    remains = shown(left + remains)
    story.update(remains=remains, notes=shown(removal.notes))
    if wrong is None and remains:
        wrong = Failed("key_remains", "the key is out of all that is ours to change, but not of {}".format("; ".join(remains)))
    if wrong is None:
        return dict(story, phase="done")
    result = _stopped(story, wrong, "partial")
    # A file that could not be changed is for the next run to try again; so the journal has to stay.
    return dict(result, phase="undo") if left else result


# -- undoing what failed -----------------------------------------------------------------------------------------------


def _undone(story: "Dict[str, Any]", stop: "Exception", journal: "Optional[Dict[str, Any]]") -> "Play":
    """Undo what journal says, then tell how the operation ended and in which state the server is."""
    result = _stopped(story, stop, "as_before" if journal is None else "reverted")
    if journal is not None:
        try:
            if not (yield MoveJournal("reverting")):  # a watcher was quicker; the undo below does no harm twice
                found = yield ReadJournal()
                if found is not None and found[0] in ("confirmed", "revoking"):
                    # The commit took place and then failed: nobody knows whether it would outlive a power failure.
                    return dict(result, server_state="unknown")
            left = yield from undo(journal)
        except Exception as second:
            return dict(result, server_state="unknown", remains=[str(second)])
        if left:
            return dict(result, server_state="partial", remains=left)
    try:
        if journal is None:
            yield DropJournal()
        else:
            yield from finish(reverted(journal))
    except Exception as second:
        result["leftover"] = str(second)  # all is as before; the next run tidies up
    return result


def _stopped(story: "Dict[str, Any]", stop: "Any", server_state: str) -> "Dict[str, Any]":
    if isinstance(stop, OSError):
        stop = from_os_error(stop, stop.filename or "the server")
    elif not isinstance(stop, Stop):
        stop = Failed("unexpected", "{}: {}".format(type(stop).__name__, stop))
    return dict(story, status="failed", server_state=server_state, cause=stop.cause, message=stop.message, evidence=stop.evidence)


def _ours(text: "Optional[str]") -> bool:
    """Whether our block is what keeps passwords out."""
    return any((word.lower(), value) == ("passwordauthentication", "no") for word, value in sshd.block(text or "") or [])


def _final(steps: "List[Step]", seen: Seen) -> "Optional[str]":
    text = seen.config.text  # type: Optional[str]
    for step in steps:
        if step.kind == "block":
            text = step.after
    return text


# -- look --------------------------------------------------------------------------------------------------------------


# -- do, prove ---------------------------------------------------------------------------------------------------------


def _do_all(steps: "List[Step]", seen: Seen, deadline: float, begun: "List[Step]") -> "Play":
    for step in steps:
        if step.kind == "block" and seen.watched is not None:
            yield from refuse_pending(seen.daemon, *seen.watched)
        yield Listening(deadline)
        begun.append(step)
        try:
            yield from _do(step, seen.account)
        except OSError as error:
            raise from_os_error(error, step.path)
        if step.kind == "block":
            yield from reload_after_edit(seen.daemon)


def _do(step: Step, account: "Any") -> "Play":
    owner = account if step.login is not None else None
    if step.kind == "directory":
        yield MakeDirectory(step.path, owner)
    elif step.kind == "mode":
        yield SetMode(step.path, owner, step.before, step.after)
    elif step.kind == "owner":
        yield SetOwner(step.path, owner, step.before, step.after)
    elif step.kind == "label":
        yield SetLabel(step.path, owner, step.before, step.after)
    elif step.kind == "password":
        yield SetPassword(account, step.before, step.after)
    elif step.after is None:
        yield Delete(step.path, owner, step.before)
    else:
        yield Replace(step.path, owner, step.before, step.after, False)


def _prove(
    plan: Plan, phase: str, questions: "List[Question]", deadline: float, story: "Dict[str, Any]", narrows: bool
) -> "Play":
    """Have the controller prove each question by a new connection; a proof that says it logged in must bring back our nonce."""
    if not questions:
        return
    yield Listening(deadline)
    nonce, path = yield WriteNonce()
    answers = yield Ask(phase, [question._asdict() for question in questions], path, deadline)
    if len(answers) != len(questions):
        raise Failed("unexpected", "{} answers to {} questions".format(len(answers), len(questions)))
    for question, answer in zip(questions, answers):
        method = answer.get("method")
        if "cause" in answer:
            raise Failed(answer["cause"], answer.get("message", ""), **answer.get("evidence", {}))
        weaker = question.least != question.want and method == question.least
        if method != question.want and not weaker and not (method == "logged_in" and question.want == "password_offered"):
            raise Failed("unexpected", "asked to prove {}, told {}".format(question.want, method))
        # A refusal is shown by a login in the same connection wherever there is a key that can log in.
        shown_by_login = method == "logged_in" or (method == "refused" and question.known is not None and plan.provable)
        if shown_by_login and answer.get("nonce") != nonce:
            raise Failed(
                "wrong_machine",
                "the login that proves the change reached another machine than the one that was changed "
                "(a virtual address, a cloned host key, or a load balancer?)",
            )
        if method == "accepted" and narrows and not plan.accept_unproved:
            raise Failed("proof_too_weak", "sshd would accept the key, but nobody logged in with it; say --accept-unproved")
        proof = {"way": question.way, "login": question.login, "method": method}
        if proof not in story["proofs"]:
            story["proofs"].append(proof)


def _still_ours(steps: "List[Step]", account: "Any") -> "Play":
    """Raise Changed where somebody edited a file of ours since we wrote it."""
    for step in _whole(steps):
        now = yield Read(step.path, account if step.login is not None else None)
        if now.text != step.after:
            raise _changed(step, "somebody else changed it during the operation; ours is taken out, theirs stays")


def _put_back(steps: "List[Step]", account: "Any") -> "Play":
    """Return the Stop that says where somebody put an older copy over what is committed by now, or None.

    Whoever has read the file before we wrote it may save it at any time. This is our last look, so that only a copy that comes
    after our last word is left to the next check.
    """
    for step in _whole(steps):
        try:
            whose = account if step.login in (None, account.name) else (yield FindAccount(step.login))
            # With the rights of the login whose file it is, or not at all.
            now = step.after if whose is None else (yield Read(step.path, whose if step.login is not None else None)).text
        except Exception:
            now = step.after  # it was proved, and nothing else is seen now
        if now != step.after and not _holds(step, now or ""):
            return _changed(step, "the change was done, and somebody else has put an older copy of it back")
    return None


def _holds(step: Step, now: str) -> bool:
    """Whether a file that others have edited since still has what step has brought, and not what it has taken away."""
    if step.kind == "block":
        return sshd.block(now) == sshd.block(step.after or "")
    before, after, lines = (text.split("\n") for text in (step.before or "", step.after or "", now))
    brought = keys.lines_over(after, before)
    taken = [line for line in keys.lines_over(before, after) if line not in after]
    return not keys.lines_over(brought, lines) and not any(line in lines for line in taken)


def _whole(steps: "List[Step]") -> "List[Step]":
    """Return one step for each file whose text changes: from what was there at first to what is there at last."""
    whole = {}  # type: Dict[str, Step]
    for step in steps:
        if step.kind in ("keys", "block"):
            whole[step.path] = step._replace(before=whole.get(step.path, step).before)
    return [whole[path] for path in sorted(whole)]


def _changed(step: Step, how: str) -> Changed:
    cause = "authorized_keys_changed" if step.kind == "keys" else "sshd_config_changed"
    return Changed(cause, "{}: {}. Retry when they are done".format(step.path, how), path=step.path)


def _digests(steps: "List[Step]") -> "List[Dict[str, Any]]":
    """Return of each file whose text these steps have changed the SHA-256 of what was there and of what we put there, in hex."""
    changed = [step for step in _whole(steps) if step.before != step.after][:_MOST_FILES]
    if not changed:
        return []
    try:
        import hashlib  # where it is needed: slow to load
    except ImportError:
        return []  # the change holds by now: for want of this its result must not be lost

    def digest(text: "Optional[str]") -> "Optional[str]":
        return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    return [{"path": step.path[:_LONGEST_PATH], "before": digest(step.before), "after": digest(step.after)} for step in changed]
