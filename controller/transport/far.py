"""A shell program at the far end: commands to it, answers from it. What it sends is a server's word, and bounded."""

import asyncio
import functools
import re
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple, Protocol

import asyncssh

from kpsagent.errors import Lost, Refused

STARTED = b"kps-started"
LONGEST_LINE = 1 << 18
LARGEST_FILE = 1 << 20  # of what is parsed here, and not by a process on the server that costs only the server
_MOST_IN_ALL = 64 << 20
_MOST_NOISE = 1 << 20
_BLOCK = 65536
BLOCKS = LARGEST_FILE // _BLOCK + 1
_HEX = re.compile(rb"[0-9a-f \t]*")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/@:+,=")
_TABLE = {code: chr(code) if code in _PLAIN else f"\\0{code:03o}" for code in range(256)}

# Without single quotes, backslashes and exclamation marks: it passes through the login's own shell.
# What comes before the program is nobody's to run: a password for which sudo did not ask after all.
_LOADER = (
    'echo kps-started; line=; until [ "$line" = kps-program ]; do IFS= read -r line || exit 3; done; '
    'program=$(dd bs=1 count={size} 2>/dev/null); eval "$program"'
)


class Gone(Lost):
    """nothing more is to be had from the far end, and nothing to be told to it"""


class Process(Protocol):
    """What asyncio and asyncssh both call a process."""

    @property
    def stdin(self) -> Any: ...

    @property
    def stdout(self) -> Any: ...


class Answer(NamedTuple):
    """The parts of an answer, and its code."""

    code: int
    parts: list[bytes]

    def text(self, place: int = 0) -> str:
        """One part as text, as files are read: UTF-8, and what is none by surrogateescape."""
        return self.parts[place].decode("utf-8", "surrogateescape") if place < len(self.parts) else ""


@functools.cache
def program() -> bytes:
    """Return the shell program."""
    texts = {name: resources.files("kpsagent").joinpath(f"shell/{name}.sh").read_text("ascii") for name in ("files", "agent")}
    files = _bare(texts["files"]).replace("'", "'\\''")
    return f"files='{files}'\n{_bare(texts['agent'])}".encode("ascii")


def payload() -> bytes:
    """Return what the loader reads."""
    return b"kps-program\n" + program()


def loader() -> str:
    """Return what /bin/sh is given to run, so that it reads payload() and runs that."""
    return _LOADER.format(size=len(program()))


def _bare(text: str) -> str:
    """The text without its comments, which only people read."""
    return "".join(line + "\n" for line in text.split("\n") if line.strip() and not line.strip().startswith("#"))


def word(text: str | None) -> str:
    """Return text as one word of a command; None is a word of its own."""
    return "-" if text is None else "=" + text.encode("utf-8", "surrogateescape").decode("latin-1").translate(_TABLE)


class Far:
    """One shell program that runs, and is asked one thing after the other."""

    def __init__(self, process: Process, marker: str, silence_seconds: float = 30.0) -> None:
        self._process = process
        self._marker = marker.encode("ascii")
        self._silence_seconds = silence_seconds
        self._received = 0

    async def hello(self, passed_over: Callable[[bytes], None] = lambda line: None) -> dict[str, str]:
        """Return what the program says of itself and its server as it begins; whatever comes before goes to passed_over."""
        facts: dict[str, str] = {}
        while "home" not in facts:
            line = await self.line()
            if self._received > _MOST_NOISE:
                raise _nothing_of_ours()
            marker, _, rest = line.partition(b" ")
            if marker == self._marker:
                facts.update(each.partition("=")[::2] for each in rest.decode("ascii", "replace").split())
            else:
                passed_over(line)
        return facts

    async def ask(self, verb: str, *words: str) -> Answer:
        """Give a command and return its answer. Gone where there is none."""
        try:
            self._process.stdin.write(" ".join([verb, *words]).encode("ascii") + b"\n")
        except OSError as error:
            raise lost(str(error)) from None
        parts: list[bytes] = []
        now = bytearray()
        while True:
            line = (await self.line()).rstrip()
            if line.startswith(self._marker):
                kind = line[len(self._marker) :].split()
                if kind == [b","]:
                    parts.append(bytes(now))
                    now.clear()
                elif len(kind) == 2 and kind[0] == b"." and kind[1].isdigit() and not now:
                    return Answer(int(kind[1][:4]), parts)
                else:
                    raise _nothing_of_ours()
            elif _HEX.fullmatch(line):
                now += bytes.fromhex(line.decode("ascii"))
            else:
                raise _nothing_of_ours()

    async def line(self) -> bytes:
        """Return the next line; Gone where there is none, or too much came already."""
        try:
            async with asyncio.timeout(self._silence_seconds):
                line: bytes = await self._process.stdout.readline()
        except TimeoutError:
            raise lost(f"nothing was heard for {self._silence_seconds:.0f} s") from None
        except (asyncssh.Error, OSError, asyncio.LimitOverrunError, ValueError) as error:
            raise lost(str(error)) from None
        if not line.endswith(b"\n"):
            raise lost("")
        self._received += len(line)
        if self._received > _MOST_IN_ALL:
            raise Gone("session_disturbed", "more comes from the server than any agent has to say")
        return line


def _nothing_of_ours() -> Gone:
    return Gone("session_disturbed", "what came from the server is nothing that the agent says")


def lost(why: str) -> Gone:
    told = "".join(letter if letter.isprintable() else " " for letter in why[-300:])
    return Gone("connection_lost", f"the connection ended before the agent said how it went: {told or 'no reason given'}")


def path_word(path: str) -> str:
    """Return a path as one word. Refused where it holds what no line of a shell's output can."""
    if any(letter < " " or letter == "\x7f" for letter in path) or not path.startswith("/"):
        raise Refused("path_unsafe", f"{path!r}: a path like this is not touched without Python on the server", path=path)
    return word(path)
