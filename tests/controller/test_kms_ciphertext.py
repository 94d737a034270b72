"""The ciphertext of a symmetric master key: its length, and every way in which it does not open.

In Wycheproof's manner: each case is one change of a good ciphertext, and names the refusal that it must meet.
"""

import os
import struct
import uuid

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from controller.errors import Invalid
from controller.kms import ciphertext
from controller.model import Secret

MATERIAL = Secret(bytes(range(32)))
KEY = "6e0a1c52-7c1f-4b7e-9a44-0d7f5a1be902"
TEXT = b"attack at dawn: 20 bytes and more"
ADDED = b"order 4711"


def made(text: bytes = TEXT, added: bytes = ADDED, purpose: int = ciphertext.DATA, version: int = 3) -> bytes:
    return ciphertext.encrypt(MATERIAL, KEY, version, Secret(text), added, purpose)


def opened(given: bytes, added: bytes = ADDED, purpose: int = ciphertext.DATA, material: Secret = MATERIAL) -> bytes:
    return ciphertext.decrypt(material, given, added, purpose).open()


def test_every_length_up_to_4096_has_the_documented_size_and_comes_back() -> None:
    text = os.urandom(4096)
    for length in range(4097):
        given = made(text[:length])
        assert len(given) == 124 + -(-length // 16) * 16 == ciphertext.size(length)
        assert opened(given) == text[:length]


def test_it_says_by_itself_which_key_and_version_made_it() -> None:
    said = ciphertext.header(made(version=7))
    assert (said.key_id, said.version, said.purpose, said.length) == (KEY, 7, ciphertext.DATA, len(TEXT))


def test_no_two_are_alike_and_none_uses_a_key_twice() -> None:
    many = [made() for _ in range(200)]
    assert (
        len({each[32:64] for each in many}) == len({each[64:76] for each in many}) == len({each[76:108] for each in many}) == 200
    )


def test_the_layout_is_the_one_that_is_written_down() -> None:
    """Opened here by hand, from the words of the module alone."""
    given = made()
    head = struct.unpack(">4sBBBB16sII", given[:32])
    assert head == (b"kpsc", 1, 1, 1, 0, uuid.UUID(KEY).bytes, 3, len(TEXT))
    salt, nonce, digest = given[32:64], given[64:76], given[76:108]
    purpose = b"kps ciphertext"
    both = HKDF(SHA256(), 64, salt, struct.pack(">I", len(purpose)) + purpose + given[:76]).derive(MATERIAL.open())
    assert both[32:] == digest
    plain = AESGCM(both[:32]).decrypt(nonce, given[108:], given[:108] + ADDED)
    assert plain == TEXT + bytes(-len(TEXT) % 16)


def flipped(place: int, bit: int = 1) -> bytes:
    given = bytearray(made())
    given[place] ^= bit
    return bytes(given)


# By the place of the byte that is changed: what it is, and the refusal.
CHANGES = (
    (range(8), "ciphertext_unreadable"),  # magic, layout, suite, purpose (to none there is), zero
    (range(8, 28), "ciphertext_head_damaged"),  # key id, version: for who looks no further than the header, see test_kms_uses
    (range(28, 32), None),  # the length: see below
    (range(32, 108), "ciphertext_head_damaged"),  # salt, nonce, digest
    (range(108, 108 + 48 + 16), "ciphertext_damaged"),  # ciphertext, tag
)


@pytest.mark.parametrize(("places", "code"), [change for change in CHANGES if change[1]], ids=lambda value: str(value))
def test_a_changed_byte_is_refused_by_what_it_was(places: range, code: str) -> None:
    for place in places:
        for bit in (1, 2, 0x80) if place != 6 else (4, 0x80):
            with pytest.raises(Invalid) as refused:
                opened(flipped(place, bit))
            assert refused.value.code == code, (place, bit)


def test_another_length_is_refused() -> None:
    for length in range(9000):
        if length == len(TEXT):
            continue
        given = bytearray(made())
        given[28:32] = struct.pack(">I", length)
        with pytest.raises(Invalid) as refused:
            opened(bytes(given))
        same = ciphertext.size(length) == len(given)
        most = length > ciphertext.MOST_BYTES
        wanted = "ciphertext_head_damaged" if same else "ciphertext_unreadable" if most else "ciphertext_length_wrong"
        assert refused.value.code == wanted, length


def test_a_ciphertext_cut_short_or_made_longer_is_refused() -> None:
    given = made()
    for length in range(len(given)):
        with pytest.raises(Invalid) as refused:
            opened(given[:length])
        assert refused.value.code == ("ciphertext_unreadable" if length < 32 else "ciphertext_length_wrong"), length
    for more in (b"\0", bytes(16), given):
        with pytest.raises(Invalid) as refused:
            opened(given + more)
        assert refused.value.code == "ciphertext_length_wrong"


@pytest.mark.parametrize("added", [b"", ADDED[:-1], ADDED + b"\0", b"order 4712", bytes(128)])
def test_other_additional_data_is_refused(added: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        opened(made(), added)
    assert refused.value.code == "ciphertext_damaged"


def test_parts_of_two_ciphertexts_do_not_go_together() -> None:
    one, other = made(), made()
    for cut in range(32, len(one)):
        mixed = one[:cut] + other[cut:]
        if mixed not in (one, other):  # as long as the parts are alike it is one of the two
            with pytest.raises(Invalid):
                opened(mixed)


def test_another_key_is_told_from_damage() -> None:
    with pytest.raises(Invalid) as refused:
        opened(made(), material=Secret(bytes(32)))
    assert refused.value.code == "ciphertext_head_damaged"


def test_one_ciphertext_never_opens_under_two_keys() -> None:
    """GCM alone lets a ciphertext be made that opens under two keys; the digest hangs on the key, so here it can't be."""
    given = made()
    other = Secret(bytes(32))
    # Even with the right digest of the other key put in, for that one is part of what the tag covers.
    derived = ciphertext._derived(other, given[:76])[1]
    with pytest.raises(Invalid) as refused:
        opened(given[:76] + derived + given[108:], material=other)
    assert refused.value.code == "ciphertext_damaged"


def test_a_data_key_does_not_open_as_data_nor_data_as_a_data_key() -> None:
    for purpose, other in ((ciphertext.DATA, ciphertext.DATA_KEY), (ciphertext.DATA_KEY, ciphertext.DATA)):
        given = made(purpose=purpose)
        with pytest.raises(Invalid) as refused:
            opened(given, purpose=other)
        assert refused.value.code == "ciphertext_purpose_wrong"
        relabelled = given[:6] + bytes([other]) + given[7:]
        with pytest.raises(Invalid) as refused:
            opened(relabelled, purpose=other)
        assert refused.value.code == "ciphertext_head_damaged"


@pytest.mark.parametrize(
    "given", [b"", b"k", b"kps\x01" + bytes(300), os.urandom(256), b"kpsc" + bytes(20), b"kpsc" + bytes(300)]
)
def test_what_is_no_ciphertext_is_told(given: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        opened(given)
    assert refused.value.code == "ciphertext_unreadable"


def test_no_refusal_quotes_the_plaintext() -> None:
    for place in range(0, len(made()), 5):
        with pytest.raises(Invalid) as refused:
            opened(flipped(place, 4))
        assert "dawn" not in refused.value.message
