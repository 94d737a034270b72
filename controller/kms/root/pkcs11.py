"""pkcs11: a root key that was made in a token (an HSM, a card, SoftHSM) and never leaves it.

The library is initialised without threads of ours in mind (C_Initialize(NULL)), and a process logs in to a token once: so one
lock for everything here, and one session for each token. After a fork nothing of it may be used any more (PKCS#11, section
"Applications and processes"); who needs another process starts one anew.
"""

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

from controller.errors import Damaged, Unavailable
from controller.kms.root import extra, pin
from controller.kms.root.port import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from controller.kms.root.uri import Uri
from controller.model import Secret

_TAG_BITS = 8 * TAG_BYTES
# Not the block of zeros: what AES makes of that is the key of GCM's own checksum.
_CHECKED = hashlib.sha256(b"kps root key check value").digest()[:16]

_lock = threading.RLock()
_libraries: dict[str, Any] = {}  # by module
_sessions: dict[tuple[str, str], Any] = {}  # by module and token


class Pkcs11RootKey:
    """An AES-256 key in a token, found by its label or id."""

    # Says how: this class, the token's AES-GCM, then the nonce that the token used, ciphertext and tag.
    MARK = b"kps-pkcs11-gcm-1:"

    def __init__(self, uri: Uri, home: Path, *, again: bool = False) -> None:
        """Log in to the token, once in this process. home: remembers a PIN that was refused; again: try that all the same.

        Unavailable: root_key_support_missing, root_key_unreachable, root_key_missing, root_key_unsuitable, root_pin_missing,
        root_pin_exposed, root_pin_malformed, root_pin_refused, root_pin_locked.
        """
        self._open(uri, home, again=again, make=False)

    @classmethod
    def make(cls, uri: Uri, home: Path, *, again: bool = False) -> Self:
        """Make the key in the token, from its own randomness, unless there is one of that name. Unavailable: see above."""
        made = cls.__new__(cls)
        made._open(uri, home, again=again, make=True)
        return made

    def _open(self, uri: Uri, home: Path, *, again: bool, make: bool) -> None:
        self._process = os.getpid()
        self._session: Any = None
        self._pkcs11 = extra.load("pkcs11", "hsm")
        self._module = uri.query.get("module-path", "")
        self._where = f"token {uri.attributes.get('token') or uri.attributes.get('serial')}"
        self._what = f"{self._where}, key {uri.attributes.get('object') or uri.attributes.get('id', '').encode('latin-1').hex()}"
        _check(uri)
        with self._reaching():
            token = self._token(uri)
            self._session = self._logged_in(token, uri, home, again)
            found = self._found(uri)
            if not found and make:
                self._make(token, uri)
                found = self._found(uri)
            self._key = self._suitable(found)
            self.check_value = self._checked()

    def wrap(self, key: Secret, context: bytes) -> bytes:
        with self._reaching():
            given = self._gcm(secrets.token_bytes(NONCE_BYTES), context)
            ciphertext = self._key.encrypt(key.open(), mechanism=self._pkcs11.Mechanism.AES_GCM, mechanism_param=given)
            # Some tokens choose the nonce themselves, and write it over the one that was given.
            return self.MARK + bytes(bytearray(given.nonce)) + bytes(ciphertext)

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        start = len(self.MARK)
        if not wrapped.startswith(self.MARK) or len(wrapped) < start + NONCE_BYTES + TAG_BYTES:
            raise Damaged("root_wrap_damaged", "not something that a root key in a token has wrapped")
        given = self._gcm(wrapped[start : start + NONCE_BYTES], context)
        body = wrapped[start + NONCE_BYTES :]
        with self._reaching():
            try:
                plain = self._key.decrypt(body, mechanism=self._pkcs11.Mechanism.AES_GCM, mechanism_param=given)
            except self._pkcs11.exceptions.PKCS11Error as error:
                # Tokens have many words for a tag that does not fit. One that still works has said that it does not.
                if self._checked() != self.check_value:
                    raise
                message = "the root key does not open this: it was changed, or belongs elsewhere"
                raise Damaged("root_wrap_damaged", message) from error
            return Secret(bytearray(plain))

    def _gcm(self, nonce: bytes, context: bytes) -> Any:
        return self._pkcs11.GCMParams(nonce, self.MARK + context, _TAG_BITS)

    def _checked(self) -> str:
        """Return the check value, made in the token: what the key makes of a block that everybody knows."""
        made = self._key.encrypt(_CHECKED, mechanism=self._pkcs11.Mechanism.AES_ECB)
        return bytes(made)[:8].hex()

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Be the only one who uses a token; a token that fails is said to be unreachable, and is opened anew next time."""
        with _lock:
            if os.getpid() != self._process:
                message = f"{self._where}: opened in another process; a token is not used across a fork"
                raise Unavailable("root_key_unreachable", message)
            if self._session is not None and self._session not in _sessions.values():
                # Its numbers may mean other keys by now.
                raise Unavailable("root_key_unreachable", f"{self._where}: it was opened anew meanwhile; try again")
            try:
                yield
            except self._pkcs11.exceptions.PKCS11Error as error:
                self._unreachable(error)

    def _unreachable(self, error: Exception) -> NoReturn:
        _forget(self._pkcs11, self._module)
        said = f"{type(error).__name__} {error}".strip()
        message = f"{self._what}: the token does not answer ({said}); see that it is there and its module works"
        raise Unavailable("root_key_unreachable", message) from error

    def _token(self, uri: Uri) -> Any:
        wanted = {name: uri.attributes[name] for name in ("token", "serial", "manufacturer", "model") if name in uri.attributes}
        found = []
        library = _libraries[self._module] = self._pkcs11.lib(self._module)
        for slot in library.get_slots(token_present=True):
            with contextlib.suppress(self._pkcs11.TokenNotPresent, self._pkcs11.TokenNotRecognised):
                token = slot.get_token()
                is_ = {
                    "token": token.label, "serial": token.serial.decode("latin-1"),
                    "manufacturer": token.manufacturer_id, "model": token.model,
                }  # fmt: skip
                if all(is_[name].strip() == value for name, value in wanted.items()):
                    found.append(token)
        if len(found) != 1:
            many = f"{len(found)} such tokens; name its serial" if found else "no such token; see that it is there"
            raise Unavailable("root_key_unreachable", f"{self._where} in {self._module}: {many}")
        if self._pkcs11.Mechanism.AES_GCM not in found[0].slot.get_mechanisms():
            message = f"{self._where}: it has no AES-GCM, and nothing else is used; choose another token"
            raise Unavailable("root_key_unsuitable", message)
        return found[0]

    def _logged_in(self, token: Any, uri: Uri, home: Path, again: bool) -> Any:
        name = (self._module, f"{token.label}/{token.serial.decode('latin-1')}")
        if name not in _sessions:
            flags, known = token.flags, self._pkcs11.constants.TokenFlag
            if flags & known.USER_PIN_LOCKED:
                message = f"{self._where}: its PIN is locked; unlock it with its own tool"
                raise Unavailable("root_pin_locked", message)
            if flags & known.USER_PIN_FINAL_TRY:
                message = f"{self._where}: one more wrong PIN would lock it; log in with its own tool first"
                raise Unavailable("root_pin_locked", message)
            given = pin.source(uri)
            with pin.one_attempt(home, self._where, given, again=again):
                _sessions[name] = self._log_in(token, given)
        return _sessions[name]

    def _log_in(self, token: Any, given: pin.Source) -> Any:
        secret = given.read()
        wrong = self._pkcs11.exceptions
        try:
            return token.open(user_pin=secret.open().decode())
        except UnicodeDecodeError as error:
            raise Unavailable("root_pin_malformed", f"{given}: a PIN is text in UTF-8") from error
        except (wrong.PinIncorrect, wrong.PinLocked, wrong.PinExpired, wrong.PinInvalid, wrong.PinLenRange) as error:
            raise pin.Refused(type(error).__name__) from error
        finally:
            secret.wipe()

    def _found(self, uri: Uri) -> list[Any]:
        wanted = {self._pkcs11.Attribute.CLASS: self._pkcs11.ObjectClass.SECRET_KEY}
        if "object" in uri.attributes:
            wanted[self._pkcs11.Attribute.LABEL] = uri.attributes["object"]
        if "id" in uri.attributes:
            wanted[self._pkcs11.Attribute.ID] = uri.attributes["id"].encode("latin-1")
        return list(self._session.get_objects(wanted))

    def _make(self, token: Any, uri: Uri) -> None:
        if "object" not in uri.attributes:
            raise uri.refused("name the key that is to be made: object=NAME")
        attribute, can = self._pkcs11.Attribute, self._pkcs11.MechanismFlag
        # Whoever is logged in is so in each session of the process; writing needs one of its own.
        with token.open(rw=True) as session:
            session.generate_key(
                self._pkcs11.KeyType.AES,
                8 * KEY_BYTES,
                label=uri.attributes["object"],
                id=uri.attributes["id"].encode("latin-1") if "id" in uri.attributes else secrets.token_bytes(8),
                store=True,
                capabilities=can.ENCRYPT | can.DECRYPT,
                template={attribute.PRIVATE: True, attribute.SENSITIVE: True, attribute.EXTRACTABLE: False},
            )

    def _suitable(self, found: list[Any]) -> Any:
        if not found:
            message = f"{self._what}: no such key in it; see the URI, or put the key back from the token's own backup"
            raise Unavailable("root_key_missing", message)
        if len(found) > 1:
            raise Unavailable("root_key_unsuitable", f"{self._what}: {len(found)} keys of that name; name its id too")
        (key,), attribute = found, self._pkcs11.Attribute
        lacks = [
            what
            for what, there in (
                (f"AES with {8 * KEY_BYTES} bits", (key.key_type, key.key_length) == (self._pkcs11.KeyType.AES, 8 * KEY_BYTES)),
                ("sensitive", key[attribute.SENSITIVE]),
                ("kept from being extracted", not key[attribute.EXTRACTABLE]),
            )
            if not there
        ]
        if lacks:
            message = f"{self._what}: a root key is {' and '.join(lacks)}, and this one is not; let kps make one"
            raise Unavailable("root_key_unsuitable", message)
        return key


def _check(uri: Uri) -> None:
    """Invalid(root_key_uri_unusable) where something that is needed is not named."""
    missing = [
        what
        for what, there in (
            ("token=LABEL or serial=NUMBER", {"token", "serial"} & uri.attributes.keys()),
            ("object=NAME or id=BYTES", {"object", "id"} & uri.attributes.keys()),
            ("module-path=FILE, absolute", Path(uri.query.get("module-path", "")).is_absolute()),
            ("type=secret-key or no type", uri.attributes.get("type", "secret-key") == "secret-key"),
        )
        if not there
    ]
    if missing:
        raise uri.refused("it lacks " + ", ".join(missing))
    pin.source(uri)


def _forget(pkcs11: Any, module: str) -> None:
    """Let go of a library, so that the next use begins with it afresh."""
    for name in [name for name in _sessions if name[0] == module]:
        del _sessions[name]
    with contextlib.suppress(pkcs11.exceptions.PKCS11Error):
        if module in _libraries and _libraries[module].initialized:
            _libraries[module].finalize()
