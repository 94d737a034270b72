"""From a home's own file to PostgreSQL: kps migrate-store."""

from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.inputs import interruptible
from controller.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(
        app, "migrate-store", "kps migrate-store --to postgresql://kps@db.example.com/kps",
        "kps migrate-store --to 'postgresql://kps@/kps?host=/run/postgresql'",
    )  # fmt: skip
    async def migrate_store(
        session: Session,
        *,
        to: Annotated[
            str,
            typer.Option("--to", metavar="URL", help="An empty database: postgresql://USER@HOST/DATABASE, without a password."),
        ],
    ) -> None:
        """Move all that the home knows from its own file into a database of PostgreSQL, and use that from now on.

        Nobody else may work with the home meanwhile: stop kps serve first. Every table is compared afterwards, and the audit
        trail verified. Broken off at any point, the home is as it was. The password stands in the file that PGPASSFILE names.
        """
        session.at_home("this command")
        from controller.service import moving
        from controller.storeplace import MOVED

        settings = session.settings()
        with interruptible():
            moved = moving.move(settings, to)
        if session.json:
            output.as_json([each._asdict() for each in moved])
            return
        output.table(
            ("TABLE", "ROWS", "SHA-256"), [(each.table, str(each.rows), each.digest[:16]) for each in moved if each.rows]
        )
        output.say(f"All is there as it was here. The home looks there from now on; {settings.home / MOVED} is how it was.")
        output.say(f"Once you have a dump of the new database, delete {MOVED}: with the root key it opens every private key.")
