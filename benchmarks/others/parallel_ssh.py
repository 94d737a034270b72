"""Append a line to root's authorized_keys on each server by parallel-ssh (libssh2): python parallel_ssh.py FLEET.json LINE

It looks at no host key at all, by its nature: it has no known_hosts.
"""

import json
import shlex
import sys
from pathlib import Path

from pssh.clients import ParallelSSHClient

AT_ONCE = 64

if __name__ == "__main__":
    fleet = json.loads(Path(sys.argv[1]).read_text())
    client = ParallelSSHClient(
        [each["host"] for each in fleet["servers"]],
        user="root",
        port=fleet["servers"][0]["port"],
        pkey=fleet["key"],
        pool_size=AT_ONCE,
        allow_agent=False,
    )
    found = client.run_command(f"printf '%s\\n' {shlex.quote(sys.argv[2])} >> /root/.ssh/authorized_keys")
    client.join(found)
    if wrong := [each.host for each in found if each.exit_code]:
        sys.exit(f"{len(wrong)} servers did not append the line, such as {wrong[0]}")
