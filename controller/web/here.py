"""What the console itself can do of what the handling of a failure says, which speaks of commands."""

import re

# By what a handling says: where that is done here, in a sentence.
OTHERWISE = "{button} takes another address, port or jump servers, which stay with the server, and another password or key."
_DONE = (
    (r"kps server set NAME --(?:port|address)|on the jump server", OTHERWISE),
    (r"--identity|--password-stdin|--passphrase-stdin|--password-of|--agent|--certificate|give the right", "{button} takes it."),
    (r"kps (?:bind|replace|unbind)\b", "The server's page has a button for that."),
    (r"--(?:keep-password-login|accept-lockout|fix-permissions|accept-unproved|everywhere|login)\b",
     "It is a box or a field of the order, which the server's page has a button for."),
    (r"kps server check", "The server's page looks and repairs."),
    (r"kps server (?:add|remove)", "Servers has both: removed on its page, added anew from the list."),
    (r"kps server show", "The server's page says it."),
    (r"kps keypair (?:show|create)", "Key pairs has it."),
    (r"kps kms key", "Keys has it."),
)  # fmt: skip


def here(handling: str, button: str) -> str:
    """Return where this console does what a handling says; "" where it does nothing of it but try again. button: what it says."""
    found = [words for pattern, words in _DONE if re.search(pattern, handling)]
    if OTHERWISE in found:
        found = [each for each in found if each != "{button} takes it."]
    return " ".join(each.format(button=button) for each in found[:2])
