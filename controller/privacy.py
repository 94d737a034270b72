"""What a process has in its memory stays there: passwords, private halves and the root key pass through it."""

import ctypes
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # bits/mman-linux.h
# glibc's own allocator for every object of Python, and what is given back to it overwritten at once. Without its cache, which
# would keep the last few pieces of each size as they were.
_FORGETFUL = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
}


def keep_memory_private() -> None:
    """Let this process leave no core dump, and no other process of the same user look into it.

    Both are needed: the limit does not hold where core_pattern names a program (core(5)), and dumpable ends with the
    next exec. Root can look into everything.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def forget_what_is_freed() -> None:
    """Have all memory that this process gives back to its allocator overwritten at once: starts this program anew, once.

    No library wipes what it copies: the text of a key in a request, in JSON, in an answer. Held to glibc; elsewhere nothing
    changes. Costs and figures: docs/decisions/0031-freed-memory-is-overwritten.md.
    """
    environment = _forgetful(os.environ)
    if environment is not None:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606


def _forgetful(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment in which freed memory is overwritten, None where it is this one."""
    tunables = environment.get("GLIBC_TUNABLES", "")
    wanted = _FORGETFUL["GLIBC_TUNABLES"]
    if environment.get("PYTHONMALLOC") == _FORGETFUL["PYTHONMALLOC"] and tunables.endswith(wanted):
        return None
    # The last of two settings of one name holds.
    return {**environment, **_FORGETFUL, "GLIBC_TUNABLES": f"{tunables}:{wanted}" if tunables else wanted}


def keep_out_of_swap() -> bool:
    """Lock this process's memory where its limits allow all of it; say whether no disk can get any of it.

    Under a finite limit nothing is locked: an allocation beyond it would fail in the middle of a task.
    """
    allowed = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if allowed and ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return True
    try:
        swaps = Path("/proc/swaps").read_text().split("\n")[1:]
    except OSError:
        return False
    # Compressed swap in memory itself reaches no disk.
    return all(line.startswith("/dev/zram") for line in swaps if line)
