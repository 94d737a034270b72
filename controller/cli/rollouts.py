"""Rollouts: kps rollout."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import exits, options, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.operations import check_choice, check_revoke, credentials, key_of, warn_of_old_algorithms
from controller.cli.session import Session

if TYPE_CHECKING:
    from controller import answers as a
    from controller.client import AsyncKpsClient

Json = dict[str, Any]

LOOK_SECONDS = 1.0
OVER = ("finished", "stopped", "paused", "cancelled")

rollouts = group(
    "Rollouts: one order for many servers: a canary first, then batches, and stop where too many fail.",
    "kps rollout start replace --all --keypair ops-2027 --canary 5 --batch 10% --max-failures 2%",
    "kps rollout watch 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11",
)
Id = Annotated[str, typer.Argument(metavar="ID", help="The rollout's id.")]


def _option(name: str, metavar: str, help_: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help_)


Hours = Annotated[
    float | None,
    _option("--credential-hours", "N", "Keep what opens the servers, sealed, for so long at most; 24 if not said."),
]


@command(
    rollouts,
    "start",
    "kps rollout start replace --all --keypair ops-2027 --canary 5 --batch 10% --max-failures 2%",
    "kps rollout start bind env=prod --keypair ops --identity ~/.ssh/id_ed25519 --per-label zone --window 22:00-04:00",
    "kps rollout start unbind env=old --pause-after-canary --detach",
)
async def start(
    session: Session,
    operation: Annotated[
        str, typer.Argument(metavar="OPERATION", help="bind, replace, unbind, check, password-login-enable or -disable.")
    ],
    servers: options.ServerWords = None,
    *,
    every: options.All = False,
    keypair: Annotated[
        str | None, _option("--keypair", "NAME", "The key pair to bind, or to put in the place of the old.")
    ] = None,
    login: options.Login = None,
    canary: Annotated[
        str | None, _option("--canary", "N|N%", "How many first, before all others; 1 if not said, 0 for none.")
    ] = None,
    batch: Annotated[str | None, _option("--batch", "N|N%", "How many then at a time; 10% if not said.")] = None,
    max_failures: Annotated[
        str | None, _option("--max-failures", "N|N%", "Stop where more failed, of all or of one label; 2% if not said.")
    ] = None,
    max_failures_of: Annotated[
        list[str] | None, _option("--max-failures-of", "CAUSE=N|N%", "Stop where more failed by this cause; * is each of them.")
    ] = None,
    per_label: Annotated[
        str | None, _option("--per-label", "LABEL", "Spread the canary over this label's values, and count by them.")
    ] = None,
    quorum: Annotated[
        str | None, _option("--quorum", "LABEL", "Of servers with one value of this label, only one at a time.")
    ] = None,
    concurrency: Annotated[int | None, _option("--concurrency", "N", "Servers at the same time; 32 if not said.")] = None,
    per_bastion: Annotated[int | None, _option("--per-bastion", "N", "Servers at the same time behind a jump server.")] = None,
    window: Annotated[
        str | None, _option("--window", "HH:MM-HH:MM [ZONE]", "Begin servers in these hours only; UTC if no zone is said.")
    ] = None,
    pause_after_canary: Annotated[
        bool, typer.Option("--pause-after-canary", metavar="", help="Wait for `kps rollout resume` after the canary.")
    ] = False,
    tries: Annotated[int | None, _option("--tries", "N", "Of each server, where what failed may pass; 3 if not said.")] = None,
    credential_hours: Hours = None,
    detach: Annotated[bool, typer.Option("--detach", metavar="", help="Do not wait; needs `kps serve`.")] = False,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
    keep_password_login: Annotated[
        bool, typer.Option("--keep-password-login", metavar="", help="bind: leave password login as it is.")
    ] = False,
    close_password_login: Annotated[
        bool, typer.Option("--close-password-login", metavar="", help="replace: switch password login off too.")
    ] = False,
    accept_lockout: options.AcceptLockout = None,
    accept_unproved: options.AcceptUnproved = False,
    fix_permissions: options.FixPermissions = False,
    take_over: options.TakeOver = False,
    revoke: options.Revoke = False,
    everywhere: options.Everywhere = False,
    end_sessions: options.EndSessions = False,
    force: options.Force = False,
) -> int:
    """Order an operation on many servers, and watch it to its end.

    The canary goes first; any failure among it stops the rollout. Then batch after batch, until more failed than may. What
    may pass by itself (a server that is away, somebody else at work there) is tried again; a wrong password or key is not.
    """
    check_choice(servers, every)
    check_revoke(revoke, everywhere, end_sessions)
    key = key_of(identity, agent, certificate, password_stdin, passphrase_stdin)
    strategy = {
        "canary": canary,
        "batch": batch,
        "max_failures": max_failures,
        "max_failures_of": _limits(max_failures_of or ()),
        "per_label": per_label,
        "quorum": quorum,
        "concurrency": concurrency,
        "per_bastion": per_bastion,
        "window": window,
        "pause_after_canary": pause_after_canary,
        "tries": tries,
    }
    request = {
        "keypair": keypair,
        "login": login,
        "keep_password_login": keep_password_login,
        "close_password_login": close_password_login,
        "accept_lockout": accept_lockout,
        "accept_unproved": accept_unproved,
        "fix_permissions": fix_permissions,
        "take_over": take_over,
        "revoke": revoke,
        "everywhere": everywhere,
        "end_sessions": end_sessions,
        "force": force,
    }
    async with session.client() as client:
        if detach and not session.served:
            raise usage("--detach: nobody would go on with it; start `kps serve`, or stay")
        chosen = await client.servers(servers or (), every=every)
        names = [str(server["name"]) for server in chosen]
        if not names:
            raise usage("no servers there; `kps server add` adds one")
        if password_stdin:
            warn_of_old_algorithms(chosen)
        order = {
            "operation": operation,
            "servers": names,
            "credentials": credentials(names, password_stdin, password_of),
            "credential_hours": credential_hours,
            "strategy": {name: value for name, value in strategy.items() if value not in (None, {})},
            **key,
            **{name: value for name, value in request.items() if value not in (None, False)},
        }
        begun = await client.start_rollout(order)
        if detach:
            output.as_json(begun) if session.json else output.say(f"rollout {begun['id']}; kps rollout watch {begun['id']}")
            return exits.ALL_AS_ASKED
        return await _watched(session, client, begun)


@command(rollouts, "list", "kps rollout list", "kps rollout list --json")
async def list_(session: Session) -> None:
    """List rollouts, the oldest first."""
    async with session.client() as client:
        found = await client.rollouts()
    if session.json:
        output.as_json(found)
        return
    rows = [
        (each["id"], each["operation"], str(each["servers"]), each["state"], each["reason"], output.seconds(each["created_at"]))
        for each in found
    ]
    output.table(("ID", "OPERATION", "SERVERS", "STATE", "WHY", "WHEN"), rows, whole="ID", empty="no rollouts")


@command(rollouts, "show", "kps rollout show 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11")
async def show(
    session: Session,
    id_: Id,
    servers: Annotated[bool, typer.Option("--servers", metavar="", help="Also each of its servers.")] = False,
) -> None:
    """Show how far a rollout is: servers by state, by cause, by label, and what was not begun."""
    async with session.client() as client:
        found = await client.rollout(id_)
        each = await client.rollout_servers(id_) if servers else []
    if session.json:
        output.as_json(found | ({"each": each} if servers else {}))
        return
    _show(found)
    if servers:
        output.say("")
        rows = [
            (
                one["server"],
                one["login"],
                one["status"],
                str(one["tries"]),
                one["cause"] or one["held"] or "-",
                one["task_id"] or "-",
            )
            for one in each
        ]
        output.table(("SERVER", "LOGIN", "STATUS", "TRIES", "CAUSE", "TASK"), rows, whole="TASK")


@command(rollouts, "watch", "kps rollout watch 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11")
async def watch(session: Session, id_: Id) -> int:
    """Follow a rollout until it is over, stopped or paused."""
    async with session.client() as client:
        if not session.served:
            output.say("kps: nobody serves this home; it goes on only while the command that drives it runs", errors=True)
        return await _watched(session, client, await client.rollout(id_))


@command(rollouts, "pause", "kps rollout pause 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11")
async def pause(session: Session, id_: Id) -> None:
    """Begin no further server for now; those that are begun come to their end."""
    async with session.client() as client:
        _changed(session, await client.change_rollout(id_, "pause"))


@command(rollouts, "cancel", "kps rollout cancel 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11")
async def cancel(session: Session, id_: Id) -> None:
    """Begin no further server, now or ever; those that are begun come to their end."""
    async with session.client() as client:
        _changed(session, await client.change_rollout(id_, "cancel"))


@command(
    rollouts,
    "resume",
    "kps rollout resume 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11",
    "kps rollout resume 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --password-stdin < passwords",
)
async def resume(
    session: Session,
    id_: Id,
    *,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    credential_hours: Hours = None,
) -> int:
    """Go on with a rollout that waits, was stopped, or whose controller is gone. What failed before counts no more.

    What was given at the start is kept, sealed, until it expires; passwords given now take its place.
    """
    async with session.client() as client:
        asked: Json = {"credentials": await _passwords(client, id_, password_stdin, password_of)}
        asked |= {} if credential_hours is None else {"credential_hours": credential_hours}
        return await _watched(session, client, await client.change_rollout(id_, "resume", asked))


@command(
    rollouts,
    "retry",
    "kps rollout retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --cause disk_full",
    "kps rollout retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --cause wrong_password --password-stdin < passwords",
)
async def retry(
    session: Session,
    id_: Id,
    *,
    cause: Annotated[str | None, _option("--cause", "CAUSE", "Only those that failed by this; any if not said.")] = None,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    credential_hours: Hours = None,
) -> int:
    """Have servers that failed tried once more, perhaps with other passwords, and watch it."""
    async with session.client() as client:
        asked: Json = {"cause": cause, "credentials": await _passwords(client, id_, password_stdin, password_of)}
        asked |= {} if credential_hours is None else {"credential_hours": credential_hours}
        return await _watched(session, client, await client.change_rollout(id_, "retry", asked))


async def _passwords(client: "AsyncKpsClient", id_: str, password_stdin: bool, password_of: str | None) -> Json:
    names = [each["server"] for each in await client.rollout_servers(id_)] if password_stdin else []
    return credentials(names, password_stdin, password_of)


def _limits(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if not all(cause and limit for cause, _, limit in pairs):
        raise usage("--max-failures-of: give CAUSE=N or CAUSE=N%, as disk_full=3")
    return {cause: limit for cause, _, limit in pairs}


def _changed(session: Session, found: "a.Rollout") -> None:
    output.as_json(found) if session.json else output.say(f"rollout {found['id']} is {found['state']}")


async def _watched(session: Session, client: "AsyncKpsClient", begun: "a.Rollout") -> int:
    """Follow a rollout, and return the exit code: all as asked only where it finished and none failed."""
    with _bar(int(begun["servers"])) as show_it:
        while True:
            found = await client.rollout(str(begun["id"]))
            show_it(found)
            if found["state"] in OVER and not found["states"]["running"]:
                break
            await asyncio.sleep(LOOK_SECONDS)
    output.as_json(found) if session.json else _show(found)
    states = found["states"]
    well = found["state"] == "finished" and not states["failed"] and not states["held"] and not states["cancelled"]
    return exits.ALL_AS_ASKED if well else exits.SOME_NOT


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[["a.RolloutProgress"], None]]:
    """Show on stderr how far a rollout is while the block runs, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda found: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[doing]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.console(errors=True), transient=True, expand=True) as progress:
        shown = progress.add_task("", total=total, rate="", doing="")

        def show_it(found: "a.RolloutProgress") -> None:
            states = found["states"]
            open_ = states["waiting"] + states["running"]
            causes = sorted(found["causes"].items(), key=lambda each: -each[1])[:2]
            doing = [f"{count} {state}" for state, count in states.items() if count and state in ("running", "failed", "held")]
            doing += [f"{cause} {count}" for cause, count in causes]
            speed = progress.tasks[0].speed
            told = output.plain(", ".join(doing))
            progress.update(shown, completed=total - open_, rate=f"{speed:.1f}/s" if speed else "", doing=told)

        yield show_it


def _show(found: "a.RolloutProgress") -> None:
    states = {state: count for state, count in found["states"].items() if count}
    output.facts(
        {
            "rollout": found["id"],
            "operation": found["operation"],
            "state": f"{found['state']}: {found['reason']}" if found["reason"] else found["state"],
            "servers": ", ".join(f"{count} {state}" for state, count in states.items()),
        }
    )
    if found["causes"]:
        output.say("")
        causes = sorted(found["causes"].items(), key=lambda each: (-each[1], each[0]))
        output.table(("CAUSE", "SERVERS"), [(cause, str(count)) for cause, count in causes])
    if found["labels"]:
        output.say("")
        rows = [
            (label, ", ".join(f"{count} {state}" for state, count in of.items())) for label, of in sorted(found["labels"].items())
        ]
        output.table((str(found["strategy"]["per_label"]).upper(), "SERVERS"), rows)
    for reason, count in found["held"].items():
        output.say(f"{count} not begun: {reason}", wrap=True)
    next_step = {"stopped": "retry", "paused": "resume"}.get(found["state"])
    if next_step:
        output.say(f"next: kps rollout show {found['id']} --servers; kps rollout {next_step} {found['id']}")
