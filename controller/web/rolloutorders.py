"""An order for many servers as the form of a new rollout has it: what, on which servers, and how it is to go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.errors import Invalid
from controller.web.asking import Form

# Value, words, help.
OPERATIONS = (
    ("bind", "Bind a key pair", "The key goes on the login, is proved, and password login is switched off."),
    ("replace", "Replace the key pair", "The new key takes the place of the one that is bound."),
    (
        "unbind",
        "Unbind",
        "The bound key goes, and passwords are taken again where binding it had closed them; not where doors need a second user.",
    ),
    ("password-login-disable", "Password login off", "Where a key is proved to work."),
    ("password-login-enable", "Password login on", "As after trouble with keys."),
    ("check", "Check", "Look and prove; nothing is changed, and so nothing is planned."),
)
# Of the form, what a task keeps: boxes, each with what it says and what it means.
BOXES = (
    ("keep_password_login", "Leave password login as it is", "bind, unbind"),
    ("close_password_login", "Switch password login off too", "replace"),
    ("accept_unproved", "Accept a key that nobody has shown to hold", "bind, replace, unbind, password login off"),
    ("fix_permissions", "Put owners and modes right where sshd would refuse the key for them", "bind, replace"),
    ("revoke", "The old key is in wrong hands: its removal is never undone", "replace, unbind"),
    ("everywhere", "Take that key out of other logins' files too", "with the one above"),
    ("end_sessions", "End sessions that it opened", "with the two above"),
    ("force", "Put our setting above the server's own", "password login on"),
)
TAKE_OVER = "take_over"
LIMITS = (
    ("canary", "First", "1", "How many servers before all others: 5, or 2%. Any failure among them stops it."),
    ("batch", "Then at a time", "10%", "The next batch begins when the last one has ended."),
    ("max_failures", "Stop where more failed than", "2%", "Of all servers, and of those of each label."),
)
_STRATEGY = ("canary", "batch", "max_failures", "per_label", "quorum", "window")
_NUMBERS = (("concurrency", 1000), ("per_bastion", 1000), ("tries", 20))
_MOST_WORDS = 256 * 1024  # characters of names and labels
# All that is filled in, but for what opens the servers: that is in no page again.
_FIELDS = (
    *("operation", "keypair", "login", "accept_lockout", "which", "servers", "pause_after_canary"),
    *(name for name, _, _ in BOXES), TAKE_OVER, *_STRATEGY, *(name for name, _ in _NUMBERS),
)  # fmt: skip
LINKED = ("operation", "keypair", "servers")  # what a link may fill in


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked. request and strategy are as the services take them."""

    operation: str
    every: bool
    words: list[str]
    request: dict[str, Any]
    strategy: dict[str, Any]


def order(form: Form) -> Order:
    """Return what a form asks for. Invalid where no server is meant, or a number is none."""
    every = form.text("which") == "all"
    words = form.long_text("servers", most=_MOST_WORDS).replace(",", " ").split()
    if not every and not words:
        raise Invalid("selection_empty", "say on which servers: names, label=value, or all of them")
    operation = form.text("operation", most=40)
    request: dict[str, Any] = {
        "keypair": form.text("keypair", most=255) if operation in ("bind", "replace") else "",
        "login": form.text("login", most=65),
        "accept_lockout": form.text("accept_lockout", most=4000).replace(",", " ").split(),
        **{name: form.on(name) for name in (*(name for name, _, _ in BOXES), TAKE_OVER)},
    }
    strategy: dict[str, Any] = {name: form.text(name, most=100) for name in _STRATEGY}
    for name, most in _NUMBERS:
        number = form.number(name)
        if number is not None and not 1 <= number <= most:
            raise Invalid("invalid", f"{name}: a number from 1 to {most}")
        strategy[name] = number
    strategy["pause_after_canary"] = form.on("pause_after_canary")
    return Order(operation, every, [] if every else words, _said(request), _said(strategy))


def typed(form: Form) -> dict[str, str]:
    """Return what was filled in, as it was, for the form to have it again."""
    return {name: form.long_text(name, most=_MOST_WORDS) for name in _FIELDS if form.on(name)}


def _said(words: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in words.items() if value not in ("", None, False, [])}
