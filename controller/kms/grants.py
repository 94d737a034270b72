"""Grants: leave for one user, or all of the tenant, to do something with one customer master key. Pure."""

import re
from collections.abc import Collection

from controller.errors import Invalid, NotAllowed
from controller.model import Grant

MOST_GRANTS = 100  # of one key
NAME_CHARACTERS = 255
OPERATIONS = (
    "create-datakey",
    "create-datakey-without-plaintext",
    "encrypt-datakey",
    "decrypt-datakey",
    "describe-key",
    "create-grant",
    "retire-grant",
    "encrypt-data",
    "decrypt-data",
)
_NAME = re.compile(r"[a-zA-Z0-9:/_-]{0,255}")


def check(operations: Collection[str], name: str) -> list[str]:
    """Return the operations in their order.

    Invalid: grant_operations_unusable (none, an unknown one, or create-grant alone), grant_name_unusable.
    """
    unknown = sorted(set(operations) - set(OPERATIONS))
    if unknown:
        message = f"{', '.join(unknown)[:200]}: can't be granted; these can: {', '.join(OPERATIONS)}"
        raise Invalid("grant_operations_unusable", message)
    if not set(operations) - {"create-grant"}:
        raise Invalid("grant_operations_unusable", "create-grant alone grants nothing; name what may be passed on too")
    if not _NAME.fullmatch(name):
        raise Invalid("grant_name_unusable", f"{name[:300]!r}: a grant's name is at most 255 letters, digits, and : / _ -")
    return [operation for operation in OPERATIONS if operation in operations]


def passed_on(own: Collection[Grant], operations: Collection[str]) -> None:
    """NotAllowed(grant_exceeds_own) where somebody who may only pass on what was granted wants to pass on more."""
    have = {operation for grant in own if "create-grant" in grant.operations for operation in grant.operations}
    more = sorted(set(operations) - have)
    if more:
        raise NotAllowed("grant_exceeds_own", f"{', '.join(more)}: was not granted to you, so you can't pass it on")


def may_retire(grant: Grant, user_id: str) -> bool:
    """Say whether a user may give a grant up: its issuer, who was named for that, or the grantee where that was granted."""
    return user_id in (grant.issuer, grant.retiring) or (
        "retire-grant" in grant.operations and grant.grantee in (user_id, grant.tenant_id)
    )
