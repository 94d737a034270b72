"""A home whose root key is in a token, as a user has it: kps in processes of its own, the token away, a PIN that is wrong."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from tests import roots
from tests.controller.faces import KPS

Kps = Callable[..., Any]
UNAVAILABLE = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the token, its PIN and the home; each test leaves it as it was."""
    return tmp_path_factory.mktemp("token")


@pytest.fixture(scope="module")
def token(place: Path) -> dict[str, str]:
    return roots.token(place)


@pytest.fixture(scope="module")
def kps(place: Path, token: dict[str, str]) -> Kps:
    """Run kps on a home whose root key is in the token; returns what it printed, or with code its error."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "KPS_HOME": str(place / "home"), **token}

    def run(*words: str, code: int = 0, pin: Path | None = None, **more: str) -> Any:
        command = [KPS, *words, "--json"]
        if pin is not None:
            command = ["sh", "-c", 'pin=$1; shift; exec "$@" 3<"$pin"', "sh", str(pin), *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment | more)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert roots.PIN not in done.stdout + done.stderr
        assert roots.WRONG_PIN not in done.stdout + done.stderr
        return json.loads(done.stderr)["error"] if code else json.loads(done.stdout or "null")

    return run


@pytest.fixture(scope="module")
def made(kps: Kps, place: Path) -> bytes:
    """A home with a key pair; returns its private half."""
    kps("init", "--root-key", roots.pkcs11(place))
    kps("keypair", "create", "ops")
    assert not (place / "home/root.key").exists()
    return private(kps("keypair", "export", "ops"))


def private(exported: dict[str, str]) -> bytes:
    """The seed: the text of a private key file is another one each time."""
    key = load_ssh_private_key(exported["private_key"].encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key.private_bytes_raw()


def test_a_wrong_pin_is_tried_once_and_nothing_is_lost(kps: Kps, made: bytes, place: Path) -> None:
    roots.pin(place / "pin", roots.WRONG_PIN)
    first = kps("keypair", "export", "ops", code=UNAVAILABLE)
    assert first["code"] == "root_pin_refused"
    assert "tried once" in first["message"]
    again = kps("keypair", "export", "ops", code=UNAVAILABLE)
    assert "has refused the PIN" in again["message"]
    assert [each["name"] for each in kps("keypair", "list")] == ["ops"]
    roots.pin(place / "pin", roots.PIN)
    assert private(kps("keypair", "export", "ops")) == made


def test_a_pin_may_come_by_a_descriptor(kps: Kps, made: bytes, place: Path) -> None:
    by_descriptor = roots.pkcs11(place).replace(f"file:{place}/pin", "fd:3")
    assert private(kps("keypair", "export", "ops", pin=place / "pin", KPS_ROOT_KEY=by_descriptor)) == made
    assert kps("keypair", "export", "ops", code=UNAVAILABLE, KPS_ROOT_KEY=by_descriptor)["code"] == "root_pin_missing"


def test_another_key_of_the_token_is_not_taken_for_the_root_key(kps: Kps, made: bytes, place: Path) -> None:
    kps("init", "--root-key", roots.pkcs11(place, "other"), "--home", str(place / "elsewhere"))
    said = kps("keypair", "export", "ops", code=UNAVAILABLE, KPS_ROOT_KEY=roots.pkcs11(place, "other"))
    assert said["code"] == "root_key_wrong"


@pytest.fixture
def serve(place: Path, token: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), **token}

    def start() -> subprocess.Popen[str]:
        command = [KPS, "serve", "--home", str(place / "home"), "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, env=environment, **pipes))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "{\n"
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_token_that_goes_away_is_told_and_taken_up_again(
    kps: Kps, made: bytes, serve: Callable[[], subprocess.Popen[str]], place: Path
) -> None:
    (place / "tokens").rename(place / "away")
    assert kps("keypair", "export", "ops", code=UNAVAILABLE)["code"] == "root_key_unreachable"
    process = serve()
    assert process.stderr is not None
    warned = json.loads(process.stderr.readline())["error"]
    assert warned["code"] == "root_key_unreachable"
    assert "until it opens" in warned["message"]
    assert [each["name"] for each in kps("keypair", "list")] == ["ops"]
    assert kps("keypair", "create", "new", code=UNAVAILABLE)["code"] == "root_key_unreachable"
    (place / "away").rename(place / "tokens")
    assert private(kps("keypair", "export", "ops")) == made
    # And once more, under what has it open.
    (place / "tokens").rename(place / "away")
    assert kps("keypair", "export", "ops", code=UNAVAILABLE)["code"] == "root_key_unreachable"
    assert [each["name"] for each in kps("keypair", "list")] == ["ops"]
    (place / "away").rename(place / "tokens")
    assert private(kps("keypair", "export", "ops")) == made
