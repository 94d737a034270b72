"""The lives of customer master keys: made, described, enabled and disabled, rotated, destroyed at their date."""

import builtins
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from controller.errors import Conflict, Invalid, Problem
from controller.kms import keys, mac, material
from controller.kms.grants import MOST_GRANTS
from controller.model import Caller, MasterKey
from controller.service.kms.common import Verbs, unless_only_way_in
from controller.service.kms.names import check_tags
from controller.service.roles import allow
from controller.service.worker import off_loop


@dataclass(frozen=True, slots=True)
class Quota:
    """How many master keys a tenant has, of how many; and how many grants one key may have."""

    used: int
    limit: int
    grants_per_key: int


class MasterKeys(Verbs):
    """The master keys of a caller's tenant."""

    # -- made and described

    async def create(
        self,
        who: Caller,
        alias: str,
        *,
        spec: str = "AES_256",
        usage: str | None = None,
        origin: str = "kms",
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> MasterKey:
        """Make a master key; an external one waits for its material.

        Invalid: key_spec_unknown, ec_key_cannot_encrypt, symmetric_key_cannot_sign, key_usage_unfit, key_origin_unknown,
        alias_unusable, description_unusable, algorithm_not_here, and of tags what check_tags() raises.
        AlreadyExists(alias_taken), Conflict(master_key_quota).
        """
        allow(who, "masterkey.change", what=alias)
        keys.check_alias(alias)
        keys.check_description(description)
        if tags:
            check_tags(tags)
        kind = keys.spec_of(spec)
        for algorithm in keys.KINDS[kind].algorithms if keys.KINDS[kind].family == "hmac" else ():
            mac.check(algorithm)
        made = MasterKey(
            id=str(uuid.uuid4()),
            tenant_id=who.tenant_id,
            alias=alias,
            created_at=self._now(),
            spec=kind,
            usage=keys.usage_of(kind, usage),
            origin=keys.origin_of(origin),
            description=description,
        )
        if made.origin == "external":
            waiting = replace(made, state="pending_import", version=0)
            return await self._off(self._store.add_master_key, waiting, None, who.user_id, keys.MOST_KEYS, tags or {})
        # An RSA key takes its time, and nothing else should wait for it.
        secret, public = await off_loop(None, material.made, kind)
        try:
            whole = replace(made, public_key=public)
            return await self._off(
                lambda: self._store.add_master_key(
                    whole, self._kms.wrapped(whole, secret), who.user_id, keys.MOST_KEYS, tags or {}
                )
            )
        finally:
            secret.wipe()

    async def get(self, who: Caller, name: str) -> MasterKey:
        """Return one master key. NotFound(master_key_not_found)."""
        return await self._off(self._seen, who, name)

    async def list(
        self,
        who: Caller,
        *,
        spec: str | None = None,
        state: str | None = None,
        tags: Mapping[str, list[str]] | None = None,
        part_of_name: str = "",
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[builtins.list[MasterKey], int]:
        """Return the tenant's master keys by age, and how many there are without limit and offset."""
        allow(who, "masterkey.see")
        return await self._off(
            self._store.master_keys, who.tenant_id,
            spec=spec, state=state, tags=tags, part_of_name=part_of_name, limit=limit, offset=offset,
        )  # fmt: skip

    async def sealing(self, who: Caller) -> dict[str, int]:
        """Return how many private halves of key pairs are sealed under each master key, by its id."""
        allow(who, "masterkey.see")
        return await self._off(self._store.sealed_counts, who.tenant_id)

    async def quota(self, who: Caller) -> Quota:
        """Return how many master keys count, and how many may."""
        allow(who, "masterkey.see")
        used = await self._off(self._store.own_master_keys, who.tenant_id)
        return Quota(used, keys.MOST_KEYS, MOST_GRANTS)

    async def rename(self, who: Caller, name: str, alias: str) -> MasterKey:
        """Give a master key another alias. Invalid(alias_unusable), AlreadyExists(alias_taken), Conflict by its state."""
        return await self._off(self._step, who, name, keys.renamed(alias), "master_key_renamed")

    async def describe(self, who: Caller, name: str, description: str) -> MasterKey:
        """Give a master key another description. Invalid(description_unusable), Conflict by its state."""
        return await self._off(self._step, who, name, keys.described(description), "master_key_described")

    # -- enabled, disabled, destroyed

    async def enable(self, who: Caller, name: str) -> MasterKey:
        """Enable a master key. Conflict by its state."""
        return await self._off(self._step, who, name, keys.enabled, "master_key_enabled")

    async def disable(self, who: Caller, name: str, *, even_if_only_way_in: bool = False) -> MasterKey:
        """Disable a master key: nothing that it sealed opens until it is enabled again.

        Conflict: by its state; only_way_in where it seals the private half of some login's only proved way in.
        """
        return await self._off(self._step, who, name, keys.disabled, "master_key_disabled", even_if_only_way_in)

    async def schedule_deletion(self, who: Caller, name: str, days: int, *, even_if_only_way_in: bool = False) -> MasterKey:
        """Have a master key destroyed in so many days; until then it is of no use, and that can be cancelled.

        Invalid(pending_days_unusable). Conflict: by its state; only_way_in as in disable().
        """
        step = keys.to_be_deleted(days, self._now())
        return await self._off(self._step, who, name, step, "master_key_deletion_scheduled", even_if_only_way_in)

    async def cancel_deletion(self, who: Caller, name: str) -> MasterKey:
        """Keep a master key that was to be destroyed: it is disabled then, or waits for its material."""

        def cancel() -> MasterKey:
            key = self._changed(who, name)
            has_material = bool(self._store.master_key_versions(key.id))
            step = partial(keys.not_to_be_deleted, has_material)
            return self._store.change_master_key(key.id, step, "master_key_deletion_cancelled", who.user_id)

        return await self._off(cancel)

    # -- rotated

    async def enable_rotation(self, who: Caller, name: str, days: int | None = None) -> MasterKey:
        """Have a master key rotated every so many days (30 to 365; None: what was last said, at first 365).

        Conflict: by its state and kind (see controller.kms.keys.may_rotate), rotation_already_on.
        """
        step = keys.rotation_on(self._now(), days)
        return await self._off(self._step, who, name, step, "master_key_rotation_changed")

    async def disable_rotation(self, who: Caller, name: str) -> MasterKey:
        """Have a master key rotated by itself no more. Conflict(rotation_not_on)."""
        return await self._off(self._step, who, name, keys.rotation_off, "master_key_rotation_changed")

    async def change_rotation(self, who: Caller, name: str, days: int) -> MasterKey:
        """Have a master key rotated at another interval. Invalid(rotation_interval_unusable), Conflict(rotation_not_on)."""
        return await self._off(self._step, who, name, keys.rotation_interval(days), "master_key_rotation_changed")

    async def rotate(self, who: Caller, name: str) -> MasterKey:
        """Give a master key its next version now; what the older ones have made still opens."""

        def rotate() -> MasterKey:
            key = self._changed(who, name)
            return self._rotate(key, keys.rotated(self._now()), who.user_id)

        return await self._off(rotate)

    async def versions(self, who: Caller, name: str) -> builtins.list[tuple[int, datetime]]:
        """Return the versions of a master key with their times, the oldest first."""

        def versions() -> builtins.list[tuple[int, datetime]]:
            key = self._seen(who, name)
            return [(each.version, each.created_at) for each in self._store.master_key_versions(key.id)]

        return await self._off(versions)

    # -- what is due

    async def sweep(self) -> int:
        """Do what is due for the master keys of all tenants: destroy, take expired material away, rotate.

        Returns how many it was done for. What does not go now (the root key is away) is tried at the next sweep.
        """
        return await self._off(self._sweep)

    def _sweep(self) -> int:
        at, done, gone = self._now(), 0, self._store.drop_import_tokens(self._now())
        for key in self._store.master_keys_due(at):
            what = keys.due(key, at)
            try:
                # Nobody is asked any more; the event tells whose only way in went with it.
                told = unless_only_way_in(f"master key {key.alias}", even_if=True)
                if what == "destroy":
                    self._store.drop_material(key.id, _if_due(what, at, keys.destroyed), "master_key_destroyed", None, told)
                elif what == "expire":
                    step = _if_due(what, at, keys.without_material)
                    self._store.drop_material(key.id, step, "master_key_material_expired", None, told)
                elif what == "rotate":
                    self._rotate(key, _if_due(what, at, keys.rotated(at)), None)
                else:
                    continue
            except Problem:
                continue  # somebody changed it just now, or the root key is away
            done += 1
            gone += what in ("destroy", "expire")
        # Only then is nothing of it left in the write-ahead log either; a reader that is in the way is gone soon.
        if gone or self._unfinished:
            self._unfinished = not self._store.checkpoint()
        return done

    _unfinished = False  # whether the write-ahead log may still hold what was taken away

    # -- steps

    def _step(
        self,
        who: Caller,
        name: str,
        step: Callable[[MasterKey], MasterKey],
        kind: str,
        even_if_only_way_in: bool | None = None,
    ) -> MasterKey:
        """Take a step. even_if_only_way_in None: it takes no way in."""
        key = self._changed(who, name)
        check = None
        if even_if_only_way_in is not None:
            check = unless_only_way_in(f"master key {key.alias}", even_if_only_way_in)
        return self._store.change_master_key(key.id, step, kind, who.user_id, check=check)

    def _rotate(self, key: MasterKey, step: Callable[[MasterKey], MasterKey], user_id: str | None) -> MasterKey:
        after = step(key)
        secret, _ = material.made(after.spec)
        try:
            version = self._kms.wrapped(after, secret)
        finally:
            secret.wipe()
        return self._store.change_master_key(key.id, step, "master_key_rotated", user_id, version=version)


def state_of(given: str) -> str:
    """Return a state that keys can be listed by. Invalid(state_unknown)."""
    if given not in ("enabled", "disabled", "pending_deletion", "pending_import"):
        raise Invalid("state_unknown", f"{given}: a state is enabled, disabled, pending_deletion or pending_import")
    return given


def _if_due(what: str, at: datetime, step: Callable[[MasterKey], MasterKey]) -> Callable[[MasterKey], MasterKey]:
    """Return the step, as far as it is still due when it is taken."""

    def checked(key: MasterKey) -> MasterKey:
        if keys.due(key, at) != what:
            raise Conflict("master_key_changed", f"{key.alias}: it was changed meanwhile")
        return step(key)

    return checked
