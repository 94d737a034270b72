"""The client that the Ansible collection brings: signs as is documented, and takes nothing from whoever is not the controller."""

import contextlib
import http.server
import importlib
import json
import ssl
import sys
import threading
from pathlib import Path

import pytest

from controller.service.certificate import ensure

ROOT = Path(__file__).parents[2]
ACCESS_KEY = "KPSDEMOACCESSKEY0001"
SECRET_KEY = "demo-secret-key-for-test-vectors-only-01"
PROJECT = "9f86d081884c4d63a1b2c3d4e5f60718"
COMMON = {
    "User-Agent": "demo-client/1.0",
    "X-Project-Id": PROJECT,
    "X-Sdk-Date": "20260102T030405Z",
    "Host": "127.0.0.1:8443",
}


@pytest.fixture(scope="module")
def utils(tmp_path_factory):
    """The collection's modules by the names that Ansible gives them."""
    place = tmp_path_factory.mktemp("collections")
    (place / "ansible_collections/kps").mkdir(parents=True)
    (place / "ansible_collections/kps/fleet").symlink_to(ROOT / "ansible")
    sys.path.insert(0, str(place))
    yield lambda name: importlib.import_module(f"ansible_collections.kps.fleet.plugins.module_utils.{name}")
    sys.path.remove(str(place))


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "signature"),
    [
        (
            "POST",
            f"/v3/{PROJECT}/keypairs",
            {"Content-Type": "application/json;charset=utf-8"},
            b'{"keypair": {"name": "demo-key_1"}}',
            "c4fef15c33b0f8d0c21f3997a9dade8feed2c497e5a69499124b95b2ef33589e",
        ),
        (
            "GET",
            f"/v3/{PROJECT}/keypairs?marker=a%20b%2Fc%2Bd~e&limit=2",
            {"Content-Type": "application/json", "X-Security-Token": "TESTTOKEN=="},
            b"",
            "fb0d27db0d77088e89917ed8b23f5a004efe36306f59599caaed74ccc17e1354",
        ),
        (
            "DELETE",
            f"/v1.0/{PROJECT}/kms/0d0466b0-e727-4d9c-b35d-f84bb474a37f/tags/dept%2Fx%20y",
            {"Content-Type": "application/json"},
            b"",
            "26358df93caa2a21e88629d35c1e7ae34446cb771c51e0be2934e9d78487c055",
        ),
    ],
)
def test_a_request_is_signed_as_the_documented_vectors_are(utils, method, target, headers, body, signature):
    found = utils("signing").authorization(method, target, COMMON | headers, body, ACCESS_KEY, SECRET_KEY)
    names = ";".join(sorted(name.lower() for name in COMMON | headers))
    assert found == f"SDK-HMAC-SHA256 Access={ACCESS_KEY}, SignedHeaders={names}, Signature={signature}"


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every request with what its server is told to."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            for piece in body:
                self.wfile.write(piece)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def stub(tmp_path):
    """Somebody who answers over TLS; stub.answer is what, stub.seen what came."""
    ensure(tmp_path / "a.crt", tmp_path / "a.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "a.crt", tmp_path / "a.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.seen, server.answer = [], (200, {}, [b"[]"])
    server.certificate = tmp_path / "a.crt"
    server.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fingerprint_of(certificate):
    from hashlib import sha256

    return sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def refused(work):
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- its type is known once the collection is loaded
        work()
    assert type(caught.value).__name__ == "Refused", caught.value
    return caught.value


def test_a_certificate_is_judged_before_anything_is_sent(utils, stub, tmp_path):
    controller = utils("controller").Controller
    right = fingerprint_of(stub.certificate)
    assert controller(stub.url, "A", "s", fingerprint=right).ask("GET", "/servers") == []
    assert controller(stub.url, "A", "s", ca_certificate=str(stub.certificate)).ask("GET", "/servers") == []
    seen = len(stub.seen)
    ensure(tmp_path / "b.crt", tmp_path / "b.key")
    for how in ({"fingerprint": fingerprint_of(tmp_path / "b.crt")}, {"ca_certificate": str(tmp_path / "b.crt")}, {}):
        assert (
            refused(lambda how=how: controller(stub.url, "A", "s", **how).ask("GET", "/servers")).code
            == "certificate_not_trusted"
        )
    assert len(stub.seen) == seen


def test_a_redirect_is_not_followed_and_an_answer_has_an_end(utils, stub, monkeypatch):
    module = utils("controller")
    controller = module.Controller(stub.url, "A", "s", fingerprint=fingerprint_of(stub.certificate))
    stub.answer = (302, {"Location": f"{stub.url}/elsewhere"}, [b""])
    assert (refused(lambda: controller.ask("GET", "/servers")).status, len(stub.seen)) == (302, 1)
    monkeypatch.setattr(module, "ANSWER_BYTES", 1000)
    stub.answer = (200, {}, [b"x" * 1001])
    assert refused(lambda: controller.ask("GET", "/servers")).code == "answer_too_large"
    stub.answer = (200, {}, [b"no JSON"])
    assert refused(lambda: controller.ask("GET", "/servers")).code == "unexpected"
    large = {"labels": "x" * module.REQUEST_BYTES}
    assert refused(lambda: controller.ask("POST", "/servers", body=large)).code == "request_too_large"
    problem = {"code": "no", "detail": "web-1: no", "evidence": {"a": 1}}
    stub.answer = (409, {}, [json.dumps(problem).encode()])
    found = refused(lambda: controller.ask("GET", "/servers"))
    assert (found.code, found.message, found.evidence, found.status) == ("no", "web-1: no", {"a": 1}, 409)


def test_an_answer_that_trickles_or_never_comes_is_given_up(utils, stub):
    module = utils("controller")
    controller = module.Controller(stub.url, "A", "s", fingerprint=fingerprint_of(stub.certificate), timeout=0.3)
    going = threading.Event()

    def slowly():
        while not going.wait(0.1):
            yield b" "

    stub.answer = (200, {}, slowly())
    try:
        # Not a question, so that it is asked once.
        assert refused(lambda: controller._sent("GET", "/servers", (), None, 0)).code == "controller_unreachable"
    finally:
        going.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://controller.example:80",
        "https://user:word@controller.example",
        "ftp://controller.example",
        "https://c.example/x",
        "c",
    ],
)
def test_no_request_goes_where_others_listen_in(utils, url):
    assert refused(lambda: utils("controller").Controller(url, "A", "s")).code == "url_unusable"
