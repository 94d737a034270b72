"""Key files that were made to hurt: a sample of `make fuzz ARGS='--only keyfiles'`, and every bomb of it."""

import asyncio
import random
import time

import pytest

from controller.keyfiles import apart
from controller.model import Secret
from tests.drills.fuzz import keyfiles as hostile


def test_a_changed_file_is_read_or_refused_by_a_code() -> None:
    known = hostile.seeds_of_a_run()
    codes = set()
    for number in range(600):
        _, text = hostile.mutated(random.Random(number), known)
        begun = time.process_time()
        codes.add(hostile.read(text))
        assert time.process_time() - begun < 3 * hostile.LONGEST_SECONDS, hostile._shown(text)
    assert codes >= {"", "private_key_unreadable", "public_key_unreadable", "passphrase_wrong", "key_mismatch"}


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    """Here, where the processor's time can be told from that of whatever else runs; the drill looks at the clock, apart."""
    for name, text in hostile.bombs().items():
        begun = time.process_time()
        hostile.refused_in_time(text, lambda given, word: hostile.keyfiles.read_private(given, word))
        assert time.process_time() - begun < 0.5, name


def test_a_bomb_is_refused_apart_too() -> None:
    text = hostile.bombs()["Argon2, memory"]
    hostile.refused_in_time(text, lambda given, word: asyncio.run(apart.read_private(given, word)))
    with pytest.raises(AssertionError, match="was read"):
        hostile.refused_in_time(text, lambda given, word: Secret(b"not refused"))
