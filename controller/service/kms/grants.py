"""Grants: who may use one customer master key whatever their role."""

import builtins
import secrets
from collections.abc import Callable, Collection
from functools import partial

from controller.errors import Invalid, NotAllowed, NotFound
from controller.kms import grants, keys
from controller.model import Caller, Grant
from controller.service.kms.common import Verbs
from controller.service.roles import allow, refusal

_ID_BYTES = 32


class Grants(Verbs):
    """The grants of a tenant's master keys."""

    async def list(self, who: Caller, name: str) -> builtins.list[Grant]:
        """Return the grants of a master key, in the order in which they were made."""
        return await self._off(lambda: self._store.grants(self._seen(who, name).id))

    async def retirable(self, who: Caller) -> builtins.list[Grant]:
        """Return the grants that the caller may retire."""

        def retirable() -> builtins.list[Grant]:
            found = self._store.grants_about(who.tenant_id, who.user_id)
            return [grant for grant in found if grants.may_retire(grant, who.user_id)]

        return await self._off(retirable)

    async def create(
        self,
        who: Caller,
        name: str,
        grantee: str,
        operations: Collection[str],
        *,
        grant_name: str = "",
        retiring: str | None = None,
    ) -> Grant:
        """Give a user of the tenant, or all of them, leave to use a master key.

        grantee, retiring: ids of users; grantee may be the tenant's. Who was granted create-grant may pass on what else was
        granted with it. Invalid: grant_operations_unusable, grantee_unusable, grant_name_unusable. NotAllowed: by the role,
        grant_exceeds_own. Conflict: by the key's state, grant_quota.
        """
        return await self._off(partial(self._create, who, name, grantee, operations, grant_name, retiring))

    async def revoke(self, who: Caller, name: str, grant_id: str) -> Grant:
        """Take a grant back: its issuer, or who may change master keys. NotFound(grant_not_found), NotAllowed."""

        def allowed(grant: Grant) -> None:
            if grant.issuer != who.user_id:
                allow(who, "masterkey.change", what=grant_id)

        return await self._off(self._end, who, name, grant_id, "master_key_grant_revoked", allowed)

    async def retire(self, who: Caller, name: str, grant_id: str) -> Grant:
        """Give a grant up. NotFound(grant_not_found), NotAllowed(grant_not_yours)."""

        def allowed(grant: Grant) -> None:
            if not grants.may_retire(grant, who.user_id):
                raise NotAllowed("grant_not_yours", f"{grant_id}: it is its issuer's, or whom it names for that, to retire it")

        return await self._off(self._end, who, name, grant_id, "master_key_grant_retired", allowed)

    def _create(
        self, who: Caller, name: str, grantee: str, operations: Collection[str], grant_name: str, retiring: str | None
    ) -> Grant:
        key = self._seen(who, name)
        granted = grants.check(operations, grantee, grant_name, retiring)
        if refusal(who.role, who.kind, "masterkey.change", "tenant") is not None:
            own = self._store.grants_for(key.id, who.tenant_id, who.user_id)
            if not any("create-grant" in grant.operations for grant in own):
                allow(who, "masterkey.change", what=key.alias)
            grants.passed_on(own, granted)
        keys.refuse_default(key, "granted")
        keys.refuse_unless_enabled(key, self._now())
        for principal in {grantee, retiring} - {None, who.tenant_id}:
            self._known(who, str(principal))
        if retiring == who.tenant_id:
            raise Invalid("grantee_unusable", "a grant is retired by a user: give a user's id")
        made = Grant(
            secrets.token_hex(_ID_BYTES), key.id, who.tenant_id, grantee, granted, who.user_id, self._now(), grant_name, retiring
        )
        return self._store.add_grant(made, grants.MOST_GRANTS)

    def _known(self, who: Caller, user_id: str) -> None:
        try:
            known = self._store.user(who.tenant_id, user_id).id == user_id
        except NotFound:
            known = False
        if not known:
            raise Invalid(
                "grantee_unusable", f"{user_id}: there is no user of this id; give one's id, or the tenant's for all its users"
            )

    def _end(self, who: Caller, name: str, grant_id: str, kind: str, allowed: Callable[[Grant], None]) -> Grant:
        return self._store.end_grant(self._seen(who, name), grant_id, kind, who.user_id, allowed)
