"""A Docker to work with: the one that answers, else one that is started here and ended with us."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors

START_SECONDS = 60


class DockerUnavailable(Exception):
    """no Docker is to be had on this machine; the message says what to do"""


@contextlib.contextmanager
def answering() -> Iterator[docker.DockerClient]:
    """A client of this machine's Docker. Where none answers, dockerd is started, and ended when the block is left."""
    client = _client()
    if client is not None:
        yield client
        client.close()
        return
    if shutil.which("dockerd") is None:
        raise DockerUnavailable("flavours run in Docker, which is not installed: apt-get install docker.io")
    with tempfile.TemporaryDirectory() as directory, open(Path(directory, "log"), "wb") as log:
        # Containers share this machine's network, so it needs neither a bridge nor rules.
        words = ["dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            started = _once_it_answers(process, Path(directory, "log"))
            yield started
            started.close()
        finally:
            process.terminate()
            process.wait()


def _client() -> docker.DockerClient | None:
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except docker.errors.DockerException:
        return None
    return client


def _once_it_answers(process: "subprocess.Popen[bytes]", log: Path) -> docker.DockerClient:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        client = _client()
        if client is not None:
            return client
        time.sleep(0.1)
    said = log.read_text(errors="replace").rstrip().split("\n")[-1]
    raise DockerUnavailable(f"dockerd does not answer; its last words: {said}")
