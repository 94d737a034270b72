"""JSON is read so that no two readers could take it for two things, and at a cost that its length tells."""

import json

import pytest

from controller.api.strict import MOST_DIGITS, NotJson, parsed, unfit

DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b'{"a": 1, "a": 1}',
        rb'{"a": 1, "\u0061": 1}',
        b"[NaN]", b"[-Infinity]", b"[1e400]", b"[-1e400]", b"[1" + b"0" * MOST_DIGITS + b"]", b"[1" + b"0" * 900_000 + b"]",
        b"[0." + b"1" * 900_000 + b"]", rb'["\ud800"]', rb'["\udc00\ud800"]', rb'{"\ud800": 1}', rb'[[{"a": ["\uDBFF"]}]]',
        b'["\xc0\xaf"]',
        b'["\xed\xa0\x80"]', b"\xef\xbb\xbf[]", "[]".encode("utf-16"), "[]".encode("utf-32-le"), b"[1,]", b"[] []", b"['a']",
        b'["a\x00"]', b'["a\nb"]', b"[01]", b"[+1]", b"[1.]", b"{1: 2}",
    ],
)  # fmt: skip
def test_what_is_refused(body: bytes) -> None:
    with pytest.raises(NotJson) as refused:
        parsed(body)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "value",
    [None, True, 7, -7, 10**18, 1.5, 1e300, "", "a", "ö", "😀", "\x00", "\\ud800", [], {}, [{"a": [1, {"b": "c"}]}], {"a": None}],
)
def test_what_is_read_is_what_was_written(value: object) -> None:
    for ascii_only in (True, False):
        assert parsed(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def test_null_is_absent_where_that_is_asked_for() -> None:
    assert parsed(b'{"a": null, "b": [null, {"c": null}]}', without_null=True) == {"b": [None, {}]}
    with pytest.raises(NotJson):
        parsed(b'{"a": null, "a": null}', without_null=True)


@pytest.mark.parametrize(
    ("headers", "is_fit", "is_fit_if_silent"),
    [
        ([], False, True),
        ([(b"content-type", b"application/json")], True, True),
        ([(b"Content-Type", b"Application/JSON; charset=utf-8")], True, True),
        ([(b"content-type", b"application/json"), (b"content-encoding", b"identity")], True, True),
        ([(b"content-type", b"application/json"), (b"content-encoding", b"gzip")], False, False),
        ([(b"content-type", b"application/json"), (b"content-type", b"application/json")], False, False),
        ([(b"content-type", b"text/plain")], False, False),
        ([(b"content-type", b"application/jsonx")], False, False),
        ([(b"content-type", b"")], False, False),
    ],
)
def test_which_bodies_are_read_at_all(headers: list[tuple[bytes, bytes]], is_fit: bool, is_fit_if_silent: bool) -> None:
    assert (unfit(headers) is None) == is_fit
    assert (unfit(headers, may_be_silent=True) is None) == is_fit_if_silent
