"""A recording of the command line: what a terminal shows is kept as it was, and drawn so that nothing of it is lost."""

import os
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as xml

from scripts.recording.svg import FRAME_SECONDS, drawn, frames
from scripts.recording.terminal import Recording

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 300_000


def test_a_command_is_typed_and_run_at_a_terminal(tmp_path: Path) -> None:
    recording = Recording(40, 5)
    ended = recording.run(
        "test -t 1 && tput cols && printf '\\033[31mgr\\303\\274n\\033[0m\\n'; exit 3", dict(os.environ), tmp_path
    )
    assert ended == 3
    (*_, (_, last)) = frames(recording, 1.0)
    words = ["".join(letters for _, letters, _, _ in row) for row in last]
    assert words[2:4] == ["40", "grün"]
    assert last[3][0][2] != last[2][0][2]  # in another colour
    recording.write(tmp_path / "it.cast")
    again = Recording.read(tmp_path / "it.cast")
    assert "".join(text for _, text in again.shown) == "".join(text for _, text in recording.shown)


def test_screens_come_one_after_the_other_and_the_last_one_is_there() -> None:
    recording = Recording(20, 2, [(0.0, "one"), (0.01, " two"), (10.0, "\r\x1b[2K3 < 4 & 5"), (20.0, "\x1b[0m")])
    found = frames(recording, 2.0)
    assert [at for at, _ in found] == [0.0, 5.0]
    assert all(later - sooner >= FRAME_SECONDS for (sooner, _), (later, _) in pairwise(found))
    picture = xml.fromstring(drawn(recording, "a < b", 2.0))  # noqa: S314 - our own
    lines = ["".join(line.itertext()) for line in picture.iter(f"{SVG}text")]
    assert sorted(lines) == ["3<4&5", "a < b", "onetwo"]
    assert len(list(picture.iter(f"{SVG}use"))) == 2


def test_the_recordings_in_the_documents_are_small_and_say_nothing_of_where_they_were_made() -> None:
    found = [path for path in (ROOT / "docs").glob("*.svg") if path.with_suffix(".cast").exists()]
    assert found
    for path in found:
        text = path.read_text()
        assert len(text) < MOST_BYTES
        picture = xml.fromstring(text)  # noqa: S314 - our own
        words = "".join("".join(line.itertext()) for line in picture.iter(f"{SVG}text"))
        shown = words + "".join(text for _, text in Recording.read(path.with_suffix(".cast")).shown)
        assert not re.search(r"/(tmp|root|home|work)\b|Traceback", shown)
