"""The few Linux system calls that a fleet needs and Python 3.11 does not offer.

Each raises OSError as os functions do. Sources: unshare(2), setns(2), mount(2), pivot_root(2), prctl(2).
"""

import ctypes
import os

NEW_MOUNTS = 0x00020000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_PIDS = 0x20000000

READ_ONLY = 0x1
NO_SUID = 0x2
NO_DEVICES = 0x4
NO_EXEC = 0x8
BIND = 0x1000
RECURSIVE = 0x4000
PRIVATE = 0x40000

_DETACH = 2
_SET_DEATH_SIGNAL = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(namespaces: int) -> None:
    """Put this process (for NEW_PIDS: its next child) into new namespaces."""
    _check(_libc.unshare(namespaces), "unshare")


def enter(namespace: int, kind: int) -> None:
    """Put this process (for NEW_PIDS: its next child) into the namespace that a file descriptor stands for."""
    _check(_libc.setns(namespace, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    """Mount source at target; kind is a file system's name, or None for a bind mount or a change of flags."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            None if kind is None else os.fsencode(kind),
            ctypes.c_ulong(flags),
            os.fsencode(options),
        ),
        target,
    )


def unmount(target: str) -> None:
    """Take a mount out of sight at once, whoever still uses it."""
    _check(_libc.umount2(os.fsencode(target), _DETACH), target)


def make_root(mount_point: str) -> None:
    """Make the file system mounted at mount_point the root of this mount namespace, and forget the old root."""
    os.chdir(mount_point)
    # pivot_root(2): with both arguments "." the old root ends up on top of the new one and needs no directory.
    _check(_libc.pivot_root(b".", b"."), mount_point)
    unmount(".")
    os.chdir("/")


def set_death_signal(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    _check(_libc.prctl(_SET_DEATH_SIGNAL, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def set_process_name(name: str) -> None:
    """Set the name that ps and /proc/PID/comm show."""
    _check(_libc.prctl(_SET_NAME, os.fsencode(name), 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _check(_libc.prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def set_hostname(name: str) -> None:
    """Set the host name of this process's namespace."""
    encoded = os.fsencode(name)
    _check(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname")


def _check(result: int, subject: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
