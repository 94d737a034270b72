"""OpenSSH's own client, with managed keys and recorded host keys: kps ssh, kps ssh-config, kps ssh-agent."""

import asyncio
import contextlib
import functools
import os
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import options, output, sshagent, sshfiles
from controller.cli.command import command
from controller.cli.exits import REFUSED, Declined
from controller.cli.session import Session

if TYPE_CHECKING:
    from controller.client import AsyncKpsClient

DIRECTORY = Path("~/.ssh/kps")
LOGIN_SECONDS = 600  # in which ssh has logged in at every server on its way
_END = "The exit code is that of the remote command, or 255 where ssh itself failed, as ssh(1) has it."

Command = Annotated[
    list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="What to run; without it a shell.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to app."""
    command(
        app,
        "ssh",
        "kps ssh web-1",
        "kps ssh web-1 -- uptime",
        "kps ssh web-1 --login deploy --tty -- sudo systemctl restart app",
        end=_END,
    )(ssh)
    command(
        app,
        "ssh-config",
        "kps ssh-config",
        "kps ssh-config stage=prod --output ~/.ssh/prod && kps ssh-agent --from ~/.ssh/prod -- ssh -F ~/.ssh/prod/config web-1",
    )(ssh_config)
    command(
        app,
        "ssh-agent",
        "kps ssh-agent",
        "kps ssh-agent -- rsync -e 'ssh -F ~/.ssh/kps/config' -a site/ web-1:/srv/site/",
        "kps ssh-agent --from ~/.ssh/prod --minutes 30",
        end="With a command the exit code is that of the command.",
    )(ssh_agent)


async def ssh(
    session: Session,
    name: options.OneServer,
    words: Command = None,
    *,
    login: options.Login = None,
    tty: Annotated[bool, typer.Option("--tty", metavar="", help="Give the command a terminal, as ssh -t does.")] = False,
) -> int:
    """Log in to a server with the key pair that is bound there, over its jump servers, trusting the recorded host key alone.

    The private key goes into an ssh-agent that ends with the command; it is in no file. That it is taken out of custody is on
    record, and needs a role that may export it. A key pair that is not kept here is left to your own ssh-agent. ~/.ssh/config is
    not read.
    """
    from controller.client.reaching import way

    async with session.client() as client:
        hops = await client.play(functools.partial(way, name, login))
        private = await _exported(client, {str(hop.keypair) for hop in hops if hop.managed})
    with sshagent.ended_by_signals(), tempfile.TemporaryDirectory(prefix="kps-") as made:
        directory = sshfiles.usable(Path(made))
        sshfiles.write(directory, [[hop] for hop in hops], session.where)
        asked = ["ssh", "-F", str(directory / sshfiles.CONFIG), *(["-t"] if tty else []), hops[-1].name, "--", *(words or ())]
        if not private:
            return sshagent.run(asked)
        with sshagent.Agent(directory / sshfiles.AGENT) as agent:
            while private:
                agent.load(private.popitem()[1], LOGIN_SECONDS)
            return sshagent.run(asked)


async def ssh_config(
    session: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVER]...", help="Names, or selections as in env=prod; without any, all.", show_default=False),
    ] = None,
    *,
    select: Annotated[
        list[str] | None, typer.Option("--select", metavar="SERVER", help="The same, as an option. Repeat for more.")
    ] = None,
    out: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where to write it.")] = DIRECTORY,
) -> None:
    """Write a configuration for OpenSSH's client: `ssh -F DIR/config web-1`, and scp, sftp, rsync and git with it.

    DIR then holds `config`, `known_hosts` with the recorded host keys, and the public halves of what is bound; no secret. Private
    halves of managed key pairs come from `kps ssh-agent`, those of others from your own ssh-agent. Write it anew after a replace.
    """
    from controller.client.reaching import logins

    directory = sshfiles.usable(out)
    chosen = [*(words or ()), *(select or ())]
    async with session.client() as client:
        found = await client.play(functools.partial(logins, chosen, every=not chosen))
    unknown = [hops[0].name for hops in found if not hops[0].host_key]
    servers = [hops for hops in found if hops[0].host_key]
    if unknown and not session.json:
        output.say(
            f"kps: left out, since their host keys are not known: {', '.join(unknown)}; `kps server check` records them",
            errors=True,
        )
    sshfiles.write(directory, servers, session.where)
    if session.json:
        output.as_json(
            {
                "directory": str(directory),
                "config": str(directory / sshfiles.CONFIG),
                "servers": [hops[0].name for hops in servers],
                "left_out": unknown,
            }
        )
        return
    output.say(f"{directory / sshfiles.CONFIG}: {_counted(len(servers), 'server')}")
    if any(hop.managed for hops in servers for hop in hops):
        fitting = "" if directory == sshfiles.usable(DIRECTORY) else f" --from {directory}"
        output.say(f"its managed keys: kps ssh-agent{fitting}")


async def ssh_agent(
    session: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="Run it, and end with it; without one, wait.", show_default=False),
    ] = None,
    *,
    directory: Annotated[Path, typer.Option("--from", metavar="DIR", help="What `kps ssh-config` has written.")] = DIRECTORY,
    minutes: Annotated[int, typer.Option("--minutes", min=1, max=1440, help="So long the keys are kept at most.")] = 480,
) -> int:
    """Hold the managed keys that a configuration of `kps ssh-config` names, in an ssh-agent at DIR/agent.

    They are in no file. It ends with the command, with Ctrl-C, or when its time is over. Each key that is taken out of custody is
    on record. Where you have an ssh-agent of your own, SSH_AUTH_SOCK goes on being that one for the command.
    """
    directory = sshfiles.usable(directory)
    ids = sshfiles.key_ids(directory)
    sshfiles.prepared(directory)
    with sshagent.ended_by_signals(), sshagent.Agent(directory / sshfiles.AGENT) as agent:
        async with session.client() as client:
            pairs = sorted(each["name"] for each in await client.keypairs() if each["id"] in ids and each["managed"])
            if not pairs:
                raise Declined(REFUSED, "nothing_bound", f"{directory}: no key pair that it names is in custody here")
            refused: list[str] = []
            private = await _exported(client, pairs, refused)
        if not private:
            raise Declined(REFUSED, "keypair_not_yours", f"{directory}: none of its keys is given to you: {'; '.join(refused)}")
        loaded = sorted(private)
        while private:
            agent.load(private.popitem()[1], minutes * 60)
        if refused and not session.json:
            output.say(f"kps: not given to you: {'; '.join(refused)}", errors=True)
        if words:
            # The user's own holds what is not in custody; the configuration names this one.
            own = os.environ.get("SSH_AUTH_SOCK")
            return sshagent.run(words, None if own else {"SSH_AUTH_SOCK": str(agent.path)})
        if session.json:
            output.as_json({"socket": str(agent.path), "keypairs": loaded, "minutes": minutes})
        else:
            output.say(f"{_counted(len(loaded), 'key')} in {agent.path} for {_counted(minutes, 'minute')}; Ctrl-C ends it")
        await _told_to_end(minutes * 60)
    return 0


async def _told_to_end(seconds: float) -> None:
    """Return when somebody ends this, or after so many seconds."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(told.wait(), seconds)


async def _exported(client: "AsyncKpsClient", names: Iterable[str], refused: list[str] | None = None) -> dict[str, str]:
    """Return private halves by name. refused: takes what is said of those that are not given, instead of an end by it."""
    from controller.client import Refused

    found = {}
    for name in sorted(names):
        try:
            found[name] = await client.export_keypair(name)
        except Refused as error:
            if refused is None:
                raise
            refused.append(error.message)
    return found


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
