"""Why a verb refuses, by what the caller can do about it.

    Problem            has a code (snake_case, stable), a sentence for a person, and evidence
      Invalid          correct what was given
      NotAllowed       ask somebody with another role
      NotFound         name something that is there
      AlreadyExists    choose another name
      Conflict         do something else first
      TooMany          come again later
      Unavailable      put something right on this machine, then come again
        Away           come again: the store is away for now, and nothing was kept
      Damaged          stored data is not what was stored: restore it from a backup

Where a cause code exists (docs/causes.md), it is the code.
"""

from typing import Any


class Problem(Exception):
    """a verb was refused and changed nothing"""

    status = 500  # of the HTTP answer

    def __init__(self, code: str, message: str, **evidence: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.evidence = evidence


class Invalid(Problem):
    """what was given cannot be used"""

    status = 400


class NotAllowed(Problem):
    """the caller's role does not allow it"""

    status = 403


class NotFound(Problem):
    """there is no such thing, or none that the caller may see"""

    status = 404


class AlreadyExists(Problem):
    """the name is taken"""

    status = 409


class Conflict(Problem):
    """the state of something else forbids it"""

    status = 409


class TooMany(Problem):
    """there is as much of it as there may be, for now"""

    status = 429


class Unavailable(Problem):
    """something on the controller's machine is missing or not as it must be"""

    status = 503


class Away(Unavailable):
    """the store is away for now; nothing was kept, so the same may be asked again"""

    retry_seconds = 2  # nobody knows


class Damaged(Problem):
    """stored data does not open"""
