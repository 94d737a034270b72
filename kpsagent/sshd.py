"""sshd_config text: our block, what sshd says it means, who overrides us; text in, text out, no other byte changes.

For single-value keywords the first value wins and a Match beats that, so our settings are one marked block at the very
top. sshd itself is the judge of what a configuration means (`sshd -T`); only for a disk at rest do we read it ourselves.
Grammar: sshd_config(5), and strdelim() and argv_split() in OpenSSH's misc.c.
"""

from collections import namedtuple

from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

    Settings = Dict[str, List[str]]  # keyword in lower case -> one string for each line that sshd -T prints

BEGIN = "# kps: begin. kps keeps these lines, and takes them out again"
END = "# kps: end"

Place = namedtuple("Place", ["path", "line_number", "text", "match"])
Place.__doc__ = """A line that sets a keyword. line_number: from 1. match: the header of the Match around it, or None."""

_YES_NO = ("yes", "no")
ALLOWED = {
    "PasswordAuthentication": _YES_NO,
    "KbdInteractiveAuthentication": _YES_NO,
    "ChallengeResponseAuthentication": _YES_NO,
    "UsePAM": _YES_NO,
    "PubkeyAuthentication": _YES_NO,
    "PermitRootLogin": ("yes", "no", "prohibit-password", "without-password", "forced-commands-only"),
}
_SPELLED = {keyword.lower(): keyword for keyword in ALLOWED}

# Since OpenSSH 8.7 these are one keyword.
_KBD_INTERACTIVE = ("kbdinteractiveauthentication", "challengeresponseauthentication", "skeyauthentication")
_PASSWORD_KEYWORDS = ("passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication")

_BLANKS = " \t\r\n"
_DEEPEST_INCLUDE = 16
_LISTS = ("allowusers", "denyusers", "allowgroups", "denygroups")
_DEFAULTS = {
    "authenticationmethods": "any",
    "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2",
    "gssapiauthentication": "no",
    "hostbasedauthentication": "no",
    "kbdinteractiveauthentication": "yes",
    "passwordauthentication": "yes",
    "permitrootlogin": "without-password",
    "pubkeyauthentication": "yes",
    "strictmodes": "yes",
    "usepam": "no",
}


# -- our block ---------------------------------------------------------------------------------------------------------


def block(text: str) -> "Optional[List[Tuple[str, str]]]":
    """Return [(keyword, value)] of our block, or None where there is none."""
    return _taken_apart(text)[0]


def without_block(text: str) -> str:
    """Return text without our block, wherever it stands; what others wrote, even into it, stays byte for byte."""
    return _taken_apart(text)[1]


def with_block(text: str, settings: "List[Tuple[str, str]]") -> str:
    """Return text with these settings as our block at its very top, instead of any that was there.

    without_block() gives back the same bytes. No settings, no block. ValueError for a keyword or value that is none of
    our business.
    """
    rest = without_block(text)
    if not settings:
        return rest
    for keyword, value in settings:
        if value not in ALLOWED.get(keyword, ()):
            raise ValueError("{} {} is not for us to set".format(keyword, value))
    ours = [BEGIN] + ["{} {}".format(keyword, value) for keyword, value in settings] + [END]
    return "".join(line + "\n" for line in ours) + rest


def including(text: str, path: str) -> "Optional[Tuple[str, List[str], str]]":
    """Return text taken apart at the first Include, outside every Match, that reads path: (before, its patterns, after).

    None where text does not include path.
    """
    for number, _, word, rest, match in _statements(text):
        patterns = [_absolute(pattern) for pattern in _arguments(rest)] if word == "include" else []
        if match is None and any(is_path(path, pattern) for pattern in patterns):
            parts = text.split("\n")
            return "".join(part + "\n" for part in parts[: number - 1]), patterns, "\n".join(parts[number:])
    return None


def refuse_odd(text: str, path: str) -> None:
    """Raise Refused (sshd_config_odd) for a file in which a line is not what it seems: NUL, byte order mark, lone CR."""
    if text.startswith(("\ufeff", "\udcff\udcfe", "\udcfe\udcff")):
        _odd(path, 1, "begins with a byte order mark, with which sshd does not start")
    for number, line in enumerate(text.split("\n"), 1):
        if "\0" in line:
            _odd(path, number, "holds a NUL, which hides the end of the line from sshd")
        if "\r" in line[:-1]:
            _odd(path, number, "holds a carriage return that does not end a line")


def _odd(path: str, number: int, what: str) -> None:
    message = "{}:{}: {}; mend it by hand and retry".format(path, number, what)
    raise Refused("sshd_config_odd", message, path=path, line=number)


def _taken_apart(text: str) -> "Tuple[Optional[List[Tuple[str, str]]], str]":
    """Return (settings of our block or None, everything else)."""
    settings = None  # type: Optional[List[Tuple[str, str]]]
    parts = text.split("\n")
    kept = []
    at = 0
    while at < len(parts):
        if not _marks(parts[at], BEGIN):
            kept.append(parts[at])
            at += 1
            continue
        settings = settings or []
        at, end = at + 1, _end(parts, at + 1)
        for part in parts[at:end]:
            setting = _setting(part)
            if setting is None:
                kept.append(part)
            else:
                settings.append(setting)
        at = end + (1 if _marks("".join(parts[end : end + 1]), END) else 0)
    return settings, "\n".join(kept)


def _end(parts: "List[str]", start: int) -> int:
    """Return where the block that begins before start ends; without an end mark, before the first line not ours."""
    for index in range(start, len(parts)):
        if _marks(parts[index], END):
            return index
        if _marks(parts[index], BEGIN):
            break
    index = start
    while index < len(parts) and _setting(parts[index]) is not None:
        index += 1
    return index


def _marks(line: str, mark: str) -> bool:
    # The first words count: what follows them may change from one version of ours to the next.
    return line.replace(".", " ").split()[:3] == mark.replace(".", " ").split()[:3]


def _setting(line: str) -> "Optional[Tuple[str, str]]":
    keyword, rest = _keyword(line)
    values = _arguments(rest)
    if keyword in _SPELLED and len(values) == 1:
        return _SPELLED[keyword], values[0]
    return None


# -- what sshd -T says -------------------------------------------------------------------------------------------------


def effective(output: str) -> "Settings":
    """Return keyword -> values, one for each line, of what `sshd -T` printed."""
    settings = {}  # type: Settings
    for line in output.split("\n"):
        if line:
            keyword, _, value = line.partition(" ")
            settings.setdefault(keyword.lower(), []).append(value)
    return settings


def changed(before: "Settings", after: "Settings") -> "Set[str]":
    """Return the keywords whose values differ."""
    return {keyword for keyword in set(before) | set(after) if before.get(keyword) != after.get(keyword)}


def authorized_keys_paths(settings: "Settings", name: str, uid: int, home: str) -> "List[str]":
    """Return the files in which sshd looks for keys of this login, in its order; [] where it looks in none."""
    patterns = _value(settings, "authorizedkeysfile", _DEFAULTS["authorizedkeysfile"]).split()
    tokens = {"%h": home, "%u": name, "%U": str(uid), "%%": "%"}
    paths = [_expanded(pattern, tokens) for pattern in patterns if pattern.lower() != "none"]
    return [path if path.startswith("/") else home.rstrip("/") + "/" + path for path in paths]


def _expanded(pattern: str, tokens: "Dict[str, str]") -> str:
    if "%" not in pattern:
        return pattern
    expanded, at = "", 0
    while at < len(pattern):
        token = pattern[at : at + 2]
        expanded += tokens.get(token, pattern[at])
        at += 2 if token in tokens else 1
    return expanded


def password_ways(settings: "Settings", name: str, uid: int) -> "Set[str]":
    """Return the methods by which a password, and nothing else, gets this login in.

    Keyboard-interactive counts where PAM answers it: PAM asks for the password.
    """
    if uid == 0 and _value(settings, "permitrootlogin", "without-password") != "yes":
        return set()
    ways = set()
    if _on(settings, "passwordauthentication"):
        ways.add("password")
    if _keyboard_interactive(settings) and _on(settings, "usepam"):
        ways.add("keyboard-interactive")
    lists = _method_lists(settings)
    if lists is None:
        return ways
    return {method for methods in lists if ways.issuperset(methods) for method in methods}


def passwords_asked(settings: "Settings") -> "Set[str]":
    """Return the methods of passwords that sshd offers at the start of a login, whether or not one would get it in."""
    asked = {"password"} if _on(settings, "passwordauthentication") else set()
    if _keyboard_interactive(settings):
        asked.add("keyboard-interactive")
    lists = _method_lists(settings)
    return asked if lists is None else asked & {methods[0] for methods in lists}


def takes_password(settings: "Settings", account: "Any") -> bool:
    """Say whether there is a password by which this login (host.Account) could pass, where sshd asks for one."""
    return account.password == "usable" or (account.password == "empty" and _on(settings, "permitemptypasswords"))


def needs_no_shell(settings: "Settings") -> bool:
    """Say whether this login is served by sshd itself, so that even one whose shell ends at once gets in."""
    return _value(settings, "forcecommand", "none").split(" ")[0] == "internal-sftp"


def methods_left(settings: "Settings") -> bool:
    """Say whether a key, and nothing else, completes a login."""
    lists = _method_lists(settings)
    return _on(settings, "pubkeyauthentication", "yes") and (lists is None or ["publickey"] in lists)


def password_off(settings: "Settings") -> "List[Tuple[str, str]]":
    """Return the settings that close password login, among the keywords that this sshd knows."""
    return [(_SPELLED[keyword], "no") for keyword in _PASSWORD_KEYWORDS if keyword in settings]


def key_accepted(settings: "Settings", key: "Any") -> bool:
    """Say whether sshd would look at a key (keys.Key) of this type and length at all."""
    if key.bits and key.bits < int(_value(settings, "requiredrsasize", "1024")):
        return False
    algorithms = {
        "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"),
        "sk-ecdsa-sha2-nistp256@openssh.com": (key.type, "webauthn-" + key.type),
    }.get(key.type, (key.type,))
    default = "" if key.type == "ssh-dss" else ",".join(algorithms)
    # The older name is that of OpenSSH 8.4 and before.
    listed = settings.get("pubkeyacceptedalgorithms") or settings.get("pubkeyacceptedkeytypes") or [default]
    return any(_in_list(algorithm, listed[0]) > 0 for algorithm in algorithms)


def login_allowed(
    settings: "Settings", name: str, groups: "List[str]", host: str, addr: str, uid: "Optional[int]" = None
) -> "Optional[str]":
    """Return None where sshd lets this login in with a key, from this host and address; otherwise the reason.

    groups: names. uid: None means 0 for root and not 0 for others. Order and patterns: allowed_user() in OpenSSH's
    auth.c; group names and user names know no negation there, only hosts do.
    """
    for pattern in _patterns(settings, "denyusers"):
        if _is_user(pattern, name, host, addr):
            return "DenyUsers {}".format(pattern)
    allowed = _patterns(settings, "allowusers")
    if allowed and not any(_is_user(pattern, name, host, addr) for pattern in allowed):
        return "AllowUsers {} does not let it in from {}".format(" ".join(allowed), addr)
    for pattern in _patterns(settings, "denygroups"):
        if any(_matches(group, pattern) for group in groups):
            return "DenyGroups {}".format(pattern)
    allowed = _patterns(settings, "allowgroups")
    if allowed and not any(_matches(group, pattern) for pattern in allowed for group in groups):
        return "AllowGroups {} names none of its groups".format(" ".join(allowed))
    root = _value(settings, "permitrootlogin", "without-password")
    if (name == "root" if uid is None else uid == 0) and root in ("no", "forced-commands-only"):
        return "PermitRootLogin {}".format(root)
    return None


def _value(settings: "Settings", keyword: str, default: str) -> str:
    return (settings.get(keyword) or [default])[0]


def _on(settings: "Settings", keyword: str, default: str = "no") -> bool:
    return _value(settings, keyword, default) == "yes"


def _keyboard_interactive(settings: "Settings") -> bool:
    # Up to OpenSSH 8.6 either of the two switches it on.
    return any(_on(settings, keyword) for keyword in _KBD_INTERACTIVE)


def _method_lists(settings: "Settings") -> "Optional[List[List[str]]]":
    """Return the lists of AuthenticationMethods, any one of which completes a login; None where any method does."""
    lists = [
        [method.split(":")[0] for method in each.split(",")]
        for value in settings.get("authenticationmethods", ["any"])
        for each in value.split()
    ]
    return None if lists in ([], [["any"]]) else lists


def _patterns(settings: "Settings", keyword: str) -> "List[str]":
    return [pattern for value in settings.get(keyword, []) for pattern in value.split()]


# -- patterns ----------------------------------------------------------------------------------------------------------


def _matches(word: str, pattern: str) -> bool:
    """Say whether word is what pattern says; * and ? as in match_pattern()."""
    at = next_pattern = 0
    star, resume = -1, 0
    while at < len(word):
        wanted = pattern[next_pattern : next_pattern + 1]
        if wanted == "*":
            star, resume = next_pattern, at
            next_pattern += 1
        elif wanted in (word[at], "?"):
            at += 1
            next_pattern += 1
        elif star >= 0:
            resume += 1
            at, next_pattern = resume, star + 1
        else:
            return False
    return not pattern[next_pattern:].strip("*")


def _in_list(word: str, patterns: str) -> int:
    """Return 1 where a pattern of the comma-separated list matches, -1 where a negated one does, else 0."""
    found = 0
    for pattern in patterns.split(","):
        if pattern.startswith("!"):
            if _matches(word, pattern[1:]):
                return -1
        elif _matches(word, pattern):
            found = 1
    return found


def _in_networks(addr: str, patterns: str) -> int:
    """The same for addresses, where a pattern may be a network in CIDR notation."""
    found = 0
    for pattern in patterns.split(","):
        bare = pattern[1:] if pattern.startswith("!") else pattern
        network, _, length = bare.partition("/")
        bits = _bits(network)
        if bits and (length.isdigit() or bare == network):
            prefix = int(length or len(bits))
            matches = _bits(addr)[:prefix] == bits[:prefix] and len(_bits(addr)) == len(bits)
        else:
            matches = _matches(addr, bare)
        if matches and bare != pattern:
            return -1
        found = found or int(matches)
    return found


def network(cidr: str) -> "Optional[Tuple[str, int]]":
    """Return (the address's binary digits, how many of them name the network); None where sshd would take it for none."""
    address, slash, length = cidr.partition("/")
    bits = _bits(address)
    prefix = int(length) if length.isdigit() and len(length) < 4 else -1
    return (bits, prefix) if slash and 0 <= prefix <= len(bits) and "1" not in bits[prefix:] and bits else None


def in_network(addr: str, cidr: str) -> bool:
    """Say whether an address is in a network()."""
    bits, length = network(cidr) or ("", 0)
    return bool(bits) and _bits(addr)[:length] == bits[:length] and len(_bits(addr)) == len(bits)


def address(number: int, size: int) -> str:
    """Return the IP address that is this number, of 32 or 128 bits."""
    import socket

    return socket.inet_ntop(socket.AF_INET if size == 32 else socket.AF_INET6, number.to_bytes(size // 8, "big"))


def _bits(addr: str) -> str:
    """Return an IP address as binary digits, or "" for anything else."""
    import socket  # where it is needed: slow to load

    for family, size in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
        try:
            number = int.from_bytes(socket.inet_pton(family, addr), "big")
        except (OSError, ValueError):
            continue
        return bin(number)[2:].zfill(size)
    return ""


def _is_user(pattern: str, name: str, host: str, addr: str) -> bool:
    """match_user(): a pattern for the name, or one for the name and a list for the host, with the last @ between them."""
    if "@" not in pattern:
        return _matches(name, pattern)
    user, hosts = pattern.rsplit("@", 1)
    if not _matches(name, user):
        return False
    verdicts = [_in_networks(addr, hosts), _in_list(host.lower(), hosts.lower())]
    return -1 not in verdicts and 1 in verdicts


def from_matches(patterns: str, addr: str) -> bool:
    """Say whether the from= of a key's line lets in who comes from this address, of which no name is known."""
    verdicts = [_in_networks(addr, patterns), _in_list(addr, patterns.lower())]
    return -1 not in verdicts and 1 in verdicts


# -- lines -------------------------------------------------------------------------------------------------------------


def places(files: "List[Tuple[str, str]]", keyword: str) -> "List[Place]":
    """Return the lines of the files [(path, text)] that set keyword, under any of its names.

    A file that is included within a Match is within it as a whole.
    """
    names = _KBD_INTERACTIVE if keyword.lower() in _KBD_INTERACTIVE else (keyword.lower(),)
    around = {}  # type: Dict[str, str]
    for _, text in files:
        for _, _, word, rest, match in _statements(text):
            if word == "include" and match is not None:
                patterns = [_absolute(pattern) for pattern in _arguments(rest)]
                around.update({path: match for path, _ in files if any(is_path(path, each) for each in patterns)})
    return [
        Place(path, number, line.strip(), around.get(path) if match is None else match)
        for path, text in files
        for number, line, word, _, match in _statements(text)
        if word in names
    ]


def password_places(files: "List[Tuple[str, str]]") -> "List[Place]":
    """Return the places that say whether passwords get in, but for those in a Match where no password alone completes a login."""
    needs_more = set()
    for place in places(files, "AuthenticationMethods"):
        lists = _method_lists({"authenticationmethods": [" ".join(_arguments(_keyword(place.text)[1]))]})
        by_password = lists is None or any({"password", "keyboard-interactive"}.issuperset(methods) for methods in lists)
        if place.match is not None and not by_password:
            needs_more.add((place.path, place.match))
    found = places(files, "PasswordAuthentication") + places(files, "KbdInteractiveAuthentication")
    return [place for place in found if (place.path, place.match) not in needs_more]


def opening(places: "List[Place]", settings: "Settings") -> "List[Place]":
    """Return those of places() that let passwords in for some logins, or from some addresses, whatever holds for all others."""
    found = []
    decided = set()  # by the first line under this header in this file: whatever else holds, the later ones never count
    for place in places:
        word, rest = _keyword(place.text)
        which = (place.path, place.match, word)  # up to OpenSSH 8.6 the names of keyboard-interactive are not one keyword
        if place.match is None or which in decided:
            continue
        if "exec" not in place.match.lower():  # what a command says may be another thing each time
            decided.add(which)
        if [value.lower() for value in _arguments(rest)[:1]] == ["no"]:
            continue
        if word == "passwordauthentication" or _on(settings, "usepam"):
            found.append(place)
    return found


def first_match(text: str) -> "Optional[int]":
    """Return where in text the line of its first Match begins, or None."""
    number = next((number for number, _, word, _, _ in _statements(text) if word == "match"), None)
    return None if number is None else len("".join(line + "\n" for line in text.split("\n")[: number - 1]))


def within(header: str, cidr: str) -> bool:
    """Say whether the Match with this header holds for clients in this network only. What cannot be told is no."""
    word, rest = _delimited(_keyword(header)[1])
    while word and not word.startswith("#"):
        value, rest = _delimited(rest)
        if word.lower() == "address":
            return all(_is_part(each, cidr) for each in value.split(",") if not each.startswith("!"))
        word, rest = _delimited(rest)
    return False


def _is_part(pattern: str, cidr: str) -> bool:
    part = network(pattern if "/" in pattern else "{}/{}".format(pattern, len(_bits(pattern))))
    whole = network(cidr)
    if part is None or whole is None or len(part[0]) != len(whole[0]):
        return False
    return part[1] >= whole[1] and part[0][: whole[1]] == whole[0][: whole[1]]


def could_match(header: str, name: str, groups: "List[str]") -> bool:
    """Say whether the Match with this header may hold for a login: what it says of anything but user and group may be so."""
    return _is_login(_keyword(header)[1], (name, groups), True)


def authorized_keys_anywhere(files: "List[Tuple[str, str]]", name: str, groups: "List[str]", uid: int, home: str) -> "List[str]":
    """Return the files in which sshd may look for keys of this login because a Match says so, for some address or other."""
    found = []  # type: List[str]
    for place in places(files, "AuthorizedKeysFile"):
        if place.match is not None and could_match(place.match, name, groups):
            patterns = " ".join(_arguments(_keyword(place.text)[1]))
            found += authorized_keys_paths({"authorizedkeysfile": [patterns]}, name, uid, home)
    return found


def includes(text: str) -> "List[Tuple[int, str, bool]]":
    """Return (line number, absolute pattern, whether in a Match) of every pattern that text includes."""
    return [
        (number, _absolute(pattern), match is not None)
        for number, _, word, rest, match in _statements(text)
        if word == "include"
        for pattern in _arguments(rest)
    ]


def _absolute(pattern: str) -> str:
    return pattern if pattern[:1] in "/~" else "/etc/ssh/" + pattern


def has_match(text: str) -> bool:
    """Say whether some settings in text count for some logins or addresses only."""
    return any(word == "match" for _, _, word, _, _ in _statements(text))


def scan(files: "Dict[str, str]", path: str, name: str, groups: "List[str]") -> "Settings":
    """Return our own reading of what the configuration at path means for a login, where no sshd can be asked.

    files: path -> text, of the main file and all it may include. The same shape as effective(), for the keywords that
    decide who gets in. A Match by anything but user, group and all does not match; include patterns know * and ? only.
    """
    everywhere, matched = {}, {}  # type: Settings, Settings
    _scan(files, path, (name, groups), None, everywhere, matched, 0)
    settings = {keyword: [value] for keyword, value in _DEFAULTS.items()}
    settings.update(everywhere)
    settings.update(matched)
    return settings


def _scan(
    files: "Dict[str, str]",
    path: str,
    login: "Tuple[str, List[str]]",
    active: "Optional[bool]",
    everywhere: "Settings",
    matched: "Settings",
    depth: int,
) -> None:
    """active: None outside any Match; else whether the Match around it matches."""
    for _, _, word, rest, _ in _statements(files.get(path, "")):
        into = everywhere if active is None else matched
        if word == "match":
            active = _is_login(rest, login)
        elif active is False:
            continue
        elif word == "include" and depth < _DEEPEST_INCLUDE:
            for pattern in _arguments(rest):
                for included in sorted(each for each in files if is_path(each, _absolute(pattern))):
                    _scan(files, included, login, active, everywhere, matched, depth + 1)
        elif word in _LISTS:
            into.setdefault(word, []).extend(_arguments(rest))
        else:
            word = _KBD_INTERACTIVE[0] if word in _KBD_INTERACTIVE else word
            if word in _DEFAULTS:
                value = " ".join(_arguments(rest))
                value = value if word == "authorizedkeysfile" else value.lower()
                into.setdefault(word, ["without-password" if value == "prohibit-password" else value])


def _is_login(criteria: str, login: "Tuple[str, List[str]]", else_holds: bool = False) -> bool:
    """Say whether the criteria of a Match line hold for (name, groups). else_holds: what those that ask for something else do."""
    name, groups = login
    word, rest = _delimited(criteria)
    if word.lower() == "all":
        return True
    holds = bool(word)
    while word and not word.startswith("#"):
        value, rest = _delimited(rest)
        if word.lower() == "user":
            holds = holds and _in_list(name, value) > 0
        elif word.lower() == "group":
            verdicts = [_in_list(group, value) for group in groups]
            holds = holds and 1 in verdicts and -1 not in verdicts
        else:
            holds = holds and else_holds
        word, rest = _delimited(rest)
    return holds


def is_path(path: str, pattern: str) -> bool:
    """Say whether glob(3) would give path for pattern."""
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(
        _matches(name, each) and (name[:1] != "." or each[:1] == ".") for name, each in zip(names, patterns)
    )


def _statements(text: str) -> "Iterator[Tuple[int, str, str, str, Optional[str]]]":
    """Yield (line number, line, keyword in lower case, rest of the line, header of the Match around it or None)."""
    match = None
    for number, line in enumerate(text.split("\n"), 1):
        keyword, rest = _keyword(line)
        if keyword == "match":
            match = line.strip()
        if keyword:
            yield number, line, keyword, rest, match


def _keyword(line: str) -> "Tuple[str, str]":
    """Return (keyword in lower case, the rest) of a line; ("", "") for a blank line or a comment."""
    word, rest = _delimited(line.rstrip(_BLANKS + "\f"))
    if not word:  # blanks, or one =, before the keyword
        word, rest = _delimited(rest)
    return ("", "") if word.startswith("#") else (word.lower(), rest)


def _delimited(text: str) -> "Tuple[str, str]":
    """Return (first word, the rest) as strdelim() would: ended by blanks or one =, with double quotes around a part."""
    end = next((at for at, letter in enumerate(text) if letter in _BLANKS + '"='), len(text))
    if text[end : end + 1] == '"':
        close = text.find('"', end + 1)
        if close < 0:
            return "", ""
        return text[:end] + text[end + 1 : close], text[close + 1 :].lstrip(_BLANKS)
    rest = text[end + 1 :].lstrip(_BLANKS)
    if rest.startswith("=") and text[end] != "=":
        rest = rest[1:].lstrip(_BLANKS)
    return text[:end], rest


def _arguments(rest: str) -> "List[str]":
    """Return the arguments as argv_split() would: quotes of both kinds, backslashes, and # begins a comment."""
    arguments = []  # type: List[str]
    at = 0
    while True:
        while rest[at : at + 1] in (" ", "\t", "\r"):
            at += 1
        if at >= len(rest) or rest[at] == "#":
            return arguments
        argument, quote = "", ""
        while at < len(rest) and (quote or rest[at] not in " \t"):
            letter, following = rest[at], rest[at + 1 : at + 2]
            if letter == "\\" and following and (following in "'\"\\" or (following == " " and not quote)):
                argument += following
                at += 1
            elif quote and letter == quote:
                quote = ""
            elif not quote and letter in "'\"":
                quote = letter
            else:
                argument += letter
            at += 1
        arguments.append(argument)
