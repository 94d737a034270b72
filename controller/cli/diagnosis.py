"""What a check has found, and what an operation would do, for people."""

from typing import Any

from controller.cli import output

Json = dict[str, Any]
_STYLE = {"+": "green", "-": "red", "@": "cyan"}


def findings(found: list[Json], server: str) -> None:
    """Print why a key can't log in, the reason first, with what mends each; and what may end later."""
    told: dict[str, str] = {}
    for number, one in enumerate(found, 1):
        told[f"{number} {one['code']}"] = str(one["message"])
        told[" " * len(str(number)) + (" warning" if one["kind"] == "warning" else " repair") + " " * number] = str(one["repair"])
    output.facts(told)
    if any(one["safe"] and one["kind"] in ("key", "doubt") for one in found):
        output.say(f"repaired by: kps server check {server} --repair")


def plan(one: Json) -> None:
    """Print what an operation would do, file by file."""
    told, server = one["evidence"]["plan"], one["server"]
    if not told:
        return
    output.say("")
    changes = told["changes"]
    output.say(
        f"{server}: {len(changes)} changes would be made" if changes else f"{server}: nothing would be changed", style="bold"
    )
    for change in changes:
        what = {"mode": "mode", "owner": "owner", "directory": "new directory"}.get(change["kind"])
        if what is not None:
            before = f"{change['before']} -> " if "before" in change else ""
            output.say(
                f"{what} of {change['path']}: {before}{change['after']}"
                if before
                else f"{what}: {change['path']} {change['after']}"
            )
        for line in change.get("diff", []):
            output.say(line, style=_STYLE.get(line[:1], ""))
    proofs = [f"{each['way']} of {each['login']}: {each['want']}" for each in told["proofs"]]
    output.facts(
        {
            name: value
            for name, value in {
                "first": one["evidence"].get("first"),
                "armed": told["armed"],
                "reload of": told["reload"],
                "proved by": ", ".join(proofs),
                "locked out": ", ".join(told["locked_out"]),
                "limits": "; ".join(one["evidence"].get("limits", [])),
            }.items()
            if value
        }
    )
    output.say(f"{server}: nothing was written")
