"""The line between the controller and a server, which a scenario cuts at the moment that it means."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Self

from tests.drills.fleet.boxes import Box
from tests.fleet.causes import Place

PASSES, SPOILED, HELD = "passes", "spoiled", "held"


class Line:
    """An address of this machine that leads to a box. place: what the controller is told of it.

    Once when() holds, a connection that comes anew is answered by something that is no SSH (spoil), or is held (hold): in the
    middle of an operation that is the one that was to prove the change. Connections that stand are not touched.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self._mode = PASSES
        self._when: Callable[[], bool] = lambda: False
        self._came = threading.Event()
        self._mended = threading.Event()
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.place = Place(box.name, "127.0.0.1", self._listening.getsockname()[1], box.public_host_key)
        threading.Thread(target=self._take, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._mended.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def spoil(self, when: Callable[[], bool]) -> None:
        self._set(SPOILED, when)

    def hold(self, when: Callable[[], bool]) -> None:
        self._set(HELD, when)

    def mend(self) -> None:
        """Let everything pass from now on; what was held is closed."""
        self._mended.set()
        self._mode = PASSES

    @property
    def came(self) -> bool:
        """Whether a connection has come that was spoiled or is held."""
        return self._came.is_set()

    def _set(self, mode: str, when: Callable[[], bool]) -> None:
        self._came.clear()
        self._mended = threading.Event()
        self._when, self._mode = when, mode

    def _take(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        mended = self._mended
        with connection, contextlib.suppress(OSError):
            if self._mode != PASSES and self._when():
                self._came.set()
                if self._mode == SPOILED:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(255)
                else:
                    mended.wait()
                return
            with socket.create_connection((self.box.host, self.box.port)) as there:
                pair = {connection: there, there: connection}
                while not self._ended.is_set():
                    for each in select.select(list(pair), [], [], 0.5)[0]:
                        some = each.recv(65536)
                        if not some:
                            return
                        pair[each].sendall(some)
