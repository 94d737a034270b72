"""Users and tenants: create, look, change, delete."""

import builtins
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import timedelta
from functools import partial
from typing import Any, get_args

from controller.errors import Invalid, NotFound
from controller.kms import Kms
from controller.model import AccessKey, Caller, Quotas, Role, Secret, Tenant, User, UserKind, now
from controller.service import sources
from controller.service.auditkeys import AuditKeys
from controller.service.home import new_access_key
from controller.service.roles import allow, may_give_out
from controller.service.worker import off_loop
from controller.store import Store

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_AN_ID = re.compile(r"[0-9a-f]{32}")  # of ours; nobody is called like somebody else's
_BY_KIND: dict[UserKind, int] = {"local": 0, "federated": 1, "delegated": 2}
_EXTERNAL_ID = re.compile(r"[!-~]{1,255}")  # printable, and no blanks


class Users:
    """The users of the caller's tenant."""

    def __init__(self, store: Store, executor: Executor | None = None, quotas: Quotas | None = None) -> None:
        """quotas: what holds where nobody has set any; None: nothing is limited."""
        self._store = store
        self._executor = executor
        self._quotas = quotas

    async def create(
        self,
        who: Caller,
        name: str,
        role: Role = "operator",
        kind: UserKind = "local",
        external_id: str | None = None,
        source_networks: Sequence[str] = (),
    ) -> User:
        """Take a user in. external_id: by which an identity provider knows a federated one, who has to have it."""
        allow(who, "user.change", what=name)
        _fit(name)
        if role not in get_args(Role):
            raise Invalid("role_unknown", f"{role}: a role is one of {', '.join(get_args(Role))}")
        if kind not in get_args(UserKind):
            raise Invalid("kind_unknown", f"{kind}: a user is one of {', '.join(get_args(UserKind))}")
        if (kind == "federated") != (external_id is not None):
            raise Invalid(
                "external_id_unusable", f"{name}: a federated user has an id given from outside, and no other user has one"
            )
        if external_id is not None and not _EXTERNAL_ID.fullmatch(external_id):
            raise Invalid(
                "external_id_unusable", f"{name}: an id given from outside is 1 to 255 printable characters without blanks"
            )
        made = User(uuid.uuid4().hex, who.tenant_id, name, role, kind, external_id, True, sources.read(source_networks))
        return await off_loop(self._executor, self._store.add_user, made, who.user_id, self._quotas)

    async def list(self, who: Caller) -> builtins.list[User]:
        """Return the tenant's users by name, the disabled ones too."""
        allow(who, "user.see")
        return await off_loop(self._executor, self._store.users, who.tenant_id)

    async def get(self, who: Caller, name: str) -> User:
        """Return one user, by name or id."""
        allow(who, "user.see")
        return await off_loop(self._executor, self._store.user, who.tenant_id, name)

    async def change(
        self,
        who: Caller,
        name: str,
        role: Role | None = None,
        enabled: bool | None = None,
        source_networks: Sequence[str] | None = None,
    ) -> User:
        """Change a user from now on; what is None stays.

        A disabled user is refused from then on; what is theirs stays, and their tasks under way go on. Conflict:
        last_administrator, home_owner.
        """
        allow(who, "user.change", what=name)
        if role is not None and role not in get_args(Role):
            raise Invalid("role_unknown", f"{role}: a role is one of {', '.join(get_args(Role))}")
        user = await self.get(who, name)
        networks = None if source_networks is None else sources.read(source_networks)
        asked: dict[str, Any] = {"role": role, "enabled": enabled, "source_networks": networks}
        changes = {key: value for key, value in asked.items() if value is not None}
        return await off_loop(self._executor, self._store.change_user, who.tenant_id, user.id, changes, who.user_id)

    async def delete(self, who: Caller, name: str, *, with_keypairs: bool = False) -> builtins.list[str]:
        """Delete a user with their access keys; returns the names of the private key pairs that went with them.

        What they made for the account stays. Conflict: user_owns_keypairs, user_busy, last_administrator, home_owner.
        """
        allow(who, "user.change", what=name)
        user = await self.get(who, name)

        def delete() -> builtins.list[str]:
            gone = self._store.delete_user(who.tenant_id, user.id, who.user_id, with_keypairs=with_keypairs)
            # What the write-ahead log still holds of them goes too.
            self._store.checkpoint()
            return gone

        return await off_loop(self._executor, delete)


class Tenants:
    """The tenants of the home, for whoever owns it; everybody else sees their own."""

    def __init__(self, store: Store, kms: Kms, audit_keys: AuditKeys, executor: Executor | None = None) -> None:
        self._store = store
        self._kms = kms
        self._audit_keys = audit_keys
        self._executor = executor

    async def create(self, who: Caller, name: str, administrator: str = "administrator") -> tuple[Tenant, Caller, str, Secret]:
        """Make a tenant with a project, an administrator and their access key; its secret comes back this once."""
        await self._allow(who, name)
        _fit(name)
        _fit(administrator)
        return await off_loop(self._executor, self._create, who, name, administrator)

    async def list(self, who: Caller) -> builtins.list[Tenant]:
        """Return all tenants for the home's owner, for everybody else their own."""
        allow(who, "tenant.see")
        if await off_loop(self._executor, self._store.owns_home, who.user_id):
            return await off_loop(self._executor, self._store.tenants)
        return [await off_loop(self._executor, self._store.tenant, who.tenant_id)]

    async def own(self, who: Caller) -> Tenant:
        """Return the caller's own tenant."""
        allow(who, "tenant.see")
        return await off_loop(self._executor, self._store.tenant, who.tenant_id)

    async def change(self, who: Caller, *, v3_accepts_lockout: bool) -> Tenant:
        """Say whether v3 calls of the caller's own tenant may lock other logins out without naming them."""
        allow(who, "tenant.change", what="v3_accepts_lockout")
        change = partial(self._store.change_tenant, v3_accepts_lockout=v3_accepts_lockout, by=who.user_id)
        return await off_loop(self._executor, change, who.tenant_id)

    async def access_key(self, who: Caller, name: str) -> tuple[User, AccessKey, Secret]:
        """Make an access key for a tenant's oldest administrator, where they have lost theirs, in the place of all of those.

        Its secret comes back this once. One who is not local has it for a day. NotFound: tenant_not_found.
        """
        await self._allow(who, name)
        return await off_loop(self._executor, self._rescue, who, name)

    def _rescue(self, who: Caller, name: str) -> tuple[User, AccessKey, Secret]:
        tenant = next((each for each in self._store.tenants() if name in (each.name, each.id)), None)
        if tenant is None:
            raise NotFound("tenant_not_found", f"{name}: no tenant of this name", tenant=name)
        able = [each for each in self._store.users(tenant.id) if each.role == "administrator" and each.enabled]
        # Somebody local, else federated: a delegated one changes no users, and would stay alone.
        user = min(able, key=lambda each: (_BY_KIND[each.kind], each.created_at is not None, each.created_at, each.id))
        caller = Caller(tenant.id, tenant.projects[0], user.id, user.role, user.kind)
        access_key, secret, sealed = new_access_key(self._kms, caller)
        ends = None if user.kind == "local" else now() + timedelta(days=1)
        key = AccessKey(access_key, user.id, caller.project_id, now(), expires_at=ends)
        return user, self._store.replace_access_keys(tenant.id, key, sealed, who.user_id), secret

    def _create(self, who: Caller, name: str, administrator: str) -> tuple[Tenant, Caller, str, Secret]:
        made = Caller(uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex, "administrator")
        access_key, secret, sealed = new_access_key(self._kms, made)
        self._audit_keys.prepare(made.tenant_id)  # before there is anything to sign
        tenant = self._store.add_tenant(made, name, administrator, access_key, sealed, who.user_id)
        return tenant, made, access_key, secret

    async def _allow(self, who: Caller, name: str) -> None:
        may_give_out(who)  # both verbs make an access key
        owner = await off_loop(self._executor, self._store.owns_home, who.user_id)
        allow(who, "tenant.create", "home" if owner else "tenant", name)


def _fit(name: str) -> None:
    if not _NAME.fullmatch(name) or _AN_ID.fullmatch(name):
        raise Invalid("name_unusable", f"{name!r}: a name here is 1 to 64 letters, digits, _ . @ + and -, the first no mark")
