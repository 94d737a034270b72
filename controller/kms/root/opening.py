"""From a URI to the root key that lives there."""

from pathlib import Path

from controller.kms.root.file import FileRootKey
from controller.kms.root.port import RootKey
from controller.kms.root.uri import Uri, parse
from controller.model import Secret

DEFAULT_URI = "file:root.key"


def open_root(uri: str, home: Path, *, again: bool = False) -> RootKey:
    """Open the root key that lives there. home: where a relative path begins, and where a refused PIN is remembered.

    again: try a PIN once more that was refused. Invalid(root_key_uri_unusable); Unavailable: see each kind's own words.
    Nothing else is tried in its place.
    """
    where = parse(uri)
    if where.scheme == "file":
        return FileRootKey(_path(where, home))
    return _elsewhere(where, home, again=again, make=False)


def make_root(uri: str, home: Path, *, again: bool = False) -> RootKey:
    """Make the root key there, unless there is one; a key of AWS KMS must be there already. As open_root()."""
    where = parse(uri)
    if where.scheme == "file":
        return FileRootKey.make(_path(where, home))
    return _elsewhere(where, home, again=again, make=True)


def read_file(uri: str, home: Path) -> Secret:
    """Return the root key that lives in a file, for a backup that is to have it. Errors: as FileRootKey()."""
    return FileRootKey.read(_path(parse(uri), home))


def _elsewhere(where: Uri, home: Path, *, again: bool, make: bool) -> RootKey:
    if where.scheme == "pkcs11":
        from controller.kms.root.pkcs11 import Pkcs11RootKey

        return (Pkcs11RootKey.make if make else Pkcs11RootKey)(where, home, again=again)
    from controller.kms.root.awskms import AwsKmsRootKey

    return AwsKmsRootKey(where)


def _path(where: Uri, home: Path) -> Path:
    return home / where.path.removeprefix("//")
