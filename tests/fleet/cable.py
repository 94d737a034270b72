"""A network between the controller and a server that can be cut without anybody being told."""

import contextlib
import selectors
import socket
import threading

from controller.demo.fleet import Server
from tests.fleet.causes import Place


class Cable:
    """A port of this machine from which a cable leads to a server. While it is cut nothing passes, and nobody is told."""

    def __init__(self, server: Server) -> None:
        self.is_cut = False
        self._server = server
        self._gone = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.place = Place(server.name, "127.0.0.1", self._listening.getsockname()[1], server.host_key)
        threading.Thread(target=self._take, daemon=True).start()

    def __enter__(self) -> "Cable":
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _take(self) -> None:
        while not self._gone.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, connection: socket.socket) -> None:
        with connection, contextlib.ExitStack() as closing:
            try:
                there = closing.enter_context(socket.create_connection((self._server.host, self._server.port)))
            except OSError:
                return  # nobody listens there now
            pair = {connection: there, there: connection}
            ends = closing.enter_context(selectors.DefaultSelector())  # select() takes no descriptor above 1023
            for each in pair:
                ends.register(each, selectors.EVENT_READ)
            while not self.is_cut and not self._gone.is_set():
                for each in [key.fileobj for key, _ in ends.select(0.05)]:
                    assert isinstance(each, socket.socket)
                    try:
                        some = each.recv(65536)
                        pair[each].sendall(some)
                    except OSError:
                        return  # one of the two has ended
                    if not some:
                        return
            self._gone.wait()  # what was cut stays dead when the cable is mended


class Turnstile(Cable):
    """A cable at whose end one connection waits, and has not come to the server yet, until it is let go; all others pass."""

    def __init__(self, server: Server) -> None:
        self.waits = threading.Event()
        self._go = threading.Event()
        self._next = threading.Semaphore(0)
        super().__init__(server)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._go.set()

    def hold(self) -> None:
        """Have the next connection wait; once."""
        self._next.release()

    def let_go(self) -> None:
        self._go.set()

    def _carry(self, connection: socket.socket) -> None:
        if self._next.acquire(blocking=False):
            self.waits.set()
            self._go.wait()
        super()._carry(connection)
