"""Plays an operation on the model server with one thing going wrong, and holds every state on the way to the promises.

Nobody is locked out     each login that had a way in still has one: a credential that got in at the start, or was proved
                         since; only where no sshd answers, an armed undo that leads back to one will do
Nothing is half written  every file holds the text before, one on the way, or the one wanted, with its owner and mode
The end is honest        as before or as wanted, nothing of ours left but state.json, and the result says which
"""

import contextlib
import errno
import functools
import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from model_host import CONFIG, JOURNALS, STATE, Credential, Entry, ModelHost, World, between, file, nothing, temporary
from scenarios import ACCOUNTS, BOBS, FOREIGN, NEW, OLD, PASSWORDS, Scenario

from kpsagent.errors import Stop
from kpsagent.host import Ask, AskSshd, Listening, MoveJournal, Reload
from kpsagent.transaction import drive, operation
from kpsagent.undo import unattended

OURS = (f"{STATE}/", "/etc/cron.d/kps")


class Broken(BaseException):
    """a promise does not hold; no Exception, so that the code which is judged, and undoes on every Exception, does not hear it"""


class State(NamedTuple):
    """The server at one moment, and what has been proved by then."""

    world: World
    proved: tuple[Credential, ...]
    committed: bool


class Judge:
    """Judges states of one scenario. points counts what was looked at."""

    def __init__(self, scenario: Scenario, points: Counter[str]) -> None:
        self.scenario = scenario
        self.points = points
        self.start = scenario.world()
        self.before = dict(self.start.disk)
        self.wanted = self.before | scenario.wanted
        self.at_start = tuple(each for each in _everything() if self._gets_in(self.start, each))
        self.theirs: dict[str, str] = {}  # path -> a line that somebody else put there
        self._alive: dict[Any, str] = {}
        self._explored: set[Any] = set()

    @functools.cached_property
    def undisturbed(self) -> "Run":
        """The operation in which nothing goes wrong."""
        run = Run(self)
        run.play()
        return run

    def _gets_in(self, world: World, held: Credential) -> bool:
        world = world.in_use() if self.scenario.kind == "rest" else world
        return world.logs_in(held) == "shell"

    # -- promises that hold at every moment

    def look(self, state: State) -> None:
        """Raise Broken where a promise does not hold at this moment."""
        self.points["states"] += 1
        key = state.world.key(), state.proved, tuple(self.theirs.items())
        if key not in self._alive:
            self._alive[key] = self._locked_out(state) or self._half_written(state.world)
        if self._alive[key]:
            raise Broken(self._alive[key])

    def _locked_out(self, state: State) -> str:
        if state.world.armed and state.world.in_force() is None:
            return ""  # nobody answers: that the undo leads back to a way in is what explore() shows
        for login in {held.login for held in self.at_start}:
            ways = [held for held in self.at_start + state.proved if held.login == login]
            if not any(self._gets_in(state.world, held) for held in ways):
                return f"{login} is locked out"
        return ""

    def _half_written(self, world: World) -> str:
        for path in {*self.before, *self.wanted, *world.disk}:
            if path.startswith(OURS) or path == STATE:
                continue
            now, old, new = world.disk.get(path), self.before.get(path), self.wanted.get(path)
            if now in (old, new) or (now is None and path in self.theirs):
                continue
            if now is None:
                return f"{path} is gone"
            known = [entry for entry in (old, new) if entry is not None]
            if not known:
                if path in map(temporary, self.scenario.wanted):
                    continue
                return f"{path} is there"
            # Mode, owner and label are changed one after the other; each is at any time what it was, or what it is to be.
            owned = (now.uid, now.gid) in [(entry.uid, entry.gid) for entry in known]
            if now.mode not in [entry.mode for entry in known] or not owned or now.label not in [entry.label for entry in known]:
                return f"{path} has mode {now.mode:o}, owner {now.uid}, label {now.label}"
            texts = [entry.text for entry in known] + self.scenario.passing.get(path, [])
            if now.text not in texts and not self._with_theirs(path, now.text, texts):
                return f"{path} holds {now.text!r}"
        return ""

    def _with_theirs(self, path: str, text: str, texts: list[str]) -> bool:
        lines = {line for each in texts for line in each.split("\n")} | {self.theirs.get(path, ""), ""}
        return path in self.theirs and set(text.split("\n")) <= lines

    # -- promises for the end

    def ended(self, world: World, committed: bool) -> None:
        """Raise Broken unless all is as before, or as wanted, with nothing of ours left."""
        left = [path for path in world.disk if path.startswith(OURS) and path != f"{STATE}/state.json"]
        if left or world.watchers:
            raise Broken(f"left behind: {left} {'and a watcher' if world.watchers else ''}")
        should = self.wanted if committed else self.before
        # A directory of ours in which somebody else put something stays.
        kept = {posixpath.dirname(path) for path in self.theirs}
        should = {path: entry for path, entry in self.wanted.items() if path in kept} | should
        for path in {*should, *world.disk}:
            if not path.startswith(OURS) and path != STATE:
                self._ended_as(path, world.disk.get(path), should.get(path))
        passwords = self.start.passwords | dict(self.scenario.wanted_passwords if committed else {})
        if world.passwords != passwords:
            raise Broken(f"passwords are {world.passwords}")
        if world.kind == "listener" and world.loaded != world.disk[CONFIG].text and CONFIG not in self.theirs:
            raise Broken("sshd does not run on the configuration that stands there")
        self._access(world, committed)

    def _ended_as(self, path: str, now: Entry | None, should: Entry | None) -> None:
        line = self.theirs.get(path)
        if line is None:
            if now != should:
                raise Broken(f"{path} ends as {now}, not as {should}")
            return
        lines = [each for each in (should.text if should else "").split("\n") if each]
        if now is None or sorted(each for each in now.text.split("\n") if each) != sorted([*lines, line]):
            raise Broken(f"{path} ends as {now}, not as {should} with {line!r}")
        if should is not None and now._replace(text="") != should._replace(text=""):
            raise Broken(f"{path} ends with mode, owner or label {now[2:]}")

    def _access(self, world: World, committed: bool) -> None:
        works, refused = (self.scenario.works, self.scenario.refused) if committed else (self.at_start, ())
        for held in works:
            if not self._gets_in(world, held):
                raise Broken(f"{held} does not get in at the end")
        for held in refused:
            if self._gets_in(world, held):
                raise Broken(f"{held} still gets in at the end")

    # -- what comes after a crash

    def explore(self, state: State, again: bool = True) -> None:
        """Hold what comes of a crash at this moment, of the process or of the power, to the promises.

        Every recovery is played to its end; with again it is also crashed, and made to fail, at each of its own effects, and
        recovered from that.
        """
        self.points["crashes in an operation" if again else "crashes in a recovery"] += 1
        memo = state.world.key(), state.proved, state.committed, again, tuple(self.theirs.items())
        if memo in self._explored:
            return
        self._explored.add(memo)
        for world, before_sshd in (
            (state.world.killed(), False),
            (state.world.unpowered(), True),
            (state.world.unpowered().sshd_started(), False),
        ):
            if not before_sshd:
                self.look(state._replace(world=world))
            self._recovered(state._replace(world=world), before_sshd, again)

    def _recovered(self, state: State, before_sshd: bool, again: bool) -> None:
        world = state.world
        start = world.copy()
        found = {name: f"{STATE}/journal.{name}" in world.disk for name in JOURNALS}
        crashes: list[World] = []

        def before(_: int, effect: Any) -> None:
            crashes.extend(between(world, effect))

        def after(_: int, __: Any) -> None:
            if not before_sshd:
                self.look(state._replace(world=world))
            crashes.append(world.copy())

        host = ModelHost(world, None, before, after)
        told = drive(unattended(), host)
        host.close()
        host.before = host.after = nothing  # no cycles: the collector is off
        self.points["recoveries"] += 1
        ended = self.scenario.recovered if state.committed else "reverted"
        if any(found.values()) and told != {"operation": "op-7", "result": ended}:
            raise Broken(f"recovery says {told}")
        said = [{"operation": "op-7", "generation": 7, "result": each} for each in ("succeeded", self.scenario.recovered)]
        if state.committed and _kept(world) not in said:
            raise Broken(f"state.json says {_kept(world)}")
        self.ended(world.sshd_started(), state.committed)
        if again:
            for crash in crashes:
                # Where the undo at boot is killed, the system goes on to start sshd.
                self.explore(state._replace(world=crash.sshd_started() if before_sshd else crash), False)
            for number in range(host.count):
                left = self._failed_recovery(state._replace(world=start.copy()), before_sshd, number)
                self.explore(state._replace(world=left), False)

    def _failed_recovery(self, state: State, before_sshd: bool, number: int) -> World:
        """The server after a recovery in which the effect with this number did not take place."""
        world = state.world

        def before(at: int, _: Any) -> None:
            if at == number:
                raise os_error("EIO")

        def after(_: int, __: Any) -> None:
            if not before_sshd:
                self.look(state._replace(world=world))

        host = ModelHost(world, None, before, after)
        # A recovery that can't do its work says so; one that could all the same has nothing to say.
        with contextlib.suppress(Stop, OSError):
            drive(unattended(), host)
        host.close()
        host.before = host.after = nothing
        self.points["failures in a recovery"] += 1
        return world.sshd_started() if before_sshd else world


def _kept(world: World) -> Any:
    entry = world.disk.get(f"{STATE}/state.json")
    return None if entry is None else json.loads(entry.text)


def _everything() -> list[Credential]:
    keys = [Credential("key", account.name, line) for account in ACCOUNTS[:3] for line in (OLD, NEW, FOREIGN, BOBS)]
    return keys + [Credential("password", name, secret) for name, secret in PASSWORDS.items()]


# -- one run ---------------------------------------------------------------------------------------------------------------

Fault = Callable[["Run", int, Any], None]


class Run:
    """One operation, played with a fault: before and after are called around each effect, and may raise or change things.

    Up to the effect with the number first, what was answered and seen in the undisturbed operation is answered and seen again.
    """

    def __init__(self, judge: Judge, before: Fault | None = None, after: Fault | None = None, first: int = 0) -> None:
        self.judge = judge
        self.world = judge.scenario.world()
        self.rope = judge.scenario.rope()
        self.effects: list[Any] = []
        self.answers: list[Any] = []
        self.moments: list[tuple[State, bool]] = []
        self.committed = False
        self.looking = True
        self.trail: list[State] = []
        self._before, self._after, self._first = before, after, first
        self.host = ModelHost(self.world, self.rope, self._about_to, self._done)

    def play(self) -> Any:
        result = drive(operation(self.judge.scenario.plan()), self)
        self.host.close()
        self.host.before = self.host.after = nothing
        return result

    def do(self, effect: Any) -> Any:
        number = len(self.effects)
        self.effects.append(effect)
        if number < self._first:
            return self.judge.undisturbed.answers[number]
        if number == self._first > 0:
            self._set(*self.judge.undisturbed.moments[number])
        if self._before is None and self._after is None:
            self.moments.append((self.state()._replace(world=self.world.copy()), self.host.mine))
        answer = self.host.do(effect)
        self.answers.append(answer)
        return answer

    def _set(self, state: State, mine: bool) -> None:
        self.world = self.host.world = state.world.copy()
        self.world.holder = self.host
        self.host.mine, self.host.count = mine, self._first
        self.rope.proved = list(state.proved)
        self.committed = state.committed

    def state(self) -> State:
        return State(self.world, tuple(self.rope.proved), self.committed)

    def _about_to(self, number: int, effect: Any) -> None:
        if self._before is not None:
            self._before(self, number, effect)
        self.trail += [self.state()._replace(world=world) for world in between(self.world, effect)]

    def _done(self, number: int, effect: Any) -> None:
        commits = isinstance(effect, MoveJournal) and effect.to in ("confirmed", "revoking")
        if commits and f"{STATE}/journal.{effect.to}" in self.world.disk:
            self.committed = True
        self.keep()
        if self._after is not None:
            self._after(self, number, effect)

    def keep(self) -> None:
        """Judge the server as it is now, and keep it as a place to crash at."""
        if self.looking:
            self.judge.look(self.state())
            self.trail.append(self.state()._replace(world=self.world.copy()))


def fail(number: int, error: Exception) -> Fault:
    """The effect with this number does not take place."""

    def fault(_: Run, at: int, __: Any) -> None:
        if at == number:
            raise _anew(error)

    return fault


def os_error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, name, "/somewhere")


def end_of_file(number: int) -> Fault:
    """The rope ends before the effect with this number."""

    def fault(run: Run, at: int, __: Any) -> None:
        run.rope.ended = run.rope.ended or at == number

    return fault


def deadline(number: int) -> Fault:
    """The deadline passes before the effect with this number."""

    def fault(run: Run, at: int, __: Any) -> None:
        if at == number:
            run.world.clock += 3600

    return fault


def sshd_dies(number: int) -> Fault:
    """sshd ends in the middle of the effect with this number."""

    def fault(run: Run, at: int, __: Any) -> None:
        if at == number:
            run.world.loaded = None

    return fault


def edit(number: int, path: str, line: str) -> Fault:
    """Somebody else puts a line into the file before the effect with this number, and makes the file where there is none."""

    def fault(run: Run, at: int, __: Any) -> None:
        home = posixpath.dirname(path)
        if at != number or home not in run.world.disk:
            return
        old = run.world.disk.get(path) or file("", 0o600, run.world.disk[home].uid)
        end = "" if not old.text or old.text.endswith("\n") else "\n"
        run.world.disk[path] = old._replace(text=f"{old.text}{end}{line}\n")
        run.judge.theirs = {path: line}
        run.trail.clear()  # what was there before has been judged without their line

    return fault


def answered(number: int, answers: Callable[[Any], Any]) -> Fault:
    """The effect with this number is answered with what answers() makes of the true answers."""

    def fault(run: Run, at: int, effect: Any) -> None:
        run.rope.bent = answers if at == number else None

    return fault


class Race:
    """Before the effect with this number the deadline passes, and a watcher gets this many effects far; it goes on at the end."""

    def __init__(self, number: int, effects: int) -> None:
        self.number, self.effects = number, effects
        self.step: Callable[[], bool] = lambda: False
        self.over = False  # the watcher was through before it had done as many

    def __call__(self, run: Run, at: int, effect: Any) -> None:
        if at != self.number:
            return
        run.world.clock += 3600
        # The watcher waits for the lock: it gets in beside the operation only where that waits for somebody else.
        run.looking = isinstance(effect, Ask | Listening | Reload | AskSshd)
        host = ModelHost(run.world, None, after=lambda _, __: run.keep(), only=run.world.journal())
        self.step = stepper(unattended(), host)
        for _ in range(self.effects):
            if not self.step():
                self.over = True
                break

    def finish(self) -> None:
        while self.step():
            continue


def stepper(play: Any, host: ModelHost) -> Callable[[], bool]:
    """Return what plays one effect each time it is called, and answers whether there are more."""
    effects = iter(_stepwise(play, host))
    return lambda: next(effects, False)


def _stepwise(play: Any, host: ModelHost) -> Iterator[bool]:
    answer, error = None, None
    while True:
        try:
            effect = play.throw(error) if error is not None else play.send(answer)
        except (StopIteration, Stop):
            return  # through, or out of the way of whoever holds the lock
        answer, error = None, None
        try:
            answer = host.do(effect)
        except (Stop, OSError) as raised:
            error = raised
        yield True


def broken_disk(number: int, error: Exception, place: str) -> Fault:
    """From the effect with this number on, nothing can be written under this path."""

    def fault(run: Run, at: int, effect: Any) -> None:
        if at >= number and any(path.startswith(place) for path in written(effect)):
            raise _anew(error)

    return fault


def _anew(error: Exception) -> Exception:
    """The same error, without where it was raised before: that would keep everything alive."""
    error.__context__ = None
    return error.with_traceback(None)


def both(one: Fault, other: Fault) -> Fault:
    def fault(run: Run, at: int, effect: Any) -> None:
        one(run, at, effect)
        other(run, at, effect)

    return fault


def written(effect: Any) -> list[str]:
    """The paths that this effect changes."""
    name = type(effect).__name__
    if name in ("Replace", "Delete", "MakeDirectory", "RemoveDirectory", "SetMode", "SetOwner", "Sweep"):
        return [effect.path]
    if name == "SetPassword":
        return ["/etc/shadow"]
    if name in ("WriteJournal", "MoveJournal", "DropJournal", "WriteState", "WriteNonce", "Lock"):
        return [STATE]
    return [STATE, "/etc/cron.d"] if name in ("Arm", "Disarm") else []
