"""Servers that are slow, silent, odd or old: each is told for what it is, in time, and is shown no credential."""

import contextlib
import os
import socket
import threading
import time

import pytest

from tests.fleet.causes import Place, listener, reset

GREETING = b"SSH-2.0-OpenSSH_9.2\r\n"
# The time limit of the controller in question, once for the log-in and once for the knock, and what a busy machine adds.
IN_TIME_SECONDS = 2 * 2 + 8


def relay(server, most):
    """An answer that hands on what a real sshd says, and breaks off after so many bytes of it."""

    def answer(connection):
        with socket.create_connection((server.host, server.port)) as there:
            threading.Thread(target=pump, args=(connection, there), daemon=True).start()
            said = 0
            while said < most and (some := there.recv(most - said)):
                connection.sendall(some)
                said += len(some)
        connection.shutdown(socket.SHUT_RDWR)  # closing alone waits for who reads from it

    return answer


def pump(source, sink):
    with contextlib.suppress(OSError):
        while some := source.recv(1 << 16):
            sink.sendall(some)


def endless(some):
    def answer(connection):
        while True:
            connection.sendall(some)

    return answer


def drip(connection):
    """The greeting, a byte at a time, and never all of it."""
    for byte in GREETING[:-2]:
        connection.sendall(bytes([byte]))
        time.sleep(0.5)
    connection.recv(1)
    connection.recv(1 << 16)


def after_greeting(*some):
    def answer(connection):
        connection.sendall(GREETING)
        connection.recv(100)
        for each in some:
            each(connection) if callable(each) else connection.sendall(each)

    return answer


ODD = {
    "drops after the greeting": (after_greeting(), "connection_closed", "login"),
    "resets after the greeting": (after_greeting(reset), "connection_closed", "login"),
    "garbage instead of a key exchange": (after_greeting(os.urandom(4096)), "connection_closed", "login"),
    "garbage without end": (after_greeting(endless(b"\xff" * 65536)), "connection_closed", "login"),
    "garbage from the first byte": (lambda connection: connection.sendall(b"\0\xff" * 4096), "not_ssh", None),
    "a greeting without end": (endless(b"A" * 65536), "not_ssh", None),
    "lines without end": (endless(b"welcome\r\n" * 4096), "not_ssh", None),
    "a greeting a byte at a time": (drip, "connection_timed_out", None),
    "the first version of SSH": (lambda connection: connection.sendall(b"SSH-1.5-old\r\n"), "not_ssh", None),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_behaves_oddly_is_told_in_time(impatient, odd):
    answer, cause, stage = ODD[odd]
    with listener(answer) as place:
        impatient.add(place)
        begun = time.monotonic()
        task = impatient.run("bind", place, keypair=impatient.keypair(), password="never to be sent")
        took = time.monotonic() - begun
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", cause, "as_before")
    assert stage in (None, task["evidence"].get("stage"))
    assert took < IN_TIME_SECONDS


@pytest.mark.parametrize("most", [1, 21, 60, 400, 1200, 1400])
def test_an_sshd_that_drops_in_the_middle_of_the_key_exchange(product, server, most):
    with listener(relay(server, most)) as place:
        product.add(Place(f"{place.name}-{most}", place.host, place.port, server.host_key))
        task = product.run("bind", Place(f"{place.name}-{most}", "", 0), keypair=product.keypair(), password="never to be sent")
    assert (task["status"], task["server_state"]) == ("failed", "as_before")
    assert task["cause"] == "connection_closed"
