"""The orders for doors: open, extend, close, look. What closes one, whoever does: kpsagent/doors.py."""

from . import sshd
from .doors import before_first_match, closed, entry, finished, goes_on, is_plain, match, tidied
from .errors import Changed, Failed, Lost, Refused, shown
from .host import (
    ArmDoor,
    AskBeside,
    AskSshd,
    Clock,
    Daemon,
    DoorPlace,
    ListAccounts,
    Listening,
    Lock,
    MoveDoor,
    Read,
    ReadDoor,
    ReadJournal,
    ReadState,
    Replace,
    Say,
    Unread,
    Wall,
    WriteDoor,
    WriteState,
)
from .look import MOST_LOGINS, as_main, config_files, look, refuse_pending, sources
from .plan import (
    ELSEWHERE,
    Plan,
    Question,
    Seen,
    addresses,
    block_step,
    config_text,
    door_told,
    has_shell,
    last_line,
    named,
    password_gets_in,
    password_logins,
    refuse_broken,
    refuse_stale,
    refuse_unread,
)
from .undo import fenced, recover, reload_after_edit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Generator, List, Optional, Tuple

    Play = Generator[Any, Any, Any]
    Settings = Dict[str, List[str]]
    Door = Dict[str, Any]

# What sshd may make otherwise of the login while its door is open.
_OURS = frozenset(["passwordauthentication", "authenticationmethods", "permitrootlogin"])
_NOWHERE = {32: "192.0.2.77", 128: "2001:db8::77"}  # addresses of documentation: nobody comes from there


def operation(plan: Plan, story: "Dict[str, Any]", prove: "Callable[..., Play]", stopped: "Callable[..., Any]") -> "Play":
    """Open, extend, close or look at a door; return the result. prove and stopped: as the transaction has them."""
    opening = []  # type: List[Door]
    try:
        yield Lock(True)
        place, passing, at_boot = yield DoorPlace()
        story["recovered"] = yield from recover()
        door = yield from tidied()
        state = yield ReadState()
        refuse_stale(plan, state)
        closes = plan.operation == "door-close" and door is not None and door["id"] == plan.door["id"]
        if not closes:  # which leaves a higher generation itself, and is not to wait for room on the disk
            yield from fenced(plan, state)
        story["last"] = {name: value for name, value in state.items() if name not in ("owed", "door", "ended")}
        if plan.operation == "door-open":
            if door is None:
                draft = yield from _decided(plan, place, passing, at_boot, story)
                return (yield from _opened(plan, draft, story, prove, opening))
            if door["id"] != plan.door["id"]:
                raise _other(door)
            return dict(story, status="unchanged", server_state="as_asked", phase="done", door=door_told(door))
        if plan.operation == "door-extend":
            return (yield from _extended(plan, door, state, story))
        if plan.operation == "door-close":
            return (yield from _closed(plan, door, state, story, prove))
        if door is not None:
            story["door"] = door_told(door)
        elif "door" in state:
            story["door"] = door_told(state["door"], "closed")
        yield from _logins(plan, story)
        return dict(story, status="unchanged", server_state="as_asked")
    except Exception as stop:
        if not opening:
            return stopped(story, stop, "as_before")
        return (yield from _taken_back(opening[0], story, stop, stopped))


def _looked(plan: Plan) -> "Play":
    # As for a diagnosis: files of keys that cannot be read stand in nobody's way here.
    return (yield from look(plan._replace(diagnose="")))


def _logins(plan: Plan, story: "Dict[str, Any]") -> "Play":
    """Have the story tell who gets in by password; where that cannot be seen, the door is told of all the same."""
    try:
        story["logins"] = password_logins((yield from _looked(plan)))
    except Exception as stop:
        story["notes"] = shown(["who gets in by password could not be looked at: {}".format(stop)])


def _other(door: "Door") -> Refused:
    return Refused(
        "door_open",
        "another emergency door is open here, for {}; close that one first".format(door["login"]),
        door=door["id"],
        login=door["login"],
    )


def _unknown(plan: Plan, door: "Optional[Door]") -> Refused:
    stands = "none is open here" if door is None else "the one that is open here is for {}".format(door["login"])
    return Refused("door_unknown", "this emergency door is not open: {}".format(stands), door=plan.door["id"])


def _extended(plan: Plan, door: "Optional[Door]", state: "Dict[str, Any]", story: "Dict[str, Any]") -> "Play":
    if door is None or door["id"] != plan.door["id"]:
        raise _unknown(plan, door)
    wall, (now, boot) = (yield Wall()), (yield Clock())
    door = dict(door, boot=boot, **_times(plan, wall, now))
    door["watchers"] = yield ArmDoor(True)
    yield WriteDoor("open", door)
    found = yield ReadDoor()
    if found is None or found[0] != "open":
        yield MoveDoor("closing")  # its time was over just before: whoever closes it goes on
        raise Failed("deadline_passed", "the door closed by itself just before it was to stay open for longer")
    yield WriteState(_succeeded(plan, state))
    return dict(story, status="succeeded", server_state="as_asked", phase="done", door=door_told(door))


def _times(plan: Plan, wall: float, now: float) -> "Door":
    """Return until when it is open: by the server's clock, and by the one of this boot."""
    deadline = int(wall) + plan.door["seconds"]
    return {"deadline": deadline, "until": now + (deadline - wall)}


def _succeeded(plan: Plan, state: "Dict[str, Any]") -> "Dict[str, Any]":
    return dict(state, operation=plan.id, generation=plan.generation, result="succeeded")


def _closed(
    plan: Plan, door: "Optional[Door]", state: "Dict[str, Any]", story: "Dict[str, Any]", prove: "Callable[..., Play]"
) -> "Play":
    last = state.get("door") or {}
    done = {"status": "succeeded", "server_state": "as_asked", "phase": "done"}
    if door is None and last.get("id") == plan.door["id"]:
        yield from _logins(plan, story)
        return dict(story, **dict(done, status="unchanged", door=door_told(last, "closed")))
    if door is None or door["id"] != plan.door["id"]:
        raise _unknown(plan, door)
    yield Say("narrow", {"steps": 1})
    story["phase"] = "narrow"
    try:
        door = yield from closed("open", door, "order")
    except Exception as stop:
        raise goes_on(stop)
    # It is closed: whatever goes wrong from here on is told beside that.
    story["door"] = door_told(door, "closed")
    try:
        yield from finished(door, _succeeded(plan, state))
        yield from _refused(plan, story, prove)
        yield ReadJournal()  # the nonce goes
    except Exception as stop:
        story["leftover"] = str(stop)  # a watcher, or the next order, tidies up
    return dict(story, **done)


def _refused(plan: Plan, story: "Dict[str, Any]", prove: "Callable[..., Play]") -> "Play":
    """Have it shown from outside that no password is asked for any more, where none is to be; or note why it was not."""
    try:
        seen = yield from _looked(plan)
        refuse_broken(seen)
        story["logins"] = password_logins(seen)
        if not sshd.passwords_asked(seen.effective[plan.login][addresses(plan)[0]]):
            now, _ = yield Clock()
            question = Question("password", plan.login, "refused", "refused", None, None)
            yield from prove(plan, "narrow", [question], now + plan.deadline_seconds, story, False)
    except Exception as stop:
        story["notes"] = shown(["closed, and not seen from outside: {}".format(stop)])


# -- opening -----------------------------------------------------------------------------------------------------------


def _decided(plan: Plan, place: str, passing: bool, at_boot: "List[str]", story: "Dict[str, Any]") -> "Play":
    """Return the door as it is to be made, with what is needed to open and to close it; or refuse. Reads only."""
    if not is_plain(plan.login):
        raise Refused(
            "login_is_pattern",
            "{}: sshd would take this name in a Match for a pattern, or for more than one word".format(plan.login),
            login=plan.login,
        )
    seen = yield from _looked(plan)
    story["phase"] = "decide"
    refuse_broken(seen)
    text = config_text(seen)
    if seen.daemon.how not in ("listener", "each"):
        raise Refused(
            "reload_failed",
            "the sshd that serves this connection was not found, so it cannot be asked nor told to re-read its configuration",
        )
    texts = yield from config_files((seen.vendor or seen.config).path, (seen.vendor or seen.config).text)
    if (yield Read(place, None)).text is not None:
        raise Refused("path_unsafe", "{} is there already, and no door stands; look who made it".format(place), path=place)
    for path, each in texts:
        for number, pattern, _ in sshd.includes(each):
            if sshd.is_path(place, pattern):
                raise Refused("door_wider", "{}:{}: it includes {} already".format(path, number, place), path=path, line=number)
    inside, outside = _where(plan)
    asked = yield from _asked(plan, seen, [plan.login], inside + outside, None, None)
    before = asked[plan.login]
    _refuse_login(plan, seen, before, inside)
    ours = match(plan.login, plan.door["from"], _settings(seen, before[inside[0]]))
    refuse_unread((yield from _unread(seen, texts, before)))
    after, beside, check = yield from _included(plan, seen, text, place, ours)
    put = after[: len(after) - len(text)]
    if check.code != 0 and "bad configuration option: include" in check.err.lower():
        place, passing, beside = "", False, None
        after, put = before_first_match(text, entry(plan.door["id"], ours))
        check = yield AskSshd(seen.daemon, ["-t"], after)
    if check.code != 0:
        raise _no_effect(plan, seen, last_line(check.err))
    if not (passing or at_boot):
        raise Refused(
            "door_unwatched",
            "nothing here would close a door that a reboot finds open (no systemd, no rcS.d, no cron)",
        )
    block_step(seen, after)  # refuses where the file cannot be written
    yield from _judged(plan, seen, before, inside, outside, after, beside)
    if not at_boot:
        story["limits"] = ["nothing here runs at boot: a reboot closes the door at once, whatever its deadline"]
    return {
        "id": plan.door["id"],
        "login": plan.login,
        "from": plan.door["from"],
        "place": place,
        "match": ours,
        "config": seen.config.path,
        "before": seen.config.text is not None,
        "entry": put,
        "after": after,
        "daemon": list(seen.daemon),
        "connection": plan.connection,
        "operation": plan.id,
        "generation": plan.generation,
        "text": seen.config.text,
        "sources": sources(texts),
        "pid_file": _first(before).get("pidfile", [""])[0],
        "inside": inside,
        "asks": bool(sshd.passwords_asked(before[addresses(plan)[0]])),
    }


def _first(effective: "Dict[str, Settings]") -> "Settings":
    return next(iter(effective.values()))


def _where(plan: Plan) -> "Tuple[List[str], List[str]]":
    """Return addresses from which the door is open, and such from which it is not."""
    known = addresses(plan) + [ELSEWHERE] + list(_NOWHERE.values())
    if plan.door["from"] is None:
        return sorted(set(known), key=known.index), []
    bits, length = sshd.network(plan.door["from"])  # type: ignore[misc]
    size = len(bits)
    first, last = int(bits[:length].ljust(size, "0"), 2), int(bits[:length].ljust(size, "1"), 2)
    inside = [sshd.address(number, size) for number in sorted({first, last})]
    outside = [sshd.address(number, size) for number in (first - 1, last + 1) if 0 <= number < 1 << size]
    for each in known:
        (inside if sshd.in_network(each, plan.door["from"]) else outside).append(each)
    return sorted(set(inside), key=inside.index), sorted(set(outside), key=outside.index)


def _asked(plan: Plan, seen: Seen, logins: "List[str]", where: "List[str]", text: "Any", beside: "Any") -> "Play":
    """Return login -> address -> settings, as sshd says; with text as if its main file held that."""
    whole = None if text is None else (yield from as_main(seen, text))
    found = {}  # type: Dict[str, Dict[str, Settings]]
    for login in logins:
        found[login] = {}
        for address in where:
            spec = "user={},host={},addr={}".format(login, address, address)
            if plan.connection:
                spec += ",laddr={},lport={}".format(*plan.connection[2:4])
            said = yield AskBeside(seen.daemon, ["-T", "-C", spec], whole, beside)
            if said.code != 0:
                raise Refused("sshd_config_invalid", "sshd -T: {}".format(said.err[-300:].strip()), sshd=said.err[-2000:])
            found[login][address] = sshd.effective(said.out)
    return found


def _refuse_login(plan: Plan, seen: Seen, before: "Dict[str, Settings]", inside: "List[str]") -> None:
    account = seen.account
    if account.expired == "account":
        raise Refused("login_expired", "the account of {} has expired; see chage -l {}".format(account.name, account.name))
    if not has_shell(account) or account.barred:
        why = account.barred or "it has the shell {}: a login ends at once".format(account.shell)
        raise Refused("login_not_allowed", "{} cannot log in: {}".format(account.name, why), login=account.name)
    if account.password not in ("usable", "unknown"):
        raise Refused(
            "no_usable_password",
            "{} has no password that could get it in (it is {}); set one with the order".format(account.name, account.password),
            login=account.name,
            password=account.password,
        )
    reasons = [sshd.login_allowed(before[each], account.name, account.groups, each, each, account.uid) for each in inside]
    if all(reasons):
        raise Refused("login_not_allowed", "sshd lets {} not in: {}".format(account.name, reasons[0]), login=account.name)
    _refuse_wider_match(plan, seen, before)
    if all(sshd.password_ways(before[each], account.name, account.uid) for each in inside):
        raise Refused(
            "door_needless",
            "passwords get {} in already{}; a door would open nothing, and closing it would close nothing".format(
                account.name, named(seen.places)
            ),
            login=account.name,
        )


def _settings(seen: Seen, settings: "Settings") -> "List[Tuple[str, str]]":
    """Return what has to be set for a password to get the login in, and no more."""
    found = [("PasswordAuthentication", "yes")]
    methods = " ".join(settings.get("authenticationmethods", ["any"])).split()
    if methods not in ([], ["any"]) and "password" not in methods:
        found.append(("AuthenticationMethods", " ".join(methods + ["password"])))
    if seen.account.uid == 0 and settings.get("permitrootlogin") != ["yes"]:
        found.append(("PermitRootLogin", "yes"))  # the other values that let it in at all keep passwords out
    return found


def _unread(seen: Seen, texts: "List[Tuple[str, str]]", before: "Dict[str, Settings]") -> "Play":
    if seen.daemon.how != "listener":
        return []
    return (yield Unread(seen.daemon, _first(before).get("pidfile", [""])[0], sources(texts)))


def _included(plan: Plan, seen: Seen, text: str, place: str, ours: str) -> "Play":
    """Return the main file with our Include at its top, what stands beside it, and what sshd says of it."""
    after = entry(plan.door["id"], 'Include "{}"\n'.format(place)) + text
    beside = (place, ours)
    check = yield AskBeside(seen.daemon, ["-t"], (yield from as_main(seen, after)), beside)
    return after, beside, check


def _no_effect(plan: Plan, seen: Seen, why: str) -> Refused:
    return Refused(
        "door_wider",
        "{}: with our lines in it sshd says: {}; the door cannot be opened like this".format(seen.config.path, why),
        path=seen.config.path,
        login=plan.login,
    )


def _judged(
    plan: Plan,
    seen: Seen,
    before: "Dict[str, Settings]",
    inside: "List[str]",
    outside: "List[str]",
    after: str,
    beside: "Any",
) -> "Play":
    """Refuse unless sshd makes of it what is asked, and nothing else: for this login from there only, for others nothing."""
    account = seen.account
    now = (yield from _asked(plan, seen, [account.name], inside + outside, after, beside))[account.name]
    for address in outside:
        if password_gets_in(now[address], account, address):
            raise _wider(seen, "passwords get {} in from {} too".format(account.name, address))
        if sshd.changed(before[address], now[address]):
            raise _wider(seen, "it would change what holds for {} from {}".format(account.name, address))
    for address in inside:
        others = sshd.changed(before[address], now[address]) - _OURS
        if others:
            raise _wider(seen, "it would change {} too".format(", ".join(sorted(others))))
    # AllowUsers may well let it in from some of them only.
    shut = [each for each in inside if not sshd.password_ways(now[each], account.name, account.uid)]
    if shut:
        raise _wider(seen, "passwords would still not get {} in from {}".format(account.name, shut[0]))
    accounts, _ = yield ListAccounts()
    names = [each.name for each in accounts if has_shell(each) and each.name != account.name][:MOST_LOGINS]
    where = [inside[0], inside[-1]] + outside[:1]
    was = yield from _asked(plan, seen, names, where, None, None)
    will = yield from _asked(plan, seen, names, where, after, beside)
    for name in names:
        for address in where:
            if sshd.changed(was[name][address], will[name][address]):
                raise _wider(seen, "it would change what holds for {} from {}".format(name, address))


def _refuse_wider_match(plan: Plan, seen: Seen, before: "Dict[str, Settings]") -> None:
    """Refuse where a Match lets the login in by password from anywhere that the door is not open to."""
    network = plan.door["from"]
    if network is None:
        return
    account = seen.account
    for place in sshd.opening(seen.places, _first(before)):
        if sshd.could_match(place.match, account.name, account.groups) and not sshd.within(place.match, network):
            raise _wider(seen, "passwords may get {} in from elsewhere than {}".format(account.name, network), [place])


def _wider(seen: Seen, what: str, places: "Optional[List[Any]]" = None) -> Refused:
    told = [place for place in seen.places if place.match] if places is None else places
    return Refused(
        "door_wider",
        "{}{}; edit that by hand, or ask for another login or network".format(what, named(told)),
        login=seen.account.name,
        places=[list(place) for place in told],
    )


def _opened(plan: Plan, draft: "Door", story: "Dict[str, Any]", prove: "Callable[..., Play]", opening: "List[Door]") -> "Play":
    """Have the door watched, open it, have that proved, and return the result. opening: takes the door once it stands."""
    kept = {
        name: value for name, value in draft.items() if name not in ("after", "text", "sources", "pid_file", "inside", "asks")
    }
    wall, (now, boot) = (yield Wall()), (yield Clock())
    deadline = now + min(plan.deadline_seconds, plan.door["seconds"])
    door = dict(kept, boot=boot, opened_at=int(wall), opening_until=deadline, watchers=[], **_times(plan, wall, now))
    opening.append(door)
    yield WriteDoor("opening", door)
    door["watchers"] = yield ArmDoor(True)
    yield WriteDoor("opening", door)
    story.update(phase="widen", armed=door["watchers"])
    yield Say("widen", {"steps": 1})
    yield from _still_opening(door, deadline)
    daemon = Daemon(*door["daemon"])
    if daemon.how == "listener":
        yield from refuse_pending(daemon, draft["pid_file"], draft["sources"])
    if door["place"]:
        yield Replace(door["place"], None, None, door["match"], False)
    yield from _still_opening(door, deadline)
    yield Replace(door["config"], None, draft["text"], draft["after"], False)
    yield from reload_after_edit(daemon)
    questions = _questions(plan, draft)
    story["phase"] = "prove"
    if questions:
        yield from prove(plan, "widen", questions, deadline, story, False)
    else:
        story["notes"] = ["seen by sshd's own word only: it is open from {}, and we come from elsewhere".format(door["from"])]
    story["phase"] = "commit"
    if (yield Read(door["config"], None)).text != draft["after"]:
        raise Changed("sshd_config_changed", "{}: somebody else changed it meanwhile".format(door["config"]), path=door["config"])
    yield from _still_opening(door, deadline)
    if not (yield MoveDoor("open")):
        raise Lost("deadline_passed", "the deadline passed before the proof came; the server has closed the door again")
    opening.clear()
    result = dict(story, status="succeeded", server_state="as_asked", phase="done", door=door_told(door))
    try:
        yield WriteState(_succeeded(plan, (yield ReadState())))
        yield ReadJournal()  # the nonce goes
    except Exception as stop:
        result["leftover"] = str(stop)  # the door is open, and watched
    return result


def _still_opening(door: "Door", deadline: float) -> "Play":
    """Lost where the controller is gone, the deadline has passed, or a watcher has begun to close what we open."""
    yield Listening(deadline)
    found = yield ReadDoor()
    if found is None or found[0] != "opening" or found[1]["id"] != door["id"]:
        raise Lost("deadline_passed", "the server has begun to close the door before it was open")


def _questions(plan: Plan, draft: "Door") -> "List[Question]":
    """Return what the controller can show from where it is: that a password gets in, or that from there it does not."""
    if addresses(plan)[0] in draft["inside"]:
        least = "logged_in" if plan.password_known else "password_offered"
        return [Question("password", plan.login, least, least, None, None)]
    return [] if draft["asks"] else [Question("password", plan.login, "refused", "refused", None, None)]


def _taken_back(door: "Door", story: "Dict[str, Any]", stop: "Exception", stopped: "Callable[..., Any]") -> "Play":
    """Close what was not opened to the end, then tell how it ended."""
    result = stopped(story, stop, "as_before" if story["phase"] in ("look", "decide") else "reverted")
    try:
        door = yield from closed("opening", dict(door, opened=False), "order", False)
        yield from finished(door)
    except Exception as second:
        return dict(result, server_state="unknown", remains=["{}; the server goes on trying by itself".format(second)])
    return result
