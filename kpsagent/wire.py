"""JSON (RFC 8259) for where Python has no json module: Debian's python3-minimal is without it.

Small and strict; held against the standard library's by property tests. Text that came from bytes by surrogateescape survives.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

_DEEPEST = 100
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = {ord(letter): "\\" + short for short, letter in _SHORT.items() if short != "/"}
_ESCAPED.update({code: "\\u{:04x}".format(code) for code in range(32) if code not in _ESCAPED})
_WORDS = (("true", True), ("false", False), ("null", None))
_SPACE = " \t\r\n"


def encode(value: "Any") -> str:
    """Return value as JSON in ASCII, on one line. ValueError for what JSON has no word for."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _encode_text(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float) and value - value == 0:
        return float.__repr__(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ",".join(encode(each) for each in value) + "]"
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return "{" + ",".join(_encode_text(name) + ":" + encode(each) for name, each in value.items()) + "}"
    raise ValueError("JSON has no word for a {}".format(type(value).__name__))


def _encode_text(text: str) -> str:
    text = text.translate(_ESCAPED)
    try:
        text.encode("ascii")
    except UnicodeEncodeError:
        text = "".join(letter if ord(letter) < 128 else _units(ord(letter)) for letter in text)
    return '"' + text + '"'


def _units(code: int) -> str:
    if code < 0x10000:
        return "\\u{:04x}".format(code)
    code -= 0x10000
    return "\\u{:04x}\\u{:04x}".format(0xD800 | code >> 10, 0xDC00 | code & 0x3FF)


def readable(value: "Any") -> "Any":
    """Return value with each byte that was no text spelled out (\\xfc): what people read must be valid Unicode (RFC 8259, 8.1).

    What is to be written back has to keep such bytes: it is never made readable.
    """
    if isinstance(value, str):
        return "".join(_spelled_out(letter) if "\ud800" <= letter <= "\udfff" else letter for letter in value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [readable(each) for each in value]
    if isinstance(value, dict):
        return {readable(name): readable(each) for name, each in value.items()}
    return value


def _spelled_out(letter: str) -> str:
    code = ord(letter)
    return "\\x{:02x}".format(code - 0xDC00) if 0xDC80 <= code < 0xDD00 else "\\u{:04x}".format(code)


def decode(text: str) -> "Any":
    """Return the value that this JSON text says; ValueError where it is not JSON, or nested deeper than is sane."""
    value, place = _value(text, _past_space(text, 0), 0)
    if _past_space(text, place) != len(text):
        raise ValueError("something follows at {}".format(place))
    return value


def _past_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _value(text: str, place: int, depth: int) -> "Tuple[Any, int]":
    first = text[place : place + 1]
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if first == '"':
        return _text(text, place + 1)
    if first == "{":
        return _object(text, place, depth)
    if first == "[":
        return _array(text, place, depth)
    for word, value in _WORDS:
        if text.startswith(word, place):
            return value, place + len(word)
    return _number(text, place)


def _text(text: str, place: int) -> "Tuple[str, int]":
    parts = []  # type: List[str]
    while True:
        end = text.find('"', place)
        if end < 0:
            raise ValueError("text without an end")
        backslash = text.find("\\", place, end)
        plain = text[place : end if backslash < 0 else backslash]
        if any(letter < " " for letter in plain):
            raise ValueError("a bare control character in a text")
        parts.append(plain)
        if backslash < 0:
            return "".join(parts), end + 1
        letter, place = _escape(text, backslash + 1)
        parts.append(letter)


def _escape(text: str, place: int) -> "Tuple[str, int]":
    letter = text[place : place + 1]
    if letter in _SHORT:
        return _SHORT[letter], place + 1
    if letter != "u":
        raise ValueError("a backslash before {!r}".format(letter))
    code, place = _hexadecimal(text, place + 1)
    if 0xD800 <= code < 0xDC00 and text.startswith("\\u", place):
        low, after = _hexadecimal(text, place + 2)
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + ((code & 0x3FF) << 10 | low & 0x3FF)), after
    return chr(code), place


def _hexadecimal(text: str, place: int) -> "Tuple[int, int]":
    digits = text[place : place + 4]
    if len(digits) != 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError("four hexadecimal digits are missing at {}".format(place))
    return int(digits, 16), place + 4


def _array(text: str, place: int, depth: int) -> "Tuple[List[Any], int]":
    found = []  # type: List[Any]
    place = _past_space(text, place + 1)
    if text[place : place + 1] == "]":
        return found, place + 1
    while True:
        value, place = _value(text, _past_space(text, place), depth + 1)
        found.append(value)
        more, place = _comma(text, place, "]")
        if not more:
            return found, place


def _object(text: str, place: int, depth: int) -> "Tuple[Dict[str, Any], int]":
    found = {}  # type: Dict[str, Any]
    place = _past_space(text, place + 1)
    if text[place : place + 1] == "}":
        return found, place + 1
    while True:
        place = _past_space(text, place)
        if text[place : place + 1] != '"':
            raise ValueError("a name is missing at {}".format(place))
        name, place = _text(text, place + 1)
        place = _past_space(text, place)
        if text[place : place + 1] != ":":
            raise ValueError("a colon is missing at {}".format(place))
        found[name], place = _value(text, _past_space(text, place + 1), depth + 1)
        more, place = _comma(text, place, "}")
        if not more:
            return found, place


def _comma(text: str, place: int, end: str) -> "Tuple[bool, int]":
    place = _past_space(text, place)
    letter = text[place : place + 1]
    if letter not in (",", end):
        raise ValueError("a comma or {} is missing at {}".format(end, place))
    return letter == ",", place + 1


def _number(text: str, place: int) -> "Tuple[Any, int]":
    end = place
    while end < len(text) and text[end] in "+-.0123456789eE":
        end += 1
    word = text[place:end]
    digits = word[1:] if word.startswith("-") else word
    whole = digits.split("e")[0].split("E")[0].split(".")[0]
    if not whole.isdigit() or (whole != "0" and whole.startswith("0")) or len(word) > 400:
        raise ValueError("no value at {}".format(place))
    if whole == digits:
        return int(word), end
    if digits[len(whole)] == "." and not digits[len(whole) + 1 : len(whole) + 2].isdigit():
        raise ValueError("no digit after the point at {}".format(place))
    return float(word), end
