"""Material that somebody brings for a customer master key, and takes away again."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from controller.errors import Conflict, Invalid
from controller.kms import Context, keys, material
from controller.model import Caller, MasterKey, Sealed, Secret
from controller.service.kms.common import Verbs, unless_only_way_in
from controller.service.worker import off_loop

_OTHERS = ("SM2_ENCRYPT", "RSAES_OAEP_SHA_1")


@dataclass(frozen=True, slots=True)
class ImportParameters:
    """What is needed to bring material: the key to encrypt it with, and the token to bring with it."""

    key: MasterKey
    token: bytes
    expires_at: datetime
    public_key: bytes  # RSA of 2048 bits, SubjectPublicKeyInfo in DER


class Imports(Verbs):
    """Material for the external master keys of a tenant."""

    async def parameters(self, who: Caller, name: str, algorithm: str = keys.OAEP) -> ImportParameters:
        """Return a new key to encrypt material with, and the token that belongs to it; both are good for a day.

        Invalid: algorithm_not_here, algorithm_unfit. Conflict: master_key_not_external, master_key_not_waiting,
        import_token_quota.
        """
        key = await self._off(self._changed, who, name)
        keys.may_take_material(key)
        if algorithm != keys.OAEP:
            code = "algorithm_not_here" if algorithm in _OTHERS else "algorithm_unfit"
            raise Invalid(code, f"{algorithm[:100]}: material is encrypted by {keys.OAEP} here")
        # Seconds, as the token tells it.
        expires_at = (self._now() + timedelta(hours=material.TOKEN_HOURS)).replace(microsecond=0)
        private, public = await off_loop(None, material.pair, f"RSA_{material.WRAPPING_BITS}")
        try:
            token = material.Token.new(key.id, expires_at)
            await self._off(self._keep, who, key, token, private, expires_at)
        finally:
            private.wipe()
        return ImportParameters(key, token.text, expires_at, public)

    async def import_(
        self,
        who: Caller,
        name: str,
        token: bytes,
        encrypted: bytes,
        *,
        private_key: bytes | None = None,
        expires_at: datetime | None = None,
    ) -> MasterKey:
        """Take material in, and enable the key. private_key: see controller.kms.material.unwrapped. expires_at None: never.

        Invalid: import_expiry_in_past, import_token_unusable, import_token_of_another_key, import_token_expired,
        import_material_unreadable, import_material_length_wrong, import_material_differs (from what the key had before), and
        what else unwrapped() raises. Conflict: master_key_not_external, master_key_not_waiting, master_key_pending_deletion.
        """
        return await self._off(self._import, who, name, material.Token(token), encrypted, private_key, expires_at)

    async def delete(self, who: Caller, name: str, *, even_if_only_way_in: bool = False) -> MasterKey:
        """Take imported material away for good: the key waits for the same material again.

        Conflict: master_key_not_external, asymmetric_material_stays, by its state, and only_way_in where it seals the private
        half of some login's only proved way in.
        """

        def delete() -> MasterKey:
            key = self._changed(who, name)
            check = unless_only_way_in(f"the material of master key {key.alias}", even_if_only_way_in)
            after = self._store.drop_material(
                key.id, keys.material_deleted, "master_key_material_deleted", who.user_id, check
            )  # fmt: skip
            self._store.checkpoint()
            return after

        return await self._off(delete)

    def _keep(self, who: Caller, key: MasterKey, token: material.Token, private: Secret, expires_at: datetime) -> None:
        sealed = self._kms.seal(key.tenant_id, private, _context(key, token))
        self._store.add_import_token(key, token.digest, sealed, expires_at, who.user_id, material.MOST_TOKENS)

    def _import(
        self, who: Caller, name: str, token: material.Token, encrypted: bytes, private: bytes | None, expires_at: datetime | None
    ) -> MasterKey:
        key = self._changed(who, name)
        keys.may_take_material(key)
        if expires_at is not None and expires_at <= self._now():
            raise Invalid("import_expiry_in_past", f"{expires_at:%Y-%m-%d %H:%M} UTC: the material would have expired already")
        wrapping = self._kms.open(self._believed(key, token), _context(key, token))
        try:
            stored, public = material.unwrapped(key.spec, wrapping, encrypted, private)
        finally:
            wrapping.wipe()
        try:
            digest = self._digest(key, stored)
            after = replace(
                key, state="enabled", version=1, public_key=public, material_digest=digest, material_expires_at=expires_at
            )
            step = partial(_taken_in, after)
            return self._store.change_master_key(
                key.id, step, "master_key_material_imported", who.user_id, version=self._kms.wrapped(after, stored)
            )
        finally:
            stored.wipe()

    def _believed(self, key: MasterKey, token: material.Token) -> Sealed:
        """Return the sealed private half that belongs to a token, if it is one of this key and still good."""
        found = self._store.import_token(token.digest)
        if found is None:
            raise token.refusal(key.id, self._now())
        key_id, sealed, expires_at = found
        if key_id != key.id:
            raise material.of_another_key()
        if expires_at <= self._now():
            raise material.expired(expires_at)
        return sealed

    def _digest(self, key: MasterKey, stored: Secret) -> bytes:
        """Return the digest by which this material is known again: keyed with the first version of the default key."""
        default = self._kms.key(key.tenant_id)
        by = self._kms.material(default, self._kms.version(default, 1))
        try:
            return material.digest(by, key.id, stored)
        finally:
            by.wipe()


def _taken_in(after: MasterKey, key: MasterKey) -> MasterKey:
    keys.may_take_material(key)
    if key.material_digest is not None and key.material_digest != after.material_digest:
        raise Conflict(
            "import_material_differs", f"{key.alias}: this is other material than it had before; make a new key for that"
        )
    return replace(
        key,
        state=after.state,
        version=after.version,
        public_key=after.public_key,
        material_digest=after.material_digest,
        material_expires_at=after.material_expires_at,
    )


def _context(key: MasterKey, token: material.Token) -> Context:
    return Context("import token", token.digest.hex(), 1, {"tenant": key.tenant_id, "key": key.id})
