"""What callers of the v3 API send, read with the patience that its clients need and no more.

Contract: numbers may come as text and text as numbers, null means absent, what nobody knows is ignored; a Content-Type says JSON.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, StringConstraints, TypeAdapter, ValidationError

from controller.api.kps.refusals import wrong
from controller.api.problems import found_wrong

T = TypeVar("T")


class Given(BaseModel):
    """What a caller sends. A field that nobody knows is ignored: newer clients send more."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_number(value: Any) -> Any:
    # No more digits than a number that anybody means has: reading a long one takes its square in time.
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18 else value


def _as_switch(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


Text = Annotated[str, StringConstraints(max_length=255), BeforeValidator(_as_text)]
LongText = Annotated[str, StringConstraints(max_length=16 * 1024), BeforeValidator(_as_text)]
KeyText = Annotated[SecretStr, BeforeValidator(_as_text)]
Number = Annotated[int, BeforeValidator(_as_number)]
Switch = Annotated[bool, BeforeValidator(_as_switch)]


def body_as(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """Return a dependency that reads the body of a request as this kind. Refused as KPS.0002 with the place of what is wrong."""
    adapter: TypeAdapter[T] = TypeAdapter(kind)

    async def read(request: Request) -> T:
        value = parsed(await request.body())
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise wrong("; ".join(found_wrong(error.errors(include_input=False))[:8])) from None

    return read


def parsed(body: bytes) -> Any:
    """Return the JSON of a body, without what is null. Refused: no JSON, a name twice, NaN, or too deep."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number, parse_int=_whole)
    except RecursionError:
        raise wrong("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise wrong("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise wrong(f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise wrong("the body names something twice in one object")
    return {name: value for name, value in pairs if value is not None}


def _no_number(name: str) -> NoReturn:
    raise wrong("the body holds what is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > 19:
        raise wrong("the body holds a number that is too large")
    return int(digits)
