"""Every kind of event is explained, and none that does not exist."""

import re
from pathlib import Path

from controller import store
from controller.events import KINDS
from controller.service import kms

ROOT = Path(__file__).parents[2]


def test_every_kind_of_event_is_in_the_documents() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", (ROOT / "docs/events.md").read_text(), re.MULTILINE)
    assert dict(explained) == KINDS


def test_every_kind_of_event_is_recorded_by_the_store() -> None:
    # Which step of a master key's life it was, the store is told by the verb.
    parts = [*Path(store.__file__).parent.glob("*.py"), *Path(kms.__file__).parent.glob("*.py")]
    code = "".join(part.read_text() for part in parts)
    assert [kind for kind in KINDS if f'"{kind}"' not in code] == []
