"""10,000 hostile authorized_keys files: what must stay stays, what must go goes; a real sshd judges a sample."""

import random
from collections import Counter
from collections.abc import Callable, Iterator

import hostile_keys
import hypothesis
import hypothesis.strategies as st
import judge
import naive
import pytest

from kpsagent import keys

COUNT = 10_000
JUDGED = 500
SEED = 2

FILES = list(hostile_keys.files(COUNT, SEED))
KEYS = hostile_keys.some_keys(random.Random(SEED))
NEW = hostile_keys.public_key(random.Random(99), "ssh-ed25519")


def lines_without_key(file: hostile_keys.File) -> str:
    """The file as it must be when the key has been removed, from what the generator knows."""
    kept = [piece.text for piece in file.pieces if not piece.holds]
    last_goes = not file.final_newline and bool(file.pieces) and file.pieces[-1].holds
    return hostile_keys.joined(kept, file.final_newline) if not last_goes else "\n".join(kept)


def lines_with_key(file: hostile_keys.File) -> str:
    """The file as it must be when the key has been added."""
    holding = [index for index, piece in enumerate(file.pieces) if piece.holds]
    if holding and not file.pieces[holding[0]].options and file.pieces[holding[0]].usual:
        return file.text
    lines = [piece.text for piece in file.pieces]
    lines.insert(holding[0] if holding else len(lines), file.key.line)
    return hostile_keys.joined(lines, file.final_newline or not file.pieces)


def lines_with_heir(file: hostile_keys.File) -> str:
    """The file as it must be when another key inherits."""
    lines = []
    for piece in file.pieces:
        lines.append(piece.text)
        if piece.holds:
            lines.append((f"{piece.options} " if piece.options else "") + NEW.line + ("\r" if piece.text.endswith("\r") else ""))
    if not any(piece.holds for piece in file.pieces):
        lines.append(NEW.line)
    return hostile_keys.joined(lines, file.final_newline or not file.pieces)


@pytest.mark.long
def test_ten_thousand_files_are_edited_line_by_line() -> None:
    for file in FILES:
        is_edited_line_by_line(file)


@hypothesis.settings(max_examples=300, derandomize=True)
@hypothesis.given(st.randoms(use_true_random=False))
def test_files_that_hypothesis_makes_and_shrinks_are_edited_line_by_line(r: random.Random) -> None:
    is_edited_line_by_line(hostile_keys.file(r, KEYS))


def is_edited_line_by_line(file: hostile_keys.File) -> None:
    """Fail unless each edit of this file changes what it should, and not a byte more."""
    key = keys.parse(file.key.line)
    assert [line.index for line in keys.find(file.text, key)] == [i for i, piece in enumerate(file.pieces) if piece.holds]
    assert keys.remove(file.text, key) == lines_without_key(file)
    added = keys.add(file.text, file.key.line)
    assert added == lines_with_key(file)
    assert keys.add(added, file.key.line) == added
    assert keys.remove(keys.add(file.text, NEW.line), keys.parse(NEW.line)) == file.text
    heirs = keys.inherit(file.text, key, NEW.line)
    assert heirs == lines_with_heir(file)
    assert keys.remove(heirs, keys.parse(NEW.line)) == file.text


def test_every_danger_is_met_often(record_property: Callable[[str, dict[str, int]], None]) -> None:
    counts = Counter(danger for file in FILES for danger in file.dangers)
    record_property(
        "counted", {"authorized_keys files": len(FILES)} | {f"authorized_keys: {each}": n for each, n in counts.items()}
    )
    assert min(counts.values()) >= 5
    assert len(counts) >= 50


@pytest.mark.parametrize("editor", naive.REMOVERS, ids=lambda editor: editor.__name__)
def test_a_naive_removal_fails_on_the_same_files(editor: Callable[[str, str, str], str]) -> None:
    wrong = [file for file in FILES if editor(file.text, file.key.type, file.key.word) != lines_without_key(file)]
    assert len(wrong) > COUNT // 10


@pytest.mark.parametrize("editor", naive.ADDERS, ids=lambda editor: editor.__name__)
def test_a_naive_addition_fails_on_the_same_files(editor: Callable[[str, str, str], str]) -> None:
    assert sum(is_wrong(file, editor) for file in FILES) > COUNT // 10


def test_our_addition_does_not_fail_by_the_same_measure() -> None:
    def ours(text: str, type: str, word: str) -> str:
        return keys.add(text, f"{type} {word}")

    assert not any(is_wrong(file, ours) for file in FILES)


def is_wrong(file: hostile_keys.File, editor: Callable[[str, str, str], str]) -> bool:
    """Others' bytes changed, or the first line that holds the key is not one without options."""
    after = editor(file.text, file.key.type, file.key.word)
    left = iter(after.split("\n"))
    held = keys.find(after, keys.parse(file.key.line))
    return not all(piece.text in left for piece in file.pieces if piece.text) or not held or bool(held[0].options)


# -- a real sshd -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[judge.Logins]:
    judge.need(judge.SSHD, judge.KEYGEN)
    logins = judge.Logins(tmp_path_factory.mktemp("logins"))
    yield logins
    logins.close()


def test_a_real_sshd_accepts_no_key_that_we_miss(logins: judge.Logins) -> None:
    sample = FILES[:JUDGED]
    accepted = logins.verdicts([(file.text, file.key.blob) for file in sample])
    found = [keys.find(file.text, keys.parse(file.key.line)) for file in sample]
    missed = [file for file, yes, lines in zip(sample, accepted, found, strict=True) if yes and not lines]
    dead = [file for file, yes, lines in zip(sample, accepted, found, strict=True) if lines and not lines[0].options and not yes]
    assert (missed, dead) == ([], [])
    assert sum(accepted) > JUDGED // 5


@pytest.mark.long
def test_a_real_sshd_accepts_what_was_added_and_refuses_what_was_removed(logins: judge.Logins) -> None:
    sample = FILES[:JUDGED]
    added = [(keys.add(file.text, file.key.line), file.key.blob) for file in sample]
    removed = [(keys.remove(file.text, keys.parse(file.key.line)), file.key.blob) for file in sample]
    assert logins.verdicts(added) == [True] * JUDGED
    assert logins.verdicts(removed) == [False] * JUDGED


def test_a_real_sshd_still_accepts_keys_that_naive_editors_removed(logins: judge.Logins) -> None:
    sample = [file for file in FILES[:150] if any(piece.holds for piece in file.pieces)]
    for editor in naive.REMOVERS:
        left = [(editor(file.text, file.key.type, file.key.word), file.key.blob) for file in sample]
        assert any(logins.verdicts(left)), editor.__name__
