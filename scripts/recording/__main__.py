"""Records a rollout over real servers of a fleet on this machine, from the first command to what is left to do.

python -m scripts.recording docs/rollout-recorded                  # .cast and .svg; 500 servers: some minutes, about 5 GiB
python -m scripts.recording docs/rollout-recorded --servers 50
python -m scripts.recording docs/rollout-recorded --draw           # the SVG only, of the .cast that is there
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from controller.demo.fleet import Fleet, Server, Spec
from scripts.recording.svg import drawn
from scripts.recording.terminal import Recording

COLUMNS, ROWS = 110, 33
ZONES = ("a", "b", "c", "d", "e")
BATCH = 50  # servers that are started at the same time
NO_KEYS = "PubkeyAuthentication no\n"
WRONG = 4  # servers that get a password which is not theirs
PLAYED_SECONDS = 40.0


class Story:
    """A home that knows a fleet, and what is done with it at a terminal."""

    def __init__(self, place: Path, servers: list[Server]) -> None:
        self.place, self.servers = place, servers
        here = Path(sys.executable).parent
        self.env = {"PATH": f"{here}:{os.environ.get('PATH', os.defpath)}", "HOME": str(place), "KPS_HOME": str(place / "home")}
        rows = [
            f"{each.name},{each.host},{each.port},root,zone={ZONES[number * len(ZONES) // len(servers)]},{each.public_host_key}"
            for number, each in enumerate(servers)
        ]
        (place / "fleet.csv").write_text("\n".join(["name,host,port,login,labels,host_key", *rows, ""]))
        right = {each.name: each.root_password for each in servers}
        self.passwords("right", right)
        wrong = [each.name for each in servers[len(servers) // 2 :: len(servers) // 8]][:WRONG]
        self.passwords("passwords", right | dict.fromkeys(wrong, "is not what it was"))
        for words in (("init",), ("server", "import", "fleet.csv"), ("keypair", "create", "ops")):
            self.kps(*words)

    def passwords(self, name: str, known: dict[str, str]) -> None:
        (self.place / name).write_text("".join(f"{server}\t{password}\n" for server, password in known.items()))

    def kps(self, *words: str) -> str:
        done = subprocess.run(["kps", *words], cwd=self.place, env=self.env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"kps {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def recorded(self) -> Recording:
        """Bind a key pair on all servers, and then once more on those that had another password."""
        recording = Recording(COLUMNS, ROWS)
        start = "kps rollout start bind --all --keypair ops --canary 5 --batch 25% --max-failures 5 \\\n"
        start += "    --per-label zone --password-stdin < passwords"
        recording.run(start, self.env, self.place)
        (rollout,) = json.loads(self.kps("rollout", "list", "--json"))
        retry = f"kps rollout retry {rollout['id']} --cause wrong_password --password-stdin < right"
        recording.run(retry, self.env, self.place)
        return recording


def record(count: int, to: Path) -> None:
    """Write a recording of a rollout over so many servers."""
    with tempfile.TemporaryDirectory() as directory, Fleet(max_age_seconds=3600) as fleet:
        # The one that takes no keys is in none of the canaries' places, which are the first of each zone.
        specs = [Spec(sshd_config_top=NO_KEYS) if number == count - 2 else Spec() for number in range(count)]
        for first in range(0, count, BATCH):
            fleet.add_all(specs[first : first + BATCH])
            print(f"{len(fleet)} of {count} servers are up", file=sys.stderr)
        Story(Path(directory), fleet.servers).recorded().write(to)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", type=Path, help="where the recording goes, without .cast and .svg")
    parser.add_argument("--servers", type=int, default=500)
    parser.add_argument("--draw", action="store_true", help="record nothing anew")
    asked = parser.parse_args()
    cast, picture = asked.name.with_suffix(".cast"), asked.name.with_suffix(".svg")
    if not asked.draw:
        record(asked.servers, cast)
    recording = Recording.read(cast)
    speed = max(1.0, recording.seconds / PLAYED_SECONDS)
    played = f", played {speed:.1f} times as fast" if speed > 1.05 else ""
    picture.write_text(drawn(recording, f"a rollout over {asked.servers} real servers on one machine{played}", speed))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
