"""Servers as others list them: OpenSSH's client configuration, Ansible's inventory; and host keys out of known_hosts.

Each is read by who reads such files anyway: asyncssh, `ansible-inventory`. Nothing that stands in them is run.
"""

import fnmatch
import getpass
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncssh import IllegalUserName
from asyncssh.config import ConfigParseError, SSHClientConfig
from asyncssh.known_hosts import SSHKnownHosts
from asyncssh.pattern import WildcardPatternList

from controller.cli import inputs
from controller.cli.exits import usage

Json = dict[str, Any]

SSH_PORT = 22
CONFIG_BYTES = 2 * 1024 * 1024  # of each file
INVENTORY_BYTES = 64 * 1024 * 1024
KNOWN_HOSTS_BYTES = 8 * 1024 * 1024
MOST_HOSTS = 10_000
_INCLUDES = 16  # readconf.c: READCONF_MAX_DEPTH
_PATTERN = "*?!,"
_SETTING = re.compile(r"\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+|$)(.*)", re.DOTALL)  # what -o takes
_BY_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh", "kps.fleet.ssh")
_BEST = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


@dataclass
class Listed:
    """What a list says. servers, wrong: by where it stands (FILE:LINE, or FILE: NAME); notes: what is not taken over.

    about: of what is wrong, and of notes, which server they are about, where that can be told.
    """

    servers: dict[str, Json] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, text: str) -> None:
        """Have something told about a server."""
        self.notes.append(text)
        self.about[text] = name

    def only(self, patterns: Sequence[str]) -> None:
        """Leave those whose names fit one of the patterns, as a shell's. Declined: none is left."""

        def meant(name: str) -> bool:
            return any(fnmatch.fnmatchcase(name, one) for one in patterns)

        self.servers = {place: each for place, each in self.servers.items() if meant(each["name"])}
        self.wrong = {place: why for place, why in self.wrong.items() if place not in self.about or meant(self.about[place])}
        self.notes = [note for note in self.notes if note not in self.about or meant(self.about[note])]
        if not self.servers and not self.wrong:
            raise usage(f"--only {' '.join(patterns)}: no server is called like that")

    def in_order(self) -> None:
        """Have each jump server come before what it leads to, as the controller takes them in."""
        left, there = dict(self.servers), {each["name"] for each in self.servers.values()}
        self.servers = {}
        done: set[str] = set()
        while left:
            ready = {place: one for place, one in left.items() if not ((set(one.get("jump", ())) & there) - done)}
            # Those that lead in a circle are left to the controller to refuse.
            for place, one in (ready or left).items():
                self.servers[place] = left.pop(place) if place in left else one
                done.add(one["name"])
                if not ready:
                    break


def host_keys(path: Path) -> Callable[[Json, str], str | None]:
    """Return what tells the host key that a known_hosts file has for a server, or None: found(server, alias)."""
    try:
        known = SSHKnownHosts(inputs.file_text(path, KNOWN_HOSTS_BYTES))
    except ValueError as error:
        raise usage(f"{path}: {error}") from error

    def found(server: Json, alias: str = "") -> str | None:
        port = server.get("port", SSH_PORT)
        for host in dict.fromkeys((alias, server["host"], server["name"])):
            if not host:
                continue
            keys, _, revoked, *_ = known.match(host if port == SSH_PORT or host == alias else f"[{host}]:{port}", "", None)
            good = [key for key in keys if key not in revoked and key.algorithm.decode() in _BEST]
            if good:
                best = min(good, key=lambda key: _BEST.index(key.algorithm.decode()))
                return " ".join(best.export_public_key("openssh").decode().split()[:2])
        return None

    return found


# -- OpenSSH's client configuration


class _Config(SSHClientConfig):
    """asyncssh's reader, for all hosts of a configuration in one pass. It runs no program (Match exec)."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: of the hosts that are asked about; without any, those that are named are collected."""
        super().__init__(None, False, False, False, getpass.getuser(), (), "", ())  # type: ignore[arg-type]
        self.places: dict[str, str] = {}
        self.notes: list[str] = []
        self.told: dict[str, Json] = {name: {} for name in names}
        self._scope = self._active = list(names)
        self._within = set(names)  # the scope
        self._depth = 0

    def parse(self, path: Path) -> None:
        """Read a file; whatever it includes comes with it."""
        inputs.file_text(path, CONFIG_BYTES)  # refuses what is no file, too large, or no text
        self._active = self._scope
        super().parse(path)

    def _begin_host(self, option: str, args: list[str]) -> None:
        if "" in args:
            self._error("Host names an empty word")
        for word in args:
            if not set(word) & set(_PATTERN):
                self.places.setdefault(word, f"{self._path}:{self._line_no}")
        if any(set(word) & set(_PATTERN) for word in args):
            pattern = WildcardPatternList(",".join(args))
            self._active = [name for name in self._scope if pattern.matches(name)]
        else:
            self._active = list(dict.fromkeys(name for name in args if name in self._within))
        self._matching = bool(self._active)
        args.clear()

    def _begin_match(self, option: str, args: list[str]) -> None:
        if any(word.lower().lstrip("!") == "exec" for word in args):
            self.notes.append(f"{self._path}:{self._line_no}: Match exec is not run; its block is passed over")
            self._active = []
        else:
            self._active = [name for name in self._scope if self._fits(name, option, list(args))]
        self._matching = bool(self._active)
        args.clear()

    def _fits(self, name: str, option: str, args: list[str]) -> bool:
        self._orig_host, self._options = name, self.told[name]
        self._match(option, args)
        return self._matching

    def _take_in(self, option: str, args: list[str]) -> None:
        if self._depth >= _INCLUDES:
            self._error("too many files that include one another")
        before = self._scope, self._active, self._matching
        self._scope, self._within, self._depth = self._active, set(self._active), self._depth + 1
        self._include(option, args)
        self._depth -= 1
        self._scope, self._active, self._matching = before
        self._within = set(self._scope)

    def _set(self, option: str, args: list[str]) -> None:
        if not args[0] or (option == "ProxyJump" and "" in args[0].split(",")):
            self._error(f"{option} names nothing")  # as it does to ssh
        given = args[:1] if option != "ProxyCommand" else [" ".join(args)]
        for name in self._active:
            self._orig_host, self._options = name, self.told[name]
            handler = {"Hostname": SSHClientConfig._set_hostname, "Port": SSHClientConfig._set_int}.get(
                option, SSHClientConfig._set_string
            )
            handler(self, option, list(given))
        del args[: len(args) if option == "ProxyCommand" else 1]

    # What else ssh can be told says nothing about where a server is.
    _percent_expand: set[str] = set()  # noqa: RUF012
    _handlers: dict[str, tuple[str, Callable[..., None]]] = {  # noqa: RUF012
        "host": ("Host", _begin_host),
        "match": ("Match", _begin_match),
        "include": ("Include", _take_in),
        "hostname": ("Hostname", _set),
        "port": ("Port", _set),
        "user": ("User", _set),
        "proxyjump": ("ProxyJump", _set),
        "proxycommand": ("ProxyCommand", _set),
        "hostkeyalias": ("HostKeyAlias", _set),
    }


def ssh_config(path: Path, login: str | None = None) -> tuple[Listed, dict[str, str]]:
    """Return the servers of an OpenSSH client configuration, and by name what host key alias they have.

    Each name that a Host line spells out is a server. login: of those for which it says none; None: as ssh has it, who runs this.
    """
    path = path.expanduser()
    names = list(_read(path, ()).places)
    if not names:
        raise usage(f"{path}: no Host line names a server")
    if len(names) > MOST_HOSTS:
        raise usage(f"{path}: more than {MOST_HOSTS} hosts")
    found = _read(path, names)
    listed = Listed(notes=found.notes)
    aliases: dict[str, str] = {}
    for name in names:
        said, place = found.told[name], found.places[name]
        server: Json = {"name": name, "host": said.get("Hostname", name), "login": said.get("User") or login or getpass.getuser()}
        if "Port" in said:
            server["port"] = said["Port"]
        jump, wrong = _jumps(said.get("ProxyJump"))
        if wrong:
            listed.wrong[place] = f"{name}: {wrong}"
            listed.about[place] = name
            continue
        if jump:
            server["jump"] = jump
        elif said.get("ProxyCommand"):
            listed.notes.append(
                f"{place}: {name}: ProxyCommand is not taken over; where it leads over a server: kps server set --jump"
            )
        if said.get("HostKeyAlias"):
            aliases[name] = said["HostKeyAlias"]
        # One line may name several.
        listed.servers[place if place not in listed.servers else f"{place}: {name}"] = server
    return listed, aliases


def _read(path: Path, names: Sequence[str]) -> _Config:
    found = _Config(names)
    try:
        found.parse(path)
    except OSError as error:
        raise usage(f"{path}: {error}") from error
    except (ConfigParseError, IllegalUserName, ValueError, IndexError) as error:
        # asyncssh says where it stands in most cases, as "FILE line N: why", and stumbles over an empty word (IndexError).
        place = f"{found._path} line {found._line_no}: "
        why = "an empty word" if isinstance(error, IndexError) else str(error).removeprefix(place)
        raise usage(f"{found._path}:{found._line_no}: {why}") from error
    return found


def _jumps(said: str | None) -> tuple[list[str], str]:
    """Return the names of jump servers as ssh -J takes them, and what is wrong with them."""
    words = [] if said is None or said.lower() == "none" else said.split(",")
    for word in words:
        if "@" in word or ":" in word or "/" in word:
            return [], f"ProxyJump {word}: give the jump server a Host of its own, with its login and port, and name that"
    return words, ""


# -- Ansible's inventory


def ansible_inventory(path: Path, login: str | None = None) -> Listed:
    """Return the servers of what `ansible-inventory --list` has printed, "-" for stdin: groups as labels (GROUP=yes).

    login: of those that have no ansible_user; None: who runs this, as Ansible has it.
    """
    shown = "stdin" if str(path) == "-" else str(path)
    text = inputs.stdin_text(INVENTORY_BYTES) if str(path) == "-" else inputs.file_text(path.expanduser(), INVENTORY_BYTES)
    try:
        said = json.loads(text)
        variables = said["_meta"]["hostvars"]
        groups = {name: one for name, one in said.items() if name != "_meta"}
        if not isinstance(variables, dict) or not all(isinstance(one, dict) for one in [*groups.values(), *variables.values()]):
            raise TypeError("no such document")
    except json.JSONDecodeError as error:
        raise usage(
            f"{shown}:{error.lineno}: {error.msg}; what is read is JSON: ansible-inventory -i INVENTORY --list"
        ) from error
    except (KeyError, TypeError, RecursionError) as error:
        raise usage(f"{shown}: not what `ansible-inventory -i INVENTORY --list` prints") from error
    labels = _labels(groups)
    names = list(dict.fromkeys([*variables, *labels]))
    if not names:
        raise usage(f"{shown}: no hosts in it")
    if len(names) > MOST_HOSTS:
        raise usage(f"{shown}: more than {MOST_HOSTS} hosts")
    listed, there = Listed(), set(names)
    for name in names:
        place = f"{shown}: {name}"
        try:
            server = _of_host(name, variables.get(name, {}), labels.get(name, {}), login, there, listed)
        except ValueError as error:
            listed.wrong[place] = str(error)
            listed.about[place] = name
            continue
        if server is not None:
            listed.servers[place] = server
    return listed


def _labels(groups: Json) -> dict[str, dict[str, str]]:
    """Return the labels of each host: every group that it is in, and those that these are in."""
    found: dict[str, dict[str, str]] = {}
    for group in groups:
        below, todo = {group}, [group]
        while todo:
            children = [one for one in groups.get(todo.pop(), {}).get("children", ()) if one not in below]
            below.update(children)
            todo += children
        for host in (host for one in sorted(below) for host in groups.get(one, {}).get("hosts", ())):
            mine = found.setdefault(str(host), {})
            if group not in ("all", "ungrouped"):
                mine[group] = "yes"
    return found


def _of_host(name: str, said: Json, labels: dict[str, str], login: str | None, there: set[str], listed: Listed) -> Json | None:
    """Return one server, or None where it is not reached by SSH. ValueError: what is said of it cannot be used."""
    connection = _text(said, "ansible_connection") or "ssh"
    if connection not in _BY_SSH:
        listed.note(name, f"{name}: left out: it is reached by {connection}")
        return None
    host = _text(said, "ansible_host", "ansible_ssh_host") or name
    server: Json = {
        "name": name,
        "host": host,
        "login": _text(said, "ansible_user", "ansible_ssh_user") or login or getpass.getuser(),
        "labels": labels | _known_labels(said),
    }
    port = _text(said, "ansible_port", "ansible_ssh_port")
    if port:
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
            raise ValueError(f"ansible_port {port!r} is not a number from 1 to 65535")
        server["port"] = int(port)
    host_key = _text(said, "kps_host_key")
    if host_key:
        server["host_key"] = host_key
    words = shlex.split(f"{_text(said, 'ansible_ssh_common_args')} {_text(said, 'ansible_ssh_extra_args')}")
    jump, others = _jumps_of(words)
    if jump:
        unknown = [each for each in jump if each not in there]
        if unknown:
            raise ValueError(f"its jump server {unknown[0]} is no host of this inventory; put it there, with its login and port")
        server["jump"] = jump
    if others:
        listed.note(name, f"{name}: not taken over of its SSH arguments: {' '.join(others)}")
    return server


def _jumps_of(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the jump servers that arguments of ssh name, and the other options: not their values, which may hold a password."""
    jump: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in ("-J", "-o"):
            value = next(rest, "")
        elif word.startswith(("-J", "-o")):
            word, value = word[:2], word[2:]
        else:
            others += [word[:2]] if word.startswith("-") else []
            continue
        found = _SETTING.fullmatch(value)
        name, said = ("ProxyJump", value) if word == "-J" else found.groups() if found else ("", "")
        if name.lower() == "proxyjump":
            jump = [each.strip() for each in said.split(",") if each.strip()]
        else:
            others.append(f"{word} {name}".rstrip())
    return jump, others


def _known_labels(said: Json) -> dict[str, str]:
    labels = said.get("kps_labels", {})
    return {str(name): _text(labels, name) for name in labels} if isinstance(labels, dict) else {}


def _text(said: Json, *names: str) -> str:
    """Return the first of these variables as text; "" where there is none. ValueError: what stands there is not its value."""
    value = next((said[name] for name in names if name in said), None)
    if isinstance(value, dict):
        if "__ansible_vault" in value:
            raise ValueError(f"{names[0]} is encrypted")
        value = value.get("__ansible_unsafe")
    if value is None:
        return ""
    if isinstance(value, list | dict | bool):
        raise ValueError(f"{names[0]} is no text")
    if "{{" in str(value) or "{%" in str(value):
        raise ValueError(f"{names[0]} is a template, which `ansible-inventory` does not fill in; write what it comes to")
    return str(value)


def csv(path: Path) -> Listed:
    """Return the servers of a CSV file (inputs.servers_from_csv)."""
    servers, wrong = inputs.servers_from_csv(path)
    return Listed(
        {f"{path}:{line}": one for line, one in servers.items()}, {f"{path}:{line}": why for line, why in wrong.items()}
    )


def in_file_order(places: Sequence[str]) -> list[str]:
    """Return places as they stand in their files."""

    def order(place: str) -> tuple[str, int, str]:
        file, _, line = place.partition(": ")[0].rpartition(":")
        return (file, int(line), place) if line.isdecimal() else (place, 0, "")

    return sorted(places, key=order)
