"""What a look at a server has seen of it, as a digest: the same again where nothing that counts for the operation has changed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Of the plan that the agent tells: what it changes, line by line, whom that locks out, and digests of what it read.
# Not what it would do about it (reload, armed, proofs): that names processes, and changes where nobody has touched the server.
_OF_PLAN = ("changes", "locked_out", "seen")
_OF_RESULT = ("logins", "closed", "first")


def digest(result: Mapping[str, Any]) -> str | None:
    """Return the digest (SHA-256, hex) of what the result of a look tells; None where some of it was too large to be told.

    result: of an agent whose plan has only_plan. Two looks at one server with one plan have the same digest where the files of
    keys and sshd's main file are byte for byte the same, what sshd makes of its configuration is, and so are the changes, the
    logins that they lock out, and by whom passwords are taken.
    """
    plan = result.get("plan") or {}
    if "cut" in plan or "changes" not in plan:
        return None
    told = {name: plan[name] for name in _OF_PLAN if name in plan} | {name: result.get(name) for name in _OF_RESULT}
    spelt = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(spelt.encode("ascii")).hexdigest()
