"""Controllers and workers of one PostgreSQL, as docker/compose.yaml has them, and what goes on when half is gone.

The database's image is a Debian with PostgreSQL that takes what the compose file gives the public one. All share this machine's
network, for the server is here: so each listens on loopback, on a port of its own.
"""

import contextlib
import os
import resource
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import yaml

from controller.demo.fleet import Fleet, Server, Spec
from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import flavours
from tests.drills.fleet.docker import DockerUnavailable
from tests.drills.installs.image import HEALTHY_SECONDS, OLDER, TAG, USER, built
from tests.drills.installs.machine import ROOT, archive
from tests.fleet import judge

DATABASE = "kps-drill-database"
RECIPE = """FROM {base}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends postgresql && rm -rf /var/lib/postgresql/*
COPY database /usr/local/bin/database
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/database"]
"""
# What is used of the public image's: a cluster where there is none yet, its user's password from a file, its database.
ENTRYPOINT = """#!/bin/sh
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH PGDATA=/var/lib/postgresql/data
export PATH PGDATA
as="setpriv --reuid postgres --regid postgres --clear-groups"
install -d -o postgres -m 0700 $PGDATA
install -d -o postgres /run/postgresql
if [ ! -e $PGDATA/PG_VERSION ]; then
    install -o postgres -m 0600 "$POSTGRES_PASSWORD_FILE" /tmp/password
    $as initdb -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \\
        $POSTGRES_INITDB_ARGS >/dev/null
    rm /tmp/password
    $as pg_ctl -w -o "-c listen_addresses=''" start >/dev/null
    $as createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    $as pg_ctl -w -m fast stop >/dev/null
fi
exec $as postgres -c listen_addresses=127.0.0.1
"""
CONTROLLERS, WORKERS = ("api-1", "api-2"), ("worker-1", "worker-2")
# A pattern that does not fit itself: this is in the command of the shell that runs it.
STOP_ONE_PROCESS = """
for each in /proc/[0-9]*; do
    if tr '\\0' ' ' <$each/cmdline 2>/dev/null | grep -q -e '[-]-of'; then kill -STOP ${each#/proc/}; exit; fi
done
exit 1
"""


class Composed:
    """A project of docker-compose, and what is asked of it."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def __call__(self, *words: str, given: str = "", ends: int | None = 0) -> str:
        done = subprocess.run([*self._words, *words], input=given, capture_output=True, text=True)
        if ends is not None and done.returncode != ends:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def kps(self, service: str, *words: str, given: str = "") -> str:
        return self("exec", "-T", service, "kps", *words, given=given)

    def container(self, service: str) -> str:
        return self("ps", "-q", service).strip()


def composed(report: Report, client: docker.DockerClient, place: Path, _: bool) -> None:
    """All of docker/compose.yaml on Debian 12."""
    if shutil.which("docker-compose") is None:
        raise DockerUnavailable("it is tried as docker/compose.yaml has it: apt-get install docker-compose")
    archive(place)
    built(client, place, *OLDER)
    database_built(client, place)
    with project(place) as compose, Fleet() as fleet:
        server = fleet.add(Spec())
        begun = time.monotonic()
        for each in (*CONTROLLERS, *WORKERS):
            compose("run", "--rm", "-T", each, "init")
        compose("up", "-d")
        services = ("database", *CONTROLLERS, *WORKERS)
        unwell = [each for each in services if not healthy(client, compose, each)]
        well = len(services) - len(unwell)
        report.add(
            Figure("shared: containers that say they are well", well, len(services), len(services)),
            Figure("shared: from nothing to that", round(time.monotonic() - begun), unit=" s"),
        )
        misses = [f"shared: {each} is not well: {compose('logs', '--tail', '20', each)}" for each in unwell]
        for what, story in (
            ("an order", ordered),
            ("an order when half is gone", halved),
            ("a worker stands still", stands_still),
        ):
            try:
                story(client, compose, server)
            except Exception as error:
                misses.append(f"shared: {what}: {error}")
        report.misses += misses
        report.add(zero("shared: what went otherwise", len(misses)))


def ordered(_: docker.DockerClient, compose: Composed, server: Server) -> None:
    """One controller is asked, a worker does it, and the other controller knows."""
    compose.kps("api-1", "server", "add", server.name, server.host, "--port", str(server.port), "--host-key", server.host_key)
    compose.kps("api-1", "keypair", "create", "ops")
    compose.kps("api-1", "bind", server.name, "--keypair", "ops", "--password-stdin", given=server.root_password)
    if server.name not in compose.kps("api-2", "server", "list"):
        raise AssertionError("the other controller knows no such server")
    compose.kps("api-2", "audit", "verify")


def halved(_: docker.DockerClient, compose: Composed, server: Server) -> None:
    compose("stop", CONTROLLERS[0], WORKERS[0])
    compose.kps("api-2", "keypair", "create", "later")
    compose.kps("api-2", "replace", server.name, "--keypair", "later")
    private = compose.kps("api-2", "keypair", "export", "later")
    if not judge.key_login_works(server, "root", private):
        raise AssertionError("the new key does not log in")


def stands_still(client: docker.DockerClient, compose: Composed, _: Server) -> None:
    container = client.containers.get(compose.container(WORKERS[1]))
    if container.exec_run(["healthy"]).exit_code != 0:
        raise AssertionError("a worker at work is not well")
    if container.exec_run(["sh", "-c", STOP_ONE_PROCESS]).exit_code != 0:
        raise AssertionError("no process of a worker was found")
    if container.exec_run(["healthy"]).exit_code == 0:
        raise AssertionError("a worker of which a process stands still says that it is well")


def healthy(client: docker.DockerClient, compose: Composed, service: str) -> bool:
    """Whether a container comes to say that it is well."""
    until = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < until:
        state = client.api.inspect_container(compose.container(service))["State"]
        if state["Health"]["Status"] == "healthy":
            return True
        time.sleep(0.5)
    return False


def database_built(client: docker.DockerClient, place: Path) -> None:
    context = place / "database-image"
    context.mkdir()
    (context / "database").write_text(ENTRYPOINT)
    (context / "database").chmod(0o755)
    (context / "Dockerfile").write_text(RECIPE.format(base=flavours.bare(client, OLDER[0])))
    client.images.build(path=str(context), tag=DATABASE, network_mode="host", rm=True, forcerm=True)


@contextlib.contextmanager
def project(place: Path) -> Iterator[Composed]:
    """The compose file with this run's images and secrets, on this machine's network."""
    told: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    del told["x-kps"]
    for number, (name, service) in enumerate(told["services"].items()):
        service |= {"network_mode": "host", "image": DATABASE if name == "database" else TAG, "restart": "no"}
        if name != "database":
            service["extra_hosts"] = ["database:127.0.0.1"]
        if service.pop("ports", None):
            service["command"] = ["serve", "--listen", f"127.0.0.1:{8443 + number}"]
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
            service.get("ulimits", {}).pop("memlock", None)  # nobody here may raise it
    password = secrets.token_urlsafe(18)
    files = {
        "root-key": os.urandom(32),
        "database-password": password.encode(),
        "pgpass": f"database:5432:kps:kps:{password}\n".encode(),
    }
    for name, content in files.items():
        path = place / name
        path.write_bytes(content)
        path.chmod(0o600)
        if name != "database-password":
            os.chown(path, USER, USER)
        told["secrets"][name]["file"] = str(path)
    (place / "compose.yaml").write_text(yaml.safe_dump(told))
    words = ["docker-compose", "-p", f"kps-drill-{os.getpid()}", "-f", str(place / "compose.yaml")]
    try:
        yield Composed(words)
    finally:
        subprocess.run([*words, "down", "-v", "-t", "10"], check=True, capture_output=True)
