"""The whole home in one file: kps backup, kps restore."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import output
from controller.cli.command import command, group
from controller.cli.exits import SOME_NOT
from controller.cli.inputs import interruptible
from controller.cli.session import Session

if TYPE_CHECKING:
    from controller.service.backup import Content

backups = group(
    "The whole home in one file. Without the root key it gives no secret away; with it, it opens everything.",
    "kps backup --out /media/stick/kps-monday.backup",
    "kps backup verify /media/stick/kps-monday.backup --root-key file:/secure/root.key",
    default="create",
)

_LOOK = (
    "Servers may have been changed since: `kps server check --all` tells where a key that is on record does not log in. The "
    "controller that was backed up must not go on: its orders are refused from the first of ours on."
)

RootKey = Annotated[
    str | None,
    typer.Option("--root-key", metavar="URI", help="Where the root key is, if not in the backup: file:, pkcs11: or awskms:."),
]


@command(
    backups,
    "create",
    "kps backup create --out /media/stick/kps-monday.backup",
    "kps backup --out /media/safe/all.backup --with-root-key",
)
async def create(
    session: Session,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Written with mode 0600; an existing file is refused.")],
    with_root_key: Annotated[
        bool,
        typer.Option("--with-root-key", metavar="", help="Put the root key in too, where it lives in a file."),
    ] = False,
) -> None:
    """Copy the whole home into one file, while it is used. `kps backup --out FILE` is the same.

    The root key is not in it unless that is asked for: keep it apart, once, offline. One that lives in a token or in AWS KMS is
    in no backup.
    """
    from controller.service.backup import back_up

    with interruptible(), bar() as told:
        made = back_up(session.settings(), out, with_root_key=with_root_key, told=told)
    if session.json:
        output.as_json({"out": str(out)} | _shape(made))
        return
    show(made)
    if with_root_key:
        output.say(f"WITH THE ROOT KEY: whoever reads {out} has every private key in it. Keep it as you would keep them.")
    else:
        uris = ", ".join(each.uri for each in made.roots)
        output.say(f"Without the root key ({uris}): keep that apart. Without it this backup opens for nobody.")


@command(
    backups,
    "verify",
    "kps backup verify kps-monday.backup --root-key file:/secure/root.key",
    "kps backup verify all.backup --json",
)
async def verify(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    *,
    root_key: RootKey = None,
) -> int:
    """Say what is in a backup, and open everything in it: each private half is compared with its public half.

    Works on a copy that is thrown away; nothing else is touched. Exit code 1 where something does not open, 5 where there is no
    root key to open it with.
    """
    from controller.service import backup

    content = backup.look(file)
    if not session.json:
        show(content)
    with interruptible(), bar() as told:
        done = backup.verify(file, root_key, told=told)
    if session.json:
        output.as_json(_shape(content) | {"opened": asdict(done)})
    else:
        output.say(
            f"opened: {done.master_keys} versions of master keys, {done.private_halves} private halves, "
            f"{done.secrets} versions of secrets"
        )
        for name, why in done.unopenable.items():
            output.say(f"{name} does not open: {why}")
    return SOME_NOT if done.unopenable else 0


def register(app: typer.Typer) -> None:
    """Add the command that makes a home of a backup."""

    @command(
        app,
        "restore",
        "kps restore all.backup --home /srv/kps",
        "kps restore kps-monday.backup --home /srv/kps --root-key file:/secure/root.key",
    )
    async def restore(
        session: Session,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
        *,
        root_key: RootKey = None,
    ) -> None:
        """Make a home of a backup, at --home, where there must be none. Nothing is there before all master keys have opened.

        What happened after the backup is not known to it: see `kps server check --all` afterwards, and stop the old controller.
        """
        from controller.service import backup

        settings = session.settings()
        if root_key is not None:
            settings = settings.model_copy(update={"root_key_uri": root_key})
        with interruptible(), bar() as told:
            done = backup.restore(file, settings, told=told)
        if session.json:
            output.as_json(
                {"home": str(settings.home), "root_key": done.root_key, "tasks_ended": done.tasks_ended} | _shape(done.content)
            )
            return
        show(done.content)
        output.facts({"home": str(settings.home), "root key": done.root_key, "tasks ended": str(len(done.tasks_ended))})
        output.say(f"This is what was known at {done.content.made_at}. {_LOOK}")

    @command(app, "after-restore", "pg_restore --no-owner --dbname=kps kps.dump && kps after-restore", "kps after-restore --json")
    async def after_restore(session: Session) -> None:
        """Have a home go on whose database was put back by other means than `kps restore`: by pg_restore, or with its disk.

        Before anything is started: it does what `kps restore` does beside. Each server's generation is raised, so that it takes
        our orders; what had not ended is ended, rollouts and policies are paused, temporary access keys and tokens have ended.
        """
        from controller.service import backup

        settings = session.settings()
        with interruptible(), bar() as told:
            ended = backup.begin_anew(settings, told=told)
        if session.json:
            output.as_json({"home": str(settings.home), "tasks_ended": ended})
            return
        output.facts({"home": str(settings.home), "tasks ended": str(len(ended))})
        output.say(_LOOK)


def show(content: "Content") -> None:
    """Print what a backup says of itself."""
    output.facts(
        {
            "made": output.seconds(content.made_at),
            "by kps": content.kps,
            "holds": ", ".join(f"{number} {name}" for name, number in content.counts.items()),
            "root key": ", ".join(f"{each.uri} (check value {each.check})" for each in content.roots),
            "root key in it": "yes" if content.with_root_key else "no",
        }
    )


def _shape(content: "Content") -> dict[str, Any]:
    return {
        "made_at": content.made_at,
        "kps": content.kps,
        "counts": content.counts,
        "root_keys": [asdict(each) for each in content.roots],
        "with_root_key": content.with_root_key,
    }


@contextlib.contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far it has come on stderr while the block runs, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.progress import Progress

    with Progress(console=output.console(errors=True), transient=True) as progress:
        shown = {"": progress.add_task("", total=None)}

        def told(what: str, done: int, total: int) -> None:
            if what not in shown:
                progress.remove_task(shown.popitem()[1])
                shown[what] = progress.add_task(what, total=total)
            progress.update(shown[what], completed=done, total=total)

        yield told
