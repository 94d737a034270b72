"""Why nothing came of a call, by what the caller can do about it.

Refused          the controller answered, and said no: see code and message
  ClockDiffers   so it did because the clocks are too far apart: set one of them
Unreachable      no answer came: try again, or look after the controller
  NotTrusted     whoever answers is not known to be the controller; nothing was sent
"""

from typing import Any


class Refused(Exception):
    """the controller answered, and said no"""

    def __init__(self, status: int, code: str, message: str, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.evidence = evidence or {}


class ClockDiffers(Refused):
    """the controller did not take the signature, and its clock shows another time than this machine's"""


class Unreachable(Exception):
    """no answer came: try again, or look after the controller"""


class NotTrusted(Unreachable):
    """the certificate is not one that is trusted; nothing was sent"""
