"""The report of a rollout as Markdown, for people."""

import json
import re
from typing import TYPE_CHECKING, Any

from controller.plain import pairs, plain, seconds

if TYPE_CHECKING:
    from controller import answers as a

_NAMED = 50  # servers of a group; the report as JSON has a thousand
_LONGEST = 4000  # characters of evidence
_MEANS = re.compile(r"([\\`*_\[\]<>|#])")


def markdown(report: "a.RolloutReport") -> str:
    """Return the report of a rollout: what was asked, how it went, causes with an example each, and what to type next."""
    parts = [
        _head(report),
        _states(report),
        _labels(report),
        *map(_cause, report["failed_by"]),
        _not_done(report),
        _course(report),
    ]
    return "\n".join(part for part in parts if part)


def _head(report: "a.RolloutReport") -> str:
    keypair = report["keypair"]
    state = f"{report['state']}: {report['reason']}" if report["reason"] else report["state"]
    said = {name: value for name, value in report["request"].items() if name not in ("keypair", "given", "password_of")}
    strategy = {name: value for name, value in report["strategy"].items() if value not in (None, False, {}, [])}
    known = {
        "rollout": _code(report["id"]),
        "state": _text(state),
        "asked by": _text(report["asked_by"]),
        "asked at": seconds(report["created_at"]),
        "ran until": seconds(report["ended_at"]),
        "key pair": f"{_text(keypair['name'])} {_code(keypair['fingerprint'])}" if keypair else "",
        "options": _code(pairs(said)) if said else "",
        "strategy": _code(pairs(strategy)),
        "plan": _code(report["plan_id"]) if report["plan_id"] else "",
    }
    title = f"# {report['operation']}{' (plan)' if report['plans'] else ''} on {report['servers']} servers"
    return "\n".join([title, "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in known.items() if value), ""])


def _states(report: "a.RolloutReport") -> str:
    rows = [f"| {state} | {count} |" for state, count in report["states"].items() if count]
    rows += [f"| {_text(why)} | {count} |" for why, count in report["held"].items()]
    return "\n".join(["## Servers", "", "| state | servers |", "|---|---:|", *rows, ""])


def _labels(report: "a.RolloutReport") -> str:
    if not report["labels"]:
        return ""
    states = [state for state in report["states"] if any(of.get(state) for of in report["labels"].values())]
    head = [_text(str(report["strategy"]["per_label"])), *states]
    rows = [
        "| " + " | ".join([_text(label), *(str(of.get(state, 0)) for state in states)]) + " |"
        for label, of in sorted(report["labels"].items())
    ]
    columns = "|".join(["---", *("---:" for _ in states)])
    return "\n".join(
        [f"## By {_text(str(report['strategy']['per_label']))}", "", f"| {' | '.join(head)} |", f"|{columns}|", *rows, ""]
    )


def _cause(failed: "a.FailedBy") -> str:
    count = "1 server" if failed["servers"] == 1 else f"{failed['servers']} servers"
    lines = [
        f"## Failed by {_code(failed['cause'])}: {count}",
        "",
        _text(failed["meaning"]),
        "",
        f"**Do:** {_text(failed['handling'])}",
        "",
    ]
    example = failed["example"]
    if example is not None:
        lines += [f"As on {_text(example['server'])} (task {_code(example['task_id'])}, left {example['server_state']}):", ""]
        lines += [f"> {_text(example['message'])}", ""] if example["message"] else []
        if example["evidence"]:
            lines += ["```json", _evidence(example["evidence"]), "```", ""]
    return "\n".join(lines)


def _not_done(report: "a.RolloutReport") -> str:
    if not report["not_done"]:
        return ""
    lines = ["## Not done", ""]
    for group in report["not_done"]:
        why = group["cause"] or group["why"]
        names = ", ".join(map(_text, group["names"][:_NAMED]))
        more = group["servers"] - min(_NAMED, len(group["names"]))
        told = f"- **{group['servers']} {group['status'].replace('_', ' ')}**" + (f" ({_text(why)})" if why else "")
        lines.append(f"{told}: {names}" + (f" and {more} more" if more else ""))
        lines += ["", f"      {plain(group['next'])}", ""] if group["next"] else [""]
    return "\n".join(lines)


def _course(report: "a.RolloutReport") -> str:
    over = report["over_time"]
    told = [(mark["seconds"], mark["what"]) for mark in over["marks"]]
    for pause in over["pauses"]:
        told.append((pause["seconds"], f"{pause['what']}: {pause['reason']}" if pause["reason"] else pause["what"]))
        if pause["until"] is not None:
            told.append((pause["until"], "went on"))
    rows = [f"| {at:.1f} | {_text(what)} |" for at, what in sorted(told)]
    return "\n".join(["## Over time", "", "| second | what |", "|---:|---|", *rows, ""])


def _evidence(evidence: dict[str, Any]) -> str:
    text = json.dumps(evidence, indent=1)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "\n..."


def _text(words: str) -> str:
    """Return words so that Markdown shows them as they are."""
    return _MEANS.sub(r"\\\1", plain(words))


def _code(words: str) -> str:
    return f"`{plain(words).replace('`', '')}`".replace("|", "\\|")
