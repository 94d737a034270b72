"""How `kps` ends: the exit codes, in one place."""

ALL_AS_ASKED = 0
SOME_NOT = 1
USAGE = 2
NOT_FOUND = 3
REFUSED = 4
UNAVAILABLE = 5
FAULT = 70  # sysexits.h: EX_SOFTWARE
INTERRUPTED = 130
UNREAD = 141  # what a shell shows of a program that SIGPIPE has ended

MEANING: dict[int, str] = {
    ALL_AS_ASKED: "every server ended as asked",
    SOME_NOT: "some server did not, each is listed with its cause; or what was looked at or verified is not good",
    USAGE: "wrong usage, or a value that cannot be used; nothing was done",
    NOT_FOUND: "no such server, key pair or task",
    REFUSED: "refused: the name is taken, or something else must be done first",
    UNAVAILABLE: "no home here (`kps init`), or home, disk or controller must be put right",
    FAULT: "a fault of kps itself; please report what it printed",
    INTERRUPTED: "interrupted from the keyboard",
    UNREAD: "whoever was to read stdout has gone",
}


class Declined(Exception):
    """the command itself says no, before anybody is asked"""

    def __init__(self, exit_code: int, code: str, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.message = message


class Unread(Exception):
    """nobody reads stdout any more"""


def usage(message: str) -> Declined:
    """Return the refusal of something that was typed wrongly."""
    return Declined(USAGE, "usage", message)


def of_status(status: int) -> int:
    """Return the exit code for an HTTP status that is not success."""
    if status == 404:
        return NOT_FOUND
    if status >= 500:
        return UNAVAILABLE
    if status in (401, 403, 409, 412):
        return REFUSED
    return USAGE
