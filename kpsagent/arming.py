"""The undo that outlives the session: a watcher, two where systemd runs, and something that runs at the next boot.

A watcher that is alone may be killed with the session that started it (KillUserProcesses, KillMode=control-group) and both are
gone after a reboot; so where systemd runs there are two of different kinds, and a boot unit; elsewhere what there is: a script
of the boot, a line of cron's. All of them run the agent that lies in our directory, which calls recover(). systemd-run(1),
systemd.unit(5), systemd.kill(5), crontab(5), init-d-script(5).
"""

import os
import signal
import sys

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

UNIT = "kps-undo"
UNLIKELY_TO_BE_KILLED = -900  # proc(5), oom_score_adj
BOOT_UNIT = "/etc/systemd/system/kps-undo-at-boot.service"
BOOT_LINK = "/etc/systemd/system/sysinit.target.wants/kps-undo-at-boot.service"
BOOT_CRON = "/etc/cron.d/kps-undo-at-boot"
BOOT_SCRIPT = "/etc/rcS.d/S99kps-undo-at-boot"

# KillMode: where the first try fails, sshd starts, and the process that goes on trying must outlive the one that was waited for.
_UNIT_TEXT = """[Unit]
Description=undo of an sshd_config change that was never confirmed
DefaultDependencies=no
After=local-fs.target
Before=ssh.service sshd.service ssh.socket sshd.socket

[Service]
Type=oneshot
KillMode=process
ExecStart={python} -I -S -E -B {agent} boot {directory}

[Install]
WantedBy=sysinit.target
"""


def arm(directory: str, agent: bytes) -> "List[str]":
    """Put the undo in place and return what will run it. The journal, with its deadline, stands already."""
    path = os.path.join(directory, "agent")
    write(path, agent, 0o600)
    kinds = _at_boot(directory, path)
    systemd = os.path.isdir("/run/systemd/system")
    if systemd and os.path.exists("/usr/bin/systemd-run"):
        unit = ["/usr/bin/systemd-run", "--quiet", "--collect", "--unit=" + UNIT, "-p", "Type=exec", "--"]
        processes.run(["/usr/bin/systemctl", "stop", UNIT + ".service"])
        if processes.run(unit + command(path, "watch", directory)).code == 0:
            kinds.append("systemd unit")
    detached(command(path, "watch", directory))
    kinds.append("detached process")
    return kinds


def command(path: str, verb: str, directory: str) -> "List[str]":
    return [sys.executable, "-I", "-S", "-E", "-B", path, verb, directory]


def write(path: str, content: bytes, mode: int) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(opened, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(opened)
    sync(os.path.dirname(path))


def sync(directory: str) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def boot_ways() -> "List[str]":
    """Return what would run an undo at the next boot; [] on a server that has nothing of the kind."""
    if os.path.isdir("/run/systemd/system"):
        return ["boot unit"]
    script = ["boot script"] if os.path.isdir(os.path.dirname(BOOT_SCRIPT)) else []
    cron = os.path.isdir(os.path.dirname(BOOT_CRON)) and os.path.exists("/usr/sbin/cron")
    return script + (["cron at boot"] if cron else [])


def _at_boot(directory: str, path: str) -> "List[str]":
    """Put in place what runs the undo at the next boot and return what it is."""
    kinds = boot_ways()
    if "boot unit" in kinds:
        text = _UNIT_TEXT.format(directory=directory, python=sys.executable, agent=path)
        write(BOOT_UNIT, text.encode(), 0o644)
        os.makedirs(os.path.dirname(BOOT_LINK), exist_ok=True)
        if not os.path.islink(BOOT_LINK):
            os.symlink(BOOT_UNIT, BOOT_LINK)
            sync(os.path.dirname(BOOT_LINK))
        return kinds
    line = " ".join(command(path, "boot", directory))
    if "boot script" in kinds:
        write(BOOT_SCRIPT, "#!/bin/sh\nexec {}\n".format(line).encode(), 0o755)
    if "cron at boot" in kinds:
        write(BOOT_CRON, "@reboot root {}\n".format(line).encode(), 0o644)
    return kinds


def detached(words: "List[str]") -> None:
    """Start a command as a process that no session owns: forked twice, in a session of its own, no terminal, no pipes."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # no shutdown waits for it: the boot undoes
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.closerange(3, 256)
        _least_likely_to_be_killed()
        os.execve(words[0], words, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
    finally:
        os._exit(127)


def _least_likely_to_be_killed() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(str(UNLIKELY_TO_BE_KILLED))
    except OSError:
        return  # a container may not allow it; the watcher watches all the same


def disarm(directory: str) -> None:
    """Take away whatever arm() put in place. The detached watcher ends by itself when the journal is gone."""
    armed = False
    for path in (BOOT_LINK, BOOT_UNIT, BOOT_SCRIPT, BOOT_CRON, os.path.join(directory, "agent")):
        try:
            os.unlink(path)
            sync(os.path.dirname(path))
            armed = True
        except (FileNotFoundError, NotADirectoryError):
            continue
    if armed and os.path.isdir("/run/systemd/system") and os.path.exists("/usr/bin/systemctl"):
        # Last of all, and without waiting: this may be the very unit that is stopped.
        processes.run(["/usr/bin/systemctl", "stop", "--no-block", UNIT + ".service"])
