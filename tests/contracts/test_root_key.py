"""What every root key does, wherever it lives: in a file, in a token, in a cloud's key service."""

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.errors import Damaged
from controller.kms import RootKey
from controller.model import Secret
from tests import roots

KEY = bytes(range(32))
CONTEXT = b"kps master key of somebody"


@pytest.fixture(params=roots.KINDS)
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], RootKey]:
    """Return a root key by name: the same name, the same key."""
    return lambda name: roots.root(request.param, tmp_path, name)


@pytest.fixture
def root(another: Callable[[str], RootKey]) -> RootKey:
    return another("root.key")


def test_what_is_wrapped_is_unwrapped(root: RootKey) -> None:
    assert root.unwrap(root.wrap(Secret(KEY), CONTEXT), CONTEXT).open() == KEY


def test_the_same_root_key_opened_again_unwraps(root: RootKey, another: Callable[[str], RootKey]) -> None:
    wrapped = root.wrap(Secret(KEY), CONTEXT)
    again = another("root.key")
    assert again.check_value == root.check_value
    assert again.unwrap(wrapped, CONTEXT).open() == KEY


def test_wrapping_the_same_key_twice_gives_two_records(root: RootKey) -> None:
    assert root.wrap(Secret(KEY), CONTEXT) != root.wrap(Secret(KEY), CONTEXT)


def test_the_record_does_not_hold_the_key(root: RootKey) -> None:
    assert KEY not in root.wrap(Secret(KEY), CONTEXT)


def test_wrapping_leaves_the_key_to_its_owner(root: RootKey) -> None:
    key = Secret(KEY)
    root.wrap(key, CONTEXT)
    assert key.open() == KEY


@pytest.mark.parametrize("context", [b"", CONTEXT[:-1], CONTEXT + b"x", b"kps master key of another"])
def test_a_record_opens_in_its_own_context_alone(root: RootKey, context: bytes) -> None:
    with pytest.raises(Damaged):
        root.unwrap(root.wrap(Secret(KEY), CONTEXT), context)


def test_a_record_with_any_bit_changed_does_not_open(root: RootKey) -> None:
    wrapped = root.wrap(Secret(KEY), CONTEXT)
    for place in range(len(wrapped)):
        for bit in (1, 0x80):
            changed = wrapped[:place] + bytes([wrapped[place] ^ bit]) + wrapped[place + 1 :]
            with pytest.raises(Damaged):
                root.unwrap(changed, CONTEXT)


def test_a_record_cut_short_or_made_longer_does_not_open(root: RootKey) -> None:
    wrapped = root.wrap(Secret(KEY), CONTEXT)
    for length in range(len(wrapped)):
        with pytest.raises(Damaged):
            root.unwrap(wrapped[:length], CONTEXT)
    with pytest.raises(Damaged):
        root.unwrap(wrapped + b"\0", CONTEXT)


def test_another_root_key_does_not_open_it_and_shows_another_check_value(
    root: RootKey, another: Callable[[str], RootKey]
) -> None:
    other = another("other.key")
    assert other.check_value != root.check_value
    with pytest.raises(Damaged):
        other.unwrap(root.wrap(Secret(KEY), CONTEXT), CONTEXT)


def test_a_root_key_does_not_show_itself(root: RootKey, tmp_path: Path) -> None:
    shown = repr(root) + str(vars(root))
    for file in tmp_path.iterdir():
        assert file.read_bytes().hex() not in shown
        assert repr(file.read_bytes()) not in shown
