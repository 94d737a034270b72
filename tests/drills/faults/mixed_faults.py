"""The kinds of fault that a fleet has at any one time: what is wrong with a server beforehand, or goes wrong at some moment.

Each is made for real, on a server with a login `deploy` whose old key opens it. What by itself keeps every key out (`shuts`) is
mended before anybody judges whether a key works; all else stays as it is.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from controller.demo.fleet import Server

Act = Callable[[Server, Random], None]

# $1: the old key's line. `put` gives it to deploy as an owner would.
PRELUDE = """set -e
H=/home/deploy S=$H/.ssh K=$S/authorized_keys C=/etc/ssh/sshd_config
old=$1
put() { install -d -m 700 -o deploy -g deploy $S; printf '%s\\n' "$old" >$K; chmod 600 $K; chown deploy:deploy $K; }
small() { mount -t tmpfs -o "$1,mode=755,uid=1000,gid=1000" none $H; put; }
again() { kill -HUP $(cat /run/sshd.pid); sleep 0.3; }
"""


@dataclass(frozen=True)
class Fault:
    """One kind of fault. before, mend: shell scripts in the server, as root. during: at a moment of chance."""

    name: str
    before: str = ""
    during: Act | None = None
    mend: str = ""
    shuts: bool = False
    reboots: bool = False  # it takes a reboot to be mended
    kills_controller: bool = False
    spec: Mapping[str, Any] = field(default_factory=dict)


def shell(server: Server, script: str, old: str = "", check: bool = False) -> None:
    server.run(["sh", "-c", PRELUDE + script, "sh", old], check=check)


def _kill(*words: str) -> Act:
    def act(server: Server, _: Random) -> None:
        for pid, title in server.processes().items():
            if any(word in title for word in words):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    return act


def _run(script: str) -> Act:
    return lambda server, _: shell(server, script, check=True)


def _reboot(server: Server, _: Random) -> None:
    server.reboot()


def _freeze(server: Server, chance: Random) -> None:
    pids = list(server.processes())
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if number == signal.SIGSTOP:
            time.sleep(chance.uniform(1, 20))


def drop(server: Server, on: bool) -> None:
    """Cut the network to and from a server, without anybody being told; or mend it."""
    for way in ("-d", "-s"):
        words = ["iptables", "-w", "-I" if on else "-D", "INPUT", way, server.host, "-j", "DROP"]
        subprocess.run(words, capture_output=True, check=on)


def _cut(seconds: float) -> Act:
    def act(server: Server, _: Random) -> None:
        drop(server, True)
        time.sleep(seconds)
        drop(server, False)

    return act


def _knock(server: Server, _: Random) -> None:
    """Hold as many connections that never log in as sshd takes, for a while."""
    held = []
    until = time.monotonic() + 6
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            held.append(socket.create_connection((server.host, server.port), timeout=1))
        time.sleep(0.05)
    for each in held:
        each.close()


OTHER_HOST_KEY = (
    "cd /etc/ssh; mkdir -p /root/kept; cp -p ssh_host_* /root/kept/; rm ssh_host_*; ssh-keygen -q -t ed25519 -N '' "
    "-f ssh_host_ed25519_key; again"
)
OLD_HOST_KEY = "cp -p /root/kept/ssh_host_* /etc/ssh/; again"
FOREIGN = "# foreign"
_MANY = "for n in $(seq 25); do {}; sleep 0.03; done"

FAULTS: tuple[Fault, ...] = (
    Fault("nothing wrong"),
    Fault("home on a full disk", "small size=64k; cat /dev/zero >$H/ballast || :"),
    Fault("home without free inodes", "small size=1m,nr_inodes=8; for n in 1 2 3 4 5 6 7; do touch $H/$n || :; done"),
    Fault(
        "no room for our own journal",
        "mkdir -p /var/lib/kps; mount -t tmpfs -o size=4k,mode=711 none /var/lib/kps; cat /dev/zero >/var/lib/kps/ballast || :",
    ),
    Fault("disk fills during", "small size=64k", _run("for n in $(seq 20); do cat /dev/zero >$H/ballast || :; sleep 0.1; done")),
    Fault("home read-only", "mount --bind $H $H; mount -o remount,bind,ro $H"),
    Fault("all read-only", "mount -o remount,ro /"),
    Fault("file immutable", "chattr +i $K"),
    Fault("file append-only", "chattr +a $K"),
    Fault("directory immutable", "chattr +i $S"),
    Fault("immutable during", "", _run("chattr +i $K")),
    Fault("home open to all", "chmod 777 $H", None, "chmod 755 $H", True),
    Fault("home open to all during", "", _run("chmod 777 $H"), "chmod 755 $H", True),
    Fault("home missing", "mv $H $H.away", None, "mv $H.away $H", True),
    Fault("type of the new key refused", "sed -i '1i PubkeyAcceptedAlgorithms -ssh-ed25519' $C; again"),
    Fault(
        "key and password asked for",
        "printf 'Match User deploy\\n AuthenticationMethods publickey,password\\n' >>$C; again",
        None,
        "sed -i '/^Match User deploy/,$d' $C; again",
        True,
    ),
    Fault(
        "keys elsewhere by Match",
        "mkdir -p /etc/keys; cp $K /etc/keys/deploy; chmod 644 /etc/keys/deploy; "
        "printf 'Match User deploy\\n AuthorizedKeysFile /etc/keys/%%u\\n' >>$C; again",
    ),
    Fault("account expired", "chage -E 0 deploy", None, "chage -E -1 deploy", True),
    Fault("account expires during", "", _run("chage -E 0 deploy"), "chage -E -1 deploy", True),
    Fault(
        "clock far ahead: password aged out",
        "chage -d 2000-01-01 -M 30 deploy",
        None,
        "chage -d 2026-01-01 -M 99999 deploy",
        True,
    ),
    Fault(
        "login locked without PAM",
        "usermod -L deploy; sed -i '1i UsePAM no' $C; again",
        None,
        "sed -i 1d $C; again; usermod -U deploy",
        True,
    ),
    Fault("no shell", "usermod -s /usr/sbin/nologin deploy", None, "usermod -s /bin/bash deploy", True),
    Fault("login not allowed", "sed -i '1i AllowUsers root' $C; again", None, "sed -i '/^AllowUsers root/d' $C; again", True),
    Fault("everybody but root kept out", "touch /etc/nologin", None, "rm /etc/nologin", True),
    Fault("forced command", "sed -i 's#^#command=\"/bin/date\" #' $K", None, 'sed -i \'s#^command="[^"]*" ##\' $K', True),
    Fault("noisy start-up file", "echo 'echo noise; echo more >&2; alias sudo=false' >$H/.bashrc"),
    Fault("start-up file that ends the session", "echo 'exit 1' >$H/.bashrc", None, "rm $H/.bashrc", True),
    Fault("slow log-ins", "printf 'sleep 2\\n' >>/etc/ssh/sshrc"),
    Fault("file is a link", "mv $K $H/kept; ln -s $H/kept $K"),
    Fault("file is a pipe", "mv $K $H/kept; mkfifo -m 600 $K; chown deploy $K", None, "rm $K; mv $H/kept $K", True),
    Fault("file has a second name", "ln $K $H/kept"),
    Fault("key in a second file too", "cp -p $K ${K}2"),
    Fault("sshd's file broken beforehand", "echo Bogus >>$C"),
    Fault("broken and reloaded during", "", _run("echo Bogus >>$C; kill -HUP $(cat /run/sshd.pid)"), "", True, True),
    Fault("sshd's file rewritten during", "", _run('for n in $(seq 10); do sed -i "\\$a # managed $n" $C; again || :; done')),
    Fault("sshd killed", "", _kill("sshd"), "", True, True),
    Fault("sessions killed", "", _kill("sshd: deploy", "sshd: root@", "sshd: root [")),
    Fault("agent killed", "", _kill("-I -S -E -B")),
    Fault("rebooted", "", _reboot),
    Fault("frozen for a while", "", _freeze),
    Fault("network cut, mended soon", "", _cut(3)),
    Fault("network cut for long", "", _cut(40)),
    Fault("another host key", OTHER_HOST_KEY, None, OLD_HOST_KEY, True),
    Fault("another host key during", "", _run(OTHER_HOST_KEY), OLD_HOST_KEY, True),
    Fault("refused for too many connections", "sed -i '1i MaxStartups 3:100:3' $C; again", _knock),
    Fault("somebody appends", "", _run(_MANY.format(f'echo "{FOREIGN} $n" >>$K'))),
    Fault("somebody edits by rename", "", _run(_MANY.format(f'sed -i "\\$a {FOREIGN} $n" $K'))),
    Fault("controller killed", kills_controller=True),
    Fault("no Python", spec={"python": False}),
)


def mend(server: Server, fault: Fault) -> None:
    """Take away what by itself keeps every key out."""
    drop(server, False)
    if fault.reboots:
        # A rebooted server reads its broken file too: what broke it goes first, as by hand at the console.
        shell(server, "sed -i '/^Bogus/d' $C")
        server.reboot()
    if fault.mend:
        shell(server, fault.mend)
