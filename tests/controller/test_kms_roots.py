"""Every kind of master key with its root key in a file, in a token and in AWS KMS; and under another root key afterwards."""

from pathlib import Path

import pytest

from controller.kms import Kms, root
from controller.kms.keys import KINDS
from controller.model import Caller, KeySpec, Secret
from controller.service import rootkeys
from controller.service.kms import KeyService
from controller.settings import Settings
from controller.store import Store
from tests import roots

pytestmark = pytest.mark.anyio
SPECS: list[KeySpec] = [spec for spec in KINDS if spec not in ("RSA_3072", "RSA_4096")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def used(keys: KeyService, who: Caller, spec: KeySpec) -> bytes:
    """Use a key for what it is for, in a way that gives the same result each time, or can be checked."""
    kind = KINDS[spec]
    if kind.family == "hmac":
        return (await keys.uses.code(who, spec, b"message", kind.algorithms[0]))[1]
    if kind.family == "aes":
        made = await keys.uses.encrypt(who, spec, Secret(b"message"))
        return (await keys.uses.decrypt(who, made.ciphertext)).plaintext.open()
    algorithm = kind.algorithms[0]
    _, signature = await keys.uses.sign(who, spec, b"message", algorithm, digested=False)
    assert (await keys.uses.verify(who, spec, b"message", signature, algorithm, digested=False))[1]
    return (await keys.uses.public_key(who, spec))[1].encode()


@pytest.mark.parametrize("root_kind", roots.KINDS, indirect=True)
async def test_every_kind_of_key_works_under_every_kind_of_root_key_and_under_the_next_one(
    store: Store, kms: Kms, who: Caller, settings: Settings, tmp_path: Path
) -> None:
    keys = KeyService.of(store, kms)
    for spec in SPECS:
        await keys.keys.create(who, spec, spec=spec)
    await keys.keys.rotate(who, "AES_256")
    before = {spec: await used(keys, who, spec) for spec in SPECS}
    made = (await keys.uses.encrypt(who, "AES_256", Secret(b"x"))).ciphertext
    rootkeys.rotate(settings, roots.uri("file", tmp_path, "next.key"))
    after = KeyService.of(store, Kms(store, *root.roots(settings.home)))
    assert {spec: await used(after, who, spec) for spec in SPECS} == before
    assert (await after.uses.decrypt(who, made)).plaintext.open() == b"x"
