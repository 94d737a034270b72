"""The inventory: kps server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli import completion, inputs, options, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.operations import operate
from controller.cli.output import Known
from controller.cli.session import Session
from controller.model import OLD_NAMES

Json = dict[str, Any]

servers = group(
    "The inventory: the servers that this controller reaches.",
    "kps server add web-1 192.0.2.10 --trust-on-first-use",
    "kps server list env=prod",
)

TrustOnFirstUse = Annotated[
    bool,
    typer.Option(
        "--trust-on-first-use",
        metavar="",
        help="Fetch the host key now, record it, and insist on it from then on. Nothing else is sent before that.",
    ),
]
Jump = Annotated[
    list[str] | None,
    typer.Option(
        "--jump",
        metavar="NAME",
        help="A server of the inventory that leads there, as ssh -J does. Repeat for more hops, the nearest to us first.",
        show_default=False,
        autocompletion=completion.servers,
    ),
]
_OLD_ALGORITHMS = "Old algorithms: " + ", ".join(OLD_NAMES) + "."
AllowOldAlgorithms = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-old-algorithms",
        metavar="NAME",
        help="Use this algorithm there although it is not safe any more, or `all` of those named below. Repeat for more. For "
        "servers that cannot be updated.",
        show_default=False,
        autocompletion=completion.old_algorithms,
    ),
]


@command(
    servers,
    "add",
    "kps server add web-1 192.0.2.10 --trust-on-first-use --label env=prod",
    'kps server add db-1 db-1.example.net --port 2222 --login admin --host-key "$(cat db-1.pub)"',
    "kps server add db-2 10.0.0.7 --jump bastion-1 --trust-on-first-use",
    end=_OLD_ALGORITHMS,
)
async def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the server is called here.")],
    host: Annotated[str, typer.Argument(metavar="HOST", help="Its address, or its name in the DNS.")],
    *,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where its sshd listens.")] = 22,
    login: Annotated[str, typer.Option("--login", metavar="LOGIN", help="The default login.")] = "root",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="For selections. Repeat for more.")] = None,
    host_key: Annotated[
        str | None,
        typer.Option("--host-key", metavar="LINE", help="The key that its sshd must show, as a known_hosts line."),
    ] = None,
    trust_on_first_use: TrustOnFirstUse = False,
    jump: Jump = None,
    allow_old_algorithms: AllowOldAlgorithms = None,
) -> None:
    """Add a server. Say how its host key becomes known: given, or trusted on first use."""
    if host_key and trust_on_first_use:
        raise usage("--host-key and --trust-on-first-use exclude each other: the key is known already")
    request = {
        "name": name,
        "host": host,
        "port": port,
        "login": login,
        "labels": inputs.labels(label or []),
        "host_key": host_key,
        "trust_on_first_use": trust_on_first_use,
        "jump": jump or [],
        "old_algorithms": allow_old_algorithms or [],
    }
    async with session.client() as client:
        added = await client.add_server(request)
    show(session, added)
    warn_of_old_algorithms(session, added)
    warn_of_unknown_host_keys(session, [added])


@command(
    servers,
    "set",
    "kps server set db-1 --address 192.0.2.11 --port 2222",
    "kps server set db-2 --jump bastion-1 --jump bastion-2",
    "kps server set db-2 --no-jump",
    "kps server set web-1 --shut-down /mnt/web-1",
    "kps server set switch-1 --allow-old-algorithms diffie-hellman-group14-sha1 --allow-old-algorithms ssh-rsa",
    end=_OLD_ALGORITHMS,
)
async def set_(
    session: Session,
    name: options.OneServer,
    *,
    host: Annotated[
        str | None,
        typer.Option("--address", metavar="HOST", help="Where it is now. It must show the host key that is on record."),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Where its sshd listens.")] = None,
    jump: Jump = None,
    no_jump: Annotated[bool, typer.Option("--no-jump", metavar="", help="Reach it directly.")] = False,
    allow_old_algorithms: AllowOldAlgorithms = None,
    no_old_algorithms: Annotated[
        bool, typer.Option("--no-old-algorithms", metavar="", help="Use only what is considered safe.")
    ] = False,
    shut_down: Annotated[
        Path | None,
        typer.Option("--shut-down", metavar="DIR", help="It is shut down, and its disk is mounted here, on the controller."),
    ] = None,
    running: Annotated[bool, typer.Option("--running", metavar="", help="It runs again.")] = False,
) -> None:
    """Change how a server is reached, from the next task on. What is not given stays as it is.

    One that is shut down is reset through the v3 API, where a key pair is associated with it; it counts as running again once it
    has answered.
    """
    if (jump and no_jump) or (allow_old_algorithms and no_old_algorithms) or (shut_down and running):
        raise usage("an option and its --no-... exclude each other")
    changes: Json = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if jump or no_jump:
        changes["jump"] = jump or []
    if allow_old_algorithms or no_old_algorithms:
        changes["old_algorithms"] = allow_old_algorithms or []
    if shut_down:
        session.at_home("--shut-down")
    if shut_down or running:
        changes["reset_root"] = str(shut_down.absolute()) if shut_down else ""
    if not changes:
        options = "--address, --port, --jump, --no-jump, --allow-old-algorithms, --no-old-algorithms, --shut-down or --running"
        raise usage(f"what shall be changed? give {options}")
    async with session.client() as client:
        changed = await client.change_server(name, changes)
    show(session, changed)
    warn_of_old_algorithms(session, changed)


@command(servers, "list", "kps server list", "kps server list env=prod --json")
async def list_(
    session: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVER]...", help="Names, or selections as in env=prod.", show_default=False),
    ] = None,
) -> None:
    """List servers: all of them, or those selected."""
    async with session.client() as client:
        found = await client.servers(words or ())
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ADDRESS", "LOGIN", "KEY PAIR", "PASSWORD LOGIN", "LABELS"),
        [
            (
                one["name"],
                address(one),
                one["login"],
                bound_to_login(one) or "-",
                one["password_login"],
                output.pairs(one["labels"]),
            )
            for one in found
        ],
        empty="no servers yet; `kps server add` adds one",
    )


@command(servers, "show", "kps server show web-1", "kps server show web-1 --json")
async def show_(session: Session, name: options.OneServer) -> None:
    """Show one server with its bindings and its host key."""
    async with session.client() as client:
        show(session, await client.server(name))


@command(
    servers,
    "check",
    "kps server check web-1",
    "kps server check --all",
    "kps server check web-1 --login deploy --public-key ~/.ssh/id_ed25519.pub",
    "kps server check web-1 --login deploy --repair",
)
async def check(
    session: Session,
    words: options.ServerWords = None,
    *,
    every: options.All = False,
    login: options.Login = None,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            metavar="FILE",
            rich_help_panel=options.WAY_IN,
            help="A private key file: the key asked about, unless another one is named; tried as a way in too.",
        ),
    ] = None,
    passphrase_stdin: options.PassphraseStdin = False,
    keypair: Annotated[
        str | None,
        typer.Option("--keypair", metavar="NAME", help="The key pair asked about.", autocompletion=completion.keypairs),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="The key asked about, by its public half alone.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            metavar="",
            help="Mend owners, modes and labels of .ssh and the file of keys; undone unless the key then gets in.",
        ),
    ] = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
    accept_lockout: options.AcceptLockout = None,
    accept_unproved: options.AcceptUnproved = False,
) -> int:
    """Log in and look: can this key log in here, and if not, why? Also settles what an interrupted task or a reset left open.

    The key is the one named, else the one bound to the login. What keeps it out is listed with the reason first, each with what
    mends it. It ends with 0 when the key can log in, else with 1. The host key of a server trusted on first use is recorded here,
    before any credential is sent.
    """
    if keypair and public_key:
        raise usage("--keypair and --public-key exclude each other: one key is asked about")
    return await operate(
        session,
        "check",
        words,
        every,
        keypair=keypair,
        public_key=inputs.public_key(public_key) if public_key else None,
        repair=repair,
        password_stdin=password_stdin,
        password_of=password_of,
        identity=identity,
        passphrase_stdin=passphrase_stdin,
        agent=agent,
        certificate=certificate,
        login=login,
        accept_lockout=accept_lockout,
        accept_unproved=accept_unproved,
    )


@command(servers, "remove", "kps server remove web-1", "kps server remove web-1 --force")
async def remove(
    session: Session,
    name: options.OneServer,
    *,
    force: Annotated[
        bool,
        typer.Option("--force", metavar="", help="Also with bindings: they are forgotten here, the keys stay on the server."),
    ] = False,
) -> None:
    """Take a server out of the inventory. Nothing is changed on the server itself."""
    async with session.client() as client:
        await client.remove_server(name, force=force)
    if session.json:
        output.as_json({"name": name, "removed": True})
    else:
        output.say(f"{name} is removed")


def called(binding: Known) -> str:
    """Return what a bound key pair is called, as far as it is told."""
    return "another user's" if binding["another_users"] else str(binding["keypair"])


def bound_to_login(server: Known) -> str:
    """Return what is bound to the server's own login; "" for nothing."""
    return next((called(one) for one in server["bindings"] if one["login"] == server["login"]), "")


def address(server: Known) -> str:
    """Return host and port as they are commonly written."""
    host = f"[{server['host']}]" if ":" in server["host"] else server["host"]
    return host if server["port"] == 22 else f"{host}:{server['port']}"


def show(session: Session, server: Known) -> None:
    """Print one server."""
    if session.json:
        output.as_json(server)
        return
    output.facts(
        {
            "name": server["name"],
            "address": address(server),
            "login": server["login"],
            "labels": output.pairs(server["labels"]),
            "key pair": bound_to_login(server),
            "password login": server["password_login"],
            "jump servers": ", ".join(server["jump"]),
            "old algorithms": ", ".join(server["old_algorithms"]),
            "host key": host_key(server),
            "id": server["id"],
        }
        | ({"after reset": "an online proof is due: kps server check"} if server["after_reset"] else {})
    )
    if server["bindings"]:
        output.say("")
        output.table(
            ("LOGIN", "KEY PAIR", "PROOF", "CLOSED PASSWORDS", "SINCE"),
            [
                (
                    one["login"],
                    called(one),
                    one["proof"],
                    "yes" if one["closed_password_login"] else "no",
                    output.seconds(one["created_at"]),
                )
                for one in server["bindings"]
            ],
            empty="nothing is bound",
        )


def warn_of_unknown_host_keys(session: Session, added: Sequence[Known]) -> None:
    """Say of servers just added whose host key is not known what that means, and what to do."""
    if session.json:
        return  # host_key is null there
    unknown = [one for one in added if not one["host_key"]]
    asked = [one["name"] for one in unknown if one["trust_on_first_use"]]
    never = [one["name"] for one in unknown if not one["trust_on_first_use"]]
    if asked:
        name = asked[0] if len(asked) == 1 else "SERVER"
        told = f"showed no host key now: {', '.join(asked)}; once it can be reached, `kps server check {name}` records it"
        output.say(f"kps: {told}", errors=True)
    if never:
        name = never[0] if len(never) == 1 else "SERVER"
        told = f"nothing can be sent while a host key is not known: {', '.join(never)}; `kps server remove {name}`, "
        output.say(f"kps: {told}then add it with --host-key LINE or --trust-on-first-use", errors=True)


def warn_of_old_algorithms(session: Session, server: Known) -> None:
    """Say what it means that a server is allowed old algorithms."""
    if not session.json and server["old_algorithms"]:
        told = (
            "somebody in between may break what these algorithms protect, so give it keys and no passwords, and update its sshd"
        )
        output.say(f"kps: {server['name']}: {', '.join(server['old_algorithms'])}: {told}", errors=True)


def host_key(server: Known) -> str:
    """Return what is known of the server's host key, in words."""
    if server["host_key"]:
        return str(server["host_key"])
    if server["trust_on_first_use"]:
        return "not known yet; recorded by the first `kps server check`"
    return "not known; remove the server and add it with --host-key or --trust-on-first-use"
