"""`make fuzz`: prints what was tried and what went wrong, each figure against its goal.

python -m tests.drills.fuzz                      the whole: half an hour on two cores
python -m tests.drills.fuzz --keep build/fuzz --within 300           five minutes of it; the same again goes on
python -m tests.drills.fuzz --sample             what CI runs
python -m tests.drills.fuzz --only configs --seed 7 --number 140     one case again
python -m tests.drills.fuzz --only parsers --long                    ten minutes a parser
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from controller.demo.fleet import Fleet, Login, Spec
from controller.keyfiles import apart
from controller.model import Secret
from tests.controller.sockets import serving
from tests.drills import inside
from tests.drills.figures import Figure, Report, joined, zero
from tests.drills.fuzz import apis, configs, keyfiles, keys, parsers, permissions

PARTS = ("keys", "configs", "permissions", "parsers", "keyfiles", "apis")
TREES = {"host": "9.2", "bullseye": "8.4", "trixie": "10.0"}  # and the OpenSSH in it
# How many cases on each tree: the whole, and a sample.
COUNTS = {
    "keys": ({"host": 10_000, "bullseye": 500, "trixie": 500}, {"host": 160}),
    "configs": ({"host": 1_600, "bullseye": 200, "trixie": 200}, {"host": 80}),
    "permissions": (dict.fromkeys(TREES, 1), {"host": 1}),
}
KEY_FILES, KEY_FILES_SAMPLE = 100_000, 3_000
API_EXAMPLES, API_EXAMPLES_SAMPLE = 100, 1  # requests of each call that fit its document, and as many that do not
GOALS = {"keys": 10_000, "configs": 1_500}
# How often at least, for each file or configuration: about half of what a sound product comes to.
LEAST = {
    "keys": {"verdicts": 4, "bound": 0.7, "unbound": 0.7, "replaced": 0.15},
    "configs": {"bound": 0.2, "logins by key": 0.5, "logins by password": 1},
}
MOST_REFUSED_THOUGH_SOUND = 0.05
MANY = 50  # of fewer cases no share is asked for, only that each came to pass once
A_BATCH = {"keys": 250, "configs": 50, "keyfiles": 2_500}
PARSER_SECONDS, PARSER_SAMPLE_SECONDS, PARSER_LONG_SECONDS = 30.0, 1.5, 600.0
BATCH_SECONDS = 900.0
BOMB_SECONDS = 2.0  # by the clock, each read in a process of its own
KEY_MISSES = (
    "exceptions", "finder missed a key", "bound key not accepted", "removed key still accepted", "untouched bytes changed",
    "not as before", "operation failed",
)  # fmt: skip
CONFIG_MISSES = (
    "broken", "unrelated settings changed", "removal not byte-identical", "prediction wrong", "passwords left open",
    "removed key gets in", "not removed", "not as before", "puzzled",
)  # fmt: skip


class Batch(NamedTuple):
    """Some cases of one part for one server."""

    part: str
    tree: str
    work: Callable[..., Any]
    given: tuple[Any, ...]
    logins: tuple[Login, ...]


class Tried(NamedTuple):
    tally: Counter[str]
    misses: list[str]
    notes: list[str]


def batches(wanted: argparse.Namespace) -> list[Batch]:
    found = []
    for part, work, logins in (("configs", configs.tried, configs.LOGINS), ("keys", keys.tried, keys.LOGINS)):
        if part in wanted.only:
            for tree, count in _counts(part, wanted).items():
                numbers = [wanted.number] if wanted.number is not None else list(range(count))
                size = min(A_BATCH[part], -(-len(numbers) // wanted.workers))
                for start in range(0, len(numbers), size):
                    given = (numbers[start : start + size], wanted.seed, BATCH_SECONDS)
                    found.append(Batch(part, tree, work, given, logins))
    if "permissions" in wanted.only:
        found += [
            Batch("permissions", tree, permissions.tried, (), permissions.LOGINS) for tree in _counts("permissions", wanted)
        ]
    return found


def _counts(part: str, wanted: argparse.Namespace) -> dict[str, int]:
    whole, sample = COUNTS[part]
    counts = sample if wanted.sample else whole
    if wanted.count is not None:
        counts = dict.fromkeys(counts, wanted.count)
    return {tree: count for tree, count in counts.items() if wanted.tree in (None, tree)}


def kept_or_carried_out(fleet: Fleet, batch: Batch, wanted: argparse.Namespace, until: float) -> Tried:
    """Return what is kept of a batch; else do it, and keep that. After until none is begun any more."""
    if wanted.keep is None:
        return carried_out(fleet, batch)
    about = hashlib.sha256(repr((batch.part, batch.tree, batch.given)).encode()).hexdigest()[:16]
    path = wanted.keep / f"{batch.part}-{batch.tree}-{about}.json"
    if path.exists():
        tally, misses, notes = json.loads(path.read_text())
        return Tried(Counter(tally), misses, notes)
    if time.monotonic() > until:
        return Tried(Counter({"not tried yet": 1}), [], [])
    tried = carried_out(fleet, batch)
    if not tried.tally["broken off"]:
        wanted.keep.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tried))
    return tried


def carried_out(fleet: Fleet, batch: Batch) -> Tried:
    """Do a batch in a server of its own."""
    server = fleet.add(Spec(tree=batch.tree, logins=batch.logins, root_password="pw-root"))
    try:
        return Tried(*inside.started(server, batch.work, *batch.given).ended())
    except inside.Failed as failed:
        return Tried(Counter({"broken off": 1}), [f"{batch.part} on {batch.tree}: {failed}"], [])
    finally:
        fleet.remove(server)


def in_servers(wanted: argparse.Namespace) -> dict[tuple[str, str], Tried]:
    """Everything that needs a server, in a few of them at a time."""
    todo = batches(wanted)
    found: dict[tuple[str, str], Tried] = {}
    if not todo:
        return found
    until = time.monotonic() + wanted.within
    # Threads only wait here: what is done is done by a process inside each server.
    with Fleet(max_age_seconds=3 * 3600) as fleet, ThreadPoolExecutor(wanted.workers) as pool:
        for batch, tried in zip(todo, pool.map(lambda each: kept_or_carried_out(fleet, each, wanted, until), todo), strict=True):
            known = found.setdefault((batch.part, batch.tree), Tried(Counter(), [], []))
            for name, number in tried.tally.items():
                known.tally[name] += number
            known.misses.extend(tried.misses)
            known.notes.extend(tried.notes)
    return found


def of_parsers(wanted: argparse.Namespace) -> dict[str, tuple[Counter[str], list[str]]]:
    if "parsers" not in wanted.only:
        return {}
    seconds = PARSER_LONG_SECONDS if wanted.long else PARSER_SAMPLE_SECONDS if wanted.sample else PARSER_SECONDS
    with get_context("fork").Pool(wanted.workers) as pool:
        names = [target.name for target in parsers.targets()]
        return dict(zip(names, pool.starmap(_one_parser, [(n, wanted.seed, seconds) for n in range(len(names))]), strict=True))


def _one_parser(number: int, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    return parsers.tried(parsers.targets()[number], seed, seconds)


def of_keyfiles(wanted: argparse.Namespace) -> tuple[Tried, dict[str, float]] | None:
    """Return what came of changed key files, and the seconds that each bomb took."""
    if "keyfiles" not in wanted.only:
        return None
    count = wanted.count or (KEY_FILES_SAMPLE if wanted.sample else KEY_FILES)
    numbers = range(count) if wanted.number is None else range(wanted.number, wanted.number + 1)
    size = A_BATCH["keyfiles"]
    todo = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    found = Tried(Counter(), [], [])
    bombs = {name: keyfiles.refused_in_time(text, _apart) for name, text in keyfiles.bombs().items()}
    until = time.monotonic() + wanted.within
    # A process for each batch, as each has a limit of its own.
    with get_context("fork").Pool(wanted.workers, maxtasksperchild=1) as pool:
        given = [(wanted.seed, batch, wanted.keep, until) for batch in todo]
        for tally, misses in pool.imap(_some_keyfiles, given):
            for most in ("slowest ms", "peak MiB"):
                found.tally[most] = max(found.tally[most], tally.pop(most, 0))
            found.tally.update(tally)
            found.misses.extend(misses)
    return found, bombs


def _some_keyfiles(given: tuple[int, range, Path | None, float]) -> tuple[dict[str, int], list[str]]:
    seed, batch, keep, until = given
    path = keep and keep / f"keyfiles-{seed}-{batch.start}-{batch.stop}.json"
    if path and path.exists():
        kept: tuple[dict[str, int], list[str]] = json.loads(path.read_text())
        return kept
    if path and time.monotonic() > until:
        return {"batches not tried yet": 1}, []
    tried = keyfiles.tried(seed, batch)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tried))
    return tried


def of_apis(wanted: argparse.Namespace) -> Tried | None:
    """Return what came of requests to both APIs of a controller that is served for it."""
    if "apis" not in wanted.only:
        return None
    examples = wanted.count or (API_EXAMPLES_SAMPLE if wanted.sample else API_EXAMPLES)
    with tempfile.TemporaryDirectory(prefix="kps-") as directory, serving(Path(directory) / "home", **apis.UNHINDERED) as served:
        tally, misses = apis.tried(apis.Face.of(served), wanted.seed, examples)
    return Tried(tally, misses, [])


def report_apis(report: Report, tried: Tried) -> None:
    tally = tried.tally
    report.add(
        Figure("apis: calls", tally["calls"], 100),
        Figure("apis: requests", tally["requests"], tally["calls"]),
        # Where everything is refused, or nothing, the requests are of one kind only.
        Figure("apis: done as asked", tally["answers 2xx"], 0.1 * tally["requests"]),
        Figure("apis: refused", tally["answers 4xx"], 0.1 * tally["requests"]),
        zero("apis: server errors", tally["answers 5xx"]),
        zero("apis: statuses that no document names", tally[apis.UNDOCUMENTED]),
        zero("apis: answers of another form", tally[apis.ANOTHER_FORM]),
    )
    report.misses += tried.misses


def _apart(text: Secret, word: Secret) -> Any:
    return asyncio.run(apart.read_private(text, word))


def report_keyfiles(report: Report, tried: Tried, bombs: dict[str, float], one: bool) -> None:
    tally = tried.tally
    formats = [name for name in tally if name.startswith("format: ")]
    report.add(
        Figure("keyfiles: files", tally["files"], 1 if report.sample else KEY_FILES),
        Figure("keyfiles: formats", len(formats), None if one else 15),
        # Where nothing is read or nothing refused, the files are too far from sound ones, or too near.
        Figure("keyfiles: read all the same", tally["code: read"], None if one else 0.01 * tally["files"]),
        Figure(
            "keyfiles: refused", tally["files"] - tally["code: read"] - tally["uncaught"], None if one else 0.3 * tally["files"]
        ),
        zero("keyfiles: uncaught", tally["uncaught"]),
        zero("keyfiles: too slow", tally["too slow"]),
        Figure("keyfiles: slowest", tally["slowest ms"], at_most=1000 * keyfiles.LONGEST_SECONDS, unit=" ms"),
        Figure("keyfiles: most memory", tally["peak MiB"], at_most=keyfiles.LARGEST_MEMORY >> 20, unit=" MiB"),
        zero("keyfiles: batches not tried yet", tally["batches not tried yet"]),
        Figure("keyfiles: bombs refused", len(bombs), 15),
        Figure("keyfiles: slowest bomb", max(bombs.values()), at_most=BOMB_SECONDS, unit=" s"),
    )
    report.misses += tried.misses


def reported(
    wanted: argparse.Namespace,
    served: dict[tuple[str, str], Tried],
    parsed: dict[str, Any],
    key_files: tuple[Tried, dict[str, float]] | None = None,
    asked: Tried | None = None,
) -> Report:
    one = wanted.number is not None
    report = Report("fuzz", bool(wanted.sample or wanted.count or one or wanted.tree))
    for part in ("keys", "configs"):
        trees = [tree for tree in TREES if (part, tree) in served]
        tally: Counter[str] = Counter()
        for tree in trees:
            tally.update(served[part, tree].tally)
        if not trees:
            continue
        name = {"keys": "files", "configs": "configurations"}[part]
        report.add(Figure(f"{part}: {name}", tally[name], 1 if report.sample else GOALS[part]))
        report.add(*(Figure(f"{part}: on OpenSSH {TREES[tree]}", served[part, tree].tally[name]) for tree in trees))
        # Where everything is refused nothing goes wrong: so much of it must have come to pass. One case may well be refused.
        for what, share in LEAST[part].items():
            least = None if one else share * tally[name] if tally[name] >= MANY else 1
            report.add(Figure(f"{part}: {what}", tally[what], least))
        report.add(*(zero(f"{part}: {each}", tally[each]) for each in {"keys": KEY_MISSES, "configs": CONFIG_MISSES}[part]))
        if part == "configs":
            refused = sum(number for each, number in tally.items() if each.startswith("refused: "))
            report.add(
                Figure("configs: refused", refused),
                Figure(
                    "configs: refused though sound",
                    tally["refused though sound"],
                    at_most=tally[name] * MOST_REFUSED_THOUGH_SOUND if tally[name] >= MANY else None,
                ),
            )
            report.add(Figure("configs: left to the proof", tally["left to the proof: forced command"]))
        report.add(
            zero(f"{part}: broken off", tally["broken off"]), zero(f"{part}: batches not tried yet", tally["not tried yet"])
        )
    for tree in TREES:
        if ("permissions", tree) in served:
            tally, name = served["permissions", tree].tally, f"states on OpenSSH {TREES[tree]}"
            report.add(Figure(f"{name}: rows", tally["rows"], 78), zero(f"{name}: disagreements", tally["disagreements"]))
            report.add(
                *(Figure(f"{name}: {each}", tally[each]) for each in ("doubtful", "not written through", "left to the proof"))
            )
            report.add(zero(f"{name}: broken off", tally["broken off"] + tally["not tried yet"]))
    if parsed:
        report.add(*(Figure(f"parsers: inputs for {name}", tally["inputs"], 1) for name, (tally, _) in parsed.items()))
        tallies = [tally for tally, _ in parsed.values()]
        report.add(*(zero(f"parsers: {what}", sum(tally[what] for tally in tallies)) for what in ("uncaught", "too slow")))
        most = max(tally["peak MiB"] for tally in tallies)
        report.add(Figure("parsers: most memory", most, at_most=parsers.LARGEST_MEMORY >> 20, unit=" MiB"))
    if key_files is not None:
        report_keyfiles(report, *key_files, one)
    if asked is not None:
        report_apis(report, asked)
    for _, misses in parsed.values():
        report.misses += misses
    for tried in served.values():
        report.misses += tried.misses
    return report


def show_what_was_met(served: dict[tuple[str, str], Tried], verbose: bool) -> None:
    for (part, tree), tried in served.items():
        dangers = {name.removeprefix("danger: "): n for name, n in tried.tally.items() if name.startswith("danger: ")}
        if dangers:
            rarest = sorted(dangers, key=lambda name: dangers[name])
            print(f"{part} on OpenSSH {TREES[tree]}: {len(dangers)} dangers, the rarest: {joined(rarest)}")
        for name, number in sorted(tried.tally.items()):
            if verbose or name.startswith(("refused", "as_before", "reverted", "undone")):
                print(f"{part} on OpenSSH {TREES[tree]}: {name}: {number}")
        for note in tried.notes if verbose else tried.notes[:5]:
            print(f"  {note}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--sample", action="store_true", help="three minutes' worth, as CI runs it")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given more than once")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--number", type=int, help="the one case of this number")
    parser.add_argument("--count", type=int, help="so many cases on each OpenSSH")
    parser.add_argument("--tree", choices=TREES, help="servers of this kind only")
    parser.add_argument("--long", action="store_true", help="ten minutes for each parser")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--keep", type=Path, help="keep what each batch gave in this directory, and do not try it again")
    parser.add_argument("--within", type=float, default=86400, help="with --keep: begin no batch after so many seconds")
    parser.add_argument("--into", type=Path, help="write the figures as JSON, too")
    parser.add_argument("--verbose", action="store_true")
    wanted = parser.parse_args()
    # More requests by the same dice than a sample has of both APIs are made by tests/controller/test_documents_hold.py.
    wanted.only = wanted.only or tuple(part for part in PARTS if part != "apis" or not wanted.sample)
    parsed, key_files, asked = of_parsers(wanted), of_keyfiles(wanted), of_apis(wanted)
    served = in_servers(wanted)
    show_what_was_met(served, wanted.verbose)
    return reported(wanted, served, parsed, key_files, asked).ended(wanted.into)


if __name__ == "__main__":
    sys.exit(main())
