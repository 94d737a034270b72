"""The private half of a key pair: taken into custody later, put under another master key, destroyed."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

from controller import keyfiles
from controller.errors import Conflict, Invalid
from controller.keyfiles import apart
from controller.kms import DEFAULT_ALIAS, Kms
from controller.model import BoundKey, Caller, KeyPair, Secret
from controller.service import ways_in
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.custody import managed


class Custody:
    """What a caller may do with the private halves of the key pairs that they see."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None) -> None:
        self._store = store
        self._kms = kms
        self._executor = executor

    async def manage(
        self,
        who: Caller,
        name: str,
        private_key: Secret,
        passphrase: Secret | None = None,
        master_key: str | None = None,
        again: bool = False,
    ) -> KeyPair:
        """Take the private half of an unmanaged key pair into custody, under the master key of an alias or id.

        again: one that is in custody already is compared, and moved under that master key; else Conflict(already_managed).
        Invalid: what reading the file raises, and key_mismatch where it is another key pair's.
        """
        keypair = await self._seen(who, name, "keypair.manage")
        if keypair.managed and not again:
            raise Conflict("already_managed", f"{name}: its private half is in custody already", keypair=name)
        # That a key is weak was allowed when its public half was taken in.
        derived, stored = await apart.read_private(private_key, passphrase, allow_weak=True)
        try:
            public = keyfiles.read_public(keypair.public_key, allow_weak=True)
            if public.blob != derived.blob:
                raise Invalid(
                    "key_mismatch",
                    f"{name}: the private key belongs to {derived.fingerprint}, the public key is {public.fingerprint}; "
                    "give two halves of one pair",
                )
            if keypair.managed:
                return await self.move(who, name, master_key or DEFAULT_ALIAS)
            return await off_loop(self._executor, self._keep, who, keypair, stored, master_key)
        finally:
            stored.wipe()

    async def clear(self, who: Caller, name: str, *, even_if_only_way_in: bool = False) -> KeyPair:
        """Destroy the private half; the key pair stays, unmanaged, and what it is bound to takes it as before.

        Conflict(only_way_in) where it is some login's only proved way in, unless that was said in as many words; keypair_busy
        while a task works with it. NotFound(private_key_not_kept).
        """
        keypair = await self._seen(who, name, "keypair.clear")

        def check(bound: Sequence[BoundKey]) -> None:
            if not even_if_only_way_in:
                ways_in.refuse(ways_in.only_way_in(bound, {keypair.id}), f"{name}: destroying its private half")

        def clear() -> KeyPair:
            cleared = self._store.clear_private(keypair.id, who.user_id, check, even_if=even_if_only_way_in)
            # What the write-ahead log still holds of it goes too.
            self._store.checkpoint()
            return cleared

        return await off_loop(self._executor, clear)

    async def move(self, who: Caller, name: str, master_key: str) -> KeyPair:
        """Put the private half under another customer master key of the tenant, by alias or id; it is not opened for that.

        Conflict(keypair_changed) where somebody else changes it meanwhile; NotFound: private_key_not_kept, master_key_not_found.
        """
        keypair = await self._seen(who, name, "keypair.move")

        def move() -> KeyPair:
            before = self._store.sealed_private(keypair.id)
            after = self._kms.rewrap(keypair.tenant_id, before, master_key)
            return self._store.move_private(keypair.id, before, after, who.user_id)

        return await off_loop(self._executor, move)

    async def _seen(self, who: Caller, name: str, verb: str) -> KeyPair:
        keypair = await off_loop(self._executor, self._store.keypair, who.tenant_id, who.user_id, name)
        allow(who, verb, keypair.scope, name)
        return keypair

    def _keep(self, who: Caller, keypair: KeyPair, stored: Secret, master_key: str | None) -> KeyPair:
        wanted = named_master_key(self._kms, managed(keypair), master_key)
        return self._store.keep_private(keypair, self._kms.seal_private(wanted, stored), who.user_id)


def named_master_key(kms: Kms, keypair: KeyPair, master_key: str | None) -> KeyPair:
    """Return the key pair as it is to be sealed under a master key of an alias or id; None: the default one."""
    return keypair if master_key is None else replace(keypair, master_key_id=kms.key(keypair.tenant_id, master_key).id)
