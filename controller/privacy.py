"""What a process has in its memory stays there: passwords, private halves and the root key pass through it."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_memory_private() -> None:
    """Let this process leave no core dump, and no other process of the same user look into it.

    Both are needed: the limit does not hold where core_pattern names a program (core(5)), and dumpable ends with the
    next exec. Root can look into everything.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
