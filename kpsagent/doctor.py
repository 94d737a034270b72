"""Why a key can, or can't, log in here: what was seen in, findings out, in the order in which sshd would come upon them.

    notes = yield from examine(plan, seen, texts)        # reads more: every file on the way to the key, RevokedKeys, the shell
    found = diagnose(plan, seen, notes)                  # pure

A finding is of one of three kinds. "key": sshd does not take the key. "session": it does, and the login ends at once or runs
something else. "warning": it lets the login in now, and that may end. What each code means and how it is mended is
docs/doctor.md; what is a rule of an operation too (permissions, AllowUsers and their like) is asked of the module that holds it.
"""

import time
from collections import namedtuple

from . import keys, pam, permissions, sshd
from .errors import Stop
from .host import FindAccount, Follow, Mislabelled, Read, ReadFollowed, Unread, Walk
from .plan import Step, addresses, has_shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator, List, Optional, Tuple

    from .plan import Plan, Seen

    Play = Generator[Any, Any, Any]
    Settings = Dict[str, List[str]]

Finding = namedtuple("Finding", "code kind message path line seen")
Finding.__doc__ = """path, line: where, or "" and 0. seen: what was seen, JSON. A kind of "doubt" may be the reason where no other
is found."""

Looked = namedtuple("Looked", "path real components text error labels")
Looked.__doc__ = """One file of keys. real: where its links lead. text: None where there is none, or it can't be read: error.
labels: (path, label, wanted) where SELinux's is another than its policy has."""

Notes = namedtuple("Notes", "settings files revoked nologin chroot pending replaced rules")
Notes.__doc__ = """settings: of the login, from the controller's address. files: list of Looked. revoked: File or None. nologin:
the path of the file that keeps logins out, or "". chroot: components, [] where not asked. pending: what sshd has not read yet.
replaced: whether the program of the running sshd is another by now. rules: PAM's (pam.Rule), where sshd asks it."""

_NOLOGIN = ("/etc/nologin", "/run/nologin", "/var/run/nologin")
_TURNED = ("agent-forwarding", "port-forwarding", "pty", "touch-required", "user-rc", "verify-required", "x11-forwarding")
_FLAGS = ("cert-authority", "restrict") + _TURNED + tuple("no-" + name for name in _TURNED)
_VALUED = ["command", "environment", "expiry-time", "from", "permitlisten", "permitopen", "principals", "tunnel"]
_ONCE = ("command", "from", "expiry-time", "principals")
_LOOKS_BLANK = "\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2000\u2002\u2003\u2009\u200b\u2028\u2029\u202f\u3000"
_MARKS = ("\ufeff", "\udcef\udcbb\udcbf")
_KRL, _KRL_HEAD = "SSHKRL\n", 8 + 4 + 8 + 8 + 8  # its first word; with format, version, date and flags
_RULES = {"DenyUsers": "deny_users", "AllowUsers": "allow_users", "DenyGroups": "deny_groups", "AllowGroups": "allow_groups"}


# -- look further ------------------------------------------------------------------------------------------------------


def examine(plan: "Plan", seen: "Seen", texts: "List[Tuple[str, str]]") -> "Play":
    """Return Notes: what look() has no use for. Reads only. texts: [(path, text)] of sshd's configuration."""
    account = seen.account
    settings = (seen.effective.get(account.name) or {}).get(addresses(plan)[0])
    if settings is None:  # sshd does not say: its configuration is broken
        settings = sshd.scan(dict(texts), seen.daemon.config, account.name, account.groups)
    files = []
    for path in sshd.authorized_keys_paths(settings, account.name, account.uid, account.home):
        files.append((yield from _looked(path, account, settings)))
    revoked, listed = None, _value(settings, "revokedkeys")
    if listed:
        revoked = yield from _tried(Read(listed, None))
    nologin = ""
    for path in _NOLOGIN:
        found = (yield from _tried(Read(path, None))) if account.uid else None
        nologin = nologin or (path if found is not None and found.text is not None else "")
    root = yield FindAccount("root")
    chroot = []  # type: List[Any]
    into = _chroot(settings, account)
    if into and root:
        chroot = (yield from _tried(Walk(into + "/.", root))) or []
    pending, replaced = [], False
    if seen.daemon.how == "listener":
        pid_file = _value(settings, "pidfile")
        pending = yield Unread(seen.daemon, pid_file, [path for path, _ in texts])
        replaced = bool((yield Unread(seen.daemon, pid_file, [seen.daemon.program])))
    rules = []  # type: List[Any]
    if _value(settings, "usepam") == "yes":
        rules = yield from _pam_rules()
    return Notes(settings, files, revoked, nologin, chroot, pending, replaced, rules)


def _pam_rules() -> "Play":
    texts, waiting = {}, ["sshd"]  # type: Dict[str, Tuple[str, str]], List[str]
    while waiting and len(texts) < 50:
        name = waiting.pop()
        texts[name] = ("", "")
        for directory in pam.DIRECTORIES:
            path = name if name.startswith("/") else "{}/{}".format(directory, name)
            found = yield from _tried(Read(path, None))
            if found is not None and found.text is not None:
                texts[name] = (path, found.text)
                waiting += [each for each in pam.includes(found.text) if each not in texts]
                break
        if texts["sshd"] == ("", "") and pam.FALLBACK not in texts:
            waiting.append(pam.FALLBACK)
    return pam.rules("sshd" if texts["sshd"][0] else pam.FALLBACK, texts)


def _looked(path: str, account: "Any", settings: "Settings") -> "Play":
    real, components, text, error = path, [], None, ""
    try:
        components = yield Walk(path, account)
        if components[-1].kind == "link":
            # sshd follows it, and judges what it leads to.
            real = yield Follow(path, account)
            components = yield Walk(real, account)
        text = (yield Read(path, account) if real == path else ReadFollowed(real, account)).text
    except (Stop, OSError) as stop:
        error = getattr(stop, "message", "") or getattr(stop, "strerror", "") or str(stop)
    if settings.get("strictmodes") == ["no"]:
        components = [part._replace(uid=account.uid, mode=part.mode & ~0o022) for part in components]
    labels = yield Mislabelled([part.path for part in components if part.kind in ("directory", "file")], account)
    return Looked(path, real, components, text, error, labels)


def _tried(effect: "Any") -> "Play":
    try:
        return (yield effect)
    except (Stop, OSError):
        return None


# -- judge -------------------------------------------------------------------------------------------------------------


def of_stop(stop: "Stop") -> Finding:
    """Return the finding that a refusal is, where it came before anything else could be looked at."""
    path = stop.evidence.get("path", "")
    return Finding(stop.cause, "key", stop.message, path, int(stop.evidence.get("line", 0)), {})


def diagnose(plan: "Plan", seen: "Seen", notes: Notes) -> "List[Finding]":
    """Return what keeps the key (plan.diagnose; "" for the login alone) out, the reason first, and warnings last."""
    rules, lines = _rules(plan, seen, notes), []  # type: List[Finding], List[Finding]
    if plan.diagnose:
        key = keys.parse(plan.diagnose)
        rules += _key(notes, key)
        lines = _lines(plan, notes, seen.account, key)
    # What sshd says of its configuration is not what the one that runs does, where that has not read it.
    found = lines + rules if notes.pending else rules + lines
    found += _session(seen, notes)
    found += _warnings(seen, notes)
    order = ("key", "session", "doubt", "warning")
    once = {(each.code, each.path, each.line): each for each in reversed(found)}
    return sorted(
        (each for each in found if once[each.code, each.path, each.line] is each), key=lambda each: order.index(each.kind)
    )


def _rules(plan: "Plan", seen: "Seen", notes: Notes) -> "List[Finding]":
    """What sshd asks of a login before it looks at any key: allowed_user() in auth.c, then its methods."""
    account, settings = seen.account, notes.settings
    address = addresses(plan)[0]
    found = []
    if seen.check is not None and seen.check.code != 0 and seen.daemon.how == "each":
        found.append(_broken(seen, "key"))
    if account.password == "locked" and _value(settings, "usepam") != "yes":
        said = "the password of {} is locked with '!' and UsePAM is off: sshd refuses its keys too".format(account.name)
        found.append(_finding("login_locked", said, setting="UsePAM no"))
    if account.barred.startswith("its shell"):
        said = "sshd turns {} away: {}".format(account.name, account.barred)
        found.append(_finding("shell_missing", said, account.shell, shell=account.shell))
    reason = sshd.login_allowed(settings, account.name, account.groups, address, address, account.uid)
    if reason:
        found.append(_rule(account, reason, settings, address))
    if _value(settings, "pubkeyauthentication") == "no":
        found.append(_finding("keys_off", "sshd takes no keys from {} (PubkeyAuthentication no)".format(account.name)))
    elif not sshd.methods_left(settings):
        wanted = " ".join(settings.get("authenticationmethods", []))
        said = "a key alone does not do: sshd asks {} for {} (AuthenticationMethods)".format(account.name, wanted)
        found.append(_finding("authentication_methods", said, setting=wanted))
    if account.expired == "account":
        # With PAM the key is taken first, and then the account is looked at: sshd(8), UsePAM.
        kind = "session" if _value(settings, "usepam") == "yes" else "key"
        found.append(
            _finding("account_expired", "the account of {0} has expired; see chage -l {0}".format(account.name), "", kind)
        )
    return found


def _rule(account: "Any", reason: str, settings: "Settings", address: str) -> Finding:
    word = reason.split(" ")[0]
    code = _RULES.get(word, "root_login_off")
    said = "sshd does not let {} in: {}".format(account.name, reason)
    if code == "root_login_off" and _value(settings, "permitrootlogin") == "forced-commands-only":
        # It takes the key first, and then ends the session of one that has no command.
        return _finding("root_login_commands_only", said, "", "session", setting=reason[:300])
    return _finding(code, said, setting=reason[:300], address=address)


def _key(notes: Notes, key: "keys.Key") -> "List[Finding]":
    """What sshd has against this key, wherever it is listed."""
    settings = notes.settings
    found = []
    least = int(_value(settings, "requiredrsasize") or 1024)
    if key.bits and key.bits < least:
        said = "an RSA key of {} bits, and sshd takes none below {} (RequiredRSASize)".format(key.bits, least)
        found.append(_finding("key_too_short", said, bits=key.bits, least=least))
    elif not sshd.key_accepted(settings, key):
        accepted = settings.get("pubkeyacceptedalgorithms") or settings.get("pubkeyacceptedkeytypes") or []
        said = "this sshd does not accept {} keys (PubkeyAcceptedAlgorithms)".format(key.type)
        found.append(_finding("key_type_refused", said, type=key.type, accepted=" ".join(accepted)[:500]))
    path = _value(settings, "revokedkeys")
    if path and notes.revoked is None:
        found.append(_finding("revoked_keys_unreadable", "{} cannot be read, so sshd refuses every key".format(path), path))
    elif path and notes.revoked.text is None:
        found.append(_finding("revoked_keys_unreadable", "{} does not exist, so sshd refuses every key".format(path), path))
    elif path and not _whole(notes.revoked.text):
        said = "{} is cut short or damaged (a KRL), so sshd refuses every key".format(path)
        found.append(_finding("revoked_keys_unreadable", said, path))
    elif path and _revoked(notes.revoked.text, key):
        found.append(_finding("key_revoked", "{} lists this key (RevokedKeys)".format(path), path))
    return found


def _whole(text: str) -> bool:
    """Whether every length in a KRL is within it: PROTOCOL.krl in OpenSSH's sources. A list of key lines always is."""
    listed = text.encode("utf-8", "surrogateescape")
    if not text.startswith(_KRL):
        return True
    at, strings = _KRL_HEAD, 0
    while strings < 2 or at < len(listed):  # two strings, and then sections: a byte and a string
        at += 1 if strings >= 2 else 0
        at += 4 + int.from_bytes(listed[at : at + 4], "big")
        strings += 1
        if at > len(listed):
            return False
    return True


def _revoked(text: str, key: "keys.Key") -> bool:
    if not text.startswith(_KRL):
        return bool(keys.find(text, key))
    import hashlib  # where it is needed: slow to load

    listed = text.encode("utf-8", "surrogateescape")
    digests = [hashlib.new(name, key.material).digest() for name in ("sha1", "sha256")]
    return any(mark in listed for mark in [key.material] + digests)


# -- the files of keys -------------------------------------------------------------------------------------------------


def _lines(plan: "Plan", notes: Notes, account: "Any", key: "keys.Key") -> "List[Finding]":
    """Why no line of any file lets the key in; [] where one does, or something else than a file may list it."""
    if not notes.files:
        command = _value(notes.settings, "authorizedkeyscommand")
        if command:
            said = "sshd takes the keys of {} from {} alone (AuthorizedKeysCommand): it does not name this one, or fails".format(
                account.name, command
            )
            by = _value(notes.settings, "authorizedkeyscommanduser")
            return [_finding("keys_from_command", said, kind="doubt", command=command[:300], user=by)]
        said = "sshd reads no file of keys for {} (AuthorizedKeysFile none)".format(account.name)
        return [_finding("authorized_keys_elsewhere", said)]
    if plan.as_if_listed:
        there = [each for each in notes.files if each.components and each.components[-1].kind != "missing"]
        return _path(notes, (there or notes.files)[0], account, True)
    ways, doubts, lines = [], [], []  # type: List[Finding], List[Finding], List[Finding]
    for each in notes.files:
        way = _path(notes, each, account, False)
        hard = [finding for finding in way if finding.kind != "doubt"]
        if each.text is None:
            ways += hard
            continue
        state, found = _in_file(plan, each, key)
        if state == "lets_in" and not hard:
            return [finding for finding in way if finding.kind == "doubt"] + found
        # Of a file that sshd does not read only what keeps it from that counts, and first where the key is in it.
        ways = hard + ways if state != "absent" else ways + hard
        doubts += [finding for finding in way if finding.kind == "doubt" and state != "absent"]
        lines += found
    return ways + lines + doubts or [_not_listed(notes, account, key)]


def _not_listed(notes: Notes, account: "Any", key: "keys.Key") -> Finding:
    there = [each for each in notes.files if each.text is not None]
    names = ", ".join(each.path for each in notes.files)
    command = _value(notes.settings, "authorizedkeyscommand")
    unless = "; {} may list keys too".format(command) if command else ""
    patterns = [each.path for each in notes.files if any(letter in each.path for letter in "*?[")]
    if patterns:  # since OpenSSH 10.0
        unless += "; files that fit {} are not looked at".format(", ".join(patterns))
    if not there:
        said = "there is no file of keys for {}: sshd looks for {}{}".format(account.name, names, unless)
        return _finding("keys_file_missing", said, notes.files[0].path, files=names, fingerprint=keys.fingerprint(key))
    held = sum(len(keys.lines(each.text)) for each in there)
    said = "{} is not among the {} keys that sshd finds for {} in {}{}".format(
        keys.fingerprint(key), held, account.name, ", ".join(each.path for each in there), unless
    )
    return _finding("key_not_listed", said, there[0].path, files=names, keys=held, fingerprint=keys.fingerprint(key))


def _path(notes: Notes, each: Looked, account: "Any", whole: bool) -> "List[Finding]":
    """What keeps sshd from using the file. whole: also where the file is not there yet."""
    found = []  # type: List[Finding]
    parts = each.components
    if not parts or (parts[-1].kind == "missing" and not whole and parts[0].kind != "missing"):
        if each.error and not parts:
            found.append(_finding("keys_file_unreadable", "{}: {}".format(each.path, each.error), each.path, said=each.error))
        return found
    if parts[0].kind == "missing":
        said = "the home directory of {}, {}, does not exist".format(account.name, parts[0].path)
        return [_finding("home_missing", said, parts[0].path)]
    through = "" if each.real == each.path else " (a link at {} leads there)".format(each.path)
    for wrong in permissions.check(parts, account.uid):
        if wrong.unsafe and "hard links" in wrong.found:
            continue  # sshd does not mind; it is we who do not write there
        part = next(part for part in parts if part.path == wrong.path)
        code = _path_code(wrong, part, through)
        said = "{}: {}, but it must be {}; sshd ignores the keys behind it{}".format(
            wrong.path, wrong.found, wrong.wanted, through
        )
        finding = _finding(
            code,
            said,
            wrong.path,
            found=wrong.found,
            wanted=wrong.wanted,
            mode="{:04o}".format(part.mode),
            uid=part.uid,
            gid=part.gid,
        )
        found.append(finding._replace(kind="doubt") if wrong.doubtful else finding)
    if each.error and not found and parts[-1].kind == "file" and parts[-1].nlink == 1:
        found.append(_finding("keys_file_unreadable", "{}: {}".format(each.path, each.error), each.path, said=each.error))
    for path, label, wanted in each.labels:
        said = "{}: its SELinux label is {}, and the policy has {} for it; sshd may be kept from what is there".format(
            path, label, wanted
        )
        # What sshd may read of a label that it should not find there is the policy's to say.
        found.append(_finding("path_label", said, path, "doubt", label=label, wanted=wanted))
    return found


def _path_code(wrong: "Any", part: "Any", through: str) -> str:
    if wrong.unsafe:
        return "path_unsafe"
    if through:
        return "link_leads_astray"
    if wrong.found.startswith("owner"):
        return "path_owner"
    return "path_unreadable" if "login itself" in wrong.wanted else "path_writable"


def _in_file(plan: "Plan", each: Looked, key: "keys.Key") -> "Tuple[str, List[Finding]]":
    """Return "lets_in", "held" (in vain) or "absent", and why."""
    try:
        keys.refuse_odd(each.text or "", each.path)
    except Stop as stop:
        return "held", [_finding("authorized_keys_unreadable", stop.message, each.path)]
    found = []  # type: List[Finding]
    held = keys.find(each.text or "", key)
    for line in held:
        why = _line_in_vain(plan, each, line)
        if why is None:
            return "lets_in", _with_command(each, line, [other for other in held if other.index > line.index])
        found.append(why)
    if found:
        return "held", found
    for number, text in enumerate((each.text or "").split("\n"), 1):
        if _means(text, key):
            found.append(_broken_line(each, number, text))
    return ("held" if found else "absent"), found


def _at(code: str, each: Looked, number: int, said: str, kind: str = "key", **seen: "Any") -> Finding:
    return Finding(code, kind, "{}:{}: {}".format(each.path, number, said), each.path, number, seen)


def _line_in_vain(plan: "Plan", each: Looked, line: "keys.Line") -> "Optional[Finding]":
    """Why sshd passes over a line that holds the key; None where it takes it."""
    number, options = line.index + 1, line.options
    wrong = options_wrong(options)
    if wrong:
        return _at(
            "line_options_broken", each, number, "sshd drops the line for its options: {}".format(wrong), options=options[:300]
        )
    values = option_values(options)
    if "cert-authority" in values:
        return _at("line_cert_authority", each, number, "the key is there as an authority for certificates, and not for itself")
    if "principals" in values:
        return _at("line_options_broken", each, number, "principals is for an authority only, so sshd drops the line")
    if "from" in values and plan.connection:
        address = plan.connection[0]
        if not sshd.from_matches(values["from"], address):
            said = 'the line takes the key from "{}" only, and the controller comes from {}'.format(values["from"], address)
            return _at("line_from", each, number, said, allowed=values["from"][:300], address=address)
    if "expiry-time" in values and _past(values["expiry-time"]):
        return _at(
            "line_expired", each, number, "the line has expired: {}".format(values["expiry-time"]), expired=values["expiry-time"]
        )
    return None


def _with_command(each: Looked, line: "keys.Line", later: "List[Any]") -> "List[Finding]":
    """A line that lets the key in, but to one command."""
    values = option_values(line.options)
    if "command" not in values:
        return []
    number = line.index + 1
    plain = next((other for other in later if "command" not in option_values(other.options)), None)
    if plain is not None:
        said = "the first line that holds the key decides, and it forces a command; line {} does not count".format(
            plain.index + 1
        )
        return [_at("line_shadowed", each, number, said, "session", command=values["command"][:300], later=plain.index + 1)]
    return [
        _at(
            "line_command", each, number, "the line lets the key run one command only", "session", command=values["command"][:300]
        )
    ]


def _means(text: str, key: "keys.Key") -> bool:
    """Whether a person would say that this line holds the key: a good part of its Base64 is there, blanks left out."""
    squeezed = "".join(letter for letter in text if letter.isalnum() or letter in "+/")
    blob = key.blob.rstrip("=")
    at = [len(blob) // 2, len(blob) * 2 // 3, len(blob) - 16]
    return any(blob[start : start + 14] in squeezed for start in at)


def _broken_line(each: Looked, number: int, text: str) -> Finding:
    """What is wrong with a line that means the key, and of which sshd takes nothing."""
    start = text.lstrip(" \t")
    if "\0" in text:
        return _at("line_nul", each, number, "a NUL ends the line for sshd before the key")
    if text.startswith(_MARKS):
        return _at("line_byte_order_mark", each, number, "a byte order mark stands before the key, and sshd takes it for text")
    # Old line ends first: with them a whole file is one line, whatever it begins with.
    if "\r" in text.rstrip("\r"):
        return _at(
            "line_carriage_return", each, number, "the lines end with a carriage return only, so to sshd they are one line"
        )
    if start[:1] in _LOOKS_BLANK and start:
        said = "begins with U+{:04X}, which looks like a blank and is none to sshd".format(ord(start[0]))
        return _at("line_odd_blank", each, number, said)
    if start.startswith("#"):
        return _at("line_commented_out", each, number, "the key is in a comment")
    words = text.split()
    types = [word for word in words if word.lower().startswith(("ssh-", "ecdsa-", "sk-"))]
    if any(word not in keys.TYPES and word.lower() in keys.TYPES for word in types):
        return _at("line_type_misspelt", each, number, "the type of a key is in small letters: {}".format(types[0][:60]))
    if not types:
        return _at("line_type_missing", each, number, "the type of the key does not stand before it")
    if types[0] not in words[:1] and options_wrong(" ".join(words[: words.index(types[0])])):
        wrong = options_wrong(" ".join(words[: words.index(types[0])]))
        return _at("line_options_broken", each, number, "sshd drops the line for its options: {}".format(wrong))
    return _at("line_key_broken", each, number, "the key is cut, broken over two lines, or has a letter too many or too few")


def options_wrong(options: str) -> str:
    """Return why sshd drops a line with these options, or "": sshauthopt_parse() in OpenSSH's auth-options.c."""
    at, before = 0, []  # type: int, List[str]
    while at < len(options):
        end = at
        while end < len(options) and options[end] not in '=,"':
            end += 1
        name = options[at:end].lower()
        if name and options[end : end + 1] == "=":
            if name not in _VALUED:
                return "it knows no option {}".format(name[:60])
            if name in before and name in _ONCE:
                return "{} is there twice".format(name)
            if options[end + 1 : end + 2] != '"':
                return "the value of {} is not in double quotes".format(name)
            end += 2
            start = end
            while end < len(options) and options[end] != '"':
                end += 2 if options[end : end + 2] == '\\"' else 1
            if end >= len(options):
                return "the quotes of {} do not end".format(name)
            if name == "expiry-time" and _moment(options[start:end]) is None:
                return "{} is no time".format(options[start:end][:60])
            end += 1
        elif name and name not in _FLAGS:
            return "it knows no option {}".format(name[:60])
        before.append(name)
        if options[end : end + 1] not in ("", ","):
            return "something follows {} without a comma".format(name[:60])
        at = end + 1
    return ""


def option_values(options: str) -> "Dict[str, str]":
    """Return option -> value, "" where it has none, of options that sshd takes."""
    values, at = {}, 0  # type: Dict[str, str], int
    while at < len(options):
        end = at
        while end < len(options) and options[end] not in "=,":
            end += 1
        name, value = options[at:end].lower(), ""
        if options[end : end + 2] == '="':
            start = end = end + 2
            while end < len(options) and options[end] != '"':
                end += 2 if options[end : end + 2] == '\\"' else 1
            value = options[start:end].replace('\\"', '"')
            end += 1
        values.setdefault(name, value)
        at = end + 1
    return values


def _moment(text: str) -> "Optional[float]":
    """Return the time that YYYYMMDD[HHMM[SS]][Z] says, in seconds of the epoch; None where it says none."""
    utc = text.endswith("Z")
    digits = text.rstrip("Z")
    if len(digits) not in (8, 12, 14) or not digits.isdigit():
        return None
    year, *rest = [int(digits[:4])] + [int((digits + "000000")[at : at + 2]) for at in range(4, 14, 2)]
    if not (1 <= rest[0] <= 12 and 1 <= rest[1] <= 31 and rest[2] < 24 and rest[3] < 60 and rest[4] < 62):
        return None
    try:
        # Not by strptime(): python3-minimal lacks what it is made of.
        moment = time.mktime((year, rest[0], rest[1], rest[2], rest[3], rest[4], 0, 0, 0 if utc else -1))
    except (ValueError, OverflowError):
        return None
    return moment - time.timezone if utc else moment


def _past(text: str) -> bool:
    moment = _moment(text)
    return moment is not None and moment < time.time()


# -- after the key -----------------------------------------------------------------------------------------------------


def _session(seen: "Seen", notes: Notes) -> "List[Finding]":
    """What ends a login, or takes it elsewhere, once the key was taken."""
    account, settings = seen.account, notes.settings
    name = account.name
    found = []
    if notes.nologin:
        said = "{} is there: nobody but root gets in".format(notes.nologin)
        found.append(_finding("nologin_file", said, notes.nologin, "session"))
    if account.expired == "password":
        said = "the password of {0} has expired: a login has to change it first, and runs nothing; see chage -l {0}".format(name)
        found.append(_finding("password_expired", said, "", "session"))
    command = _value(settings, "forcecommand")
    if command.split(" ")[0] == "internal-sftp":
        found.append(_finding("sftp_only", "sshd gives {} files only (ForceCommand {})".format(name, command), "", "session"))
    elif command:
        said = "whatever {} asks for, sshd runs: {} (ForceCommand)".format(name, command[:200])
        found.append(_finding("force_command", said, "", "session", command=command[:300]))
    if not has_shell(account) and not sshd.needs_no_shell(settings):
        said = "{} has the shell {}: a login ends at once".format(name, account.shell)
        found.append(_finding("shell_ends_at_once", said, account.shell, "session", shell=account.shell))
    if _value(settings, "maxsessions") == "0":
        found.append(_finding("no_sessions", "sshd opens no session for {} (MaxSessions 0)".format(name), "", "session"))
    if notes.rules:
        names = ["{}:{} {} {}".format(each.path, each.line, each.module, each.arguments)[:200].strip() for each in notes.rules]
        said = "PAM has account rules for sshd that may turn {} away: {}".format(name, ", ".join(names[:3]))
        first = notes.rules[0]
        found.append(Finding("pam_rule", "doubt", said, first.path, first.line, {"rules": names[:8]}))
    if account.password == "unknown" and _value(settings, "usepam") == "yes" and seen.daemon.how in ("listener", "each"):
        said = (
            "/etc/passwd has {}'s password in /etc/shadow, and there is no line for it: to PAM there is no such account".format(
                name
            )
        )
        found.append(_finding("shadow_line_missing", said, "/etc/shadow", "doubt"))
    for part in notes.chroot:
        if part.kind != "directory" or part.uid != 0 or part.mode & 0o022:
            wrong = "does not exist" if part.kind == "missing" else "mode {:04o} of uid {}".format(part.mode, part.uid)
            said = "{} {}; with ChrootDirectory every directory must be root's and writable by nobody else".format(
                part.path, wrong
            )
            found.append(_finding("chroot_unsafe", said, part.path, "session", mode="{:04o}".format(part.mode), uid=part.uid))
            break
    return found


def _warnings(seen: "Seen", notes: Notes) -> "List[Finding]":
    found = []
    if seen.check is not None and seen.check.code != 0 and seen.daemon.how != "each":
        found.append(_broken(seen, "warning"))
    if notes.pending:
        said = "{}: changed since sshd last read it; a reload, or the next boot, puts that into force".format(
            ", ".join(notes.pending[:3])
        )
        found.append(_finding("setting_pending", said, notes.pending[0], "warning", paths=notes.pending[:8]))
    if notes.replaced:
        said = "{} was replaced after the sshd that runs was started from it; it has to be restarted".format(seen.daemon.program)
        found.append(_finding("sshd_replaced", said, seen.daemon.program, "warning"))
    return found


def _broken(seen: "Seen", kind: str) -> Finding:
    lines = [line.strip() for line in seen.check.err.split("\n") if line.strip() and ": terminating, " not in line]
    said = lines[-1][:300] if lines else ""
    message = "sshd does not accept its configuration as it stands: {}".format(said or "it does not say why")
    return _finding("sshd_config_invalid", message, seen.daemon.config, kind, said=said)


def _finding(code: str, message: str, path: str = "", kind: str = "key", **seen: "Any") -> Finding:
    return Finding(code, kind, message, path, 0, seen)


def _value(settings: "Settings", keyword: str) -> str:
    value = (settings.get(keyword) or [""])[0]
    return "" if value.lower() == "none" else value


def _chroot(settings: "Settings", account: "Any") -> str:
    into = _value(settings, "chrootdirectory")
    for token, value in (("%h", account.home), ("%u", account.name), ("%U", str(account.uid)), ("%%", "%")):
        into = into.replace(token, value)
    return into if into.startswith("/") else ""


# -- repair ------------------------------------------------------------------------------------------------------------


def repairs(notes: Notes, account: "Any") -> "List[Step]":
    """Return the steps that mend what is safe to mend: who may write to, and who owns, the login's own .ssh and file of keys, and
    their SELinux labels."""
    steps = []  # type: List[Step]
    for each in notes.files:
        ours = each.components[1:][-2:] if each.components and each.real == each.path and each.components[0].path != "/" else []
        for wrong in permissions.check(each.components, account.uid):
            part = next(part for part in each.components if part.path == wrong.path)
            if wrong.unsafe or wrong.doubtful or part not in ours or any(step.path == part.path for step in steps):
                continue
            if part.uid != account.uid:  # the mode is changed with the login's own rights
                steps.append(Step("owner", part.path, account.name, [part.uid, part.gid], [account.uid, account.gid]))
            wanted = part.mode & ~0o022 | (0o700 if part.kind == "directory" else 0o600)
            if wanted != part.mode:
                steps.append(Step("mode", part.path, account.name, part.mode, wanted))
        for path, label, wanted_label in each.labels:
            step = Step("label", path, account.name, label, wanted_label)
            if step not in steps and _becomes_own(path, ours, account, steps):
                steps.append(step)
    return steps


def _becomes_own(path: str, ours: "List[Any]", account: "Any", steps: "List[Step]") -> bool:
    given = [step.path for step in steps if step.kind == "owner"]
    return any(part.path == path and (part.uid == account.uid or path in given) for part in ours)


def in_words(step: "Step") -> str:
    """Return a repair as it is told: a path, and what becomes of its mode, label or owner (user and group id)."""
    if step.kind == "mode":
        return "{} {:04o} -> {:04o}".format(step.path, step.before, step.after)
    if step.kind == "label":
        return "{} {} -> {}".format(step.path, step.before, step.after)
    return "{} {}:{} -> {}:{}".format(step.path, *(step.before + step.after))
