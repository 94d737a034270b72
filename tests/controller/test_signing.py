"""What a private half signs, judged by asyncssh and OpenSSH's own rules; and that it is held once."""

import asyncssh
import pytest

from controller import keyfiles
from controller.keyfiles.signing import SigningKey
from controller.model import KEY_TYPES, KeyType

SMALL: tuple[KeyType, ...] = tuple(each for each in KEY_TYPES if each not in ("rsa-3072", "rsa-4096"))


@pytest.mark.parametrize("key_type", SMALL)
def test_every_signature_of_every_type_is_verified_by_somebody_else(key_type: KeyType) -> None:
    public, stored = keyfiles.generate(key_type)
    judge = asyncssh.import_public_key(public.line())
    key = SigningKey(key_type, stored)
    for algorithm in judge.sig_algorithms:
        for data in (b"", b"x" * 1000):
            signature = key.sign(data, algorithm)
            assert judge.verify(data, signature)
            assert not judge.verify(data + b"y", signature)


def test_numbers_with_their_highest_bit_set_are_not_taken_for_negative() -> None:
    public, stored = keyfiles.generate("ecdsa-nistp256")
    judge = asyncssh.import_public_key(public.line())
    key = SigningKey("ecdsa-nistp256", stored)
    for turn in range(100):  # each of two numbers begins so in half of all signatures
        assert judge.verify(bytes([turn]), key.sign(bytes([turn]), b"ecdsa-sha2-nistp256"))
