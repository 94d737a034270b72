"""Customer master keys, and what they are used for: kps kms."""

from controller.cli.kms import codes, data, material, names
from controller.cli.kms.common import kms
from controller.cli.kms.keys import keys

__all__ = ["codes", "data", "kms", "material"]

kms.add_typer(keys, name="key")
kms.add_typer(names.aliases, name="alias")
kms.add_typer(names.grants, name="grant")
