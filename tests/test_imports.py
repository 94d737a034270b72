"""Imports go one way: the rule of docs/design.md, held over the code, and the checker held to catching what breaks it."""

from pathlib import Path

import pytest

from tests.check.imports import complaints

DESIGN = """
    kpsagent:    errors <- keys, sshd <- plan ; all <- __main__
    controller:  values <- store | dispatch <- run <- cli
"""


def test_the_code_imports_only_what_the_design_allows():
    assert complaints() == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("kpsagent/keys.py", "from kpsagent import sshd", "keys must not import sshd"),
        ("kpsagent/errors.py", "import kpsagent.plan", "errors must not import plan"),
        ("kpsagent/errors.py", "from .plan import decide", "errors must not import plan"),
        ("kpsagent/plan.py", "import requests", "nothing but the standard library"),
        ("kpsagent/plan.py", "import controller.model", "nothing but the standard library"),
        ("kpsagent/plan.py", "def decide():\n    import json", "python3-minimal lacks it"),
        ("kpsagent/plan.py", "import re", "where it is used"),
        ("kpsagent/stray.py", "from kpsagent import keys", "does not say where stray belongs"),
        ("controller/model.py", "from controller.store import Store", "values must not import store"),
        ("controller/store/rows.py", "from ..dispatch import ring", "store must not import dispatch"),
        ("controller/run/runner.py", "def later():\n    from controller import cli", "run must not import cli"),
        ("controller/run/runner.py", "import procrastinate", "only dispatch may import procrastinate"),
        ("controller/run/runner.py", "from tests import needs", "does not import tests"),
    ],
)
def test_an_import_against_the_rule_is_named(tmp_path: Path, path, text, complaint):
    _write(tmp_path, path, text)
    found = complaints(tmp_path)
    assert len(found) == 1
    assert complaint in found[0]
    assert found[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kpsagent/plan.py", "import os\nfrom kpsagent import keys\nfrom kpsagent.errors import Stop"),
        ("kpsagent/plan.py", "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from typing import List"),
        ("kpsagent/plan.py", "def decide():\n    import re"),
        ("kpsagent/__main__.py", "from kpsagent import keys, plan, sshd"),
        ("controller/run/runner.py", "from kpsagent import plan\nfrom controller import model, store\nimport asyncssh"),
        ("controller/dispatch/queue.py", "import procrastinate"),
        ("controller/model.py", "from controller.errors import Problem"),
    ],
)
def test_an_import_within_the_rule_passes(tmp_path: Path, path, text):
    _write(tmp_path, path, text)
    assert complaints(tmp_path) == []


def _write(root: Path, path: str, text: str) -> None:
    for name, content in [("docs/design.md", DESIGN), (path, text + "\n")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
