"""Who asks over the network: by an access key, a temporary one or a token, and from which networks."""

import hmac
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta
from functools import cached_property

from controller.errors import NotFound
from controller.kms import Context, Kms
from controller.model import AccessKey, Caller, Sealed, Secret, User, now
from controller.service import sources
from controller.service.accesskeys import refusal
from controller.service.home import access_key_context, new_secret
from controller.service.temporary import digest, temporary_context
from controller.service.worker import off_loop
from controller.store import Store

NO_KEY = "Get secretKey failed"
NO_SECURITY_TOKEN = "security token is wrong or expired"  # noqa: S105
NO_TOKEN = "token is wrong or expired"  # noqa: S105

NOTED_EVERY = timedelta(minutes=1)
_MOST_NOTED = 10_000


class Unknown(Exception):
    """nobody is known by this; reason: one of the documented ones, without a word on what there is"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.decoy: Secret | None = None  # that nobody signs with: for the work that a known one would have cost


class Identity:
    """Finds who is behind what came with a request."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None, clock: Callable[[], datetime] = now) -> None:
        self._store = store
        self._kms = kms
        self._executor = executor
        self._now = clock
        self._noted: dict[str, datetime] = {}  # by access key: when its use was last noted by this process

    async def known(self, access_key: str, security_token: str | None, address: str | None) -> Caller | None:
        """Say who may sign with this access key now, from this address; None where nobody may."""
        return await off_loop(self._executor, self._known, access_key, security_token, address)

    async def of_access_key(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Secret]:
        """Return who may sign with this access key, and the secret to verify with; Unknown for everything else.

        security_token: what came with the request; a temporary access key has one, and no other has. Unknown takes as long, and
        has a decoy, opened as every secret is.
        """
        return await off_loop(self._executor, self._of_access_key, access_key, security_token, address)

    async def of_token(self, token: str, address: str | None) -> tuple[Caller, str]:
        """Return who shows this token, and the token's id; Unknown for everything else."""
        return await off_loop(self._executor, self._of_token, token, address)

    async def used(self, access_key: str) -> None:
        """Note that a request was signed with an access key, or with one that stands on it; to the minute."""
        at, last = self._now(), self._noted.get(access_key)
        if last is not None and timedelta() <= at - last < NOTED_EVERY:
            return  # the store would say so too, and would have to be asked at each request
        await off_loop(self._executor, self._store.access_key_used, access_key)
        self._noted.pop(access_key, None)
        self._noted[access_key] = at
        if len(self._noted) > _MOST_NOTED:
            del self._noted[next(iter(self._noted))]

    async def token_used(self, token_id: str) -> None:
        """Note that a request came with a token; to the minute."""
        await off_loop(self._executor, self._store.token_used, token_id)

    def _of_access_key(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Secret]:
        try:
            caller, sealed, context = self._signing(access_key, security_token, address)
        except Unknown as unknown:
            unknown.decoy = self._kms.open(*self._sealed_decoy)
            raise
        return caller, self._kms.open(sealed, context)

    def _known(self, access_key: str, security_token: str | None, address: str | None) -> Caller | None:
        try:
            return self._signing(access_key, security_token, address)[0]
        except Unknown:
            return None

    def _signing(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Sealed, Context]:
        if security_token is not None:
            return self._temporary(access_key, security_token, address)
        try:
            user, key, sealed = self._store.access_key_whole(access_key)
        except NotFound:
            raise Unknown(NO_KEY) from None
        self._refuse(user, key, address, NO_KEY)
        caller = Caller(user.tenant_id, key.project_id, user.id, user.role, user.kind, access_key=key.access_key)
        return caller, sealed, access_key_context(caller, access_key)

    def _temporary(self, access_key: str, security_token: str, address: str | None) -> tuple[Caller, Sealed, Context]:
        try:
            user, parent, key, sealed, kept = self._store.temporary_key(access_key)
        except NotFound:
            raise Unknown(NO_SECURITY_TOKEN) from None
        if not hmac.compare_digest(digest(security_token), kept) or key.expires_at <= self._now():
            raise Unknown(NO_SECURITY_TOKEN)
        self._refuse(user, parent, address, NO_SECURITY_TOKEN)
        caller = Caller(
            user.tenant_id, parent.project_id, user.id, user.role, user.kind, access_key=parent.access_key, passing=True
        )
        return caller, sealed, temporary_context(user, key)

    def _of_token(self, token: str, address: str | None) -> tuple[Caller, str]:
        try:
            user, found = self._store.token_by_digest(digest(token))
        except NotFound:
            raise Unknown(NO_TOKEN) from None
        if found.expires_at <= self._now() or not user.enabled:
            raise Unknown(NO_TOKEN)
        _from_there(user, address)
        return Caller(user.tenant_id, found.project_id, user.id, user.role, user.kind, passing=True), found.id

    def _refuse(self, user: User, key: AccessKey, address: str | None, reason: str) -> None:
        code = refusal(user, key, address or "", self._now())
        if code == "source_refused":
            _from_there(user, address)
        if code is not None:
            raise Unknown(reason)

    @cached_property
    def _sealed_decoy(self) -> tuple[Sealed, Context]:
        owner = self._store.caller_by_local_home()
        name, secret = new_secret()
        context = access_key_context(owner, name)
        try:
            return self._kms.seal(owner.tenant_id, secret, context), context
        finally:
            secret.wipe()


def _from_there(user: User, address: str | None) -> None:
    if sources.refused(user.source_networks, address or ""):
        raise Unknown(f"the source address {address} is not one from which this user may ask")
