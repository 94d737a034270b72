"""Libraries that only some root keys need: loaded when one of those is used."""

import importlib
from typing import Any

from controller.errors import Unavailable


def load(module: str, extra: str) -> Any:
    """Return a library's module. Unavailable(root_key_support_missing) says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = (
            f"this kind of root key needs {module}, which is not installed; install kps with its extra {extra}: docs/packages.md"
        )
        raise Unavailable("root_key_support_missing", message) from error
