"""What an agent may say, parsed once where it comes in: sizes, types, and nothing that a terminal would obey.

A server that we reach may be hostile; its words are data. See docs/threat-model.md.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from controller.model import PasswordLogin
from kpsagent.errors import Failed

_DEEPEST = 6
_LONGEST_EVIDENCE = 64 << 10
_LONGEST_DETAIL = 1 << 10  # of a phase: every one becomes an event, and events stay


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _cut(text: Any) -> Any:
    return text[:4000] if isinstance(text, str) else text


def _tame(value: Any, depth: int = 0) -> Any:
    """Return JSON data with every text printable; ValueError where it is too deep."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, list):
        return [_tame(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {_printable(name): _tame(each, depth + 1) for name, each in value.items()}
    return value


def _small(value: dict[str, Any], longest: int) -> dict[str, Any]:
    tame: dict[str, Any] = _tame(value)
    if len(json.dumps(tame)) > longest:
        return {"cut": "what the server sent as evidence is too large to keep"}
    return tame


Text = Annotated[str, BeforeValidator(_cut), AfterValidator(_printable)]
Word = Annotated[str, Field(max_length=256), AfterValidator(_printable)]
Data = Annotated[dict[str, Any], AfterValidator(lambda value: _small(value, _LONGEST_EVIDENCE))]
Detail = Annotated[dict[str, Any], AfterValidator(lambda value: _small(value, _LONGEST_DETAIL))]
PublicLine = Annotated[str, Field(max_length=20_000)]
SomePhase = Literal["look", "decide", "widen", "prove", "narrow", "commit", "undo", "done"]


class Hello(BaseModel):
    """The agent runs."""

    say: Literal["hello"]
    boot: Word
    python: Word = ""
    root: bool = False


class Reached(BaseModel):
    """How far it is."""

    say: Literal["phase"]
    phase: SomePhase
    detail: Detail = Field(default_factory=dict)


class Question(BaseModel):
    """A proof that the agent asks for (kpsagent.plan.Question)."""

    way: Literal["key", "password"]
    login: Word
    want: Literal["logged_in", "password_offered", "refused"]
    key: PublicLine | None = None
    known: PublicLine | None = None


class Ask(BaseModel):
    """Questions, and where a login finds the nonce."""

    say: Literal["ask"]
    phase: Literal["widen", "narrow"]
    questions: Annotated[list[Question], Field(max_length=8)]
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]{1,1000}$")]


class Ended(BaseModel):
    """What a server's state file or journal says of an operation."""

    operation: Word = ""
    result: Word = ""
    generation: int = 0


class Result(BaseModel):
    """How it ended."""

    say: Literal["result"]
    status: Literal["succeeded", "unchanged", "failed"]
    server_state: Literal["as_asked", "as_before", "reverted", "partial", "unknown"]
    phase: SomePhase
    cause: Word | None = None
    message: Text = ""
    evidence: Data = Field(default_factory=dict)
    logins: dict[Word, PasswordLogin] = Field(default_factory=dict, max_length=1000)
    closed: bool = False
    armed: list[Word] = Field(default_factory=list, max_length=16)
    remains: list[Text] = Field(default_factory=list, max_length=32)
    leftover: Text = ""
    recovered: Ended | None = None
    last: Ended | None = None


Frame = Hello | Reached | Ask | Result
_ANY: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="say")])


def parse(line: bytes) -> Frame:
    """Return what a line from the agent says; Failed session_disturbed where that is nothing an agent says."""
    try:
        return _ANY.validate_json(line)
    except (ValidationError, RecursionError):
        raise Failed("session_disturbed", "what came from the server is nothing that the agent says") from None
