"""10,000 hostile sshd_config files: sshd accepts afterwards what it accepted before, and nobody else's byte changes."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hostile_configs
import hypothesis
import hypothesis.strategies as st
import judge
import naive
import pytest

from kpsagent import sshd
from kpsagent.errors import Refused

COUNT = 10_000
JUDGED = 250
SEED = 3
SETTINGS = [("PasswordAuthentication", "no"), ("KbdInteractiveAuthentication", "no")]
REFUSED = {"NUL", "byte order mark", "lone CR"}


@pytest.fixture(scope="module")
def sshds(tmp_path_factory: pytest.TempPathFactory) -> judge.Configurations:
    judge.need(judge.SSHD, judge.KEYGEN)
    directory = tmp_path_factory.mktemp("sshd")
    hostile_configs.write_drop_ins(directory)
    return judge.Configurations(directory)


@pytest.fixture(scope="module")
def files(sshds: judge.Configurations) -> list[hostile_configs.File]:
    return list(hostile_configs.files(COUNT, SEED, sshds.directory))


@pytest.fixture(scope="module")
def editable(files: list[hostile_configs.File]) -> list[hostile_configs.File]:
    return [file for file in files if not refused(file.text)]


@pytest.fixture(scope="module")
def judged(editable: list[hostile_configs.File], sshds: judge.Configurations) -> list[hostile_configs.File]:
    """Files that sshd accepts."""
    sample = [file for file in editable if file.text and not file.broken][: JUDGED * 2]
    accepted = sshds.check_all(file.text for file in sample)
    return [file for file, yes in zip(sample, accepted, strict=True) if yes][:JUDGED]


def refused(text: str) -> bool:
    try:
        sshd.refuse_odd(text, "/etc/ssh/sshd_config")
    except Refused as refusal:
        return refusal.cause == "sshd_config_odd"
    return False


def foreign(text: str) -> str:
    """The text without blocks of ours that the generator put into it."""
    for eol in ("\n", "\r\n"):
        for count in range(3):
            block = hostile_configs.OUR_BLOCK.format("PasswordAuthentication yes\n" * count).replace("\n", eol)
            text = text.replace(block, "")
            if text.endswith(block[: -len(eol)]):
                text = text[: -len(block) + len(eol)]
                text = text.removesuffix("\n")
    return text


def test_odd_files_are_refused_and_no_others(files: list[hostile_configs.File]) -> None:
    for file in files:
        assert refused(file.text) == bool(file.dangers & REFUSED), file


def test_ten_thousand_files_keep_every_byte_of_others(editable: list[hostile_configs.File]) -> None:
    for file in editable:
        keeps_every_byte_of_others(file)


@hypothesis.settings(max_examples=300, derandomize=True)
@hypothesis.given(st.randoms(use_true_random=False))
def test_files_that_hypothesis_makes_and_shrinks_keep_every_byte_of_others(r: random.Random) -> None:
    file = hostile_configs.file(r, Path("/etc/ssh/sshd_config.d"))
    assert refused(file.text) == bool(file.dangers & REFUSED)
    if not refused(file.text):
        keeps_every_byte_of_others(file)


def keeps_every_byte_of_others(file: hostile_configs.File) -> None:
    """Fail unless our block can be put into this file, and taken out again, with all else as it was."""
    rest = foreign(file.text)
    ours = sshd.with_block(file.text, SETTINGS)
    assert ours.endswith("# kps: end\n" + rest)
    assert ours.count("# kps: begin.") == 1
    assert sshd.block(ours) == SETTINGS
    assert sshd.with_block(ours, SETTINGS) == ours
    assert sshd.without_block(ours) == rest == sshd.with_block(ours, []) == sshd.without_block(file.text)


@pytest.mark.long
def test_sshd_accepts_after_the_edit_what_it_accepted_before(
    editable: list[hostile_configs.File], sshds: judge.Configurations
) -> None:
    texts = [sshd.without_block(file.text) for file in editable]
    after = sshds.check_all(sshd.with_block(text, SETTINGS) for text in texts)
    rejected = [text for text, yes in zip(texts, after, strict=True) if not yes]
    broken_by_us = [text for text, yes in zip(rejected, sshds.check_all(rejected), strict=True) if yes]
    # A list that a password completes, and no password any more: sshd says so at once (hazards S3), and so does methods_left().
    assert [text for text in broken_by_us if "authenticationmethods" not in text.lower()] == []
    assert sum(after) > COUNT // 2


def test_every_danger_is_met_often(
    files: list[hostile_configs.File], record_property: Callable[[str, dict[str, int]], None]
) -> None:
    counts = Counter(danger for file in files for danger in file.dangers)
    record_property("counted", {"sshd_config files": len(files)} | {f"sshd_config: {each}": n for each, n in counts.items()})
    assert min(counts.values()) >= 40
    assert len(counts) >= 20


# -- what sshd -T says -------------------------------------------------------------------------------------------------


def test_nothing_but_what_we_set_changes(judged: list[hostile_configs.File], sshds: judge.Configurations) -> None:
    texts = [sshd.without_block(file.text) for file in judged]
    edited = [sshd.with_block(text, SETTINGS) for text in texts]
    usable = sshds.check_all(edited)
    before = sshds.settings_all((text, "zoe") for text, yes in zip(texts, usable, strict=True) if yes)
    after = sshds.settings_all((text, "zoe") for text, yes in zip(edited, usable, strict=True) if yes)
    kept = [file for file, yes in zip(judged, usable, strict=True) if yes]
    for file, then, now in zip(kept, before, after, strict=True):
        assert sshd.changed(sshd.effective(then), sshd.effective(now)) <= set(hostile_configs.OURS)
        if not sshd.has_match(file.text) and "/many/" not in file.text:
            assert [sshd.effective(now)[keyword] for keyword in hostile_configs.OURS] == [["no"], ["no"]]
    assert len(kept) > JUDGED // 2


def test_our_reading_of_a_disk_at_rest_is_that_of_sshd(judged: list[hostile_configs.File], sshds: judge.Configurations) -> None:
    drop_ins = {
        f"{sshds.directory}/{folder}{name}": text
        for folder, files in hostile_configs.DROP_INS.items()
        for name, text in files.items()
    }
    for user in hostile_configs.USERS:
        # An address that no Address, Host or LocalPort of the corpus names: those are not ours to judge at rest.
        said = sshds.settings_all((file.text, user) for file in judged)
        for file, output in zip(judged, said, strict=True):
            ours = sshd.scan({"/main": file.text, **drop_ins}, "/main", user, ["root"] if user == "root" else [])
            theirs = sshd.effective(output)
            for keyword, values in ours.items():
                got = [pattern for value in values for pattern in value.split()]
                want = [pattern for value in theirs.get(keyword, []) for pattern in value.split()]
                assert got == want, (keyword, user, file.text)


def test_places_name_the_lines_that_let_passwords_in(judged: list[hostile_configs.File], sshds: judge.Configurations) -> None:
    for file in judged:
        found = sshd.places([("/main", file.text)], "PasswordAuthentication")
        for place in found:
            assert file.text.split("\n")[place.line_number - 1].strip() == place.text
        if not found and "Include" not in file.text:
            without = sshd.effective(sshds.settings(file.text))
            assert without["passwordauthentication"] == ["yes"]


@pytest.mark.parametrize("editor", naive.SETTERS, ids=lambda editor: editor.__name__)
def test_a_naive_setting_does_not_take_effect_on_the_same_files(
    editor: Callable[[str], str], judged: list[hostile_configs.File], sshds: judge.Configurations
) -> None:
    def is_off(text: str) -> bool:
        return sshds.check(text) and all(
            sshd.effective(sshds.settings(text, user))["passwordauthentication"] == ["no"] for user in ("zoe", "alice")
        )

    sample = [file for file in judged if not file.dangers & {"Match all", "Match"} or "ends in a Match" in file.dangers][:60]
    failed = [file for file in sample if not is_off(editor(file.text))]
    assert len(failed) >= len(sample) // 8


def test_a_naive_splitting_of_lines_changes_the_bytes_of_others(editable: list[hostile_configs.File]) -> None:
    changed = [file for file in editable if not naive.prepend_with_splitlines(file.text).endswith("\n" + file.text)]
    assert len(changed) > COUNT // 10
