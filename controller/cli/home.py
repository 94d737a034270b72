"""The home and the process that serves it: kps init, serve, demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.exits import ALL_AS_ASKED, usage
from controller.cli.inputs import interruptible
from controller.cli.session import Session, complain, through_with_start
from controller.errors import Problem

if TYPE_CHECKING:
    from controller.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands about this controller itself."""

    @command(
        app, "init", "kps init", "kps init --home /srv/kps --json",
        "kps init --root-key 'pkcs11:token=kps;object=root?module-path=/usr/lib/libhsm.so&pin-source=file:/run/kps/pin'",
    )  # fmt: skip
    async def init(
        session: Session,
        *,
        root_key: Annotated[
            str | None,
            typer.Option(
                "--root-key",
                metavar="URI",
                help="Where the root key is: file:PATH, pkcs11:... (made in a token), awskms:KEY (there already); else "
                "KPS_ROOT_KEY, else a file in the home.",
            ),
        ] = None,
    ) -> None:
        """Make the home: database, root key, and the first tenant with its project and administrator.

        Safe to repeat. The secret key is shown the first time only; where it could not be printed, nothing was made.
        """
        from controller.service.home import initialise

        settings = session.settings()
        if root_key is not None:
            settings = settings.model_copy(update={"root_key_uri": root_key})
        initialise(settings, output.as_json if session.json else lambda made: show(settings, made))

    @command(
        app,
        "serve",
        "kps serve",
        "kps serve --listen 0.0.0.0:8443",
        "kps serve --listen 192.0.2.5:443 --certificate kps.example.com.pem --certificate-key kps.example.com.key",
        "kps serve --http 127.0.0.1:8080",
    )
    async def serve(
        session: Session,
        *,
        listen: Annotated[
            str | None, typer.Option("--listen", metavar="HOST:PORT", help="Serve the APIs over HTTPS there too.")
        ] = None,
        http: Annotated[
            str | None, typer.Option("--http", metavar="HOST:PORT", help="The same without TLS; on loopback only.")
        ] = None,
        certificate: Annotated[
            Path | None, typer.Option("--certificate", metavar="FILE", help="PEM; else one that the home makes for itself.")
        ] = None,
        certificate_key: Annotated[
            Path | None, typer.Option("--certificate-key", metavar="FILE", help="The key of --certificate, PEM.")
        ] = None,
    ) -> None:
        """Serve the home on a Unix socket in it, until interrupted; while it runs, every command uses it.

        On the network requests are signed with an access key, as the SDK of the public service does (/v3), and the same for
        /fleet/v1. People sign in to the console, at /console/ (kps console link). A port of 0 takes any that is free; the one
        taken is printed.
        """
        session.at_home("this command")
        from controller.privacy import forget_what_is_freed, keep_out_of_swap

        forget_what_is_freed()
        from controller.app import serve
        from controller.service.certificate import ensure
        from controller.service.certificate import warning as expiring
        from controller.serving import place

        through_with_start()
        kept_out = keep_out_of_swap()
        if listen and http:
            raise usage("--listen and --http exclude each other")
        if bool(certificate) != bool(certificate_key) or (certificate and not listen):
            raise usage("--certificate and --certificate-key go together, and with --listen")
        settings = session.settings()
        where, fingerprint = None, None
        if http:
            where = place(http, None, None)
        elif listen:
            files = (certificate, certificate_key) if certificate else (settings.certificate, settings.certificate_key)
            if not certificate:
                fingerprint = ensure(settings.certificate, settings.certificate_key)
            where = place(listen, *files)

        def ready(url: str | None) -> None:
            told = {"socket": str(settings.socket), "url": url, "fingerprint": fingerprint, "out_of_swap": kept_out}
            if session.json:
                output.as_json(told)
                return
            output.say(f"serving on {settings.socket}")
            if url:
                output.say(f"serving on {url}")
            if fingerprint:
                output.say(f"certificate SHA-256 {fingerprint}")
            if not kept_out:
                output.say("its memory may be swapped out: encrypt the swap, or allow it LimitMEMLOCK=infinity")

        def warn(problem: Problem) -> None:
            complain(problem.code, problem.message, json=session.json)

        soon = None if where is None or where.certificate is None else expiring(where.certificate)
        if soon is not None:
            warn(soon)

        def waits(tasks: int, seconds: float) -> None:
            said = "1 task" if tasks == 1 else f"{tasks} tasks"
            told = f"stopping once {said} under way has ended, in {seconds:g} s at most; told to stop again, it stops at once"
            complain("stopping", told if tasks == 1 else told.replace("has ended", "have ended"), json=session.json)

        await serve(settings, ready, where, warn, waits)

    @command(app, "demo", "kps demo", "kps demo --servers 5 --keep", "kps demo --fleet-only /tmp/try", "kps demo --end /tmp/try")
    async def demo(
        session: Session,
        *,
        keep: Annotated[bool, typer.Option("--keep", metavar="", help="Leave the fleet up, and print commands to try.")] = False,
        servers: Annotated[int, typer.Option("--servers", min=3, max=50, help="How many servers.")] = 3,
        fleet_only: Annotated[
            Path | None,
            typer.Option("--fleet-only", metavar="DIRECTORY", help="Only start servers; DIRECTORY then says how to reach them."),
        ] = None,
        end: Annotated[Path | None, typer.Option("--end", metavar="DIRECTORY", help="End a fleet that was left up.")] = None,
    ) -> int:
        """Start a fleet of real OpenSSH servers on this machine and go through the whole story on it, checked."""
        session.at_home("the demo")
        from controller.demo import story

        through_with_start()

        if sum((keep, fleet_only is not None, end is not None)) > 1:
            raise usage("--keep, --fleet-only and --end exclude each other")
        # All of it blocks, and Ctrl-C is to end it where it stands.
        with interruptible():
            if end is not None:
                ended = story.end(end)
                told = "the fleet is ended" if ended["ended"] else "the fleet had ended already; what it left is removed"
                output.as_json(ended) if session.json else output.say(told)
                return ALL_AS_ASKED
            if fleet_only is None:
                return story.main(keep=keep, servers=servers, json=session.json)
            made = story.fleet_only(fleet_only, servers)
        if session.json:
            output.as_json(made)
            return ALL_AS_ASKED
        output.say(f"{servers} servers are up; {made['inventory']} names them, {made['passwords']} holds root's passwords")
        minutes = made["ends_after_seconds"] // 60
        output.say(f"they end by themselves after {minutes} minutes, or with: kps demo --end {fleet_only}")
        return ALL_AS_ASKED


def show(settings: "Settings", made: dict[str, Any]) -> None:
    """Print who owns the home, and the secret key where it is there to be shown."""
    output.facts(
        {
            "home": str(settings.home),
            "tenant": made["tenant_id"],
            "project": made["project_id"],
            "user": made["user_id"],
            "access key": made["access_key"],
            "secret key": made["secret_key"] or "shown at the first `kps init` only",
        }
    )
    if made["secret_key"]:
        output.say("")
        output.say("Keep the secret key now: it is not shown again.")
        output.say(backup(settings))


def backup(settings: "Settings") -> str:
    """Say what has to be kept so that the private keys open."""
    if settings.root_key_uri is None:
        return f"Back up {settings.root_key} apart from the database: without it no private key opens."
    return f"Back up the root key ({settings.root_key_uri}) by its own means: without it no private key opens."
