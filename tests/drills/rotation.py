"""`make rotation`: the root key of a home with many key pairs changed, and killed while it is: every key opens, none was opened.

Half of the kills come before or after a chosen effect (a row, the record, the disk told to keep it), half by the clock. After
each a sample of the key pairs is opened in a process of its own, then the rotation goes on. At the end all of them are.
"""

import argparse
import base64
import contextlib
import functools
import hashlib
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.progress import track

from controller.keyfiles import generate
from controller.kms import Kms, root
from controller.model import Caller, KeyPair, Sealed, Secret, now
from controller.service import home, rootkeys
from controller.settings import Settings
from controller.store import Store, engine, rows, tables
from tests import roots
from tests.drills.figures import Figure, Report, zero

PAIRS, TENANTS, KILLS = 100_000, 50, 100
SAMPLE_PAIRS, SAMPLE_TENANTS, SAMPLE_KILLS = 2_000, 10, 8
OPENED = 100  # key pairs, after each kill
_AT_ONCE = 1000


class Remembering:
    """A store whose master keys are looked up once: a hundred thousand secrets are sealed here."""

    def __init__(self, store: Store) -> None:
        self.master_key = functools.cache(store.master_key)
        self.master_key_by_id = functools.cache(store.master_key_by_id)
        self.master_key_version = functools.cache(store.master_key_version)
        self.add_default_key = store.add_default_key
        self.now = store.now


def fill(settings: Settings, pairs: int, tenants: int) -> None:
    """Make a home with so many managed key pairs, spread over so many tenants, straight through the tables."""
    home.initialise(settings)
    store = Store(settings.database_url)
    first = Kms(store, *root.roots(settings.home))
    callers = [Caller(uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex, "administrator") for _ in range(tenants)]
    for number, who in enumerate(callers):
        access_key = f"KEY{number:017}"
        sealed = first.seal(who.tenant_id, Secret("secret"), home.access_key_context(who, access_key))
        store.add_tenant(who, f"tenant {number}", "somebody", access_key, sealed, by="the drill")
    kms = Kms(Remembering(store), *root.roots(settings.home))  # type: ignore[arg-type]
    for begin in track(range(0, pairs, _AT_ONCE), "key pairs", transient=True):
        made = [_pair(kms, callers[number % tenants], number) for number in range(begin, min(begin + _AT_ONCE, pairs))]
        with engine.writing(store._engine) as connection:
            connection.execute(tables.keypairs.insert(), made)
    store.close()


def _pair(kms: Kms, who: Caller, number: int) -> dict[str, Any]:
    public, stored = generate("ed25519")
    keypair = KeyPair(
        str(uuid.uuid4()), who.tenant_id, who.user_id, "private", f"key-{number}", "ed25519", True,
        public.line(f"key-{number}"), public.fingerprint, public.fingerprint_md5, now(),
    )  # fmt: skip
    sealed = kms.seal_private(keypair, stored)
    stored.wipe()
    return rows.row(keypair) | {"sealed": sealed.record, "master_key_id": sealed.master_key_id, "number": number + 1}


# -- each thing in a process of its own --------------------------------------------------------------------------------


def apart(work: Callable[[], object], kill_after: float | None = None) -> int | None:
    """Do something in a child; return None where it came to its end, else the signal, or 0 where it failed by itself."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    return None if os.WEXITSTATUS(status) == 0 else 0


class Killed:
    """Counts the effects of this process, and kills it at the n-th: each is one point before it, and one after it."""

    def __init__(self, at: int, into: Path | None = None) -> None:
        self.at, self.count, self.into = at, 0, into
        for where, name in ((os, "replace"), (os, "fsync"), (Store, "rewrap_version"), (Store, "checkpoint")):
            setattr(where, name, self._counted(getattr(where, name)))

    def _counted(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self._point()
            result = effect(*arguments, **more)
            self._point()
            return result

        return counted

    def _point(self) -> None:
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def open_some(settings: Settings, names: list[str] | None) -> None:
    """Open key pairs (None: all) and see that each is the private half of its public one."""
    kms = Kms(store := Store(settings.database_url), *root.roots(settings.home))
    if names is None:
        kms = Kms(Remembering(store), *root.roots(settings.home))  # type: ignore[arg-type]
    with engine.reading(store._engine) as connection:
        table = tables.keypairs
        query = table.select() if names is None else table.select().where(table.c.name.in_(names))
        found = connection.execute(query).mappings().all()
    if names is not None and len(found) != len(names):
        raise RuntimeError(f"{len(found)} key pairs of {len(names)} are there")
    for each in found:
        keypair = rows.keypair(each)
        stored = kms.open_private(keypair, Sealed(each["sealed"]))
        public = Ed25519PrivateKey.from_private_bytes(stored.open()).public_key().public_bytes_raw()
        if base64.b64decode(keypair.public_key.split(" ")[1])[-32:] != public:
            raise RuntimeError(f"{keypair.name}: another private half")
        stored.wipe()
    store.close()


def ciphertexts(settings: Settings) -> str:
    """A digest of all that is sealed in the database, but the master keys."""
    digest = hashlib.sha256()
    for query in ("SELECT id, sealed FROM keypairs ORDER BY id", "SELECT access_key, sealed FROM access_keys ORDER BY 1"):
        for key, sealed in _asked(settings, query):
            digest.update(repr((key, sealed)).encode())
    return digest.hexdigest()


def kinds(settings: Settings) -> dict[str, int]:
    """How many events of each kind there are."""
    return dict(_asked(settings, "SELECT kind, count(*) FROM events GROUP BY kind"))


def _asked(settings: Settings, query: str) -> Iterator[tuple[Any, Any]]:
    connection = sqlite3.connect(settings.database)
    try:
        yield from connection.execute(query)
    finally:
        connection.close()


# -- the drill ---------------------------------------------------------------------------------------------------------


def drill(directory: Path, pairs: int, tenants: int, kills: int, report: Report) -> None:
    settings = Settings(home=directory / "home")
    os.environ.update(roots.token(directory))
    begun = time.monotonic()
    if not settings.home.exists():
        if apart(lambda: fill(settings, pairs, tenants)) is not None:
            report.misses.append("the home could not be filled")
            return
        print(f"{pairs} key pairs of {tenants} tenants in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if kills == 0:
        return
    before, seen = ciphertexts(settings), kinds(settings)
    ways = ["file:root.key", roots.pkcs11(directory)]
    taken: list[float] = []

    def turn(number: int) -> str:
        return ways[(number + 1) % 2]

    def rotate(number: int, *, go_on: bool = False, killed: int | None = None) -> None:
        if killed is not None:
            Killed(killed)
        rootkeys.rotate(settings, None if go_on else turn(number))

    # Twice undisturbed, there and back: how long it takes.
    for number in (0, 1):
        begun = time.monotonic()
        if apart(functools.partial(rotate, number)) is not None:
            report.misses.append(f"the rotation to {turn(number)} failed")
            return
        taken.append(time.monotonic() - begun)
    points = 4 * 2 * 2 + 2 * (tenants + 1) + 2  # of the record's two changes; of each row; of the log
    pick = random.Random(4711)
    died = stuck = changed = 0
    for number in range(3 * kills):  # the clock may come too late
        if died == kills:
            break
        if number % 10 == 0:
            print(f"{died} kills", file=sys.stderr)
        name = f"kill {number}, to {turn(number).partition('?')[0]}"
        if number % 2:
            ended = apart(functools.partial(rotate, number), kill_after=pick.uniform(0.05, 1.0) * taken[number % 2])
        else:
            ended = apart(functools.partial(rotate, number, killed=number * (points - 1) // kills % points))
        died += ended == signal.SIGKILL
        some = [f"key-{which}" for which in pick.sample(range(pairs), min(OPENED, pairs))]
        if ended == 0 or apart(functools.partial(open_some, settings, some)) is not None:
            stuck += 1
            report.misses.append(f"{name}: not every key pair opens")
        if ciphertexts(settings) != before:
            changed += 1
            report.misses.append(f"{name}: a ciphertext was changed")
        on_record = [each.uri for each in root.known(settings.home)]
        go_on = len(on_record) == 2
        if on_record != [turn(number)] and apart(functools.partial(rotate, number, go_on=go_on)) is not None:
            stuck += 1
            report.misses.append(f"{name}: it does not go on")
    opened = apart(lambda: open_some(settings, None)) is None
    if not opened:
        report.misses.append("at the end not every key pair opens")
    after = kinds(settings)
    others = {kind for kind in after if after[kind] != seen.get(kind, 0)} - {"master_key_rewrapped"}
    report.add(
        Figure("key pairs", pairs, at_least=0 if report.sample else PAIRS),
        Figure("master keys", tenants + 1),
        Figure("kills", died, kills, kills),
        zero("points at which a key did not open, or it did not go on", stuck),
        zero("ciphertexts changed", changed),
        zero("events of another kind than the wrapping", len(others)),
        Figure("key pairs that open at the end", pairs if opened else 0, pairs, pairs),
        Figure("time for each key pair, to the token", 1e6 * taken[0] / pairs, unit=" us"),
        Figure("time for each master key, to the token", 1e3 * taken[0] / (tenants + 1), unit=" ms"),
        Figure("time for each master key, to the file", 1e3 * taken[1] / (tenants + 1), unit=" ms"),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", action="store_true", help="a few kills of a small home")
    parser.add_argument("--into", type=Path, metavar="DIRECTORY", help="keep the home there, or use the one that is there")
    parser.add_argument("--fill", action="store_true", help="make the home and stop")
    arguments = parser.parse_args()
    pairs, tenants, kills = (SAMPLE_PAIRS, SAMPLE_TENANTS, SAMPLE_KILLS) if arguments.sample else (PAIRS, TENANTS, KILLS)
    report = Report("rotation", sample=arguments.sample)
    with tempfile.TemporaryDirectory(prefix="kps-rotation-") as temporary:
        directory = arguments.into or Path(temporary)
        if arguments.fill:
            drill(directory, pairs, tenants, 0, report)
            return 1 if report.misses else 0
        drill(directory, pairs, tenants, kills, report)
    return report.ended()


if __name__ == "__main__":
    sys.exit(main())
