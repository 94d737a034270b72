"""The port: what every root key does, wherever it lives."""

from typing import Protocol

from controller.model import Secret

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class RootKey(Protocol):
    """Wraps the customer master keys. Every implementation runs tests/contracts/test_root_key.py.

    Each verb may also raise Unavailable(root_key_unreachable): what holds the key does not answer, and nothing else is tried.
    """

    @property
    def check_value(self) -> str:
        """What tells one root key from another, and nothing else about it."""

    def wrap(self, key: Secret, context: bytes) -> bytes:
        """Return the key wrapped for this context; it says itself how."""

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """Return what was wrapped for this context. Damaged(root_wrap_damaged) for everything else."""
