"""Wrapping the master keys anew, from whichever root keys to another. What they seal is not looked at."""

from collections.abc import Callable, Sequence
from typing import Protocol

from controller.errors import Unavailable
from controller.kms import master_key_bond, open_master
from controller.kms.root import RootKey
from controller.model import MasterKeyVersion

_AT_ONCE = 100


class Wrappings(Protocol):
    """Where the wrapped master keys are: the store."""

    def versions_wrapped_otherwise(self, root_check: str, most: int) -> list[MasterKeyVersion]: ...
    def rewrap_version(self, before: MasterKeyVersion, wrapped: bytes, root_check: str, by: str) -> bool: ...


def rewrap(store: Wrappings, new: RootKey, former: Sequence[RootKey], by: str, told: Callable[[], None] = lambda: None) -> int:
    """Have every master key wrapped by the new root key; returns how many were not before. told: called after each.

    by: the id of the user who asked for it.

    Each is written only after the new wrapping has given the same key back, and only over the wrapping that was read; so
    wherever this is broken off, each master key opens with the one root key or the other, and the next call goes on.
    Unavailable(root_key_wrong): wrapped by none of these; Damaged(master_key_damaged).
    """
    done = 0
    while found := store.versions_wrapped_otherwise(new.check_value, _AT_ONCE):
        for version in found:
            done += store.rewrap_version(version, _anew(version, new, former), new.check_value, by)
            told()
    return done


def _anew(version: MasterKeyVersion, new: RootKey, former: Sequence[RootKey]) -> bytes:
    bond = master_key_bond(version.tenant_id, version.key_id, version.version)
    key = open_master(version, former)
    try:
        wrapped = new.wrap(key, bond)
        again = new.unwrap(wrapped, bond)
        try:
            if again != key:
                message = "the new root key does not give back what it has wrapped; every master key is as it was"
                raise Unavailable("root_key_unsound", message)
        finally:
            again.wipe()
        return wrapped
    finally:
        key.wipe()
