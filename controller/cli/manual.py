"""Writes the man page and the shells' completion files: python -m controller.cli.manual DIRECTORY

They are made from the commands themselves, and lie as a prefix has them: man/man1/kps.1 and the like. Source: man(7), mandoc's.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typer._completion_shared import get_completion_script
from typer.main import get_command

from controller.cli import EXAMPLES, app, exits
from controller.cli.command import COMMON

COMPLETIONS = {
    "bash": "bash-completion/completions/kps",
    "zsh": "zsh/site-functions/_kps",
    "fish": "fish/vendor_completions.d/kps.fish",
}
DESCRIPTION = """\
Every command takes --json, --home DIR and --profile NAME, before or after its name. While `kps serve` runs in a home, commands
are carried out by it; otherwise by the command itself. With --profile, KPS_URL or KPS_PROFILE they go to a controller on the
network.

SERVER... takes names of servers, selections as in env=prod, or --all stands in their place; several servers are worked on at the
same time. Tables go to stdout, progress and errors to stderr.

Passwords come from stdin only, and are never tried on a server that they were not given for.
"""
ENVIRONMENT = {
    "KPS_HOME": "The controller's home, where --home is not given.",
    "KPS_PROFILE": "A controller on the network, by its profile, where --profile is not given.",
    "KPS_URL": "A controller on the network, by its address, before KPS_PROFILE.",
}
FILES = {
    "~/.local/share/kps": "The home, where nothing else is said.",
    "/var/lib/kps-controller": "The home of the service that the Debian package brings, and of its user kps.",
    "/var/lib/kps": "On a server: what the agent keeps between operations.",
}


def files() -> dict[str, str]:
    """Return what each file holds, by its path below share."""
    made = {"man/man1/kps.1": "\n".join(_page()) + "\n"}
    for shell, path in COMPLETIONS.items():
        made[path] = get_completion_script(prog_name="kps", complete_var="_KPS_COMPLETE", shell=shell) + "\n"
    return made


def _page() -> Iterator[str]:
    root: Any = get_command(app)
    yield f'.TH KPS 1 "" "kps {version("kps-fleet")}" "User Commands"'
    yield ".SH NAME"
    yield r"kps \- SSH key pairs for fleets of Linux servers"
    yield ".SH SYNOPSIS"
    yield r".B kps"
    yield r"[\fIOPTIONS\fP] \fICOMMAND\fP [\fIARGS\fP]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(f"{root.help}\n\n{DESCRIPTION}")
    yield ".SH OPTIONS"
    yield from _parameters(root.params)
    yield ".SH COMMANDS"
    yield from _commands(root, ["kps"])
    yield ".SH EXIT STATUS"
    yield from _terms({str(code): meaning for code, meaning in exits.MEANING.items()})
    yield ".SH ENVIRONMENT"
    yield from _terms(ENVIRONMENT)
    yield ".SH FILES"
    yield from _terms(FILES)
    yield ".SH EXAMPLES"
    yield from _typed(EXAMPLES)
    yield ".SH SEE ALSO"
    yield r".BR ssh (1),"
    yield r".BR ssh\-keygen (1),"
    yield r".BR sshd (8)"


def _commands(command: Any, words: list[str]) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from _commands(one, [*words, name])
        return
    shown = [one for one in command.params if one.rich_help_panel != COMMON or one.param_type_name == "argument"]
    yield f".SS {_text(' '.join(words))}"
    yield from _paragraphs(command.help)
    yield from _parameters(shown)
    if command.end:
        yield ".PP"
        yield from _paragraphs(command.end)
    yield ".PP"
    yield from _typed(command.examples)


def _parameters(parameters: list[Any]) -> Iterator[str]:
    for one in parameters:
        if one.name in ("install_completion", "show_completion"):  # the files beside this page do that
            continue
        told = str(one.help)
        if one.default not in (None, False) and not one.required and not callable(one.default):
            told += f" Default: {one.default}."
        yield ".TP"
        yield _called(one)
        yield from _paragraphs(told)


def _called(one: Any) -> str:
    if one.param_type_name == "argument":
        return rf"\fI{_text(str(one.metavar))}\fP"
    choices = one.type_descriptor.choices
    kind = one.metavar if one.metavar is not None else "N" if choices is None else "|".join(choices)
    names = ", ".join(rf"\fB{_text(name)}\fP" for name in [*one.opts, *one.secondary_opts])
    # Choices are one long word otherwise, which no line takes.
    kind = _text(kind).replace("|", r"|\:")
    return rf"{names} \fI{kind}\fP" if kind and not getattr(one, "is_flag", False) else names


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, meaning in terms.items():
        yield ".TP"
        yield rf"\fB{_text(term)}\fP"
        yield from _paragraphs(meaning)


def _typed(examples: tuple[str, ...]) -> Iterator[str]:
    yield ".EX"
    yield from (_line(_text(example)) for example in examples)
    yield ".EE"


def _paragraphs(text: str) -> Iterator[str]:
    """Yield running text, a paragraph for each that is there; what stands in `` is bold."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        words = _text(" ".join(paragraph.split()))
        yield _line(re.sub(r"`([^`]*)`", r"\\fB\1\\fP", words))


def _text(text: str) -> str:
    """Return text in which nothing is roff's own: a minus can be copied, as can quotes."""
    text = text.replace("\\", "\\e").replace("-", r"\-").replace("'", r"\(aq").replace("~", r"\(ti").replace("^", r"\(ha")
    return "".join(char if ord(char) < 128 else rf"\[u{ord(char):04X}]" for char in text)


def _line(text: str) -> str:
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    for name, content in files().items():
        place = Path(sys.argv[1], name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
