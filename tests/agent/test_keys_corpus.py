"""tests/corpus: ugly real files with what is wanted of them, and what must come of it. A new case is three new files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kpsagent import keys, sshd
from kpsagent.errors import Refused

CORPUS = Path(__file__).parent.parent / "corpus"


def cases(directory: Path) -> list[Any]:
    return [pytest.param(path, id=path.name.removesuffix(".plan.json")) for path in sorted(directory.glob("*.plan.json"))]


def edited(plan: dict[str, Any], text: str) -> str:
    if plan["file"] == "sshd_config":
        sshd.refuse_odd(text, "sshd_config")
        return sshd.with_block(text, [(keyword, value) for keyword, value in plan["settings"]])
    keys.refuse_odd(text, "authorized_keys")
    if "remove" in plan:
        return keys.remove(text, keys.parse(plan["remove"]))
    if "inherit" in plan:
        return keys.inherit(text, keys.parse(plan["old"]), plan["inherit"])
    return keys.add(text, plan["add"])


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("path", cases(CORPUS))
def test_a_file_becomes_what_is_wanted(path: Path) -> None:
    name = str(path).removesuffix(".plan.json")
    plan = json.loads(path.read_text())
    result = edited(plan, read(Path(name + ".in")))
    if os.environ.get("KPS_WRITE_CORPUS"):  # then read the difference before it is committed
        Path(name + ".want").write_bytes(result.encode("utf-8", "surrogateescape"))
    assert result == read(Path(name + ".want"))
    assert edited(plan, result) == result


@pytest.mark.parametrize("path", cases(CORPUS / "refused"))
def test_a_file_or_a_wish_is_refused(path: Path) -> None:
    plan = json.loads(path.read_text())
    with pytest.raises(Refused) as refusal:
        edited(plan, read(Path(str(path).removesuffix(".plan.json") + ".in")))
    assert refusal.value.cause == plan["cause"]
