"""A login's password, as /etc/shadow has it: what stands there, and the step that sets another. Shipped for what sets one."""

from .errors import Refused
from .plan import SHADOW, Plan, Seen, Step, has_shell, is_foreign, password_gets_in

UNPROVED = (
    "password login is off for {} from here, so nobody has logged in with the new password: that it stands in " + SHADOW + " "
    "is all that is known of it"
)


def step(plan: Plan, seen: Seen) -> Step:
    """Return the step by which the login has the password whose hash the plan brings."""
    return Step("password", SHADOW, plan.login, hash_before(plan, seen), plan.password_hash)


def hash_before(plan: Plan, seen: Seen) -> str:
    """Return the login's hash with the day on which it was set, as SetPassword takes it."""
    for line in (seen.shadow or "").split("\n"):
        row = line.split(":")
        if row[0] == plan.login and len(row) >= 9:
            return ":".join(row[1:3])
    raise Refused(
        "login_missing",
        "{} is not in {}: a login of a directory service has its password there, and not here".format(plan.login, SHADOW),
        login=plan.login,
    )


def tried(seen: Seen, address: str) -> bool:
    """Whether the right password lets this login in from an address, so that logging in with it can be tried."""
    account = seen.account
    if is_foreign(seen) or account.expired == "account" or account.barred or not has_shell(account):
        return False
    return password_gets_in(seen.effective[account.name][address], account, address)
