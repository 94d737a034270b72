"""A home whose root key is in AWS KMS, as a user has it: kps in processes of its own, the service away and back."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controller.kms.root import awskms
from tests import roots
from tests.controller.faces import KPS
from tests.controller.test_root_token import UNAVAILABLE, Kps, private

MOST_TRIED = 2  # times that a command asks a service that is away: for what it is to do, and to sign that on record


def run_on(home: Path) -> Kps:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home.parent), "KPS_HOME": str(home)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

    def run(*words: str, code: int = 0) -> Any:
        done = subprocess.run([KPS, *words, "--json"], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stderr)["error"] if code else json.loads(done.stdout or "null")

    return run


@contextmanager
def hangs_up(port: int) -> Iterator[list[int]]:
    """Give how often somebody came to a port where nobody answers."""
    came: list[int] = []
    with socket.create_server(("127.0.0.1", port)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                came.append(1)
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        yield came
        server.shutdown(socket.SHUT_RDWR)


def test_a_service_that_goes_away_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    from moto.server import ThreadedMotoServer

    uri = roots.uri("awskms", tmp_path)  # its server goes on: what it holds, every server of this process holds
    kps = run_on(tmp_path / "home")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        kps("init", "--root-key", f"{uri.partition('endpoint=')[0]}endpoint=http://127.0.0.1:{port}")
        kps("keypair", "create", "ops")
        made = private(kps("keypair", "export", "ops"))
    finally:
        server.stop()
    assert not (tmp_path / "home/root.key").exists()
    with hangs_up(port) as came:
        assert kps("keypair", "export", "ops", code=UNAVAILABLE)["code"] == "root_key_unreachable"
        assert 0 < len(came) <= MOST_TRIED * awskms.ATTEMPTS
        assert [each["name"] for each in kps("keypair", "list")] == ["ops"]
    back = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    back.start()
    try:
        assert private(kps("keypair", "export", "ops")) == made
    finally:
        back.stop()
