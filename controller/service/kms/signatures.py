"""Signatures and message authentication codes by customer master keys."""

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.kms import keys, mac, material, signing
from controller.model import Caller, MasterKey
from controller.service.kms.using import Using


class Signatures(Using):
    """The master keys of a caller's tenant that sign, verify, and make codes. Refusals: see KeyUses."""

    async def sign(
        self, who: Caller, name: str, message: bytes, algorithm: str, *, digested: bool = True
    ) -> tuple[MasterKey, bytes]:
        """Sign a digest, or a message of up to 4096 bytes. Invalid: digest_length_wrong, message_too_long, by the key's kind."""
        return await self._off(self._sign, who, name, message, algorithm, digested)

    async def verify(
        self, who: Caller, name: str, message: bytes, signature: bytes, algorithm: str, *, digested: bool = True
    ) -> tuple[MasterKey, bool]:
        """Say whether this is the key's signature of a digest or message. As sign()."""
        return await self._off(self._verify, who, name, message, signature, algorithm, digested)

    async def public_key(self, who: Caller, name: str) -> tuple[MasterKey, str]:
        """Return the public half as PEM, for whoever encrypts or verifies without us."""
        return await self._off(self._public_key, who, name)

    async def code(self, who: Caller, name: str, message: bytes, algorithm: str) -> tuple[MasterKey, bytes]:
        """Return the message authentication code of 1 to 4096 bytes. Invalid: message_length_wrong, by the key's kind."""
        return await self._off(self._code, who, name, message, algorithm)

    async def verify_code(self, who: Caller, name: str, message: bytes, given: bytes, algorithm: str) -> tuple[MasterKey, bool]:
        """Say whether a code is that of the message. As code()."""
        return await self._off(self._verify_code, who, name, message, given, algorithm)

    # -- the work

    def _sign(self, who: Caller, name: str, message: bytes, algorithm: str, digested: bool) -> tuple[MasterKey, bytes]:
        key, grant = self._usable(who, name, "sign")
        keys.for_signing(key, algorithm)
        signing.check_message(message, algorithm, digested)
        opened = self._kms.material(key, self._kms.version(key))
        try:
            made = signing.sign(material.private_key(opened), message, algorithm, digested)
        finally:
            opened.wipe()
        self._record(who, key, "sign", key.version, grant)
        return key, made

    def _verify(
        self, who: Caller, name: str, message: bytes, signature: bytes, algorithm: str, digested: bool
    ) -> tuple[MasterKey, bool]:
        key, _ = self._usable(who, name, "verify")
        keys.for_signing(key, algorithm)
        return key, signing.verify(self._public(key), message, signature, algorithm, digested)

    def _public_key(self, who: Caller, name: str) -> tuple[MasterKey, str]:
        key = self._seen(who, name)
        keys.refuse_unless_enabled(key, self._now())
        keys.for_public_key(key)
        return key, self._public(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")

    def _code(self, who: Caller, name: str, message: bytes, algorithm: str) -> tuple[MasterKey, bytes]:
        key, grant = self._usable(who, name, "make_code")
        keys.for_codes(key, algorithm)
        opened = self._kms.material(key, self._kms.version(key))
        try:
            made = mac.code(opened, message, algorithm)
        finally:
            opened.wipe()
        self._record(who, key, "make_code", key.version, grant)
        return key, made

    def _verify_code(self, who: Caller, name: str, message: bytes, given: bytes, algorithm: str) -> tuple[MasterKey, bool]:
        key, grant = self._usable(who, name, "verify_code")
        keys.for_codes(key, algorithm)
        opened = self._kms.material(key, self._kms.version(key))
        try:
            good = mac.verify(opened, message, given, algorithm)
        finally:
            opened.wipe()
        self._record(who, key, "verify_code", key.version, grant)
        return key, good
