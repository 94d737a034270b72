"""What the OpenAPI documents say is what is answered: a few requests of schemathesis' making for each call."""

from pathlib import Path

from tests.controller.sockets import serving
from tests.drills.fuzz.apis import UNHINDERED, Face, tried

EXAMPLES = 2  # of each call that fit, and as many that do not


def test_no_answer_is_other_than_the_documents_say(tmp_path: Path) -> None:
    with serving(tmp_path / "home", **UNHINDERED) as served:
        tally, misses = tried(Face.of(served), 7, EXAMPLES)
    assert misses == []
    assert tally["calls"] > 100
    assert tally["answers 2xx"] > 100
    assert tally["answers 4xx"] > 100
