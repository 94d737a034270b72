"""What a check has found, and what an operation would do, for people."""

from controller.cli import again, output
from controller.cli.output import Known

_WANTED = {"logged_in": "logs in", "refused": "is refused", "password_offered": "is offered"}
_STYLE = {"+": "green", "-": "red", "@": "cyan"}


def findings(task: Known, ended_well: bool) -> None:
    """Print why a key can't log in, the reason first, with what mends each; and what may end later."""
    found, who = task["evidence"]["findings"], f"{task['server']}: the key of {task['login']}"
    output.say("")
    output.say(f"{who} gets in, and there is more to know" if ended_well else f"{who} can't log in, and why", style="bold")
    told: dict[str, str] = {}
    for number, one in enumerate(found, 1):
        indent = " " * (len(str(number)) + 1)
        told[f"{number} {one['code']}"] = str(one["message"])
        told[f"{indent}{'look' if one['kind'] == 'warning' else 'repair'}{' ' * number}"] = str(one["repair"])
    output.facts(told)
    mended = [number for number, one in enumerate(found, 1) if one["safe"] and one["kind"] in ("key", "doubt")]
    if mended and not ended_well:
        others = [
            str(number) for number, one in enumerate(found, 1) if number not in mended and one["kind"] in ("key", "session")
        ]
        after = f"once {' and '.join(others)} is mended, this does " if others else "this repairs "
        output.say(f"{after}{' and '.join(map(str, mended))}: {again.repair(task)}")


def plan(task: Known) -> None:
    """Print what an operation would do, file by file."""
    told, server = task["evidence"]["plan"], task["server"]
    output.say("")
    count = len(told["changes"])
    would = (
        "nothing would be changed" if not count else "1 change would be made" if count == 1 else f"{count} changes would be made"
    )
    output.say(f"{server}: {would}", style="bold")
    for change in told["changes"]:
        _change(change)
    # Once, where the same is asked for after each half of the change.
    proofs = dict.fromkeys(
        f"{each['way']} of {each['login']} {_WANTED.get(each['want'], each['want'])}" for each in told["proofs"]
    )
    known = {
        "first": task["evidence"].get("first"),
        "armed": told["armed"],
        "reload of": told["reload"],
        "proved by": ", ".join(proofs),
        "for good": told.get("for_good"),
        "locked out": ", ".join(told["locked_out"]),
        "limits": "; ".join(task["evidence"].get("limits", [])),
    }
    output.facts({name: value for name, value in known.items() if value})
    output.say(f"{server}: this is a plan; nothing was written")


def _change(change: Known) -> None:
    what = {
        "mode": "mode of",
        "owner": "owner of",
        "label": "label of",
        "directory": "new directory",
        "password": "password in",
    }.get(change["kind"])
    if what is not None:
        output.say(f"{what} {change['path']}" + (f": {change['before']} -> {change['after']}" if "before" in change else ""))
    for line in change.get("diff", []):
        output.say(line, style=_STYLE.get(line[:1], ""))
