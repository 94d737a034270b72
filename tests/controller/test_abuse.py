"""What nobody sends who means well, over a real socket: each is refused clearly, and nothing comes of it."""

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from controller import bodies, keyfiles, signing
from controller import serving as listening
from controller.admission import HEAD_BYTES
from controller.model import Secret
from tests.controller.sockets import Answered, Headers, Served, read, serving

MEMORY = 96 * 1024 * 1024  # more than at the start, whatever was sent
PUBLIC = keyfiles.generate("ed25519")[0].line()
SCRIPT = "<script>alert(1)</script>"
DEEP = 100_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("abuse") / "home"
    plenty = {f"KPS_{what}_{how}": "1000" for what in ("REQUESTS", "FAILURES") for how in ("PER_SECOND", "AT_ONCE")}
    with serving(home, **plenty) as found:
        assert found.ask("POST", "/fleet/v1/keypairs", b'{"name": "ops"}').status == 201
        assert found.ask("POST", "/fleet/v1/servers", b'{"name": "web-1", "host": "192.0.2.1"}').status == 201
        before, memory = state(found), found.memory()
        yield found
        assert state(found) == before, "something was stored"
        assert found.memory() < memory + MEMORY


def state(served: Served) -> list[Any]:
    """What there is that a caller could have changed."""
    paths = ("keypairs", "servers", "tasks", "users", "access-keys", "tenants", "quotas", "kms/keys", "kms/aliases")
    found = [served.ask("GET", f"/fleet/v1/{each}").json() for each in paths]
    for key in found[4]:
        key.pop("last_used_at")
    return found


def refused(answer: Answered, *statuses: int) -> Any:
    """Hold that this is a clear refusal in one of the two shapes, with its number; return what it says."""
    assert answer.status in (statuses or range(400, 500)), (answer.status, answer.body[:500])
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["cache-control"] == "no-store"
    assert "location" not in answer.headers
    told = answer.json()
    if answer.headers["content-type"] == "application/problem+json":
        assert set(told) == {"type", "status", "code", "detail", "evidence"}
        assert told["status"] == answer.status
    else:
        assert answer.headers["content-type"] == "application/json"
        assert set(told) - {"request_id"} == {"error_code", "error_msg"}
    assert b"Traceback" not in answer.body
    assert b"/controller/" not in answer.body
    return told


def both(served: Served, body: bytes, headers: Headers = ()) -> tuple[Any, Any]:
    """Make a key pair of this body by either API, and return how each refuses."""
    ours = refused(served.ask("POST", "/fleet/v1/keypairs", body, headers), 400, 415, 422)
    theirs = refused(served.ask("POST", f"{served.project}/keypairs", body, headers), 400, 415)
    return ours, theirs


NAMES = (
    "../../etc/passwd", "..", ".", "..;/", "a/b", "/etc/passwd", "a\\b", SCRIPT, "x\r\nSet-Cookie: a=b", "x\ny", "\x00", "a\x00b",
    "\x1b[2J", "\u202eops", "ops ", " ops", "öps", "😀", "", "x" * 256, "x" * 100_000, "%2e%2e", "$(id)",
    "'; DROP TABLE keypairs;--",
    "{{7*7}}", "${jndi:ldap://x}",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_such_name_is_taken_and_none_is_found(served: Served, name: str) -> None:
    made = {"name": name}
    refused(served.ask("POST", "/fleet/v1/keypairs", json.dumps(made).encode()), 400, 422)
    refused(served.ask("POST", f"{served.project}/keypairs", json.dumps({"keypair": made}).encode()), 400)
    refused(served.ask("POST", "/fleet/v1/servers", json.dumps(made | {"host": "192.0.2.1"}).encode()), 400, 422)
    for path in ("/fleet/v1/servers", f"{served.project}/keypairs"):
        refused(served.ask("DELETE", f"{path}/{quote(name[:4000], safe='')}"), 404)
        refused(served.ask("GET", f"{path}/{quote(name[:4000], safe='/;')}"), 404)


def test_several_of_such_names_are_told_each_by_itself(served: Served) -> None:
    batch = [{"keypair": {"name": name, "public_key": PUBLIC}} for name in NAMES[:9]]
    told = served.ask("POST", f"{served.project}/keypairs/batch-import", json.dumps(batch).encode()).json()
    assert told["succeeded_keypairs"] == []
    assert [each["keypair_name"] for each in told["failed_keypairs"]] == list(NAMES[:9])


@pytest.mark.parametrize(
    "path",
    [
        "/fleet/v1/keypairs/ops%2Fexport", "/fleet/v1/keypairs/x%2F..%2Fops", "/fleet/v1/keypairs/x/../ops",
        "/fleet/v1/x/..;/keypairs", "/fleet/v1/keypairs/..;/servers", "/fleet/v1/keypairs/", "/fleet/v1//keypairs",
        "//fleet/v1/keypairs", "/fleet/v1/servers/web-1/", "/fleet/v1/keypairs;x=1", "/fleet/v1/keypairs/%6fps/", "/fleet",
        "/v3/projects/", "/v3/%70rojects/x", "/v3/openapi.json/", "/v4", "/v3.1", "/V3", "/v2.1/x/os-keypairs", "/.git/config",
        "/v3/%7Bproject_id%7D/keypairs", "/v3//keypairs", "/v3/../v3/projects", "/fleet/v1/%c0%ae%c0%ae/keypairs", "/%",
    ],
)  # fmt: skip
def test_no_other_spelling_of_a_path_leads_anywhere(served: Served, path: str) -> None:
    for method in ("GET", "DELETE"):
        refused(served.ask(method, path), 400, 404, 405)
    refused(served.send(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: kps\r\nConnection: close\r\n\r\n"), 401)


def test_a_slash_in_a_name_is_part_of_it(served: Served) -> None:
    told = refused(served.ask("POST", "/fleet/v1/keypairs/ops%2Fexport"), 404, 405)
    assert told["code"] != "private_key_not_kept"
    for path in (f"{served.project}/keypairs/ops%2Fprivate-key", "/fleet/v1/keypairs/ops%2F", "/fleet/v1/servers/web-1%2F"):
        assert refused(served.ask("DELETE", path), 404)


def test_an_empty_name_is_none_and_never_the_list(served: Served) -> None:
    for method in ("GET", "DELETE", "PUT", "POST"):
        refused(served.ask(method, f"{served.project}/keypairs/"), 404)
        refused(served.ask(method, f"{served.project}/failed-tasks/"), 400, 404)


def test_which_versions_there_are(served: Served) -> None:
    listed = served.send(b"GET / HTTP/1.1\r\nHost: kps\r\nConnection: close\r\n\r\n")
    assert (listed.status, [each["id"] for each in listed.json()["versions"]]) == (200, ["v3"])
    assert len(listed.headers["x-request-id"]) == 32
    for path in ("/v3", "/v3/"):
        assert served.ask("GET", path).json()["version"]["status"] == "CURRENT"
        assert refused(served.ask("POST", path), 404)["error_code"] == "APIGW.0101"
    for path in ("/v4", "/v1.0", "/v2/", "/v3.0/"):
        assert refused(served.ask("GET", path), 404)["error_code"] == "APIGW.0101"
    assert refused(served.ask("PATCH", f"{served.project}/keypairs"), 404)["error_code"] == "APIGW.0101"
    assert refused(served.ask("PATCH", "/fleet/v1/keypairs"), 405)["code"] == "method_not_allowed"


def test_script_in_a_description_is_text(served: Served) -> None:
    path = f"{served.project}/keypairs/ops"
    for odd in ("x\r\ny", "a\x00b", "\x1b[2J", "x" * 256, "\u2028"):
        refused(served.ask("PUT", path, json.dumps({"keypair": {"description": odd}}).encode()), 400)
    assert served.ask("PUT", path, json.dumps({"keypair": {"description": SCRIPT}}).encode()).status == 200
    told = served.ask("GET", path)
    assert told.json()["keypair"]["description"] == SCRIPT
    assert (told.headers["content-type"], told.headers["x-content-type-options"]) == ("application/json", "nosniff")
    assert served.ask("PUT", path, b'{"keypair": {"description": ""}}').status == 200


def test_nothing_that_was_sent_comes_back_in_a_header(served: Served) -> None:
    for value in (b"x" * 200, b"a\x0b\x0cb", "ö".encode()):
        told = served.ask("GET", "/v3/projects?name=%0D%0AX-Injected:%20yes", headers=[(b"X-Request-Id", value)])
        if told.status == 200:
            assert "x-injected" not in told.headers
            assert len(told.headers["x-request-id"]) == 32
        else:
            refused(told, 400)
    for name in ("x%0D%0AX-Injected:%20yes", "%0a%0dX-Injected:yes"):
        assert "x-injected" not in served.ask("GET", f"{served.project}/keypairs/{name}").headers
    asked = json.dumps([{"keypair": {"name": 'ops"; filename=x\r\nX-Injected: yes'}}]).encode()
    told = served.ask("POST", f"{served.project}/keypairs/private-key/batch-export", asked)
    refused(told, 404)
    assert "x-injected" not in told.headers


DOCUMENTS = {
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"name":' * DEEP + b"1" + b"}" * DEEP,
    "deep, and never closed": b"[" * DEEP,
    "deep within": b'{"name": "x", "keypair": {"name": ' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "a list": b"[]",
    "text": b'"x"',
    "a number": b"7",
    "nothing": b"null",
    "a name twice": b'{"name": "a", "name": "b", "keypair": {"name": "a", "name": "b"}}',
    "a name twice, once escaped": rb'{"name": "a", "n\u0061me": "b", "keypair": {"name": "a", "n\u0061me": "b"}}',
    "1e400": b'{"name": 1e400, "keypair": {"name": 1e400}}',
    "10^5000": b'{"name": 1' + b"0" * 5000 + b', "keypair": {"name": 1}}',
    "10^500000": b'{"name": 1' + b"0" * 500_000 + b"}",
    "a long fraction": b'{"name": 0.' + b"1" * 500_000 + b', "keypair": {"name": 0.' + b"1" * 5000 + b"}}",
    "NaN": b'{"name": NaN, "keypair": {"name": NaN}}',
    "Infinity": b'{"name": -Infinity, "keypair": {"name": -Infinity}}',
    "half of a character": rb'{"name": "\ud800", "keypair": {"name": "\ud800"}}',
    "half of a character as a name": rb'{"\udfff": 1, "name": "x", "keypair": {"name": "x", "\ud800": 1}}',
    "halves the wrong way round": rb'{"name": "\ude00\ud83d", "keypair": {"name": "\ude00\ud83d"}}',
    "NUL": rb'{"name": "a\u0000", "keypair": {"name": "a\u0000"}}',
    "a bare NUL": b'{"name": "a\x00", "keypair": {"name": "a\x00"}}',
    "overlong UTF-8": b'{"name": "\xc0\xaf", "keypair": {"name": "\xc0\xaf"}}',
    "surrogates in UTF-8": b'{"name": "\xed\xa0\x80", "keypair": {"name": "\xed\xa0\x80"}}',
    "a byte order mark": b'\xef\xbb\xbf{"name": "x", "keypair": {"name": "x"}}',
    "UTF-16": '{"name": "x", "keypair": {"name": "x"}}'.encode("utf-16"),
    "UTF-32": '{"name": "x", "keypair": {"name": "x"}}'.encode("utf-32-le"),
    "two documents": b'{"name": "x"}{"name": "x"}',
    "a comma too many": b'{"name": "x",}',
    "a comment": b'{"name": "x" /* x */}',
    "single quotes": b"{'name': 'x'}",
    "white space": b"   ",
    "wrong types": b'{"name": {"$ne": 1}, "keypair": [{"name": "x"}]}',
    "a list for text": b'{"name": ["x"], "keypair": {"name": ["x"]}}',
    "true for text": b'{"name": true, "keypair": {"name": true}}',
    "many members": b'{"name": "x y"' + b"".join(b',"a%d":1' % n for n in range(50_000)) + b', "keypair": {"name": "x y"}}',
    "a long member": b'{"' + b"a" * 900_000 + b'": 1, "keypair": 1}',
    "a prototype": b'{"__proto__": {"x": 1}, "constructor": 1, "keypair": {"name": "__proto__ "}}',
}


@pytest.mark.parametrize("body", DOCUMENTS.values(), ids=DOCUMENTS)
def test_such_a_body_is_refused(served: Served, body: bytes) -> None:
    for told in both(served, body):
        assert len(json.dumps(told)) < 5000
    refused(served.ask("PATCH", "/fleet/v1/servers/web-1", body), 400, 422)
    refused(served.ask("POST", f"{served.project}/keypairs/associate", body), 400)


JSON = b'{"name": "x", "keypair": {"name": "x"}}'


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (JSON, [(b"Content-Type", b"text/plain")]),
        (JSON, [(b"Content-Type", b"application/x-www-form-urlencoded")]),
        (JSON, [(b"Content-Type", b"multipart/form-data; boundary=x")]),
        (JSON, [(b"Content-Type", b"application/xml")]),
        (JSON, [(b"Content-Type", b"application/json, text/plain")]),
        (JSON, [(b"Content-Type", b"application/json"), (b"Content-Type", b"text/plain")]),
        (JSON, [(b"Content-Type", b"x" * 5000)]),
        (gzip.compress(JSON, mtime=0), [(b"Content-Type", b"application/json"), (b"Content-Encoding", b"gzip")]),
        (JSON, [(b"Content-Type", b"application/json"), (b"Content-Encoding", b"br")]),
    ],
)
def test_a_body_of_another_kind_is_refused(served: Served, body: bytes, headers: Headers) -> None:
    ours, theirs = both(served, body, headers)
    assert (ours["status"], theirs["error_code"]) == (415, "APIGW.0201")


def test_what_is_compressed_and_does_not_say_so_is_refused(served: Served) -> None:
    both(served, gzip.compress(b" " * 10_000_000, mtime=0))


@pytest.mark.parametrize(
    "value", ["-1", "0", "1001", "1e400", "9" * 5000, "NaN", "", "1.5", "٣", "0x10", "1 OR 1=1", "[]", "null"]
)
def test_absurd_paging_is_refused(served: Served, value: str) -> None:
    given = quote(value)
    for path in ("keypairs?limit=", "running-tasks?limit=", "failed-tasks?limit="):
        refused(served.ask("GET", f"{served.project}/{path}{given}"), 400)
    for path in ("audit/events?limit=", "kms/keys?limit="):
        refused(served.ask("GET", f"/fleet/v1/{path}{given}"), 400, 422)
    if value not in ("0", "1001"):
        refused(served.ask("GET", f"{served.project}/running-tasks?offset={given}"), 400)
        refused(served.ask("GET", f"/fleet/v1/kms/keys?offset={given}"), 422)
        refused(served.ask("GET", f"/fleet/v1/events?after={given}"), 422)
    if value not in ("0", "1.5", "-1", "1001"):
        refused(served.ask("GET", f"/fleet/v1/events?wait={given}"), 422)


def test_a_marker_that_is_none_gives_no_first_page_again(served: Served) -> None:
    assert served.ask("GET", f"{served.project}/keypairs?marker=zzz").json()["keypairs"] == []
    refused(served.ask("GET", f"{served.project}/keypairs?marker={'z' * 256}"), 400)
    assert served.ask("GET", f"{served.project}/failed-tasks?offset=2147483648").json()["tasks"] == []


def test_many_parameters_are_either_read_or_refused(served: Served) -> None:
    assert served.ask("GET", "/fleet/v1/servers?" + "&".join("after" for _ in range(10_000))).status == 200
    refused(served.ask("GET", "/fleet/v1/servers?" + "&".join(f"select=a{n}" for n in range(4000))), 422)
    refused(served.send(b"GET /fleet/v1/servers?" + b"a=1&" * 100_000 + b" HTTP/1.1\r\nHost: kps\r\n\r\n"), 400)


def test_a_filter_that_is_not_there_is_refused_and_not_passed_over(served: Served) -> None:
    """Whoever deletes the failed tasks of one server, by a filter that this call does not know, does not delete them all."""
    for method, path in (
        ("DELETE", "/fleet/v1/tasks?id=x"),
        ("GET", "/fleet/v1/servers?nmae=x"),
        ("GET", "/fleet/v1/tenant?a=1"),
    ):
        answer = served.ask(method, path)
        refused(answer, 400)
        assert answer.json()["code"] == "invalid"


HEADS = {
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\nConnection: close\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nX : x\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "a bare CR in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rX-Injected: b\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "control characters in the target": b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length of many digits": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "another transfer coding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "two transfer codings": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "a head that is too long": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 50_000 + b"\r\n",
    "a chunk of no size": b"POST /v3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_what_is_no_request_is_refused_as_every_other(served: Served, head: bytes) -> None:
    refused(served.send(head), 400, 401)


def test_a_request_within_a_request_is_none(served: Served) -> None:
    inner = b"DELETE /fleet/v1/keypairs/ops HTTP/1.1\r\nHost: a\r\n\r\n"
    asked = served.signed("GET", "/fleet/v1/health")
    lines = [name + b": " + value for name, value in [*asked, (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"4")]]
    told = served.send(b"\r\n".join([b"GET /fleet/v1/health HTTP/1.1", *lines, b"", b"0", b"", b""]) + inner, to_the_end=True)
    # With two lengths the one that RFC 9112 has counts; what comes after it is a request of its own, and is not signed.
    assert told.status in (200, 400)
    assert set(re.findall(rb"HTTP/1.1 (\d+)", told.body)) <= {b"401"}


def test_other_forms_of_a_request(served: Served) -> None:
    assert served.ask("GET", "/fleet/v1/keypairs", version=b"1.0").status == 200
    for target in (f"http://127.0.0.1:{served.port}/fleet/v1/keypairs", "http://169.254.169.254/latest", "*", "kps:22"):
        for method in ("GET", "OPTIONS", "CONNECT", "TRACE"):
            refused(served.ask(method, target), 400, 401, 404, 405)


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override"])
def test_the_method_is_the_one_of_the_request(served: Served, name: bytes) -> None:
    assert served.ask("GET", "/fleet/v1/keypairs/ops", headers=[(name, b"DELETE")]).json()["name"] == "ops"
    refused(served.ask("GET", "/fleet/v1/keypairs/ops?_method=DELETE"), 400)
    for path in ("/fleet/v1/keypairs/ops", f"{served.project}/keypairs/ops"):
        refused(served.ask("POST", path, headers=[(name, b"DELETE")]), 404, 405)


@pytest.mark.parametrize("host", [b"[", b"evil.example/x?", b"a\\b", b"x" * 5000, b"kps:99999", b"", b"\xff"])
def test_whatever_the_host_says_nothing_is_made_of_it(served: Served, host: bytes) -> None:
    path = "/fleet/v1/servers/web-9"
    lines = [f"DELETE {path} HTTP/1.1".encode(), b"Connection: close"]
    lines += [name + b": " + value for name, value in elsewhere(served, host, "DELETE", path)]
    told = served.send(b"\r\n".join([*lines, b"", b""]))
    refused(told, 400, 404)


def elsewhere(served: Served, host: bytes, method: str, path: str) -> list[tuple[bytes, bytes]]:
    """Headers of a request that is signed over nothing but its date, with whatever Host."""
    bare = signing.Request(method, path.encode(), b"", [], b"")
    by = signing.sign(bare, served.made["access_key"], Secret(served.made["secret_key"]), datetime.now(UTC))
    return [(b"Host", host), *by]


def head(served: Served, path: str) -> bytes:
    """The head of a request by whom there is, open at its end: nothing is read of what anybody else sends."""
    lines = [f"POST {path} HTTP/1.1".encode(), b"Content-Type: application/json"]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in elsewhere(served, b"kps", "POST", path)), b""])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_is_refused_and_not_kept(served: Served, chunked: bool) -> None:
    how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000000"
    piece = b"x" * 65536
    before = served.memory()
    with served.connected() as wire:
        wire.sendall(head(served, "/fleet/v1/keypairs") + how + b"\r\n\r\n")
        try:
            for _ in range(100_000_000 // len(piece)):
                wire.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        refused(read(wire), 413)
    assert served.memory() < before + 16 * 1024 * 1024


def test_of_a_body_that_nobody_wants_so_much_is_taken_and_the_answer_is_heard(served: Served) -> None:
    piece, sent, most = b"x" * 65536, 0, 400 * 1024 * 1024
    with served.connected() as wire:
        wire.sendall(b"POST /v3/projects HTTP/1.1\r\nHost: kps\r\nContent-Length: 9000000000\r\n\r\n")
        try:
            while sent < most:
                wire.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        refused(read(wire), 401)
    assert listening.UNWANTED_BYTES <= sent < listening.UNWANTED_BYTES + 64 * 1024 * 1024  # with what the kernel holds


def test_a_head_that_comes_whole_is_counted_too(served: Served) -> None:
    for path, open_to_all in ((b"/fleet/v1/health", True), (b"/v3/projects", False), (b"/fleet/v1/keypairs", False)):
        head = b"GET " + path + b" HTTP/1.1\r\nHost: kps\r\nConnection: close\r\nX: "
        assert served.send(head + b"x" * (HEAD_BYTES - 1000) + b"\r\n\r\n").status == (200 if open_to_all else 401)
        for more in (b"x" * HEAD_BYTES, b"x" * (HEAD_BYTES - 3) + b"\r\nY: y"):
            refused(served.send(head + more + b"\r\n\r\n"), 400)
        refused(served.send(head.replace(b" HTTP", b"?" + b"x" * HEAD_BYTES + b" HTTP", 1) + b"\r\n\r\n"), 400)


def test_who_is_slow_is_left(served: Served) -> None:
    """All at the same time, for each waits as long as it may."""
    found: dict[str, Answered | None] = {}

    def slow(name: str, first: bytes, drip: bytes) -> None:
        with served.connected(120) as wire:
            wire.sendall(first)
            wire.settimeout(1)
            until = time.monotonic() + listening.HEAD_SECONDS + bodies.BODY_SECONDS + 30
            data = b""
            while time.monotonic() < until:
                try:
                    wire.sendall(drip)
                    more = wire.recv(65536)
                    if not more:
                        break
                    data += more
                except TimeoutError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    break
            else:
                return  # it is not in found
        top, _, body = data.partition(b"\r\n\r\n")
        lines = [line.partition(":") for line in top.decode().split("\r\n")[1:]]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        found[name] = Answered(int(top.split()[1]), headers, body) if top else None

    start = head(served, "/v3")
    slows = {
        "head": (b"GET / HT", b""),
        "head, header by header": (start, b"X-A: b\r\n"),
        "body": (start + b"Content-Length: 1000\r\n\r\n", b"x"),
        "body that does not come": (start + b"Content-Length: 1000\r\n\r\n", b""),
        "chunks": (start + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    }
    threads = [threading.Thread(target=slow, args=(name, *how)) for name, how in slows.items()]
    for each in threads:
        each.start()
    # Who is quick is served meanwhile.
    assert served.ask("GET", "/fleet/v1/health").status == 200
    for each in threads:
        each.join()
    assert set(found) == set(slows)
    for name, answer in found.items():
        if not name.startswith("head"):
            assert answer is not None, name
            assert refused(answer, 408)["error_code"] == "APIGW.0201"


def test_a_token_a_signature_and_a_key_of_any_size_are_refused(served: Served) -> None:
    for headers in (
        [(b"Authorization", b"SDK-HMAC-SHA256 " + b"x" * 50_000)], [(b"Authorization", b"Basic " + b"x" * 50)],
        [(b"Authorization", b"\xff\xfe")], [(b"X-Auth-Token", b"x" * 50_000)], [(b"X-Auth-Token", b"\x80")],
        [(b"Authorization", b"SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature=" + b"0" * 64)] * 2,
    ):  # fmt: skip
        lines = [b"GET /v3/projects HTTP/1.1", b"Host: kps", b"Connection: close", *[a + b": " + b for a, b in headers], b"", b""]
        refused(served.send(b"\r\n".join(lines)), 401)
