"""`make installs`: the README's way from an empty machine to a bound server, the service as systemd runs it, the image.

All of it in Docker: an empty Debian 12, and a 13, with systemd as process 1; then the controller's own image as
docker/compose-one.yaml has it, and as several of one PostgreSQL are in docker/compose.yaml.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.drills.figures import Report
from tests.drills.fleet.docker import DockerUnavailable, answering
from tests.drills.installs import image, machine, shared

PARTS = {
    "debian-12": machine.older,
    "debian-13": machine.newer,
    "image": image.older,
    "image-13": image.newer,
    "shared": shared.composed,
}
OF_A_SAMPLE = ("debian-12",)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make installs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sample", action="store_true", help="the package is built here, not on the empty machine; no Debian 13, no image"
    )
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="these parts only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    report = Report("installs", given.sample or given.only != list(PARTS))
    try:
        with answering() as client, tempfile.TemporaryDirectory(prefix="kps-") as directory:
            for name in given.only:
                if given.sample and name not in OF_A_SAMPLE:
                    continue
                (place := Path(directory, name)).mkdir()
                PARTS[name](report, client, place, given.sample)
    except DockerUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    return report.ended(given.json)


if __name__ == "__main__":
    sys.exit(main())
