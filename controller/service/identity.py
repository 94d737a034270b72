"""Who asks over the network: by an access key, and from which networks."""

from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime

from controller.errors import NotFound
from controller.kms import Kms
from controller.model import Caller, Secret, now
from controller.service.accesskeys import refusal
from controller.service.home import access_key_context
from controller.service.worker import off_loop
from controller.store import Store


class Unknown(Exception):
    """nobody is known by this; reason: one of the documented ones, without a word on what there is"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Identity:
    """Finds who is behind what came with a request."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None, clock: Callable[[], datetime] = now) -> None:
        self._store = store
        self._kms = kms
        self._executor = executor
        self._now = clock

    async def of_access_key(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Secret]:
        """Return who may sign with this access key, and the secret to verify with; Unknown for everything else."""
        return await off_loop(self._executor, self._of_access_key, access_key, security_token, address)

    async def used(self, access_key: str) -> None:
        """Note that a request was signed with an access key; to the minute."""
        await off_loop(self._executor, self._store.access_key_used, access_key)

    def _of_access_key(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Secret]:
        try:
            user, key, sealed = self._store.access_key_whole(access_key)
        except NotFound:
            raise Unknown("Get secretKey failed") from None
        code = refusal(user, key, address or "", self._now())
        if code == "source_refused":
            raise Unknown(f"the source address {address} is not one from which this user may ask")
        if code is not None:
            raise Unknown("Get secretKey failed")
        if security_token is not None:
            raise Unknown("security token is wrong or expired")
        caller = Caller(user.tenant_id, key.project_id, user.id, user.role, user.kind)
        return caller, self._kms.open(sealed, access_key_context(caller, access_key))
