"""Customer master keys: their lives, who may use them, and what they are used for."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self

from controller.kms import Kms
from controller.service.kms.grants import Grants
from controller.service.kms.imports import ImportParameters, Imports
from controller.service.kms.lives import MasterKeys
from controller.service.kms.names import Names
from controller.service.kms.uses import KeyUses
from controller.store import Store

__all__ = ["Grants", "ImportParameters", "Imports", "KeyService", "KeyUses", "MasterKeys", "Names"]


@dataclass(frozen=True)
class KeyService:
    """All verbs about customer master keys."""

    keys: MasterKeys
    names: Names
    grants: Grants
    imports: Imports
    uses: KeyUses

    @classmethod
    def of(cls, store: Store, kms: Kms, executor: Executor | None = None) -> Self:
        """Return the verbs over a store and a key service."""
        parts = MasterKeys, Names, Grants, Imports, KeyUses
        return cls(*(part(store, kms, executor) for part in parts))  # type: ignore[arg-type]
