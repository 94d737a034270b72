"""Rotation policies: kps policy."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import exits, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.rolloutorders import limits
from controller.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller import answers as a
    from controller.client import AsyncKpsClient

LOOK_SECONDS = 2.0

policies = group(
    "Rotation policies: how old a key pair may be, and how the next one comes in its place.",
    "kps policy set prod env=prod --max-age 90 --window '22:00-04:00 Europe/Berlin'",
    "kps policy due",
)
Name = Annotated[str, typer.Argument(metavar="POLICY", help="The policy's name.")]


def _option(name: str, metavar: str, help_: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help_)


@command(
    policies,
    "set",
    "kps policy set prod env=prod --max-age 90 --canary 5 --batch 10% --window '22:00-04:00 Europe/Berlin'",
    "kps policy set everything --all --max-age 365 --grace 30 --remind 30 --remind 7",
)
async def set_(
    session: Session,
    name: Name,
    servers: Annotated[str | None, typer.Argument(metavar="[LABEL=VALUE]", help="The servers that it is about.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", metavar="", help="All servers.")] = False,
    max_age: Annotated[int, _option("--max-age", "DAYS", "How old a key pair may become, from when it was taken in.")],
    grace: Annotated[
        int | None, _option("--grace", "DAYS", "How long the old private half is kept once it is bound nowhere; 7 if not said.")
    ] = None,
    remind: Annotated[
        list[int] | None, _option("--remind", "DAYS", "Have an event so many days before; 14, 7 and 1 if not said.")
    ] = None,
    key_type: Annotated[str | None, _option("--type", "TYPE", "Of the next key pair; as the old one if not said.")] = None,
    canary: Annotated[str | None, _option("--canary", "N|N%", "How many first, before all others; 1 if not said.")] = None,
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
) -> None:
    """Set a policy, in the place of the one of its name.

    A key pair that is older, and bound on these servers, is replaced there by its next version (ops by ops-v2), as a rollout. The
    old private half is destroyed once that key pair is bound nowhere, and the grace period is over.
    """
    if every == (servers is not None):
        raise usage("give LABEL=VALUE, or --all")
    strategy = {
        "canary": canary,
        "batch": batch,
        "max_failures": max_failures,
        "max_failures_of": limits(max_failures_of or ()),
        "per_label": per_label,
        "quorum": quorum,
        "concurrency": concurrency,
        "per_bastion": per_bastion,
        "window": window,
        "pause_after_canary": pause_after_canary or None,
        "tries": tries,
    }
    wanted = {"servers": servers, "max_age_days": max_age, "grace_days": grace, "remind_days": remind, "key_type": key_type}
    request: dict[str, Any] = {name_: value for name_, value in wanted.items() if value is not None}
    request["strategy"] = {name_: value for name_, value in strategy.items() if value not in (None, {})}
    async with session.client() as client:
        found = await client.set_policy(name, request)
    output.as_json(found) if session.json else _facts(found)


@command(policies, "list", "kps policy list")
async def list_(session: Session) -> None:
    """List the policies, by name."""
    async with session.client() as client:
        found = await client.policies()
    if session.json:
        output.as_json(found)
        return
    rows = [
        (
            each["name"],
            each["servers"] or "all",
            f"{each['max_age_days']} days",
            f"{each['grace_days']} days",
            str(each["strategy"].get("window") or "always"),
            "paused" if each["paused"] else "on",
        )
        for each in found
    ]
    output.table(
        ("POLICY", "SERVERS", "MAX AGE", "GRACE", "WINDOW", "STATE"), rows, empty="no policies; `kps policy set` sets one"
    )


@command(policies, "show", "kps policy show prod")
async def show(session: Session, name: Name) -> None:
    """Show a policy, and its rotations."""
    async with session.client() as client:
        found = await client.policy(name)
    if session.json:
        output.as_json(found)
        return
    _facts(found)
    if found["blocked"]:
        output.say(f"it does nothing: {found['blocked']}", wrap=True)
    output.say("")
    _show(found["rotations"])


@command(policies, "delete", "kps policy delete prod", "kps policy delete prod --give-up")
async def delete(
    session: Session,
    name: Name,
    *,
    give_up: Annotated[
        bool, typer.Option("--give-up", metavar="", help="Also while it rotates: both key pairs stay as they are then.")
    ] = False,
) -> None:
    """Delete a policy."""
    async with session.client() as client:
        await client.delete_policy(name, give_up=give_up)
    output.as_json({"deleted": name}) if session.json else output.say(f"policy {name} is deleted")


@command(policies, "pause", "kps policy pause prod")
async def pause(session: Session, name: Name) -> None:
    """Have a policy do nothing more for now: no rotation, no rollout, nothing cleared. Servers begun come to their end."""
    await _change(session, name, "pause")


@command(policies, "resume", "kps policy resume prod")
async def resume(session: Session, name: Name) -> None:
    """Have a paused policy go on, and the rollouts that were paused with it."""
    await _change(session, name, "resume")


@command(policies, "due", "kps policy due", "kps policy due prod --all")
async def due(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="[POLICY]", help="Of this policy alone.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", metavar="", help="Also those that are not due for long.")] = False,
) -> None:
    """List the key pairs that are due, soon due, or being rotated; with what keeps one from being rotated."""
    async with session.client() as client:
        found = await client.due_keys(name, every=every)
    if session.json:
        output.as_json(found)
        return
    rows = [
        (
            each["policy"],
            each["keypair"] or "(another user's)",
            f"{each['age_days']} days",
            each["due_at"][:10],
            each["standing"],
            f"{each['logins']}" + (f" (+{each['elsewhere']} elsewhere)" if each["elsewhere"] else ""),
            f"{each['rotation']['state']}: {each['rotation']['reason']}" if each["rotation"] else each["obstacle"] or "-",
        )
        for each in found
    ]
    headings = ("POLICY", "KEY PAIR", "AGE", "DUE", "STANDS", "LOGINS", "WHAT IS DONE")
    output.table(headings, rows, empty="no key pair is due, or soon will be")


@command(
    policies,
    "run",
    "kps policy run --due",
    "kps policy run prod",
    "kps policy run prod --keypair ops --early",
)
async def run(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="[POLICY]", help="Look at this policy.")] = None,
    *,
    due: Annotated[bool, typer.Option("--due", metavar="", help="Look at all policies, as `kps serve` does by itself.")] = False,
    keypair: Annotated[list[str] | None, _option("--keypair", "NAME", "Of these key pairs alone, with --early.")] = None,
    early: Annotated[bool, typer.Option("--early", metavar="", help="Rotate also what is not due yet.")] = False,
) -> int:
    """Look at policies now: begin what is due, go on with what is under way, clear what is over.

    What has failed on some servers is tried again without waiting for the next day, where a policy is named. Where `kps serve`
    runs this returns at once. Else the rollouts are driven by this command until they are over, so give cron a limit
    (`timeout 5h kps policy run --due`): the next one goes on exactly there.
    """
    if due == (name is not None):
        raise usage("name a policy, or say --due for all of them")
    if name is None and (keypair or early):
        raise usage("--keypair and --early go with the name of a policy")
    if keypair and not early:
        raise usage("--keypair goes with --early; what is due is rotated in any case")
    async with session.client() as client:
        found = await client.run_due() if name is None else await client.run_policy(name, keypairs=keypair or (), early=early)
        seen = {each["id"] for each in found}
        while not session.served and await _some_run(client, found):
            await asyncio.sleep(LOOK_SECONDS)
            if not await _some_run(client, found):
                found = await client.run_due() if name is None else await client.run_policy(name, again=False)
                seen |= {each["id"] for each in found}
        whole = [each for each in await client.rotations() if each["id"] in seen]
    output.as_json(whole) if session.json else _show(whole)
    return exits.SOME_NOT if any(each["state"] == "held" for each in whole) else exits.ALL_AS_ASKED


async def _some_run(client: "AsyncKpsClient", found: "Sequence[a.Rotation]") -> bool:
    """Say whether a rollout of these rotations goes on."""
    states = {each["id"]: each["state"] for each in await client.rollouts()}
    return any(states.get(str(each["rollout_id"])) == "running" for each in found)


async def _change(session: Session, name: str, step: str) -> None:
    async with session.client() as client:
        found = await client.change_policy(name, step)
    output.as_json(found) if session.json else output.say(f"policy {name} {'is paused' if found['paused'] else 'goes on'}")


def _facts(found: "a.Policy") -> None:
    output.facts(
        {
            "policy": found["name"],
            "servers": found["servers"] or "all",
            "max age": f"{found['max_age_days']} days",
            "reminders": ", ".join(f"{days}" for days in found["remind_days"]) + " days before" if found["remind_days"] else "-",
            "grace": f"{found['grace_days']} days",
            "type": found["key_type"] or "as the old one",
            "strategy": output.pairs(
                {name: value for name, value in found["strategy"].items() if value not in (None, {}, False)}
            ),
            "state": "paused" if found["paused"] else "on",
        }
    )


def _show(found: "Sequence[a.Rotation]") -> None:
    rows = [
        (
            each["old"] or "(another user's)",
            each["new"] or "(another user's)",
            each["state"],
            each["reason"],
            output.seconds(each["created_at"]),
            output.seconds(each["ended_at"]) if each["ended_at"] else "-",
        )
        for each in found
    ]
    output.table(("OLD", "NEW", "STATE", "WHY", "BEGUN", "ENDED"), rows, empty="no rotations")
