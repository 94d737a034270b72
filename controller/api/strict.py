"""JSON as both APIs read it: what two readers could take for two things is refused, and so is what costs more than it says."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

MOST_DIGITS = 19
_LONGEST_NUMBER = 400  # characters of one with a fraction
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(Exception):
    """a body is not read; the message says why, and repeats nothing of it"""


def parsed(body: bytes, *, without_null: bool = False) -> Any:
    """Return the JSON of a body. without_null: as though its members that are null had been left out.

    NotJson: no JSON (RFC 8259, in UTF-8 without a byte order mark), a name twice in one object, NaN or Infinity, a number too
    large or long, a lone surrogate, or nested too deeply.
    """

    def taken(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise NotJson("the body names something twice in one object")
        return {name: value for name, value in pairs if value is not None} if without_null else found

    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=taken, parse_constant=_no_number, parse_int=_whole, parse_float=_fraction)
        if _SURROGATE.search(text):  # half of a character cannot be written again, neither to the store nor in an answer
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise NotJson("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    except UnicodeEncodeError:
        raise NotJson("the body holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    return value


def unfit(headers: Iterable[tuple[bytes, bytes]], *, may_be_silent: bool = False) -> str | None:
    """Say why a body is not read at all, from the headers of its request. may_be_silent: without Content-Type it is JSON."""
    said = [(name.lower(), value.decode("latin-1").strip().lower()) for name, value in headers]
    if any(name == b"content-encoding" and value not in ("", "identity") for name, value in said):
        return "send the body as it is, without Content-Encoding"
    types = [value.partition(";")[0].strip() for name, value in said if name == b"content-type"]
    if (may_be_silent and not types) or types == ["application/json"]:
        return None
    return "send the body with one Content-Type, application/json"


def _no_number(name: str) -> NoReturn:
    raise NotJson("the body holds what is no number of JSON")


def _whole(digits: str) -> int:
    # No more digits than a number that anybody means has: reading a long one takes its square in time.
    if len(digits) > MOST_DIGITS:
        raise NotJson("the body holds a number that is too large")
    return int(digits)


def _fraction(digits: str) -> float:
    found = float(digits) if len(digits) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(found):
        raise NotJson("the body holds a number that is too large")
    return found
