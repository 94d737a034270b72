"""CPU per event and per transaction: chained and signed, chained only, and as a plain row.

    python -m benchmarks.events [--events 2000]

A rollout writes about ten events per server, in as many transactions. Ratios count; absolute figures move with the machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import MetaData, Table, text

from controller import kps_audit_verify as verifier
from controller.kms import Kms, root
from controller.model import now
from controller.service.auditkeys import AuditKeys
from controller.service.home import initialise
from controller.settings import Settings
from controller.store import Store, engine

OF_A_TASK = {"task_id": "t" * 36, "server_id": "s" * 36}
DETAIL = {"server": "web-1", "login": "root", "keypair": "ops", "proof": "logged_in"}
IN_ONE = 50


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asks.add_argument("--events", type=int, default=2000)
    events = asks.parse_args().events
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(home=Path(place) / "home")
        initialise(settings)
        store = Store(settings.database_url)
        who = store.caller_by_local_home()
        plain = engine.connect(f"sqlite:///{place}/plain.db")
        with engine.writing(plain) as connection:
            connection.execute(
                text(
                    "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, tenant_id VARCHAR(32), task_id VARCHAR(36),"
                    " server_id VARCHAR(36), kind TEXT, phase TEXT, detail JSON, at DATETIME)"
                )
            )
            connection.execute(text("CREATE INDEX ix_task ON events (task_id)"))
            connection.execute(text("CREATE INDEX ix_tenant ON events (tenant_id)"))
        table = Table("events", MetaData(), autoload_with=plain)

        def as_a_row(count: int) -> None:
            with engine.writing(plain) as connection:
                for _ in range(count):
                    connection.execute(
                        table.insert().values(
                            tenant_id=who.tenant_id,
                            task_id="t" * 36,
                            server_id="s" * 36,
                            kind="binding_set",
                            detail=DETAIL,
                            at=now(),
                        )
                    )

        def chained(count: int) -> None:
            with engine.writing(store._engine) as connection:
                for _ in range(count):
                    store._event(
                        connection,
                        who.tenant_id,
                        "binding_set",
                        DETAIL,
                        user_id=who.user_id,
                        task_id="t" * 36,
                        server_id="s" * 36,
                    )

        told("a plain row", as_a_row, events)
        told("chained, unsigned", chained, events)
        keys = AuditKeys(store, Kms(store, *root.roots(settings.home, settings.root_key_uri)))
        store.sign_with(keys)
        told("chained and signed", chained, events)
        number = store.reach(who.tenant_id).number
        kept = store.add_checkpoint(who.tenant_id)
        store.close()
        assert kept is not None
        said = {"tenant_id": kept.tenant_id, "first": kept.first, "previous": kept.previous, "number": kept.number}
        said |= {"digest": kept.digest, "at": verifier_time(kept.at), "signature": kept.signature}
        began = time.process_time()
        with verifier.trails(str(settings.database)) as found:
            for trail in found:
                verifier.check(trail, None, said)
        print(f"verifying {number} events: {(time.process_time() - began) / number * 1e6:.0f} us each")


def verifier_time(at: object) -> str:
    return str(at).replace(" ", "T").replace("+00:00", "Z")


def told(name: str, write: Callable[[int], None], events: int) -> None:
    """Print what one event costs, alone in its transaction, and among others."""
    figures = []
    for in_one in (1, IN_ONE):
        write(in_one)
        began = time.process_time()
        for _ in range(events // in_one):
            write(in_one)
        figures.append((time.process_time() - began) / (events // in_one * in_one) * 1e6)
    print(f"{name}: {figures[0]:.0f} us of CPU alone in a transaction, {figures[1]:.0f} us among {IN_ONE}")


if __name__ == "__main__":
    main()
