"""The verbs of secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from controller.client.call import Call, Flow, Verb, pages, segment

if TYPE_CHECKING:
    from controller import answers as a


class SecretVerbs:
    """Secrets, their versions and stages, and the rotation of passwords."""

    @Verb
    def secrets(self) -> Flow[list[a.KeptSecret]]:
        """Return the secrets that the caller may know of, by name."""
        return (yield from pages("/secrets"))

    @Verb
    def create_secret(self, request: Mapping[str, Any]) -> Call[a.KeptSecret]:
        """Take a secret in and return it."""
        return Call("POST", "/secrets", body=dict(request))

    @Verb
    def secret(self, name: str) -> Call[a.WholeSecret]:
        """Return one secret with its versions, without values."""
        return Call("GET", f"/secrets/{segment(name)}")

    @Verb
    def describe_secret(self, name: str, description: str) -> Call[a.KeptSecret]:
        """Describe a secret anew, and return it."""
        return Call("PATCH", f"/secrets/{segment(name)}", body={"description": description})

    @Verb
    def delete_secret(self, name: str) -> Call[None]:
        """Delete a secret with all its versions."""
        return Call("DELETE", f"/secrets/{segment(name)}")

    @Verb
    def store_secret(self, name: str, request: Mapping[str, Any]) -> Call[a.SecretVersion]:
        """Keep a new version of a secret, and return it without its value."""
        return Call("POST", f"/secrets/{segment(name)}/versions", body=dict(request))

    @Verb
    def open_secret(self, name: str, *, version: str | None = None, stage: str | None = None) -> Call[a.OpenedSecret]:
        """Return a version of a secret with its value: the current one, where none is named."""
        return Call("POST", f"/secrets/{segment(name)}/open", body={"version": version, "stage": stage})

    @Verb
    def set_secret_stage(self, name: str, stage: str, version: str) -> Call[dict[str, str]]:
        """Have a stage mark a version, and return all stages."""
        return Call("PUT", f"/secrets/{segment(name)}/stages/{segment(stage)}", body={"version": version})

    @Verb
    def delete_secret_stage(self, name: str, stage: str) -> Call[dict[str, str]]:
        """Delete a stage, and return those that are left."""
        return Call("DELETE", f"/secrets/{segment(name)}/stages/{segment(stage)}")

    @Verb
    def rotate_secret(self, name: str, credential: Mapping[str, str] | None = None) -> Call[a.BegunSecretRotation]:
        """Have a new version of a password set on its server; returns the rotation, and the task that does it."""
        return Call("POST", f"/secrets/{segment(name)}/rotate", body={"credential": dict(credential) if credential else None})

    @Verb
    def schedule_secret(self, name: str, every: str) -> Call[a.KeptSecret]:
        """Have a password rotated by itself every so often (30d, 12h), and return the secret."""
        return Call("PUT", f"/secrets/{segment(name)}/rotation", body={"every": every})

    @Verb
    def unschedule_secret(self, name: str) -> Call[a.KeptSecret]:
        """Have a password rotated by hand only, and return the secret."""
        return Call("DELETE", f"/secrets/{segment(name)}/rotation")

    @Verb
    def secret_rotations(self, secret: str | None = None, *, failed: bool = False) -> Call[list[a.SecretRotation]]:
        """Return the rotations of passwords, the oldest first."""
        params = [("secret", secret)] if secret is not None else []
        return Call("GET", "/secret-rotations", params=params + ([("failed", "true")] if failed else []))
