"""Who may do what in a tenant."""

from controller.errors import NotAllowed
from controller.model import Caller


def may_change(who: Caller) -> None:
    """NotAllowed(role_reads_only) for an auditor."""
    if who.role == "auditor":
        raise NotAllowed("role_reads_only", "an auditor looks and changes nothing; ask an operator")


def may_administer(who: Caller, what: str) -> None:
    """NotAllowed(administrator_needed) for everybody but an administrator."""
    may_change(who)
    if who.role != "administrator":
        raise NotAllowed("administrator_needed", f"{what} concerns the whole account; ask an administrator")
