"""The story that `kps demo` tells: a key rollout on real servers, each step judged by OpenSSH's own client."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from controller.demo.fleet import MAX_AGE_SECONDS, Fleet, FleetUnavailable, Server, end_kept, kept_fleets
from controller.errors import Invalid, NotFound, Unavailable

_KPS = [sys.executable, "-m", "controller.cli"]
_SECONDS = 90
# What fleet_only() puts into its directory.
_LINK, _INVENTORY, _PASSWORDS = "fleet", "fleet.csv", "passwords"


def main(keep: bool = False, servers: int = 3, json: bool = False) -> int:
    """Tell the story and return 0 only where every check held. With keep the fleet stays up, with commands to try.

    Unavailable(no_fleet) where no fleet can be started.
    """
    try:
        return _tell(keep, servers, json)
    except FleetUnavailable as unavailable:
        raise _no_fleet(unavailable) from unavailable


def fleet_only(place: Path, servers: int) -> dict[str, Any]:
    """Start servers and nothing else; what is needed to reach them is put into place, which must not exist yet.

    Returns what was made. Where it does not come to that, nothing is left. Invalid: directory_unusable; Unavailable:
    no_fleet, fleet_not_written.
    """
    try:
        place.mkdir(mode=0o700)
    except FileExistsError as error:
        raise Invalid("directory_unusable", f"{place}: is there already; choose another directory") from error
    except OSError as error:
        raise Invalid("directory_unusable", f"{place}: {error.strerror}; choose another directory") from error
    try:
        with Fleet(servers) as fleet:
            (place / _LINK).symlink_to(fleet.directory)
            (place / _INVENTORY).write_text(_inventory(fleet))
            passwords = place / _PASSWORDS
            passwords.touch(mode=0o600)
            passwords.write_text("".join(f"{each.name}\t{each.root_password}\n" for each in fleet.servers))
            made = {
                "directory": str(place),
                "fleet": str(fleet.directory),
                "inventory": str(place / _INVENTORY),
                "passwords": str(passwords),
                "servers": [each.name for each in fleet.servers],
                "ends_after_seconds": MAX_AGE_SECONDS,
            }
            fleet.keep()
    except BaseException as error:
        _clear(place)
        if isinstance(error, FleetUnavailable):
            raise _no_fleet(error) from error
        if isinstance(error, OSError):
            raise Unavailable("fleet_not_written", f"{place}: {error.strerror}; nothing was left") from error
        raise
    return made


def end(place: Path) -> dict[str, Any]:
    """End a fleet that was left up, and remove what fleet_only() put into place. NotFound(fleet_not_found)."""
    linked = (place / _LINK).is_symlink()
    fleet = (place / _LINK if linked else place).resolve()
    lives = fleet in kept_fleets()
    if not linked and not lives:
        raise NotFound("fleet_not_found", f"{place}: no fleet here; it has ended, or was started elsewhere")
    if lives:
        end_kept(fleet)
    if linked:
        _clear(place)
    return {"directory": str(place), "fleet": str(fleet), "ended": lives}


def _clear(place: Path) -> None:
    """Remove what fleet_only() made: its own files, and the directory if nothing else is in it."""
    for name in (_LINK, _INVENTORY, _PASSWORDS):
        (place / name).unlink(missing_ok=True)
    if not any(place.iterdir()):
        place.rmdir()


def _no_fleet(why: FleetUnavailable) -> Unavailable:
    return Unavailable("no_fleet", f"no fleet of real servers here: {why}")


def _inventory(fleet: Fleet) -> str:
    rows = [f"{each.name},{each.host},{each.port},root,stage=demo,{each.public_host_key}" for each in fleet.servers]
    return "\n".join(["name,host,port,login,labels,host_key", *rows, ""])


def _tell(keep: bool, count: int, as_json: bool) -> int:
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="kps-demo-"))
    kept = False
    try:
        with Fleet(count) as fleet:
            story = Story(fleet, place, Console(stderr=as_json, highlight=False))
            try:
                story.tell()
                if keep:
                    story.invite()
                    fleet.keep()
                    kept = True
            finally:
                story.end()
    finally:
        if not kept:
            shutil.rmtree(place)
    return story.verdict(time.monotonic() - began, as_json)


class Story:
    """One telling. Every command is the real `kps`, every check a new connection by OpenSSH's client."""

    def __init__(self, fleet: Fleet, place: Path, console: Console) -> None:
        self.fleet = fleet
        self.size = len(fleet)
        self.place = place
        self.home = place / "home"
        self.console = console
        self.environment = {**os.environ, "KPS_HOME": str(self.home), "COLUMNS": "110"}
        self.checks: list[tuple[str, str, bool]] = []
        self.chapter = ""
        self.serving: subprocess.Popen[str] | None = None

    # -- telling -------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Go through it all."""
        web, other, lost = self.fleet.servers[:3]
        names = [server.name for server in self.fleet.servers]
        known = "".join(f"{server.name}\t{server.root_password}\n" for server in self.fleet.servers)

        self.title("A home for the keys, and the servers in it")
        self.kps("init", quiet=True)
        self._serve()
        inventory = self.place / "fleet.csv"
        inventory.write_text(_inventory(self.fleet))
        self.kps("server", "import", str(inventory))
        for pair in ("monday", "tuesday"):
            self.kps("keypair", "create", pair, quiet=True)
            self.kps("keypair", "export", pair, "--out", str(self.place / pair), quiet=True)
        for server in self.fleet.servers:
            self.check(f"{server.name}: root gets in by password", self.password_works(server))

        self.title("Bind: from nothing but root passwords to keys; passwords go off")
        session = self._open_session(web)
        self.kps("bind", "stage=demo", "--keypair", "monday", "--password-stdin", given=known)
        for server in self.fleet.servers:
            self.check(f"{server.name}: the key gets in", self.key_works(server, "monday"))
            self.check(f"{server.name}: the password is refused", not self.password_works(server))
        self.check("web-1: a session from before lives on", session.poll() is None and self._answers(session))
        session.terminate()

        self.title("Replace: the new key is proved before the old one goes")
        self.kps("replace", *names, "--keypair", "tuesday")
        for server in self.fleet.servers:
            self.check(f"{server.name}: the new key gets in", self.key_works(server, "tuesday"))
            self.check(f"{server.name}: the old key is refused", not self.key_works(server, "monday"))

        self.title("Unbind: the way back, not before the password is proved")
        self.kps("unbind", other.name, "--password-stdin", given=other.root_password + "\n")
        self.check(f"{other.name}: the password gets in again", self.password_works(other))
        self.check(f"{other.name}: the key is refused", not self.key_works(other, "tuesday"))

        self.title("A failure: explained, the server as it was, and retried")
        other.run(["chmod", "0777", "/root/.ssh"])
        before = self._files(other)
        self.kps("bind", other.name, "--keypair", "monday", "--password-stdin", given=other.root_password + "\n", ends=1)
        failed = self.told("task", "list", "--failed")
        self.check("the task is kept, with its cause", [task["cause"] for task in failed] == ["path_permissions"])
        self.check(f"{other.name}: byte for byte as before", self._files(other) == before)
        self.check(f"{other.name}: the password still gets in", self.password_works(other))
        other.run(["chmod", "0700", "/root/.ssh"])
        self.kps("task", "retry", failed[0]["id"], "--password-stdin", given=other.root_password + "\n")
        self.check(f"{other.name}: after the retry the key gets in", self.key_works(other, "monday"))

        self.title("Reset: a server that is shut down, its disk mounted here")
        lost.stop()
        self.kps("reset", lost.name, "--keypair", "monday", "--root", str(lost.mounted_root()))
        lost.start()
        self.check(f"{lost.name}: after it was started the new key gets in", self.key_works(lost, "monday"))
        self.kps("server", "check", lost.name)
        self.check(f"{lost.name}: after the first online proof the old key is refused", not self.key_works(lost, "tuesday"))

        self.title("Password login back on, and off")
        self.kps("password-login", "enable", web.name)
        self.check(f"{web.name}: the password gets in", self.password_works(web))
        self.kps("password-login", "disable", web.name)
        self.check(f"{web.name}: the password is refused", not self.password_works(web))
        self.check(f"{web.name}: the key gets in", self.key_works(web, "tuesday"))

        self.title("Where everything stands")
        self.kps("server", "list")

    def title(self, text: str) -> None:
        self.chapter = text
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def check(self, text: str, held: bool) -> None:
        """Record what was checked, and show it."""
        self.checks.append((self.chapter, text, held))
        self.console.print(f"   {'[green]✓[/green]' if held else '[red]✗[/red]'} {escape(text)}")

    def verdict(self, seconds: float, as_json: bool) -> int:
        """Print the table of what was checked; return 0 only where everything held."""
        held = sum(1 for _, _, good in self.checks if good)
        table = Table("step", "checks", "held", title="What was checked, each by a connection of OpenSSH's own client")
        for chapter in dict.fromkeys(chapter for chapter, _, _ in self.checks):
            mine = [good for each, _, good in self.checks if each == chapter]
            table.add_row(escape(chapter), str(len(mine)), f"[{'green' if all(mine) else 'red'}]{sum(mine)}[/]")
        self.console.print("\n", table, sep="")
        self.console.print(f"{held} of {len(self.checks)} checks held, {self.size} real servers, {seconds:.1f} s")
        if as_json:
            found = [{"step": chapter, "check": text, "held": good} for chapter, text, good in self.checks]
            print(json.dumps({"checks": found, "held": held, "seconds": round(seconds, 1)}, indent=2))
        return 0 if self.checks and held == len(self.checks) else 1

    def invite(self) -> None:
        """Say what can be tried while the fleet stays up."""
        web = self.fleet.servers[0]
        self.console.print("\n[bold]The fleet stays up for a while. To try it:[/bold]")
        for line in (
            f"export KPS_HOME={self.home}",
            "kps server list",
            f"kps replace {web.name} --keypair monday",
            f"ssh -i {self.place}/monday -o UserKnownHostsFile={self.place}/known_hosts -p {web.port} root@{web.host}",
            f"root's password on {web.name}: {web.root_password}",
            f"kps demo --end {self.fleet.directory}     # ends the fleet",
        ):
            self.console.print(f"   {escape(line)}", soft_wrap=True)

    def end(self) -> None:
        """Stop what serves the home."""
        if self.serving is not None:
            self.serving.terminate()
            self.serving.wait(_SECONDS)

    # -- the product ---------------------------------------------------------------------------------------------------

    def kps(self, *words: str, given: str = "", ends: int = 0, quiet: bool = False) -> str:
        """Run a command of the product as a person would, show it and what it printed, and check how it ended."""
        self.console.print(f" [cyan]$ kps {escape(' '.join(words))}[/cyan]", soft_wrap=True)
        done = self._run([*_KPS, *words], given)
        if not quiet:
            for line in done.stdout.rstrip().split("\n"):
                self.console.print(f"   [dim]{escape(line)}[/dim]", soft_wrap=True)
        if done.returncode != ends:
            self.check(f"kps {words[0]} ends with {ends}, not {done.returncode}: {done.stderr.strip()[-500:]}", False)
        return done.stdout

    def told(self, *words: str) -> Any:
        """Return what a command says as JSON."""
        return json.loads(self._run([*_KPS, *words, "--json"], "").stdout)

    def _serve(self) -> None:
        """Have one controller serve the home, so that each command is only its client."""
        self.serving = subprocess.Popen(
            [*_KPS, "serve"], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        if self.serving.stdout is not None:
            self.serving.stdout.readline()

    def _run(self, command: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=given, env=self.environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )

    # -- the judge -----------------------------------------------------------------------------------------------------

    def key_works(self, server: Server, pair: str) -> bool:
        """Whether OpenSSH's client gets in with this key and nothing else."""
        key = self.place / pair
        key.stat()  # without the file the refusal would mean nothing
        return self._ssh(server, "publickey", ["-i", str(key)], {})

    def password_works(self, server: Server) -> bool:
        """Whether OpenSSH's client gets in with root's password and nothing else."""
        asked = {"SSH_ASKPASS": str(self._askpass()), "SSH_ASKPASS_REQUIRE": "force", "KPS_DEMO_PASSWORD": server.root_password}
        return self._ssh(server, "password,keyboard-interactive", [], asked)

    def _ssh(self, server: Server, methods: str, more: list[str], environment: dict[str, str]) -> bool:
        done = subprocess.run(
            [*self._client(server, methods), *more, f"root@{server.host}", "echo in"],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        refused = done.returncode == 255 and "Permission denied" in done.stderr
        if done.stdout.strip() != "in" and not refused:
            self.check(f"{server.name}: ssh says neither yes nor no: {done.stderr.strip()[-300:]}", False)
        return done.stdout.strip() == "in"

    def _client(self, server: Server, methods: str) -> list[str]:
        hosts = self.place / "known_hosts"
        hosts.write_text("".join(f"{each.host_key}\n" for each in self.fleet.servers))
        settings = {
            "UserKnownHostsFile": str(hosts),
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "PreferredAuthentications": methods,
            "NumberOfPasswordPrompts": "1",
            "ConnectTimeout": "10",
        }
        words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", "-T", "-p", str(server.port), *words]

    def _askpass(self) -> Path:
        path = self.place / "askpass"
        if not path.exists():
            path.write_text('#!/bin/sh\nprintf "%s\\n" "$KPS_DEMO_PASSWORD"\n')
            path.chmod(0o700)
        return path

    def _open_session(self, server: Server) -> subprocess.Popen[str]:
        """Open a login by password that only echoes, and return it when it does."""
        asked = {"SSH_ASKPASS": str(self._askpass()), "SSH_ASKPASS_REQUIRE": "force", "KPS_DEMO_PASSWORD": server.root_password}
        session = subprocess.Popen(
            [*self._client(server, "password"), f"root@{server.host}", "exec cat"],
            env={**os.environ, **asked},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answers(session)
        return session

    def _answers(self, session: subprocess.Popen[str]) -> bool:
        if session.stdin is None or session.stdout is None:
            return False
        session.stdin.write("still here\n")
        session.stdin.flush()
        return session.stdout.readline() == "still here\n"

    def _files(self, server: Server) -> list[str]:
        return [server.read("/etc/ssh/sshd_config"), server.run(["sh", "-c", "ls -la /root/.ssh; cat /root/.ssh/*"]).stdout]
