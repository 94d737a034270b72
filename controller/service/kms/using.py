"""Who may use a customer master key, and that each use is recorded before its result is given."""

from controller.errors import Damaged
from controller.kms import keys, material, signing
from controller.model import Caller, Grant, MasterKey
from controller.service.kms.common import Verbs
from controller.service.roles import allow, refusal

# What a role does not allow, a grant may: by what is done, the operation that can be granted.
_GRANTED = {
    "encrypt": "encrypt-data",
    "decrypt": "decrypt-data",
    "create_data_key": "create-datakey",
    "create_data_key_without_plaintext": "create-datakey-without-plaintext",
    "create_data_key_pair": "create-datakey",
    "create_data_key_pair_without_plaintext": "create-datakey-without-plaintext",
    "encrypt_data_key": "encrypt-datakey",
    "decrypt_data_key": "decrypt-datakey",
}


class Using(Verbs):
    """The steps that all uses of master keys share."""

    def _named(self, who: Caller, name: str) -> MasterKey:
        """Return a master key; a service's own one is made at its first use."""
        if name in keys.DEFAULT_ALIASES and refusal(who.role, who.kind, "masterkey.use", "tenant") is None:
            return self._kms.key(who.tenant_id, name)
        return self._seen(who, name)

    def _usable(self, who: Caller, name: str, operation: str) -> tuple[MasterKey, Grant | None]:
        """Return an enabled master key that the caller may use so, with the grant that allows it where the role does not."""
        key = self._named(who, name)
        grant = self._allowed(who, key, operation)
        keys.refuse_unless_enabled(key, self._now())
        return key, grant

    def _allowed(self, who: Caller, key: MasterKey, operation: str) -> Grant | None:
        if refusal(who.role, who.kind, "masterkey.use", "tenant") is None:
            return None
        needed = _GRANTED.get(operation)
        for grant in self._store.grants_for(key.id, who.tenant_id, who.user_id):
            if needed in grant.operations:
                return grant
        allow(who, "masterkey.use", what=key.alias)
        return None

    def _public(self, key: MasterKey) -> signing.PublicKey:
        """Return the public half. It is bound to the material, so that has to open: nobody has put another in its place."""
        self._kms.material(key, self._kms.version(key)).wipe()
        if key.public_key is None:
            raise Damaged("master_key_damaged", f"{key.alias}: its public half is not here; restore a backup")
        return material.public_key(key.public_key)

    def _record(self, who: Caller, key: MasterKey, operation: str, version: int, grant: Grant | None) -> None:
        self._store.note_key_use(key, operation, who.user_id, version, grant.id if grant else None)
