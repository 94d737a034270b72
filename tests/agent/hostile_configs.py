"""sshd_config files aimed at what goes wrong with them: precedence, Match, Include, odd spellings, broken lines."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DROP_INS = {
    "empty/": {},
    "cloud/": {"50-cloud-init.conf": "PasswordAuthentication yes\n"},
    "many/": {
        "00-first.conf": "X11Forwarding no\nPasswordAuthentication=yes\n",
        "10-match.conf": "Match User carol\n  PasswordAuthentication yes\n",
        "99-last.conf": "PermitRootLogin no\nKbdInteractiveAuthentication yes\n",
    },
    "root/": {"a.conf": "PermitRootLogin yes\r\n", "B.conf": "PermitRootLogin no"},
}

OURS = ("passwordauthentication", "kbdinteractiveauthentication")
USERS = ("alice", "bob", "root")


class File(NamedTuple):
    text: str
    dangers: frozenset[str]
    broken: bool  # on purpose; whether sshd minds is for sshd to say


def write_drop_ins(directory: Path) -> None:
    for folder, files in DROP_INS.items():
        (directory / folder).mkdir(parents=True)
        for name, text in files.items():
            (directory / folder / name).write_bytes(text.encode())


# keyword, values; each is allowed inside a Match as well where so marked
GLOBAL = [
    ("Port", ["22", "2222"]),
    ("LogLevel", ["INFO", "VERBOSE"]),
    ("UsePAM", ["yes", "no"]),
    ("StrictModes", ["yes", "no"]),
    ("LoginGraceTime", ["30", "2m"]),
    ("MaxStartups", ["10:30:100"]),
    ("UseDNS", ["no", "yes"]),
    ("PrintMotd", ["no"]),
    ("Ciphers", ["aes256-ctr,aes128-ctr"]),
    ("Compression", ["no"]),
    ("TCPKeepAlive", ["yes"]),
    ("VersionAddendum", ["none"]),
]
ANYWHERE = [
    ("PasswordAuthentication", ["yes", "no"]),
    ("PasswordAuthentication", ["yes", "no"]),
    ("KbdInteractiveAuthentication", ["yes", "no"]),
    ("ChallengeResponseAuthentication", ["yes", "no"]),
    ("SkeyAuthentication", ["yes", "no"]),
    ("PubkeyAuthentication", ["yes", "no"]),
    ("PermitRootLogin", ["yes", "no", "prohibit-password", "without-password", "forced-commands-only"]),
    ("X11Forwarding", ["yes", "no"]),
    ("AuthorizedKeysFile", [".ssh/authorized_keys", ".ssh/authorized_keys .ssh/k2", "/etc/keys/%u", "none"]),
    ("MaxAuthTries", ["3", "6"]),
    ("AuthenticationMethods", ["any", "publickey", "publickey,password publickey", "keyboard-interactive:pam"]),
    ("Banner", ["none"]),
    ("AllowUsers", ["alice", "bob root@192.0.2.*", "*"]),
    ("DenyUsers", ["mallory", "eve@10.0.0.0/8"]),
    ("AllowGroups", ["wheel", "sudo *"]),
    ("DenyGroups", ["nobody"]),
    ("AcceptEnv", ["LANG LC_*"]),
    ("ForceCommand", ["none", '"/bin/true a b"']),
    ("PermitTTY", ["yes", "no"]),
    ("RSAAuthentication", ["yes"]),
]
CRITERIA = [
    "User alice",
    "User alice,carol",
    "User !bob,*",
    "user=bob",
    'User "alice"',
    "Group wheel",
    "Group sudo,adm",
    "Address 10.0.0.0/8",
    "Address 192.0.2.0/24",
    "Host *.example.org",
    "LocalPort 2222",
    "User git Address 10.1.0.0/16",
    "all",
    "ALL",
    "User nobody # never",
]
REMARKS = [
    "#PasswordAuthentication yes",
    "# PasswordAuthentication no",
    "#Match User alice",
    "# Include /etc/ssh/x",
    "",
    "   ",
    "\t#\tx",
    "# ünï \udce9",
    "# a\u2028PasswordAuthentication yes",
    "# a\x85b",
    "# a\x0bPasswordAuthentication no",
    "# kps: beginning of wisdom",
    "# end",
    "# kps: end",
]
BROKEN = [
    "PasswordAuthentication true",
    "NoSuchKeyword yes",
    "PasswordAuthentication no#c",
    "PasswordAuthentication no yes",
    "PasswordAuthentication \\",
    "\x0bPasswordAuthentication no",
    "PasswordAuthentication == no",
    "PasswordAuthentication",
    "Match",
    "Match User",
    "Port none",
    'Banner "unterminated',
    "Match Address 10.0.0.1/33",
    "HostKey",
]
OUR_BLOCK = "# kps: begin. kps keeps these lines, and takes them out again\n{}# kps: end\n"


def _spelled(r: random.Random, keyword: str, value: str) -> tuple[str, str]:
    """Return (danger, line) of one way to write a setting."""
    if value.startswith('"') or " " in value or r.random() < 0.4:
        return "plain", f"{keyword} {value}"
    ways = [
        ("case of the keyword", f"{r.choice([keyword.lower(), keyword.upper()])} {value}"),
        ("equals sign", f"{keyword}{r.choice(['=', ' = ', '= ', ' ='])}{value}"),
        ("quotes", f'{keyword} "{value}"'),
        ("quotes", f"{keyword} '{value}'"),
        ("quoted keyword", f'"{keyword}" {value}'),
        (
            "tabs and blanks",
            f"{r.choice(['  ', chr(9)])}{keyword}{r.choice(['   ', chr(9)])}{value}{r.choice(['', ' ', chr(9)])}",
        ),
        ("remark behind", f"{keyword} {value} # {r.choice(['c', 'PasswordAuthentication yes'])}"),
    ]
    return r.choice(ways)


def files(count: int, seed: int, directory: Path) -> Iterator[File]:
    """Yield count files, always the same ones for the same seed; they include from the drop-ins in directory."""
    r = random.Random(seed)
    for _ in range(count):
        yield file(r, directory)


def file(r: random.Random, directory: Path) -> File:
    """One file that includes from the drop-ins in directory; r chooses what is in it."""
    lines: list[str] = []
    dangers: set[str] = set()
    broken = in_match = False

    def put(danger: str, line: str) -> None:
        dangers.add(danger)
        lines.append(line)

    for _ in range(r.choice([0, 1, 3, 6, 10])):
        kind = r.random()
        if kind < 0.2:
            remark = r.choice(REMARKS)
            put("remark that looks like more" if any(c.isupper() for c in remark) or "kps" in remark else "remark", remark)
        elif kind < 0.3:
            folder = r.choice(list(DROP_INS))
            where = "in a Match" if in_match else "first" if not lines else "later"
            put(f"Include {where}", f"Include {directory}/{folder}*.conf" + r.choice(["", f" {directory}/none.conf"]))
        elif kind < 0.42:
            criteria = r.choice(CRITERIA)
            in_match = True
            put("Match all" if criteria.lower() == "all" else "Match", f"{r.choice(['Match', 'match', 'Match'])} {criteria}")
        elif kind < 0.43:
            broken = True
            put("broken line", r.choice(BROKEN))
        elif kind < 0.44:
            put("our block somewhere", OUR_BLOCK.format("PasswordAuthentication yes\n" * r.randrange(3)).rstrip("\n"))
        elif kind < 0.6 and not in_match:
            keyword, values = r.choice(GLOBAL)
            if keyword != "Port":
                lines = [line for line in lines if keyword not in line]
            put(*_spelled(r, keyword, r.choice(values)))
        else:
            keyword, values = r.choice(ANYWHERE)
            if in_match and keyword in ("RSAAuthentication", "SkeyAuthentication", "ChallengeResponseAuthentication"):
                continue
            put(*_spelled(r, keyword, r.choice(values)))
    if in_match:
        dangers.add("ends in a Match")
    if any(line.lower().lstrip(' "').startswith("passwordauthentication") for line in lines):
        dangers.add("sets PasswordAuthentication")
    text = "\n".join(lines)
    if lines and r.random() < 0.7:
        text += "\n"
    elif lines and lines[-1]:
        dangers.add("no final newline")
    if r.random() < 0.12:
        dangers.add("CRLF")
        text = text.replace("\n", "\r\n")
    odd = r.random()
    if odd < 0.01:
        dangers.add("byte order mark")
        text = "\ufeff" + text
    elif odd < 0.03 and text:
        at = r.randrange(len(text))
        danger, letter = r.choice([("NUL", "\0"), ("lone CR", "\rx")])
        dangers.add(danger)
        text = text[:at] + letter + text[at:]
    return File(text, frozenset(dangers), broken)
