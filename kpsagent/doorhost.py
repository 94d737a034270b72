"""The effects of doors on this machine: where a door is kept, and who closes it though nobody asks. Shipped for doors only.

As with an undo that is armed (arming.py): a watcher, two of different kinds where systemd runs, and something that runs at the
next boot. The names are others, for a door stands while operations come and go.
"""

import fcntl
import os
import time

from . import arming, processes, wire
from .doorstate import LASTING, NAMES, PASSING, standing_door
from .errors import Changed, Refused
from .host import ArmDoor, AskBeside, DoorPlace, DropDoor, MoveDoor, Overwrite, ReadDoor, ReloadOthers, Wall, WriteDoor
from .labels import ENFORCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple

UNIT = "kps-door"
BOOT_UNIT = "/etc/systemd/system/kps-door-at-boot.service"
BOOT_LINK = "/etc/systemd/system/sysinit.target.wants/kps-door-at-boot.service"
BOOT_CRON = "/etc/cron.d/kps-door-at-boot"
BOOT_SCRIPT = "/etc/rcS.d/S99kps-door-at-boot"
AGENT = "door-agent"
FIRST, SECOND = "first", "second"
# What a watcher holds a lock on as long as it lives.
_HELD = {FIRST: AGENT, SECOND: "door-agent.second"}

# KillMode: the watcher that is started at boot goes on when what started it has ended.
_UNIT_TEXT = """[Unit]
Description=closes an emergency door whose time is over, or watches it
DefaultDependencies=no
After=local-fs.target
Before=ssh.service sshd.service ssh.socket sshd.socket

[Service]
Type=oneshot
KillMode=process
ExecStart={command}

[Install]
WantedBy=sysinit.target
"""


def do(directory: str, bundle: bytes, effect: "Any") -> "Any":
    """Do one effect of a door and answer it."""
    if isinstance(effect, DoorPlace):
        return _place()
    if isinstance(effect, AskBeside):
        candidate = os.path.join(directory, "candidate")
        return processes.ask_sshd(effect.daemon, effect.flags, effect.text, candidate, effect.beside)
    if isinstance(effect, Wall):
        return time.time()
    if isinstance(effect, ReadDoor):
        return standing_door(directory)
    if isinstance(effect, WriteDoor):
        return _write(directory, effect.name, effect.door)
    if isinstance(effect, MoveDoor):
        return _move(directory, effect.to)
    if isinstance(effect, DropDoor):
        return _remove([os.path.join(directory, "door." + name) for name in NAMES])
    if isinstance(effect, Overwrite):
        return _overwrite(effect.path, effect.before.encode("ascii"), effect.after.encode("ascii"))
    if isinstance(effect, ReloadOthers):
        return processes.reload_others(effect.daemon, effect.connection, effect.heard)
    if isinstance(effect, ArmDoor):
        return arm(directory, bundle, effect.boot)
    return disarm(directory)


def _place() -> "Tuple[str, bool, List[str]]":
    if os.geteuid() != 0:
        raise Refused(
            "sudo_refused",
            "a door takes an agent that runs as root, and this login may not become root here; give a login that may (sudo)",
        )
    if os.path.exists(ENFORCE):
        return LASTING, False, boot_ways()
    return PASSING, _run_passes(), boot_ways()


def _run_passes() -> bool:
    """Whether a reboot empties /run."""
    mounts = [line.split() for line in processes.slurp("/proc/self/mounts").split("\n")]
    kinds = [words[2] for words in mounts if words[1:2] == ["/run"]]  # the last one hides the others
    return kinds[-1:] == ["tmpfs"]


def boot_ways() -> "List[str]":
    """Return what closes a door at the next boot: of arming's ways those that are seen to run here, not only to be there.

    In a container the directories are those of its image, and nothing may ever look into them: then a door would stay open.
    """
    runs = {"boot script": _init_runs_scripts, "cron at boot": _cron_runs_at_boot}
    return [way for way in arming.boot_ways() if way not in runs or runs[way]()]


def _init_runs_scripts() -> bool:
    """Whether process 1 is the init of System V, and told to run /etc/rcS.d. inittab(5)."""
    rows = [line.split(":") for line in processes.slurp("/etc/inittab").split("\n") if not line.startswith("#")]
    told = any(row[2:3] == ["sysinit"] and "rcS" in row[-1] for row in rows)
    # Where there is no /proc its name cannot be seen.
    return told and processes.slurp("/proc/1/comm").strip() in ("init", "")


def _cron_runs_at_boot() -> bool:
    """Whether a cron runs here that takes its next start for a boot: Debian's leaves a note in /run that it has seen one."""
    return _run_passes() and any(_is_cron_of_ours(name) for name in os.listdir("/proc") if name.isdigit())


def _is_cron_of_ours(pid: str) -> bool:
    return processes.slurp("/proc/{}/comm".format(pid)).strip() == "cron" and processes.is_here(pid)


def _write(directory: str, name: str, door: "Any") -> None:
    new = os.path.join(directory, "new-{}".format(os.getpid()))
    arming.write(new, wire.encode(door).encode("ascii"), 0o600)
    os.rename(new, os.path.join(directory, "door." + name))
    arming.sync(directory)


def _move(directory: str, to: str) -> bool:
    for name in ("open", "opening") if to == "closing" else ("opening",):
        try:
            os.rename(os.path.join(directory, "door." + name), os.path.join(directory, "door." + to))
        except FileNotFoundError:
            continue
        arming.sync(directory)
        return True
    return False


def _overwrite(path: str, before: bytes, after: bytes) -> bool:
    opened = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(opened, "r+b", buffering=0) as stream:
        text = stream.read()  # however long root has let it become: a limit would leave the door open
        at = text.find(before)
        if at < 0 and after not in text:
            raise Changed("sshd_config_changed", "{}: somebody else changed it".format(path), path=path)
        if at >= 0:
            os.pwrite(opened, after, at)
            os.fsync(opened)
    return at >= 0


def _remove(paths: "List[str]") -> bool:
    gone = False
    for path in paths:
        try:
            os.unlink(path)
            arming.sync(os.path.dirname(path))
            gone = True
        except (FileNotFoundError, NotADirectoryError):
            continue
    return gone


# -- who closes it -----------------------------------------------------------------------------------------------------


def arm(directory: str, bundle: bytes, boot: bool) -> "List[str]":
    """Have the door that stands watched, and return by what. boot: at the next boot too; the agent is put there for that."""
    agent = os.path.join(directory, AGENT)
    kinds = []  # type: List[str]
    if boot:
        _install(agent, bundle)
        kinds += _at_boot(directory, agent)
    arming.write(os.path.join(directory, _HELD[SECOND]), b"", 0o600)
    in_unit = _in_unit(directory, agent, boot)
    for role in [SECOND] if in_unit else [FIRST, SECOND]:
        start(directory, role)
    return kinds + (["systemd unit", "detached process"] if in_unit else ["two detached processes"])


def start(directory: str, role: str) -> None:
    """Start a watcher as a process that no session owns; one that finds another in its role ends at once."""
    arming.detached(arming.command(os.path.join(directory, AGENT), "door-watch", directory) + [role])


def _install(agent: str, bundle: bytes) -> None:
    """Put the agent there; one that is there may be running, and stays."""
    if processes.slurp(agent) == bundle.decode("utf-8", "surrogateescape"):
        return
    arming.write(agent + ".new", bundle, 0o600)
    os.rename(agent + ".new", agent)
    arming.sync(os.path.dirname(agent))


def _at_boot(directory: str, agent: str) -> "List[str]":
    kinds = boot_ways()
    line = " ".join(arming.command(agent, "door-boot", directory))
    if "boot unit" in kinds:
        arming.write(BOOT_UNIT, _UNIT_TEXT.format(command=line).encode(), 0o644)
        os.makedirs(os.path.dirname(BOOT_LINK), exist_ok=True)
        if not os.path.islink(BOOT_LINK):
            os.symlink(BOOT_UNIT, BOOT_LINK)
            arming.sync(os.path.dirname(BOOT_LINK))
    if "boot script" in kinds:
        arming.write(BOOT_SCRIPT, "#!/bin/sh\nexec {}\n".format(line).encode(), 0o755)
    if "cron at boot" in kinds:
        arming.write(BOOT_CRON, "@reboot root {}\n".format(line).encode(), 0o644)
    return kinds


def _in_unit(directory: str, agent: str, wait: bool) -> bool:
    """Have systemd run a watcher, where there is systemd and it runs none yet; return whether it runs one."""
    if not (os.path.isdir("/run/systemd/system") and os.path.exists("/usr/bin/systemd-run")):
        return False
    if processes.run(["/usr/bin/systemctl", "is-active", "--quiet", UNIT + ".service"]).code == 0:
        return True
    # KillMode: the other watcher may be in this unit too, where this one has started it anew, and is to outlive it.
    unit = ["/usr/bin/systemd-run", "--quiet", "--collect", "--unit=" + UNIT]
    unit += ["-p", "KillMode=process", "-p", "OOMScoreAdjust={}".format(arming.UNLIKELY_TO_BE_KILLED)]
    # At boot it is not waited for: systemd is not yet so far that it starts anything of this kind.
    waits = [] if wait else ["--no-block"]
    command = arming.command(agent, "door-watch", directory) + [FIRST]
    # Before systemd 240 there is no exec, which fails where the program cannot be run.
    return any(processes.run(unit + ["-p", "Type=" + kind] + waits + ["--"] + command).code == 0 for kind in ("exec", "simple"))


def claimed(directory: str, role: str) -> "Any":
    """Return what shows, while it is held, that a watcher of this role runs; None where another one does, or none is to."""
    try:
        held = os.open(os.path.join(directory, _HELD[role]), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held
    except OSError:
        os.close(held)
        return None


def revive_other(directory: str, role: str) -> None:
    """Start the other watcher where it is no more: of two that see to each other only who kills both at once gets rid."""
    other = FIRST if role == SECOND else SECOND
    held = claimed(directory, other)
    if held is not None:
        os.close(held)
        start(directory, other)


def disarm(directory: str) -> None:
    """Take away whatever arm() put in place. A watcher ends by itself when the door is gone."""
    agent = os.path.join(directory, AGENT)
    armed = _remove([BOOT_LINK, BOOT_UNIT, BOOT_SCRIPT, BOOT_CRON, agent + ".new", os.path.join(directory, _HELD[SECOND]), agent])
    if armed and os.path.isdir("/run/systemd/system") and os.path.exists("/usr/bin/systemctl"):
        # Last of all, and without waiting: this may be the very unit that is stopped.
        processes.run(["/usr/bin/systemctl", "stop", "--no-block", UNIT + ".service"])
