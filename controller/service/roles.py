"""Who may do what in a tenant: one table, and the one function by which every verb asks it.

docs/roles.md is made from this table. That a thing is *seen* at all comes before it: what a user may not see is not found, and is
never forbidden. So nobody else's private key pair, and nothing of another tenant, ever comes here.
"""

from dataclasses import dataclass
from typing import get_args

from controller.errors import NotAllowed
from controller.model import Caller, Role, UserKind

_ALL: frozenset[Role] = frozenset(get_args(Role))
_CHANGE: frozenset[Role] = frozenset({"administrator", "operator"})
_ADMINISTER: frozenset[Role] = frozenset({"administrator"})
_AUDIT: frozenset[Role] = frozenset({"administrator", "auditor"})
_EVERY_KIND: frozenset[UserKind] = frozenset(get_args(UserKind))
_OWNERS: frozenset[UserKind] = frozenset({"local"})
_NOT_DELEGATED: frozenset[UserKind] = frozenset({"local", "federated"})

# Why something is refused, and what helps. The codes are stable.
REFUSALS = {
    "role_reads_only": "an auditor looks, changes nothing and opens no key; ask an operator",
    "administrator_needed": "this concerns others too; ask an administrator",
    "audit_not_yours": "the audit record is for auditors and administrators; ask one of them",
    "first_account_keypair": "the tenant has no account key pair yet, and the first one is an administrator's to make or to "
    "upgrade; after that operators may",
    "kind_owns_no_keypair": "a federated or delegated user owns no private key pair: nobody would be left whose it is; give it "
    "the scope account",
    "delegated_acts_for_others": "a delegated user acts for somebody else, and changes no users, access keys and quotas",
    "home_owner_needed": "tenants are made by whoever owns the home",
    "passing_credential": "who came with a token or a temporary access key is given no other, nor gives one out: it could "
    "outlive theirs; ask with an access key",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table: which roles may, and users of which kind."""

    roles: frozenset[Role]
    kinds: frozenset[UserKind] = _EVERY_KIND
    # Why an operator may not, where it is not for want of an administrator's role.
    otherwise: str | None = None


# The verb, as NOUN.VERB, and on what:
#   private   a key pair of the caller's own      account   a key pair of the account     first    the account's first one
#   own       what is the caller's own            other     what is another user's        tenant   what is everybody's
#   home      what is of all tenants
RULES: dict[tuple[str, str], Rule] = {
    ("keypair.see", "private"): Rule(_ALL),
    ("keypair.see", "account"): Rule(_ALL),
    ("keypair.create", "private"): Rule(_CHANGE, _OWNERS),  # and import
    ("keypair.create", "account"): Rule(_CHANGE),
    ("keypair.create", "first"): Rule(_ADMINISTER, otherwise="first_account_keypair"),
    ("keypair.upgrade", "account"): Rule(_CHANGE),
    ("keypair.upgrade", "first"): Rule(_ADMINISTER, otherwise="first_account_keypair"),
    ("keypair.use", "private"): Rule(_CHANGE, _OWNERS),
    ("keypair.use", "account"): Rule(_CHANGE),
    # Taking a private half in adds a way in for all; nobody loses one.
    ("keypair.manage", "private"): Rule(_CHANGE, _OWNERS),
    ("keypair.manage", "account"): Rule(_CHANGE),
    ("keypair.describe", "private"): Rule(_CHANGE, _OWNERS),
    ("keypair.describe", "account"): Rule(_CHANGE),
    # What all rely on is given out, and done away with, by an administrator only.
    ("keypair.export", "private"): Rule(_CHANGE, _OWNERS),
    ("keypair.export", "account"): Rule(_ADMINISTER),
    ("keypair.clear", "private"): Rule(_CHANGE, _OWNERS),
    ("keypair.clear", "account"): Rule(_ADMINISTER),
    ("keypair.move", "private"): Rule(_CHANGE, _OWNERS),  # to another master key
    ("keypair.move", "account"): Rule(_ADMINISTER),
    ("keypair.delete", "private"): Rule(_CHANGE, _OWNERS),
    ("keypair.delete", "account"): Rule(_ADMINISTER),
    ("secret.see", "private"): Rule(_ALL),  # without its values
    ("secret.see", "account"): Rule(_ALL),
    ("secret.create", "private"): Rule(_CHANGE, _OWNERS),
    ("secret.create", "account"): Rule(_CHANGE),
    ("secret.store", "private"): Rule(_CHANGE, _OWNERS),  # a new version, a stage, a description
    ("secret.store", "account"): Rule(_CHANGE),
    # As with a private half: what all rely on is given out, and done away with, by an administrator only.
    ("secret.open", "private"): Rule(_CHANGE, _OWNERS),
    ("secret.open", "account"): Rule(_ADMINISTER),
    ("secret.rotate", "account"): Rule(_CHANGE),  # nobody is shown anything by it
    ("secret.schedule", "account"): Rule(_ADMINISTER, _NOT_DELEGATED),  # it goes on for as long as it stands
    ("secret.delete", "private"): Rule(_CHANGE, _OWNERS),
    ("secret.delete", "account"): Rule(_ADMINISTER),
    ("server.see", "tenant"): Rule(_ALL),
    ("server.change", "tenant"): Rule(_CHANGE),
    ("binding.see", "tenant"): Rule(_ALL),  # another user's private key pair without its name
    # Every order gets in with a key or a password: a check opens keys too.
    ("binding.order", "tenant"): Rule(_CHANGE),
    # A login that another user's private key pair opens: to take that one away, or to forget it with its server.
    ("binding.take", "other"): Rule(_ADMINISTER),
    ("task.see", "tenant"): Rule(_ALL),  # of another user's private key pair without what would tell it
    ("task.change", "tenant"): Rule(_CHANGE),  # retry, cancel, delete
    ("event.see", "tenant"): Rule(_ALL),  # but none of another user's private key pair
    ("audit.read", "tenant"): Rule(_AUDIT, otherwise="audit_not_yours"),  # whole: a chain with gaps could not be verified
    ("audit.prune", "tenant"): Rule(_ADMINISTER, _NOT_DELEGATED),  # what has been exported
    ("policy.see", "tenant"): Rule(_ALL),  # another user's private key pair without its name
    # It makes and clears key pairs for as long as it stands.
    ("policy.change", "tenant"): Rule(_ADMINISTER, _NOT_DELEGATED),  # set, pause, delete, run
    ("door.see", "tenant"): Rule(_ALL),
    ("door.open", "tenant"): Rule(_CHANGE),  # in an emergency; and extend
    ("door.close", "tenant"): Rule(_CHANGE),
    # As the second user, never what they have asked for themselves, nor for somebody who may have; and where there has to be a
    # second one, to be the first.
    ("door.approve", "tenant"): Rule(_CHANGE, _NOT_DELEGATED),
    # Where a second user has to agree, and who is told.
    ("door.rule", "tenant"): Rule(_ADMINISTER, _NOT_DELEGATED),
    ("masterkey.see", "tenant"): Rule(_ALL),
    ("masterkey.use", "tenant"): Rule(_CHANGE),
    ("masterkey.change", "tenant"): Rule(_ADMINISTER),  # create, describe, disable, rotate, delete, grant
    ("user.see", "tenant"): Rule(_ALL),
    ("user.change", "tenant"): Rule(_ADMINISTER, _NOT_DELEGATED),  # create, change, disable, delete
    ("access_key.see", "own"): Rule(_ALL),
    ("access_key.see", "other"): Rule(_AUDIT),
    ("access_key.change", "own"): Rule(_ALL, _NOT_DELEGATED),  # create, rotate, disable, delete
    ("access_key.change", "other"): Rule(_ADMINISTER, _NOT_DELEGATED),
    # To be let into the console: set a password, make a link.
    ("console.enter", "own"): Rule(_ALL, _NOT_DELEGATED),
    ("console.enter", "other"): Rule(_ADMINISTER, _NOT_DELEGATED),
    ("quota.see", "own"): Rule(_ALL),
    ("quota.see", "other"): Rule(_AUDIT),
    ("quota.see", "tenant"): Rule(_ALL),
    ("quota.change", "tenant"): Rule(_ADMINISTER, _NOT_DELEGATED),
    ("tenant.see", "tenant"): Rule(_ALL),
    ("tenant.change", "tenant"): Rule(_ADMINISTER, _NOT_DELEGATED),
    ("tenant.create", "home"): Rule(_ADMINISTER),
    ("tenant.create", "tenant"): Rule(frozenset(), otherwise="home_owner_needed"),
}


def refusal(role: Role, kind: UserKind, verb: str, scope: str) -> str | None:
    """Return the code that refuses a verb, None where it is allowed. KeyError: no such verb with this scope."""
    rule = RULES[verb, scope]
    if role not in rule.roles:
        return "role_reads_only" if role == "auditor" else rule.otherwise or "administrator_needed"
    if kind not in rule.kinds:
        return "kind_owns_no_keypair" if rule.kinds == _OWNERS else "delegated_acts_for_others"
    return None


def allow(who: Caller, verb: str, scope: str = "tenant", what: str = "") -> None:
    """NotAllowed where the table refuses the caller this verb. what: the thing's name, for the message."""
    code = refusal(who.role, who.kind, verb, scope)
    if code is not None:
        raise NotAllowed(code, f"{what}: {REFUSALS[code]}" if what else REFUSALS[code])


def may_give_out(who: Caller) -> None:
    """NotAllowed(passing_credential) where the caller came by what ends by itself, and asks for what lets somebody in."""
    if who.passing:
        raise NotAllowed("passing_credential", REFUSALS["passing_credential"])


def may_name_places(who: Caller, what: str) -> None:
    """NotAllowed(only_at_home): what is on the controller's own machine is named by whoever has been let into the home."""
    if not who.at_home:
        raise NotAllowed("only_at_home", f"{what} is on the controller's own machine; have it named there, by the home's owner")


def may_be_first(who: Caller) -> bool:
    """Whether the caller may make the tenant's first account key pair."""
    return refusal(who.role, who.kind, "keypair.create", "first") is None


def may_change(who: Caller) -> None:
    """NotAllowed(role_reads_only) for an auditor."""
    allow(who, "server.change")


def may_administer(who: Caller, what: str) -> None:
    """NotAllowed for everybody but an administrator."""
    allow(who, "masterkey.change", what=what)
