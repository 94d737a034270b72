"""Generated sshd configurations: what the agent says of each, and does to it, against what real logins show.

For each a login is bound with passwords switched off, by a whole operation, and unbound again. Wherever the agent refuses, the
change is made by hand to see whether the refusal was right.
"""

import asyncio
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh

from controller.demo.fleet import Login
from kpsagent import sshd
from kpsagent.look import look
from kpsagent.plan import addresses, password_gets_in, password_logins
from kpsagent.transaction import drive
from tests.agent import hostile_configs
from tests.drills import inside
from tests.drills.fuzz.host import Host, Prover, carried_out, ordered

LOGINS = (Login("alice", "pw-alice"), Login("bob", "pw-bob"), Login("carol"))
PASSWORDS = {"alice": "pw-alice", "bob": "pw-bob", "root": "pw-root"}
HOMES = {"alice": "/home/alice", "bob": "/home/bob", "carol": "/home/carol", "root": "/root"}
UIDS = {"root": 0, "alice": 1000, "bob": 1001, "carol": 1002}
GROUPS = {"wheel": "alice", "sudo": "bob", "adm": "carol"}
OURS = {"passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication"}
MORE = Path("/etc/ssh/more")
DROP_INS = Path("/etc/ssh/sshd_config.d")
NAMES = ["00-first.conf", "10-site.conf", "50-cloud-init.conf", "60-match.conf", "99-last.conf", "Z.conf"]
CRITERIA = [
    "User alice", "User bob,carol", "User !alice,*", "Group wheel", "Address 203.0.113.0/24", "Address 10.0.0.0/8,!10.0.0.5",
    "Address *,!192.0.2.9", "Address 127.0.0.1", "LocalPort 22", "LocalPort 2222", "LocalAddress 192.0.2.1", "Host 10.0.0.*",
    "User root Address 192.0.2.0/24", "User git", "all",
]  # fmt: skip
OTHER_LOGINS = ("git", "mallory", "nobody")  # that nobody has here, and a Match may speak of
OTHER_ADDRESSES = ("10.1.2.3", "192.0.2.77", "198.51.100.1")
KEY_CAUSES = (
    "login_not_allowed",
    "login_locked",
    "authentication_methods",
    "authorized_keys_elsewhere",
    "key_type_refused",
    "path_permissions",
    "path_unsafe",
)


class NotSaid(Exception):
    """sshd -T has nothing to say for this login: it would die of its configuration"""


class Configuration(NamedTuple):
    text: str
    drop_ins: dict[str, str]
    dangers: frozenset[str]


def generated(number: int, seed: int) -> tuple[random.Random, Configuration]:
    """The configuration of this number, always the same for the same seed, and the generator to go on with."""
    r = random.Random(f"{seed}/{number}")
    main = hostile_configs.file(r, MORE)
    text, dangers = _aimed(r, main.text), set(main.dangers)
    drop_ins = {}
    if r.random() < 0.6:
        text = f"Include {DROP_INS}/*.conf\n{text}"
        for name in r.sample(NAMES, r.choice([0, 1, 1, 2, 3])):
            if name.startswith("50") and r.random() < 0.5:
                drop_ins[name] = "PasswordAuthentication yes\n"
            else:
                piece = hostile_configs.file(r, MORE)
                drop_ins[name] = _aimed(r, piece.text)
                dangers |= {f"drop-in: {each}" for each in piece.dangers}
            dangers.add("drop-in")
    return r, Configuration(text, drop_ins, frozenset(dangers))


def _aimed(r: random.Random, text: str) -> str:
    """Half of the Match lines speak of the logins and addresses that are there."""
    return re.sub(r"(?mi)^match [^\r\n]*", lambda found: f"Match {r.choice(CRITERIA)}" if r.random() < 0.5 else found[0], text)


def without_ours(text: str) -> str:
    """The text without the blocks of ours that the generator put into it, as a former run would have left them."""
    kept, within = [], False
    for line in text.split("\n"):
        within = within or line.startswith("# kps: begin.")
        if not within:
            kept.append(line)
        within = within and not line.startswith("# kps: end")
    return "\n".join(kept)


class Bench:
    """A server on which configurations are tried, one after the other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.tally: Counter[str] = Counter()
        self.misses: list[str] = []
        self.too_careful: list[str] = []
        self.generation = 0
        self.loop = asyncio.new_event_loop()
        inside.on_memory("/etc/ssh", "/var/lib", *HOMES.values())
        groups = Path("/etc/group").read_text() + "wheel:x:2001:\n"
        for group, member in GROUPS.items():
            groups = re.sub(rf"(?m)^({group}:.*)$", rf"\g<1>{member}", groups)
        Path("/etc/group").write_text(groups)
        # A refused password costs seconds otherwise, and nothing here is about guessing them.
        common = Path("/etc/pam.d/common-auth")
        common.write_text(common.read_text().replace("nullok", "nullok nodelay"))
        hostile_configs.write_drop_ins(MORE)
        # Before OpenSSH 8.7 the one switch for keyboard-interactive had another name.
        self.asking = "challengeresponseauthentication" if self.settings("root", "127.0.0.1").get(
            "challengeresponseauthentication") else "kbdinteractiveauthentication"  # fmt: skip
        self.key = asyncssh.generate_private_key("ssh-ed25519")

    # -- sshd

    def sshd(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [inside.SSHD, *arguments], capture_output=True, check=False, encoding="utf-8", errors="surrogateescape"
        )

    def accepted(self) -> bool:
        return self.sshd("-t").returncode == 0

    def settings(self, login: str, address: str, port: int = inside.PORT) -> dict[str, list[str]]:
        """What sshd -T says for a login from this address."""
        done = self.sshd("-T", "-C", f"user={login},host={address},addr={address},laddr={inside.HERE},lport={port}")
        if done.returncode:
            raise NotSaid(done.stderr)
        found: dict[str, list[str]] = {}
        for line in done.stdout.split("\n")[:-1]:
            keyword, _, value = line.partition(" ")
            found.setdefault(keyword, []).append(value)
        return found

    # -- one configuration

    def write(self, configuration: Configuration) -> None:
        for path in DROP_INS.iterdir():
            path.unlink()
        for name, text in configuration.drop_ins.items():
            (DROP_INS / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        self.write_main(configuration.text)
        shutil.rmtree("/etc/keys", ignore_errors=True)
        for login, home in HOMES.items():
            shutil.rmtree(f"{home}/.ssh", ignore_errors=True)
            os.chown(home, UIDS[login], UIDS[login])
            os.chmod(home, 0o755)  # noqa: S103

    def write_main(self, text: str) -> None:
        Path(inside.CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))

    def main(self) -> str:
        return Path(inside.CONFIG).read_bytes().decode("utf-8", "surrogateescape")

    def try_one(self, number: int) -> None:
        """Try the configuration of this number; what goes wrong becomes a miss."""
        r, configuration = generated(number, self.seed)
        self.write(configuration)
        if not self.accepted():
            self.tally["thrown away: sshd does not accept it"] += 1
            return
        self.tally["configurations"] += 1
        for danger in configuration.dangers:
            self.tally[f"danger: {danger}"] += 1
        try:
            Trial(self, r, number, configuration).run()
        except (inside.Puzzled, NotSaid) as error:
            self.miss(number, "puzzled", str(error))

    def miss(self, number: int, what: str, why: str) -> None:
        self.tally[what] += 1
        self.misses.append(f"configs --seed {self.seed} --number {number}: {what}: {why}")


class Trial:
    """One configuration: looked at, changed, changed back."""

    def __init__(self, bench: Bench, r: random.Random, number: int, configuration: Configuration) -> None:
        self.bench, self.r, self.number, self.configuration = bench, r, number, configuration
        self.login = r.choice(["alice", "alice", "bob", "carol", "root"])
        self.source = r.choice(inside.SOURCES)
        self.connection = [self.source, "40000", inside.HERE, str(inside.PORT)]
        self.prover = Prover(bench.loop, self.source, PASSWORDS)
        self.line = self.prover.add(bench.key)

    def run(self) -> None:
        combinations = [(login, address) for login in (*PASSWORDS, "carol") for address in inside.SOURCES]
        sample = [(self.login, self.source), *self.r.sample(combinations, 2)]
        try:
            before = {each: self.bench.settings(*each) for each in sample}
        except NotSaid:
            # sshd -t looks at no Match: of such a configuration sshd dies at some logins, whoever changes it.
            self.bench.tally["configurations"] -= 1
            self.bench.tally["thrown away: sshd does not accept it for some login"] += 1
            return
        self.passwords_as_said()
        accepted = [name for name in PASSWORDS if name != self.login] if self.r.random() < 0.75 else []
        result = self.operation("bind", key=self.line, passwords="off", accept_lockout=accepted)
        if not self.bench.accepted():
            self.miss("broken", str(result))
        if result["status"] in ("succeeded", "unchanged"):
            self.bench.tally["bound"] += 1
            self.bound(sample, before)
            self.unbound(sample, before)
        elif result["server_state"] == "as_before":
            self.bench.tally[f"refused: {result['cause']}"] += 1
            self.unchanged(result)
            self.refusal(result)
        else:
            self.bench.tally[f"undone: {result['cause']}"] += 1
            self.unchanged(result)
            self.undone(result)

    def miss(self, what: str, why: str) -> None:
        self.bench.miss(self.number, what, f"{self.login} from {self.source}: {why}")

    def operation(self, operation: str, **wanted: Any) -> dict[str, Any]:
        self.bench.generation += 1
        plan = ordered(self.bench.generation, self.connection, operation=operation, login=self.login, **wanted)
        return carried_out(plan, Host(self.prover))

    def passwords_as_said(self) -> None:
        """What the agent says of passwords, login by login and address by address, is what they do."""
        self.bench.generation += 1
        plan = ordered(self.bench.generation, self.connection, operation="password-login-status", login=self.login)
        seen = drive(look(plan), Host(self.prover))
        said = password_logins(seen)
        known = {account.name: account for account in [*seen.accounts, seen.account]}
        for name, password in PASSWORDS.items():
            if name != self.login and self.r.random() < 0.5:
                continue
            address = self.source if name == self.login else self.r.choice(addresses(plan))
            predicted = password_gets_in(seen.effective[name][address], known[name], address)
            got_in = self.prover.log_in(name, address, password=password).got_in
            self.bench.tally["logins by password"] += 1
            if predicted != got_in or (got_in and said[name] == "off"):
                self.miss(
                    "prediction wrong", f"password of {name} from {address}: said {predicted} ({said[name]}), got in {got_in}"
                )

    def key_gets_in(self) -> bool:
        self.bench.tally["logins by key"] += 1
        return self.prover.log_in(self.login, key=self.bench.key).got_in

    def who_gets_in_by_password(self, most: int) -> str:
        """Somebody whom a password lets in, or ""; at most so many are tried."""
        combinations = [(name, address) for name in PASSWORDS for address in inside.SOURCES]
        for name, address in self.r.sample(combinations, min(most, len(combinations))):
            self.bench.tally["logins by password"] += 1
            if self.prover.log_in(name, address, password=PASSWORDS[name]).got_in:
                return f"{name} from {address}"
        return ""

    def bound(self, sample: list[tuple[str, str]], before: dict[tuple[str, str], dict[str, list[str]]]) -> None:
        if not self.key_gets_in():
            self.miss("prediction wrong", "bound, and the key does not get in")
        if inside_by_password := self.who_gets_in_by_password(3):
            self.miss("passwords left open", inside_by_password)
        for each in sample:
            changed = sshd.changed(before[each], self.bench.settings(*each))
            if changed - OURS:
                self.miss("unrelated settings changed", f"{each}: {sorted(changed - OURS)}")

    def unbound(self, sample: list[tuple[str, str]], before: dict[tuple[str, str], dict[str, list[str]]]) -> None:
        wanted: dict[str, Any] = {"remove": [self.line], "passwords": "restore", "password_known": self.login in PASSWORDS}
        result = self.operation("unbind", **wanted)
        if result["status"] == "failed":
            if result["cause"] != "no_way_in_remains":
                self.miss("prediction wrong", f"unbind: {result['cause']}: {result['message']}")
            lets_in = self.with_main(self.configuration.text, lambda: self.prover.log_in(
                self.login, password=PASSWORDS[self.login]).got_in if self.login in PASSWORDS else False)  # fmt: skip
            if lets_in:
                self.bench.tally["refused though sound: no_way_in_remains"] += 1
            result = self.operation("unbind", **wanted, accept_lockout=[self.login])
        else:
            self.bench.tally["unbound with a password proved"] += 1
        if result["status"] != "succeeded":
            self.miss("not removed", str(result.get("cause")) + ": " + str(result.get("message")))
        if self.bench.main() != without_ours(self.configuration.text):
            self.miss("removal not byte-identical", inside.CONFIG)
        if self.key_gets_in():
            self.miss("removed key gets in", "")
        # A block of ours that was there from the start is gone too, and with it what it had set.
        had_block = without_ours(self.configuration.text) != self.configuration.text
        for each in sample:
            changed = sshd.changed(before[each], self.bench.settings(*each)) - (OURS if had_block else set())
            if changed:
                self.miss("unrelated settings changed", f"after unbind: {each}: {sorted(changed)}")

    def unchanged(self, result: dict[str, Any]) -> None:
        if self.bench.main() != self.configuration.text:
            self.miss("not as before", str(result))

    def undone(self, result: dict[str, Any]) -> None:
        settings = self.bench.settings(self.login, self.source)
        if result["server_state"] != "reverted":
            self.miss("not as before", str(result))
        if result["cause"] == "no_command" and settings.get("forcecommand", ["none"]) != ["none"]:
            self.bench.tally["left to the proof: forced command"] += 1
        else:
            self.miss("prediction wrong", f"begun, and undone: {result['cause']}: {result['message']}")

    # -- was the refusal right?

    def refusal(self, result: dict[str, Any]) -> None:
        cause = result["cause"]
        if cause == "setting_overridden":
            sound = self.with_main(self.by_hand(), self.nobody_gets_in)
        elif cause == "others_locked_out":
            names = result["evidence"]["logins"]
            sound = not any(
                self.prover.log_in(name, address, password=PASSWORDS[name]).got_in for name in names for address in inside.SOURCES
            )
        elif cause in KEY_CAUSES:
            sound = self.key_by_hand()
        elif cause == "sshd_config_odd":
            sound = False  # what sshd makes of it is another thing than what people see
        else:
            self.miss("prediction wrong", f"refused: {cause}: {result['message']}")
            return
        if sound:
            self.bench.tally[f"refused though sound: {cause}"] += 1
            self.bench.tally["refused though sound"] += 1
            self.bench.too_careful.append(
                f"configs --seed {self.bench.seed} --number {self.number}: {self.login} from {self.source}: {result['message']}"
            )

    def by_hand(self) -> str:
        keyboard = "ChallengeResponse" if self.bench.asking.startswith("challenge") else "KbdInteractive"
        return f"PasswordAuthentication no\n{keyboard}Authentication no\n{self.configuration.text}"

    def with_main(self, text: str, look: Any) -> Any:
        now = self.bench.main()
        self.bench.write_main(text)
        try:
            return look()
        finally:
            self.bench.write_main(now)

    def nobody_gets_in(self) -> bool:
        """Whether a password is of no use to anybody from anywhere now; by sshd's own word at first."""
        if not self.bench.accepted():
            return False
        for login in (*PASSWORDS, "carol", *OTHER_LOGINS):
            for address in (*inside.SOURCES, *OTHER_ADDRESSES):
                for port in (22, 2222):
                    settings = self.bench.settings(login, address, port)
                    asking = [settings.get(word) for word in OURS]
                    if ["yes"] in asking:
                        return self.is_beside_the_point(settings)
        return not self.who_gets_in_by_password(12)

    def is_beside_the_point(self, settings: dict[str, list[str]]) -> bool:
        """Whether passwords that are still asked for could let in nobody: no list of methods is completed by them."""
        methods = settings.get("authenticationmethods", ["any"])
        return all("publickey" in each for value in methods for each in value.split()) and methods != ["any"]

    def key_by_hand(self) -> bool:
        """Whether the key gets in where it is put into every file that sshd names."""
        settings = self.bench.settings(self.login, self.source)
        home, uid = HOMES[self.login], UIDS[self.login]
        for word in " ".join(settings.get("authorizedkeysfile", [])).split():
            path = Path(home, word.replace("%u", self.login).replace("%h", home))
            if word != "none":
                made = [each for each in (path.parent,) if not each.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.line + "\n")
                path.chmod(0o644)
                for each in [*made, path]:
                    os.chown(each, *((uid, uid) if str(each).startswith(home + "/") else (0, 0)))
        return self.key_gets_in()


def tried(numbers: list[int], seed: int, seconds: float) -> tuple[Counter[str], list[str], list[str]]:
    """Inside a server: try the configurations of these numbers, as many as the time allows."""
    bench = Bench(seed)
    over = inside.wait_for(seconds)
    begun = time.monotonic()
    with inside.inetd((22, []), (2222, [])):
        for number in numbers:
            if over():
                break
            bench.try_one(number)
    bench.tally["seconds"] += int(time.monotonic() - begun)
    return bench.tally, bench.misses, bench.too_careful
