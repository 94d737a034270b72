"""Append a line to root's authorized_keys on each server by paramiko, 32 threads: python paramiko_threads.py FLEET.json LINE"""

import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paramiko

THREADS = 32


def append(server: dict[str, Any], key: paramiko.PKey, line: str) -> None:
    kind, blob = server["host_key"].split()[:2]
    with paramiko.SSHClient() as client:
        place = server["host"] if server["port"] == 22 else f"[{server['host']}]:{server['port']}"
        client.get_host_keys().add(place, kind, paramiko.PKey.from_type_string(kind, paramiko.util.b(_decoded(blob))))
        client.connect(server["host"], server["port"], "root", pkey=key, look_for_keys=False, allow_agent=False)
        _, said, _ = client.exec_command(f"printf '%s\\n' {shlex.quote(line)} >> /root/.ssh/authorized_keys")
        if said.channel.recv_exit_status():
            raise RuntimeError(f"{server['name']}: the line was not appended")


def _decoded(blob: str) -> bytes:
    import base64

    return base64.b64decode(blob)


if __name__ == "__main__":
    fleet = json.loads(Path(sys.argv[1]).read_text())
    private = paramiko.Ed25519Key.from_private_key_file(fleet["key"])
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda server: append(server, private, sys.argv[2]), fleet["servers"]))
