"""The controller's image, built where there is no registry, and the README's session typed at a container of it.

The container is docker/compose-one.yaml's, started by docker-compose itself: a root file system that cannot be written, no
capability, a user without rights, the root key from a file. It shares this machine's network, for the servers of the session are
here.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import yaml

from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import flavours
from tests.drills.fleet.docker import DockerUnavailable
from tests.drills.installs import machine
from tests.drills.installs.machine import ROOT, archive, quietly
from tests.scripts.test_readme import play, session

OLDER, NEWER = ("bookworm", "3.11"), ("trixie", "3.13")  # a suite, and its Python
USER = 10001
TAG = "kps:drill"
HEALTHY_SECONDS = 90
# What the session types as kps: servers are started by this machine's, all else is done in the container. What is not meant to be
# read must not be: docker takes all that comes, and the session comes that way. The list of servers is for user 10001 to read.
WRAPPER = """#!/bin/sh
set -eu
case "$*" in
*-stdin*) ;;
*) exec </dev/null ;;
esac
case "$1" in
demo) exec {kps} "$@" ;;
init) {compose} run --rm -T controller "$@" && {compose} up -d && exec {waits} ;;
*) chmod 755 "$PWD" try && chmod 644 try/fleet.csv && exec docker exec -i -w "$PWD" "$({compose} ps -q controller)" kps "$@" ;;
esac
"""
WAITS = """#!/bin/sh
set -eu
for second in $(seq {seconds}); do
    [ "$(docker inspect -f '{{{{.State.Health.Status}}}}' "$({compose} ps -q controller)")" != healthy ] || exit 0
    sleep 1
done
exit 1
"""


def older(report: Report, client: docker.DockerClient, place: Path, _: bool) -> None:
    """The image on Debian 12, as the Dockerfile has it unless told otherwise."""
    part(report, client, place, *OLDER, "image")


def newer(report: Report, client: docker.DockerClient, place: Path, _: bool) -> None:
    """The image on Debian 13."""
    part(report, client, place, *NEWER, "image on Debian 13")


def part(report: Report, client: docker.DockerClient, place: Path, suite: str, python: str, called: str) -> None:
    """An image on a suite of Debian. called: at the head of each figure."""
    if shutil.which("docker-compose") is None:
        raise DockerUnavailable("the image is tried as docker/compose-one.yaml has it: apt-get install docker-compose")
    archive(place)
    begun = time.monotonic()
    built(client, place, suite, python)
    report.add(
        Figure(f"{called}: built in", round(time.monotonic() - begun), unit=" s"),
        Figure(f"{called}: size", round(client.images.get(TAG).attrs["Size"] / 1e6), unit=" MB"),
    )
    place.chmod(0o755)
    with composed(place) as (compose, wrapper):
        try:
            play(place, f"export PATH={wrapper.parent}:$PATH")
            missed = 0
        except AssertionError as error:
            missed = 1
            report.misses.append(f"{called}: {error}")
        report.add(zero(f"{called}: sessions of the README that went otherwise", missed))
        report.add(Figure(f"{called}: commands in it", len(session())))
        if not missed:
            listed = subprocess.run([*compose, "ps", "-q", "controller"], check=True, capture_output=True, text=True)
            looked_at(report, client, listed.stdout.strip(), called)


def built(client: docker.DockerClient, place: Path, suite: str, python: str) -> None:
    """Build the image from wheels: the way to a package index from here need not lead there from a container."""
    base = flavours.bare(client, suite)
    words = (
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--python-version",
        python,
    )
    quietly(*words, "-r", ROOT / "packaging/runtime.lock", "-d", place / "dist/wheels")
    for name in ("packaging/lay", "packaging/runtime.lock", "docker/healthy", "docker/Dockerfile"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    try:
        client.images.build(
            path=str(place),
            dockerfile="docker/Dockerfile",
            tag=TAG,
            buildargs={"BASE": base, "PIP_NO_INDEX": "1"},
            network_mode="host",
            rm=True,
            forcerm=True,
        )
    except docker.errors.BuildError as error:
        said = "".join(line.get("stream", "") for line in error.build_log)
        raise RuntimeError(f"{TAG} cannot be built: {error}\n{said[-3000:]}") from None


@contextlib.contextmanager
def composed(place: Path) -> Iterator[tuple[list[str], Path]]:
    """The words of docker-compose for a project of this run, and the program that the session takes for kps."""
    told: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose-one.yaml").read_text())
    service = told["services"]["controller"]
    del service["ports"]
    service |= {
        "network_mode": "host",
        "image": TAG,
        "command": ["serve"],
        "volumes": [*service["volumes"], f"{place}:{place}:ro"],
    }
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
        del service["ulimits"]["memlock"]  # nobody here may raise it
    key = place / "root.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    os.chown(key, USER, USER)
    told["secrets"]["root-key"]["file"] = str(key)
    (place / "compose.yaml").write_text(yaml.safe_dump(told))
    compose = ["docker-compose", "-p", f"kps-drill-{os.getpid()}", "-f", str(place / "compose.yaml")]
    programs = {"waits": WAITS, "kps": WRAPPER}
    (place / "bin").mkdir()
    for name, text in programs.items():
        words = {"kps": Path(sys.executable).with_name("kps"), "compose": " ".join(compose), "waits": place / "bin/waits"}
        (place / "bin" / name).write_text(text.format(seconds=HEALTHY_SECONDS, **words))
        (place / "bin" / name).chmod(0o755)
    try:
        yield compose, place / "bin/kps"
    finally:
        subprocess.run([*compose, "down", "-v", "-t", "10"], check=True, capture_output=True)
        key.unlink()


def looked_at(report: Report, client: docker.DockerClient, name: str, called: str) -> None:
    """What the container may do, and what lies in it."""

    def said(command: str) -> str:
        return client.containers.get(name).exec_run(["sh", "-c", command]).output.decode()  # type: ignore[union-attr]

    about = dict(line.split(":\t", 1) for line in said("cat /proc/1/status").split("\n") if ":\t" in line)
    may = [each for each in ("CapPrm", "CapEff", "CapBnd", "CapAmb") if int(about[each], 16)]
    written = said("for at in / /etc /usr /var /run; do touch $at/x 2>/dev/null && echo $at; done").split()
    builds = said("for each in pip pip3 gcc cc make git; do command -v $each; done; find /usr/lib/kps/lib -name pip").split()
    speaks = said("python -I -c 'import psycopg; print(psycopg.pq.__impl__)'").strip()
    authorities = int(said(f"python -I -c '{machine.AUTHORITIES_KNOWN}'") or 0)
    report.add(
        Figure(f"{called}: user", int(about["Uid"].split()[0]), USER, USER),
        zero(f"{called}: sets of capabilities that are not empty", len(may)),
        Figure(f"{called}: may gain no rights", int(about["NoNewPrivs"]), 1, 1),
        zero(f"{called}: places outside home and /tmp that can be written", len(written)),
        zero(f"{called}: programs in it that build others", len(builds)),
        Figure(f"{called}: speaks to PostgreSQL", int(speaks == "binary"), 1, 1),
        Figure(f"{called}: authorities whose certificates it knows", authorities, at_least=1),
    )
