"""Private keys that come with an order are read once for all tasks that hold them, and kept no longer than these."""

import asyncio
import gc
from pathlib import Path
from subprocess import run

import pytest

from controller.errors import Invalid
from controller.keyfiles import PublicKey, apart
from controller.keysgiven import KeysGiven
from controller.model import Secret
from controller.transport.offer import Held


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each file that was read; whether with a passphrase."""
    found: list[bool] = []
    read = apart.read_private

    async def counted(text: Secret, passphrase: Secret | None, *, allow_weak: bool) -> tuple[PublicKey, Secret]:
        found.append(passphrase is not None)
        return await read(text, passphrase, allow_weak=allow_weak)

    monkeypatch.setattr(apart, "read_private", counted)
    return found


def key_file(path: Path, passphrase: str = "") -> str:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-f", path], check=True)
    return path.read_text()


def read(keys: KeysGiven, text: str, passphrase: str | None = None, times: int = 1) -> list[Held]:
    """What so many tasks get that ask at the same time."""
    words = None if passphrase is None else Secret(passphrase)

    async def all_of_them() -> list[Held]:
        return await asyncio.gather(*(keys.read(Secret(text), words) for _ in range(times)))

    return asyncio.run(all_of_them())


def test_tasks_at_the_same_time_share_one_reading(tmp_path: Path, readings: list[bool]) -> None:
    held = read(KeysGiven(), key_file(tmp_path / "key"), times=10)
    assert len(readings) == 1
    assert {id(each) for each in held} == {id(held[0])}
    assert held[0].line.split()[:2] == (tmp_path / "key.pub").read_text().split()[:2]


def test_a_key_that_nobody_holds_is_gone(tmp_path: Path, readings: list[bool]) -> None:
    keys, text = KeysGiven(), Secret(key_file(tmp_path / "key"))

    async def twice() -> None:
        held = await keys.read(text, None)
        assert list(keys._used.values()) == [held]
        del held
        gc.collect()
        assert (len(keys._used), len(keys._reading)) == (0, 0)
        await keys.read(text, None)

    asyncio.run(twice())
    assert len(readings) == 2


def test_who_gives_another_passphrase_gets_nothing_of_what_is_held(tmp_path: Path, readings: list[bool]) -> None:
    keys, text = KeysGiven(), key_file(tmp_path / "key", "right")
    held = read(keys, text, "right")
    for passphrase in ("wrong", "", None):
        with pytest.raises(Invalid):
            read(keys, text, passphrase)
    assert read(keys, text, "right") == held
    assert len(readings) == 4


def test_what_is_in_the_file_and_what_opens_it_are_told_apart(tmp_path: Path) -> None:
    """Text and passphrase one after the other would be the same letters."""
    keys, text = KeysGiven(), key_file(tmp_path / "key", "right")
    held = read(keys, text, "right")
    with pytest.raises(Invalid):
        read(keys, text + "r", "ight")
    assert held
