"""One key file into another, with nothing stored in between."""

from dataclasses import dataclass, field

from controller.errors import Invalid
from controller.keyfiles import scalar
from controller.keyfiles.fields import Unreadable, comment_text
from controller.keyfiles.kinds import PublicKey, public_half, stored_form, type_of
from controller.keyfiles.private import holds_private, opened
from controller.keyfiles.public import read_public
from controller.keyfiles.written import PRIVATE_FORMS, PUBLIC_FORMS, private_text, rfc4716
from controller.model import KeyFormat, PublicFormat, Secret

TARGETS: tuple[KeyFormat | PublicFormat, ...] = (*PRIVATE_FORMS, *PUBLIC_FORMS)


@dataclass(frozen=True)
class Converted:
    """What a conversion gave. type: KEY_TYPES, rsa-BITS, dsa, secp256k1; public: None where SSH knows no such keys."""

    type: str
    public: PublicKey | None
    text: Secret = field(repr=False)


def convert(
    text: Secret,
    to: KeyFormat | PublicFormat,
    *,
    curve: str | None = None,
    passphrase: Secret | None = None,
    new_passphrase: Secret | None = None,
    comment: str | None = None,
    allow_weak: bool = False,
) -> Converted:
    """Return a key file in another format.

    curve: the text is a private number in hexadecimal (scalar.read). comment: instead of the one that the file has.
    Invalid as of what reads and writes, and format_unusable: a public key does not become a private one.
    """
    if to not in TARGETS:
        raise Invalid("format_unusable", f"{to}: no such format; one of " + ", ".join(TARGETS))
    if curve is None and not holds_private(text):
        if to not in PUBLIC_FORMS:
            raise Invalid("private_key_unreadable", f"there is no private key in it, and {to} is a format of private keys")
        public = read_public(text.open(), allow_weak=allow_weak)
        return Converted(
            public.type,
            public,
            _of_public(public, to, public.comment if comment is None else comment_text(comment.encode("utf-8", "replace"))),
        )
    if curve is None:
        key, said = opened(text, passphrase, allow_weak=allow_weak)
    else:
        key, said = scalar.read(text, curve), ""
    said = said if comment is None else comment_text(comment.encode("utf-8", "replace"))
    try:
        public_or_none = public_half(key)
    except Unreadable:
        public_or_none = None
    if to in PUBLIC_FORMS:
        if public_or_none is None:
            raise Invalid("format_unusable", f"{to}: SSH knows no keys of the curve secp256k1; use pkcs8 or pem")
        return Converted(type_of(key), public_or_none, _of_public(public_or_none, to, said))
    stored = stored_form(key)
    try:
        form: KeyFormat = to  # type: ignore[assignment]
        return Converted(type_of(key), public_or_none, private_text(type_of(key), stored, form, said, new_passphrase))
    finally:
        stored.wipe()


def _of_public(public: PublicKey, to: str, comment: str) -> Secret:
    return Secret(rfc4716(public, comment) if to == "rfc4716" else public.line(comment) + "\n")
