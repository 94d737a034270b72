"""`make passwords`: passwords of a hundred logins are rotated while controller, agents, servers and log-ins fail.

At every moment the current or the previous version that is kept is the one that works: looked up in shadow all the time, and
tried by OpenSSH's client after each round. In the end all have come to their servers.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from controller.demo.fleet import Fleet, Login, Spec
from tests.drills.figures import Figure, Report, joined, zero
from tests.fleet.passwords import FAULTS, Place, story
from tests.fleet.product import Product

LOGINS, SERVERS, ROUNDS = 100, 10, 20
SAMPLE_LOGINS, SAMPLE_SERVERS, SAMPLE_ROUNDS = 12, 3, 5


def tried(report: Report, directory: Path, logins: int, servers: int, rounds: int) -> None:
    """Carry it out, and add what was seen to the report."""
    with Fleet(max_age_seconds=6 * 3600) as fleet, Product(directory / "home", lease_seconds=10, deadline_seconds=20) as product:
        places = []
        for number in range(servers):
            names = [f"user{each}" for each in range(number, logins, servers)]
            server = fleet.add(Spec(logins=tuple(Login(name, f"first word of {name}") for name in names)))
            product.add(server)
            product.succeeds("bind", server, keypair=product.keypair(), keep_password_login=True, password=server.root_password)
            places += [Place(server, name, f"{server.name}-{name}") for name in names]
        seen = story(product, places, rounds)
    report.add(
        Figure("logins", len(places), at_least=logins),
        Figure("rounds in which something failed", seen.faults.total(), at_least=rounds),
        *(Figure(f"of them {fault.__name__}", seen.faults[fault.__name__], at_least=1) for fault in FAULTS),
        Figure("rotations that came to their end", seen.done, at_least=logins),
        Figure("failed tries on the way", seen.failed.total(), at_least=1),
        Figure("looks at a login's shadow", seen.looks, at_least=logins * rounds),
        Figure("log-ins tried by OpenSSH's client", seen.logins_tried, at_least=logins),
        zero("moments at which neither version worked", len(seen.locked_out)),
        zero("otherwise than promised", len(seen.misses)),
    )
    report.misses += [joined(each, 20) for each in (seen.locked_out, seen.misses) if each]
    print("failed tries: " + ", ".join(f"{cause} {count}" for cause, count in seen.failed.most_common()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a few minutes of it")
    parser.add_argument("--rounds", type=int, help="so many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures there, too")
    asked = parser.parse_args()
    whole = (LOGINS, SERVERS, ROUNDS)
    logins, servers, rounds = (SAMPLE_LOGINS, SAMPLE_SERVERS, SAMPLE_ROUNDS) if asked.sample else whole
    report = Report("passwords", sample=asked.sample or asked.rounds is not None)
    with tempfile.TemporaryDirectory() as directory:
        tried(report, Path(directory), logins, servers, asked.rounds or rounds)
    return report.ended(asked.json)


if __name__ == "__main__":
    sys.exit(main())
