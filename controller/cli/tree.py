"""Which command is in which module: for one command, nothing of the others is read or put together."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.main import get_group

# In the order of help: a module with a register(app), or a module and its group of commands.
PLACES = {
    "init": "home",
    "serve": "home",
    "demo": "home",
    "worker": "workers",
    "migrate-store": "moving",
    "restore": "backup",
    "after-restore": "backup",
    "bind": "operations",
    "replace": "operations",
    "unbind": "operations",
    "reset": "operations",
    "ssh": "ssh",
    "ssh-config": "ssh",
    "ssh-agent": "ssh",
    "doctor": "doctor",
    "whoami": "network",
    "server": "imports:servers",
    "keypair": "keyfiles:keypairs",
    "backup": "backup:backups",
    "password-login": "operations:password_login",
    "task": "tasks:tasks",
    "rollout": "rollouts:rollouts",
    "policy": "policies:policies",
    "secret": "secrets:secrets",
    "emergency": "emergency:emergency",
    "kms": "kms:kms",
    "audit": "audit:audit",
    "root": "rootkeys:roots",
    "certificate": "certificate:certificate",
    "user": "console:users",  # their sessions are among them
    "console": "console:console",
    "access-key": "users:access_keys",
    "temporary-key": "temporary:temporary_keys",
    "token": "temporary:tokens",
    "quota": "users:quotas",
    "tenant": "users:tenants",
    "profile": "network:profile",
}


class Commands(Mapping[str, Any]):
    """The commands of `kps` by name, each made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return a command, or a group of them. KeyError: there is none of this name."""
        if name not in self._made:
            module, _, group = PLACES[name].partition(":")
            found = import_module(f"controller.cli.{module}")
            some = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
            if group:
                some.add_typer(getattr(found, group), name=name)
            else:
                found.register(some)
            self._made = dict(get_group(some).commands) | self._made
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names; that makes none of them."""
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)
