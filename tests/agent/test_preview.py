"""The diff of a plan, and the options of a key's line: what they say, against the programs that have the last word."""

import subprocess
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from kpsagent.preview import diff

LINES = st.lists(st.sampled_from(["a", "b", "c", "ssh-ed25519 AAAA", "", "# x"]), max_size=14)


def patched(text, told):
    """What patch(1) makes of text by a diff."""
    with tempfile.NamedTemporaryFile("w") as old:
        old.write(text)
        old.flush()
        command = ["patch", "--silent", "--output=-", old.name]
        return subprocess.run(command, input=told, check=True, capture_output=True, text=True).stdout


@given(LINES, LINES, LINES, st.booleans(), st.booleans())
def test_a_diff_is_what_patch_makes_the_one_from_the_other_by(before, put_in, after, ended, still_ended):
    old = "\n".join([*before, *after]) + ("\n" if ended else "")
    new = "\n".join([*before, *put_in, *after[1:]]) + ("\n" if still_ended else "")
    told = diff("/f", old, new)
    assert (told == "") == (old == new)
    assert not told or patched(old, told) == new


def test_a_file_that_is_made_is_told_from_one_that_was_empty():
    assert diff("/f", None, "a\n").split("\n")[:3] == ["--- /dev/null", "+++ /f", "@@ -0,0 +1 @@"]
    assert diff("/f", "", "a\n").split("\n")[0] == "--- /f"


def test_far_places_of_a_long_file_are_told_apart():
    lines = [f"line {number}" for number in range(1000)]
    changed = [*lines[:5], "new", *lines[5:990], *lines[991:]]
    told = diff("/f", "\n".join(lines) + "\n", "\n".join(changed) + "\n")
    assert told.count("@@ -") == 2
    assert len(told.split("\n")) < 25
