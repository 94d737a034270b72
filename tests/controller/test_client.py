"""The client: where it sends nothing, what it asks again, and what it makes of answers."""

import socket
import ssl
import threading
from pathlib import Path

import httpx
import pytest

from controller.client import KpsClient, NotTrusted, Refused, Remote, Unreachable, call
from controller.client.remote import fingerprint, usable
from controller.errors import Invalid
from controller.model import Secret
from tests.controller.remotely import SECONDS, another_certificate


@pytest.mark.parametrize(
    ("url", "usable_as"),
    [
        ("https://kps.example.com:8443/", "https://kps.example.com:8443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://kps.example.com", None),
        ("http://127.0.0.1.example.com", None),
        ("http://192.0.2.1:8080", None),
        ("https://user:hunter2@kps.example.com", None),
        ("https://kps.example.com/fleet/v1", None),
        ("https://kps.example.com/?a=b", None),
        ("https://kps.example.com:99999", None),
        ("ftp://kps.example.com", None),
        ("kps.example.com:8443", None),
        ("", None),
    ],
)
def test_requests_go_where_nobody_listens_in(url: str, usable_as: str | None) -> None:
    if usable_as is not None:
        assert usable(url) == usable_as
        return
    with pytest.raises(Invalid) as refused:
        usable(url)
    assert refused.value.code == "url_unusable"
    assert "hunter2" not in refused.value.message


def test_a_fingerprint_is_read_as_it_is_printed() -> None:
    plain = "5a5f" * 16
    assert fingerprint(plain) == fingerprint(":".join(["5A", "5F"] * 16)) == ":".join(["5A", "5F"] * 16)
    for wrong in ("", plain[:-2], plain + "00", "zz" * 32):
        with pytest.raises(Invalid):
            fingerprint(wrong)


def test_only_questions_are_asked_again() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if asked.count(request.method) < 3:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(200, json=[])

    with KpsClient(httpx.Client(transport=httpx.MockTransport(answer), base_url="http://kps")) as kps:
        assert kps.servers() == []
        with pytest.raises(Unreachable):
            kps.start({"operation": "bind"})
    assert asked == ["GET", "GET", "GET", "POST"]


def test_what_came_too_soon_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "TOO_MANY_SECONDS", 0.0)
    left = [429, 429]

    def answer(request: httpx.Request) -> httpx.Response:
        return (
            httpx.Response(left.pop(), json={"code": "too_many_requests", "detail": "later"})
            if left
            else httpx.Response(202, json=[])
        )

    with KpsClient(httpx.Client(transport=httpx.MockTransport(answer), base_url="http://kps")) as kps:
        assert kps.start({"operation": "bind"}) == []
        left += [429] * 100
        with pytest.raises(Refused) as refused:
            kps.start({"operation": "bind"})
    assert refused.value.code == "too_many_requests"
    assert len(left) == 100 - call.TOO_MANY_TIMES - 1


def test_nothing_is_sent_to_a_stranger(tmp_path: Path) -> None:
    """The stranger has a certificate of its own, and notes every byte that comes once TLS stands."""
    certificate = another_certificate(tmp_path)
    heard: list[bytes] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, tmp_path / "another.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as speaking:
                        heard.append(speaking.recv(65536))
                except OSError:
                    heard.append(b"")

        thread = threading.Thread(target=listen)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        remote = Remote(url, "AK", Secret("sk"), fingerprint="00" * 32)
        with KpsClient.over_network(remote) as kps, pytest.raises(NotTrusted, match="fingerprint"):
            kps.import_keypair({"name": "x", "private_key": "very secret"})
        thread.join(SECONDS)
    assert heard == [b""]
