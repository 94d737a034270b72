"""What only a reset needs, on the disk of a server that is shut down; shipped for nothing else."""

import os
import sys

from . import password, sshd, swap
from .errors import Refused
from .plan import ELSEWHERE, Plan, Seen, Step, addresses, block_step, config_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List


def confine(root: str) -> bool:
    """Make root the root directory of this process; from now on nothing of this machine can be named, nor imported.

    False, and nothing is done, where no system's disk is mounted there.
    """
    if not os.path.isfile(os.path.join(root, "etc/passwd")):
        return False
    import glob  # noqa: F401 - what files, sshd and transaction import where they need it cannot be had later
    import hashlib  # noqa: F401
    import socket  # noqa: F401

    swap.confine()
    os.chroot(root)
    os.chdir("/")
    sys.path[:] = []
    return True


def opened(plan: Plan, seen: Seen) -> "List[Step]":
    """Return the steps that open, in our block, what would keep the new key out, and set the password where one is wanted."""
    settings = seen.effective[seen.account.name][addresses(plan)[0]]
    wanted = []
    if settings.get("pubkeyauthentication") == ["no"]:
        wanted.append(("PubkeyAuthentication", "yes"))
    if seen.account.uid == 0 and settings.get("permitrootlogin") in (["no"], ["forced-commands-only"]):
        wanted.append(("PermitRootLogin", "prohibit-password"))
    reason = sshd.login_allowed(
        dict(settings, permitrootlogin=["yes"]), seen.account.name, seen.account.groups, ELSEWHERE, ELSEWHERE
    )
    if reason:
        raise Refused("login_not_allowed", "sshd would not let {} in: {}".format(seen.account.name, reason))
    if plan.password_hash is not None:
        wanted += [(word, "yes") for word, _ in sshd.password_off(settings)]
        if seen.account.uid == 0 and settings.get("permitrootlogin") != ["yes"]:
            wanted = [pair for pair in wanted if pair[0] != "PermitRootLogin"] + [("PermitRootLogin", "yes")]
    text = config_text(seen) if wanted else ""
    kept = [(word, value) for word, value in sshd.block(text) or [] if word not in dict(wanted)]
    steps = [block_step(seen, sshd.with_block(text, kept + wanted))] if wanted else []
    if plan.password_hash is not None:
        steps.append(password.step(plan, seen))
    return steps
