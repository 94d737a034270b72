"""Tasks until they end: the bar while they run, and the table when they have."""

import asyncio
import contextlib
import functools
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from controller.cli import again, diagnosis, exits, output
from controller.cli.exits import Declined
from controller.cli.output import Known
from controller.cli.session import Session

if TYPE_CHECKING:
    from controller.client import AsyncKpsClient

Json = dict[str, Any]
T = TypeVar("T")
NAMED = 10  # tasks in a sentence
RECONNECT_SECONDS = 120.0  # of a controller that does not answer while its tasks are followed
AGAIN_SECONDS = 1.0
STARTING = frozenset({502, 503, 504})  # what a controller, or a proxy before it, says that is not ready yet
ABOUT_THE_KEY_FILE = frozenset({"private_key_unreadable", "passphrase_wrong", "key_mismatch", "key_refused"})
ENDED_WELL = frozenset({"succeeded", "unchanged"})
SHOWN_ABOVE = frozenset({"findings", "plan", "let_in", "paths", "by_hand", "console_command", "reset_root"})
SEEN_AS = {"logins": "password login"}  # a piece of evidence whose name says too little
# Only failed tasks can be deleted; somebody was faster than we were.
FORGOTTEN = {"status": "failed", "server_state": "unknown", "message": "deleted before it could be looked at"}


class Bar(Protocol):
    """What shows progress."""

    def phase(self, task_id: str, phase: str) -> None: ...

    def ended(self, task_id: str, status: str) -> None: ...


async def until_ended(client: "AsyncKpsClient", started: Sequence[Known], bar: "Bar", patience: "Patience") -> list[Known]:
    """Return the tasks as they ended, in the order in which they were started."""
    from controller.client import ENDINGS, WAIT_SECONDS

    ids = [str(task["id"]) for task in started]
    running = set(ids)
    # Events are numbered through: those of these tasks begin with the first one of the first task.
    first = await patience.answer(lambda: client.events(0, ids[:1]))
    after = int(first[0]["id"]) - 1 if first else 0
    while running:
        for event in await patience.answer(functools.partial(client.events, after, wait_seconds=WAIT_SECONDS)):
            after = int(event["id"])
            if event["task_id"] not in running:
                continue
            if event["kind"] in ENDINGS:
                running.discard(event["task_id"])
                bar.ended(event["task_id"], str(event["detail"].get("status", "")))
            elif event["phase"]:
                bar.phase(event["task_id"], event["phase"])
    ended = {task["id"]: task for task in await patience.answer(lambda: client.tasks(ids))}
    return [ended.get(task["id"], {**task, **FORGOTTEN}) for task in started]


class Patience:
    """Asks a controller on the network again when it does not answer, for so long; one on this machine that is gone is gone."""

    def __init__(self, session: Session, seconds: float = RECONNECT_SECONDS) -> None:
        self._session = session
        self._seconds = seconds if session.network is not None else 0.0

    async def answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a question that changes nothing. Unreachable: none came in time."""
        from controller.client import NotTrusted, Refused, Unreachable

        loop = asyncio.get_running_loop()
        until: float | None = None
        while True:
            try:
                found = await ask()
            except NotTrusted:
                raise
            except (Unreachable, Refused) as silence:
                if isinstance(silence, Refused) and silence.status not in STARTING:
                    raise
                now = loop.time()
                if until is None:
                    until = now + self._seconds
                    if self._seconds:
                        self._say(f"{silence}; asking again for {self._seconds:.0f} s")
                if now >= until:
                    raise silence if isinstance(silence, Unreachable) else Unreachable(str(silence)) from silence
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                if until is not None:
                    self._say(f"{self._session.where} answers again")
                return found

    def _say(self, told: str) -> None:
        output.say(f"kps: {told}", errors=True)


class Silent:
    """Progress that nobody looks at."""

    def phase(self, task_id: str, phase: str) -> None:
        pass

    def ended(self, task_id: str, status: str) -> None:
        pass


@contextlib.contextmanager
def bar_for(total: int) -> Iterator[Bar]:
    """Show a bar with the rate on stderr while the block runs, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield Silent()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[doing]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.console(errors=True), transient=True, expand=True) as progress:
        shown = progress.add_task("", total=total, rate="", doing="")
        phases: dict[str, str] = {}
        failed = 0

        def show(step: int) -> None:
            counted = {phase: list(phases.values()).count(phase) for phase in dict.fromkeys(phases.values())}
            doing = [f"{phase} {count}" for phase, count in counted.items()]
            if failed:
                doing.append(f"failed {failed}")
            speed = progress.tasks[0].speed
            progress.update(shown, advance=step, rate=f"{speed:.1f}/s" if speed else "", doing=output.plain(", ".join(doing)))

        class Shown:
            def phase(self, task_id: str, phase: str) -> None:
                phases[task_id] = phase
                show(0)

            def ended(self, task_id: str, status: str) -> None:
                nonlocal failed
                phases.pop(task_id, None)
                failed += status not in ENDED_WELL
                show(1)

        yield Shown()


async def answered(asking: Coroutine[Any, Any, T], heard: Callable[[T], None]) -> T:
    """Return what the controller answers to an order; heard is told it first.

    An interruption waits for that answer, so that it can be told what goes on.
    """
    answer = asyncio.ensure_future(asking)
    try:
        await asyncio.shield(answer)
    finally:
        found = await answer
        heard(found)
    return found


async def begin(session: Session, asking: Coroutine[Any, Any, Sequence[Known]]) -> Sequence[Known]:
    """Return the tasks that the controller answers with; an interruption waits for them."""

    def heard(started: Sequence[Known]) -> None:
        session.started = [str(task["id"]) for task in started]

    return await answered(asking, heard)


async def wait(session: Session, client: "AsyncKpsClient", started: Sequence[Known]) -> list[Known]:
    """Return tasks as they ended, in the order in which they were started, with a bar meanwhile.

    Declined: controller_lost where the controller ended before they did; where it answers and says no, its own code.
    """
    from controller.client import Refused, Unreachable

    try:
        with bar_for(len(started)) as bar:
            return await until_ended(client, started, bar, Patience(session))
    except Unreachable as lost:
        raise Declined(exits.UNAVAILABLE, "controller_lost", f"{lost}; {left_behind(started)}") from lost
    except Refused as refused:  # as of an access key that has ended meanwhile
        told = f"{refused.message}; the controller goes on with {_named(started)}"
        raise Declined(exits.of_status(refused.status), refused.code, told) from refused


async def follow(session: Session, client: "AsyncKpsClient", started: Sequence[Known], key_file: Path | None = None) -> int:
    """Wait for tasks, print how each ended, and return the exit code. key_file: the private key that was given for them.

    Declined: as wait().
    """
    ended = await wait(session, client, started)
    passwords = {task["id"]: task["password"] for task in started if "password" in task}
    results = [result(task, passwords.get(task["id"])) for task in ended]
    if session.json:
        output.as_json(results)
    else:
        show(results, key_file)
    return exits.ALL_AS_ASKED if all(one["status"] in ENDED_WELL for one in results) else exits.SOME_NOT


def left_behind(started: Sequence[Known]) -> str:
    """Return what became of tasks whose controller is gone, and how to see how they ended."""
    return (
        f"it was at work on {_named(started)}; servers undo by themselves what was not confirmed; "
        "`kps task list` shows how these tasks ended, at the latest when their lease has run out (KPS_LEASE_SECONDS)"
    )


def _named(started: Sequence[Known]) -> str:
    named = [f"{task['id']} on {task['server']}" for task in started[:NAMED]]
    if len(started) > NAMED:
        named.append(f"and {len(started) - NAMED} more")
    return ", ".join(named)


def result(task: Known, password: str | None) -> Json:
    """Return how one server ended: the task, with what belongs to this operation only."""
    found = {"task_id": task["id"], **task}
    logins = task["evidence"].get("logins")
    if task["operation"].startswith("password-login") and isinstance(logins, dict):
        found["logins"] = logins
    if password is not None and task["status"] in ENDED_WELL:
        found["password"] = password
    return found


def show(results: Sequence[Known], key_file: Path | None = None) -> None:
    """Print a line for each server, then what the failed ones need to be understood and put right."""
    output.table(
        ("SERVER", "LOGIN", "STATUS", "STATE", "PROOF OR CAUSE"),
        [
            (one["server"], one["login"], one["status"], one["server_state"], one["cause"] or proofs(one["proof"]))
            for one in results
        ],
        empty="no servers",
    )
    logins = [(one["server"], login, state) for one in results for login, state in sorted(one.get("logins", {}).items())]
    if logins:
        output.say("")
        output.table(("SERVER", "LOGIN", "PASSWORD LOGIN"), logins)
    for one in results:
        if one["evidence"].get("findings"):
            diagnosis.findings(one, one["status"] in ENDED_WELL)
        if one["evidence"].get("plan"):
            diagnosis.plan(one)
        if one["status"] not in ENDED_WELL:
            output.say("")
            explain(one, key_file)
        elif one["message"]:
            output.say(_under_its_name(one), wrap=True)
        if "password" in one:
            output.say(f"{one['server']}: one-time password of {one['login']}, shown only now: {one['password']}")


def proofs(found: Sequence[Known]) -> str:
    """Return proofs in words: `key of root logged_in`."""
    return ", ".join(f"{proof.get('way')} of {proof.get('login')} {proof.get('method')}" for proof in found)


def _under_its_name(task: Known) -> str:
    """Return a task's message after the server's name, which most messages begin with by themselves."""
    name = f"{task['server']}: "
    return name + str(task["message"]).removeprefix(name)


def explain(task: Known, key_file: Path | None = None) -> None:
    """Print why a task failed, what was seen, and what to do now."""
    output.say(f"{task['server']}: {task['cause'] or task['status']}", style="bold red")
    told = {"what": task["message"]}
    told |= {
        f"seen: {SEEN_AS.get(name, name)}": seen(value)
        for name, value in task["evidence"].items()
        if value != task["server"] and name not in SHOWN_ABOVE
    }
    if key_file and task["cause"] in ABOUT_THE_KEY_FILE:
        told["key file"] = str(key_file)
    if task["operation"] != "check" or not task["evidence"].get("findings"):  # each of which says what to do
        told["do"] = handling(task)
    told["task"] = task["id"]
    output.facts({name: value for name, value in told.items() if value})
    # On a line of its own, which nothing breaks: it is there to be copied.
    if task.get("request", {}).get("plan"):
        output.say("this was a plan; nothing was written")
        return
    if task["operation"].startswith("door-"):
        return  # asked for anew, not retried
    output.say(f"again: {again.retry(task)}" if task["retryable"] else "a retry alone cannot help")


def handling(task: Known) -> str | None:
    """Return what to do about a failed task, with its commands as they are typed."""
    if task["handling"] is None:
        return None
    if task["operation"].startswith("door-"):  # who may, and for how long, is asked anew
        return str(task["handling"]).replace("kps task retry ID", f"kps emergency open {task['server']}")
    # A command that says itself what to give stays as it is.
    whole = str(task["handling"]).replace("kps task retry ID --", f"kps task retry {task['id']} --")
    return whole.replace("kps task retry ID", again.retry(task))


def seen(value: Any) -> str:
    """Return a piece of evidence on one line."""
    if isinstance(value, list):
        return ", ".join(seen(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={seen(one)}" for name, one in value.items())
    return output.plain(value)
