"""Servers taken in by lists: kps server import."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.exits import USAGE, Declined, usage
from controller.cli.output import Known
from controller.cli.servers import TrustOnFirstUse, address, servers, warn_of_unknown_host_keys
from controller.cli.session import Session

__all__ = ["servers"]  # the group of commands, with this one in it


@command(
    servers,
    "import",
    "kps server import servers.csv",
    "printf 'name,host,labels\\nweb-1,192.0.2.10,env=prod;tier=1\\n' > servers.csv",
    "kps server import --ssh-config ~/.ssh/config --only 'web-*' --known-hosts ~/.ssh/known_hosts --plan",
    "ansible-inventory -i hosts.ini --list | kps server import --ansible-inventory - --plan",
)
async def import_(
    session: Session,
    csv: Annotated[
        Path | None,
        typer.Argument(metavar="[CSV]", help="Columns: name,host,port,login,labels,host_key,jump.", show_default=False),
    ] = None,
    *,
    ssh_config: Annotated[
        Path | None,
        typer.Option("--ssh-config", metavar="FILE", help="Instead: each name of a Host line in OpenSSH's client configuration."),
    ] = None,
    ansible_inventory: Annotated[
        Path | None,
        typer.Option(
            "--ansible-inventory",
            metavar="FILE",
            help="Instead: each host of what `ansible-inventory --list` prints, - for stdin. Groups become labels, GROUP=yes.",
        ),
    ] = None,
    known_hosts: Annotated[
        Path | None,
        typer.Option("--known-hosts", metavar="FILE", help="Take host keys out of this file, for servers that have none."),
    ] = None,
    login: Annotated[
        str | None,
        typer.Option("--login", metavar="LOGIN", help="Of servers for which the file says none; else who you are here."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Only names like web-*. Repeat for more.")
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", metavar="", help="Pass over names that the inventory has already.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", metavar="", help="Show what would be added, or what would refuse it, and add nothing.")
    ] = False,
    trust_on_first_use: TrustOnFirstUse = False,
) -> None:
    """Add all servers of a file, or none: each bad line is named with its number.

    The first line of a CSV file names the columns: name and host, and any of port, login, labels (k=v;k=v), host_key and jump
    (a;b). Of the other kinds of files address, port, login, ProxyJump and groups are taken over; what else leads to a server is
    told. Nothing that stands in them is run.
    """
    from controller.cli import foreign
    from controller.client import Refused

    if sum(each is not None for each in (csv, ssh_config, ansible_inventory)) != 1:
        raise usage("give one of a CSV file, --ssh-config FILE and --ansible-inventory FILE")
    if csv is not None and login is not None:
        raise usage("--login is for the other kinds of files; a CSV file has a column for it")
    aliases: dict[str, str] = {}
    if ssh_config is not None:
        listed, aliases = foreign.ssh_config(ssh_config, login)
    elif ansible_inventory is not None:
        listed = foreign.ansible_inventory(ansible_inventory, login)
    else:
        assert csv is not None  # noqa: S101
        listed = foreign.csv(csv)
    if only:
        listed.only(only)
    if known_hosts is not None:
        key_of = foreign.host_keys(known_hosts.expanduser())
        for server in listed.servers.values():
            found = None if "host_key" in server else key_of(server, aliases.get(server["name"], ""))
            if found:
                server["host_key"] = found
    if csv is None:  # there the jump servers come first by themselves, or the line is wrong
        listed.in_order()
    for server in listed.servers.values():
        server["trust_on_first_use"] = trust_on_first_use and "host_key" not in server
    async with session.client() as client:
        if skip_existing:
            there = {each["name"] for each in await client.servers()}
            listed.servers = {place: each for place, each in listed.servers.items() if each["name"] not in there}
        wanted = list(listed.servers.values())
        added: Sequence[Known] = []
        try:
            # Also where the file is wrong in itself: what only the controller knows of the other lines is told with it.
            if listed.wrong or plan:
                await client.check_servers(wanted)
            elif wanted:
                added = await client.import_servers(wanted)
        except Refused as refused:
            items = refused.evidence.get("items", [])
            if not items:
                raise
            listed.wrong |= {list(listed.servers)[item["place"]]: item["message"] for item in items}
    if listed.wrong:
        lines = "\n".join(f"{place}: {listed.wrong[place]}" for place in foreign.in_file_order(list(listed.wrong)))
        raise Declined(USAGE, "import_refused", f"nothing was imported\n{lines}")
    if not session.json:
        for note in listed.notes:
            output.say(f"kps: {note}", errors=True)
    if plan:
        _show_plan(session, wanted, listed.notes)
        return
    if session.json:
        output.as_json(added)
    else:
        output.say("1 server added" if len(added) == 1 else f"{len(added)} servers added")
    warn_of_unknown_host_keys(session, added)


def _show_plan(session: Session, wanted: Sequence[dict[str, Any]], notes: Sequence[str]) -> None:
    if session.json:
        output.as_json({"servers": wanted, "notes": notes})
        return
    rows = []
    for server in wanted:
        key = server.get("host_key")
        # known_hosts lines may begin with the place; the type is what tells keys apart for a person.
        known = "known" if key else "trusted on first use" if server["trust_on_first_use"] else "not known"
        at = address({"port": 22} | server)
        labels, jump = output.pairs(server.get("labels", {})), ", ".join(server.get("jump", []))
        rows.append((server["name"], at, server.get("login", "root"), labels, jump or "-", known))
    output.table(("NAME", "ADDRESS", "LOGIN", "LABELS", "JUMP SERVERS", "HOST KEY"), rows, empty="there is nothing to add")
    output.say(f"this is a plan of {len(wanted)}; nothing was added", errors=True)
