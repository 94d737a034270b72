"""The root key of this home: kps root."""

from dataclasses import asdict
from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command, group
from controller.cli.inputs import interruptible
from controller.cli.session import Session

roots = group(
    "The root key, which wraps the master keys: in a file, in a token (an HSM), or in AWS KMS.",
    "kps root show",
    "kps root rotate --to file:/media/stick/root.key",
)

TryPinAgain = Annotated[
    bool,
    typer.Option("--try-pin-again", metavar="", help="Try a PIN once more that the token has refused: it may lock itself."),
]


@command(roots, "show", "kps root show", "kps root show --json")
async def show(session: Session) -> None:
    """Show where the root key is, by which it is known again, and how many master keys it has wrapped. Opens nothing."""
    from controller.service import rootkeys

    found = rootkeys.show(session.settings())
    if session.json:
        output.as_json([asdict(each) for each in found])
        return
    output.table(
        ("ROOT KEY", "CHECK VALUE", "FOR", "MASTER KEYS"),
        [
            (each.uri, each.check_value, "new and old" if each.wraps_new else "old, until rotated", str(each.master_keys))
            for each in found
        ],
        whole="CHECK VALUE",
    )


@command(roots, "check", "kps root check", "kps root check --try-pin-again")
async def check(session: Session, *, try_pin_again: TryPinAgain = False) -> None:
    """Open the root key, and every master key with it; no private key is opened."""
    from controller.service import rootkeys

    with interruptible():
        opened = rootkeys.check(session.settings(), again=try_pin_again)
    if session.json:
        output.as_json({"opened": opened})
    else:
        output.say(f"the root key opens, and so do all master keys (versions: {opened})")


@command(
    roots, "rotate",
    "kps root rotate --to 'pkcs11:token=kps;object=root-2?module-path=/usr/lib/libhsm.so&pin-source=file:/run/kps/pin'",
    "kps root rotate --to file:/media/stick/root.key",
    "kps root rotate",
)  # fmt: skip
async def rotate(
    session: Session,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URI", help="The new root key, made if it is not there; without this: go on."),
    ] = None,
    try_pin_again: TryPinAgain = False,
) -> None:
    """Wrap every master key with another root key. No private key is opened.

    Nobody else may work with the home meanwhile: stop kps serve first. Broken off at any point, everything still opens, with
    both root keys, and the same command goes on. The former root key stays where it is.
    """
    from controller.service import rootkeys

    settings = session.settings()
    with interruptible():
        done = rootkeys.rotate(settings, to, again=try_pin_again)
    if session.json:
        output.as_json(asdict(done))
        return
    output.facts({"root key": done.uri, "check value": done.check_value, "master keys wrapped anew": str(done.rewrapped)})
    for uri in done.no_longer_needed:
        output.say(f"{uri} is not needed by this home any more. It was not deleted: backups from before today need it.")
    if settings.root_key_uri not in (None, done.uri):
        output.say("KPS_ROOT_KEY still names another root key; unset it, or nothing opens.")
