"""Private keys that are given with an order: read once for all the tasks that hold one at the same time."""

import asyncio
import hashlib
from weakref import WeakValueDictionary

from controller.keyfiles import apart
from controller.keyfiles.signing import SigningKey
from controller.model import Secret
from controller.transport.offer import Held


class KeysGiven:
    """Keys in use, by what they were read from. A file is read in a process of its own, which costs more than all else of a task.

    None is kept for later: a key is gone when the last task has let go of it, as if that had been the only one.
    """

    def __init__(self) -> None:
        self._used: WeakValueDictionary[bytes, Held] = WeakValueDictionary()
        self._reading: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def read(self, text: Secret, passphrase: Secret | None) -> Held:
        """Return the key of a file's text, ready to sign. Invalid: what apart.read_private says, to each who asks."""
        mark = _mark(text, passphrase)
        lock = self._reading.setdefault(mark, asyncio.Lock())
        async with lock:
            held = self._used.get(mark)
            if held is None:
                # However weak, it opens the door today: to be replaced, most likely.
                public, stored = await apart.read_private(text, passphrase, allow_weak=True)
                try:
                    held = self._used[mark] = Held(public.line(), SigningKey(public.type, stored))
                finally:
                    stored.wipe()
            return held


def _mark(text: Secret, passphrase: Secret | None) -> bytes:
    """Return what no other file and passphrase have, and which of them nobody can tell."""
    digest = hashlib.sha256(b"%d %d " % (len(text), -1 if passphrase is None else len(passphrase)))
    for part in (text, passphrase):
        if part is not None:
            digest.update(part.view())
    return digest.digest()
