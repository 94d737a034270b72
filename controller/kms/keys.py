"""Customer master keys: their kinds, their states, and which step or use each state allows. Pure.

(made) -> enabled <-> disabled        enabled, disabled -> pending_deletion -> destroyed, at its date
                                      pending_deletion -> disabled, where it is cancelled
(made, external) -> pending_import -> enabled -> pending_import, where imported material expires or is deleted
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import get_args

from controller.errors import Conflict, Invalid
from controller.model import KeyOrigin, KeySpec, KeyUsage, MasterKey

DEFAULT_ALIAS = "kps/default"
DEFAULT_ALIASES = frozenset({DEFAULT_ALIAS, "csms/default"})  # of the services that seal something

MOST_KEYS = 100  # of a tenant; default keys are not counted
DESCRIPTION_CHARACTERS = 255
PENDING_DAYS = range(7, 1097)
ROTATION_DAYS = range(30, 366)
MOST_VERSIONS = 1000  # of one key; rotated every 30 days they last for 82 years

_ALIAS = re.compile(r"[a-zA-Z0-9:/_-]{1,255}")
FURTHER = "alias/"  # what the further names of a key begin with
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Change = Callable[[MasterKey], MasterKey]


@dataclass(frozen=True, slots=True)
class Kind:
    """What keys of one spec are for. bits: of the material, or of the modulus or curve."""

    family: str  # "aes", "hmac", "rsa", "ec"
    bits: int
    usages: tuple[KeyUsage, ...]  # the first is the one where none is said
    algorithms: tuple[str, ...] = ()  # of signing, or of codes; in that of keys for encryption: see algorithm_of()


_PSS_PKCS = tuple(f"RSASSA_{padding}_SHA_{bits}" for padding in ("PSS", "PKCS1_V1_5") for bits in (256, 384, 512))
KINDS: dict[KeySpec, Kind] = {
    "AES_256": Kind("aes", 256, ("ENCRYPT_DECRYPT",)),
    "HMAC_256": Kind("hmac", 256, ("GENERATE_VERIFY_MAC",), ("HMAC_SHA_256",)),
    "HMAC_384": Kind("hmac", 384, ("GENERATE_VERIFY_MAC",), ("HMAC_SHA_384",)),
    "HMAC_512": Kind("hmac", 512, ("GENERATE_VERIFY_MAC",), ("HMAC_SHA_512",)),
    "HMAC_SM3": Kind("hmac", 256, ("GENERATE_VERIFY_MAC",), ("HMAC_SM3",)),
    "RSA_2048": Kind("rsa", 2048, ("SIGN_VERIFY", "ENCRYPT_DECRYPT"), _PSS_PKCS),
    "RSA_3072": Kind("rsa", 3072, ("SIGN_VERIFY", "ENCRYPT_DECRYPT"), _PSS_PKCS),
    "RSA_4096": Kind("rsa", 4096, ("SIGN_VERIFY", "ENCRYPT_DECRYPT"), _PSS_PKCS),
    "EC_P256": Kind("ec", 256, ("SIGN_VERIFY",), ("ECDSA_SHA_256",)),
    "EC_P384": Kind("ec", 384, ("SIGN_VERIFY",), ("ECDSA_SHA_384",)),
}
SYMMETRIC = "SYMMETRIC_DEFAULT"
OAEP = "RSAES_OAEP_SHA_256"


def kind(key: MasterKey) -> Kind:
    """Return what keys of this spec are for."""
    return KINDS[key.spec]


# -- what may be asked for


def spec_of(spec: str) -> KeySpec:
    """Return the kind of key. Invalid(key_spec_unknown)."""
    for known in KINDS:
        if spec == known:
            return known
    raise Invalid("key_spec_unknown", f"{spec[:100]}: no such kind of key here; one of " + ", ".join(KINDS))


def usage_of(spec: KeySpec, usage: str | None) -> KeyUsage:
    """Return what a key of this spec is for, where usage (None: not said) does not say otherwise.

    Invalid: ec_key_cannot_encrypt, symmetric_key_cannot_sign, key_usage_unfit.
    """
    known = KINDS[spec]
    if usage is None:
        return known.usages[0]
    for allowed in known.usages:
        if usage == allowed:
            return allowed
    if known.family == "ec" and usage == "ENCRYPT_DECRYPT":
        raise Invalid("ec_key_cannot_encrypt", f"a key of {spec} signs; for encryption take AES_256 or an RSA key")
    if known.family == "aes" and usage == "SIGN_VERIFY":
        raise Invalid("symmetric_key_cannot_sign", f"a key of {spec} encrypts; for signing take an RSA or EC key")
    raise Invalid("key_usage_unfit", f"{usage[:100]}: a key of {spec} is for " + " or ".join(known.usages))


def origin_of(origin: str) -> KeyOrigin:
    """Return the origin. Invalid(key_origin_unknown)."""
    for known in get_args(KeyOrigin):
        if origin == known:
            return known  # type: ignore[no-any-return]
    raise Invalid("key_origin_unknown", f"{origin[:100]}: the origin of a key is kms (made here) or external (imported)")


def check_alias(alias: str) -> None:
    """Invalid(alias_unusable) for what no customer master key may be called by hand."""
    if not _ALIAS.fullmatch(alias):
        raise Invalid("alias_unusable", f"{alias[:300]!r}: an alias is 1 to 255 letters, digits, and : / _ -")
    if alias.endswith("/default"):
        raise Invalid("alias_unusable", f"{alias}: names that end in /default are those of the services' own keys")


def check_further_alias(alias: str) -> None:
    """Invalid(alias_unusable) for what is not a further name of a key: alias/..."""
    check_alias(alias)
    if not alias.startswith(FURTHER) or alias == FURTHER:
        raise Invalid("alias_unusable", f"{alias}: a further alias begins with {FURTHER}, as in {FURTHER}orders")


def check_description(description: str) -> None:
    """Invalid(description_unusable) for one too long."""
    if len(description) > DESCRIPTION_CHARACTERS or _CONTROL.search(description):
        raise Invalid("description_unusable", f"a description is at most {DESCRIPTION_CHARACTERS} printable characters")


# -- the steps of a life


def enabled(key: MasterKey) -> MasterKey:
    """Return the key enabled. Conflict: master_key_default, master_key_not_disabled, and what its state is otherwise."""
    _ours(key, "enabled or disabled")
    _refuse_gone_or_waiting(key)
    if key.state != "disabled":
        raise Conflict("master_key_not_disabled", f"{key.alias}: it is enabled already")
    return replace(key, state="enabled")


def disabled(key: MasterKey) -> MasterKey:
    """Return the key disabled. Conflict: master_key_default, master_key_not_enabled, and what its state is otherwise."""
    _ours(key, "disabled")
    _refuse_gone_or_waiting(key)
    if key.state != "enabled":
        raise Conflict("master_key_not_enabled", f"{key.alias}: it is disabled already")
    return replace(key, state="disabled")


def to_be_deleted(days: int, at: datetime) -> Change:
    """Return the step that has a key destroyed so many days from at. Invalid(pending_days_unusable)."""
    if days not in PENDING_DAYS:
        raise Invalid("pending_days_unusable", f"{days}: a deletion waits {PENDING_DAYS.start} to {PENDING_DAYS.stop - 1} days")

    def step(key: MasterKey) -> MasterKey:
        _ours(key, "deleted")
        if key.state == "pending_deletion":
            raise Conflict("deletion_already_scheduled", f"{key.alias}: its deletion is scheduled already, for {key.deletes_at}")
        return replace(key, state="pending_deletion", deletes_at=at + timedelta(days=days))

    return step


def not_to_be_deleted(has_material: bool, key: MasterKey) -> MasterKey:
    """Return the key without its deletion: disabled, or waiting for material where it has none."""
    if key.state != "pending_deletion":
        raise Conflict("deletion_not_scheduled", f"{key.alias}: no deletion of it is scheduled")
    return replace(key, state="disabled" if has_material else "pending_import", deletes_at=None)


def destroyed(key: MasterKey) -> MasterKey:
    """Return what stays on record of a key whose date has come: that there was one."""
    if key.state != "pending_deletion":
        raise Conflict("deletion_not_scheduled", f"{key.alias}: no deletion of it is scheduled")
    return replace(
        key, state="destroyed", public_key=None, material_digest=None, material_expires_at=None, rotates_every=None
    )  # fmt: skip


def renamed(alias: str) -> Change:
    """Return the step that gives a key another name of its own. Invalid(alias_unusable)."""
    check_alias(alias)
    return partial(_described, {"alias": alias}, "renamed")


def described(description: str) -> Change:
    """Return the step that gives a key another description. Invalid(description_unusable)."""
    check_description(description)
    return partial(_described, {"description": description}, "described anew")


def _described(changes: dict[str, str], what: str, key: MasterKey) -> MasterKey:
    _ours(key, what)
    if key.state == "pending_deletion":
        raise _pending(key)
    return replace(key, **changes)  # type: ignore[arg-type]


# -- rotation


def may_rotate(key: MasterKey) -> None:
    """Refuse what is never rotated.

    Conflict: master_key_default, mac_key_not_rotated, asymmetric_key_not_rotated, imported_key_not_rotated.
    """
    _ours(key, "rotated by hand")
    family = kind(key).family
    if family == "hmac":
        raise Conflict("mac_key_not_rotated", f"{key.alias}: codes do not say which key made them; make a new key for new codes")
    if family != "aes":
        raise Conflict("asymmetric_key_not_rotated", f"{key.alias}: its public half is out there; make a new key instead")
    if key.origin != "kms":
        raise Conflict(
            "imported_key_not_rotated", f"{key.alias}: its material was imported; import other material into a new key"
        )


def rotation_on(at: datetime, days: int | None = None) -> Change:
    """Return the step that has a key rotated by itself. Conflict(rotation_already_on)."""
    if days is not None:
        _check_rotation(days)

    def step(key: MasterKey) -> MasterKey:
        may_rotate(key)
        refuse_unless_enabled(key)
        if key.rotates_every is not None:
            raise Conflict("rotation_already_on", f"{key.alias}: it is rotated every {key.rotates_every} days already")
        every = days or key.rotation_days
        return replace(key, rotates_every=every, rotation_days=every, rotation_from=at)

    return step


def rotation_off(key: MasterKey) -> MasterKey:
    """Return the key not rotated by itself any more. Conflict(rotation_not_on)."""
    may_rotate(key)
    refuse_unless_enabled(key)
    _refuse_rotation_off(key)
    return replace(key, rotates_every=None, rotation_from=None)


def rotation_interval(days: int) -> Change:
    """Return the step that rotates a key at another interval. Invalid(rotation_interval_unusable), Conflict(rotation_not_on)."""
    _check_rotation(days)

    def step(key: MasterKey) -> MasterKey:
        may_rotate(key)
        refuse_unless_enabled(key)
        _refuse_rotation_off(key)
        return replace(key, rotates_every=days, rotation_days=days)

    return step


def rotated(at: datetime) -> Change:
    """Return the step to a key's next version. Conflict(too_many_versions)."""

    def step(key: MasterKey) -> MasterKey:
        may_rotate(key)
        refuse_unless_enabled(key)
        if key.version >= MOST_VERSIONS:
            raise Conflict("too_many_versions", f"{key.alias}: {key.version} versions; make a new key and re-encrypt to it")
        return replace(
            key,
            version=key.version + 1,
            rotated_at=at,
            rotations=key.rotations + 1,
            rotation_from=at if key.rotates_every is not None else None,
        )

    return step


def next_rotation(key: MasterKey) -> datetime | None:
    """Return when a key is due to be rotated by itself."""
    if key.rotates_every is None or key.rotation_from is None:
        return None
    return key.rotation_from + timedelta(days=key.rotates_every)


def due(key: MasterKey, at: datetime) -> str | None:
    """Return what is due for a key: "destroy", "expire" (its imported material), "rotate", or nothing."""
    if key.state == "pending_deletion" and key.deletes_at is not None and key.deletes_at <= at:
        return "destroy"
    if key.material_expires_at is not None and key.material_expires_at <= at and key.state != "destroyed":
        return "expire"
    rotates = next_rotation(key)
    return "rotate" if key.state == "enabled" and rotates is not None and rotates <= at else None


def _check_rotation(days: int) -> None:
    if days not in ROTATION_DAYS:
        raise Invalid(
            "rotation_interval_unusable",
            f"{days}: a key is rotated every {ROTATION_DAYS.start} to {ROTATION_DAYS.stop - 1} days",
        )


def _refuse_rotation_off(key: MasterKey) -> None:
    if key.rotates_every is None:
        raise Conflict("rotation_not_on", f"{key.alias}: it is not rotated by itself")


# -- imported material


def may_take_material(key: MasterKey) -> None:
    """Conflict: master_key_not_external, master_key_not_waiting (for material), master_key_pending_deletion."""
    if key.origin != "external":
        raise Conflict("master_key_not_external", f"{key.alias}: its material was made here; only an external key takes material")
    if key.state != "pending_import":
        raise (
            _pending(key)
            if key.state == "pending_deletion"
            else Conflict("master_key_not_waiting", f"{key.alias}: it has material; delete that first")
        )


def without_material(key: MasterKey) -> MasterKey:
    """Return the key waiting for its material again; what was scheduled stays scheduled."""
    state = key.state if key.state == "pending_deletion" else "pending_import"
    return replace(key, state=state, material_expires_at=None)


def material_deleted(key: MasterKey) -> MasterKey:
    """Return the key without its imported material, as its owner asked.

    Conflict: master_key_not_external, asymmetric_material_stays, master_key_without_material, master_key_pending_deletion.
    """
    if key.origin != "external":
        raise Conflict("master_key_not_external", f"{key.alias}: its material was made here; schedule the key's deletion instead")
    if kind(key).family in ("rsa", "ec"):
        raise Conflict(
            "asymmetric_material_stays", f"{key.alias}: a private key is not deleted alone; schedule the key's deletion"
        )
    if key.state not in ("enabled", "disabled"):
        raise _pending(key) if key.state == "pending_deletion" else _without_material(key)
    return without_material(key)


# -- the uses


def refuse_unless_enabled(key: MasterKey, at: datetime | None = None) -> None:
    """Conflict by the state: master_key_disabled, master_key_pending_deletion, master_key_without_material, master_key_destroyed.

    at: the time, where imported material that has expired counts as gone before anybody took it away.
    """
    if key.state == "disabled":
        raise Conflict("master_key_disabled", f"{key.alias}: the master key is disabled; enable it first")
    _refuse_gone_or_waiting(key)
    if at is not None and key.material_expires_at is not None and key.material_expires_at <= at:
        raise _without_material(key)


def for_encryption(key: MasterKey, algorithm: str | None = None) -> str:
    """Return the algorithm by which a key encrypts. Refused: mac_key_not_possible, key_is_for_signing, algorithm_unfit."""
    family = kind(key).family
    if family == "hmac":
        raise Invalid("mac_key_not_possible", f"{key.alias}: a key of {key.spec} makes codes; take one that encrypts")
    if key.usage != "ENCRYPT_DECRYPT":
        raise Invalid("key_is_for_signing", f"{key.alias}: this key signs; take one that encrypts")
    own = SYMMETRIC if family == "aes" else OAEP
    if algorithm is not None and algorithm != own:
        raise Invalid("algorithm_unfit", f"{algorithm}: a key of {key.spec} encrypts by {own}")
    return own


def for_data_keys(key: MasterKey) -> None:
    """Refuse what does not seal data keys: asymmetric_key_not_possible, mac_key_not_possible."""
    if kind(key).family in ("rsa", "ec"):
        raise Invalid("asymmetric_key_not_possible", f"{key.alias}: data keys are sealed by an AES_256 key, not by {key.spec}")
    for_encryption(key)


def for_signing(key: MasterKey, algorithm: str) -> None:
    """Refuse what does not sign so: symmetric_key_not_possible, mac_key_not_possible, key_is_for_encryption, algorithm_unfit."""
    _refuse_symmetric(key, "sign")
    if key.usage != "SIGN_VERIFY":
        raise Invalid("key_is_for_encryption", f"{key.alias}: this key encrypts; take one that signs")
    _refuse_algorithm(key, algorithm)


def for_codes(key: MasterKey, algorithm: str) -> None:
    """Refuse what does not make message authentication codes so: key_makes_no_codes, algorithm_unfit."""
    if kind(key).family != "hmac":
        raise Invalid("key_makes_no_codes", f"{key.alias}: a key of {key.spec} makes no codes; take one of HMAC_256 and the like")
    _refuse_algorithm(key, algorithm)


def for_public_key(key: MasterKey) -> None:
    """Refuse what has no public half: symmetric_key_not_possible, mac_key_not_possible."""
    _refuse_symmetric(key, "have a public half")


def refuse_default(key: MasterKey, what: str) -> None:
    """Conflict(master_key_default) for a service's own key."""
    _ours(key, what)


def _refuse_symmetric(key: MasterKey, what: str) -> None:
    family = kind(key).family
    if family == "hmac":
        raise Invalid("mac_key_not_possible", f"{key.alias}: a key of {key.spec} does not {what}; take an RSA or EC key")
    if family == "aes":
        raise Invalid("symmetric_key_not_possible", f"{key.alias}: a key of {key.spec} does not {what}; take an RSA or EC key")


def _refuse_algorithm(key: MasterKey, algorithm: str) -> None:
    if algorithm not in kind(key).algorithms:
        raise Invalid("algorithm_unfit", f"{algorithm[:100]}: a key of {key.spec} takes " + ", ".join(kind(key).algorithms))


def _ours(key: MasterKey, what: str) -> None:
    if key.default:
        raise Conflict("master_key_default", f"{key.alias}: a service's own key is never {what}; make a key of your own")


def _refuse_gone_or_waiting(key: MasterKey) -> None:
    if key.state == "pending_deletion":
        raise _pending(key)
    if key.state == "pending_import":
        raise _without_material(key)
    if key.state == "destroyed":
        raise Conflict("master_key_destroyed", f"{key.alias}: this master key was destroyed; nothing opens what it has sealed")


def _pending(key: MasterKey) -> Conflict:
    when = "" if key.deletes_at is None else f" at {key.deletes_at:%Y-%m-%d %H:%M} UTC"
    return Conflict(
        "master_key_pending_deletion", f"{key.alias}: the master key is to be deleted{when}; cancel that first, and enable it"
    )


def _without_material(key: MasterKey) -> Conflict:
    return Conflict("master_key_without_material", f"{key.alias}: the master key has no material; import it (again) first")
