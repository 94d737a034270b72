"""What callers of the v3 API send, read with the patience that its clients need and no more.

Contract: numbers may come as text and text as numbers, null means absent, what nobody knows is ignored; a Content-Type says
JSON, if there is one.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, StringConstraints, TypeAdapter, ValidationError

from controller.api.kps.refusals import Refusal, wrong
from controller.api.problems import MOST_TOLD, found_wrong
from controller.api.strict import NotJson, parsed, unfit

T = TypeVar("T")


class Given(BaseModel):
    """What a caller sends. A field that nobody knows is ignored: newer clients send more."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_number(value: Any) -> Any:
    if isinstance(value, bool):
        return None  # true is no 1
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
        refused = unfit(request.headers.raw, may_be_silent=True)
        if refused is not None:
            raise Refusal(415, "APIGW.0201", refused)
        try:
            value = parsed(await request.body(), without_null=True)
        except NotJson as error:
            raise wrong(str(error)) from None
        return _read(adapter, value)

    return read


def element_as(kind: type[T], value: Any) -> T:
    """Return one element of a batch as this kind. Refused as a body of its own would be."""
    return _read(TypeAdapter(kind), value)


def _read(adapter: TypeAdapter[T], value: Any) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise wrong("; ".join(found_wrong(error.errors(include_input=False))[:MOST_TOLD])) from None


def text_in(value: Any, *path: str) -> str:
    """Return what stands at a place of an element that may be wrong in any way, as text; "" where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    text = _as_text(value)
    return text[:255] if isinstance(text, str) else ""
