"""Key pairs: create, import, list, show, export, delete."""

import builtins
import re
import uuid
from collections.abc import Collection
from concurrent.futures import Executor
from typing import get_args

from controller import keyfiles, opening
from controller.errors import Conflict, Invalid
from controller.keyfiles import PublicKey, apart, password
from controller.kms import Kms
from controller.model import KEY_TYPES, Binding, Caller, KeyFormat, KeyPair, KeyType, Quotas, Scope, Sealed, Secret, now
from controller.service.custody import named_master_key
from controller.service.roles import allow, may_be_first
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.keypairs import upgraded

DESCRIPTION_CHARACTERS = 255
PLACES_AT_ONCE = 100
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")


class Keypairs:
    """The key pairs that a caller may see: their own private ones, and the account's."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None, quotas: Quotas | None = None) -> None:
        """quotas: what holds where nobody has set any; None: nothing is limited."""
        self._store = store
        self._kms = kms
        self._executor = executor
        self._quotas = quotas

    async def create(
        self,
        who: Caller,
        name: str,
        type: KeyType = "ed25519",
        scope: Scope = "private",
        managed: bool = True,
        master_key: str | None = None,
        give: KeyFormat | None = None,
    ) -> tuple[KeyPair, Secret | None]:
        """Make a key pair. The private half comes back where it is not kept (as OpenSSH text), or in the format of give.

        What is kept and given at once is recorded as an export too.
        """
        _check(who, name, scope)
        if type not in KEY_TYPES:
            raise Invalid("key_type_unknown", f"{type}: no such type; one of " + ", ".join(KEY_TYPES))
        public, stored = await off_loop(None, keyfiles.generate, type)
        keypair = _keypair(who, name, scope, public, managed)
        try:
            form = give or (None if managed else "openssh")
            given = None if form is None else keyfiles.private_text(type, stored, form, name)
            made = await self._keep(who, keypair, stored if managed else None, master_key, imported=False)
            if managed and given is not None:
                await off_loop(self._executor, self._store.note_export, made.id, who.user_id)
            return made, given
        finally:
            stored.wipe()

    async def import_(
        self,
        who: Caller,
        name: str,
        scope: Scope = "private",
        public_key: str | None = None,
        private_key: Secret | None = None,
        passphrase: Secret | None = None,
        master_key: str | None = None,
        allow_weak: bool = False,
    ) -> KeyPair:
        """Take a key pair in; managed where the private half is given.

        Invalid: private_key_unreadable, passphrase_wrong, key_mismatch (the halves do not belong together),
        public_key_unreadable, key_weak (RSA of less than 2048 bits, unless that is allowed).
        """
        _check(who, name, scope)
        public = None if public_key is None else keyfiles.read_public(public_key, allow_weak=allow_weak)
        if private_key is None:
            if public is None:
                raise Invalid("key_missing", f"{name}: give a public key or a private key file")
            keypair = _keypair(who, name, scope, public, managed=False, comment=public.comment)
            return await self._keep(who, keypair, None, None, imported=True)
        derived, stored = await apart.read_private(private_key, passphrase, allow_weak=allow_weak)
        try:
            if public is not None and public.blob != derived.blob:
                raise Invalid(
                    "key_mismatch",
                    f"{name}: the private key belongs to {derived.fingerprint}, the public key is {public.fingerprint}; "
                    "give two halves of one pair",
                )
            keypair = _keypair(who, name, scope, derived, managed=True, comment=None if public is None else public.comment)
            return await self._keep(who, keypair, stored, master_key, imported=True)
        finally:
            stored.wipe()

    async def list(
        self, who: Caller, after: str = "", limit: int | None = None, *, scope: Scope | None = None, part_of_name: str = ""
    ) -> builtins.list[KeyPair]:
        """Return the key pairs the caller may see, by name: of those that come after a name, the first so many."""
        return await off_loop(
            self._executor, self._store.keypairs, who.tenant_id, who.user_id,
            after=after, limit=limit, scope=scope, part_of_name=part_of_name,
        )  # fmt: skip

    async def bound_counts(self, found: Collection[KeyPair]) -> dict[str, int]:
        """Return on how many logins each of these key pairs, which the caller was given, is bound; by its id."""
        return await off_loop(self._executor, self._store.bound_counts, [each.id for each in found])

    async def places(
        self, who: Caller, name: str, after: tuple[str, str] = ("", ""), limit: int = PLACES_AT_ONCE
    ) -> builtins.list[tuple[str, Binding]]:
        """Return where a key pair is bound, each with its server's name: those after a server and login, so many."""
        keypair = await self.get(who, name)
        return await off_loop(self._executor, self._store.bound_places, keypair.id, after, limit)

    async def get(self, who: Caller, name: str) -> KeyPair:
        """Return one key pair; somebody else's private one is not found."""
        return await off_loop(self._executor, self._store.keypair, who.tenant_id, who.user_id, name)

    async def export(self, who: Caller, name: str, form: KeyFormat = "openssh", passphrase: Secret | None = None) -> Secret:
        """Return the private half as the text of a private key file, encrypted where a passphrase is given. Recorded.

        Invalid: format_unusable (there is no such file for a key of this type).
        """
        return await off_loop(self._executor, self._export, who, name, form, passphrase)

    async def decrypt_password(self, who: Caller, name: str, encrypted: str) -> Secret:
        """Return a password that was encrypted to an RSA key pair in custody (Base64, PKCS#1 v1.5). Recorded.

        Whoever may export the private half may do this. Invalid: password_unreadable.
        """
        return await off_loop(self._executor, self._decrypt_password, who, name, encrypted)

    async def describe(self, who: Caller, name: str, description: str) -> KeyPair:
        """Describe a key pair anew."""
        if len(description) > DESCRIPTION_CHARACTERS or not all(each.isprintable() for each in description):
            raise Invalid(
                "description_unusable", f"{name}: a description is one line of at most {DESCRIPTION_CHARACTERS} characters"
            )
        keypair = await self.get(who, name)
        allow(who, "keypair.describe", keypair.scope, name)
        return await off_loop(self._executor, self._store.describe_keypair, keypair.id, description, who.user_id)

    async def upgrade(self, who: Caller, name: str) -> KeyPair:
        """Make a private key pair of the caller's one of the account: all users of the tenant use it from now on.

        Its private half is sealed anew, for what it is now. Conflict(already_account); and what refuses a new account key pair.
        """
        return await off_loop(self._executor, self._upgrade, who, name)

    async def delete(self, who: Caller, name: str) -> None:
        """Delete a key pair.

        Conflict: already_bound (the servers where it is still bound are named), keypair_busy, keypair_in_doubt.
        """
        keypair = await self.get(who, name)
        allow(who, "keypair.delete", keypair.scope, name)

        def delete() -> None:
            self._store.delete_keypair(keypair.id, who.user_id)
            # What the write-ahead log still holds of it goes too.
            self._store.checkpoint()

        await off_loop(self._executor, delete)

    def _decrypt_password(self, who: Caller, name: str, encrypted: str) -> Secret:
        keypair = self._store.keypair(who.tenant_id, who.user_id, name)
        allow(who, "keypair.export", keypair.scope, name)
        text = password.check(keypair.type, encrypted)
        keypair, stored = self._opened(keypair, opening.DECRYPT_PASSWORD, who)
        try:
            return password.opened(keypair.type, stored, text)
        finally:
            stored.wipe()

    def _export(self, who: Caller, name: str, form: KeyFormat, passphrase: Secret | None) -> Secret:
        keypair = self._store.keypair(who.tenant_id, who.user_id, name)
        allow(who, "keypair.export", keypair.scope, name)
        keyfiles.check_form(keypair.type, form, passphrase)
        keypair, stored = self._opened(keypair, opening.EXPORT, who)
        try:
            self._store.note_export(keypair.id, who.user_id)
            return keyfiles.private_text(keypair.type, stored, form, keypair.name, passphrase)
        finally:
            stored.wipe()

    def _upgrade(self, who: Caller, name: str) -> KeyPair:
        keypair = self._store.keypair(who.tenant_id, who.user_id, name)
        allow(who, "keypair.upgrade", "account", name)
        if keypair.scope == "account":
            raise Conflict("already_account", f"{name}: it is a key pair of the account already", keypair=name)
        self._store.check_upgrade(keypair, may_be_first=may_be_first(who), defaults=self._quotas)
        sealed: Sealed | None = None
        if keypair.managed:
            keypair, stored = self._opened(keypair, opening.UPGRADE, who)
            try:
                sealed = self._kms.seal_private(upgraded(keypair), stored)
            finally:
                stored.wipe()
        return self._store.upgrade_keypair(keypair, sealed, may_be_first=may_be_first(who), defaults=self._quotas)

    def _opened(self, keypair: KeyPair, purpose: str, who: Caller) -> tuple[KeyPair, Secret]:
        return opening.opened(self._store, self._kms, keypair.id, purpose, who.user_id)

    async def _keep(
        self, who: Caller, keypair: KeyPair, stored: Secret | None, master_key: str | None, *, imported: bool
    ) -> KeyPair:
        def keep() -> KeyPair:
            wanted = keypair if stored is None else named_master_key(self._kms, keypair, master_key)
            sealed = None if stored is None else self._kms.seal_private(wanted, stored)
            return self._store.add_keypair(
                keypair, sealed, imported=imported, may_be_first=may_be_first(who), defaults=self._quotas
            )

        return await off_loop(self._executor, keep)


def _check(who: Caller, name: str, scope: Scope) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid("name_unusable", f"{name!r}: a key pair's name is 1 to 255 letters, digits, _ and -")
    if scope not in get_args(Scope):
        raise Invalid("scope_unknown", f"{scope}: a scope is private or account")
    allow(who, "keypair.create", scope, name)


def _keypair(who: Caller, name: str, scope: Scope, public: PublicKey, managed: bool, comment: str | None = None) -> KeyPair:
    """comment: of a public key that was given; whoever gave it finds it as it was, with none too. None: it was made here."""
    return KeyPair(
        id=str(uuid.uuid4()),
        tenant_id=who.tenant_id,
        owner_id=who.user_id,
        scope=scope,
        name=name,
        type=public.type,
        managed=managed,
        public_key=public.line(name if comment is None else comment),
        fingerprint=public.fingerprint,
        fingerprint_md5=public.fingerprint_md5,
        created_at=now(),
    )
