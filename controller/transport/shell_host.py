"""ShellHost: does effects on a server without Python, by a shell program there. All that has to be read or decided is so here.

The promises are those of kpsagent/host.py. What this way of working cannot promise, Limits says.
"""

import asyncio
import errno
import posixpath
import re
import secrets
from typing import Any

from controller.transport import shell_journal
from controller.transport.far import BLOCKS, LARGEST_FILE, Answer, Far, path_word, word
from kpsagent import accounts, labels, processes, wire
from kpsagent.errors import Changed, Failed, Lost, Refused
from kpsagent.host import MAIN_CONFIG, Account, Daemon, File, Output, ReadFollowed
from kpsagent.local import NO_ROOT, NOTHING_AT_BOOT
from kpsagent.permissions import Component

NO_ATTRIBUTES = (
    "the server's cp keeps the mode and owner of a file that is replaced, but no access control lists and no extended attributes"
)
NO_INSTANT = (
    "there is no Python on the server: between the last look at a file and the moment it is replaced lie some milliseconds, "
    "and if somebody else puts another file in its place in them, theirs is lost"
)
NO_SESSIONS = "without Python on the server nothing tells which sessions a removed key has opened, and none is ended"
NO_DOOR = "there is no Python on this server, and what closes an emergency door by itself is Python: none is opened here"
DROPBEAR = "the server's SSH is dropbear, which takes its settings from its command line: keys are changed, password login is not"

_NAMES = ("armed", "revoking", "confirmed", "reverting")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,255}\$?")
_FACTS = re.compile(r"([-a-zA-Z?])([-rwxsStT]{9})[.+@]? (\d{1,9}) (\d{1,10}) (\d{1,10})")
_KINDS = {"-": "file", "d": "directory", "l": "link", "p": "fifo", "s": "socket"}
_ERRORS = (
    ("no such file", errno.ENOENT),
    ("nonexistent", errno.ENOENT),
    ("permission denied", errno.EACCES),
    ("not permitted", errno.EPERM),
    ("read-only file", errno.EROFS),
    ("no space", errno.ENOSPC),
    ("quota", errno.EDQUOT),
    ("not a directory", errno.ENOTDIR),
    ("too many levels", errno.ELOOP),
    ("symbolic link loop", errno.ELOOP),
    ("file exists", errno.EEXIST),
    ("resource busy", errno.EBUSY),
    ("is a directory", errno.EISDIR),
    ("stale", errno.ESTALE),
    ("not connected", errno.ENOTCONN),
    ("i/o error", errno.EIO),
    ("input/output error", errno.EIO),
)
_MOST_PROGRAMS = 2000  # of sshd, say, in one operation
_PATIENT, _IMPATIENT = "40", "1"
_NOT_KEPT = 250
_RELOAD_SECONDS = 15.0
_LOST_SECONDS = 5.0
_SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 0.1


class ShellHost:
    """A server at whose far end the shell program of kpsagent/shell has said what it is (facts)."""

    def __init__(self, far: Far, facts: dict[str, str], greeting: str = "") -> None:
        """greeting: how the server's SSH called itself."""
        self._far = far
        self.root = facts.get("root") == "0"
        self._order = "big" if facts.get("order") == "256" else "little"
        self._directory = bytes.fromhex(facts.get("home", "")).decode("utf-8", "surrogateescape")
        self._keeps_attributes = facts.get("copy", "").endswith("=all")
        self._boot_ways = [way for way in facts.get("boot", "").split(",") if way]
        self._dropbear = "dropbear" in greeting.lower()
        self._connection: list[str] | None = None
        self._armed = False
        self._locked = False
        self._texts: accounts.Texts | None = None
        self._accounts: dict[str, Account] = {}
        self._programs = 0

    async def do(self, effect: Any) -> Any:
        """Do one effect of host.py and answer it; Ask and Say are for whoever holds the rope."""
        return await getattr(self, "_" + type(effect).__name__)(effect)

    async def close(self) -> None:
        """Let the lock go; a directory of ours in which nothing stayed goes too."""
        await self._far.ask("close")

    # -- one thing done to one file ------------------------------------------------------------------------------------

    async def _touch(self, rights: str | None, verb: str, directory: str, name: str, *texts: str | None, **how: str) -> str:
        """Have one of the verbs of files.sh done; return what it prints, or raise what it ends with."""
        if "/" in name or any(letter < " " for letter in name):
            raise Refused("path_unsafe", f"{name!r}: a name like this is not touched without Python on the server", path=name)
        answer = await self._far.ask(
            "file",
            word(rights),
            word(verb),
            path_word(directory),
            word(name),
            word(how.get("mode", "600")),
            word(how.get("links", "one")),
            word(secrets.token_hex(8)),
            *(word(text) for text in texts),
        )
        printed, ended = _ending(answer.text())
        if ended == "ok":
            return printed
        raise _error(ended, posixpath.join(directory, name))

    async def _resolved(self, rights: str | None, path: str) -> str:
        return await self._touch(rights, "real", path, "") or "/"

    async def _look(self, rights: str | None, *paths: str) -> list[tuple[Component, str] | None]:
        """Return what stands at each path, not following it, and where a link leads; None where nothing does."""
        answer = await self._far.ask("look", word(rights), *(path_word(path) for path in paths))
        found: list[tuple[Component, str] | None] = []
        for place, path in enumerate(paths):
            printed, ended = _ending(answer.text(place))
            if ended != "ok":
                error = _error(ended, path)
                if not isinstance(error, FileNotFoundError):
                    raise error
                found.append(None)
                continue
            line, _, target = printed.partition("\n")
            found.append((_component(line, path), target))
        return found

    def _rights(self, account: Account | None) -> str | None:
        """Whose rights a process of this login has: None for the program's own."""
        if account is None or account.uid == 0 or not self.root:
            return None
        if not _LOGIN.fullmatch(account.name):
            raise Refused("login_not_allowed", f"{account.name!r}: a login of this name is not acted for without Python")
        return str(account.name)

    async def _place(self, path: str, account: Account | None) -> shell_journal.Place:
        """Return the real directory of path, its last name, and with whose rights to go there: files._parent()."""
        rights = self._rights(account)
        if account is None:
            path = await self._resolved(None, path)
        directory, name = posixpath.split(path)
        if rights is not None and await self._only_roots(directory):
            rights = None
        return shell_journal.Place(rights, await self._resolved(rights, directory), name)

    async def _only_roots(self, directory: str, links: int = 8) -> bool:
        """Whether nobody but root can change any component of this path, nor of what root's own links on it lead to."""
        parts = directory.split("/")
        chain = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts) + 1)]
        for depth, found in enumerate(await self._look(None, *chain), 1):
            if found is None or found[0].uid != 0:
                return False
            component, target = found
            if component.kind == "link":
                leads = posixpath.join(posixpath.dirname(component.path), target, *parts[depth:])
                return (
                    bool(links) and ".." not in leads.split("/") and await self._only_roots(posixpath.normpath(leads), links - 1)
                )
            if component.mode & 0o022 or component.kind != "directory":
                return False
        return True

    # -- logins, files -------------------------------------------------------------------------------------------------

    async def _book(self) -> accounts.Texts:
        if self._texts is None:
            names = ("passwd", "group", "shadow", "nsswitch.conf")
            self._texts = accounts.Texts(*[await self._text("/etc/" + name) for name in names])
        return self._texts

    async def _text(self, path: str) -> str:
        text = (await self._far.ask("text", path_word(path), str(BLOCKS))).text()
        if len(text) > LARGEST_FILE:
            raise Refused("unexpected", f"{path} is larger than {LARGEST_FILE} bytes: too large without Python", path=path)
        return text

    async def _FindAccount(self, effect: Any) -> Account | None:
        entry = ""
        if not _LOGIN.fullmatch(effect.name):
            return None
        texts = await self._book()
        if not any(line.startswith(effect.name + ":") for line in texts.passwd.split("\n")):
            entry = (await self._far.ask("entry", word(effect.name))).text().strip("\n")
        groups = await self._groups(effect.name)
        account = accounts.find_in(texts, effect.name, lambda _, __: groups, lambda _: entry)
        if account is not None:
            account = account._replace(barred=await self._barred(account))
            self._accounts[account.name] = account
        return account

    async def _barred(self, account: Account) -> str:
        """accounts._barred(): what keeps a login out whatever it shows."""
        shell = await self._resolved(None, account.shell) if account.shell.startswith("/") else "/"
        found, nologin = await self._look(None, shell, "/etc/nologin")
        if found is None:
            return f"its shell {account.shell} is not there"
        if found[0].kind != "file" or not found[0].mode & 0o111:
            return f"its shell {account.shell} is not executable"
        return "/etc/nologin is there, so only root may log in now" if account.uid != 0 and nologin is not None else ""

    async def _groups(self, name: str) -> list[tuple[int, str]]:
        said = (await self._far.ask("group_numbers", word(name))).text()
        return [(int(number), number) for number in said.split()[:1000] if number.isdigit()]

    async def _ListAccounts(self, effect: Any) -> tuple[list[Account], bool]:
        texts = await self._book()
        return accounts.listed_in(texts, lambda _, __: [])

    async def _Walk(self, effect: Any) -> list[Component]:
        account = effect.account
        rights = self._rights(account)
        home = await self._resolved(rights, account.home)
        directory, name = posixpath.split(effect.path)
        real = await self._resolved(rights, directory)
        parts = real.split("/") if real != "/" else [""]
        chain = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts) + 1)]
        if home in chain:
            chain = chain[chain.index(home) :]
        there = directory
        while (await self._look(None, there))[0] is None and there != "/":
            there = posixpath.dirname(there)
        last = effect.path if await self._only_roots(there) else posixpath.join(real, name)
        private = accounts.private_group_in(await self._book(), account)
        walked = []
        for path in [*chain, last]:
            found = await self._seen(path, rights)
            walked.append(
                Component(path, "missing", 0, 0, 0, 0, False)
                if found is None
                else found._replace(private_group=private and found.gid == account.gid)
            )
        return walked

    async def _seen(self, path: str, rights: str | None) -> Component | None:
        try:
            found = (await self._look(None, path))[0]
        except PermissionError:
            # Root is nobody on a home that NFS serves with root_squash; the login is not.
            found = (await self._look(rights, path))[0]
        return None if found is None else found[0]

    async def _Follow(self, effect: Any) -> str:
        return await self._resolved(self._rights(effect.account), effect.path)

    async def _Ground(self, effect: Any) -> tuple[str, int | None]:
        rights = self._rights(effect.account)
        home = await self._resolved(rights, effect.account.home)
        here = await self._resolved(rights, effect.path)
        if (here + "/").startswith(home.rstrip("/") + "/"):
            here = home
        while True:
            try:
                return here, int(await self._touch(rights, "inode", here, ""))
            except FileNotFoundError:
                if here in (home, "/"):
                    return here, None
            here = posixpath.dirname(here)

    async def _Read(self, effect: Any) -> File:
        nothing = File(effect.path, None, 0, 0, 0, "")
        if self._dropbear and effect.path in (MAIN_CONFIG, *self._unread_by_dropbear()):
            return nothing
        try:
            place = await self._place(effect.path, effect.account)
            if isinstance(effect, ReadFollowed):
                place = place._replace(rights=self._rights(effect.account))
            links = "one" if effect.account is not None else "any"
            printed = await self._touch(place.rights, "read", place.directory, place.name, mode=str(BLOCKS), links=links)
        except FileNotFoundError:
            return nothing
        line, _, text = printed.partition("\n")
        if len(text.encode("utf-8", "surrogateescape")) > LARGEST_FILE:
            raise Refused(
                "authorized_keys_unreadable",
                f"{effect.path} is larger than {LARGEST_FILE} bytes, which is the most without Python on the server",
                path=effect.path,
            )
        found = _component(line, effect.path)
        return File(effect.path, text, found.mode, found.uid, found.gid, "")

    _ReadFollowed = _Read

    def _unread_by_dropbear(self) -> list[str]:
        return [posixpath.join(account.home, ".ssh/authorized_keys2") for account in self._accounts.values()]

    async def _Mislabelled(self, effect: Any) -> list[tuple[str, str, str]]:
        if not effect.paths or (await self._text(labels.ENFORCE)).strip() != "1":
            return []
        for program in labels.RESTORECON:
            # Unlike the agent as whoever we are: it only looks, and never follows the last name of a path.
            answer = await self._run("-", *map(word, labels.question(program, effect.paths)))
            if answer.code != 127:
                return labels.wrong(f"{answer.out}\n{answer.err}", effect.paths)
        return []

    async def _Glob(self, effect: Any) -> list[str]:
        said = (await self._far.ask("glob", path_word(effect.pattern))).text()
        return sorted(line for line in said.split("\n") if line)

    async def _Replace(self, effect: Any) -> None:
        place = await self._place(effect.path, effect.account)
        mode = "644" if self.root and self._rights(effect.account) is not None and place.rights is None else "600"
        try:
            await self._touch(place.rights, "replace", place.directory, place.name, effect.expected, effect.text, mode=mode)
        except Changed:
            raise _changed(effect.path, effect.account, "changed it") from None

    async def _Delete(self, effect: Any) -> None:
        place = await self._place(effect.path, effect.account)
        try:
            await self._touch(place.rights, "delete", place.directory, place.name, effect.expected)
        except Changed:
            raise _changed(effect.path, effect.account, "changed it") from None

    async def _MakeDirectory(self, effect: Any) -> None:
        place = await self._place(effect.path, effect.account)
        mode = "755" if self._rights(effect.account) is not None and place.rights is None else "700"
        try:
            await self._touch(place.rights, "directory", place.directory, place.name, mode=mode)
        except (Changed, FileExistsError):
            raise _changed(effect.path, effect.account, "made it") from None

    async def _RemoveDirectory(self, effect: Any) -> bool:
        place = await self._place(effect.path, effect.account)
        try:
            await self._touch(place.rights, "rmdir", place.directory, place.name)
        except FileNotFoundError:
            return True
        except _Full:
            return False
        return True

    async def _SetMode(self, effect: Any) -> None:
        place = await self._place(effect.path, effect.account)
        mode = f"{shell_journal.letters(effect.expected)} {effect.mode:o}"
        try:
            await self._touch(place.rights, "mode", place.directory, place.name, mode=mode)
        except (Changed, FileNotFoundError):
            raise _changed(effect.path, effect.account, "changed its mode") from None

    async def _SetOwner(self, effect: Any) -> None:
        raise _left_alone(effect.path, "owner")

    async def _SetLabel(self, effect: Any) -> None:
        raise _left_alone(effect.path, "label")

    async def _Sweep(self, effect: Any) -> None:
        place = await self._place(effect.path, effect.account)
        await self._touch(place.rights, "sweep", place.directory, place.name)

    # -- sshd ----------------------------------------------------------------------------------------------------------

    async def _FindDaemon(self, effect: Any) -> Daemon:
        self._connection = effect.connection
        if self._dropbear:
            return Daemon("none", 0, "", [], MAIN_CONFIG, "")
        if not self.root:
            return Daemon("hidden", 0, "", [], MAIN_CONFIG, "")
        answer = await self._far.ask("sshds")
        found: dict[int, tuple[str, str, str, set[str]]] = {}
        for place in range(1, len(answer.parts) - 3, 4):
            pid, _, program = answer.text(place).split(" ", 2)
            said = answer.text(place + 1)
            found[int(pid)] = (
                program.replace(" (deleted)", ""),
                said,
                answer.text(place + 2),
                set(answer.text(place + 3).split()),
            )
        ours = _serves_us([int(pid) for pid in answer.text(0).split()], found)
        listener = ours if ours and processes.listens(*found[ours][:2]) else 0
        if not listener and effect.connection:
            inodes = set((await self._listening())[0])
            listener = next((pid for pid in sorted(found) if processes.listens(*found[pid][:2]) and inodes & found[pid][3]), 0)
        if listener:
            return self._daemon("listener", listener, found[listener])
        return self._daemon("each", ours, found[ours]) if ours else Daemon("none", 0, "", [], MAIN_CONFIG, "")

    def _daemon(self, how: str, pid: int, about: tuple[str, str, str, set[str]]) -> Daemon:
        program, said, cgroup, _ = about
        arguments = processes.configuring(processes.title_of(said)[1:]) if how == "listener" else []
        config = MAIN_CONFIG
        for index, each in enumerate(arguments[:-1]):
            if each == "-f":
                config = posixpath.join("/", arguments[index + 1])
        unit = processes.unit_in(cgroup) if "boot_unit" in self._boot_ways else ""
        return Daemon(how, pid, program if posixpath.basename(program) == "sshd" else "/usr/sbin/sshd", arguments, config, unit)

    async def _listening(self) -> tuple[list[str], set[str]]:
        """Return the sockets that listen where we came in, and those that process 1 holds."""
        if self._connection is None:
            return [], set()
        answer = await self._far.ask("net")
        ours = processes.as_proc_writes(self._connection[2], self._order)
        return processes.inodes_in(["\n" + answer.text()], ours, int(self._connection[3])), set(answer.text(1).split())

    async def _AskSshd(self, effect: Any) -> Output:
        arguments = list(effect.daemon.arguments)
        candidate = posixpath.join(self._directory, "candidate")
        if effect.text is not None:
            arguments = [*processes.without_config(arguments), "-f", candidate]
        command = [word(each) for each in [effect.daemon.program, *effect.flags, *arguments]]
        output = await self._run(word(effect.text), *command)
        if output.code != 0 and "rivilege separation directory" in output.err:
            # Where sshd is started for each connection, nobody makes this directory for us beforehand.
            await self._far.ask("run_directory")
            output = await self._run(word(effect.text), *command)
        return output._replace(err=output.err.replace(candidate, effect.daemon.config))

    async def _run(self, *words: str) -> Output:
        self._programs += 1
        if self._programs > _MOST_PROGRAMS:
            raise Failed("session_disturbed", "the server's configuration makes us ask more than is sane")
        answer = await self._far.ask("program", *words)
        if answer.code == _NOT_KEPT:
            raise self._told(answer)
        return Output(answer.code, answer.text(0), answer.text(1))

    async def _Unread(self, effect: Any) -> list[str]:
        said = await self._text(effect.pid_file) if effect.pid_file.startswith("/") else ""
        if said.strip() != str(effect.daemon.pid):
            return []
        # Where stat knows whole seconds only: it was some time within this one.
        read = (await self._times(effect.pid_file))[0][0] + 1
        up = (await self._Clock(None))[0]
        now = (await self._far.ask("date")).text().strip()
        # What was there before this boot has been read, also where the clock was wrong at first.
        read = max(read, int(float(now) - up) if now.isdigit() else 0)
        return [path for path in effect.paths if await self._changed_at(path) > read]

    async def _changed_at(self, path: str) -> int:
        real = await self._resolved(None, path)
        found, around, itself = await self._times(real, posixpath.dirname(real), path)
        return max(found[0], itself[0], min(found[1], around[0]))

    async def _times(self, *paths: str) -> list[tuple[int, int]]:
        """Return when each was modified and changed, in seconds; zeros where that is not to be seen."""
        answer = await self._far.ask("times", *(path_word(path) for path in paths))
        said = [answer.text(place).split() for place in range(len(paths))]
        return [(int(each[0]), int(each[1])) if len(each) == 2 and "".join(each).isdigit() else (0, 0) for each in said]

    async def _Reload(self, effect: Any) -> bool:
        """processes.reload(), looked at from here. That sshd takes connections again, the proof will show."""
        daemon, loop = effect.daemon, asyncio.get_running_loop()
        if not self._connection:
            return False
        until = loop.time() + _RELOAD_SECONDS
        before, of_first = await self._listening()
        while not before and await self._is_alive(daemon) and loop.time() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            before, of_first = await self._listening()
        alive = bool(before) and await self._is_alive(daemon)
        handed_over = bool(set(before) & of_first)
        if (not alive and not effect.revive) or not await self._tell(daemon, alive, handed_over):
            return False
        until, settled = loop.time() + _RELOAD_SECONDS, loop.time() + _SETTLE_SECONDS
        again = loop.time() + _LOST_SECONDS
        while loop.time() < until:
            if set((await self._listening())[0]) - set(before):
                await asyncio.sleep(_LOOK_SECONDS)  # so long it may still pass over the next SIGHUP
                return True
            if handed_over and loop.time() > settled:
                return True  # systemd made the socket, and so keeps it
            if alive and loop.time() > again and await self._is_alive(daemon):
                await self._tell(daemon, True, handed_over)
                again += _LOST_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    async def _is_alive(self, daemon: Daemon) -> bool:
        return (await self._far.ask("alive", str(int(daemon.pid)))).code == 0

    async def _tell(self, daemon: Daemon, alive: bool, handed_over: bool) -> bool:
        if daemon.unit:
            if handed_over:
                # As processes._tell(): an sshd that starts anew by itself does not find systemd's socket again.
                shown = await self._run("-", *map(word, ["systemctl", "show", "--property=KillMode", daemon.unit]))
                if shown.out.strip() not in processes.SPARES_SESSIONS:
                    return False
                alive = False
            command = ["systemctl", "reload" if alive else "restart", daemon.unit]
            return bool((await self._run("-", *map(word, command))).code == 0)
        if alive:
            return (await self._far.ask("hup", str(int(daemon.pid)))).code == 0
        return bool((await self._run("-", *map(word, [daemon.program, *daemon.arguments]))).code == 0)

    async def _Sessions(self, effect: Any) -> None:
        return None  # not told without Python

    async def _EndSession(self, effect: Any) -> bool:
        return False

    # -- our own state -------------------------------------------------------------------------------------------------

    async def _Lock(self, effect: Any) -> bool:
        answer = await self._far.ask("lock", _IMPATIENT if effect.must else _PATIENT)
        code = answer.code
        if code == 1 and effect.must:
            raise Refused("busy", "another operation is at work on this server; retry when it is done")
        if code not in (0, 1):
            error = self._told(answer)
            if isinstance(error, OSError) and error.errno != errno.EEXIST:
                raise error
            raise Refused(
                "path_unsafe", f"{self._directory} is not ours, or cannot be made; look who made it", path=self._directory
            )
        self._locked = code == 0
        return self._locked

    async def _kept(self, name: str) -> str | None:
        answer = await self._far.ask("kept", name, str(8 * BLOCKS))
        return answer.text() if answer.code == 0 else None

    async def _ReadState(self, effect: Any) -> dict[str, Any]:
        text = await self._kept("state.json")
        state = {} if text is None else wire.decode(text)
        if not isinstance(state, dict):
            raise Failed("unexpected", f"{self._directory}/state.json holds no state")
        return state

    async def _WriteState(self, effect: Any) -> None:
        generation = effect.state.get("generation", 0)
        await self._written("state", str(int(generation)), word(wire.encode(effect.state) + "\n"))

    async def _written(self, verb: str, *words: str) -> None:
        answer = await self._far.ask(verb, *words)
        if answer.code != 0:
            raise self._told(answer)

    def _told(self, answer: Answer) -> Exception:
        """Return the error of which the program says why."""
        return _error("error " + (answer.text().strip() or "could not be written"), self._directory)

    async def _ReadJournal(self, effect: Any) -> tuple[str, dict[str, Any]] | None:
        if self._locked:
            await self._far.ask("tidy")
        for name in _NAMES:
            text = await self._kept("journal." + name)
            if text is not None:
                return name, shell_journal.decode(text)
        return None

    async def _WriteJournal(self, effect: Any) -> None:
        journal = effect.journal
        account = self._accounts.get(journal["login"])
        places = []
        for kind, path, login, before, _ in journal["steps"]:
            owner = account if login is not None else None
            if kind in ("owner", "label"):
                raise _left_alone(path, kind)
            places.append(await self._place(path, owner))
            if kind in ("keys", "block") and before is not None:
                await self._refuse_unless_kept(places[-1], path, owner)
        gone = await self._places_of_revoke(journal)
        await self._written("journal", word(shell_journal.encode(journal, places, self._reload_words(journal), gone)))
        self._armed = True

    async def _places_of_revoke(self, journal: dict[str, Any]) -> list[shell_journal.Place]:
        """Return where the revoked keys are; [] where that is not to be had: what is cut off is then for the next run."""
        try:
            return [await self._place(path, self._accounts[login]) for _, path, login, _, _ in journal.get("gone", [])]
        except (Refused, OSError, KeyError):
            return []

    async def _refuse_unless_kept(self, place: shell_journal.Place, path: str, account: Account | None) -> None:
        """Refuse where whoever replaces the file cannot leave it to its owner: before anything is written."""
        found = (await self._look(place.rights, posixpath.join(place.directory, place.name)))[0]
        if found is None or (self.root and place.rights is None) or account is None:
            return
        if found[0].uid != account.uid or found[0].gid not in [account.gid, *account.group_ids]:
            raise Refused(
                "path_permissions",
                f"{path} is of uid {found[0].uid} and gid {found[0].gid}, and without Python on the server what {account.name} "
                f"replaces becomes its own; make it {account.name}'s, or install python3-minimal",
                path=path,
            )

    def _reload_words(self, journal: dict[str, Any]) -> list[str]:
        daemon, connection = Daemon(*journal["daemon"]), journal["connection"]
        if daemon.how != "listener" or not connection:
            return []
        address = processes.as_proc_writes(connection[2], self._order)
        command = map(word, [daemon.program, *daemon.arguments])
        return [f"{int(connection[3]):04X}", address[-8:], journal["boot"], word(daemon.unit), *command]

    async def _MoveJournal(self, effect: Any) -> bool:
        answer = await self._far.ask("move", effect.to)
        if answer.code not in (0, 1):
            raise self._told(answer)
        moved = answer.code == 0
        self._armed = self._armed and not moved
        return moved

    async def _DropJournal(self, effect: Any) -> None:
        await self._written("drop")

    async def _Arm(self, effect: Any) -> list[str]:
        answer = await self._far.ask("arm")
        if answer.code != 0:
            raise self._told(answer)
        return [line for line in answer.text().split("\n") if line]

    async def _Disarm(self, effect: Any) -> None:
        await self._written("disarm")

    async def _Clock(self, effect: Any) -> tuple[float, str]:
        up, _, boot = (await self._far.ask("clock")).text().partition("\n")
        try:
            return float(up.split()[0]), boot[:200].strip()
        except (ValueError, IndexError):
            raise Failed("unexpected", "the server's clock says nothing") from None

    async def _Door(self, effect: Any) -> None:
        return None  # none can be made here, and what would close one that was is Python

    async def _DoorPlace(self, effect: Any) -> Any:
        raise Refused("door_unwatched", NO_DOOR)

    async def _Limits(self, effect: Any) -> list[str]:
        found = [NO_INSTANT, NO_SESSIONS, *([DROPBEAR] if self._dropbear else [])] + (
            [] if self._keeps_attributes else [NO_ATTRIBUTES]
        )
        if not self.root:
            return [*found, NO_ROOT]
        return found if self._boot_ways else [*found, NOTHING_AT_BOOT]

    # -- the rope ------------------------------------------------------------------------------------------------------

    async def _WriteNonce(self, effect: Any) -> tuple[str, str]:
        nonce = secrets.token_hex(16)
        await self._written("nonce", word(nonce + "\n"))
        return nonce, posixpath.join(self._directory, "nonce")

    async def _Listening(self, effect: Any) -> None:
        answer = await self._far.ask("clock")
        up = answer.text().split()[:1]
        if self._armed and answer.code != 0:
            raise Lost("deadline_passed", "the undo has begun without us")
        if not up or float(up[0]) >= effect.deadline:
            raise Lost("deadline_passed", "the deadline passed")


def _left_alone(path: str, what: str) -> Refused:
    # No tool of a shell gives away what it has just looked at, and not what stands at its path a moment later.
    tool = {"owner": "chown", "label": "restorecon"}[what]
    return Refused(
        "path_permissions",
        f"{path}: its {what} is not changed without Python on the server; use {tool} by hand, or install python3-minimal",
        path=path,
    )


class _Full(Exception):
    """a directory is not empty"""


def _ending(said: str) -> tuple[str, str]:
    """Return what files.sh printed, and its last line: how it ended."""
    printed, newline, ended = said.rpartition("\n")
    return (printed, ended) if newline else ("", "error nothing was heard of it")


def _error(ended: str, path: str) -> Exception:
    """Return what a last line of files.sh means for the file at path."""
    how, _, rest = ended.partition(" ")
    rest = "".join(letter if letter.isprintable() else " " for letter in rest)[:300]
    if how == "missing":
        return FileNotFoundError(errno.ENOENT, "No such file or directory", path)
    if how == "changed":
        return Changed("unexpected", f"{path}: somebody else changed it just now", path=path)
    if how == "full":
        return _Full()
    if how == "kind":
        return Refused("path_unsafe", f"{path} is a {rest}, not a file", path=path)
    if how == "names":
        return Refused("path_unsafe", f"{path} has {rest} names (hard links)", path=path)
    if how == "attributes":
        return Failed("path_permissions", f"{path}: the server's cp does not keep its attributes ({rest})", path=path)
    number = next((code for words, code in _ERRORS if words in rest.lower()), 0)
    if number:
        return OSError(number, rest, path)
    return Failed("unexpected", f"{path}: {rest or 'nothing was heard of what was to be done'}", path=path)


def _changed(path: str, account: Account | None, what: str) -> Changed:
    cause = "authorized_keys_changed" if account is not None else "sshd_config_changed"
    return Changed(cause, f"{path}: somebody else {what} just now", path=path)


def _component(line: str, path: str) -> Component:
    found = _FACTS.match(line)
    if found is None:
        raise Failed("session_disturbed", f"{path}: the server's ls says something else than any ls does", path=path)
    kind, letters, names, uid, gid = found.groups()
    return Component(path, _KINDS.get(kind, "device"), _mode(letters), int(uid), int(gid), int(names), False)


def _mode(letters: str) -> int:
    mode = sum(0o400 >> place for place, letter in enumerate(letters) if letter not in "-ST")
    special = ((2, "sS", 0o4000), (5, "sS", 0o2000), (8, "tT", 0o1000))
    return mode | sum(bit for place, marks, bit in special if letters[place] in marks)


def _serves_us(ancestors: list[int], found: dict[int, tuple[str, str, str, set[str]]]) -> int:
    """Return the sshd above the program that all of its session comes from, or 0: processes._serves_us()."""
    ours = 0
    for pid in ancestors:
        if pid in found and posixpath.basename(found[pid][0]) in ("sshd", "sshd-session", "sshd-auth"):
            ours = pid
        elif ours:
            break
    return ours
