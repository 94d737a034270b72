"""file: the root key in a file."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.errors import Damaged, Unavailable
from controller.kms.root import owned
from controller.kms.root.port import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from controller.model import Secret


class FileRootKey:
    """A root key in a file of 32 random bytes that only its owner can read.

    It protects what the database alone gives away (a dump, a backup), not against who reads the home as its owner.
    """

    # Says how: this class, AES-256-GCM, then nonce, ciphertext and tag.
    MARK = b"kps-file-gcm-1:"

    def __init__(self, path: Path) -> None:
        """Unavailable: root_key_missing, root_key_exposed (mode or owner), root_key_malformed."""
        self._take(self.read(path))

    @staticmethod
    def read(path: Path) -> Secret:
        """Return what is in the file. Errors: as FileRootKey()."""
        return Secret(_read(path))

    @classmethod
    def of(cls, key: Secret) -> Self:
        """Return the same for a key that comes from elsewhere, as from a backup; the secret is wiped."""
        made = cls.__new__(cls)
        made._take(key)
        return made

    def _take(self, key: Secret) -> None:
        self._aead = AESGCM(key.view())
        own = bytearray(key.view())
        self.check_value = hmac.new(own, b"kps root key check value", hashlib.sha256).hexdigest()[:16]
        Secret(own).wipe()
        key.wipe()

    @classmethod
    def make(cls, path: Path) -> Self:
        """Make the file, unless there is one; it appears whole, is on the disk, and is never replaced.

        Unavailable: root_key_not_written, and what FileRootKey(path) raises.
        """
        try:
            # Where it is given from outside, nothing else may be written beside it.
            if not os.path.lexists(path):
                cls._write(path)
        except OSError as error:
            message = f"{path}: {error.strerror}; a root key must be written there: see the directory's mode, and its disk"
            raise Unavailable("root_key_not_written", message) from error
        return cls(path)

    @staticmethod
    def _write(path: Path) -> None:
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(unfinished, path)
        finally:
            os.unlink(unfinished)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def wrap(self, key: Secret, context: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self.MARK + nonce + self._aead.encrypt(nonce, key.view(), self.MARK + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        start = len(self.MARK)
        if not wrapped.startswith(self.MARK) or len(wrapped) < start + NONCE_BYTES + TAG_BYTES:
            raise Damaged("root_wrap_damaged", "not something that a root key in a file has wrapped")
        nonce, body = wrapped[start : start + NONCE_BYTES], wrapped[start + NONCE_BYTES :]
        key = bytearray(len(body) - TAG_BYTES)
        try:
            self._aead.decrypt_into(nonce, body, self.MARK + context, key)
        except InvalidTag as error:
            message = "the root key does not open this: it was changed, or belongs elsewhere"
            raise Damaged("root_wrap_damaged", message) from error
        return Secret(key)


def _read(path: Path) -> bytearray:
    key = owned.read(path, "root key", "root_key", KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise Unavailable("root_key_malformed", f"{path}: {len(key)} bytes; a root key has {KEY_BYTES}; restore its backup")
    return key
