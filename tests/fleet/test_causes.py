"""The closed list of causes: each is caused on a real server by a test here, and each is explained as the catalogue says."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from controller.causes import CAUSES

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/causes.md").read_text()
# What has a name of its own is not unexpected; nothing outside a defect of ours causes it.
NOT_TO_BE_CAUSED = {"unexpected"}


def marked(function):
    """The codes that a test is marked with, those of its parameters included."""
    found = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "cause":
            found += mark.args
        elif mark.name == "parametrize":
            found += [inner.args[0] for case in mark.args[1] for inner in getattr(case, "marks", ()) if inner.name == "cause"]
    return found


def caused():
    """Every test that causes something, with the codes."""
    for path in [
        *sorted(HERE.glob("test_causes_*.py")),
        HERE / "test_passwords.py",
        HERE / "test_revoke.py",
        HERE / "test_sdk.py",
    ]:
        for name, function in vars(importlib.import_module(f"tests.fleet.{path.stem}")).items():
            if name.startswith("test_") and (codes := marked(function)):
                yield function, codes


def section(code):
    """What docs/causes.md says under the heading of a code, on one line."""
    found = re.search(rf"^### `{code}`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def test_every_cause_is_caused_on_a_real_server():
    assert {code for _, codes in caused() for code in codes} == set(CAUSES) - NOT_TO_BE_CAUSED


def test_every_test_of_a_cause_says_what_was_told():
    silent = [function.__name__ for function, _ in caused() if "told(" not in inspect.getsource(function)]
    assert silent == []


@pytest.mark.parametrize("code", CAUSES)
def test_a_cause_is_explained_in_the_words_of_the_catalogue(code):
    cause, said = CAUSES[code], section(code)
    assert said.startswith(cause.meaning)
    assert f"**Handling.** {cause.handling} 1. " in said
    assert said.endswith("A retry helps once that is done." if cause.retryable else "A retry does not help: order anew.")


def test_causes_are_explained_in_the_order_of_the_catalogue():
    assert re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE) == list(CAUSES)
