"""Revoking a key that is in wrong hands: from which files it is taken, and what else on the server may still let it in.

look_elsewhere() reads, the rest is pure.

Taken out of every file that serves the login, or somebody who is the same (the same home, the same uid); out of all logins'
files, where that was asked for. What is not ours to change is named.
"""

from collections import namedtuple

from . import keys, sshd
from .errors import Refused, Stop
from .host import ListAccounts, Read
from .look import MOST_LOGINS, config_files, effective_for, key_files
from .plan import ELSEWHERE, Question, has_shell, key_would_do, keys_removed_from, password_ways, refuse_unproved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional, Set, Tuple

    from .host import Account
    from .plan import KeyFile, Plan, Seen, Steps

    Play = Generator[Any, Any, Any]

Elsewhere = namedtuple("Elsewhere", "accounts effective files unread authorities config unseen")
Elsewhere.__doc__ = """What was found besides the login in question. accounts: the other logins; effective, files: as in
plan.Seen, for these. unread: (login, path, why) of files that could not be read. authorities: File of each TrustedUserCAKeys.
config: [(path, text)] of sshd's configuration. unseen: sentences about what could not be looked at."""

Removal = namedtuple("Removal", "steps remains notes serving accounts")
Removal.__doc__ = """plan.Steps with the removal in it; what remains that still lets the key in, what may (notes), and what may
where sshd turns out to take the key after all (serving): sentences, each with a file and line or a setting. accounts: whose
sessions the key may have opened, the login's own first: those out of whose files it goes, and those that are the same."""

_COMMAND, _AUTHORITIES = "AuthorizedKeysCommand", "TrustedUserCAKeys"


def look_elsewhere(plan: "Plan", seen: "Seen") -> "Play":
    """Return the Elsewhere: who and what besides the login could let a key in. Reads only."""
    main = seen.vendor or seen.config
    texts = yield from config_files(main.path, main.text)
    accounts, directory_service = yield ListAccounts()
    me = seen.account
    others = [other for other in accounts if other.name != me.name]
    unseen, unread = [], list(seen.passed_over)
    if seen.daemon.how == "hidden":
        others = [other for other in others if other.uid == me.uid]
        unseen.append("without root the files of other logins are not looked at")
    if directory_service:
        unseen.append("logins from a directory service are not looked at")
    if len(others) > MOST_LOGINS:
        others.sort(key=lambda other: other.uid != me.uid and other.home != me.home)
        unseen.append("of {} logins only {} were looked at".format(len(others), MOST_LOGINS))
    others = others[:MOST_LOGINS]
    effective = yield from effective_for(plan, seen, others, texts, None)
    files = {}
    for other in others:
        files[other.name] = yield from key_files(other, effective[other.name], False, texts, unread)
    authorities = []
    every = [settings for each in list(effective.values()) + [seen.effective[me.name]] for settings in each.values()]
    for path in _authority_paths(every, texts):
        try:
            authorities.append((yield Read(path, None)))
        except (Stop, OSError) as stop:
            unread.append(("TrustedUserCAKeys", path, str(stop)))
    return Elsewhere(others, dict(effective, **{me.name: seen.effective[me.name]}), files, unread, authorities, texts, unseen)


def _authority_paths(effective: "List[Dict[str, List[str]]]", config: "List[Tuple[str, str]]") -> "List[str]":
    """Return the files of certificate authorities that sshd trusts, for whichever login or address."""
    found = [_value(settings.get(_AUTHORITIES.lower())) for settings in effective]
    found += [_value([place.text.partition(" ")[2]]) for place in sshd.places(config, _AUTHORITIES)]
    return [path for path in sorted(set(found), key=found.index) if path.startswith("/")]


def _value(values: "Optional[List[str]]") -> str:
    value = (values or ["none"])[0].strip().strip("\"'")
    return "" if value.lower() == "none" else value


def removal(plan: "Plan", seen: "Seen", steps: "Steps", elsewhere: Elsewhere) -> Removal:
    """Return what is to be done after steps, and what is to be named. Refused where somebody would be locked out."""
    olds = [keys.parse(old) for old in plan.remove]
    text_of = {step.path: step.after for step in steps.widen if step.kind == "keys"}
    removed = []
    remains = []  # type: List[str]
    refused = None  # type: Optional[Refused]
    for account, files in _owners(plan, seen, elsewhere):
        theirs = seen._replace(account=account)
        for each in files:
            try:
                step = keys_removed_from(plan._replace(login=account.name), theirs, each, text_of.get(each.path, each.file.text))
            except Refused as stop:
                refused = refused or stop
                remains += _holding(account.name, each.path, each.file.text, olds)
                continue
            if step is not None:
                removed.append(step)
                text_of[step.path] = step.after
    if not removed and refused is not None:
        raise refused
    if not removed and seen.passed_over:
        raise Refused("path_unsafe", "{1}: it is not read, and the key is in no other file: {2}".format(*seen.passed_over[0]))
    for account in elsewhere.accounts:
        for each in elsewhere.files[account.name]:
            remains += _holding(account.name, each.path, text_of.get(each.path, each.file.text), olds)
    for authority in elsewhere.authorities:
        remains += _holding(_AUTHORITIES, authority.path, authority.text, olds)
    if removed:
        _refuse_weak(plan)
        _refuse_lockouts(plan, seen, elsewhere, {step.path for step in removed}, text_of)
    gone = [Question("key", plan.login, "refused", "refused", old, plan.key) for old in plan.remove]
    serving = _places(elsewhere, _COMMAND, "is asked for keys")
    serving += ["{}: {} could not be read: {}".format(*each) for each in elsewhere.unread]
    notes = list(elsewhere.unseen) + serving + _certificates(seen, elsewhere, olds)
    paths = {step.path for step in removed}
    accounts = [
        account
        for account, files in _owners(plan, seen, elsewhere)
        if _is_same(account, seen.account) or any(each.path in paths for each in files)
    ]
    steps = steps._replace(revoke=removed, revoked=gone)
    return Removal(steps, sorted(set(remains), key=remains.index), notes, serving, accounts)


def _owners(plan: "Plan", seen: "Seen", elsewhere: Elsewhere) -> "List[Tuple[Account, List[KeyFile]]]":
    found = [(seen.account, seen.files[seen.account.name])]
    for other in elsewhere.accounts:
        if _is_same(other, seen.account) or plan.everywhere:
            found.append((other, elsewhere.files[other.name]))
    return found


def _is_same(one: "Account", other: "Account") -> bool:
    return bool(one.uid == other.uid or one.home.rstrip("/") == other.home.rstrip("/"))


def _holding(whose: str, path: str, text: "Optional[str]", olds: "List[keys.Key]") -> "List[str]":
    found = []
    for line in [line for old in olds for line in keys.find(text or "", old)]:
        authority = whose == _AUTHORITIES or "cert-authority" in keys.option_names(line.options)
        what = "makes certificates that are good" if authority else "holds it"
        found.append("{}: {}:{} {}".format(whose, path, line.index + 1, what))
    return found


def _places(elsewhere: Elsewhere, keyword: str, what: str) -> "List[str]":
    """Return where this is set, each as a sentence; "sshd's own arguments" where no file says it."""
    settings = {_value(each.get(keyword.lower())) for other in elsewhere.effective.values() for each in other.values()} - {""}
    found = []
    for place in sshd.places(elsewhere.config, keyword):
        value = _value([place.text.partition(" ")[2]])
        if value:
            found.append("{} {} {} ({}:{})".format(keyword, value, what, place.path, place.line_number))
    named = "\n".join(found)
    return found + [
        "{} {} {} (sshd's own arguments)".format(keyword, each, what) for each in sorted(settings) if each not in named
    ]


def _certificates(seen: "Seen", elsewhere: Elsewhere, olds: "List[keys.Key]") -> "List[str]":
    """Say that a certificate for the key would still be good, where anybody's certificates are."""
    gone = [old.material for old in olds]
    trusted = [each.path for each in elsewhere.authorities if each.text]
    for each in seen.files[seen.account.name]:
        lines = keys.lines(each.file.text or "")
        if any("cert-authority" in keys.option_names(line.options) and line.key.material not in gone for line in lines):
            trusted.append(each.path)
    return [
        "{}: a certificate authority is trusted there; a certificate for this key, if one was issued, still gets in: "
        "list the key in RevokedKeys".format(path)
        for path in trusted
    ]


def _refuse_weak(plan: "Plan") -> None:
    """Refuse where the way in that is to stay would be shown by sshd's word only: nothing brings the removed key back."""
    if plan.operation == "replace" or plan.key is not None:
        refuse_unproved(plan, True)
    elif not (plan.password_known or plan.login in plan.accept_lockout or plan.accept_unproved):
        raise Refused(
            "proof_too_weak",
            "what is revoked does not come back, so another way in is proved before, and none was given: give the password "
            "(--password-stdin) or another key that works (--identity), or use replace; --accept-unproved relies on sshd's "
            "offer to take a password",
            login=plan.login,
        )


def _refuse_lockouts(plan: "Plan", seen: "Seen", elsewhere: Elsewhere, changed: "Set[str]", text_of: "Dict[str, str]") -> None:
    """Refuse where another login gets in by this key today, and by nothing that can be seen afterwards."""
    out = []
    for account in elsewhere.accounts:
        files, effective = elsewhere.files[account.name], elsewhere.effective[account.name]
        if account.name in plan.accept_lockout or not changed & {each.path for each in files}:
            continue
        before = seen._replace(effective=elsewhere.effective, files={account.name: files})
        after = [each._replace(file=each.file._replace(text=text_of.get(each.path, each.file.text))) for each in files]
        if not key_would_do(before, account) or key_would_do(before._replace(files={account.name: after}), account):
            continue
        passwords = plan.passwords != "off" and bool(password_ways(effective, account))
        if not (passwords and sshd.takes_password(effective[ELSEWHERE], account) and not account.expired) and has_shell(account):
            out.append(account.name)
    if out:
        raise Refused(
            "others_locked_out",
            "{} would be locked out: this key is all that lets them in. Give them another first, or name each: {}".format(
                ", ".join(out), " ".join("--accept-lockout " + name for name in out)
            ),
            logins=out,
        )
