"""The root key: the one secret that everything else hangs on. A port; here the file it can live in."""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.errors import Damaged, Unavailable
from controller.model import Secret

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class RootKey(Protocol):
    """Wraps the customer master keys. Every implementation runs tests/contracts/test_root_key.py."""

    @property
    def check_value(self) -> str:
        """What tells one root key from another, and nothing else about it."""

    def wrap(self, key: Secret, context: bytes) -> bytes:
        """Return the key wrapped for this context; it says itself how."""

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """Return what was wrapped for this context. Damaged(root_wrap_damaged) for everything else."""


class FileRootKey:
    """A root key in a file of 32 random bytes that only its owner can read.

    It protects what the database alone gives away (a dump, a backup), not against who reads the home as its owner.
    """

    # Says how: this class, AES-256-GCM, then nonce, ciphertext and tag.
    MARK = b"kps-file-gcm-1:"

    def __init__(self, path: Path) -> None:
        """Unavailable: root_key_missing, root_key_exposed (mode or owner), root_key_malformed."""
        key = _read(path)
        self._aead = AESGCM(key)
        self.check_value = hmac.new(key, b"kps root key check value", hashlib.sha256).hexdigest()[:16]
        Secret(key).wipe()

    @classmethod
    def make(cls, path: Path) -> Self:
        """Make the file, unless there is one; it appears whole, is on the disk, and is never replaced.

        Unavailable: root_key_not_written, and what FileRootKey(path) raises.
        """
        try:
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
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        message = f"{path}: there is no root key; put it back from its backup: no other opens what is stored"
        raise Unavailable("root_key_missing", message) from error
    except OSError as error:
        message = f"{path}: {error.strerror}; the root key is a file of its own, readable by its owner"
        raise Unavailable("root_key_exposed", message) from error
    try:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or mode & 0o077:
            raise Unavailable(
                "root_key_exposed",
                f"{path}: mode {mode:04o}, owner {found.st_uid}; it must be a file of user {os.geteuid()}, mode 0600; "
                "others may have read it: make a new home unless you know better",
            )
        if found.st_size != KEY_BYTES:
            raise Unavailable(
                "root_key_malformed", f"{path}: {found.st_size} bytes; a root key has {KEY_BYTES}; restore its backup"
            )
        key = bytearray(KEY_BYTES)
        os.readv(descriptor, [key])
        return key
    finally:
        os.close(descriptor)
