"""A bare loop over asyncssh: as many logins on each server as one operation of ours, the first of which starts Pythons there.

    python -m benchmarks.others.bare FLEET.json LOGINS ASKS STARTS agent|empty

As in ours, a server's connections come one after another while the first is kept, and the last ASKS of them only ask how one
may log in. "agent": the Python there reads and loads the agent's bytes, and ends since there is no plan for it. Nothing is
written, nothing is proved. Keys are loaded once, and each host's key is given parsed: what a careful user of the library does.
"""

import asyncio
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import asyncssh

from controller.transport import ship

AT_ONCE = 32  # as `kps rollout start`
PYTHON = "exec python3 -I -S -E -B -c"


async def one(
    server: dict[str, Any], key: asyncssh.SSHKey, logins: int, asks: int, starts: int, bootstrap: str, payload: bytes
) -> None:
    """Log in on one server so often."""
    how: dict[str, Any] = {
        "host": server["host"],
        "port": server["port"],
        "username": "root",
        "client_keys": [key],
        "known_hosts": ([asyncssh.import_public_key(server["host_key"])], [], []),
        "config": None,
        "agent_path": None,
        "kex_algs": ["curve25519-sha256"],
    }
    async with asyncssh.connect(**how) as first:
        for _ in range(starts):
            await first.run(f"{PYTHON} {shlex.quote(bootstrap)}", input=payload, encoding=None)
        for _ in range(logins - 1):
            async with asyncssh.connect(**how) as there:
                await there.run("echo 0123456789abcdef; exec /bin/cat /etc/hostname", check=True)
        for _ in range(asks):
            with contextlib.suppress(asyncssh.PermissionDenied):
                await asyncssh.connect(**how | {"client_keys": None, "preferred_auth": ["none"]})


async def main(fleet: dict[str, Any], logins: int, asks: int, starts: int, python: str) -> None:
    key = asyncssh.read_private_key(fleet["key"])
    bootstrap, payload = (ship.BOOTSTRAP, ship.payload()) if python == "agent" else ("pass", b"")
    places = asyncio.Semaphore(AT_ONCE)

    async def in_turn(server: dict[str, Any]) -> None:
        async with places:
            await one(server, key, logins, asks, starts, bootstrap, payload)

    await asyncio.gather(*map(in_turn, fleet["servers"]))


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text()), *map(int, sys.argv[2:5]), sys.argv[5]))
