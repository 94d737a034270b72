"""Plans of rollouts as files: written, shown, and handed back to be started."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import exits, output
from controller.cli.exits import Declined, usage
from controller.cli.operations import credentials
from controller.cli.rolloutorders import Asked
from controller.cli.session import Session
from controller.cli.wholefile import written

if TYPE_CHECKING:
    from controller import answers as a
    from controller.client import AsyncKpsClient

Json = dict[str, Any]
LARGEST = 256 << 20  # bytes of a file
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMED = 10  # servers in a line
_STYLE = {"+": "green", "-": "red"}

Out = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the plan there; a file of this name stays.")
]


def check_out(path: Path) -> None:
    """Refuse a file that is there already, before servers are looked at."""
    if path.exists():
        raise Declined(exits.REFUSED, "file_exists", f"{path} is there already; name another file, or remove it")


async def show(session: Session, client: "AsyncKpsClient", found: "a.RolloutProgress", out: Path | None) -> int:
    """Write a plan that is made to a file, show it, and return the exit code: 0 where something can be done on every server."""
    id_ = str(found["id"])
    if found["state"] != "finished":
        output.say(f"kps: plan {id_} is {found['state']} ({found['reason']}); kps rollout show {id_}", errors=True)
        return exits.SOME_NOT
    sealed = await client.sealed_plan(id_)
    looks = await client.plan_looks(id_)
    document = {"kps": sealed["head"]["kps"], **sealed, "servers": looks}
    if out is not None:
        with written(out) as put:
            put(json.dumps(document, indent=1) + "\n")
    if session.json:
        output.as_json(document)
    else:
        _show(sealed["head"], looks, out)
    return exits.ALL_AS_ASKED if sealed["head"]["planned"] == len(looks) else exits.SOME_NOT


async def start(client: "AsyncKpsClient", named: str, asked: Asked, key: Json) -> "a.StartedPlan":
    """Start the plan of this id, or that is in this file, and say which of its servers stay out."""
    kept = None if _ID.fullmatch(named) else _read(Path(named))
    id_ = named if kept is None else str(kept["head"].get("id"))
    names = [each["server"] for each in await client.plan_looks(id_)] if asked.password_stdin else []
    if asked.credential_hours is not None and not (asked.password_stdin or key):
        raise usage("--credential-hours goes with what opens the servers: --password-stdin, --identity or --ssh-agent")
    request: Json = {"credentials": credentials(names, asked.password_stdin, asked.password_of), **key}
    request |= {} if asked.credential_hours is None else {"credential_hours": asked.credential_hours}
    if kept is not None:
        # Whoever has changed the list of servers has changed this digest with it, and it is signed.
        head = kept["head"] | {"shown_sha256": _digest(kept["servers"])}
        request["sealed"] = {"head": head, "signature": kept["signature"]}
    begun = await client.start_plan(id_, request)
    if begun["left_out"]:
        told = ", ".join(f"{count} by {cause}" for cause, count in sorted(begun["left_out"].items()))
        output.say(f"kps: left out, as the plan says: {told}", errors=True)
    return begun


def _digest(servers: Sequence[Any]) -> str:
    """Return the SHA-256 of a plan's servers, each in its one spelling: names in order, no spaces, ASCII, and a newline."""
    digest = hashlib.sha256()
    for each in servers:
        digest.update(json.dumps(each, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n")
    return digest.hexdigest()


def _read(path: Path) -> Json:
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST + 1)
        found = json.loads(text) if len(text) <= LARGEST else None
    except OSError as error:
        raise usage(
            f"--plan {path}: {error.strerror}; give a file that `kps rollout plan -o` wrote, or the id of a plan"
        ) from error
    except (ValueError, RecursionError):
        found = None
    shape = {"head": dict, "signature": str, "servers": list}
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in shape.items()):
        raise Declined(exits.USAGE, "plan_unreadable", f"{path}: this is no plan that `kps rollout plan` wrote")
    if not re.fullmatch("[0-9a-f]{128}", found["signature"]):
        raise Declined(exits.REFUSED, "plan_altered", f"{path}: its signature is none; plan anew")
    return found


# -- for people --------------------------------------------------------------------------------------------------------


def _show(head: Json, looks: Sequence["a.PlanLook"], out: Path | None) -> None:
    keypair = head["keypair"]
    output.facts(
        {
            "plan": head["id"],
            "operation": head["operation"],
            **({"key pair": f"{keypair['name']} {keypair['fingerprint']}"} if keypair else {}),
            "servers": f"{head['planned']} of {head['servers']} can be done",
            "made by": f"{head['made_by']}, {output.seconds(head['made_at'])}",
            "good until": output.seconds(head["good_until"]),
        }
    )
    alike: defaultdict[str, list[a.PlanLook]] = defaultdict(list)
    for look in looks:
        if look["seen"] is not None:
            alike[_in_words(look)].append(look)
    for told, of in sorted(alike.items(), key=lambda each: (-len(each[1]), each[0])):
        output.say("")
        output.say(f"{_count(of)}: {_named([each['server'] for each in of])}", style="bold")
        for line in told.split("\n"):
            output.say(line, style=_STYLE.get(line[:1], ""))
    refused: defaultdict[str, list[a.PlanLook]] = defaultdict(list)
    for look in looks:
        if look["seen"] is None:
            refused[str(look["cause"])].append(look)
    if refused:
        output.say("")
        rows = [(cause, len(of), of[0]["message"]) for cause, of in sorted(refused.items(), key=lambda each: -len(each[1]))]
        output.table(("WOULD BE REFUSED BY", "SERVERS", "AS"), rows)
    output.say("")
    if head["planned"]:
        output.say(f"next: kps rollout start --plan {head['id'] if out is None else out}")
    output.say("this is a plan; nothing was written on any server")


def _in_words(look: "a.PlanLook") -> str:
    """Return what would be done on a server, the same words where it is the same."""
    lines = [look["first"]] if look["first"] else []
    for change in look["changes"]:
        count = Counter(line[:1] for line in change.get("lines", []))
        sums = f": {', '.join(f'{sign}{number}' for sign, number in sorted(count.items()))}" if count else ""
        change_of = f": {change['before']} -> {change['after']}" if change["kind"] in ("mode", "owner", "label") else ""
        lines.append(f"{change['kind']} {change['path']}{sums}{change_of}")
        lines += change.get("lines", [])
    if look["locked_out"]:
        lines.append(f"locked out: {', '.join(look['locked_out'])}")
    return "\n".join(lines) or look["message"] or "nothing would be changed"


def _count(looks: Sequence[Any]) -> str:
    return "1 server" if len(looks) == 1 else f"{len(looks)} servers"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
