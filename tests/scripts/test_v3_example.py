"""The example for the SDK, run as docs/v3.md says: over TLS with the home's own certificate, against a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.demo.fleet import Fleet, FleetUnavailable
from tests.needs import lacking

ROOT = Path(__file__).parents[2]
KPS = Path(sys.executable).with_name("kps")
SECONDS = 120


def kps(home: Path, *words: str) -> dict[str, str]:
    done = subprocess.run([KPS, *words, "--home", home, "--json"], check=True, capture_output=True, timeout=SECONDS)
    told: dict[str, str] = json.loads(done.stdout)
    return told


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    started = Fleet(1)
    try:
        started.open()
    except FleetUnavailable as error:
        lacking(str(error))
    with started:
        yield started


@pytest.mark.long
def test_the_example_binds_and_unbinds_and_tells_what_keeps_it_from_that(tmp_path: Path, fleet: Fleet) -> None:
    (server,) = fleet.servers
    home = tmp_path / "home"
    made = kps(home, "init")
    told = kps(home, "server", "add", server.name, server.host, "--port", str(server.port), "--host-key", server.host_key)
    serving = subprocess.Popen(
        [KPS, "serve", "--home", home, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert serving.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("certificate"):
        lines.append(serving.stdout.readline())
        assert lines[-1], lines
    url = next(line.split()[-1] for line in lines if "https://" in line)
    keys = {"AK": made["access_key"], "SK": made["secret_key"], "PROJECT_ID": made["project_id"]}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | {f"HUAWEICLOUD_SDK_{name}": keys[name] for name in keys}

    def example(password: str, certificate: str) -> tuple[int, list[str], str]:
        words = [ROOT / "examples/v3_sdk.py", url, told["id"], "--certificate", certificate]
        done = subprocess.run(
            [sys.executable, *words],
            input=password,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout.split("\n")[1:-1], done.stderr

    trusted = str(home / "tls.crt")
    try:
        assert example(server.root_password, trusted)[:2] == (0, ["SUCCESS_BIND", "SUCCESS_UNBIND"])
        code, words, errors = example("not this one", trusted)
        assert (code, words) == (1, ["FAILED_BIND"])
        assert "wrong_password" in errors
        # It left no key pair of its own behind, and does not talk to whom nobody vouches for.
        assert example(server.root_password, trusted)[0] == 0
        code, _, errors = example(server.root_password, "/etc/ssl/certs/ca-certificates.crt")
        assert (code, "Traceback" in errors) == (1, False)
        assert "CERTIFICATE_VERIFY_FAILED" in errors or "invalid path" in errors
    finally:
        serving.terminate()
        serving.communicate(timeout=SECONDS)
