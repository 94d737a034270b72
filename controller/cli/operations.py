"""What is done on servers: bind, replace, unbind, reset, password-login, and the credentials for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli import inputs, options, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.following import begin, follow
from controller.cli.output import Known
from controller.cli.session import Session

Json = dict[str, Any]

password_login = group(
    "Switch password login on servers off and on again.",
    "kps password-login status --all",
    "kps password-login disable web-1",
)


async def operate(
    session: Session,
    operation: str,
    words: Sequence[str] | None,
    every: bool,
    *,
    password_stdin: bool = False,
    password_of: str | None = None,
    identity: Path | None = None,
    passphrase_stdin: bool = False,
    agent: str | None = None,
    certificate: Path | None = None,
    **request: Any,
) -> int:
    """Run an operation on the servers that words select, and return the exit code."""
    check_choice(words, every)
    if agent:
        session.at_home("--agent")
    key = key_of(identity, agent, certificate, password_stdin, passphrase_stdin)
    async with session.client() as client:
        chosen = await client.servers(words or (), every=every)
        names = [str(server["name"]) for server in chosen]
        if not names:
            raise usage("no servers there; `kps server add` adds one")
        if password_stdin:
            warn_of_old_algorithms(chosen)
        order = {
            "operation": operation,
            "servers": names,
            "credentials": credentials(names, password_stdin, password_of),
            **key,
            **{name: value for name, value in request.items() if value is not None},
        }
        started = await begin(session, client.start(order))
        return await follow(session, client, started, identity)


def warn_of_old_algorithms(servers: Sequence[Known]) -> None:
    """Say to which servers a password goes over a connection that old algorithms may protect badly."""
    old = [str(server["name"]) for server in servers if server["old_algorithms"]]
    if old:
        told = f"a password goes over what old algorithms protect, which somebody in between may break: {', '.join(old)}"
        output.say(f"kps: {told}; a key (--identity, --agent) does not show itself", errors=True)


def check_choice(words: Sequence[str] | None, every: bool) -> None:
    """Refuse a choice of servers that says nothing or two things."""
    if every and words:
        raise usage("--all and names of servers exclude each other")
    if not every and not words:
        raise usage("which servers? give names, label=value selections, or --all")


def check_revoke(revoke: bool, everywhere: bool, end_sessions: bool) -> None:
    """Refuse what means nothing without --revoke."""
    if not revoke and (everywhere or end_sessions):
        raise usage(f"{'--everywhere' if everywhere else '--end-sessions'} goes with --revoke")


def key_of(
    identity: Path | None, agent: str | None, certificate: Path | None, password_stdin: bool, passphrase_stdin: bool
) -> Json:
    """Return the key that was given, with its passphrase or its certificate, as the API takes it."""
    if passphrase_stdin and password_stdin:
        raise usage("--passphrase-stdin and --password-stdin both want stdin; give one of them")
    if passphrase_stdin and not identity:
        raise usage("--passphrase-stdin goes with --identity")
    if identity and agent:
        raise usage("--identity and --agent exclude each other: one key is offered, and no other")
    if certificate and not identity and not agent:
        raise usage("--certificate goes with --identity or --agent")
    key: Json = {}
    if identity:
        key["identity"] = inputs.private_key(identity)
    if agent:
        key |= inputs.ssh_agent(agent)
    if certificate:
        key["certificate"] = inputs.public_key(certificate).strip()
    if passphrase_stdin:
        key["passphrase"] = inputs.secret_from_stdin("passphrase")
    return key


def credentials(names: Sequence[str], password_stdin: bool, password_of: str | None) -> Json:
    """Return the password of each server, its own and no other's, as the API takes it."""
    if password_of is not None and not password_stdin:
        raise usage("--password-of goes with --password-stdin")
    passwords = inputs.passwords_from_stdin(names) if password_stdin else {}
    whose = {"password_of": password_of} if password_of else {}
    return {name: {"password": password, **whose} for name, password in passwords.items()}


def register(app: typer.Typer) -> None:
    """Add the commands that are verbs of their own."""

    @command(
        app,
        "bind",
        "kps bind web-1 --keypair ops --password-stdin < password",
        "kps bind env=prod --keypair ops --identity ~/.ssh/id_ed25519",
        "printf 'web-1\\tsecret-1\\nweb-2\\tsecret-2\\n' | kps bind web-1 web-2 --keypair ops --password-stdin",
        "kps bind web-1 --keypair ops --login deploy --keep-password-login --identity ~/.ssh/id_rsa",
        "kps bind web-1 --keypair ops --agent ~/.ssh/id_ed25519.pub",
        "kps bind web-1 --keypair ops --identity ~/.ssh/id_ed25519 --certificate ~/.ssh/id_ed25519-cert.pub",
    )
    async def bind(
        session: Session,
        servers: options.ServerWords = None,
        *,
        keypair: options.Keypair,
        every: options.All = False,
        login: options.Login = None,
        password_stdin: options.PasswordStdin = False,
        password_of: options.PasswordOf = None,
        identity: options.Identity = None,
        passphrase_stdin: options.PassphraseStdin = False,
        agent: options.SshAgent = None,
        certificate: options.Certificate = None,
        keep_password_login: Annotated[
            bool, typer.Option("--keep-password-login", metavar="", help="Leave password login as it is.")
        ] = False,
        accept_lockout: options.AcceptLockout = None,
        accept_unproved: options.AcceptUnproved = False,
        fix_permissions: options.FixPermissions = False,
        plan: options.Plan = False,
    ) -> int:
        """Put a key pair on a login of each server, prove that it opens the door, and switch password login off.

        Starts from a password or from a key that works today. Every proof is a new connection; what fails is undone.
        """
        return await operate(
            session,
            "bind",
            servers,
            every,
            password_stdin=password_stdin,
            password_of=password_of,
            identity=identity,
            passphrase_stdin=passphrase_stdin,
            agent=agent,
            certificate=certificate,
            keypair=keypair,
            plan=plan,
            login=login,
            keep_password_login=keep_password_login,
            accept_lockout=accept_lockout,
            accept_unproved=accept_unproved,
            fix_permissions=fix_permissions,
        )

    @command(
        app,
        "replace",
        "kps replace web-1 --keypair ops-2027",
        "kps replace --all --keypair ops-2027",
        "kps replace web-1 --keypair mine --identity ~/.ssh/old",
        "kps replace web-1 --keypair mine --close-password-login",
        "kps replace --all --keypair ops-2027 --revoke --end-sessions",
    )
    async def replace(
        session: Session,
        servers: options.ServerWords = None,
        *,
        keypair: options.NewKeypair,
        every: options.All = False,
        login: options.Login = None,
        password_stdin: options.PasswordStdin = False,
        password_of: options.PasswordOf = None,
        identity: options.Identity = None,
        passphrase_stdin: options.PassphraseStdin = False,
        agent: options.SshAgent = None,
        certificate: options.Certificate = None,
        close_password_login: Annotated[
            bool, typer.Option("--close-password-login", metavar="", help="Switch password login off too.")
        ] = False,
        accept_lockout: options.AcceptLockout = None,
        accept_unproved: options.AcceptUnproved = False,
        fix_permissions: options.FixPermissions = False,
        take_over: options.TakeOver = False,
        revoke: options.Revoke = False,
        everywhere: options.Everywhere = False,
        end_sessions: options.EndSessions = False,
        plan: options.Plan = False,
    ) -> int:
        """Put another key pair in the place of the one that is bound, and prove that the old one is refused.

        The old private half comes from custody, or is given with --identity. The new line keeps the old line's options.
        Where the old key is in wrong hands, use --revoke.
        """
        check_revoke(revoke, everywhere, end_sessions)
        return await operate(
            session,
            "replace",
            servers,
            every,
            password_stdin=password_stdin,
            password_of=password_of,
            identity=identity,
            passphrase_stdin=passphrase_stdin,
            agent=agent,
            certificate=certificate,
            keypair=keypair,
            plan=plan,
            login=login,
            close_password_login=close_password_login,
            accept_lockout=accept_lockout,
            accept_unproved=accept_unproved,
            fix_permissions=fix_permissions,
            take_over=take_over,
            revoke=revoke,
            everywhere=everywhere,
            end_sessions=end_sessions,
        )

    @command(
        app,
        "unbind",
        "kps unbind web-1 --password-stdin < password",
        "kps unbind env=test --accept-lockout deploy",
        "kps unbind web-1 --revoke --end-sessions --identity ~/.ssh/another",
    )
    async def unbind(
        session: Session,
        servers: options.ServerWords = None,
        *,
        every: options.All = False,
        login: options.Login = None,
        password_stdin: options.PasswordStdin = False,
        password_of: options.PasswordOf = None,
        identity: options.Identity = None,
        passphrase_stdin: options.PassphraseStdin = False,
        agent: options.SshAgent = None,
        certificate: options.Certificate = None,
        accept_lockout: options.AcceptLockout = None,
        accept_unproved: options.AcceptUnproved = False,
        take_over: options.TakeOver = False,
        revoke: options.Revoke = False,
        everywhere: options.Everywhere = False,
        end_sessions: options.EndSessions = False,
        keep_password_login: Annotated[
            bool, typer.Option("--keep-password-login", metavar="", help="Leave password login off where binding had closed it.")
        ] = False,
        plan: options.Plan = False,
    ) -> int:
        """Take the bound key pair off each server, and switch password login on again where binding had closed it.

        Refused unless a way in is shown to remain: a password given here is proved; without one, what can be seen of the
        server must say that passwords are taken. With --revoke it has to be a password, or another private key, that logs in.
        Where a second user has to agree to emergency doors of the server, password login does not come back by this: put another
        key pair in the place of this one (kps replace), or say --keep-password-login.
        """
        check_revoke(revoke, everywhere, end_sessions)
        return await operate(
            session,
            "unbind",
            servers,
            every,
            password_stdin=password_stdin,
            password_of=password_of,
            identity=identity,
            passphrase_stdin=passphrase_stdin,
            plan=plan,
            agent=agent,
            certificate=certificate,
            login=login,
            accept_lockout=accept_lockout,
            accept_unproved=accept_unproved,
            take_over=take_over,
            revoke=revoke,
            everywhere=everywhere,
            end_sessions=end_sessions,
            keep_password_login=keep_password_login,
        )

    @command(
        app,
        "reset",
        "kps reset web-1 --keypair rescue --root /mnt/web-1",
        "kps reset web-1 --keypair rescue --root /mnt/web-1 --set-password",
    )
    async def reset(
        session: Session,
        server: options.OneServer,
        *,
        keypair: options.Keypair,
        root: Annotated[
            Path,
            typer.Option("--root", metavar="DIR", help="Where the server's disk is mounted, on the controller's own machine."),
        ],
        login: options.Login = None,
        set_password: Annotated[
            bool, typer.Option("--set-password", metavar="", help="Also set a one-time password; it is shown once, here.")
        ] = False,
        fix_permissions: options.FixPermissions = False,
        take_over: options.TakeOver = False,
    ) -> int:
        """Put a key pair on the disk of a server that is shut down, and open what stops it from working.

        Runs where the disk is mounted. Removing the old key and closing passwords follow the first online proof: run
        `kps server check` when the server is up again.
        """
        session.at_home("a reset")
        mounted = inputs.directory(root)
        async with session.client() as client:
            name = str((await client.server(server))["name"])
            order = {
                "operation": "reset",
                "servers": [name],
                "keypair": keypair,
                "root": mounted,
                "login": login,
                "set_password": set_password,
                "fix_permissions": fix_permissions,
                "take_over": take_over,
            }
            started = await begin(session, client.start(order))
            return await follow(session, client, started)


@command(
    password_login,
    "enable",
    "kps password-login enable web-1",
    "kps password-login enable web-1 --force --login deploy",
)
async def enable(
    session: Session,
    servers: options.ServerWords = None,
    *,
    every: options.All = False,
    login: options.Login = None,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
    force: options.Force = False,
    plan: options.Plan = False,
) -> int:
    """Let passwords in again. Refused where the owner's own configuration says no, unless forced."""
    return await operate(
        session,
        "password-login-enable",
        servers,
        every,
        password_stdin=password_stdin,
        password_of=password_of,
        identity=identity,
        passphrase_stdin=passphrase_stdin,
        plan=plan,
        agent=agent,
        certificate=certificate,
        login=login,
        force=force,
    )


@command(
    password_login,
    "disable",
    "kps password-login disable web-1",
    "kps password-login disable --all --accept-lockout backup",
)
async def disable(
    session: Session,
    servers: options.ServerWords = None,
    *,
    every: options.All = False,
    login: options.Login = None,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
    accept_lockout: options.AcceptLockout = None,
    accept_unproved: options.AcceptUnproved = False,
    plan: options.Plan = False,
) -> int:
    """Let no password in any more, keyboard-interactive included; a key is proved first.

    Refused while another login would lose its only way in, unless --accept-lockout names it.
    """
    return await operate(
        session,
        "password-login-disable",
        servers,
        every,
        password_stdin=password_stdin,
        password_of=password_of,
        identity=identity,
        passphrase_stdin=passphrase_stdin,
        plan=plan,
        agent=agent,
        certificate=certificate,
        login=login,
        accept_lockout=accept_lockout,
        accept_unproved=accept_unproved,
    )


@command(
    password_login,
    "status",
    "kps password-login status web-1",
    "kps password-login status --all --json",
)
async def status(
    session: Session,
    servers: options.ServerWords = None,
    *,
    every: options.All = False,
    login: options.Login = None,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
) -> int:
    """Say for each login whether a password gets in: on, off or unknown. Changes nothing."""
    return await operate(
        session,
        "password-login-status",
        servers,
        every,
        password_stdin=password_stdin,
        password_of=password_of,
        identity=identity,
        passphrase_stdin=passphrase_stdin,
        agent=agent,
        certificate=certificate,
        login=login,
    )
