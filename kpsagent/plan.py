"""What is wanted of one server, and the pure way from there to steps: a plan and what was seen in, steps or a refusal out.

A plan is JSON, carried verbatim from the request to the server, parsed here once. Everything that can be refused is refused
by decide(), before the first write.
"""

from collections import namedtuple

from . import keys, permissions, sshd
from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, List, Optional, Tuple

    from .host import Account, File

OPERATIONS = (
    "bind",
    "replace",
    "unbind",
    "reset",
    "password-login-enable",
    "password-login-disable",
    "password-login-status",
    "check",
    "password-set",
    "door-open",
    "door-extend",
    "door-close",
    "door-status",
)

SHADOW = "/etc/shadow"

# SUSE's: read where there is no main file, which therefore must never be made; a drop-in is how others add to it.
VENDOR_CONFIG = "/usr/etc/ssh/sshd_config"
DROP_IN = "/etc/ssh/sshd_config.d/00-kps.conf"

# Somebody who logs in from nowhere near the controller: a documentation address (RFC 5737) that no Match names by accident.
ELSEWHERE = "203.0.113.7"

LONGEST_DOOR_SECONDS = 24 * 3600

Plan = namedtuple(
    "Plan",
    "operation id generation login key remove passwords provable password_known accept_lockout accept_unproved force"
    " fix_permissions deadline_seconds password_hash connection diagnose as_if_listed repair only_plan revoke"
    " everywhere end_sessions door ended",
)
Plan.__doc__ = """The wanted state of one server.

key: the public key line that shall work afterwards, or None. remove: public key lines that shall not. passwords: "off", "on"
(effective for the login), "restore" (our block is taken out) or None (left alone). provable: the controller can log in with
key. connection: [client address, client port, server address, server port] of the rope. diagnose: the key line of which is
asked why it can, or can't, log in, "" for the login alone, None where nothing is asked; as_if_listed: what if it were in the
file of keys; repair: mend what is safe to mend. only_plan: say what would be done, and do nothing. revoke: the
keys to be removed are compromised, so their removal is never undone; everywhere: also from other logins' files; end_sessions:
and what they opened ends. door: None, or which door an operation on doors is about: {"id": 32 hexadecimal digits, "from": a
network in CIDR notation or None, "seconds": for how long}. ended: 0, or the generation of an order whose end nobody heard, and
of which the server is asked now: should it come late, it is not carried out any more.
"""

Step = namedtuple("Step", "kind path login before after")
Step.__doc__ = """One change, and at once all that its undo needs. kind: "directory", "mode", "owner", "label", "keys",
"block" or "password"; login: whose file, None for root's; before and after: text, mode, [uid, gid], label or hash (None: nothing
there)."""

Question = namedtuple("Question", "way login want least key known")
Question.__doc__ = """A proof asked of the controller. way: "key" or "password". want: "logged_in", "password_offered" or
"refused"; least: the weakest method that will do. key: the key in question; known: for "refused", the key line that must still
get in."""

Steps = namedtuple("Steps", "widen narrow widened narrowed revoke revoked")
Steps.__doc__ = """Lists of Step, and the questions asked after each. revoke: removals that are never undone; they come after all
else has been proved and committed."""

KeyFile = namedtuple("KeyFile", "path file components here")
KeyFile.__doc__ = """A file in which sshd looks for a login's keys. here: for a client at the controller's address; else at others
only, where a Match says so."""

Candidate = namedtuple("Candidate", "text check effective differs")
Candidate.__doc__ = """sshd_config as it would be: its text, sshd's verdict (Output), login -> address -> settings, and the
keywords that would differ for any of these."""

Seen = namedtuple(
    "Seen",
    "account accounts directory_service daemon config vendor check effective candidate files places shadow unread revoked"
    " passed_over watched",
)
Seen.__doc__ = """What look() found. config: the File that our block goes into. vendor: the vendor's own main file (File),
where sshd reads that because there is no other, and config is a drop-in; else None. check: sshd's verdict on its configuration
as it stands (Output, or None where there is no sshd to ask). effective: login -> address -> settings. candidate: Candidate or
None. files: login -> list of KeyFile, in the order in which sshd reads them. places: where the configuration sets what lets
passwords in. shadow: its text, where a password is to be set. unread: what of the configuration was changed since the running
sshd last read it. revoked: the File of RevokedKeys, None where sshd has none. passed_over: (login,
path, why) of files of keys that could not be read, where what can be is enough. watched: (pid file, paths) by which it can
be asked again what is unread; None where nothing is to be reloaded."""

_DEFAULTS = {
    "key": None,
    "remove": [],
    "passwords": None,
    "provable": True,
    "password_known": False,
    "accept_lockout": [],
    "accept_unproved": False,
    "force": False,
    "fix_permissions": False,
    "deadline_seconds": 60,
    "password_hash": None,
    "connection": None,
    "diagnose": None,
    "as_if_listed": False,
    "repair": False,
    "only_plan": False,
    "revoke": False,
    "everywhere": False,
    "end_sessions": False,
    "door": None,
    "ended": 0,
}  # type: Dict[str, Any]

_TEXT = (str, type(None))
_KINDS = {
    "operation": str,
    "id": str,
    "generation": int,
    "ended": int,
    "login": str,
    "key": _TEXT,
    "remove": (list, tuple),
    "deadline_seconds": (int, float),
    "accept_lockout": (list, tuple),
    "password_hash": _TEXT,
}  # type: Dict[str, Any]
_PASSWORD_KEYWORDS = ("passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication")
# With these a key still gives its login a session; with any other, known or not, it may not.
_HARMLESS = {"no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding", "environment", "restrict"}
_NO_SHELL = ("nologin", "false")


def parse(raw: "Dict[str, Any]") -> Plan:
    """Return the Plan that this JSON object says; ValueError where it says none."""
    unknown = set(raw) - set(Plan._fields)
    if unknown:
        raise ValueError("unknown fields: {}".format(", ".join(sorted(unknown))))
    plan = Plan(**dict(dict.fromkeys(Plan._fields), **dict(_DEFAULTS, **raw)))
    wrong = [name for name, kind in _KINDS.items() if not isinstance(getattr(plan, name), kind)]
    if wrong or not all(isinstance(line, str) for line in plan.remove):
        raise ValueError("missing, or of the wrong kind: {}".format(", ".join(wrong or ["remove"])))
    if plan.operation not in OPERATIONS or plan.passwords not in (None, "off", "on", "restore"):
        raise ValueError("unknown operation or password state")
    if not 1 <= plan.deadline_seconds <= 3600:
        raise ValueError("generation or deadline out of range")
    for line in [plan.key] * (plan.key is not None) + [plan.diagnose] * bool(plan.diagnose) + list(plan.remove):
        keys.parse(line)
    if plan.operation == "password-set" and not _is_hash(plan.password_hash):
        raise ValueError("password_hash: a hash as it stands in shadow")
    if plan.operation.startswith("door-") and plan.operation != "door-status":
        _parse_door(plan.door)
    return plan


def _is_hash(text: "Optional[str]") -> bool:
    """Whether this can stand in shadow as a hash by which somebody gets in: one field of one line."""
    return text is not None and text.startswith("$") and len(text) <= 512 and not set(text) & set(":\n\r\0 !*")


def _parse_door(door: "Any") -> None:
    if not isinstance(door, dict) or set(door) != {"id", "from", "seconds"}:
        raise ValueError("door: id, from and seconds")
    digits = door["id"] if isinstance(door["id"], str) else ""
    if len(digits) != 32 or digits.strip("0123456789abcdef"):
        raise ValueError("door: an id of 32 hexadecimal digits")
    if not isinstance(door["seconds"], int) or not 1 <= door["seconds"] <= LONGEST_DOOR_SECONDS:
        raise ValueError("door: seconds out of range")
    if door["from"] is not None and not (isinstance(door["from"], str) and sshd.network(door["from"])):
        raise ValueError("door: no network in CIDR notation")


def addresses(plan: Plan) -> "List[str]":
    """Return the client addresses for which settings count: the controller's, the server's own, and one from elsewhere."""
    ours = [plan.connection[0]] if plan.connection else []
    return ours + [address for address in ("127.0.0.1", ELSEWHERE) if address not in ours]


def reads_only(plan: Plan) -> bool:
    return plan.operation in ("check", "password-login-status") and not plan.repair


def has_shell(account: "Account") -> bool:
    return bool(account.shell) and account.shell.rsplit("/", 1)[-1] not in _NO_SHELL


def candidates(plan: Plan, text: "Optional[str]", settings: "Dict[str, List[str]]") -> "List[str]":
    """Return sshd_config as this plan would have it, the mildest change first; [] where it leaves the file alone."""
    if text is None or plan.passwords is None:
        return []
    kept = [(word, value) for word, value in sshd.block(text) or [] if word.lower() not in _PASSWORD_KEYWORDS]
    if plan.passwords == "off":
        return [sshd.with_block(text, kept + sshd.password_off(settings))]
    opened = [sshd.with_block(text, kept)]
    if plan.passwords == "on" and plan.force:
        opened.append(sshd.with_block(text, kept + [(word, "yes") for word, _ in sshd.password_off(settings)]))
    return opened


def password_ways(effective: "Dict[str, Dict[str, List[str]]]", account: "Account") -> "List[str]":
    """Return the methods by which a password gets this login in, from any of the addresses."""
    found = set()
    for settings in effective.values():
        found |= sshd.password_ways(settings, account.name, account.uid)
    return sorted(found)


def password_gets_in(settings: "Dict[str, List[str]]", account: "Account", address: str) -> bool:
    """Say whether the right password, and nothing else, gets this login in from this address."""
    ways = sshd.password_ways(settings, account.name, account.uid)
    return bool(ways) and not sshd.login_allowed(settings, account.name, account.groups, address, address, account.uid)


def password_logins(seen: Seen) -> "Dict[str, str]":
    """Return login -> "on", "off" or "unknown" for the logins that were looked at."""
    known = {account.name: account for account in list(seen.accounts) + [seen.account]}
    return {name: _password_login(seen, known[name]) for name in sorted(seen.effective) if name in known}


def is_foreign(seen: Seen) -> bool:
    """Whether there is neither an sshd to ask nor a configuration to read, as with dropbear: what lets in can only be tried."""
    return seen.check is None and seen.config.text is None and seen.daemon.how == "none"


def _password_login(seen: Seen, account: "Account") -> str:
    if is_foreign(seen):
        return "unknown"
    effective = seen.effective[account.name]
    if any(password_gets_in(settings, account, address) for address, settings in effective.items()):
        return "on"
    if password_ways(effective, account):
        return "unknown"  # AllowUsers and the like keep it out from where was asked, and may let it in from elsewhere
    # sshd was asked for some addresses only; a Match may say otherwise for one that nobody asked about.
    opened = sshd.opening(seen.places, next(iter(effective.values())))
    return "unknown" if any(sshd.could_match(place.match, account.name, account.groups) for place in opened) else "off"


def door_told(door: "Dict[str, Any]", state: str = "open") -> "Dict[str, Any]":
    """Return of a door what the controller is told."""
    told = {name: door[name] for name in ("id", "login", "from", "opened_at", "deadline", "watchers")}
    return dict(told, state=state, closed_by=door.get("closed_by") if state == "closed" else None)


def refuse_stale(plan: Plan, state: "Dict[str, Any]") -> None:
    """Refuse an order that is older than one which the server has carried out, or that has ended without having come here."""
    if plan.generation < state.get("generation", 0):
        raise Refused(
            "stale_generation",
            "this server has already seen generation {}, and this order is of {}: somebody else has given a newer one".format(
                state["generation"], plan.generation
            ),
            generation=state["generation"],
        )
    if not reads_only(plan) and plan.generation <= state.get("ended", 0):
        raise Refused(
            "stale_generation",
            "this order comes too late: it has ended on record, and this server was asked since how it was left",
            generation=state["ended"],
        )


def refuse_door_open(plan: Plan, door: "Dict[str, Any]") -> None:
    """Refuse what has a wish about password login while a door stands: closing that takes out its own lines, and no more."""
    if plan.passwords is not None:
        raise Refused(
            "door_open",
            "an emergency door is open for {}: until it is closed nothing else changes sshd's configuration; close it first, "
            "or leave password login as it is (--keep-password-login)".format(door["login"]),
            door=door["id"],
            login=door["login"],
        )


def refuse_broken(seen: Seen) -> None:
    """Refuse where sshd does not accept its configuration as it stands."""
    if seen.check is None or seen.check.code == 0:
        return
    if seen.config.text is None:
        raise Refused(
            "sshd_config_missing",
            "{} does not exist, and the sshd that runs read it; put it back before sshd starts anew".format(seen.config.path),
            path=seen.config.path,
        )
    raise Refused(
        "sshd_config_invalid",
        "sshd does not accept its configuration as it stands: {}; mend that first".format(last_line(seen.check.err)),
        sshd=seen.check.err[-2000:],
    )


# -- decide ------------------------------------------------------------------------------------------------------------


def decide(plan: Plan, seen: Seen, opened: "Optional[List[Step]]" = None) -> Steps:
    """Return the steps from what was seen to what is wanted, none of which takes a way in before a proof; or refuse.

    opened: what reset.opened() adds on a disk at rest, or doctor.repairs() for a check, or password.step() for what sets one.
    """
    if reads_only(plan):
        return Steps([], [], [], [], [], [])
    refuse_broken(seen)
    widen = []  # type: List[Step]
    narrow = []  # type: List[Step]
    if plan.key is not None:
        _refuse_login(plan, seen)
    if plan.operation in ("bind", "replace", "reset"):
        widen += _key_added(plan, seen)
    widen += opened or []
    if plan.remove and plan.operation != "reset" and not plan.revoke:
        narrow += _keys_removed(plan, seen, widen)
    setting = _setting_changed(plan, seen)
    if setting is not None and plan.passwords == "off":
        refuse_lockouts(plan, seen)
        narrow.insert(0, setting)
    elif setting is not None:
        widen.append(setting)
    if plan.passwords == "off" or (plan.operation == "replace" and narrow):
        refuse_unproved(plan, bool(narrow))
    if plan.operation == "unbind" and plan.key is None:
        _refuse_no_way_in(plan, seen)
    return _with_questions(plan, widen, narrow)


def _refuse_login(plan: Plan, seen: Seen) -> None:
    account = seen.account
    settings = seen.effective[account.name][addresses(plan)[0]]
    # Without PAM sshd lets a key in whatever the age of the password.
    if account.expired == "account" or (account.expired and settings.get("usepam") == ["yes"]):
        raise Refused(
            "login_expired",
            "the {} of {} has expired, so sshd turns it away whatever the key; see chage -l {}".format(
                account.expired, account.name, account.name
            ),
            login=account.name,
        )
    if not has_shell(account):
        raise Refused(
            "login_not_allowed",
            "{} has the shell {}: a login ends at once and nothing can be proved".format(account.name, account.shell),
            login=account.name,
            shell=account.shell,
        )
    if account.barred:
        raise Refused("login_not_allowed", "{} cannot log in: {}".format(account.name, account.barred), login=account.name)
    if account.password == "locked" and settings.get("usepam", ["no"]) == ["no"]:
        raise Refused(
            "login_locked",
            "the password of {0} is locked with '!' and UsePAM is off: sshd refuses its keys too; "
            "usermod -p '*' {0} leaves it without a password but lets keys in".format(account.name),
            login=account.name,
        )
    if plan.operation == "reset":
        return
    if settings.get("pubkeyauthentication", ["yes"]) == ["no"]:
        raise Refused(
            "login_not_allowed",
            "sshd accepts no keys for {} (PubkeyAuthentication no); switch that on first".format(account.name),
            login=account.name,
            setting="PubkeyAuthentication",
        )
    address = addresses(plan)[0]
    reason = sshd.login_allowed(settings, account.name, account.groups, address, address, account.uid)
    if reason:
        raise Refused("login_not_allowed", "sshd lets {} not in: {}".format(account.name, reason), login=account.name)
    if not sshd.methods_left(settings):
        raise Refused(
            "authentication_methods",
            "AuthenticationMethods asks {} for more than a key, so a key alone cannot log in".format(account.name),
            login=account.name,
            setting=settings.get("authenticationmethods"),
        )
    if seen.revoked is not None and (seen.revoked.text is None or keys.find(seen.revoked.text, keys.parse(plan.key))):
        raise Refused(
            "login_not_allowed",
            "sshd takes {} for revoked: RevokedKeys {}".format(
                "every key" if seen.revoked.text is None else "this key",
                seen.revoked.path + (" is not there" if seen.revoked.text is None else " lists it"),
            ),
            login=account.name,
            path=seen.revoked.path,
        )
    if not sshd.key_accepted(settings, keys.parse(plan.key)):
        raise Refused(
            "key_type_refused",
            "this sshd does not accept {} keys; use another type".format(keys.parse(plan.key).type),
            login=account.name,
        )


def _key_added(plan: Plan, seen: Seen) -> "List[Step]":
    name = seen.account.name
    files = [each for each in seen.files[name] if each.here]
    if not files:
        raise Refused(
            "authorized_keys_elsewhere",
            "sshd reads no authorized_keys file for {} (AuthorizedKeysFile none)".format(name),
            login=name,
        )
    olds = [keys.parse(old) for old in plan.remove]
    holding = [each for each in files if any(keys.find(each.file.text or "", old) for old in olds)]
    heirs = (
        [each for each in files if keys.find(each.file.text or "", keys.parse(plan.key))] if plan.operation == "replace" else []
    )
    target = next(iter(holding + heirs), None) or next((each for each in files if each.file.text is not None), files[0])
    _refuse_out_of_reach(plan, seen, target)
    text = target.file.text or ""
    keys.refuse_odd(text, target.path)
    # Where a key that was stolen made certificates, its successor is not to.
    without = frozenset(["cert-authority"] if plan.revoke else [])
    if heirs and not holding:
        after = text  # it has been replaced before, and its line has the options of the old one
    elif plan.remove:
        after = text
        for old in plan.remove:
            holder, options = _old_line(files, keys.parse(old), without)
            if options & {"command", "cert-authority", "expiry-time"}:
                raise Refused(
                    "options_block_proof",
                    "{}: the old key's line carries {}; with the same options the new key cannot be proved by a login. "
                    "Take the options off, or bind the new key beside it and edit by hand".format(
                        holder, ", ".join(sorted(options))
                    ),
                    path=holder,
                    options=sorted(options),
                )
            after = keys.inherit(after, keys.parse(old), plan.key, without)
    else:
        after = keys.add(text, plan.key)
    steps = _path_made_good(plan, target, seen.account.uid)
    if after != text:
        steps.append(Step("keys", target.path, name, target.file.text, after))
    if steps:
        _refuse_stuck(target.file)
    return steps


def _refuse_stuck(file: "File") -> None:
    """Refuse where trying would fail: not by writing into it in its place either, for then a reader could see half of it."""
    if file.stuck == "read-only":
        raise Refused(
            "read_only",
            "{}: its file system is mounted read-only; mount it read-write, then retry".format(file.path),
            path=file.path,
        )
    if file.stuck:
        raise Refused(
            "immutable",
            "{}: it, or its directory, cannot be changed ({}); see lsattr (chattr +i, +a) and findmnt".format(
                file.path, file.stuck
            ),
            path=file.path,
            stuck=file.stuck,
        )


def _old_line(files: "List[KeyFile]", old: keys.Key, without: "FrozenSet[str]") -> "Tuple[str, set[str]]":
    for each in files:
        for line in keys.find(each.file.text or "", old):
            if not without.isdisjoint(keys.option_names(line.options)):
                continue
            return "{}:{}".format(each.path, line.index + 1), keys.option_names(line.options)
    return "", set()


def _path_made_good(plan: Plan, target: KeyFile, uid: int) -> "List[Step]":
    """The steps that make sshd willing to use the path: a missing directory, and with fix_permissions what others may write."""
    made = []  # type: List[Step]
    missing = [part for part in target.components[:-1] if part.kind == "missing"]
    if len(missing) > 1:
        raise Refused("path_permissions", "{} does not exist; make it first".format(missing[0].path), path=missing[0].path)
    for part in missing:
        made.append(Step("directory", part.path, plan.login, None, None))
    for wrong in permissions.check(target.components, uid):
        mended = (plan.fix_permissions or plan.operation == "reset") and wrong.repair
        if wrong.doubtful and not mended:
            continue  # sshd is the judge: the proof will tell
        if wrong.unsafe or not mended:
            raise _wrong_path(wrong)
        made.append(Step("mode", wrong.path, plan.login, wrong.repair[0], wrong.repair[1]))
    return made


def refuse_path(components: "List[Any]", uid: int) -> None:
    """Raise Refused for the first component that keeps sshd from using the file; what is doubtful is left to the proof."""
    for wrong in permissions.check(components, uid):
        if not wrong.doubtful:
            raise _wrong_path(wrong)


def _wrong_path(wrong: "Any") -> Refused:
    return Refused(
        "path_unsafe" if wrong.unsafe else "path_permissions",
        "{}: {}, but it must be {}; {}".format(
            wrong.path,
            wrong.found,
            wrong.wanted,
            "nothing is written through it" if wrong.unsafe else "sshd ignores the keys behind it",
        ),
        path=wrong.path,
        found=wrong.found,
        wanted=wrong.wanted,
    )


def _keys_removed(plan: Plan, seen: Seen, widen: "List[Step]") -> "List[Step]":
    written = {step.path: step.after for step in widen if step.kind == "keys"}
    steps = [
        keys_removed_from(plan, seen, each, written.get(each.path, each.file.text)) for each in seen.files[seen.account.name]
    ]
    return [step for step in steps if step is not None]


def keys_removed_from(plan: Plan, seen: Seen, each: KeyFile, before: "Optional[str]") -> "Optional[Step]":
    """Return the step that takes the keys out of a file of seen.account's, which by then holds before; None where it has none."""
    if before is None:
        return None
    keys.refuse_odd(before, each.path)
    after = before
    for old in plan.remove:
        after = keys.remove(after, keys.parse(old))
    if after == before:
        return None
    _refuse_out_of_reach(plan, seen, each)
    _refuse_stuck(each.file)
    return Step("keys", each.path, seen.account.name, before, after)


def _refuse_out_of_reach(plan: Plan, seen: Seen, each: KeyFile) -> None:
    """Refuse where the file stands in a directory that is not the login's own, and nobody with a right to it would write there.

    That is an agent that could not become root, or root itself where a link of the login's led there.
    """
    directories = [part for part in each.components if part.kind == "directory"]
    if not directories or directories[-1].uid == seen.account.uid:
        return
    if seen.daemon.how == "hidden":
        raise Refused(
            "sudo_refused",
            "{}: changing it takes root, and {} may not become root here; connect as a login that may".format(
                each.path, plan.login
            ),
            path=each.path,
        )
    if seen.account.uid != 0 and each.components[-1].path != each.path:
        raise Refused(
            "path_unsafe",
            "{}: a link leads to {}, where {} may not write; root does not write for it there".format(
                each.path, directories[-1].path, plan.login
            ),
            path=each.path,
            target=each.components[-1].path,
        )


def config_text(seen: Seen) -> str:
    """Return the text of sshd_config; Refused where there is none, or one that is not edited. A drop-in may be yet to make."""
    if seen.config.text is None and seen.vendor is not None:
        return ""
    if is_foreign(seen):
        raise Refused(
            "sshd_config_missing",
            "{} does not exist and no sshd of OpenSSH serves here: another server has its settings elsewhere. "
            "Switch password login there by hand, and use --keep-password-login".format(seen.config.path),
            path=seen.config.path,
        )
    if seen.config.text is None:
        raise Refused(
            "sshd_config_missing",
            "{} does not exist: creating it would hide the vendor's configuration. "
            "Switch password login by hand and use --keep-password-login".format(seen.config.path),
            path=seen.config.path,
        )
    text = seen.config.text  # type: str
    sshd.refuse_odd(text, seen.config.path)
    return text


def _setting_changed(plan: Plan, seen: Seen) -> "Optional[Step]":
    """The change of our block that this plan needs, judged by what sshd itself makes of the candidate; or None."""
    if plan.passwords is None or plan.operation == "reset":
        return None
    asked = any(sshd.passwords_asked(settings) for settings in _every(seen.effective))
    text = config_text(seen) if seen.config.text is not None or asked else ""
    if plan.passwords == "off" and not asked:
        _refuse_override(seen, seen.effective)
        return None
    if plan.passwords == "on" and password_ways(seen.effective[plan.login], seen.account):
        return None
    if plan.passwords == "restore" and not sshd.block(text):
        return None
    if seen.daemon.how == "hidden":
        raise Refused(
            "sudo_refused",
            "switching password login takes an agent that runs as root, and here is none: {} may not become root, or only SFTP "
            "is to be had; give a login that may (sudo), or use --keep-password-login".format(plan.login),
        )
    candidate = seen.candidate
    if candidate is None:
        raise Refused(
            "reload_failed",
            "the sshd that serves this connection was not found, so it cannot be asked nor told to re-read its configuration; "
            "use --keep-password-login",
        )
    ours = set(_PASSWORD_KEYWORDS) | {word.lower() for word, _ in sshd.block(text) or []}
    if candidate.check.code != 0 or candidate.differs - ours:
        raise Refused(
            "setting_overridden",
            "{}: with our block at its top sshd says: {}; mend the configuration by hand".format(
                seen.config.path, last_line(candidate.check.err) or "other settings change too"
            ),
            path=seen.config.path,
            differs=sorted(candidate.differs),
        )
    if plan.passwords == "off":
        _refuse_override(seen, candidate.effective)
    if plan.passwords == "on" and not password_ways(candidate.effective[plan.login], seen.account):
        raise Refused(
            "password_off_by_owner",
            "the server's own configuration keeps passwords out for {}{}; --force puts a setting of ours above it".format(
                plan.login, named(seen.places)
            ),
            places=[list(place) for place in seen.places],
        )
    if candidate.text == text:
        return None
    refuse_unread(seen.unread)
    return block_step(seen, candidate.text)


def refuse_unread(unread: "List[str]") -> None:
    """Refuse where these were changed since sshd last read its configuration."""
    if unread:
        raise Refused(
            "setting_pending",
            "{}: changed since sshd last read its configuration; our reload would put that into force too. Reload sshd yourself "
            "and see that it is right, or mend the file first".format(", ".join(unread[:3])),
            paths=unread,
        )


def block_step(seen: Seen, after: str) -> Step:
    """The step by which the file of our block holds after; a drop-in that would be empty goes. Refused where it cannot."""
    _refuse_stuck(seen.config)
    return Step("block", seen.config.path, None, seen.config.text, after if after or seen.vendor is None else None)


def _every(effective: "Dict[str, Dict[str, Dict[str, List[str]]]]") -> "List[Dict[str, List[str]]]":
    return [settings for addressed in effective.values() for settings in addressed.values()]


def _refuse_override(seen: Seen, effective: "Dict[str, Dict[str, Dict[str, List[str]]]]") -> None:
    known = {account.name: account for account in list(seen.accounts) + [seen.account]}
    for name, settings in sorted(effective.items()):
        ways = password_ways(settings, known[name])
        if ways:
            where = [place for place in seen.places if place.match]
            raise Refused(
                "setting_overridden",
                "{} would still get in by {}{}; edit that by hand, or use --keep-password-login".format(
                    name, " and ".join(ways), named(where)
                ),
                login=name,
                places=[list(place) for place in where],
            )
    opened = sshd.opening(seen.places, _every(effective)[0])
    if opened:
        raise Refused(
            "setting_overridden",
            "passwords would still get in for some logins, or from some addresses{}; edit that by hand, "
            "or use --keep-password-login".format(named(opened)),
            places=[list(place) for place in opened],
        )


def named(places: "List[Any]") -> str:
    return "".join(
        ": {}:{}: {}{}".format(place.path, place.line_number, place.match + ": " if place.match else "", place.text)
        for place in places[:3]
    )


def refuse_lockouts(plan: Plan, seen: Seen) -> None:
    """Refuse where somebody has a password that lets him in today, and no key that would tomorrow."""
    out = []
    for account in seen.accounts:
        if account.name == plan.login or account.name in plan.accept_lockout or account.name not in seen.effective:
            continue
        settings = seen.effective[account.name][ELSEWHERE]
        # One whose password has to be changed first does so at a log-in by that password.
        if not sshd.takes_password(settings, account) or account.expired == "account":
            continue
        if not has_shell(account) and not sshd.needs_no_shell(settings):
            continue
        if _needs_password(seen, account) and not key_would_do(seen, account):
            out.append(account.name)
    if out:
        raise Refused(
            "others_locked_out",
            "{} would be locked out: a usable password and no key that sshd accepts. "
            "Give them keys first, or name each: {}".format(", ".join(out), " ".join("--accept-lockout " + name for name in out)),
            logins=out,
            unchecked="logins from a directory service" if seen.directory_service else "",
        )


def _needs_password(seen: Seen, account: "Account") -> bool:
    """Whether a password lets this login in, alone or together with a key (AuthenticationMethods publickey,password)."""
    if password_ways(seen.effective[account.name], account):
        return True
    for settings in seen.effective[account.name].values():
        if not sshd.methods_left(settings) and any(settings.get(word) == ["yes"] for word in _PASSWORD_KEYWORDS):
            return True
    return False


def key_would_do(seen: Seen, account: "Account") -> bool:
    """Say whether one of the keys in this login's files would get it in."""
    settings = seen.effective[account.name][ELSEWHERE]
    if settings.get("pubkeyauthentication", ["yes"]) == ["no"] or not sshd.methods_left(settings):
        return False
    if sshd.login_allowed(settings, account.name, account.groups, ELSEWHERE, ELSEWHERE, account.uid):
        return False
    for each in seen.files.get(account.name, []):
        if any(not wrong.doubtful for wrong in permissions.check(each.components, account.uid)):
            continue
        for line in keys.lines(each.file.text or ""):
            if keys.option_names(line.options) <= _HARMLESS and keys.usual(line) and sshd.key_accepted(settings, line.key):
                return True
    return False


def refuse_unproved(plan: Plan, narrows: bool) -> None:
    """Refuse what takes a way in where no key is there to be proved before, or where nobody can log in with it."""
    if plan.key is None:
        raise Refused(
            "no_way_in_remains",
            "no key is known to work for {}; bind a key pair first".format(plan.login),
            login=plan.login,
        )
    if narrows and not plan.provable and not plan.accept_unproved:
        raise Refused(
            "proof_too_weak",
            "nobody has shown to hold the private half, so at most sshd's word that it would accept the key can be had; "
            "give the private half (--identity), or say --accept-unproved",
            login=plan.login,
        )


def _refuse_no_way_in(plan: Plan, seen: Seen) -> None:
    if plan.login in plan.accept_lockout:
        return
    after = seen.candidate.effective if seen.candidate is not None else seen.effective
    account = seen.account
    address = addresses(plan)[0]
    # What a server that is not OpenSSH lets in is for the proof to say.
    ways = is_foreign(seen) or password_gets_in(after[plan.login][address], account, address)
    # Without root shadow cannot be read: then only a password that is given, and so proved, counts.
    usable = plan.password_known or (account.password == "usable" and not account.expired)
    if not (ways and usable):
        raise Refused(
            "no_way_in_remains",
            "without this key nothing that can be seen lets {0} in: {1}. Give the login a way in first, "
            "or say --accept-lockout {0}".format(
                plan.login, "no usable password" if ways else "sshd takes no password" + named(seen.places)
            ),
            login=plan.login,
            password=account.password,
            expired=account.expired,
        )


def _with_questions(plan: Plan, widen: "List[Step]", narrow: "List[Step]") -> Steps:
    """Put to each half the proofs that it must pass. Where there is no step at all the same proofs show that all holds."""
    login = plan.login
    if plan.operation == "reset":
        return Steps(widen, narrow, [], [], [], [])
    least = "logged_in" if plan.provable else "accepted"
    key = Question("key", login, "logged_in", least, plan.key, None)
    at_least = "logged_in" if plan.password_known or plan.operation == "password-set" else "password_offered"
    password = Question("password", login, at_least, at_least, None, None)
    widened = [key] if plan.key is not None else []
    unbinds = plan.operation == "unbind" and plan.key is None and login not in plan.accept_lockout
    if plan.operation in ("password-login-enable", "password-set") or unbinds:
        widened.append(password)
    narrowed = []
    if plan.passwords == "off":
        narrowed += [key, Question("password", login, "refused", "refused", None, None)]
    gone = [Question("key", login, "refused", "refused", old, plan.key) for old in plan.remove]
    if plan.revoke:
        return Steps(widen, narrow, widened, narrowed, [], gone)
    return Steps(widen, narrow, widened, narrowed + gone, [], [])


def last_line(text: str) -> str:
    """Return the last line that sshd said, but not the one with which it only takes leave."""
    said = [line.strip() for line in text.split("\n") if line.strip() and ": terminating, " not in line]
    return said[-1][:300] if said else ""
