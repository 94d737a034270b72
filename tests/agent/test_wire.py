"""The agent's own JSON, held against the standard library's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsagent import wire

ANY_TEXT = st.text() | st.binary().map(lambda some: some.decode("utf-8", "surrogateescape"))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=20)


@given(VALUES)
def test_what_is_encoded_is_what_the_standard_library_reads(value):
    assert json.loads(wire.encode(value)) == value


@given(VALUES, st.booleans())
def test_what_the_standard_library_writes_is_read(value, plain):
    assert wire.decode(json.dumps(value, ensure_ascii=plain, indent=1 if plain else None)) == value


@given(st.text(alphabet='[]{}",:\\u0019eE.+-truefalsn \t\n\x00'))
def test_what_is_no_json_for_the_standard_library_is_none_here(text):
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        with pytest.raises(ValueError, match=r"."):
            wire.decode(text)
    else:
        assert wire.decode(text) == expected


@given(st.binary())
def test_bytes_that_are_no_text_come_back_as_they_were(some):
    text = some.decode("utf-8", "surrogateescape")
    assert wire.decode(wire.encode(text)).encode("utf-8", "surrogateescape") == some


@given(VALUES)
def test_what_is_for_people_is_valid_unicode_and_otherwise_the_same(value):
    shown = wire.readable(value)
    wire.encode(shown).encode("ascii")
    json.dumps(shown, ensure_ascii=False).encode("utf-8")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return
    assert shown == value


@pytest.mark.parametrize(
    ("some", "shown"),
    [(b"f\xfcr alle", r"f\xfcr alle"), ("für alle".encode(), "für alle"), (b"\xff\xfe/\xc3", r"\xff\xfe/\xc3"), (b"", "")],
)
def test_a_byte_that_is_no_text_is_spelled_out(some, shown):
    text = some.decode("utf-8", "surrogateescape")
    assert wire.readable({"places": [(text, 1)], text: None}) == {"places": [[shown, 1]], shown: None}
