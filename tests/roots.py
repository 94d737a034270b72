"""Root keys of every kind, as tests need them: a file, a token of SoftHSM2, and a key in moto's AWS KMS, over real HTTP."""

import atexit
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from controller.kms.root import RootKey, make_root
from tests.needs import lacking

KINDS = ("file", "pkcs11", "awskms")
# For tests of custody (tests/controller): what holds there holds wherever the root key is.
wherever = pytest.mark.parametrize("root_kind", KINDS, indirect=True)
PIN, WRONG_PIN = "correct-pin-4711", "wrong-pin-0815"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")

_names = itertools.count()


def uri(kind: str, directory: Path, name: str = "root.key") -> str:
    """Return the URI of a root key: the same directory and name, the same key."""
    if kind == "file":
        return f"file:{directory / name}"
    return (_in_token if kind == "pkcs11" else _in_aws)(str(directory), name)


def root(kind: str, directory: Path, name: str = "root.key") -> RootKey:
    """Return a root key, made where it was not there."""
    return make_root(uri(kind, directory, name), directory)


def token(directory: Path, label: str = "kps") -> dict[str, str]:
    """Make a token of SoftHSM2 in a directory; returns the environment in which a process of its own finds it."""
    if shutil.which("softhsm2-util") is None or not MODULE.exists():
        lacking("a root key in a token is tried with SoftHSM2: apt-get install softhsm2")
    configuration = directory / "softhsm2.conf"
    found = {"SOFTHSM2_CONF": str(configuration)}
    if configuration.exists():
        return found
    (directory / "tokens").mkdir(mode=0o700, parents=True)
    configuration.write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "so-" + PIN]
    subprocess.run(command, env=os.environ | found, check=True, capture_output=True)
    pin(directory / "pin", PIN)
    return found


def pin(path: Path, text: str) -> Path:
    """Write a PIN into a file for its owner alone."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, text.encode() + b"\n")
    os.close(descriptor)
    return path


def pkcs11(directory: Path, name: str = "root", label: str = "kps") -> str:
    """Return the URI of a key in the token that token() has made in a directory."""
    return f"pkcs11:token={label};object={name}?module-path={MODULE}&pin-source=file:{directory}/pin"


@functools.cache
def _shared_token() -> Path:
    # SoftHSM2 looks at its configuration once in a process: one token for all tests of this one.
    directory = Path(tempfile.mkdtemp(prefix="kps-token-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ.update(token(directory))
    return directory


@functools.cache
def _in_token(directory: str, name: str) -> str:
    return pkcs11(_shared_token(), f"root-{next(_names)}")


@functools.cache
def _aws() -> str:
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@functools.cache
def _in_aws(directory: str, name: str) -> str:
    import boto3

    endpoint = _aws()
    client = boto3.client("kms", region_name="eu-central-1", endpoint_url=endpoint)
    made = client.create_key(Description="a root key")["KeyMetadata"]["KeyId"]
    return f"awskms:{made}?region=eu-central-1&endpoint={endpoint}"
