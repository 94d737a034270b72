"""Beside other tools: one public key line more on real servers, by ours with its proofs, and by others without.

    python -m benchmarks.peers            # 20 servers
    python -m benchmarks.peers --whole    # 200

All in one run, one after the other, on the same servers, each of which is looked at afterwards. What a tool costs is told whole
(one command over all servers, its start included) and marginal (the difference to the same over a few servers, for each more).
CPU and memory are those of all processes of a tool (benchmarks/cost.py). The others are no dependencies of this project: they
go into a virtual environment of their own, build/peers, by benchmarks/peers.txt.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from rich.console import Console
from rich.table import Table

from benchmarks.cost import ROOT, Cost, cost_of
from benchmarks.table import Row
from controller.demo.fleet import Fleet, Server, Spec
from controller.demo.trees import HOST_PYTHON

SERVERS, WHOLE, FEW = 20, 200, 5
REQUIREMENTS, VENV = ROOT / "benchmarks/peers.txt", ROOT / "build/peers"
FILE = "/root/.ssh/authorized_keys"
AT_ONCE = ("--canary", "0", "--batch", "100%")
# Of each operation of ours: connections that log in, and that only ask how one may (counted by benchmarks/fakes.py); and starts
# of Python on the server (strace of its sshd): the agent, and a watcher that outlives it.
OURS = {
    "kps: a key beside what is there": (2, 0, 1),
    "kps: bind, passwords closed": (3, 1, 2),
    "kps: replace": (3, 0, 1),
}
ADD, BIND, REPLACE = OURS
ANSIBLE, ANSIBLE_CURVE = "Ansible, pipelining, 50 forks", "Ansible, the same, curve25519 forced"
PYINFRA, PARALLEL, PARAMIKO = "pyinfra", "parallel-ssh", "paramiko, 32 threads"
OTHERS = (ANSIBLE, ANSIBLE_CURVE, PYINFRA, PARALLEL, PARAMIKO)
SHARE, RATIO = 90, 35
ENOUGH = 100  # servers; over fewer, what each one more costs is lost in how much the start varies, and no goal is judged

Command = Callable[[str], tuple[Sequence[str], str]]  # of "few" or "many": what to run, and what it is given to read


class Seen(NamedTuple):
    """What a tool cost on a few servers and on the others; or why it did not do its part."""

    servers: int = 0
    few: Cost | None = None
    many: Cost | None = None
    server_ms: float = 0.0  # CPU of one server meanwhile
    why: str = ""

    @property
    def whole_ms(self) -> float:
        return self.many.cpu * 1000 / self.servers if self.many else 0.0

    @property
    def marginal_ms(self) -> float:
        return (self.many.cpu - self.few.cpu) * 1000 / (self.servers - FEW) if self.many and self.few else 0.0

    @property
    def rate(self) -> float:
        return self.servers / self.many.wall if self.many else 0.0


class Bench:
    """Servers, a few of them apart; what opens them; and one tool after the other."""

    def __init__(self, servers: Sequence[Server], place: Path) -> None:
        """place: a directory with the private key that opens them, "access"."""
        self.groups = {"few": servers[:FEW], "many": servers[FEW:]}
        self.place = place
        self.home = {**os.environ, "KPS_HOME": str(place / "home")}
        # Nothing of whoever runs this: no settings, no known hosts, no keys.
        self.bare = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(place), "LC_ALL": "C.UTF-8"}
        self.seen: dict[str, Seen] = {}
        key, known = str(place / "access"), place / "known_hosts"
        known.write_text("".join(f"{each.host_key}\n" for each in servers))
        for name, group in self.groups.items():
            rows = [{"name": each.name, "host": each.host, "port": each.port, "host_key": each.public_host_key} for each in group]
            self._write(name, "json", json.dumps({"key": key, "servers": rows}))
            self._write(name, "ini", "".join(f"{one.name} ansible_host={one.host} ansible_port={one.port}\n" for one in group))
            common = {
                "ssh_user": "root",
                "ssh_key": key,
                "ssh_known_hosts_file": str(known),
                "ssh_strict_host_key_checking": "yes",
            }
            hosts = [(one.name, common | {"ssh_hostname": one.host, "ssh_port": one.port}) for one in group]
            self._write(name, "py", f"hosts = {hosts!r}\n")
            table = [f"{one.name},{one.host},{one.port},root,{one.public_host_key},group={name}" for one in group]
            self._write(name, "csv", "\n".join(["name,host,port,login,host_key,labels", *table, ""]))

    def _write(self, group: str, kind: str, text: str) -> None:
        Path(self.of(group, kind)).write_text(text)

    def of(self, group: str, kind: str) -> str:
        """Return the file in which this group is written down for some tool."""
        return str(self.place / f"{group}.{kind}")

    def measure(self, name: str, command: Command, env: Mapping[str, str], line: str = "") -> None:
        """Run a tool on the few servers and on the others; afterwards each must have this line, once, and what it had."""
        costs = {}
        for group, servers in self.groups.items():
            before, spent = [_keys_of(each) for each in servers], _cpu_of(servers)
            argv, given = command(group)
            costs[group] = cost_of(argv, given=given, env=env)
            spent = _cpu_of(servers) - spent
            why = f"ended with {costs[group].status}: {_end_of(costs[group].said)}" if costs[group].status else ""
            wrong = [
                each.name
                for each, had in zip(servers, before, strict=True)
                if line and not _as_asked(had, _keys_of(each), line, replaced=name == REPLACE)
            ]
            if wrong:
                why = why or f"{len(wrong)} of {len(servers)} servers were left otherwise, such as {wrong[0]}"
            if why:
                self.seen[name] = Seen(why=why)
                return
        many = len(self.groups["many"])
        self.seen[name] = Seen(many, costs["few"], costs["many"], spent * 1000 / many)

    def kps(self, *words: str) -> str:
        """Run a command of ours that is not measured, and return what it said; SystemExit where it did not end well."""
        done = subprocess.run([*KPS, *words], env=self.home, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"kps {shlex.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def ours(self) -> None:
        """Add a key, its login proved; bind one and close passwords; replace it."""
        # Nobody's first run after an update is measured, which compiles what it loads.
        subprocess.run([sys.executable, "-m", "compileall", "-q", "controller", "kpsagent"], cwd=ROOT, check=True)
        self.kps("init")
        lines = {}
        for name in ("zero", "one", "two"):
            self.kps("keypair", "create", name)
            lines[name] = _bare(json.loads(self.kps("keypair", "show", name, "--json"))["public_key"])
        opens = {}
        for group, servers in self.groups.items():
            self.kps("server", "import", self.of(group, "csv"))
            opens[group] = "".join(f"{each.name}\t{each.root_password}\n" for each in servers)
        access = ("--identity", str(self.place / "access"))

        def rollout(operation: str, *more: str, passwords: bool = False) -> Command:
            return lambda group: (
                [*KPS, "rollout", "start", operation, f"group={group}", *AT_ONCE, *more],
                opens[group] if passwords else "",
            )

        self.measure(ADD, rollout("bind", "--keypair", "zero", "--keep-password-login", *access), self.home, lines["zero"])
        for group in self.groups:
            self.kps("rollout", "start", "unbind", f"group={group}", *AT_ONCE, *access)
        self.measure(BIND, rollout("bind", "--keypair", "one", "--password-stdin", passwords=True), self.home, lines["one"])
        self.measure(REPLACE, rollout("replace", "--keypair", "two"), self.home, lines["two"])

    def loops(self) -> None:
        """Make as many logins as each of ours by nothing but asyncssh, with the agent's bytes and with an empty Python."""
        for name, counts in OURS.items():
            for python in ("agent", "empty"):
                words = [sys.executable, "-m", "benchmarks.others.bare"]
                self.measure(
                    _loop(name, python),
                    lambda group, words=words, counts=counts, python=python: (
                        [*words, self.of(group, "json"), *map(str, counts), python],
                        "",
                    ),
                    self.bare | {"PYTHONPATH": str(ROOT)},
                )

    def others(self) -> None:
        """Have each of the others append a line of its own."""
        if why := _install():
            self.seen |= {name: Seen(why=f"not installed: {why}") for name in OTHERS}
            return
        bin_ = VENV / "bin"

        def script(name: str, line: str) -> Command:
            return lambda group: (
                [str(bin_ / "python"), str(ROOT / f"benchmarks/others/{name}.py"), self.of(group, "json"), line],
                "",
            )

        def ansible(line: str, *more: str) -> Command:
            common = ["-F", "none", "-o", f"UserKnownHostsFile={self.place}/known_hosts", "-o", "IdentitiesOnly=yes", *more]
            return lambda group: (
                [str(bin_ / "ansible"), "all", "-i", self.of(group, "ini"), "-f", "50", "-u", "root",
                 "--private-key", str(self.place / "access"), "--ssh-common-args", shlex.join(common),
                 "-e", "ansible_python_interpreter=/usr/bin/python3",
                 "-m", "lineinfile", "-a", f"path={FILE} line='{line}'"],
                "",
            )  # fmt: skip

        def pyinfra(line: str) -> Command:
            return lambda group: (
                [str(bin_ / "pyinfra"), "-y", self.of(group, "py"), "files.line", f"path={FILE}", f"line={line}"],
                "",
            )

        (self.place / "ansible.cfg").touch()
        piped = self.bare | {
            "ANSIBLE_CONFIG": str(self.place / "ansible.cfg"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_HOST_KEY_CHECKING": "1",
        }
        lines = {name: _bare(_new_key()[1]) for name in OTHERS}
        self.measure(ANSIBLE, ansible(lines[ANSIBLE]), piped, lines[ANSIBLE])
        curve = ("-o", "KexAlgorithms=curve25519-sha256")
        self.measure(ANSIBLE_CURVE, ansible(lines[ANSIBLE_CURVE], *curve), piped, lines[ANSIBLE_CURVE])
        self.measure(PYINFRA, pyinfra(lines[PYINFRA]), self.bare, lines[PYINFRA])
        self.measure(PARALLEL, script("parallel_ssh", lines[PARALLEL]), self.bare, lines[PARALLEL])
        self.measure(PARAMIKO, script("paramiko_threads", lines[PARAMIKO]), self.bare, lines[PARAMIKO])


KPS = (sys.executable, "-m", "controller.cli")


def _loop(name: str, python: str) -> str:
    logins, asks, starts = OURS[name]
    return f"asyncssh alone, {logins}{f' + {asks}' if asks else ''} logins, {starts} {python} Python"


def _as_asked(before: list[str], after: list[str], line: str, replaced: bool) -> bool:
    """Whether a file has this key once and its other keys as before, one of them in its place if so asked."""
    others = [each for each in after if each != line]
    kept = len(before) - 1 if replaced else len(before)
    return after.count(line) == 1 and len(others) == kept and all(each in before for each in others)


def _keys_of(server: Server) -> list[str]:
    return [_bare(each) for each in server.read(FILE).split("\n") if each and not each.startswith("#")]


def _bare(line: str) -> str:
    return " ".join(line.split()[:2])


def _cpu_of(servers: Sequence[Server]) -> float:
    """Return the seconds of CPU that servers have used: their first processes and sshds, and what these have collected."""
    first = {each.pid for each in servers}
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended; whoever collected it has its time
            if int(name) in first or int(fields[1]) in first:
                ticks += sum(map(int, fields[11:15]))  # utime, stime, and both of its children: proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def _end_of(said: str) -> str:
    return " ".join(said.split())[-200:]


def _new_key() -> tuple[str, str]:
    """Return a new key: its private half as OpenSSH reads it, and its public line."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def _install() -> str:
    """Have the others' virtual environment as benchmarks/peers.txt says; return why there is none, or ""."""
    made = VENV / ".made-from"
    wanted = REQUIREMENTS.read_text()
    if made.exists() and made.read_text() == wanted:
        return ""
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        [*pip, "--require-hashes", "-r", str(REQUIREMENTS)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return _end_of(done.stderr or done.stdout)
    made.write_text(wanted)
    return ""


def measured(servers: int) -> dict[str, Seen]:
    """Return what each tool cost on so many servers."""
    private, public = _new_key()
    spec = Spec(tree=HOST_PYTHON, files={FILE: f"{public} access\n"})
    with tempfile.TemporaryDirectory() as directory, Fleet([spec] * (servers + FEW)) as fleet:
        place = Path(directory)
        with os.fdopen(os.open(place / "access", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(private)
        bench = Bench(fleet.servers, place)
        bench.ours()
        bench.loops()
        bench.others()
    return bench.seen


def told(seen: Mapping[str, Seen]) -> Table:
    """Return all that was seen as a table."""
    table = Table(
        title=f"one public key line on {max(each.servers for each in seen.values())} real servers", title_justify="left"
    )
    table.add_column("")
    for name in ("client CPU ms/server", "marginal", "servers/s", "peak MiB", "server CPU ms"):
        table.add_column(name, justify="right")
    for name, each in seen.items():
        if each.many is None:
            table.add_row(f"{name}: {each.why}")
        else:
            figures = (f"{each.whole_ms:.1f}", f"{each.marginal_ms:.1f}", f"{each.rate:.1f}", f"{each.many.peak:.0f}")
            table.add_row(name, *figures, f"{each.server_ms:.0f}")
    return table


def judged(seen: Mapping[str, Seen]) -> list[Row]:
    """Return the figures of what was seen, with the goals where there are any and servers enough to judge them."""
    found = []
    judges = max(each.servers for each in seen.values()) >= ENOUGH
    for name in OURS:
        ours = seen[name]
        for python, goal in (("agent", judges and name == REPLACE), ("empty", False)):
            loop = seen[_loop(name, python)]
            share = 100 * ours.rate / loop.rate if loop.rate else 0.0
            result = f"{share:.0f} % ({ours.rate:.1f} of {loop.rate:.1f} servers/s)" if share else ours.why or loop.why
            figure = f"{name}: share of a bare loop, {python} Python"
            found.append(Row(figure, f">= {SHARE} %" if goal else "", result, share >= SHARE if goal else None))
        # The same where others are at work too: on cores that are never idle the rate follows from the CPU of both sides.
        loop = seen[_loop(name, "agent")]
        if ours.many is not None and loop.many is not None:
            both, least = (each.whole_ms + each.server_ms for each in (ours, loop))
            result = f"{100 * least / both:.0f} % ({least:.0f} of {both:.0f} ms)"
            found.append(Row(f"{name}: CPU of client and server of that loop, of ours", "", result))
    for name, which in [(name, REPLACE) for name in OTHERS] + [(ANSIBLE, ADD), (ANSIBLE_CURVE, ADD)]:
        theirs, ours, goal = seen[name], seen[which], judges and (name, which) == (ANSIBLE, REPLACE)
        well = theirs.many is not None and ours.many is not None
        ratio = theirs.marginal_ms / ours.marginal_ms if well else 0.0
        result = f"{ratio:.1f}x ({theirs.marginal_ms:.1f} to {ours.marginal_ms:.1f} ms)" if well else theirs.why or ours.why
        figure = f"client CPU of {name}, to {which}"
        found.append(Row(figure, f">= {RATIO}x" if goal else "", result, ratio >= RATIO if goal else None))
    return found


def rows(whole: bool) -> list[Row]:
    """Return what is told of ours beside other tools."""
    return judged(measured(WHOLE if whole else SERVERS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--whole", action="store_true", help=f"{WHOLE} servers")
    parser.add_argument("--servers", type=int, help="so many, besides the few")
    asked = parser.parse_args()
    seen = measured(asked.servers or (WHOLE if asked.whole else SERVERS))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(told(seen))
    for row in judged(seen):
        console.print(*row, sep=" | ")


if __name__ == "__main__":
    main()
