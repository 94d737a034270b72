"""What the controller itself stands on: kps doctor."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.exits import ALL_AS_ASKED, SOME_NOT
from controller.cli.inputs import interruptible
from controller.cli.session import Session, somebody_listens, through_with_start

if TYPE_CHECKING:
    from controller.settings import Settings

ANSWER_SECONDS = 120  # a large database is looked through
END = "Ends with 0 where nothing is wrong, or what is wrong is a warning; with 1 where one finding is an error."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor", "kps doctor", "kps doctor --home /srv/kps --json", end=END)
    async def doctor(session: Session) -> int:
        """Look at what this controller stands on: files, database, root key, clock, trail, backups and more; change nothing.

        Why a key can, or can't, log in to a server is told by `kps server check`.
        """
        from controller.client import Refused

        session.at_home("the doctor")
        settings = session.settings()
        try:
            found = await _by_who_serves(settings)
        except Refused as refused:
            # What keeps it from looking may be just what the doctor is asked for.
            found = _by_ourselves(settings, f"{refused.code}: {refused.message}")
        else:
            found = found or _by_ourselves(settings)
        if session.json:
            output.as_json(found)
        else:
            show(found["findings"])
        return SOME_NOT if found["status"] == "error" else ALL_AS_ASKED


async def _by_who_serves(settings: "Settings") -> dict[str, Any] | None:
    """Return what the controller finds that serves this home; None where there is none, or it does not answer.

    Refused: it answers, and says no.
    """
    from controller.client import AsyncKpsClient, Unreachable
    from controller.service.doctor.files import unusable

    if unusable(settings) or not somebody_listens(settings.socket):
        return None
    through_with_start()
    try:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            AsyncKpsClient.over_socket(settings.socket, answer_seconds=ANSWER_SECONDS) as client,
        ):
            return dict(await client.doctor())
    except (Unreachable, TimeoutError):
        return None


def _by_ourselves(settings: "Settings", refusal: str = "") -> dict[str, Any]:
    """Return what is found from this process. refusal: why the controller that serves the home did not look."""
    from controller.service.doctor import look, told
    from controller.service.doctor.process import absent, refuses

    through_with_start()
    with interruptible():
        findings = look(settings)
        controller = [refuses(refusal)] if refusal else absent(settings)
        return told([*findings, *controller], settings.home, served=False)


def show(findings: Sequence[dict[str, Any]]) -> None:
    """Print findings, the gravest first, and under the table what to do about each."""
    order = {"error": 0, "warning": 1, "ok": 2}
    ranked = sorted(findings, key=lambda each: order[each["status"]])
    output.table(
        ("ABOUT", "STATUS", "CODE", "SEEN"),
        [(each["about"], each["status"], each["code"] or "-", each["seen"]) for each in ranked],
    )
    for each in ranked:
        if each["next_step"]:
            output.say(f"{each['about']}: {each['next_step']}")
