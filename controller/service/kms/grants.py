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
        grantee: str | None,
        operations: Collection[str],
        *,
        grant_name: str = "",
        retiring: str | None = None,
    ) -> Grant:
        """Give a user of the tenant, or all of them, leave to use a master key.

        grantee, retiring: ids or names of users; grantee may be the tenant's id, or None for that. Who was granted create-grant
        may pass on what else was granted with it. Invalid: grant_operations_unusable, grantee_unusable, grant_name_unusable.
        NotAllowed: by the role, grant_exceeds_own. Conflict: by the key's state, grant_quota.
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
        self, who: Caller, name: str, grantee: str | None, operations: Collection[str], grant_name: str, retiring: str | None
    ) -> Grant:
        key = self._seen(who, name)
        granted = grants.check(operations, grant_name)
        if refusal(who.role, who.kind, "masterkey.change", "tenant") is not None:
            own = self._store.grants_for(key.id, who.tenant_id, who.user_id)
            if not any("create-grant" in grant.operations for grant in own):
                allow(who, "masterkey.change", what=key.alias)
            grants.passed_on(own, granted)
        keys.refuse_default(key, "granted")
        keys.refuse_unless_enabled(key, self._now())
        made = Grant(
            secrets.token_hex(_ID_BYTES),
            key.id,
            who.tenant_id,
            who.tenant_id if grantee in (None, who.tenant_id) else self._user(who, str(grantee)),
            granted,
            who.user_id,
            self._now(),
            grant_name,
            None if retiring is None else self._user(who, retiring),
        )
        return self._store.add_grant(made, grants.MOST_GRANTS)

    def _user(self, who: Caller, name: str) -> str:
        try:
            return self._store.user(who.tenant_id, name).id
        except NotFound as error:
            message = f"{name[:100]!r}: there is no such user; give a user's name or id"
            raise Invalid("grantee_unusable", message) from error

    def _end(self, who: Caller, name: str, grant_id: str, kind: str, allowed: Callable[[Grant], None]) -> Grant:
        return self._store.end_grant(self._seen(who, name), grant_id, kind, who.user_id, allowed)
