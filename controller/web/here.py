"""What the console itself does of what the handling of a failure says in commands: by which button, on which page."""

import re
from dataclasses import dataclass

_BIND, _REPLACE = "\u201cBind a key pair\u201d", "\u201cReplace the key pair\u201d"
_SERVER = "on the server's page"
# By what a handling says: where that is done here, in a sentence.
_DONE = (
    (r"kps server set NAME --(?:port|address)|on the jump server", "{otherwise} takes {reach}, and another password or key."),
    (
        r"--identity|--password-stdin|--passphrase-stdin|--password-of|--agent|--certificate|give the right|^Give an OpenSSH",
        "{otherwise} takes it.",
    ),
    (r"kps bind\b|^Bind ", f"{_BIND} {_SERVER} does that."),
    (r"kps replace\b", f"{_REPLACE} or \u201cUnbind the key pair\u201d {_SERVER} does that."),
    (r"--fix-permissions", f"\u201cLook, and repair what can be repaired safely\u201d {_SERVER} does that."),
    (
        r"--(?:keep-password-login|accept-lockout|accept-unproved|everywhere|login)\b",
        f"It is a box or a field of the order, as of {_BIND} {_SERVER}.",
    ),
    (r"kps emergency|another login or network", "Emergency opens and closes doors."),
    (r"kps password-login disable", f"\u201cTurn password login off\u201d {_SERVER} does that."),
    (r"kps server check", f"\u201cLook now\u201d {_SERVER} does that."),
    (r"kps server (?:add|remove)", f"\u201cRemove\u201d {_SERVER}, then \u201cAdd a server\u201d above the list of servers."),
    (r"kps server show", "The server's page says it."),
    (r"kps reset", "The server's page resets it, once its disk is said to be mounted."),
    (r"plan anew", f"\u201cNew rollout\u201d plans anew, and so does each order {_SERVER}."),
    (r"kps keypair (?:show|create)", "Key pairs has it."),
    (r"kps kms key", "Keys has it."),
)  # fmt: skip
_MOST = 2  # sentences


@dataclass(frozen=True, slots=True)
class Buttons:
    """What a page's own buttons are called: that tries again, and that asks with what and how reached; and what that takes."""

    otherwise: str
    retry: str = "\u201cRetry\u201d"
    reach: str = "another address, port or jump servers, which stay with the server"


def here(handling: str, buttons: Buttons) -> str:
    """Return where this console does what a handling says; "" where it does nothing of it."""
    found = [words for pattern, words in _DONE if re.search(pattern, handling)]
    if _DONE[0][1] in found:
        found = [each for each in found if each != _DONE[1][1]]
    if not any("{otherwise}" in each for each in found) and re.search(r"kps task retry|and retry\.", handling):
        found = [*found[: _MOST - 1], "{retry} asks once more."]
    words = {"otherwise": buttons.otherwise, "retry": buttons.retry, "reach": buttons.reach}
    return " ".join(each.format_map(words) for each in found[:_MOST])
