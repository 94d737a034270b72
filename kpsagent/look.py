"""What there is on the server, for decide(): effects that read and change nothing."""

from . import sshd
from .errors import Changed, Failed, Refused, Stop
from .host import MAIN_CONFIG, AskSshd, FindAccount, FindDaemon, Glob, ListAccounts, Read, Unread, Walk
from .plan import (
    DROP_IN,
    SHADOW,
    VENDOR_CONFIG,
    Candidate,
    KeyFile,
    Plan,
    Seen,
    addresses,
    candidates,
    password_ways,
    reads_only,
    refuse_path,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional, Tuple

    Play = Generator[Any, Any, Any]
    Settings = Dict[str, List[str]]

MOST_LOGINS = 500


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
    if plan.passwords == "off" and len(concerned) > MOST_LOGINS:
        raise Refused(
            "others_locked_out",
            "more than {} logins have passwords: too many to look at each; use --keep-password-login".format(MOST_LOGINS),
            logins=[other.name for other in concerned[1:20]],
        )
    main, vendor = config, None
    if config.text is None and (check is None or check.code == 0):
        vendor = yield from _vendor(daemon)
        main, config = (config, config) if vendor is None else (vendor, (yield Read(DROP_IN, None)))
    seen = Seen(account, accounts, directory_service, daemon, config, vendor, check, {}, None, {}, [], None, [], None, [], None)
    if check is not None and check.code != 0:
        return seen._replace(effective={}, files={})
    texts = yield from config_files(main.path, main.text)
    effective = yield from effective_for(plan, seen, concerned[:MOST_LOGINS], texts, None)
    files = {}
    passed_over = []  # type: List[Tuple[str, str, str]]
    for each in concerned[:MOST_LOGINS]:
        must = each.name == account.name and plan.diagnose is None
        may_miss = passed_over if must and plan.revoke else None
        files[each.name] = yield from key_files(each, effective[each.name], must, texts if must and plan.remove else [], may_miss)
    candidate = None
    places = sshd.password_places(texts)
    unread = []  # type: List[str]
    if plan.passwords is not None:
        candidate = yield from _candidate(plan, seen, concerned[:MOST_LOGINS], texts, effective)
    if candidate is not None and daemon.how == "listener":
        pid_file = effective[plan.login][addresses(plan)[0]].get("pidfile", [""])[0]
        seen = seen._replace(watched=(pid_file, sources(texts)))
        unread = yield Unread(daemon, *seen.watched)
    if plan.operation == "password-set" and daemon.how == "hidden":
        raise Refused(
            "sudo_refused",
            "setting a password takes an agent that runs as root, and here is none: {} may not become root, or only SFTP is "
            "to be had; give a login that may (sudo)".format(plan.login),
        )
    shadow = (yield Read(SHADOW, None)).text if plan.password_hash is not None else None
    seen = seen._replace(effective=effective, files=files, candidate=candidate, places=places, shadow=shadow, unread=unread)
    seen = seen._replace(passed_over=passed_over)
    revoked = effective[plan.login][addresses(plan)[0]].get("revokedkeys", ["none"])[0]
    return seen if revoked == "none" else seen._replace(revoked=(yield from _revoked(revoked)))


def cut_off(logins: "List[str]") -> "Play":
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


def refuse_cut_off(login: str, found: "List[str]") -> None:
    """Raise Failed where cut_off() has found anything."""
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


def config_files(path: str, text: "Optional[str]") -> "Play":
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


def refuse_pending(daemon: "Any", pid_file: str, paths: "List[str]") -> "Play":
    """Raise Changed where somebody edited sshd's configuration meanwhile: a reload of ours would put that into force."""
    pending = yield Unread(daemon, pid_file, paths)
    if pending:
        raise Changed(
            "sshd_config_changed",
            "{}: somebody else changed it during the operation, and our reload would put that into force. Reload sshd yourself "
            "and see that it is right, then retry".format(", ".join(pending[:3])),
            path=pending[0],
        )


def sources(texts: "List[Tuple[str, str]]") -> "List[str]":
    """Return the files of a configuration, and the directories in which one that is removed would be missed."""
    paths = [path for path, _ in texts]
    for _, text in texts:
        for _, pattern, _ in sshd.includes(text):
            if pattern not in paths:
                paths.append(pattern.rpartition("/")[0])
    return paths


def effective_for(plan: Plan, seen: Seen, accounts: "List[Any]", texts: "List[Tuple[str, str]]", text: "Optional[str]") -> "Play":
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


def key_files(
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
        whole = yield from as_main(seen, text)
        check = yield AskSshd(seen.daemon, ["-t"], whole)
        if check.code != 0:
            return Candidate(text, check, {}, set())
        settings = yield from effective_for(plan, seen, accounts, texts, whole)
        differs = set()
        for name, addressed in settings.items():
            for where, after in addressed.items():
                differs |= sshd.changed(effective[name][where], after)
        candidate = Candidate(text, check, settings, differs)
        if plan.passwords != "on" or password_ways(settings[plan.login], seen.account):
            return candidate
    return candidate


def as_main(seen: Seen, text: str) -> "Play":
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
