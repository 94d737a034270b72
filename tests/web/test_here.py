"""What a handling says in commands is named as the console does it: by buttons that there are."""

import re
from pathlib import Path

import pytest

from controller import web
from controller.causes import CAUSES, handling
from controller.web import here as module
from controller.web.failedtasks import _otherwise
from controller.web.here import Buttons, here
from controller.web.orders import OPERATIONS

PAGES = [path.read_text() for path in Path(web.__file__).parent.glob("templates/**/*.html")]
FAILED = Buttons("OTHERWISE", "RETRY")
# What a command does that no page does: it is done where the controller or the server is, or its answer is for a terminal.
ELSEWHERE = {"disk_gone", "secret_changed", "password_off_by_owner", "options_block_proof"}


@pytest.mark.parametrize("code", CAUSES)
def test_what_a_command_does_the_console_names(code: str) -> None:
    told = handling(code)
    if code not in ELSEWHERE and re.search(r"\bkps [a-z]|--[a-z]", told):
        assert here(told, FAILED), told


def test_each_button_that_is_named_is_on_a_page() -> None:
    named = {name for _, words in module._DONE for name in re.findall("\u201c(.+?)\u201d", words)}
    assert len(named) > 5
    missing = [name for name in named if name not in OPERATIONS.values() and not any(f">{name}" in page for page in PAGES)]
    assert missing == []


def test_the_button_of_the_page_itself_is_named_for_what_it_takes() -> None:
    assert here("Wait, then kps task retry ID.", FAILED) == "RETRY asks once more."
    assert here("kps task retry ID --password-stdin", FAILED) == "OTHERWISE takes it."
    for cause, gave in (("wrong_password", False), ("busy", True), ("busy", False)):
        assert _otherwise(cause, gave).startswith("Retry")
    words = here(handling("connection_refused"), Buttons("OTHERWISE", reach="another port"))
    assert words == "OTHERWISE takes another port, and another password or key."
