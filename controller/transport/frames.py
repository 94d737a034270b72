"""What an agent may say, parsed once where it comes in: sizes, types, and nothing that a terminal would obey.

A server that we reach may be hostile; its words are data. See docs/threat-model.md.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from controller.model import PasswordLogin
from kpsagent.errors import Failed

_DEEPEST = 6
_LARGEST_NUMBER = 1 << 53  # beyond it, readers of JSON differ: RFC 8259, 6
_LARGEST_TIME = 253_402_300_799  # the last second of the year 9999
_LONGEST_TEXT = 4000
_LONGEST_NAME = 64
_MOST_NAMES = 8
_LONGEST_EVIDENCE = 64 << 10
_LONGEST_DETAIL = 1 << 10  # of a phase: every one becomes an event, and events stay


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def plain(text: str) -> str:
    """Return a sentence as it may be kept and shown: printable, and not too long."""
    return _printable(text[:_LONGEST_TEXT])


def _cut(text: Any) -> Any:
    return text[:_LONGEST_TEXT] if isinstance(text, str) else text


def _tame(value: Any, depth: int = 0) -> Any:
    """Return JSON data with every text printable; ValueError where it is too deep, or holds a number that not everybody reads."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, (list, tuple)):
        return [_tame(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {_printable(name): _tame(each, depth + 1) for name, each in value.items()}
    if isinstance(value, (int, float)) and not abs(value) <= _LARGEST_NUMBER:  # so is what is no number at all
        raise ValueError("a number out of range")
    return value


def small(evidence: dict[str, Any], longest: int = _LONGEST_EVIDENCE) -> dict[str, Any]:
    """Return evidence as it may be kept and shown: texts printable, and what is too large left out and named.

    ValueError for what is no evidence: nested too deeply, or numbers out of range.
    """
    kept: dict[str, Any] = {}
    too_large = []
    left = longest
    for name, value in _tame(evidence).items():
        size = len(json.dumps([name, value]))
        if size <= left:
            kept[name] = value
            left -= size
        else:
            too_large.append(name[:_LONGEST_NAME])
    if too_large:
        kept["cut"] = f"too large to keep: {', '.join(too_large[:_MOST_NAMES])}"
    return kept


Text = Annotated[str, BeforeValidator(_cut), AfterValidator(_printable)]
Word = Annotated[str, Field(max_length=256), AfterValidator(_printable)]
Data = Annotated[dict[str, Any], AfterValidator(small)]
Detail = Annotated[dict[str, Any], AfterValidator(lambda value: small(value, _LONGEST_DETAIL))]
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
    generation: Annotated[int, Field(ge=0, le=_LARGEST_NUMBER)] = 0


class Found(BaseModel):
    """Why a key can't log in, or soon can't (kpsagent.doctor.Finding)."""

    code: Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")]
    kind: Literal["key", "session", "doubt", "warning"]
    message: Text
    path: Annotated[str, Field(max_length=_LONGEST_TEXT), AfterValidator(_printable)] = ""
    line: Annotated[int, Field(ge=0, le=_LARGEST_NUMBER)] = 0
    seen: Detail = Field(default_factory=dict)


class OpenSession(BaseModel):
    """A session that a removed key opened, or may have (kpsagent.host.Session)."""

    pid: Annotated[int, Field(ge=1, le=_LARGEST_NUMBER)]
    since: Annotated[int, Field(ge=0, le=_LARGEST_TIME)]
    source: Word = ""
    used: Literal["yes", "maybe"]


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Written(BaseModel):
    """A file whose text was changed: the SHA-256 of what was there and of what was put there; None where there was nothing."""

    path: Annotated[str, Field(max_length=_LONGEST_TEXT), AfterValidator(_printable)]
    before: Digest | None = None
    after: Digest | None = None


class Door(BaseModel):
    """A door that stands, or the last one that did (kpsagent.doors); seconds since 1970 by the server's clock."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    login: Word
    network: Annotated[str, Field(max_length=64), AfterValidator(_printable)] | None = Field(alias="from")
    opened_at: Annotated[int, Field(ge=0, le=_LARGEST_TIME)]
    deadline: Annotated[int, Field(ge=0, le=_LARGEST_TIME)]
    state: Literal["open", "closed"]
    closed_by: Literal["order", "deadline", "boot", "damage"] | None = None
    watchers: list[Word] = Field(default_factory=list, max_length=16)


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
    findings: list[Found] = Field(default_factory=list, max_length=64)
    repairs: list[Text] = Field(default_factory=list, max_length=64)
    plan: Data = Field(default_factory=dict)
    first: Text = ""
    limits: list[Text] = Field(default_factory=list, max_length=16)
    remains: list[Text] = Field(default_factory=list, max_length=32)
    notes: list[Text] = Field(default_factory=list, max_length=32)
    removed: list[Word] | None = Field(default=None, max_length=1000)
    sessions: list[OpenSession] | None = Field(default=None, max_length=1000)
    ended: list[int] = Field(default_factory=list, max_length=1000)
    leftover: Text = ""
    files: list[Written] = Field(default_factory=list, max_length=256)
    recovered: Ended | None = None
    last: Ended | None = None
    door: Door | None = None


Frame = Hello | Reached | Ask | Result
_ANY: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="say")])


def parse(line: bytes) -> Frame:
    """Return what a line from the agent says; Failed session_disturbed where that is nothing an agent says."""
    try:
        return _ANY.validate_json(line)
    except (ValidationError, RecursionError):
        raise Failed("session_disturbed", "what came from the server is nothing that the agent says") from None
