"""What OpenSSH's client is told of servers: a configuration, their host keys, and the public halves of what opens them.

Names and addresses are somebody else's choice. Nothing is quoted here: what ssh, or a shell that ssh starts, could read as more
than one word is refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.exits import REFUSED, UNAVAILABLE, Declined, usage
from controller.cli.wholefile import written
from controller.model import OLD_ALGORITHMS

if TYPE_CHECKING:
    from controller.client.reaching import Hop

CONFIG, KNOWN_HOSTS, KEYS, AGENT = "config", "known_hosts", "keys", "agent"
HEAD = "# Made by `kps ssh-config`, which writes it anew; of "
SOCKET_BYTES = 107 - 17  # unix(7): sun_path without its NUL; ssh-agent appends to it while it makes one

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*\$?")
_KEY = re.compile(r"[a-z0-9][a-z0-9@.-]* [A-Za-z0-9+/]+={0,2}")
_ID = re.compile(r"[A-Za-z0-9-]+")
_KNOWN_AS = re.compile(r"kps-[A-Za-z0-9-]+")
# ssh hands the path of its configuration to a shell as it is, where there is a jump server: ssh.c, ProxyJump.
_DIRECTORY = re.compile(r"/[\w/.+@:,=-]*")

# For every server: its host key is the recorded one. Old clients (before 8.5) do not know of KnownHostsCommand.
_STRICT = """\
    StrictHostKeyChecking yes
    UserKnownHostsFile {directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    IgnoreUnknown KnownHostsCommand
    KnownHostsCommand none
    UpdateHostKeys no
    VerifyHostKeyDNS no
    CheckHostIP no
    ForwardAgent no
"""
_KIND = {
    "key exchange": ("KexAlgorithms",),
    "host key": ("HostKeyAlgorithms", "PubkeyAcceptedKeyTypes"),  # the older word, which every client knows
    "cipher": ("Ciphers",),
    "MAC": ("MACs",),
}


def usable(directory: Path) -> Path:
    """Return a directory as it can be named to ssh. Declined(directory_unusable)."""
    absolute = Path(os.path.abspath(directory.expanduser()))
    if not _DIRECTORY.fullmatch(str(absolute)):
        raise Declined(
            REFUSED,
            "directory_unusable",
            f"{absolute}: ssh gives a path to a shell as it is; give one of letters, digits and / . _ - + @ : , =",
        )
    if len(os.fsencode(absolute / AGENT)) > SOCKET_BYTES:
        raise Declined(REFUSED, "directory_unusable", f"{absolute}: too long for the socket of an ssh-agent; give a shorter one")
    return absolute


def config(directory: Path, servers: Sequence[Sequence[Hop]], of: str) -> str:
    """Return the configuration of ssh for servers, each with its logins, its own first. directory: a usable one."""
    blocks = [f"{HEAD}{_one_line(of)}\n"]
    for hops in servers:
        blocks.append(_host(hops[0]))
        blocks += [_login(directory, hop) for hop in hops if hop.public_key]
    if servers:
        names = " ".join(_word(_NAME, hops[0].name, "name") for hops in servers)
        blocks.append(f"Host {names}\n" + _STRICT.format(directory=directory))
    return "\n".join(blocks)


def known_hosts(servers: Iterable[Sequence[Hop]]) -> str:
    """Return the host keys of servers, each under a name that is no address."""
    return "".join(
        f"{_word(_KNOWN_AS, hops[0].known_as, 'id')} {_word(_KEY, str(hops[0].host_key), 'host key')}\n" for hops in servers
    )


def public_halves(servers: Iterable[Sequence[Hop]]) -> dict[str, str]:
    """Return the public keys that the configuration names, by their file's name."""
    found = {}
    for hops in servers:
        for hop in hops:
            if hop.public_key:
                found[_key_file(hop)] = _word(_KEY, " ".join(hop.public_key.split(" ")[:2]), "public key") + "\n"
    return found


def prepared(directory: Path) -> None:
    """Have a directory that belongs to who asks, and in which nobody else writes. Declined(directory_unusable)."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / KEYS).mkdir(mode=0o700, exist_ok=True)
        for each in (directory, directory / KEYS):
            found = each.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                told = f"{each}: others may write there, or it is no directory of yours; `chmod 700 {each}`"
                raise Declined(REFUSED, "directory_unusable", told)
    except OSError as error:
        raise Declined(UNAVAILABLE, "directory_unusable", f"{error.filename or directory}: {error.strerror}") from error


def write(directory: Path, servers: Sequence[Sequence[Hop]], of: str) -> None:
    """Write all of it, each file whole or not at all; what a former one named and this one does not is taken away.

    Declined: file_exists where there is a configuration that was not made here of this controller.
    """
    said, keys = config(directory, servers, of), public_halves(servers)
    prepared(directory)
    _only_ours(directory / CONFIG, of)
    try:
        for name, text in keys.items():
            _put(directory / KEYS / name, text)
        _put(directory / KNOWN_HOSTS, known_hosts(servers))
        _put(directory / CONFIG, said)
        for old in (directory / KEYS).glob("*.pub"):
            if old.name not in keys:
                old.unlink()
    except OSError as error:
        raise Declined(UNAVAILABLE, "file_not_written", f"{error.filename or directory}: {error.strerror}") from error


def key_ids(directory: Path) -> set[str]:
    """Return the ids of the key pairs that a configuration names. Declined(config_missing): there is none."""
    if not (directory / CONFIG).is_file():
        raise Declined(REFUSED, "config_missing", f"{directory}: there is no configuration; `kps ssh-config` writes one")
    return {each.name.removesuffix(".pub") for each in (directory / KEYS).glob("*.pub")}


def _host(hop: Hop) -> str:
    # ssh puts something for a % in an address; two of them are one.
    lines = [
        f"Host {_word(_NAME, hop.name, 'name')}",
        f"HostName {_word(_HOST, hop.host, 'address').replace('%', '%%')}",
        f"Port {int(hop.port)}",
        f"User {_word(_LOGIN, hop.login, 'login')}",
        f"HostKeyAlias {_word(_KNOWN_AS, hop.known_as, 'id')}",
    ]
    if hop.jump:
        lines.append("ProxyJump " + ",".join(_jump(each) for each in hop.jump))
    for kind, settings in _KIND.items():
        allowed = [name for name in OLD_ALGORITHMS[kind] if name in hop.old_algorithms]
        if allowed:
            lines += [f"{setting} +{','.join(allowed)}" for setting in settings]
    return "\n    ".join(lines) + "\n"


def _login(directory: Path, hop: Hop) -> str:
    """Return what holds for one login: the one key that is bound to it. What is not in custody, the user's own agent has."""
    lines = [
        f"Match originalhost {_word(_NAME, hop.name, 'name')} user {_word(_LOGIN, hop.login, 'login')}",
        f"IdentityFile {directory}/{KEYS}/{_key_file(hop)}",
        "IdentitiesOnly yes",
    ]
    if hop.managed:
        lines.append(f"IdentityAgent {directory}/{AGENT}")
    return "\n    ".join(lines) + "\n"


def _jump(name: str) -> str:
    if name.lower() == "none":  # readconf.c: ProxyJump none, in any case, is no jump server at all
        raise Declined(
            REFUSED, "not_for_ssh", f"{name!r}: ssh would take it for no jump server at all; add that server under another name"
        )
    return _word(_NAME, name, "name")


def _key_file(hop: Hop) -> str:
    return f"{_word(_ID, str(hop.keypair_id), 'id')}.pub"


def _word(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise Declined(REFUSED, "not_for_ssh", f"{text!r}: ssh would not read this {what} as one word; it is not written")
    return text


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def _only_ours(path: Path, of: str) -> None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            first = file.readline(4096).rstrip("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise usage(f"{path}: {error.strerror}") from error
    if first != f"{HEAD}{_one_line(of)}":
        told = first.removeprefix(HEAD) if first.startswith(HEAD) else "something else"
        raise Declined(REFUSED, "file_exists", f"{path}: it is of {told}; give another directory, or delete it")


def _put(path: Path, text: str) -> None:
    with written(path, replace=True) as put:
        put(text)
