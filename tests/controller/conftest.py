"""A home, as kps init makes it, and what is in it."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.kms import Kms, root
from controller.model import Caller
from controller.settings import Settings
from controller.store import Store
from tests import homes, roots
from tests.controller.world import World


@pytest.fixture
def root_kind(request: pytest.FixtureRequest) -> str:
    """Where the root key is: in a file, unless a test says otherwise by a parameter, or its module by a fixture of its own."""
    return str(getattr(request, "param", "file"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world") / "home")
    yield world
    world.close()


@pytest.fixture
def settings(tmp_path: Path, root_kind: str) -> Settings:
    uri = None if root_kind == "file" else roots.uri(root_kind, tmp_path)
    return Settings(home=tmp_path / "home", root_key_uri=uri)


@pytest.fixture
def made(settings: Settings) -> dict[str, Any]:
    return homes.made(settings)


@pytest.fixture
def store(settings: Settings, made: dict[str, Any]) -> Iterator[Store]:
    store = Store(settings.database_url)
    yield store
    store.close()


@pytest.fixture
def kms(store: Store, settings: Settings) -> Kms:
    return Kms(store, *root.roots(settings.home))


@pytest.fixture
def who(store: Store) -> Caller:
    return store.caller_by_local_home()


@pytest.fixture
def other(who: Caller, settings: Settings) -> Caller:
    """Another user of the same tenant: an operator."""
    user = replace(who, user_id="9" * 32, role="operator")
    with sqlite3.connect(settings.database) as connection:
        connection.execute(
            "INSERT INTO users (id, tenant_id, name, role) VALUES (?, ?, 'other', 'operator')", (user.user_id, user.tenant_id)
        )
    connection.close()
    return user
