"""An empty machine on which somebody types what the README's "Install" says, up to a bound server of their own.

The machine is Debian as debootstrap makes it, with systemd. Then the service is looked at as systemd runs it, with its root key
as a credential and its store in PostgreSQL too, and the package is taken off again.
"""

import contextlib
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from controller.demo.fleet import Fleet, Server
from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import flavours
from tests.drills.fleet.boxes import Box, Boxes
from tests.fleet import judge
from tests.postgresql import Cluster
from tests.scripts.test_packages import MOST_EXPOSED
from tests.scripts.test_readme import session

ROOT = Path(__file__).parents[3]
OLDER, NEWER = "debian-12-systemd", "debian-13-systemd"
MOST_SECONDS = 600
HOME = "/var/lib/kps-controller"
AUTHORITIES = "/root/authorities.pem"
SOURCES = "/root/kps-fleet"
POSTGRESQL = "127.79.0.1"  # an address of its own: port 5432 may be somebody's elsewhere
DROP_IN = "/etc/systemd/system/kps.service.d/root-key.conf"
# Without them no alert goes to a URL with https.
AUTHORITIES_KNOWN = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
CREDENTIAL = """[Service]
LoadCredentialEncrypted=root-key:/etc/kps/root-key.cred
Environment=KPS_ROOT_KEY=file:%d/root-key
"""


def older(report: Report, client: docker.DockerClient, place: Path, sample: bool) -> None:
    """Debian 12. A sample is given the package, built on this machine, which has to be a Debian 12 too."""
    part(report, client, place, sample, OLDER, "Debian 12")


def newer(report: Report, client: docker.DockerClient, place: Path, _: bool) -> None:
    """Debian 13."""
    part(report, client, place, False, NEWER, "Debian 13")


def part(report: Report, client: docker.DockerClient, place: Path, given: bool, named: str, called: str) -> None:
    """A machine of a flavour. given: the package, rather than built there; called: at the head of each figure."""
    (flavour,) = (each for each in flavours.every() if each.name == named)
    with Boxes(client) as boxes, Fleet(1) as fleet:
        box, own = boxes.start(flavour), fleet["web-1"]
        # As a machine that systemd has booted itself; in a container it leaves that to whoever made it.
        box.run(["mount", "--make-rshared", "/"])
        box.write("/etc/hosts", f"127.0.0.1 localhost {box.name}\n")
        archive(place)
        unpacked(box, place / "dist")
        if given:
            built_here(box, place)
        begun, used = time.monotonic(), processor_seconds()
        missed = followed(box, own, skip=("make", "apt-get install -y make") if given else ())
        took, used = time.monotonic() - begun, processor_seconds() - used
        report.misses += missed
        report.add(
            zero(f"{called}: commands of the README that did otherwise", len(missed)),
            Figure(f"{called}: from empty to a bound server", round(took), at_most=None if given else MOST_SECONDS, unit=" s"),
            Figure(f"{called}: of it at work on processors", round(used), unit=" s"),
        )
        if not missed:
            looked_at(report, box, own, called)


def processor_seconds() -> float:
    """What the programs that we have run, and waited for, used of processors; without the service, which nobody waits for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def archive(place: Path) -> None:
    """The source archive and the wheel, in place/dist."""
    quietly(sys.executable, ROOT / "scripts/make-dist", place / "dist")


def quietly(*words: str | Path, **settings: str) -> None:
    """Run a program, and show what it said where it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | settings)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))}: {done.stdout.decode(errors='replace')[-3000:]}")


def unpacked(box: Box, dist: Path) -> None:
    """Lay the sources on the machine, and what its pip has to know of the way to the package index from here."""
    (sdist,) = dist.glob("*.tar.gz")
    box.run(["mkdir", "-p", SOURCES, f"{SOURCES}/dist"])
    copied(box, sdist, "/root/sources.tar.gz")
    box.run(["tar", "-xzf", "/root/sources.tar.gz", "-C", SOURCES, "--strip-components=1"])
    if authorities := os.environ.get("PIP_CERT"):
        copied(box, Path(authorities), AUTHORITIES)


def built_here(box: Box, place: Path) -> None:
    (wheel,) = (place / "dist").glob("*.whl")
    quietly(ROOT / "packaging/deb", place / "deb", wheel, PIP_PYTHON=sys.executable, DEB_COMPRESSION="-Zgzip -z1")
    (package,) = (place / "deb").glob("*.deb")
    copied(box, package, f"{SOURCES}/dist/{package.name}")


def copied(box: Box, file: Path, to: str) -> None:
    with open(file, "rb") as content:
        subprocess.run(
            ["nsenter", f"--target={box.pid}", "--mount", "--root", "--", "tee", to],
            check=True,
            stdin=content,
            stdout=subprocess.DEVNULL,
        )


def followed(box: Box, own: Server, skip: tuple[str, ...]) -> list[str]:
    """Type the section's commands on the machine, for this server; return what did otherwise than it shows."""
    missed = []
    for command, shown, code in session("Install"):
        if any(word in command for word in skip):
            continue
        typed = command.replace("192.0.2.10", own.host)
        if "bind" in typed:
            typed += " --password-stdin"  # nobody sits at a terminal here
        settings = "export DEBIAN_FRONTEND=noninteractive PIP_CERT=" + (AUTHORITIES if os.environ.get("PIP_CERT") else "")
        done = box.run(["bash", "-c", f"{settings}; cd {SOURCES} && {typed}"], f"{own.root_password}\n", check=False)
        print(f"{time.strftime('%H:%M:%S')} {typed}: {done.returncode}", file=sys.stderr)
        lines = [" ".join(line.split()) for line in done.stdout.split("\n")]
        lacks = [line for line in shown if " ".join(line.split()) not in lines]
        if done.returncode != code or lacks:
            missed.append(
                f"{typed}: ended with {done.returncode}; not shown: {lacks}; {done.stdout[-1500:]}{done.stderr[-1500:]}"
            )
            break
    return missed


def kps(box: Box, *words: str, stdin: str = "") -> str:
    return box.run(["sudo", "-u", "kps", "kps", *words], stdin).stdout


def looked_at(report: Report, box: Box, own: Server, called: str) -> None:
    """What the service may do, that its root key may be a credential, and what an upgrade and a removal leave."""
    said = box.run(["systemd-analyze", "security", "--no-pager", "kps.service"]).stdout
    exposed = float(re.findall(r"exposure level for kps.service: ([\d.]+)", said)[-1])
    report.add(Figure(f"{called}: systemd-analyze security", exposed, at_most=MOST_EXPOSED))
    pid = box.run(["systemctl", "show", "--property=MainPID", "--value", "kps"]).stdout.strip()
    about = dict(line.split(":\t", 1) for line in box.read(f"/proc/{pid}/status").split("\n") if ":\t" in line)
    may = [name for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb") if int(about[name], 16)]
    risen = about["Uid"].startswith("0\t") or about["NoNewPrivs"] != "1"
    report.add(
        zero(f"{called}: sets of capabilities that are not empty", len(may)),
        zero(f"{called}: runs as root, or may gain rights", int(risen)),
    )
    known = box.run(["sudo", "-u", "kps", "/usr/lib/kps/bin/python", "-I", "-c", AUTHORITIES_KNOWN]).stdout
    report.add(Figure(f"{called}: authorities whose certificates it knows", int(known), at_least=1))
    # A key that others gave us with a passphrase is read by a process of its own, with limits of its own.
    box.run(["sh", "-c", f"ssh-keygen -q -t ed25519 -N 'a long one' -f {HOME}/given && chown kps {HOME}/given"])
    kps(box, "keypair", "import", "given", "--private-key", f"{HOME}/given", "--passphrase-stdin", stdin="a long one\n")
    box.run(["sh", "-c", f"rm {HOME}/given*"])

    box.run(["mkdir", "-p", "/etc/kps"])
    box.run(["systemd-creds", "encrypt", "--name=root-key", f"{HOME}/root.key", "/etc/kps/root-key.cred"])
    box.run(["rm", f"{HOME}/root.key"])
    box.write(DROP_IN, CREDENTIAL)
    box.write("/etc/default/kps", 'KPS_SERVE="--http 127.0.0.1:8080"\n')
    box.run(["sh", "-c", "systemctl daemon-reload && systemctl restart kps && systemctl reload kps"])
    checked = kps(box, "server", "check", "web-1")
    report.add(Figure(f"{called}: a root key that systemd decrypts opens", int("key of root logged_in" in checked), 1, 1))

    package = box.run(["sh", "-c", f"echo {SOURCES}/dist/kps_*.deb"]).stdout.strip()
    box.run(["sh", "-c", f"dpkg --install {shlex.quote(package)} </dev/null"])
    again = box.run(["systemctl", "is-active", "kps"], check=False).stdout.strip() == "active"
    report.add(Figure(f"{called}: serves again after an upgrade", int(again and "web-1" in kps(box, "server", "list")), 1, 1))
    verified = box.run(["dpkg", "--verify", "kps"], check=False).stdout.split("\n")
    changed = [line for line in verified if line and " c " not in line]
    report.add(zero(f"{called}: files of the package that were changed by use", len(changed)))

    with in_postgresql(box):
        served = "key of root logged_in" in kps(box, "server", "check", "web-1") and not box.exists(f"{HOME}/kps.db")
        report.add(Figure(f"{called}: serves a home that was moved into PostgreSQL", int(served), 1, 1))
        key = kps(box, "keypair", "export", "ops")
        listed = box.run(["dpkg", "--listfiles", "kps"]).stdout
        home = held(box)
        box.run(["dpkg", "--purge", "kps"])
        lost = home - held(box)
    left = box.run(
        ["xargs", "-d", "\n", "sh", "-c", 'for file; do [ ! -f "$file" ] || echo "$file"; done', "sh"], listed
    ).stdout.split()
    report.add(zero(f"{called}: files of the package left after a purge", len(left)))
    report.add(zero(f"{called}: files of the home that a purge removed", len(lost)))
    answer = judge.said(own, "root", "echo in", private_key=key).strip()
    report.add(Figure(f"{called}: a key that was given out logs in without a controller", int(answer == "in"), 1, 1))


@contextlib.contextmanager
def in_postgresql(box: Box) -> Iterator[None]:
    """Within the block the home is in a PostgreSQL of this machine, and the service works with it, as hardened as it is."""
    # Who moves a home needs the root key, which only the service saw so far.
    box.run(["systemd-creds", "decrypt", "--name=root-key", "/etc/kps/root-key.cred", f"{HOME}/root.key"])
    box.run(["sh", "-c", f"chown kps:kps {HOME}/root.key && chmod 600 {HOME}/root.key && rm {DROP_IN}"])
    box.run(["sh", "-c", "systemctl daemon-reload && systemctl stop kps"])
    cluster = Cluster()
    try:
        cluster.stop()
        cluster.start(f"listen_addresses={POSTGRESQL}")
        with cluster.database() as url:
            kps(box, "migrate-store", "--to", url.partition("?")[0].replace("@/", f"@{POSTGRESQL}/"))
            box.run(["systemctl", "start", "kps"])
            yield
    finally:
        cluster.close()


def held(box: Box) -> set[str]:
    """What lies in the home, but for what comes and goes with who uses it."""
    return set(box.run(["find", HOME, "-type", "f", "!", "-name", "*-wal", "!", "-name", "*-shm"]).stdout.split())
