"""The verbs by which people come into the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from controller.client.call import Call, Verb, segment

if TYPE_CHECKING:
    from controller import answers as a


class ConsoleVerbs:
    """Passwords and links."""

    @Verb
    def set_console_password(self, name: str, password: str) -> Call[None]:
        """Set the password with which a user signs in to the console."""
        return Call("PUT", f"/users/{segment(name)}/console-password", body={"password": password})

    @Verb
    def create_console_link(self, request: Mapping[str, Any]) -> Call[a.ConsoleLink]:
        """Make a link that lets a user into the console once, and return it with its code, this once."""
        return Call("POST", "/console-links", body=dict(request))
