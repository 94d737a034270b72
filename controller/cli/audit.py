"""The trail: kps audit."""

import contextlib
import functools
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import completion, exits, inputs, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.following import Patience
from controller.cli.output import Known
from controller.cli.session import Session
from controller.cli.wholefile import written

if TYPE_CHECKING:
    from controller.client import AsyncKpsClient

Json = dict[str, Any]
AT_ONCE = 1000
WAIT_SECONDS = 20
_CHECKPOINT_BYTES = 16 * 1024
_WHAT = 160  # characters of an event's detail in a table

audit = group(
    "The trail: what happened, by whom, and the proof that nobody has changed it. For auditors and administrators.",
    "kps audit list --since 2026-11-01 --kind keypair_exported",
    "kps audit verify --checkpoint /mnt/elsewhere/checkpoint",
)

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From this time on: 2026-11-01, or 2026-11-01T12:00:00Z. Without a zone, UTC."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write it there, mode 0600; an existing file is refused.")
]


@command(
    audit,
    "list",
    "kps audit list",
    "kps audit list --user anna --since 2026-11-01",
    "kps audit list --kind task_finished --follow",
)
async def list_(
    session: Session,
    *,
    since: Since = None,
    until: Until = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", metavar="KIND", help="Only this kind. Repeat for more.")] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Only of this user, by name or id.")] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="SERVER", help="Only about this server, by name or id.", autocompletion=completion.servers
        ),
    ] = None,
    keypair: Annotated[
        str | None,
        typer.Option(
            "--keypair", metavar="NAME", help="Only about this key pair, by name or id.", autocompletion=completion.keypairs
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="Only of this task.", autocompletion=completion.tasks)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="The newest N of them.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", metavar="", help="Go on with what happens from now on, until interrupted.")
    ] = False,
) -> None:
    """List events, the newest last. With --json and --follow: one event a line."""
    if follow and until:
        raise usage("--follow and --until exclude each other")
    wanted = {
        "kind": kind or [], "user": user, "server": server, "keypair": keypair, "task": task,
        "since": _time("--since", since), "until": _time("--until", until),
    }  # fmt: skip
    async with session.client() as client:
        newest = await client.audit_events(wanted, limit=1) if follow else []
        found: list[Known] = []
        while len(found) < limit:
            before = found[-1]["number"] if found else None
            some = await client.audit_events(wanted, before=before, limit=min(AT_ONCE, limit - len(found)))
            found += some
            if len(some) < AT_ONCE:
                break
        found.reverse()
        names = await client.audit_names()
        if not follow:
            output.as_json(found) if session.json else _show(found, names)
            return
        _told(session, found, names)
        last = found[-1]["number"] if found else newest[0]["number"] if newest else 0
        patience = Patience(session)
        while True:
            ask = functools.partial(client.audit_events, wanted, after=last, limit=AT_ONCE, wait_seconds=WAIT_SECONDS)
            some = await patience.answer(ask)
            new = {each for event in some for each in (event["user_id"], event["server_id"]) if each} - names.keys()
            if new:  # taken in meanwhile, or gone since, and then known by their ids alone
                names |= {each: each for each in new} | await patience.answer(client.audit_names)
            for event in some:
                last = event["number"]
                _told(session, [event], names)


@command(audit, "verify", "kps audit verify", "kps audit verify --key KEY --checkpoint /mnt/elsewhere/checkpoint")
async def verify(
    session: Session,
    *,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="What `kps audit key` printed, kept elsewhere; else this home is believed."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="What `kps audit checkpoint` wrote, kept elsewhere: no event up to it is missing.",
        ),
    ] = None,
) -> int:
    """Verify every event: that none was edited, removed, reordered or put in. Names the first that was; exit code 1.

    A copy of the database, or an export, is verified without kps too: controller/kps_audit_verify.py is one file of its own.
    """
    from controller import kps_audit_verify as verifier

    kept = None
    if checkpoint is not None:
        try:
            kept = json.loads(inputs.file_text(checkpoint, _CHECKPOINT_BYTES))
        except ValueError:
            kept = None
        if not isinstance(kept, dict) or "number" not in kept:
            raise usage(f"{checkpoint}: this is no checkpoint as kps audit checkpoint writes it")
    with tempfile.TemporaryFile("w+", encoding="ascii") as spool:
        async with session.client() as client:
            async for line in _export(client, await client.audit_export()):
                spool.write(line)
        spool.seek(0)
        try:
            found = verifier.check(verifier.of_export(spool), key, kept)
        except verifier.Wrong as wrong:
            if session.json:
                output.as_json({"verified": False, "event": wrong.number, "how": wrong.how, "message": str(wrong)})
            else:
                output.say(f"not as it was written: {wrong}", style="bold red")
            return exits.SOME_NOT
    if session.json:
        output.as_json({"verified": True, **found})
        return exits.ALL_AS_ASKED
    output.say(f"events {found['first']} to {found['number']} are as they were written, and in order")
    if found["unsigned"]:
        output.say(f"{found['unsigned']} of them are vouched for by the checkpoint alone: they have no signature")
    if kept is None:
        output.say("that none was cut off at the end is believed of this home; a checkpoint kept elsewhere would show it")
    elif found["checkpoint"] is None:
        output.say(
            f"the checkpoint at event {kept['number']} is from before the first event that is kept: compare it with the export"
        )
    if key is None:
        output.say("the key was taken from this home; give --key to compare it with one kept elsewhere")
    return exits.ALL_AS_ASKED


@command(audit, "export", "kps audit export --out audit-2026.jsonl", "kps audit export --since 2026-11-01 | gzip > november.gz")
async def export(session: Session, *, since: Since = None, until: Until = None, out: Out = None) -> None:
    """Give out events as JSON lines that can be verified by themselves: what was exported may be pruned later.

    The first line says which events follow, signed, with the public key and the checkpoints among them.
    """
    with written(out) if out else contextlib.nullcontext(output.write) as write:
        async with session.client() as client:
            header = await client.audit_export(_time("--since", since), _time("--until", until))
            async for line in _export(client, header):
                write(line)
    # On record only now that it is whole, and on its disk.
    try:
        async with session.client() as client:
            await client.audit_exported(header["first"], header["number"], header["digest"])
    except BaseException:
        if out:
            out.unlink(missing_ok=True)  # else the next attempt would find its own file in the way
        raise
    if not out:
        return
    if session.json:
        told = {name: header[name] for name in ("tenant_id", "first", "number", "digest", "public_key")}
        output.as_json({"out": str(out), **told})
    else:
        output.say(f"events {header['first']} to {header['number']} are in {out}")


@command(
    audit,
    "checkpoint",
    "kps audit checkpoint --out /mnt/elsewhere/checkpoint",
    "kps audit checkpoint | ssh log@elsewhere 'cat > kps'",
)
async def checkpoint_(session: Session, *, out: Out = None) -> None:
    """Sign how far the trail reaches now. Keep it elsewhere: only that shows when the newest events are cut off later."""
    with written(out) if out else contextlib.nullcontext(output.write) as write:
        async with session.client() as client:
            made = await client.audit_checkpoint()
        write(json.dumps(made) + "\n")
    if out is None:
        return
    if session.json:
        output.as_json(made)
    else:
        output.say(f"the trail reaches to event {made['number']}, says {out}")


@command(audit, "key", "kps audit key")
async def key_(session: Session) -> None:
    """Show the public half of the key that signs this tenant's events, to be kept elsewhere. It never changes."""
    async with session.client() as client:
        found = await client.audit_key()
    if session.json:
        output.as_json(found)
    else:
        output.write(f"{found['public_key']}\n")


@command(audit, "prune", "kps audit prune --before 2025-01-01")
async def prune(
    session: Session,
    *,
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="Up to the last event before this time.")],
) -> None:
    """Delete old events, which must have been exported; for administrators. What is left verifies from there on.

    Nothing is ever deleted by itself.
    """
    async with session.client() as client:
        done = await client.audit_prune(str(_time("--before", before)))
    if session.json:
        output.as_json(done)
    else:
        output.say(f"{done['deleted']} events are deleted; the trail begins with event {done['first']} now")


async def _export(client: "AsyncKpsClient", header: Known) -> AsyncIterator[str]:
    """Give the lines of an export."""
    yield json.dumps(header) + "\n"
    last = header["first"] - 1
    while last < header["number"]:
        found = await client.audit_events({}, after=last, limit=min(AT_ONCE, header["number"] - last))
        for event in found:
            yield json.dumps(event) + "\n"
        if not found:
            return  # what is missing is for whoever verifies to name
        last = found[-1]["number"]


def _time(option: str, given: str | None) -> str | None:
    """Return a time as the API takes it."""
    if given is None:
        return None
    try:
        read = datetime.fromisoformat(given)
    except ValueError:
        raise usage(f"{option} {given}: give a time as 2026-11-01 or 2026-11-01T12:00:00Z") from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).isoformat()


def _told(session: Session, found: Sequence[Known], names: dict[str, str]) -> None:
    """Tell events as they come, one a line."""
    for event in found:
        if session.json:
            output.write(json.dumps(event) + "\n")
        else:
            output.say("  ".join(str(cell) for cell in _row(event, names)))


def _show(found: Sequence[Known], names: dict[str, str]) -> None:
    output.table(("NUMBER", "WHEN", "WHO", "KIND", "SERVER", "WHAT"), [_row(event, names) for event in found], empty="no events")


def _row(event: Known, names: dict[str, str]) -> tuple[object, ...]:
    # No user: the controller did it by itself.
    who = names.get(event["user_id"], event["user_id"]) if event["user_id"] else "-"
    server = names.get(event["server_id"], event["server_id"]) if event["server_id"] else "-"
    what = " ".join(f"{name}={_plainly(value)}" for name, value in event["detail"].items() if value not in (None, [], {}, ""))
    phase = f"{event['phase']}: " if event["kind"] == "task_phase" else ""
    return event["number"], output.seconds(event["at"]), who, event["kind"], server, (phase + what)[:_WHAT]


def _plainly(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
