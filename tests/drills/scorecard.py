"""python -m tests.drills.scorecard: what the drills measured last, as the table of docs/scorecard.md; writes it there too.

Each drill leaves its figures in build/drills; one of a sample is called so. Exit code 1 where a goal is missed,
or nothing was measured.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.drills.figures import KEPT

PAGE = Path(__file__).parents[2] / "docs/scorecard.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


class Row(NamedTuple):
    """One line of the scorecard. drill and pattern: whose figures, and which."""

    code: str
    metric: str
    goal: str
    drill: str
    pattern: str


ROWS = (
    Row(
        "K1",
        "the agent killed at every system call that changes something",
        "0 lock-outs, 0 half-written, 0 left",
        "faults",
        r"kills: ",
    ),
    Row(
        "K1",
        "the shell agent, or one of its processes, killed at each such call",
        "the same",
        "faults",
        r"kills without Python: ",
    ),
    Row("K1", "the power fails at every such call", "the same", "faults", r"power: "),
    Row(
        "K2",
        "every such call fails (ENOSPC, EIO, EDQUOT, EROFS, EACCES)",
        "0 bad states, the error named",
        "faults",
        r"errors: (?!ended)",
    ),
    Row("K2", "the shell agent's calls fail", "the same", "faults", r"errors without Python: "),
    Row(
        "K3, K4",
        "controller killed, network cut, reboot, at every event of a task",
        "old or new way in within deadline + 5 s, on record within 30 s",
        "faults",
        r"controller: ",
    ),
    Row(
        "K5",
        "dead-man: whatever is lost while passwords are closed and nothing is confirmed",
        "all open again within deadline + 5 s",
        "faults",
        r"dead-man: ",
    ),
    Row("A4", "200 servers with mixed faults, after a replace", "0 on which neither key works", "faults", r"mixed: "),
    Row("F1", "hostile authorized_keys files, judged by a real sshd", "0 missed, 0 bytes of others changed", "fuzz", r"keys: "),
    Row("F2", "generated sshd configurations", "0 broken, 0 other settings changed, removed to the byte", "fuzz", r"configs: "),
    Row("F3", "parsers", "0 uncaught, under 200 MB", "fuzz", r"parsers: (?!inputs)"),
    Row(
        "F4",
        "states of paths and accounts, against a real login",
        "0 disagreements",
        "fuzz",
        r"states on .*: (rows|disagreements)",
    ),
    Row("F3", "key files of every format, mutated; bombs", "0 uncaught, none over 1 s", "fuzz", r"keyfiles: "),
    Row("F5", "requests from both OpenAPI documents", "0 of 5xx, 0 undocumented, 0 of another form", "fuzz", r"apis: "),
    Row("P2", "key files of every kind and format, judged by ssh-keygen, puttygen and openssl", "every one", "formats", r""),
    Row(
        "R1",
        "others edit while we bind: whole operations, and at full speed",
        "0 foreign lines lost, ours there or told",
        "faults",
        r"writers: .*(lost|bound)",
    ),
    Row(
        "R2",
        "many operations at once on one host",
        "one after the other, 0 interleaved",
        "faults",
        r"writers: (append|rename): (operations|refused)",
    ),
    Row("A6", "a hostile login swaps its files for links for a minute", "0 escapes", "faults", r"race: "),
    Row(
        "A1",
        "flavours of servers",
        "at least 12 green, at most 2 refuse anything",
        "fleet",
        r"(flavours|green|refusing|scenarios|failed)",
    ),
    Row("A5", "the doctor", "95 % named first, 0 false alarms", "causes", r"(?!seconds)"),
    Row(
        "R3",
        "the controller ended, told to or killed, while clients submit and poll",
        "0 tasks lost, each with exactly one end",
        "restarts",
        r"",
    ),
    Row(
        "R4",
        "rollouts over real servers and fakes, their controller killed in every phase",
        "each task with exactly one end, each server as it says, 0 keys and 0 credentials left",
        "rollouts",
        r"",
    ),
    Row(
        "R5",
        "two workers of one PostgreSQL stopped and woken, killed, or left without it",
        "each task with exactly one end, each server as on record, what was late refused there",
        "workers",
        r"",
    ),
    Row(
        "E1",
        "emergency doors whose controller, network, watcher or server is lost; every flavour opened and closed",
        "closed within 5 s of the deadline, 100 %; files as before",
        "doors",
        r"",
    ),
    Row(
        "E2",
        "passwords of logins rotated while controller, agents, sessions or servers are lost",
        "the current or the previous version works at every moment",
        "passwords",
        r"",
    ),
    Row("P3", "another root key, killed at 100 points", "every key opens, 0 ciphertexts changed, 0 opened", "rotation", r""),
    # What no drill measures: the ordinary suite holds it, whole, in each run; by what, stands in the place of a pattern.
    Row(
        "Q1",
        "any event edited, removed, cut off, swapped or put in",
        "named, 1,000 of 1,000 trials",
        "tests",
        "held by `pytest tests/controller/test_audit_chain.py`",
    ),
    Row(
        "M1",
        "another host key, a machine in between, old algorithms",
        "refused before any credential is sent",
        "tests",
        "held by `pytest -m cause` (`host_key_changed`, `host_key_unknown`, `algorithms_incompatible`)",
    ),
)


def table(kept: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """Return the table in Markdown, and what is missed in it."""
    lines = ["| | what | goal | measured | when and how |", "|---|---|---|---|---|"]
    missed = []
    for row in ROWS:
        if row.drill == "tests":
            lines.append(f"| {row.code} | {row.metric} | {row.goal} | {row.pattern} | `make test` |")
            continue
        found = {name: figure for name, figure in kept.get(row.drill, {}).items() if re.match(row.pattern, name)}
        missed += [
            f"{row.code}: {name} is {figure['value']:g}, not {figure['goal']}"
            for name, figure in found.items()
            if not figure["met"]
        ]
        missed += [] if found else [f"{row.code}: not measured (make {row.drill})"]
        lines.append(f"| {row.code} | {row.metric} | {row.goal} | {_measured(found)} | {_how(found)} |")
    return "\n".join(lines) + "\n", missed


def _measured(found: dict[str, Any]) -> str:
    """Return the figures in words, those that must be 0 and are at the end."""
    said = [
        f"{_short(name)} {figure['value']:g}{figure['unit']}" + ("" if figure["met"] else " **missed**")
        for name, figure in found.items()
        if not _is_nothing(figure)
    ]
    nothing = [_short(name) for name, figure in found.items() if _is_nothing(figure)]
    return "; ".join(said + ([f"0: {', '.join(nothing)}"] if nothing else [])) or "not measured"


def _is_nothing(figure: dict[str, Any]) -> bool:
    return figure["value"] == 0 and figure["goal"] == "= 0"


def _short(name: str) -> str:
    return name.partition(": ")[2] or name


def _how(found: dict[str, Any]) -> str:
    ways = dict.fromkeys(
        f"{figure['date']}{' (a sample)' if figure['sample'] else ''} `{figure['command']}`" for figure in found.values()
    )
    return ", ".join(ways)


def main() -> int:
    kept = {path.stem: json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))}
    text, missed = table(kept)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    print(text, end="")
    for each in missed:
        print(f"- {each}")
    print(f"scorecard: {'ok' if not missed else 'MISSED'}: {len(ROWS)} rows, {len(missed)} missed or not measured")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
