"""The transaction: one generator that yields effects and never touches a machine.

    lock -> recover -> look -> decide -> journal (-> arm) -> widen -> prove -> narrow -> prove -> commit

Whatever goes wrong after the journal stands is undone in reverse, by the same records that anybody else would use who comes
after a crash: recover() is called by the next run, by a watcher at the deadline and by the boot unit.

drive() plays a generator on a host.
"""

from . import keys, sshd
from .errors import Changed, Failed, Lost, Refused, Stop, from_os_error
from .host import (
    MAIN_CONFIG,
    Arm,
    Ask,
    AskSshd,
    Clock,
    Daemon,
    Delete,
    Disarm,
    DropJournal,
    EndSession,
    FindAccount,
    FindDaemon,
    Glob,
    Ground,
    Limits,
    ListAccounts,
    Listening,
    Lock,
    MakeDirectory,
    MoveJournal,
    Read,
    ReadJournal,
    ReadState,
    Reload,
    RemoveDirectory,
    Replace,
    Say,
    Sessions,
    SetLabel,
    SetMode,
    SetOwner,
    SetPassword,
    Sweep,
    Unread,
    Walk,
    WriteJournal,
    WriteNonce,
    WriteState,
)
from .plan import (
    DROP_IN,
    SHADOW,
    VENDOR_CONFIG,
    Candidate,
    KeyFile,
    Plan,
    Question,
    Seen,
    Step,
    Steps,
    addresses,
    candidates,
    decide,
    is_foreign,
    password_logins,
    password_ways,
    reads_only,
    refuse_path,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional, Tuple

    Play = Generator[Any, Any, Any]
    Settings = Dict[str, List[str]]

_TRIES = 3  # of an undo against somebody who edits the same file at the same time
_MOST_LOGINS = 500
_MOST_FINDINGS = 64  # controller/transport/frames.py takes no more
NO_OPENSSH = (
    "no sshd of OpenSSH serves here: what it lets in, and whether other logins need a password, cannot be asked, only tried; "
    "password login is left as it is"
)
_MOST_NAMED, _LONGEST_SHOWN = 30, 250  # of what is told of a revoke
_MOST_SHOWN = 200  # open sessions


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
    try:
        yield Lock(True)
        if plan.only_plan:
            left = yield ReadJournal()
            story["first"] = "" if left is None else "an earlier operation ({}) is undone first".format(left[1]["operation"])
        else:
            story["recovered"] = yield from recover()
        state = yield ReadState()
        if plan.generation < state.get("generation", 0):
            raise Refused(
                "stale_generation",
                "this server has already seen generation {}, and this order is of {}: somebody else has given a newer one".format(
                    state["generation"], plan.generation
                ),
                generation=state["generation"],
            )
        story["last"] = {name: value for name, value in state.items() if name != "owed"}
        owed = state.get("owed", [])
        if owed and not reads_only(plan):
            _refuse_owed(plan, owed)
        if owed:
            story["leftover"] = "of earlier revokes this remains, and each order tries it again: " + "; ".join(
                _shown(sorted({each["why"] for each in owed}))
            )
        story["limits"] = yield Limits()
        seen = _without_owed((yield from look(plan)), owed)
        if is_foreign(seen) and plan.operation != "reset":
            story["limits"] = story["limits"] + [NO_OPENSSH]
        story["logins"] = password_logins(seen)
        story["closed"] = _ours(seen.config.text)
        story["phase"] = "decide"
        opened = []  # type: List[Step]
        if plan.operation == "reset":
            from .reset import opened as opened_at_rest  # shipped for this only

            opened = opened_at_rest(plan, seen)
        elif plan.diagnose is not None:
            opened = yield from _diagnosed(plan, seen, story)
        steps = decide(plan, seen, opened)
        removal = None
        left_to_logins = not (reads_only(plan) or story.get("first") or seen.daemon.how == "hidden")
        if plan.revoke:
            from .revoke import removal as to_be_removed  # shipped for this only

            removal = to_be_removed(plan, seen, steps, (yield from _elsewhere(plan, seen)))
            steps = removal.steps
            concerned = sorted({plan.login} | {step.login for step in steps.revoke})
            removal = removal._replace(remains=removal.remains + (yield from _cut_off(concerned if left_to_logins else [])))
        elif left_to_logins:
            _refuse_cut_off(plan.login, (yield from _cut_off([plan.login])))
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
            story["sessions"] = _told_of((yield from _sessions(plan, removal.accounts)))
            story.update(remains=_shown(removal.remains), notes=_shown(removal.notes))
        return dict(story, status="unchanged", server_state="as_before", plan=told(plan, seen, steps))
    return (yield from _carry_out(plan, seen, steps, story, removal))


def _diagnosed(plan: Plan, seen: Seen, story: "Dict[str, Any]") -> "Play":
    """Put what keeps a key out into the story, and return the steps that repair, where that is wanted."""
    from . import doctor  # shipped for this only

    texts = yield from _config_files(seen.config.path, seen.config.text)
    notes = yield from doctor.examine(plan, seen, texts)
    # The reason comes first; a file may hold more odd lines than the controller hears out.
    story["findings"] = [finding._asdict() for finding in doctor.diagnose(plan, seen, notes)[:_MOST_FINDINGS]]
    if not plan.repair:
        return []
    steps = doctor.repairs(notes, seen.account)
    story["repairs"] = _shown([doctor.in_words(step) for step in steps])
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
                "grounds": (yield from _grounds(all_steps + steps.revoke, seen.account)),
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
            yield from _finish({"operation": plan.id, "generation": plan.generation, "result": ended})
        except Exception as stop:
            result["leftover"] = str(stop)  # the change holds; the next run tidies up
    if plan.remove and not plan.revoke:
        result["sessions"] = _told_of((yield from _sessions(plan, [seen.account])))
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
    story.update(phase="narrow", removed=_shown(["{}: {}".format(step.login, step.path) for step in removal.steps.revoke]))
    if journal is not None:
        left, wrong = yield from finish_revoke(journal)
    found = yield from _sessions(plan, removal.accounts)
    if plan.end_sessions:
        # Of other people only what a log says that the key opened: whoever got in otherwise goes on working.
        due = [session for account, session in found or [] if account.uid == seen.account.uid or session.used == "yes"]
        story["ended"] = (yield from _ended(due))[:_MOST_SHOWN]
    story["sessions"] = _told_of(found)
    story["phase"] = "prove"
    try:
        yield from _prove(plan, "narrow", removal.steps.revoked, deadline, story, True)
    except Exception as stop:
        wrong = wrong or stop
        if getattr(stop, "cause", "") == "old_key_still_accepted":
            remains += removal.serving
    remains = _shown(left + remains)
    story.update(remains=remains, notes=_shown(removal.notes))
    if wrong is None and remains:
        wrong = Failed("key_remains", "the key is out of all that is ours to change, but not of {}".format("; ".join(remains)))
    if wrong is None:
        return dict(story, phase="done")
    result = _stopped(story, wrong, "partial")
    # A file that could not be changed is for the next run to try again; so the journal has to stay.
    return dict(result, phase="undo") if left else result


def _shown(sentences: "List[str]") -> "List[str]":
    shown = [sentence[:_LONGEST_SHOWN] for sentence in sentences[:_MOST_NAMED]]
    more = len(sentences) - len(shown)
    return shown + ["and {} more".format(more)] * bool(more)


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
    yield from _refuse_other_ground(path, account, journal)
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


def _each_removal(journal: "Dict[str, Any]") -> "List[Dict[str, Any]]":
    """Return a journal for each file of this revoke, with what finish_revoke() has to know of that file."""
    grounds = journal.get("grounds", {})
    return [
        {"remove": journal["remove"], "revoke": [[path, login]], "grounds": {path: grounds[path]} if path in grounds else {}}
        for path, login in journal["revoke"]
    ]


def _still_owed(removals: "List[Dict[str, Any]]") -> "Play":
    """Try each removal, and return those that could not be done: each once, and why."""
    owed = []  # type: List[Dict[str, Any]]
    for each in removals:
        plain = {name: each[name] for name in ("remove", "revoke", "grounds")}
        if any(plain["remove"] == other["remove"] and plain["revoke"] == other["revoke"] for other in owed):
            continue
        left, _ = yield from finish_revoke(plain)
        if left:
            owed.append(dict(plain, why=left[0][:_LONGEST_SHOWN]))
    return owed


def _owed_materials(owed: "List[Dict[str, Any]]", path: "Optional[str]" = None) -> "List[bytes]":
    """Return the material of each key that is still to go, out of this file or any."""
    lines = [line for each in owed for line in each["remove"] if path is None or each["revoke"][0][0] == path]
    return [keys.parse(line).material for line in lines]


def _refuse_owed(plan: Plan, owed: "List[Dict[str, Any]]") -> None:
    if plan.key is not None and keys.parse(plan.key).material in _owed_materials(owed):
        raise Failed(
            "undo_incomplete",
            "this key is revoked, and is taken out of these as soon as that can be done: {}".format(
                "; ".join(_shown([each["why"] for each in owed]))
            ),
        )


def _without_owed(seen: Seen, owed: "List[Dict[str, Any]]") -> Seen:
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


def _sessions(plan: Plan, accounts: "List[Any]") -> "Play":
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


def _told_of(sessions: "Optional[List[Tuple[Any, Any]]]") -> "Optional[List[Dict[str, Any]]]":
    return None if sessions is None else [dict(each._asdict()) for _, each in sessions[:_MOST_SHOWN]]


def _ended(sessions: "List[Any]") -> "Play":
    """End each of these sessions and return the process numbers of those that are gone."""
    ended = []
    for each in sessions:
        try:
            gone = yield EndSession(each)
        except Exception:
            gone = False  # it is told as one that is still open
        if gone:
            ended.append(each.pid)
    return ended


# -- undoing what failed -----------------------------------------------------------------------------------------------


def _grounds(steps: "List[Step]", account: "Any") -> "Play":
    """Return path -> what it stands on, for each step in a login's own files."""
    grounds = {}  # type: Dict[str, List[Any]]
    for step in steps:
        if step.kind in ("directory", "mode", "owner", "label", "keys") and step.path not in grounds:
            owner = account if step.login == account.name else (yield FindAccount(step.login))
            grounds[step.path] = list((yield Ground(step.path, owner)))
    return grounds


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
            yield from _finish(_reverted(journal))
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


def look(plan: Plan) -> "Play":
    """Return what decide() has to know about the server. Reads only."""
    account = yield FindAccount(plan.login)
    if account is None:
        raise Refused("login_missing", "there is no login {} on this server".format(plan.login), login=plan.login)
    daemon = yield FindDaemon(plan.connection)
    config = yield Read(daemon.config, None)
    asked = daemon.how in ("listener", "each")
    check = (yield AskSshd(daemon, ["-t"], None)) if asked else None
    accounts, directory_service = [], False
    if plan.passwords == "off" or reads_only(plan):
        accounts, directory_service = yield ListAccounts()
    concerned = [account] + [
        other for other in accounts if other.name != account.name and (other.uid == 0 or other.password in ("usable", "empty"))
    ]
    if plan.passwords == "off" and len(concerned) > _MOST_LOGINS:
        raise Refused(
            "others_locked_out",
            "more than {} logins have passwords: too many to look at each; use --keep-password-login".format(_MOST_LOGINS),
            logins=[other.name for other in concerned[1:20]],
        )
    main, vendor = config, None
    if config.text is None and (check is None or check.code == 0):
        vendor = yield from _vendor(daemon)
        main, config = (config, config) if vendor is None else (vendor, (yield Read(DROP_IN, None)))
    seen = Seen(account, accounts, directory_service, daemon, config, vendor, check, {}, None, {}, [], None, [], None, [], None)
    if check is not None and check.code != 0:
        return seen._replace(effective={}, files={})
    texts = yield from _config_files(main.path, main.text)
    effective = yield from _effective(plan, seen, concerned[:_MOST_LOGINS], texts, None)
    files = {}
    passed_over = []  # type: List[Tuple[str, str, str]]
    for each in concerned[:_MOST_LOGINS]:
        must = each.name == account.name and plan.diagnose is None
        may_miss = passed_over if must and plan.revoke else None
        files[each.name] = yield from _key_files(
            each, effective[each.name], must, texts if must and plan.remove else [], may_miss
        )
    candidate = None
    places = sshd.password_places(texts)
    unread = []  # type: List[str]
    if plan.passwords is not None:
        candidate = yield from _candidate(plan, seen, concerned[:_MOST_LOGINS], texts, effective)
    if candidate is not None and daemon.how == "listener":
        pid_file = effective[plan.login][addresses(plan)[0]].get("pidfile", [""])[0]
        seen = seen._replace(watched=(pid_file, _sources(texts)))
        unread = yield Unread(daemon, *seen.watched)
    shadow = (yield Read(SHADOW, None)).text if plan.password_hash is not None else None
    seen = seen._replace(effective=effective, files=files, candidate=candidate, places=places, shadow=shadow, unread=unread)
    seen = seen._replace(passed_over=passed_over)
    revoked = effective[plan.login][addresses(plan)[0]].get("revokedkeys", ["none"])[0]
    return seen if revoked == "none" else seen._replace(revoked=(yield from _revoked(revoked)))


def _cut_off(logins: "List[str]") -> "Play":
    """Return what stands in these logins' homes of an operation that was done without root and cut off: a sentence each.

    Whoever comes next without root undoes it, and with it what root has done since; so root neither obeys it nor passes it over.
    """
    found = []
    for login in logins:
        account = yield FindAccount(login)
        for name in ("armed", "revoking", "reverting") if account is not None else ():
            path = "{}/.kps/journal.{}".format(account.home.rstrip("/"), name)
            try:
                there = (yield Read(path, account)).text is not None
            except Refused:
                there = True  # no plain file, or too large: whoever reads it without root may mind less
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                there = False  # the login itself gets no further
            if there:
                found.append("{}: {}: an operation without root was cut off, and its undo is still to come".format(login, path))
    return found


def _refuse_cut_off(login: str, found: "List[str]") -> None:
    if found:
        raise Failed(
            "undo_incomplete",
            "{}. The next order that reaches the server as {} without root undoes it; where what stands now is to stay, "
            "remove that file as {}".format("; ".join(found), login, login),
            remains=found,
        )


def _revoked(path: str) -> "Play":
    """Return the File of RevokedKeys; None where it cannot be read here, though perhaps by sshd."""
    try:
        return (yield Read(path, None))
    except (Stop, OSError):
        return None


def _vendor(daemon: "Any") -> "Play":
    """Return the vendor's main file (File) where sshd reads that, and with it a drop-in of ours; else None."""
    if daemon.config != MAIN_CONFIG:
        return None
    found = yield Read(VENDOR_CONFIG, None)
    return None if found.text is None or sshd.including(found.text, DROP_IN) is None else found


def _config_files(path: str, text: "Optional[str]") -> "Play":
    """Return [(path, text)] of the main file and everything it includes, in reading order, each once."""
    found = []  # type: List[Tuple[str, str]]
    waiting = [(path, text)]
    while waiting and len(found) < 200:
        path, text = waiting.pop(0)
        if text is None or path in [known for known, _ in found]:
            continue
        found.append((path, text))
        inner = []
        for _, pattern, _ in sshd.includes(text):
            for name in (yield Glob(pattern if pattern.startswith("/") else "/etc/ssh/" + pattern)):
                inner.append((name, (yield Read(name, None)).text))
        waiting = inner + waiting
    return found


def _sources(texts: "List[Tuple[str, str]]") -> "List[str]":
    """Return the files of a configuration, and the directories in which one that is removed would be missed."""
    paths = [path for path, _ in texts]
    for _, text in texts:
        for _, pattern, _ in sshd.includes(text):
            if pattern not in paths:
                paths.append(pattern.rpartition("/")[0])
    return paths


def _effective(plan: Plan, seen: Seen, accounts: "List[Any]", texts: "List[Tuple[str, str]]", text: "Optional[str]") -> "Play":
    """Return login -> address -> settings, from sshd's own mouth where there is an sshd to ask."""
    matched = any(sshd.has_match(each) for _, each in texts)
    result = {}  # type: Dict[str, Dict[str, Settings]]
    whole = None  # without a Match one answer serves every login from everywhere
    for account in accounts:
        result[account.name] = {}
        for address in addresses(plan):
            if seen.check is None:
                settings = sshd.scan(dict(texts), (seen.vendor or seen.config).path, account.name, account.groups)
            elif whole is not None and not matched:
                settings = whole
            else:
                spec = "user={},host={},addr={}".format(account.name, address, address)
                if plan.connection:
                    spec += ",laddr={},lport={}".format(*plan.connection[2:4])
                output = yield AskSshd(seen.daemon, ["-T", "-C", spec], text)
                if output.code != 0:
                    raise Refused("sshd_config_invalid", "sshd -T: {}".format(output.err[-300:].strip()), sshd=output.err[-2000:])
                whole = settings = sshd.effective(output.out)
            result[account.name][address] = settings
    return result


def _key_files(
    account: "Any",
    effective: "Dict[str, Settings]",
    must: bool,
    texts: "List[Tuple[str, str]]",
    passed_over: "Optional[List[Tuple[str, str, str]]]" = None,
) -> "Play":
    """Return the KeyFiles that sshd reads for this login. One that can't be read is left out, or (must) raises.

    texts: the configuration, where files count too that are read for other addresses than those asked about. passed_over: takes
    what can't be read and why, as long as anything else can.
    """
    settings = next(iter(effective.values()))
    here = sshd.authorized_keys_paths(settings, account.name, account.uid, account.home)
    every = list(here)
    for other in effective.values():
        if other == settings:
            continue
        every += sshd.authorized_keys_paths(other, account.name, account.uid, account.home)
    every += sshd.authorized_keys_anywhere(texts, account.name, account.groups, account.uid, account.home)
    found = []
    for path in sorted(set(every), key=every.index):
        components = []  # type: List[Any]
        try:
            components = yield Walk(path, account)
            if settings.get("strictmodes") == ["no"]:
                components = [part for part in components if part.kind in ("missing", "link") or part.path == path]
            found.append(KeyFile(path, (yield Read(path, account)), components, path in here))
        except (Stop, OSError) as stop:
            if passed_over is not None:
                passed_over.append((account.name, path, str(stop)))
            elif must:
                refuse_path(components, account.uid)
                raise stop
    return found


def _elsewhere(plan: Plan, seen: Seen) -> "Play":
    """Return the revoke.Elsewhere: who and what besides the login could let a key in. Reads only."""
    from .revoke import Elsewhere, authority_paths

    main = seen.vendor or seen.config
    texts = yield from _config_files(main.path, main.text)
    accounts, directory_service = yield ListAccounts()
    me = seen.account
    others = [other for other in accounts if other.name != me.name]
    unseen, unread = [], list(seen.passed_over)
    if seen.daemon.how == "hidden":
        others = [other for other in others if other.uid == me.uid]
        unseen.append("without root the files of other logins are not looked at")
    if directory_service:
        unseen.append("logins from a directory service are not looked at")
    if len(others) > _MOST_LOGINS:
        others.sort(key=lambda other: other.uid != me.uid and other.home != me.home)
        unseen.append("of {} logins only {} were looked at".format(len(others), _MOST_LOGINS))
    others = others[:_MOST_LOGINS]
    effective = yield from _effective(plan, seen, others, texts, None)
    files = {}
    for other in others:
        files[other.name] = yield from _key_files(other, effective[other.name], False, texts, unread)
    authorities = []
    every = [settings for each in list(effective.values()) + [seen.effective[me.name]] for settings in each.values()]
    for path in authority_paths(every, texts):
        try:
            authorities.append((yield Read(path, None)))
        except (Stop, OSError) as stop:
            unread.append(("TrustedUserCAKeys", path, str(stop)))
    return Elsewhere(others, dict(effective, **{me.name: seen.effective[me.name]}), files, unread, authorities, texts, unseen)


def _candidate(
    plan: Plan, seen: Seen, accounts: "List[Any]", texts: "List[Tuple[str, str]]", effective: "Dict[str, Dict[str, Settings]]"
) -> "Play":
    """Return the mildest sshd_config that does what plan wants, with what sshd itself says of it."""
    if seen.check is None:
        return None
    address = addresses(plan)[0]
    candidate = None
    ours = "" if seen.vendor is not None and seen.config.text is None else seen.config.text
    for text in candidates(plan, ours, effective[plan.login][address]):
        whole = yield from _as_main(seen, text)
        check = yield AskSshd(seen.daemon, ["-t"], whole)
        if check.code != 0:
            return Candidate(text, check, {}, set())
        settings = yield from _effective(plan, seen, accounts, texts, whole)
        differs = set()
        for name, addressed in settings.items():
            for where, after in addressed.items():
                differs |= sshd.changed(effective[name][where], after)
        candidate = Candidate(text, check, settings, differs)
        if plan.passwords != "on" or password_ways(settings[plan.login], seen.account):
            return candidate
    return candidate


def _as_main(seen: Seen, text: str) -> "Play":
    """Return the main file as sshd would read it, if the file of our block held text."""
    parted = None if seen.vendor is None else sshd.including(seen.vendor.text, DROP_IN)
    if parted is None:
        return text
    before, patterns, after = parted
    lines, placed = [before], False
    for pattern in patterns:
        names = set((yield Glob(pattern)))
        if not placed and sshd.is_path(DROP_IN, pattern):
            names.add(DROP_IN)
            placed = True
        for name in sorted(names):
            lines.append(text if name == DROP_IN else 'Include "{}"\n'.format(name))
    return "".join(lines) + after


# -- do, prove ---------------------------------------------------------------------------------------------------------


def _do_all(steps: "List[Step]", seen: Seen, deadline: float, begun: "List[Step]") -> "Play":
    for step in steps:
        if step.kind == "block" and seen.watched is not None:
            yield from _refuse_pending(seen)
        yield Listening(deadline)
        begun.append(step)
        try:
            yield from _do(step, seen.account)
        except OSError as error:
            raise from_os_error(error, step.path)
        if step.kind == "block":
            yield from _reload(seen.daemon)


def _refuse_pending(seen: Seen) -> "Play":
    """Raise Changed where somebody edited sshd's configuration meanwhile: a reload of ours would put that into force."""
    pending = yield Unread(seen.daemon, *seen.watched)
    if pending:
        raise Changed(
            "sshd_config_changed",
            "{}: somebody else changed it during the operation, and our reload would put that into force. Reload sshd yourself "
            "and see that it is right, then retry".format(", ".join(pending[:3])),
            path=pending[0],
        )


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


def _reload(daemon: "Any") -> "Play":
    if daemon.how != "listener":
        return
    check = yield AskSshd(daemon, ["-t"], None)
    if check.code != 0:
        raise Failed("sshd_config_invalid", "sshd -t after our edit: {}".format(check.err[-300:].strip()))
    if not (yield Reload(daemon, False)):
        raise Failed("reload_failed", "sshd did not listen anew after it was told to re-read its configuration")


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
    last = {step.path: step for step in steps if step.kind in ("keys", "block")}
    for path, step in sorted(last.items()):
        now = yield Read(path, account if step.login is not None else None)
        if now.text != step.after:
            raise Changed(
                "authorized_keys_changed" if step.kind == "keys" else "sshd_config_changed",
                "{}: somebody else changed it during the operation; ours is taken out, theirs stays. "
                "Retry when they are done".format(path),
                path=path,
            )


# -- undo --------------------------------------------------------------------------------------------------------------


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
            yield from _try_owed()
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
        owed = yield from _still_owed(_each_removal(journal))
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
        state = _reverted(journal)
    if not locked:
        raise Refused("busy", "undone; whoever holds the lock has not ended")
    yield from _finish(state)
    return {"operation": state["operation"], "result": state["result"]}


def _reverted(journal: "Dict[str, Any]") -> "Dict[str, Any]":
    return {"operation": journal["operation"], "generation": journal["generation"], "result": "reverted"}


def _try_owed() -> "Play":
    """Take away what earlier revokes could not, where that can be done by now."""
    state = yield ReadState()
    if state.get("owed"):
        owed = yield from _still_owed(state["owed"])
        if owed != state["owed"]:
            rest = {name: value for name, value in state.items() if name != "owed"}
            yield WriteState(dict(rest, owed=owed) if owed else rest)


def _finish(state: "Dict[str, Any]") -> "Play":
    before = yield ReadState()
    owed = before.get("owed", []) + [each for each in state.get("owed", []) if each not in before.get("owed", [])]
    if owed:
        # Kept whatever has been here since: a state of a lower generation would not be written.
        state = dict(state, owed=owed, generation=max(state["generation"], before.get("generation", 0)))
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
    yield from _refuse_other_ground(step.path, account, journal)
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
        yield from _undo_text(step, owner)
        if step.kind == "block":
            yield from _reload_after_undo(journal)


def _refuse_other_ground(path: str, account: "Any", journal: "Dict[str, Any]") -> "Play":
    before = journal.get("grounds", {}).get(path)
    if before is not None and list((yield Ground(before[0], account))) != before:
        # What is not to be seen now is no file that somebody has removed: it comes back with its file system, the key in it.
        raise Failed("disk_gone", "{} is not the directory that it was; is it mounted?".format(before[0]), path=before[0])


def _undo_text(step: Step, owner: "Any") -> "Play":
    yield Sweep(step.path, owner)
    for _ in range(_TRIES):
        now = (yield Read(step.path, owner)).text
        wanted = undone(step, now)
        if wanted == now:
            return
        try:
            if wanted is None:
                yield Delete(step.path, owner, now)
            else:
                yield Replace(step.path, owner, now, wanted, True)
            return
        except Changed:
            continue  # somebody else writes at the same time: look again
    raise Failed("undo_incomplete", "somebody else keeps changing it")


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


def _reload_after_undo(journal: "Dict[str, Any]") -> "Play":
    """Have sshd run on the restored file. A file that sshd does not accept is never loaded: the running one is then better."""
    before = Daemon(*journal["daemon"])
    if before.how != "listener":
        return  # each connection has the file read anew
    daemon = yield FindDaemon(journal["connection"])
    _, boot = yield Clock()
    died = daemon.how != "listener"
    if died and boot != journal["boot"]:
        return  # the system starts its own
    if died:
        # Of our edit, it may be. It is started as it was; what is found now, if anything, serves a session that outlives it.
        daemon = before
    check = yield AskSshd(daemon, ["-t"], None)
    if check.code != 0:
        raise Failed("sshd_config_invalid", "sshd -t: {}".format(check.err[-300:].strip()))
    if not (yield Reload(daemon, died)):
        raise Failed("reload_failed", "sshd does not listen anew")
