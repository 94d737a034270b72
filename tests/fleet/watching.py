"""A watch on the file systems of this machine: whatever any process writes to a file is looked through for some words.

fanotify(7): the kernel hands over each file that was written, open, also where its name is gone by then.
"""

import ctypes
import os
import struct
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.needs import lacking

_CLOEXEC, _UNLIMITED = 0x1, 0x10
_ADD, _FILESYSTEM = 0x1, 0x100
_MODIFY, _CLOSE_WRITE, _OVERFLOW = 0x2, 0x8, 0x4000
_EVENT = struct.Struct("=IBBHQii")
_AT_ONCE = 64
_SMALL = 256 * 1024  # what is larger is looked through when it is closed, and not at each write
_LARGEST = 16 * 1024 * 1024  # databases and logs of whatever else this machine does; larger ones are passed over


class Watch:
    """While the block lasts: files counts those that were written, holding names those in which one of the words stood."""

    def __init__(self, places: Sequence[Path], words: Iterable[bytes]) -> None:
        """places: a directory on each file system that is watched, as a whole."""
        self.files = 0
        self.holding: set[str] = set()
        self._words = list(words)
        self._system = ctypes.CDLL(None, use_errno=True)
        self._queue = self._system.fanotify_init(_CLOEXEC | _UNLIMITED, os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE)
        if self._queue < 0:
            lacking(f"fanotify, for root alone: {os.strerror(ctypes.get_errno())}")
        for place in places:
            mask = ctypes.c_uint64(_MODIFY | _CLOSE_WRITE)
            if self._system.fanotify_mark(self._queue, _ADD | _FILESYSTEM, mask, -100, os.fsencode(place)):
                lacking(f"fanotify on the file system of {place}: {os.strerror(ctypes.get_errno())}")
        self._seen: set[tuple[int, ...]] = set()
        self._end = tempfile.NamedTemporaryFile(dir=places[0])  # noqa: SIM115  (written when the watch is to end)
        self._ended = False
        self._thread = threading.Thread(target=self._watch)
        self._failed: Exception | None = None

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # What comes after this in the queue is others' business; on a busy machine it would have no end.
        self._end.write(b"x")
        self._end.flush()
        self._thread.join()
        self._end.close()
        os.close(self._queue)
        if self._failed is not None:
            raise self._failed

    def _watch(self) -> None:
        try:
            self._look()
        except Exception as failed:
            self._failed = failed

    def _look(self) -> None:
        while not self._ended:
            self._take(os.read(self._queue, _AT_ONCE * _EVENT.size))  # each with a file that is open

    def _take(self, events: bytes) -> None:
        while events:
            length, _, _, _, mask, descriptor, _ = _EVENT.unpack_from(events)
            events = events[length:]
            assert not mask & _OVERFLOW
            try:
                found = os.fstat(descriptor)
                state = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
                self._ended |= os.path.samestat(found, os.fstat(self._end.fileno()))
                if state not in self._seen and found.st_size <= (_LARGEST if mask & _CLOSE_WRITE else _SMALL):
                    self._seen.add(state)
                    self._read(descriptor)
            finally:
                os.close(descriptor)

    def _read(self, descriptor: int) -> None:
        self.files += 1
        content, at = b"", 0
        while piece := os.pread(descriptor, 1 << 20, at):
            content, at = content[-4096:] + piece, at + len(piece)
            if any(word in content for word in self._words):
                self.holding.add(os.readlink(f"/proc/self/fd/{descriptor}"))
                return
