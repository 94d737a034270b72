"""The root key: the one secret that everything else hangs on. It lives where its URI says (uri)."""

from controller.kms.root.file import FileRootKey
from controller.kms.root.known import Known, changing, in_use, known, record, roots
from controller.kms.root.later import LaterRootKey, tested
from controller.kms.root.opening import DEFAULT_URI, make_root, open_root, read_file
from controller.kms.root.port import KEY_BYTES, NONCE_BYTES, TAG_BYTES, RootKey

__all__ = [
    "DEFAULT_URI", "KEY_BYTES", "NONCE_BYTES", "TAG_BYTES", "FileRootKey", "Known", "LaterRootKey", "RootKey", "changing",
    "in_use", "known", "make_root", "open_root", "read_file", "record", "roots", "tested",
]  # fmt: skip
