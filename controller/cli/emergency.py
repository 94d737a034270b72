"""Emergency doors: kps emergency."""

import functools
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import completion, durations, exits, following, inputs, options, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.operations import check_choice, credentials, key_of, warn_of_old_algorithms
from controller.cli.output import Known
from controller.cli.session import Session

if TYPE_CHECKING:
    from controller import answers as a
    from controller.client import AsyncKpsClient

Json = dict[str, Any]
SAMPLE = 3  # servers of a drill, where nothing else is said
DRILL_SECONDS = 60
WORKS_STILL = "its one-time password still works: it was not changed yet"
_ENDED_WELL = following.ENDED_WELL
_NOT_BEGUN = {"asked": "a second user has to agree there"}  # for a drill, by a door's state

emergency = group(
    "Password login comes back on for one login of a server, for minutes; the server closes it by itself.",
    'kps emergency open web-1 --for 30m --reason "no key gets in since the update" --password-stdin',
    "kps emergency list",
)
rules = group("For which servers a second user has to agree.", "kps emergency rule add --label zone=prod --minutes 15")
alerts = group(
    "Who is told of doors, by signed requests.", "kps emergency alerts set https://alerts.example.com/kps --secret-stdin"
)
emergency.add_typer(rules, name="rule")
emergency.add_typer(alerts, name="alerts")

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why: on record, and told to whoever is told of doors.")]
For = Annotated[str, typer.Option("--for", metavar="TIME", help="How long, as 30m, 90s, 1h30m; at most KPS_DOOR_HOURS.")]
DoorWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DOOR|SERVER...", help="Ids of doors, or names of servers that have one.", autocompletion=completion.doors
    ),
]
OneOrder = Annotated[
    str, typer.Argument(metavar="ORDER", help="What was asked for, by its id.", autocompletion=completion.door_orders)
]
Every = Annotated[bool, typer.Option("--all", metavar="", help="Every door that is, or may be, open.")]


@command(
    emergency,
    "open",
    'kps emergency open web-1 --for 30m --reason "no key gets in since the update" --password-stdin < password',
    'kps emergency open zone=prod --for 10m --reason "drill of 3 March" --login deploy --from 203.0.113.0/24',
    'kps emergency open web-1 --for 15m --reason "HSM is down" --identity ~/.ssh/rescue',
)
async def open_(
    session: Session,
    servers: options.ServerWords = None,
    *,
    for_: For,
    reason: Reason,
    every: options.All = False,
    login: options.Login = None,
    network: Annotated[
        str | None, typer.Option("--from", metavar="CIDR", help="Open it for clients of this network alone.")
    ] = None,
    set_password: Annotated[
        bool,
        typer.Option(
            "--set-password",
            metavar="",
            help="Make a one-time password first and set it, in the place of the login's own; shown once, here.",
        ),
    ] = False,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
) -> int:
    """Open a door on each server, ahead of everything that waits.

    Gets in by a managed key, by what is given here, and where the server does not answer through other jump servers. Where
    nothing does it says what to type at the server's console. Where a rule says so, a second user has to agree first.
    """
    check_choice(servers, every)
    if agent:
        session.at_home("--agent")
    key = key_of(identity, agent, certificate, password_stdin, passphrase_stdin)
    wanted = durations.seconds("--for", for_)
    async with session.client() as client:
        chosen = await client.servers(servers or (), every=every)
        names = [str(server["name"]) for server in chosen]
        if not names:
            raise usage("no servers there; `kps server add` adds one")
        if password_stdin:
            warn_of_old_algorithms(chosen)
        request: Json = {"servers": names, "seconds": wanted, "reason": reason, "login": login, "network": network}
        given = credentials(names, password_stdin, password_of)
        asking = {k: v for k, v in request.items() if v is not None} | {"credentials": given} | key
        if set_password:
            return await _open_by_password(session, client, asking, given, key)
        asked = await following.answered(client.open_doors(asking), lambda each: _hear(session, _given(each)))
        return await _show_asked(session, client, asked, "task_id")


@command(emergency, "extend", 'kps emergency extend web-1 --for 20m --reason "not through yet"')
async def extend(
    session: Session,
    doors: DoorWords = None,
    *,
    for_: For,
    reason: Reason,
    every: Every = False,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
) -> int:
    """Have doors stay open longer: for so long from now."""
    key = key_of(identity, None, None, password_stdin, passphrase_stdin)
    async with session.client() as client:
        ids, given = await _doors(client, doors, every, {"open"}, password_stdin, password_of)
        request: Json = {"doors": ids, "seconds": durations.seconds("--for", for_), "reason": reason, **given, **key}
        heard = functools.partial(_hear, session, which="last_task_id")
        asked = await following.answered(client.extend_doors(request), lambda each: heard(_given(each)))
        return await _show_asked(session, client, asked, "last_task_id")


@command(
    emergency,
    "close",
    "kps emergency close web-1",
    "kps emergency close --all",
    "kps emergency close web-1 --identity ~/.ssh/rescue",
)
async def close(
    session: Session,
    doors: DoorWords = None,
    *,
    every: Every = False,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
) -> int:
    """Close doors now. What nobody has agreed to yet is taken back.

    Gets in by a managed key, or by what is given here. Where nothing does the server closes the door when its time is over.
    """
    key = key_of(identity, None, None, password_stdin, passphrase_stdin)
    async with session.client() as client:
        ids, given = await _doors(client, doors, every, {"asked", "opening", "open", "closing"}, password_stdin, password_of)
        heard = functools.partial(_hear, session, which="last_task_id")
        found = await following.answered(client.close_doors(ids, {**given, **key}), heard)
        tasks = [str(each["last_task_id"]) for each in found if each["state"] == "closing" and each["last_task_id"]]
        return await _followed(session, client, [str(each["id"]) for each in found], tasks, [])


@command(emergency, "list", "kps emergency list", "kps emergency list --all")
async def list_(
    session: Session,
    *,
    every: Annotated[bool, typer.Option("--all", metavar="", help="Also the doors that are over.")] = False,
) -> None:
    """List the doors that are, may be, or are to be open, the newest first; and what waits for a second user."""
    async with session.client() as client:
        doors, orders = await client.doors(every=every), await client.door_orders()
    if session.json:
        output.as_json({"doors": doors, "orders": orders})
        return
    _table(doors)
    _show_waiting(orders, doors)


@command(emergency, "show", "kps emergency show web-1")
async def show(
    session: Session,
    door: Annotated[
        str,
        typer.Argument(metavar="DOOR|SERVER", help="A door's id, or a server that has one.", autocompletion=completion.doors),
    ],
) -> None:
    """Show one door: the newest of a server, or one by its id."""
    async with session.client() as client:
        newest = next(iter(await client.doors(every=True, server=door)), None)
        found = await client.door(door if newest is None else str(newest["id"]))
        users = {each["id"]: each["name"] for each in await client.users()}
    if session.json:
        output.as_json(found)
        return
    order = found["order"]
    output.facts(
        {
            "door": found["id"],
            "server": found["server"],
            "login": found["login"],
            "from": found["network"] or "everywhere",
            "state": _state(found),
            "why": found["reason"],
            "asked for by": users.get(found["user_id"], found["user_id"]),
            "asked for at": output.seconds(found["created_at"]),
            "needs a second user": ", ".join(order["rules"]) or "no",
            "agreed by": users.get(str(order["decided_by"]), order["decided_by"]) if order["state"] == "approved" else "-",
            "opened at": _at(found["opened_at"]),
            "closes at": _at(found["deadline"]),
            "closed at": _at(found["closed_at"]),
            "closed by": found["closed_by"],
            "task": found["task_id"],
            "note": found["note"],
            **({"one-time password": WORKS_STILL} if found["password_works"] else {}),
        }
    )


@command(emergency, "approve", "kps emergency approve 0b6f4c6e-3c56-4d39-9d5a-0f3b4a6d2c11")
async def approve(
    session: Session,
    order: OneOrder,
    *,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
) -> int:
    """Agree, as the second user, to what somebody else asked for: it is done from now on."""
    if agent:
        session.at_home("--agent")
    key = key_of(identity, agent, certificate, password_stdin, passphrase_stdin)
    async with session.client() as client:
        known = {str(each["server"]) for each in await client.doors() if each["order_id"] == order} if password_stdin else set()
        request = {"credentials": credentials(sorted(known), password_stdin, password_of), **key}
        decided = await following.answered(
            client.decide_doors(order, "approve", request), lambda each: _hear(session, each["doors"], _tasks_of(each["order"]))
        )
        if not session.json:
            output.say(f"agreed: {_asked_what(decided['order'], decided['doors'])}", wrap=True)
        which = _tasks_of(decided["order"])
        return await _show_asked(session, client, {"orders": [decided["order"]], "doors": decided["doors"]}, which)


@command(emergency, "refuse", "kps emergency refuse 0b6f4c6e-3c56-4d39-9d5a-0f3b4a6d2c11")
async def refuse(session: Session, order: OneOrder) -> None:
    """Say no to what somebody asked for; whoever asked takes it back so."""
    async with session.client() as client:
        decided = await client.decide_doors(order, "refuse")
    output.as_json(decided) if session.json else output.say(f"order {order} is refused; nothing is opened")


@command(emergency, "drill", "kps emergency drill --select zone=test", "kps emergency drill --select web-1 --json")
async def drill(
    session: Session,
    *,
    select: Annotated[
        list[str], typer.Option("--select", metavar="SERVER", help="Names, or selections as in env=prod. Repeat for more.")
    ],
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, max=1000, help="So many of these servers.")] = SAMPLE,
    login: options.Login = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; 'drill' if not said.")] = "drill",
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
) -> int:
    """Open doors on a sample of servers, have them proved and closed, and say how long each took.

    Servers on which a second user has to agree are not waited for: what was asked for there is taken back.
    """
    key = key_of(identity, None, None, password_stdin, passphrase_stdin)
    async with session.client() as client:
        names = sorted(str(each["name"]) for each in await client.servers(select))
        # Spread over the selection, and the same ones the next time.
        names = names[:: max(1, len(names) // sample)][:sample]
        if not names:
            raise usage("no servers there")
        given = credentials(names, password_stdin, password_of)
        request: Json = {"servers": names, "seconds": DRILL_SECONDS, "reason": reason, "credentials": given, **key}
        began = time.monotonic()
        request |= {"login": login} if login else {}
        asked = await following.answered(client.open_doors(request), lambda each: _hear(session, _given(each)))
        for order in asked["orders"]:
            if order["state"] == "asked":
                await client.decide_doors(order["id"], "refuse")
        begun = {str(each["id"]): each for each in _given(asked)}
        opened = await _ended(session, client, [str(each["task_id"]) for each in begun.values()])
        ours = [each for each in await client.doors(begun) if each["state"] == "open"]
        heard = functools.partial(_hear, session, which="last_task_id")
        closes = client.close_doors([str(each["id"]) for each in ours], {"credentials": given, **key})
        closing = await following.answered(closes, heard)
        closed = await _ended(session, client, [str(each["last_task_id"]) for each in closing])
        whole = time.monotonic() - began
        after = {str(each["id"]): each for each in await client.doors(str(each["id"]) for each in asked["doors"])}
    tasks = {"open": {str(t["server"]): t for t in opened}, "close": {str(t["server"]): t for t in closed}}
    rows = [_drilled(each, tasks, after) for each in asked["doors"]]
    if session.json:
        output.as_json({"servers": rows, "seconds": round(whole, 2)})
    else:
        headings = ("SERVER", "LOGIN", "OPENED IN", "PROOF", "CLOSED IN", "STATE", "WHY NOT")
        output.table(headings, [tuple(_cell(value) for value in row.values()) for row in rows])
        output.say(f"{sum(row['state'] == 'closed' for row in rows)} of {len(rows)} opened and closed, {whole:.1f} s in all")
    return exits.ALL_AS_ASKED if all(row["state"] == "closed" for row in rows) else exits.SOME_NOT


# -- where a second user has to agree, and who is told


@command(rules, "add", "kps emergency rule add --label zone=prod --minutes 15")
async def add_rule(
    session: Session,
    *,
    label: Annotated[str, typer.Option("--label", metavar="LABEL=VALUE", help="The servers that it is about.")],
    minutes: Annotated[int, typer.Option("--minutes", metavar="N", help="How long a second user has to agree.")] = 15,
) -> None:
    """Have doors of servers with a label opened only after a second user has agreed. For administrators."""
    async with session.client() as client:
        found = await client.set_door_rule(label, minutes)
    told = f"doors of {label} need a second user, who has {minutes} minutes"
    output.as_json(found) if session.json else output.say(told)


@command(rules, "list", "kps emergency rule list")
async def list_rules(session: Session) -> None:
    """List for which servers a second user has to agree."""
    async with session.client() as client:
        found = await client.door_rules()
    if session.json:
        output.as_json(found)
        return
    rows = [(each["servers"], f"{each['minutes']} minutes", output.seconds(each["created_at"])) for each in found]
    output.table(("SERVERS", "TO AGREE", "SINCE"), rows, empty="no rules: whoever may open a door does so alone")


@command(rules, "remove", "kps emergency rule remove --label zone=prod")
async def remove_rule(
    session: Session,
    *,
    label: Annotated[str, typer.Option("--label", metavar="LABEL=VALUE", help="The servers that it is about.")],
) -> None:
    """Have doors of these servers opened without a second user. For administrators; it is on record."""
    async with session.client() as client:
        await client.remove_door_rule(label)
    output.as_json({"removed": label}) if session.json else output.say(f"doors of {label} need no second user any more")


@command(alerts, "set", "kps emergency alerts set https://alerts.example.com/kps --secret-stdin < secret")
async def set_alerts(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to, by https.")],
    *,
    secret_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-stdin", metavar="", help="Read from stdin what the requests are signed with: 16 characters or more."
        ),
    ] = False,
) -> None:
    """Tell of doors at a URL: asked for, agreed to, opened, closed, failed, not confirmed. For administrators."""
    if not secret_stdin:
        raise usage("give what the requests are signed with: --secret-stdin")
    secret = inputs.secret_from_stdin("secret")
    async with session.client() as client:
        found = await client.set_door_alerts(url, secret)
    output.as_json(found) if session.json else output.say(f"told of doors: {url}")


@command(alerts, "show", "kps emergency alerts show")
async def show_alerts(session: Session) -> None:
    """Show who is told of doors."""
    async with session.client() as client:
        found = await client.door_alerts()
    if session.json:
        output.as_json(found)
    elif found["url"] is None:
        output.say("nobody is told of doors, but for the log and the console")
    else:
        output.facts({"told of doors": found["url"], "since": _at(found["created_at"])})


@command(alerts, "remove", "kps emergency alerts remove")
async def remove_alerts(session: Session) -> None:
    """Tell nobody of doors any more. For administrators."""
    async with session.client() as client:
        await client.remove_door_alerts()
    output.as_json({"url": None}) if session.json else output.say("nobody is told of doors any more")


# -- steps


async def _doors(
    client: "AsyncKpsClient",
    words: Sequence[str] | None,
    every: bool,
    states: set[str],
    password_stdin: bool,
    password_of: str | None,
) -> tuple[list[str], Json]:
    """Return the ids of the doors that words name, by their ids or of servers; and the passwords of these servers."""
    if every == bool(words):
        raise usage("which doors? give ids, names of servers, or --all")
    known = [each for each in await client.doors() if each["state"] in states]
    if every:
        if not known:
            raise exits.Declined(exits.NOT_FOUND, "door_not_found", "no door is open")
        names = sorted({str(each["server"]) for each in known})
        return [str(each["id"]) for each in known], {"credentials": credentials(names, password_stdin, password_of)}
    ids: list[str] = []
    over: list[str] = []
    for word in words or ():
        found = [str(each["id"]) for each in known if word in (each["id"], each["server"])]
        if not found and (told := await _over(client, word)):
            over.append(told)
            continue
        ids += found or [word]  # the controller says what it is not
    if over and ("closing" not in states or not ids):
        raise exits.Declined(exits.NOT_FOUND, "door_not_found", over[0])
    for told in over:  # which keeps nobody from closing the others
        output.say(f"kps: {told}", errors=True)
    names = sorted({str(each["server"]) for each in known if each["id"] in ids})
    return list(dict.fromkeys(ids)), {"credentials": credentials(names, password_stdin, password_of)}


async def _over(client: "AsyncKpsClient", word: str) -> str:
    """Say how the last door of a server stands where a word names one, as none of it can be meant; "" where it names none."""
    last = next(iter(await client.doors(every=True, server=word)), None)
    if last is None:
        return ""
    since = f" since {_at(last['closed_at'])}" if last["closed_at"] else ""
    return f"{word}: the last door, for {last['login']}, is {_state(last)}{since}; kps emergency show {word}"


async def _open_by_password(
    session: Session, client: "AsyncKpsClient", asking: Json, given: Mapping[str, Any], key: Mapping[str, Any]
) -> int:
    """Have one-time passwords set and the doors opened by them; whatever comes between, those that were made are shown."""
    made: dict[str, Known] = {}  # by server; what was shown is taken out

    def heard(asked: "a.DoorsAsked") -> None:
        made.update({str(each["server"]): each for each in asked["passwords"]})
        session.started = [str(each["task_id"]) for each in asked["passwords"]]

    try:
        asked = await following.answered(client.open_doors(asking | {"one_time": True}), heard)
        (order,) = asked["orders"]
        for task in await _ended(session, client, session.started):
            if task["status"] not in _ENDED_WELL:
                output.say(f"kps: {task['server']}: no password was set: {task['cause']}: {task['message']}", errors=True)
                del made[str(task["server"])]
        # By the password that was made it is proved; what opens the server today is kept beside it.
        whose = {name: {"password": each["password"], "password_of": each["login"]} for name, each in made.items()}
        also = {name: each for name, each in given.items() if name in made}
        opens = {"credentials": also | whose, **key}
        begun = await following.answered(client.begin_doors(order["id"], opens), lambda each: _hear(session, each["doors"]))
        doors = [each for each in begun["doors"] if each["server"] in made and not each["confirmed"]]
        ids = [str(each["id"]) for each in begun["doors"]]
        code = await _followed(session, client, ids, [str(each["task_id"]) for each in doors], [], made)
        return code if len(doors) == len(ids) else exits.SOME_NOT
    finally:
        _show_passwords(made, errors=True)


def _show_passwords(made: dict[str, Known], *, errors: bool = False) -> None:
    """Print passwords, each this once, and take them out: nobody else can say them. errors: as what was to come after did not."""
    for name, each in list(made.items()):
        output.say(f"{name}: one-time password of {each['login']}, shown only now: {each['password']}", errors=errors)
        del made[name]


def _hear(session: Session, doors: Sequence[Known], which: str = "task_id") -> None:
    """Remember the tasks that are begun, for who interrupts. which: of a door, the field with the task that is meant."""
    session.started = [str(each[which]) for each in doors if each[which] and not each["confirmed"]]


async def _show_asked(session: Session, client: "AsyncKpsClient", asked: Mapping[str, Any], which: str) -> int:
    """Follow what was begun, and show it with what waits. which: of a door, the field with the task that does it."""
    begun = [str(each[which]) for each in _given(asked) if each[which]]
    waiting = [each for each in asked["orders"] if each["state"] == "asked"]
    return await _followed(session, client, [str(each["id"]) for each in asked["doors"]], begun, waiting)


def _given(asked: Mapping[str, Any]) -> list[Known]:
    """Return the doors for which nobody else has to agree, or somebody has."""
    given = {id for each in asked["orders"] if each["state"] in ("given", "approved") for id in each["doors"]}
    return [each for each in asked["doors"] if each["id"] in given]


def _tasks_of(order: Known) -> str:
    """Return the field of a door with the task that does what was ordered."""
    return "task_id" if order["does"] == "open" else "last_task_id"


async def _followed(
    session: Session,
    client: "AsyncKpsClient",
    door_ids: Sequence[str],
    task_ids: Sequence[str],
    waiting: "Sequence[a.DoorOrder]",
    passwords_made: dict[str, Known] | None = None,
) -> int:
    made = {} if passwords_made is None else passwords_made
    session.started = list(task_ids)
    ended = await _ended(session, client, task_ids)
    known = {str(each["id"]): each for each in await client.doors(door_ids)}
    doors = [known[id] for id in door_ids if id in known]
    failed = [task for task in ended if task["status"] not in _ENDED_WELL]
    if session.json:
        passwords = [{name: each[name] for name in ("server", "login", "secret", "password")} for each in made.values()]
        told = {"doors": doors, "orders": waiting, "tasks": [following.result(task, None) for task in ended]}
        output.as_json(told | ({"passwords": passwords} if passwords else {}))
        made.clear()
    else:
        _table(doors)
        _show_passwords(made)
        for task in failed:
            output.say("")
            following.explain(task)
            _show_paths(task)
        _show_waiting(waiting, doors)
    return exits.SOME_NOT if failed or waiting else exits.ALL_AS_ASKED


async def _ended(session: Session, client: "AsyncKpsClient", ids: Sequence[str]) -> list[Known]:
    """Return tasks as they ended, by their ids."""
    return await following.wait(session, client, await client.tasks(ids)) if ids else []


def _table(doors: Sequence[Known]) -> None:
    rows = [
        (
            each["server"],
            each["login"],
            _state(each),
            _at(each["deadline"]),
            _left(each["left_seconds"]) if each["state"] == "open" else "-",
            each["network"] or "everywhere",
            each["reason"],
            each["id"],
        )
        for each in doors
    ]
    headings = ("SERVER", "LOGIN", "STATE", "CLOSES AT", "LEFT", "FROM", "WHY", "DOOR")
    output.table(headings, rows, empty="no door is open")
    for each in doors:
        if each["note"]:
            output.say(f"{each['server']}: {each['note']}", wrap=True)
        if each["password_works"]:
            output.say(f"{each['server']}: {WORKS_STILL} ({each['login']})", wrap=True)


def _show_waiting(orders: "Sequence[a.DoorOrder]", doors: Sequence[Known]) -> None:
    names = {each["id"]: each["server"] for each in doors}
    for each in orders:
        servers = ", ".join(sorted({str(names.get(id, id)) for id in each["doors"]}))
        output.say(
            f"\n{servers}: waits until {_at(each['approve_until'])} for a second user ({', '.join(each['rules'])})", wrap=True
        )
        output.say(f"  {_asked_what(each, doors)}", wrap=True)
        output.say(f"  kps emergency approve {each['id']}")


def _asked_what(order: "a.DoorOrder", doors: Sequence[Known]) -> str:
    """Say what somebody agrees to with an order: which logins, from where, for how long and why."""
    them = [each for each in doors if each["id"] in order["doors"]]
    logins = ", ".join(sorted({str(each["login"]) for each in them}))
    networks = ", ".join(sorted({str(each["network"] or "everywhere") for each in them}))
    does = "to open" if order["does"] == "open" else "to stay open from then on"
    return f"{does} for {_left(order['seconds'])}: login {logins}, from {networks} ({order['reason']})"


def _show_paths(task: Known) -> None:
    """Print what is left where nothing got in: the disk of the server where it is shut down, and its console."""
    evidence = task["evidence"]
    for path in evidence.get("paths", ()):
        output.say(f"tried by {path['via']}: {path['cause']}")
    if root := evidence.get("reset_root"):
        told = f"on record as shut down, with its disk mounted at {root}: nothing runs there that could close a door"
        output.say(f"{told}. Put a key on the disk, where it is mounted, and start it:", wrap=True)
        output.say(f"  kps reset {task['server']} --keypair NAME --root {shlex.quote(root)} --login {shlex.quote(task['login'])}")
    if evidence.get("console_command"):
        output.say(f"to its console: {evidence['console_command']}")
    if evidence.get("by_hand"):
        output.say("there, as root, in one line (it closes by itself):")
        output.say(f"  {evidence['by_hand']}")


def _state(door: Known) -> str:
    # Where no controller serves the home nobody asks the server once the time is over.
    is_over = door["state"] == "closing" or (door["state"] == "open" and not door["left_seconds"])
    return "closing, not confirmed" if is_over else str(door["state"])


def _at(time_: str | None) -> str:
    return output.seconds(time_) if time_ else "-"


def _left(seconds: int) -> str:
    return f"{seconds // 60} min {seconds % 60:02} s" if seconds >= 60 else f"{seconds} s"


def _drilled(door: Known, tasks: Mapping[str, Mapping[str, Known]], after: Mapping[str, Known]) -> Json:
    server = str(door["server"])
    opened, closed = tasks["open"].get(server), tasks["close"].get(server)
    now_ = after.get(str(door["id"]), door)
    wrong = next((each for each in (opened, closed) if each is not None and each["status"] not in _ENDED_WELL), None)
    why = "" if wrong is None else f"{wrong['cause']}: {wrong['message']}"
    return {
        "server": server,
        "login": door["login"],
        "opened_seconds": _took(opened),
        "proof": "" if opened is None else following.proofs(opened["proof"]),
        "closed_seconds": _took(closed),
        "state": now_["state"],
        "why_not": why
        or ("" if opened is not None else _NOT_BEGUN.get(str(door["state"]), "it has a door of somebody's already")),
    }


def _took(task: Known | None) -> float | None:
    if task is None or task["status"] not in _ENDED_WELL or not task["finished_at"]:
        return None
    from datetime import datetime

    asked, ended = (datetime.fromisoformat(str(task[name])) for name in ("created_at", "finished_at"))
    return round((ended - asked).total_seconds(), 2)


def _cell(value: object) -> str:
    return "-" if value in (None, "") else f"{value:.2f} s" if isinstance(value, float) else str(value)
