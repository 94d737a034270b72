"""Secrets: kps secret."""

import base64
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import inputs, options, output
from controller.cli.command import command, group
from controller.cli.exits import ALL_AS_ASKED, SOME_NOT, usage
from controller.cli.following import begin, follow
from controller.cli.operations import credentials, key_of
from controller.cli.session import Session
from controller.model import Scope
from controller.stages import VALUE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller import answers as a

Json = dict[str, Any]

secrets = group(
    "Secrets kept here, encrypted, in versions; of servers' logins, the passwords, which are set there too.",
    "kps secret create web-1-root --server web-1",
    "kps secret rotate web-1-root",
    "kps secret show web-1-root",
)
rotation = group(
    "When passwords are rotated by themselves, and what came of it.",
    "kps secret rotation every web-1-root 30d",
    "kps secret rotation list --failed",
)
secrets.add_typer(rotation, name="rotation")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret's name.")]
FromFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Read the value from this file, as it is, to its last byte.")
]
ScopeOption = Annotated[
    Scope | None, typer.Option("--scope", help="private: for you alone; account: for the tenant. A password is the account's.")
]


@command(
    secrets,
    "create",
    "kps secret create db-main < password",
    "kps secret create tls-key --file key.pem --scope account --description 'of www'",
    "kps secret create web-1-root --server web-1",
    "kps secret create web-1-deploy --server web-1 --login deploy --value-stdin < password",
)
async def create(
    session: Session,
    name: Name,
    *,
    server: Annotated[
        str | None, typer.Option("--server", metavar="SERVER", help="It is the password of a login of this server.")
    ] = None,
    login: Annotated[str | None, typer.Option("--login", metavar="LOGIN", help="Of this one, not the server's own.")] = None,
    file: FromFile = None,
    value_stdin: Annotated[
        bool, typer.Option("--value-stdin", metavar="", help="With --server: stdin holds the password that the login has now.")
    ] = False,
    scope: ScopeOption = None,
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.")] = "",
) -> None:
    """Take a secret in. Its value comes from stdin, from a file, or from whoever types it without echo; never from an argument.

    A password needs none: the first `kps secret rotate` makes one and sets it. One that is given is taken for the one that
    the login has now.
    """
    if login is not None and server is None:
        raise usage("--login goes with --server")
    if value_stdin and server is None:
        raise usage("--value-stdin goes with --server; the value of another secret comes from stdin anyway")
    if value_stdin and file is not None:
        raise usage("--value-stdin and --file exclude each other: one value is kept")
    if server is not None and scope == "private":
        raise usage("a server's password is the account's; leave --scope out")
    request: Json = {"name": name, "description": description}
    if server is not None:
        request["server"] = server
        request |= {} if login is None else {"login": login}
        if value_stdin:
            request["value"] = inputs.secret_from_stdin("password")
        elif file is not None:
            request |= _value(file, "password")
    else:
        request |= {"scope": scope or "private"} | _value(file, "value")
    async with session.client() as client:
        made = await client.create_secret(request)
    output.as_json(made) if session.json else _facts(made)


@command(
    secrets,
    "store",
    "kps secret store db-main < password",
    "kps secret store tls-key --file key.pem --stage next",
)
async def store(
    session: Session,
    name: Name,
    *,
    file: FromFile = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage", metavar="STAGE", help="Mark it with this stage, and leave SYSCURRENT where it is. Repeat for more."
        ),
    ] = None,
) -> None:
    """Keep a new version, from stdin or a file. It becomes the current one; the one of before is the previous one then."""
    request = _value(file, "value") | ({"stages": stage} if stage else {})
    async with session.client() as client:
        found = await client.store_secret(name, request)
    output.as_json(found) if session.json else _versions([found])


@command(
    secrets,
    "show",
    "kps secret show web-1-root",
    "kps secret show db-main --stage SYSPREVIOUS",
    "kps secret show tls-key --version v3 --out key.pem",
)
async def show(
    session: Session,
    name: Name,
    *,
    version: Annotated[str | None, typer.Option("--version", metavar="VERSION", help="This version: v3, or latest.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="STAGE", help="The one with this stage; SYSCURRENT if not said.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there, mode 0600; an existing file is refused.")
    ] = None,
) -> None:
    """Give out the value of a secret: to a file of mode 0600, else to stdout. It is recorded.

    `kps secret versions` shows what there is, without values.
    """
    if version is not None and stage is not None:
        raise usage("--version and --stage exclude each other")
    with inputs.new_private_file(out) if out else contextlib.nullcontext() as fill:
        async with session.client() as client:
            found = await client.open_secret(name, version=version, stage=stage)
        content = base64.b64decode(found["value_base64"]) if found["binary"] else found["value"].encode("utf-8")
        if fill:
            if found["binary"]:
                raise usage("this value is bytes; send stdout to a file: kps secret show NAME > FILE (umask 077)")
            fill(found["value"])
    if session.json:
        output.as_json({**{key: value for key, value in found.items() if key != "value"}, "out": str(out)} if out else found)
    elif out:
        output.say(f"{name}: {found['version']} is in {out}")
    elif found["binary"]:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), content)
    else:
        # Stdout holds the value and nothing else, so that it can be redirected.
        output.write(found["value"] + ("\n" if sys.stdout.isatty() else ""))


@command(secrets, "versions", "kps secret versions web-1-root")
async def versions(session: Session, name: Name) -> None:
    """Show a secret and its versions, without values."""
    async with session.client() as client:
        found = await client.secret(name)
    if session.json:
        output.as_json(found)
        return
    _facts(found)
    output.say("")
    _versions(found["versions"])


@command(
    secrets,
    "stage",
    "kps secret stage db-main blue v1",
    "kps secret stage db-main SYSCURRENT v1",
    "kps secret stage db-main blue --delete",
)
async def stage(
    session: Session,
    name: Name,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage: SYSCURRENT, SYSPREVIOUS, or one of your own.")],
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="The version that it marks from now on.")] = None,
    *,
    delete: Annotated[bool, typer.Option("--delete", metavar="", help="Delete the stage; the version stays.")] = False,
) -> None:
    """Have a stage mark another version, or delete it. SYSCURRENT and SYSPREVIOUS cannot be deleted."""
    if delete == (version is not None):
        raise usage("give a version, or --delete")
    async with session.client() as client:
        found = await (client.delete_secret_stage(name, stage) if delete else client.set_secret_stage(name, stage, str(version)))
    if session.json:
        output.as_json(found)
        return
    output.table(("STAGE", "VERSION"), [(each, marked) for each, marked in found.items()], empty="no stages")


@command(secrets, "list", "kps secret list", "kps secret list --json")
async def list_(session: Session) -> None:
    """List the secrets that you may know of, without their values."""
    async with session.client() as client:
        found = await client.secrets()
    if session.json:
        output.as_json(found)
        return
    rows = [
        (
            each["name"],
            each["kind"] if each["server"] is None else f"{each['login']} on {each['server']}",
            each["scope"],
            each["version"] or "-",
            _standing(each),
            each["rotates_every"] or "-",
            each["rotates_at"][:10] if each["rotates_at"] else "-",
        )
        for each in found
    ]
    headings = ("NAME", "OF", "SCOPE", "VERSION", "WORKS", "EVERY", "NEXT")
    output.table(headings, rows, empty="no secrets yet; `kps secret create` takes one in")


@command(secrets, "describe", "kps secret describe db-main --description 'main database, read only'")
async def describe(
    session: Session,
    name: Name,
    *,
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.")],
) -> None:
    """Describe a secret anew."""
    async with session.client() as client:
        found = await client.describe_secret(name, description)
    output.as_json(found) if session.json else _facts(found)


@command(secrets, "delete", "kps secret delete db-main")
async def delete(session: Session, name: Name) -> None:
    """Delete a secret with all its versions, for good. What a server has as a password stays there, and nobody knows it."""
    async with session.client() as client:
        await client.delete_secret(name)
    output.as_json({"deleted": name}) if session.json else output.say(f"{name} is deleted")


@command(
    secrets,
    "rotate",
    "kps secret rotate web-1-root",
    "kps secret rotate web-1-root --identity ~/.ssh/id_ed25519",
)
async def rotate(
    session: Session,
    name: Name,
    *,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
) -> int:
    """Make a new version of a server's password and set it there.

    It is sealed, and the current version, before the server hears of it; what works there is the previous one then. Where login
    by password is on, the new one is proved by logging in, and what fails is undone. Gets in by a key in custody, by what is
    given here, or by the password that works now. The new one is not shown: `kps secret show` does that.
    """
    if agent:
        session.at_home("--agent")
    key = key_of(identity, agent, certificate, password_stdin, passphrase_stdin)
    async with session.client() as client:
        secret = await client.secret(name)
        server = str(secret["server"])
        given = credentials([server], password_stdin, password_of).get(server, {}) | key if secret["server"] else key

        async def task() -> "list[a.Task]":
            return [(await client.rotate_secret(name, given or None))["task"]]

        return await follow(session, client, await begin(session, task()), identity)


@command(rotation, "every", "kps secret rotation every web-1-root 30d", "kps secret rotation every web-1-root 12h")
async def every(
    session: Session,
    name: Name,
    period: Annotated[str, typer.Argument(metavar="PERIOD", help="A number and d, h, m or s: from 6 h to 8760 h.")],
) -> None:
    """Have a password rotated by itself, every so often, by `kps serve`; what has failed is tried again an hour later."""
    async with session.client() as client:
        found = await client.schedule_secret(name, period)
    output.as_json(found) if session.json else _facts(found)


@command(rotation, "off", "kps secret rotation off web-1-root")
async def off(session: Session, name: Name) -> None:
    """Have a password rotated by hand only."""
    async with session.client() as client:
        found = await client.unschedule_secret(name)
    output.as_json(found) if session.json else _facts(found)


@command(rotation, "list", "kps secret rotation list", "kps secret rotation list web-1-root", "kps secret rotation list --failed")
async def list_rotations(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of this secret alone.")] = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", metavar="", help="Those alone that have failed.")] = False,
) -> int:
    """List rotations of passwords, with why one has failed and when it is tried again. They are kept for 30 days."""
    async with session.client() as client:
        found = await client.secret_rotations(name, failed=failed)
    if session.json:
        output.as_json(found)
    else:
        rows = [
            (
                each["secret"],
                each["version"],
                each["by"],
                each["state"],
                str(each["tries"]),
                "yes" if each["proved"] else "no",
                each["cause"] or "-",
                output.seconds(each["ended_at"] or each["created_at"]),
                output.seconds(each["again_at"]) if each["again_at"] else "-",
            )
            for each in found
        ]
        headings = ("SECRET", "VERSION", "BY", "STATE", "TRIES", "PROVED", "CAUSE", "AT", "AGAIN")
        output.table(headings, rows, empty="no rotations")
    return SOME_NOT if any(each["state"] == "failed" for each in found) else ALL_AS_ASKED


def _value(file: Path | None, what: str) -> Json:
    """Return what is to be kept, as the API takes it: of a file all bytes, of stdin all but a line's end at its end."""
    if file is not None:
        content = inputs.file_bytes(file, VALUE_BYTES)
    else:
        text = inputs.asked_for(what) if inputs.somebody_types() else inputs.stdin_text().removesuffix("\n")
        content = text.encode("utf-8")
    if not content:
        raise usage(f"the {what} is empty")
    if len(content) > VALUE_BYTES:
        raise usage(f"the {what} holds more than {VALUE_BYTES} bytes")
    try:
        return {"value": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(content).decode("ascii")}


def _standing(found: "a.KeptSecret") -> str:
    """Return what is known to work on the server, in a word."""
    if found["server"] is None:
        return "-"
    return found["works"] or "unknown"


def _facts(found: "a.KeptSecret") -> None:
    place = (
        {} if found["server"] is None else {"password of": f"{found['login']} on {found['server']}", "works": _standing(found)}
    )
    rotated = (
        {} if found["server"] is None else {"rotated": f"every {found['rotates_every']}" if found["rotates_every"] else "by hand"}
    )
    output.facts(
        {
            "secret": found["name"],
            "scope": found["scope"],
            **place,
            "description": found["description"] or "-",
            "current": found["version"] or "none yet; kps secret rotate makes one",
            **rotated,
            **({"next": output.seconds(found["rotates_at"])} if found["rotates_at"] else {}),
            "created": output.seconds(found["created_at"]),
        }
    )


def _versions(found: "Sequence[a.SecretVersion]") -> None:
    rows = [
        (
            each["version"],
            ", ".join(each["stages"]) or "-",
            output.seconds(each["created_at"]),
            output.seconds(each["expires_at"]) if each["expires_at"] else "-",
            "yes" if each["sealed"] else "waits",
        )
        for each in found
    ]
    output.table(("VERSION", "STAGES", "CREATED", "EXPIRES", "SEALED"), rows, empty="no versions yet")
