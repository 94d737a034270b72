"""A private half is opened on record, or not at all."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller import opening
from controller.errors import Damaged, NotFound
from controller.kms import Kms
from controller.model import Caller, KeyPair, Sealed, Secret
from controller.service.keypairs import Keypairs
from controller.store import Store
from tests.controller.given import task as given_task

ROOT = Path(__file__).parents[2]


@pytest.fixture
def keypair(store: Store, kms: Kms, who: Caller) -> KeyPair:
    return asyncio.run(Keypairs(store, kms).create(who, "ops"))[0]


def openings(store: Store, who: Caller) -> list[dict[str, object]]:
    return [event.detail for event in store.events(who.tenant_id) if event.kind == "keypair_opened"]


def test_who_why_and_for_which_task(store: Store, kms: Kms, who: Caller, keypair: KeyPair) -> None:
    task = given_task(store, who)

    async def here(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    found, stored = asyncio.run(opening.opened_for(task, here, here, store, kms, keypair.id, opening.LOGIN))
    assert (found, len(stored)) == (keypair, 32)
    event = store.events(who.tenant_id)[-1]
    assert (event.kind, event.task_id, event.server_id) == ("keypair_opened", task.id, task.server_id)
    assert event.detail == {
        "keypair_id": keypair.id, "name": "ops", "scope": "private", "fingerprint": keypair.fingerprint,
        "owner_id": who.user_id, "purpose": "login", "user_id": who.user_id,
    }  # fmt: skip


def test_what_cannot_be_put_on_record_is_not_given_and_is_wiped(
    store: Store, kms: Kms, who: Caller, keypair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Secret] = []
    real = Kms.open_private

    def watched(self: Kms, keypair: KeyPair, sealed: Sealed) -> Secret:
        seen.append(real(self, keypair, sealed))
        return seen[-1]

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Kms, "open_private", watched)
    monkeypatch.setattr(Store, "note_opening", full)
    with pytest.raises(OSError, match="no space"):
        opening.opened(store, kms, keypair.id, opening.EXPORT, who.user_id)
    assert [secret.open() for secret in seen] == [bytes(32)]


def test_what_does_not_open_is_no_opening(store: Store, kms: Kms, who: Caller, keypair: KeyPair) -> None:
    sealed = store.sealed_private(keypair.id)
    store.move_private(keypair.id, sealed, Sealed(sealed.record[:-1] + bytes([sealed.record[-1] ^ 1])), who.user_id)
    with pytest.raises(Damaged):
        opening.opened(store, kms, keypair.id, opening.EXPORT, who.user_id)
    store.clear_private(keypair.id, who.user_id, lambda bound: None)
    with pytest.raises(NotFound):
        opening.opened(store, kms, keypair.id, opening.EXPORT, who.user_id)
    assert openings(store, who) == []


def test_nobody_opens_a_private_half_but_by_this() -> None:
    """Every caller of Kms.open_private is the one that puts it on record."""
    callers = [path.name for path in (ROOT / "controller").rglob("*.py") if ".open_private(" in path.read_text()]
    assert callers == ["opening.py"]
