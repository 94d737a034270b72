"""What customer master keys are used for. Each use is recorded before its result is given."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import rsa

from controller.errors import Conflict, Damaged, Invalid, NotFound
from controller.kms import ciphertext, keys, material, signing
from controller.model import Caller, Grant, MasterKey, Secret
from controller.service.kms.signatures import Signatures
from controller.service.roles import allow
from controller.service.worker import off_loop

MOST_PLAINTEXT_BYTES = 4096
MOST_ADDITIONAL_BYTES = 128
MOST_BITS = 8192  # of a data key, or of randomness
_DATA_KEY_BITS = {
    "AES_256": 256, "AES_128": 128, "SM4": 128, "HMAC_256": 256, "HMAC_384": 384, "HMAC_512": 512, "HMAC_SM3": 256,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A ciphertext, the key that made it, and how; where it was re-encrypted, what it was before."""

    key: MasterKey
    algorithm: str
    ciphertext: bytes
    source: MasterKey | None = None
    source_algorithm: str | None = None


@dataclass(frozen=True, slots=True)
class Decrypted:
    """A plaintext, and the key that opened it."""

    key: MasterKey
    algorithm: str
    plaintext: Secret


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key: sealed, and in the clear where that was asked for."""

    key: MasterKey
    ciphertext: bytes
    plaintext: Secret | None


@dataclass(frozen=True, slots=True)
class DataKeyPair:
    """A key pair made for its user: the private half sealed, or in the clear as well."""

    key: MasterKey
    spec: str
    public_key: bytes  # SubjectPublicKeyInfo in DER
    ciphertext: bytes  # of the private half, PKCS#8 in DER; decrypt() opens it
    private_key: Secret | None


class KeyUses(Signatures):
    """The master keys of a caller's tenant at work.

    Every verb: NotFound(master_key_not_found); NotAllowed, by the role, where there is no grant either; Conflict, by the key's
    state; Invalid, by its kind.
    """

    # -- small data

    async def encrypt(
        self, who: Caller, name: str, plaintext: Secret, additional_data: bytes = b"", algorithm: str | None = None
    ) -> Encrypted:
        """Encrypt up to 4096 bytes, or what an RSA key's modulus holds.

        Invalid: plaintext_too_long, additional_data_too_long, additional_data_not_possible (with RSA), and by the key's kind.
        """
        return await self._off(self._encrypt, who, name, plaintext, additional_data, algorithm)

    async def decrypt(
        self,
        who: Caller,
        given: bytes,
        additional_data: bytes = b"",
        *,
        name: str | None = None,
        algorithm: str | None = None,
    ) -> Decrypted:
        """Decrypt. A symmetric ciphertext says itself which key made it; for another the key has to be named.

        Invalid: ciphertext_unreadable, ciphertext_length_wrong, ciphertext_purpose_wrong, ciphertext_of_another_key,
        ciphertext_version_unknown, ciphertext_head_damaged, ciphertext_damaged.
        """
        return await self._off(self._decrypt, who, given, additional_data, name, algorithm)

    async def re_encrypt(
        self,
        who: Caller,
        given: bytes,
        destination: str,
        *,
        source: str | None = None,
        source_additional_data: bytes = b"",
        additional_data: bytes = b"",
        source_algorithm: str | None = None,
        algorithm: str | None = None,
        length: int | None = None,
    ) -> Encrypted:
        """Encrypt anew under another key; the plaintext is not given to anybody. A data key stays a data key.

        length: of a data key, in bytes, where it is to be checked. As decrypt() and encrypt(), and data_key_length_wrong.
        """
        before = (source, source_additional_data, source_algorithm, length)
        return await self._off(self._re_encrypt, who, given, before, destination, additional_data, algorithm)

    # -- data keys

    async def create_data_key(
        self,
        who: Caller,
        name: str,
        *,
        spec: str | None = None,
        bits: int | None = None,
        additional_data: bytes = b"",
        with_plaintext: bool = True,
    ) -> DataKey:
        """Make a data key of so many bits (8 to 8192, whole bytes); bits win over spec, and without either they are 256.

        Invalid: data_key_length_unusable, data_key_length_not_whole, data_key_spec_unknown.
        """
        length = _data_key_bits(spec, bits) // 8
        return await self._off(self._create_data_key, who, name, length, additional_data, with_plaintext)

    async def encrypt_data_key(
        self, who: Caller, name: str, data_key: Secret, digest: bytes, length: int, additional_data: bytes = b""
    ) -> DataKey:
        """Seal a data key. digest: its SHA-256; length: its bytes, as its owner knows them.

        Invalid: data_key_length_wrong, data_key_length_unusable, data_key_digest_wrong.
        """
        return await self._off(self._encrypt_data_key, who, name, data_key, digest, length, additional_data)

    async def decrypt_data_key(
        self, who: Caller, name: str, given: bytes, length: int | None = None, additional_data: bytes = b""
    ) -> tuple[Decrypted, bytes]:
        """Open a data key, and return it with its SHA-256. length: in bytes, where it is to be checked.

        Invalid: as decrypt(), and data_key_length_wrong.
        """
        return await self._off(self._decrypt_data_key, who, name, given, length, additional_data)

    async def create_data_key_pair(
        self, who: Caller, name: str, spec: str, *, additional_data: bytes = b"", with_plaintext: bool = True
    ) -> DataKeyPair:
        """Make a key pair for the caller, its private half sealed under a master key. spec: one of material.PAIRS."""
        operation = "create_data_key_pair" if with_plaintext else "create_data_key_pair_without_plaintext"
        await self._off(self._for_data_keys, who, name, operation, additional_data)
        private, public = await off_loop(None, material.pair, spec)
        try:
            made = await self._off(self._seal, who, name, operation, private, additional_data, ciphertext.DATA)
        except BaseException:
            private.wipe()
            raise
        if not with_plaintext:
            private.wipe()
        return DataKeyPair(made.key, spec, public, made.ciphertext, private if with_plaintext else None)

    async def random(self, who: Caller, bits: int = 512) -> Secret:
        """Return random bits, 8 to 8192 of them in whole bytes. Invalid: random_length_unusable, random_length_not_whole."""
        allow(who, "masterkey.see")
        if not 8 <= bits <= MOST_BITS:
            raise Invalid("random_length_unusable", f"{bits} bits; give 8 to {MOST_BITS}")
        if bits % 8:
            raise Invalid("random_length_not_whole", f"{bits} bits; give a multiple of 8")
        return Secret(bytearray(secrets.token_bytes(bits // 8)))

    # -- the work

    def _encrypt(self, who: Caller, name: str, plaintext: Secret, additional_data: bytes, algorithm: str | None) -> Encrypted:
        key, grant = self._usable(who, name, "encrypt")
        by = keys.for_encryption(key, algorithm)
        _check_plaintext(plaintext, additional_data, by)
        made = self._made(key, by, plaintext, additional_data, ciphertext.DATA)
        self._record(who, key, "encrypt", key.version, grant)
        return Encrypted(key, by, made)

    def _decrypt(self, who: Caller, given: bytes, additional_data: bytes, name: str | None, algorithm: str | None) -> Decrypted:
        if name is not None:
            key, grant = self._usable(who, name, "decrypt")
            if keys.for_encryption(key, algorithm) == keys.OAEP:
                return self._decrypt_oaep(who, key, given, additional_data, grant)
        elif algorithm not in (None, keys.SYMMETRIC):
            raise Invalid("key_not_named", f"{algorithm}: the ciphertext of an RSA key does not say whose it is; name the key")
        return self._decrypt_symmetric(who, given, additional_data, name, "decrypt", ciphertext.DATA)

    def _decrypt_oaep(self, who: Caller, key: MasterKey, given: bytes, additional_data: bytes, grant: Grant | None) -> Decrypted:
        _refuse_additional(additional_data)
        opened = self._kms.material(key, self._kms.version(key))
        try:
            plaintext = Secret(signing.decrypt(material.rsa_key(opened), given))
        finally:
            opened.wipe()
        return self._given(who, Decrypted(key, keys.OAEP, plaintext), "decrypt", key.version, grant)

    def _decrypt_symmetric(
        self, who: Caller, given: bytes, additional_data: bytes, name: str | None, operation: str, purpose: int
    ) -> Decrypted:
        said = ciphertext.header(given)
        # What belongs to somebody else is not known here.
        maker = self._store.master_key_by_id(said.key_id)
        if maker is None or maker.tenant_id != who.tenant_id:
            raise NotFound("master_key_not_found", f"{said.key_id}: the master key that made this is not here", key=said.key_id)
        if maker.state == "destroyed":
            allow(who, "masterkey.see")
            raise Conflict(
                "master_key_destroyed", f"{maker.alias}: the master key that made this was destroyed; nothing opens it"
            )
        key, grant = self._usable(who, maker.id, operation)
        if name is not None and self._seen(who, name).id != key.id:
            raise Invalid("ciphertext_of_another_key", f"{key.alias} made this, not {name}; name that one, or none")
        keys.for_data_keys(key)
        _check_additional(additional_data)
        version = self._store.master_key_version(key.id, said.version)
        if version is None:
            if 1 <= said.version <= key.version:
                raise Damaged("master_key_unknown", f"version {said.version} of {key.alias} is not here; restore a backup")
            raise Invalid("ciphertext_version_unknown", f"{key.alias}: there is no version {said.version} of this master key")
        opened = self._kms.material(key, version)
        try:
            plaintext = ciphertext.decrypt(opened, given, additional_data, purpose)
        finally:
            opened.wipe()
        return self._given(who, Decrypted(key, keys.SYMMETRIC, plaintext), operation, said.version, grant)

    def _re_encrypt(
        self,
        who: Caller,
        given: bytes,
        before: tuple[str | None, bytes, str | None, int | None],
        destination: str,
        additional_data: bytes,
        algorithm: str | None,
    ) -> Encrypted:
        source, source_additional_data, source_algorithm, length = before
        to = self._named(who, destination)
        by = keys.for_encryption(to, algorithm)
        keys.refuse_unless_enabled(to, self._now())
        purpose = _purpose(given)
        if purpose == ciphertext.DATA_KEY:
            keys.for_data_keys(to)
            opened, _ = self._decrypt_data_key(who, source, given, length, source_additional_data)
        else:
            opened = self._decrypt(who, given, source_additional_data, source, source_algorithm)
        try:
            operation = "encrypt_data_key" if purpose == ciphertext.DATA_KEY else "encrypt"
            key, grant = self._usable(who, to.id, operation)
            _check_plaintext(opened.plaintext, additional_data, by)
            made = self._made(key, by, opened.plaintext, additional_data, purpose)
            self._record(who, key, operation, key.version, grant)
        finally:
            opened.plaintext.wipe()
        return Encrypted(key, by, made, opened.key, opened.algorithm)

    def _create_data_key(self, who: Caller, name: str, length: int, additional_data: bytes, with_plaintext: bool) -> DataKey:
        operation = "create_data_key" if with_plaintext else "create_data_key_without_plaintext"
        made = Secret(bytearray(secrets.token_bytes(length)))
        try:
            sealed = self._seal(who, name, operation, made, additional_data, ciphertext.DATA_KEY)
        except BaseException:
            made.wipe()
            raise
        if not with_plaintext:
            made.wipe()
        return DataKey(sealed.key, sealed.ciphertext, made if with_plaintext else None)

    def _encrypt_data_key(
        self, who: Caller, name: str, data_key: Secret, digest: bytes, length: int, additional_data: bytes
    ) -> DataKey:
        self._for_data_keys(who, name, "encrypt_data_key", additional_data)
        if not 1 <= length <= MOST_BITS // 8:
            raise Invalid("data_key_length_unusable", f"{length} bytes; a data key has 1 to {MOST_BITS // 8}")
        if len(data_key) != length:
            raise Invalid("data_key_length_wrong", f"the data key has {len(data_key)} bytes, not {length}")
        if not hmac.compare_digest(hashlib.sha256(data_key.view()).digest(), digest):
            raise Invalid("data_key_digest_wrong", "the digest is not the SHA-256 of this data key; it was changed on its way")
        sealed = self._seal(who, name, "encrypt_data_key", data_key, additional_data, ciphertext.DATA_KEY)
        return DataKey(sealed.key, sealed.ciphertext, None)

    def _decrypt_data_key(
        self, who: Caller, name: str | None, given: bytes, length: int | None, additional_data: bytes
    ) -> tuple[Decrypted, bytes]:
        if name is not None:
            self._for_data_keys(who, name, "decrypt_data_key", additional_data)
        said = ciphertext.header(given)
        if length is not None and said.length != length:
            raise Invalid("data_key_length_wrong", f"the data key has {said.length} bytes, not {length}")
        opened = self._decrypt_symmetric(who, given, additional_data, name, "decrypt_data_key", ciphertext.DATA_KEY)
        return opened, hashlib.sha256(opened.plaintext.view()).digest()

    # -- steps

    def _for_data_keys(self, who: Caller, name: str, operation: str, additional_data: bytes) -> tuple[MasterKey, Grant | None]:
        key, grant = self._usable(who, name, operation)
        keys.for_data_keys(key)
        _check_additional(additional_data)
        return key, grant

    def _seal(self, who: Caller, name: str, operation: str, plaintext: Secret, additional_data: bytes, purpose: int) -> Encrypted:
        key, grant = self._for_data_keys(who, name, operation, additional_data)
        made = self._made(key, keys.SYMMETRIC, plaintext, additional_data, purpose)
        self._record(who, key, operation, key.version, grant)
        return Encrypted(key, keys.SYMMETRIC, made)

    def _made(self, key: MasterKey, by: str, plaintext: Secret, additional_data: bytes, purpose: int) -> bytes:
        if by == keys.OAEP:
            public = self._public(key)
            if not isinstance(public, rsa.RSAPublicKey):
                raise Damaged("master_key_damaged", f"{key.alias}: its public half is not of its kind; restore a backup")
            return signing.encrypt(public, plaintext.open())
        opened = self._kms.material(key, self._kms.version(key))
        try:
            return ciphertext.encrypt(opened, key.id, key.version, plaintext, additional_data, purpose)
        finally:
            opened.wipe()

    def _given(self, who: Caller, opened: Decrypted, operation: str, version: int, grant: Grant | None) -> Decrypted:
        try:
            self._record(who, opened.key, operation, version, grant)
        except BaseException:
            opened.plaintext.wipe()
            raise
        return opened


def _check_plaintext(plaintext: Secret, additional_data: bytes, algorithm: str) -> None:
    if len(plaintext) > MOST_PLAINTEXT_BYTES:
        raise Invalid(
            "plaintext_too_long",
            f"{len(plaintext)} bytes; at most {MOST_PLAINTEXT_BYTES} are encrypted directly: make a data key for more",
        )
    _check_additional(additional_data)
    if algorithm == keys.OAEP:
        _refuse_additional(additional_data)


def _check_additional(additional_data: bytes) -> None:
    if len(additional_data) > MOST_ADDITIONAL_BYTES:
        raise Invalid(
            "additional_data_too_long", f"{len(additional_data)} bytes of additional data; at most {MOST_ADDITIONAL_BYTES}"
        )


def _refuse_additional(additional_data: bytes) -> None:
    if additional_data:
        raise Invalid("additional_data_not_possible", "RSA encryption binds no additional data; take an AES_256 key for that")


def _data_key_bits(spec: str | None, bits: int | None) -> int:
    if bits is None:
        if spec is not None and spec not in _DATA_KEY_BITS:
            raise Invalid("data_key_spec_unknown", f"{spec}: no such kind of data key; one of " + ", ".join(_DATA_KEY_BITS))
        return 256 if spec is None else _DATA_KEY_BITS[spec]
    if not 8 <= bits <= MOST_BITS:
        raise Invalid("data_key_length_unusable", f"{bits} bits; a data key has 8 to {MOST_BITS}")
    if bits % 8:
        raise Invalid("data_key_length_not_whole", f"{bits} bits; give a multiple of 8")
    return bits


def _purpose(given: bytes) -> int:
    """Return what was encrypted; what is no symmetric ciphertext can only have been data."""
    try:
        return ciphertext.header(given).purpose
    except Invalid:
        return ciphertext.DATA
