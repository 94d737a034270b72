"""Which controller a command speaks to: the home of this machine, or one on the network; and who says so.

The nearest word wins, and is taken whole: --home or --profile, else KPS_URL with the variables beside it, else KPS_PROFILE, else
the home. So a secret key is never used for a controller that it was not given for.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli import profiles
from controller.cli.exits import usage

if TYPE_CHECKING:
    from controller.client import Remote


@dataclass(frozen=True, slots=True)
class Network:
    """A controller on the network. said_by: the option or variable that says so; profile: None where the environment says all."""

    said_by: str
    profile: str | None

    def remote(self) -> "Remote":
        """Read where it is and what it is asked with. Declined, Invalid: what is said there cannot be used."""
        return profiles.read(self.profile) if self.profile is not None else of_environment()


def network(home: str | None, profile: str | None) -> Network | None:
    """Return the controller on the network that is meant, or None for the home. home, profile: the options."""
    if home is not None and profile is not None:
        raise usage("--home and --profile exclude each other: a home of this machine, or a controller on the network")
    if profile is not None:
        return Network(f"--profile {profiles.checked(profile)}", profile)
    if home is not None:
        return None
    if os.environ.get("KPS_URL"):
        return Network("KPS_URL", None)
    named = os.environ.get("KPS_PROFILE")
    return Network(f"KPS_PROFILE={profiles.checked(named)}", named) if named else None


def of_environment() -> "Remote":
    """Return the controller that KPS_URL and the variables beside it describe."""
    from controller.client import Remote
    from controller.model import Secret

    missing = [name for name in ("KPS_ACCESS_KEY", "KPS_SECRET_KEY") if not os.environ.get(name)]
    if missing:
        raise usage(f"KPS_URL is set, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not; see docs/remote.md")
    authority, token = os.environ.get("KPS_CA_CERTIFICATE"), os.environ.get("KPS_SECURITY_TOKEN")
    return Remote(
        os.environ["KPS_URL"],
        os.environ["KPS_ACCESS_KEY"],
        Secret(os.environ["KPS_SECRET_KEY"]),
        ca_certificate=Path(authority).expanduser() if authority else None,
        fingerprint=os.environ.get("KPS_FINGERPRINT") or None,
        security_token=Secret(token) if token else None,
    )
