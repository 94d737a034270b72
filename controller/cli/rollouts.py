"""Rollouts: kps rollout."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli import durations, exits, inputs, options, output, rolloutbar, rolloutplans
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.operations import credentials
from controller.cli.rolloutorders import Asked, Hours, asking, option
from controller.cli.session import Session
from controller.cli.wholefile import written

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


@command(
    rollouts,
    "start",
    "kps rollout start replace --all --keypair ops-2027 --canary 5 --batch 10% --max-failures 2%",
    "kps rollout start bind env=prod --keypair ops --identity ~/.ssh/id_ed25519 --per-label zone --window 22:00-04:00",
    "kps rollout start unbind env=old --pause-after-canary --detach",
    "kps rollout start --plan plan.json --password-stdin < passwords",
)
@asking
async def start(
    session: Session,
    asked: Asked,
    *,
    plan: Annotated[
        str | None, option("--plan", "FILE|ID", "What `kps rollout plan` made: its servers as they were seen, and nothing else.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", metavar="", help="Do not wait; needs `kps serve`.")] = False,
) -> int:
    """Order an operation on many servers, and watch it to its end.

    The canary goes first; any failure among it stops the rollout. Then batch after batch, until more failed than may. What
    may pass by itself (a server that is away, somebody else at work there) is tried again; a wrong password or key is not.
    """
    if plan is None:
        asked.check()
    elif asked.besides_what_opens:
        raise usage(
            f"--plan says all of it; give no {', '.join(asked.besides_what_opens).replace('_', ' ')}, only what opens servers"
        )
    key = asked.key()
    async with session.client() as client:
        if detach and not session.served:
            raise usage("--detach: nobody would go on with it; start `kps serve`, or stay")
        if plan is not None:
            begun: a.Rollout = await rolloutplans.start(client, plan, asked, key)
        else:
            chosen = await client.servers(asked.servers or (), every=asked.every)
            begun = await client.start_rollout(asked.order(chosen, key))
        if detach:
            output.as_json(begun) if session.json else output.say(f"rollout {begun['id']}; kps rollout watch {begun['id']}")
            return exits.ALL_AS_ASKED
        return await watched(session, client, begun)


@command(
    rollouts,
    "plan",
    "kps rollout plan bind --all --keypair ops --password-stdin -o plan.json < passwords",
    "kps rollout plan replace env=prod --keypair ops-2027 --canary 5 --good-for 8h",
)
@asking
async def plan(
    session: Session,
    asked: Asked,
    *,
    good_for: Annotated[str, option("--good-for", "TIME", "How long it may be started: 1m to 30d.")] = "24h",
    out: rolloutplans.Out = None,
) -> int:
    """Look at many servers, and say what a rollout would do on each; nothing is written there.

    What was seen is signed, with how the rollout is to go. `kps rollout start --plan` does just that: a server that has changed
    since is refused (changed_since_plan), and those on which nothing could be done stay out.
    """
    asked.check()
    key = asked.key()
    seconds = durations.seconds("--good-for", good_for)
    if out is not None:
        rolloutplans.check_out(out)
    async with session.client() as client:
        chosen = await client.servers(asked.servers or (), every=asked.every)
        order = asked.order(chosen, key) | {"plan": True, "good_for_seconds": seconds}
        begun = await followed(client, await client.start_rollout(order))
        return await rolloutplans.show(session, client, begun, out)


@command(rollouts, "list", "kps rollout list", "kps rollout list --json")
async def list_(session: Session) -> None:
    """List rollouts, the oldest first."""
    async with session.client() as client:
        found = await client.rollouts()
    if session.json:
        output.as_json(found)
        return
    rows = [
        (
            each["id"],
            each["operation"] + (" (plan)" if each["plans"] else ""),
            str(each["servers"]),
            each["state"],
            each["reason"],
            output.seconds(each["created_at"]),
        )
        for each in found
    ]
    output.table(("ID", "OPERATION", "SERVERS", "STATE", "WHY", "WHEN"), rows, whole="ID", empty="no rollouts")


@command(rollouts, "show", "kps rollout show 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11")
async def show(
    session: Session,
    id_: Id,
    servers: Annotated[bool, typer.Option("--servers", metavar="", help="Also each of its servers.")] = False,
) -> None:
    """Show how far a rollout is: servers by state, by cause, by label, and what was not begun; of a plan what it says."""
    async with session.client() as client:
        found = await client.rollout(id_)
        if found["plans"] and found["state"] == "finished" and not servers:
            await rolloutplans.show(session, client, found, None)
            return
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
        return await watched(session, client, await client.rollout(id_))


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
    _check_hours(credential_hours, password_stdin)
    async with session.client() as client:
        asked: Json = {"credentials": await _passwords(client, id_, password_stdin, password_of)}
        asked |= {} if credential_hours is None else {"credential_hours": credential_hours}
        return await watched(session, client, await client.change_rollout(id_, "resume", asked))


@command(
    rollouts,
    "retry",
    "kps rollout retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --cause disk_full",
    "kps rollout retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --cause wrong_password --password-stdin < passwords",
    "kps rollout retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --cause connection_refused --set port=2222",
)
async def retry(
    session: Session,
    id_: Id,
    *,
    cause: Annotated[str | None, option("--cause", "CAUSE", "Only those that failed by this; any if not said.")] = None,
    set_: Annotated[
        list[str] | None,
        option("--set", "NAME=VALUE", "Reach them so from now on: port, jump or old-algorithms. Repeat for more."),
    ] = None,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    credential_hours: Hours = None,
) -> int:
    """Have servers that failed tried once more, perhaps with other passwords or on another way, and watch it."""
    _check_hours(credential_hours, password_stdin)
    async with session.client() as client:
        asked: Json = {"cause": cause, "credentials": await _passwords(client, id_, password_stdin, password_of)}
        asked |= {"set": inputs.reach(set_)} if set_ else {}
        asked |= {} if credential_hours is None else {"credential_hours": credential_hours}
        return await watched(session, client, await client.change_rollout(id_, "retry", asked))


@command(
    rollouts,
    "report",
    "kps rollout report 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11",
    "kps rollout report 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --format svg -o rollout.svg",
)
async def report(
    session: Session,
    id_: Id,
    *,
    format_: Annotated[
        Literal["md", "json", "svg"],
        option("--format", "md|json|svg", "For people, for programs, or a picture of the run over time."),
    ] = "md",
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there, in place of what is there.")
    ] = None,
) -> None:
    """Report a rollout: what was asked, by whom, its causes with an example each, what is not done, and what to type next."""
    from controller.rollout.picture import picture
    from controller.rollout.written import markdown

    async with session.client() as client:
        found = await client.rollout_report(id_)
    if session.json or format_ == "json":
        text = json.dumps(found, indent=2) + "\n"
    else:
        text = picture(found) if format_ == "svg" else markdown(found)
    if out is None:
        output.write(text)
    else:
        with written(out, replace=True) as put:
            put(text)


def _check_hours(hours: float | None, given: bool) -> None:
    if hours is not None and not given:
        raise usage("--credential-hours goes with --password-stdin: what was kept before keeps its end")


async def _passwords(client: "AsyncKpsClient", id_: str, password_stdin: bool, password_of: str | None) -> Json:
    names = [each["server"] for each in await client.rollout_servers(id_)] if password_stdin else []
    return credentials(names, password_stdin, password_of)


def _changed(session: Session, found: "a.Rollout") -> None:
    output.as_json(found) if session.json else output.say(f"rollout {found['id']} is {found['state']}")


async def watched(session: Session, client: "AsyncKpsClient", begun: "a.Rollout") -> int:
    """Follow a rollout, and return the exit code: all as asked only where it finished and none failed or was left out."""
    found = await followed(client, begun)
    output.as_json(found) if session.json else _show(found)
    states = found["states"]
    left = states["failed"] or states["held"] or states["cancelled"] or found["held"]
    well = found["state"] == "finished" and not left
    return exits.ALL_AS_ASKED if well else exits.SOME_NOT


async def followed(client: "AsyncKpsClient", begun: "a.Rollout") -> "a.RolloutProgress":
    """Return a rollout once it is over, stopped or paused; a bar shows how far it is until then."""
    with rolloutbar.shown(begun) as show_it:
        while True:
            found = await client.rollout(str(begun["id"]))
            show_it(found)
            if found["state"] in OVER and not found["states"]["running"]:
                return found
            await asyncio.sleep(LOOK_SECONDS)


def _show(found: "a.RolloutProgress") -> None:
    states = {state: count for state, count in found["states"].items() if count}
    output.facts(
        {
            "rollout": found["id"],
            "operation": found["operation"] + (" (plan)" if found["plans"] else ""),
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
