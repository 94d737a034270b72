"""Which logins would be left without a proved way in, if private halves could be opened no more."""

from collections.abc import Collection, Iterable, Sequence

from controller.errors import Conflict
from controller.model import BoundKey
from controller.store import Store

# A key put on a disk at rest is bound in the place of whatever was there before, so it counts as a way in that may be lost;
# nobody has seen it open a door, so it never counts as another one.
_PROVED = frozenset({"logged_in", "accepted"})
_LOST = _PROVED | {"not_applicable"}
_NO_PASSWORDS = frozenset({"off", "unknown"})
_MOST_NAMED = 10


def only_way_in(bound: Iterable[BoundKey], lost: Collection[str]) -> list[BoundKey]:
    """Return the bindings that are a login's only way in on record, and would be none without these private halves.

    bound: what is bound on the servers in question, or may be. lost: ids of key pairs. Another way in is: that the server is
    known to take passwords; or the binding of this login, or of root there, to a key pair that has been proved, stays in
    custody, and can be opened now, where no task leaves it in doubt whether that is still so.
    """
    known = list(bound)
    stays = {
        (each.server, each.login)
        for each in known
        if each.in_custody and each.opens and each.certain and each.proof in _PROVED and each.keypair_id not in lost
    }
    return sorted(
        (
            each
            for each in known
            if each.keypair_id in lost
            and each.in_custody
            and each.proof in _LOST
            and each.password_login in _NO_PASSWORDS
            and (each.server, each.login) not in stays
            and (each.server, "root") not in stays
        ),
        key=lambda each: (each.server, each.login),
    )


def under_master_key(store: Store, key_id: str) -> list[BoundKey]:
    """Return the same for a customer master key that is to open nothing any more."""
    lost = {keypair.id for keypair in store.sealed_under(key_id)}
    return only_way_in(store.standing(lost), lost)


def refuse(left_out: Sequence[BoundKey], what: str) -> None:
    """Conflict(only_way_in), naming servers and logins, unless nobody is left out. what: what was asked for, in words."""
    if not left_out:
        return
    listed = ", ".join(f"{each.login}@{each.server}" for each in left_out[:_MOST_NAMED])
    more = f" and {len(left_out) - _MOST_NAMED} more" if len(left_out) > _MOST_NAMED else ""
    raise Conflict(
        "only_way_in",
        f"{what}: it is the only proved way in of {listed}{more}; bind another key pair there first, or say "
        "--even-if-only-way-in",
        logins=[{"server": each.server, "login": each.login} for each in left_out],
    )
