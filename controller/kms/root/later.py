"""A root key that is opened at its first use, so that what needs none goes on without it."""

import secrets
import threading
from collections.abc import Callable

from controller.errors import Unavailable
from controller.kms.root.port import KEY_BYTES, RootKey
from controller.model import Secret


class LaterRootKey:
    """Opens the root key when it is used, tries it, and sees that it is the one that is on record.

    expected: its check value, where that is on record. One that does not answer any more is opened anew at the next use.
    """

    def __init__(self, uri: str, open_: Callable[[], RootKey], expected: str | None = None) -> None:
        self.uri = uri
        self._open = open_
        self._expected = expected
        self._opened: RootKey | None = None
        self._one = threading.Lock()

    @property
    def check_value(self) -> str:
        return self._expected or self.opened().check_value

    def wrap(self, key: Secret, context: bytes) -> bytes:
        root = self.opened()
        try:
            return root.wrap(key, context)
        except Unavailable:
            self._opened = None
            raise

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        root = self.opened()
        try:
            return root.unwrap(wrapped, context)
        except Unavailable:
            self._opened = None
            raise

    def opened(self) -> RootKey:
        """Return the root key, open.

        Unavailable: root_key_wrong (another than is on record), root_key_unsound (it does not give back what it wrapped), and
        what opening it raises.
        """
        with self._one:
            if self._opened is None:
                root = self._open()
                if self._expected is not None and root.check_value != self._expected:
                    raise Unavailable(
                        "root_key_wrong",
                        f"{self.uri}: this root key (check value {root.check_value}) is not the one that the master keys are "
                        f"wrapped with ({self._expected}); put that one back",
                    )
                tested(root)
                self._opened = root
            return self._opened


def tested(root: RootKey) -> None:
    """See that a root key gives back what it wraps. Unavailable(root_key_unsound)."""
    tried = Secret(bytearray(secrets.token_bytes(KEY_BYTES)))
    opened = root.unwrap(root.wrap(tried, b"kps self-test"), b"kps self-test")
    if opened != tried:
        raise Unavailable("root_key_unsound", "the root key does not give back what it has wrapped; nothing is done with it")
