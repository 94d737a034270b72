"""Customer master keys, and what they are used for. {key}: an id, or an alias in which there is no slash."""

from typing import Annotated

from fastapi import Query

from controller.api import keyshapes
from controller.api.fleet.asking import Asking, Serving, Words, router_of
from controller.api.keyshapes import decoded, encoded
from controller.api.shapes import Json, instant
from controller.service.kms.lives import state_of

MOST_LISTED = 1000

router = router_of("/kms")

# -- keys


@router.get("/keys")
async def list_master_keys(
    fleet: Serving,
    who: Asking,
    tag: Words,
    named: str | None = None,
    spec: str | None = None,
    state: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> list[Json]:
    """List master keys. named: the one of this id, alias or further alias, or 404. tag: NAME or NAME=VALUE."""
    if named is not None:
        return [keyshapes.master_key(await fleet.kms.keys.get(who, named))]
    found, _ = await fleet.kms.keys.list(
        who, spec=spec, state=None if state is None else state_of(state), tags=keyshapes.tags(tag), limit=limit, offset=offset
    )  # fmt: skip
    return [keyshapes.master_key(one) for one in found]


@router.post("/keys", status_code=201)
async def create_master_key(fleet: Serving, who: Asking, asked: keyshapes.NewMasterKey) -> Json:
    """Make a master key; an external one waits for its material."""
    made = await fleet.kms.keys.create(
        who, asked.alias, spec=asked.spec, usage=asked.usage, origin=asked.origin, description=asked.description, tags=asked.tags
    )  # fmt: skip
    return keyshapes.master_key(made)


@router.get("/quota")
async def show_quota(fleet: Serving, who: Asking) -> Json:
    """Show how many master keys there are that count, and how many may be."""
    found = await fleet.kms.keys.quota(who)
    return {"used": found.used, "limit": found.limit, "grants_per_key": found.grants_per_key}


@router.get("/keys/{key}")
async def show_master_key(fleet: Serving, who: Asking, key: str) -> Json:
    """Show one master key with its versions, tags and further aliases."""
    found = await fleet.kms.keys.get(who, key)
    versions = await fleet.kms.keys.versions(who, found.id)
    return keyshapes.master_key(found) | {
        "versions": [{"version": number, "created_at": instant(at)} for number, at in versions],
        "tags": await fleet.kms.names.tags(who, found.id),
        "aliases": [one.alias for one in await fleet.kms.names.aliases(who, found.id)],
    }


@router.patch("/keys/{key}")
async def change_master_key(fleet: Serving, who: Asking, key: str, asked: keyshapes.ChangedMasterKey) -> Json:
    """Give a master key another alias or description; what is left out stays as it is."""
    found = await fleet.kms.keys.get(who, key)
    if asked.description is not None:
        found = await fleet.kms.keys.describe(who, found.id, asked.description)
    if asked.alias is not None:
        found = await fleet.kms.keys.rename(who, found.id, asked.alias)
    return keyshapes.master_key(found)


@router.post("/keys/{key}/enable")
async def enable_master_key(fleet: Serving, who: Asking, key: str) -> Json:
    """Enable a master key."""
    return keyshapes.master_key(await fleet.kms.keys.enable(who, key))


@router.post("/keys/{key}/disable")
async def disable_master_key(fleet: Serving, who: Asking, key: str, asked: keyshapes.Disabling) -> Json:
    """Disable a master key: nothing that it sealed opens until it is enabled again."""
    return keyshapes.master_key(await fleet.kms.keys.disable(who, key, even_if_only_way_in=asked.even_if_only_way_in))


@router.post("/keys/{key}/schedule-deletion")
async def schedule_deletion(fleet: Serving, who: Asking, key: str, asked: keyshapes.Deletion) -> Json:
    """Have a master key destroyed in so many days."""
    return keyshapes.master_key(
        await fleet.kms.keys.schedule_deletion(who, key, asked.days, even_if_only_way_in=asked.even_if_only_way_in)
    )


@router.post("/keys/{key}/cancel-deletion")
async def cancel_deletion(fleet: Serving, who: Asking, key: str) -> Json:
    """Keep a master key that was to be destroyed; it is disabled then."""
    return keyshapes.master_key(await fleet.kms.keys.cancel_deletion(who, key))


@router.post("/keys/{key}/rotate")
async def rotate(fleet: Serving, who: Asking, key: str) -> Json:
    """Give a master key its next version now."""
    return keyshapes.master_key(await fleet.kms.keys.rotate(who, key))


@router.put("/keys/{key}/rotation")
async def set_rotation(fleet: Serving, who: Asking, key: str, asked: keyshapes.Rotation) -> Json:
    """Have a master key rotated by itself, or at another interval."""
    found = await fleet.kms.keys.get(who, key)
    if found.rotates_every is not None and asked.days is not None:
        return keyshapes.master_key(await fleet.kms.keys.change_rotation(who, found.id, asked.days))
    return keyshapes.master_key(await fleet.kms.keys.enable_rotation(who, found.id, asked.days))


@router.delete("/keys/{key}/rotation")
async def end_rotation(fleet: Serving, who: Asking, key: str) -> Json:
    """Have a master key rotated by itself no more."""
    return keyshapes.master_key(await fleet.kms.keys.disable_rotation(who, key))


@router.post("/keys/{key}/import-parameters")
async def import_parameters(fleet: Serving, who: Asking, key: str, asked: keyshapes.ImportBegun) -> Json:
    """Give what is needed to import material: a key to encrypt it with, and a token; both good for a day."""
    given = await fleet.kms.imports.parameters(who, key, asked.algorithm)
    return {
        "key_id": given.key.id,
        "token": encoded(given.token),
        "public_key": encoded(given.public_key),
        "expires_at": instant(given.expires_at),
    }


@router.post("/keys/{key}/material")
async def import_material(fleet: Serving, who: Asking, key: str, asked: keyshapes.Imported) -> Json:
    """Take material in, and enable the key."""
    private = None if asked.private_key is None else decoded(asked.private_key, "private_key")
    token, material = decoded(asked.token, "token"), decoded(asked.material, "material")
    expires_at = keyshapes.expiry(asked.expires_at)
    return keyshapes.master_key(
        await fleet.kms.imports.import_(who, key, token, material, private_key=private, expires_at=expires_at)
    )


@router.post("/keys/{key}/delete-material")
async def delete_material(fleet: Serving, who: Asking, key: str, asked: keyshapes.Disabling) -> Json:
    """Take imported material away for good."""
    return keyshapes.master_key(await fleet.kms.imports.delete(who, key, even_if_only_way_in=asked.even_if_only_way_in))


# -- grants, tags, further aliases


@router.get("/keys/{key}/grants")
async def list_grants(fleet: Serving, who: Asking, key: str) -> list[Json]:
    """List the grants of a master key."""
    return [keyshapes.grant(one) for one in await fleet.kms.grants.list(who, key)]


@router.post("/keys/{key}/grants", status_code=201)
async def create_grant(fleet: Serving, who: Asking, key: str, asked: keyshapes.NewGrant) -> Json:
    """Give a user leave to use a master key."""
    made = await fleet.kms.grants.create(
        who, key, asked.grantee, asked.operations, grant_name=asked.name, retiring=asked.retiring
    )  # fmt: skip
    return keyshapes.grant(made)


@router.post("/keys/{key}/grants/{grant_id}/revoke")
async def revoke_grant(fleet: Serving, who: Asking, key: str, grant_id: str) -> Json:
    """Take a grant back."""
    return keyshapes.grant(await fleet.kms.grants.revoke(who, key, grant_id))


@router.post("/keys/{key}/grants/{grant_id}/retire")
async def retire_grant(fleet: Serving, who: Asking, key: str, grant_id: str) -> Json:
    """Give a grant up."""
    return keyshapes.grant(await fleet.kms.grants.retire(who, key, grant_id))


@router.get("/retirable-grants")
async def list_retirable_grants(fleet: Serving, who: Asking) -> list[Json]:
    """List the grants that the caller may retire."""
    return [keyshapes.grant(one) for one in await fleet.kms.grants.retirable(who)]


@router.post("/keys/{key}/tags")
async def tag_master_key(fleet: Serving, who: Asking, key: str, asked: keyshapes.Tags) -> dict[str, str]:
    """Put tags on a master key, and return them all."""
    return await fleet.kms.names.tag(who, key, asked.tags)


@router.delete("/keys/{key}/tags", status_code=204)
async def untag_master_key(fleet: Serving, who: Asking, key: str, tag: Words) -> None:
    """Take tags off a master key."""
    await fleet.kms.names.untag(who, key, tag)


@router.get("/tags")
async def list_tags(fleet: Serving, who: Asking) -> dict[str, list[str]]:
    """List the names of all tags, each with its values."""
    return await fleet.kms.names.all_tags(who)


@router.get("/aliases")
async def list_aliases(fleet: Serving, who: Asking, key: str | None = None) -> list[Json]:
    """List the further aliases of all master keys, or of one."""
    return [keyshapes.alias(one) for one in await fleet.kms.names.aliases(who, key)]


@router.post("/aliases", status_code=201)
async def add_alias(fleet: Serving, who: Asking, asked: keyshapes.Alias) -> Json:
    """Give a master key a further alias."""
    return keyshapes.alias(await fleet.kms.names.add_alias(who, asked.key, asked.alias))


@router.put("/aliases")
async def move_alias(fleet: Serving, who: Asking, asked: keyshapes.Alias) -> Json:
    """Have a further alias mean another master key."""
    return keyshapes.alias(await fleet.kms.names.move_alias(who, asked.alias, asked.key))


@router.delete("/aliases", status_code=204)
async def delete_alias(fleet: Serving, who: Asking, alias: str) -> None:
    """Take a further alias away."""
    await fleet.kms.names.delete_alias(who, alias)


# -- data


@router.post("/keys/{key}/encrypt")
async def encrypt(fleet: Serving, who: Asking, key: str, asked: keyshapes.Plain) -> Json:
    """Encrypt up to 4096 bytes."""
    plaintext, added = keyshapes.secret_of(asked.plaintext, "plaintext"), decoded(asked.additional_data, "additional_data")
    try:
        made = await fleet.kms.uses.encrypt(who, key, plaintext, added, asked.algorithm)
    finally:
        plaintext.wipe()
    return {"key_id": made.key.id, "algorithm": made.algorithm, "ciphertext": encoded(made.ciphertext)}


@router.post("/decrypt")
async def decrypt(fleet: Serving, who: Asking, asked: keyshapes.Cipher) -> Json:
    """Decrypt; a symmetric ciphertext says itself which key made it."""
    given, added = decoded(asked.ciphertext, "ciphertext"), decoded(asked.additional_data, "additional_data")
    opened = await fleet.kms.uses.decrypt(who, given, added, name=asked.key, algorithm=asked.algorithm)
    try:
        return {"key_id": opened.key.id, "algorithm": opened.algorithm, "plaintext": encoded(opened.plaintext)}
    finally:
        opened.plaintext.wipe()


@router.post("/re-encrypt")
async def re_encrypt(fleet: Serving, who: Asking, asked: keyshapes.ReEncryption) -> Json:
    """Encrypt anew under another key; the plaintext is given to nobody."""
    made = await fleet.kms.uses.re_encrypt(
        who,
        decoded(asked.ciphertext, "ciphertext"),
        asked.destination,
        source=asked.source,
        source_additional_data=decoded(asked.source_additional_data, "source_additional_data"),
        additional_data=decoded(asked.additional_data, "additional_data"),
        source_algorithm=asked.source_algorithm,
        algorithm=asked.algorithm,
        length=asked.length,
    )
    return {
        "key_id": made.key.id,
        "algorithm": made.algorithm,
        "source_key_id": made.source.id if made.source else None,
        "source_algorithm": made.source_algorithm,
        "ciphertext": encoded(made.ciphertext),
    }


@router.post("/keys/{key}/data-keys")
async def create_data_key(fleet: Serving, who: Asking, key: str, asked: keyshapes.NewDataKey) -> Json:
    """Make a data key: sealed, and in the clear where that is asked for."""
    made = await fleet.kms.uses.create_data_key(
        who, key, spec=asked.spec, bits=asked.bits,
        additional_data=decoded(asked.additional_data, "additional_data"), with_plaintext=asked.with_plaintext,
    )  # fmt: skip
    return {"key_id": made.key.id, "ciphertext": encoded(made.ciphertext)} | (
        {"plaintext": encoded(made.plaintext)} if made.plaintext is not None else {}
    )


@router.post("/keys/{key}/encrypt-data-key")
async def encrypt_data_key(fleet: Serving, who: Asking, key: str, asked: keyshapes.PlainDataKey) -> Json:
    """Seal a data key of the caller's own."""
    plaintext, digest = keyshapes.secret_of(asked.plaintext, "plaintext"), decoded(asked.digest, "digest")
    added = decoded(asked.additional_data, "additional_data")
    try:
        made = await fleet.kms.uses.encrypt_data_key(who, key, plaintext, digest, asked.length, added)
    finally:
        plaintext.wipe()
    return {"key_id": made.key.id, "ciphertext": encoded(made.ciphertext), "length": asked.length}


@router.post("/keys/{key}/decrypt-data-key")
async def decrypt_data_key(fleet: Serving, who: Asking, key: str, asked: keyshapes.SealedDataKey) -> Json:
    """Open a data key."""
    given, added = decoded(asked.ciphertext, "ciphertext"), decoded(asked.additional_data, "additional_data")
    opened, digest = await fleet.kms.uses.decrypt_data_key(who, key, given, asked.length, added)
    try:
        plaintext = encoded(opened.plaintext)
        return {"key_id": opened.key.id, "plaintext": plaintext, "length": len(opened.plaintext), "digest": encoded(digest)}
    finally:
        opened.plaintext.wipe()


@router.post("/keys/{key}/data-key-pairs")
async def create_data_key_pair(fleet: Serving, who: Asking, key: str, asked: keyshapes.NewDataKeyPair) -> Json:
    """Make a key pair, its private half sealed, and in the clear where that is asked for."""
    added = decoded(asked.additional_data, "additional_data")
    made = await fleet.kms.uses.create_data_key_pair(
        who, key, asked.spec, additional_data=added, with_plaintext=asked.with_plaintext
    )  # fmt: skip
    shape = {
        "key_id": made.key.id,
        "spec": made.spec,
        "public_key": encoded(made.public_key),
        "ciphertext": encoded(made.ciphertext),
    }
    if made.private_key is not None:
        shape["private_key"] = encoded(made.private_key)
        made.private_key.wipe()
    return shape


@router.post("/random")
async def random(fleet: Serving, who: Asking, asked: keyshapes.Randomness) -> Json:
    """Give random bits."""
    return {"random": encoded(await fleet.kms.uses.random(who, asked.bits))}


# -- signatures and codes


@router.get("/keys/{key}/public-key")
async def public_key(fleet: Serving, who: Asking, key: str) -> Json:
    """Give the public half as PEM."""
    found, pem = await fleet.kms.uses.public_key(who, key)
    return {"key_id": found.id, "public_key": pem}


@router.post("/keys/{key}/sign")
async def sign(fleet: Serving, who: Asking, key: str, asked: keyshapes.ToSign) -> Json:
    """Sign a digest, or a message of up to 4096 bytes."""
    message, digested = decoded(asked.message, "message"), asked.message_type == "DIGEST"
    found, signature = await fleet.kms.uses.sign(who, key, message, asked.algorithm, digested=digested)
    return {"key_id": found.id, "algorithm": asked.algorithm, "signature": encoded(signature)}


@router.post("/keys/{key}/verify")
async def verify(fleet: Serving, who: Asking, key: str, asked: keyshapes.Signed) -> Json:
    """Say whether a signature is the key's."""
    message, signature = decoded(asked.message, "message"), decoded(asked.signature, "signature")
    digested = asked.message_type == "DIGEST"
    found, good = await fleet.kms.uses.verify(who, key, message, signature, asked.algorithm, digested=digested)
    return {"key_id": found.id, "algorithm": asked.algorithm, "valid": good}


@router.post("/keys/{key}/mac")
async def make_code(fleet: Serving, who: Asking, key: str, asked: keyshapes.ToCode) -> Json:
    """Make a message authentication code."""
    found, code = await fleet.kms.uses.code(who, key, decoded(asked.message, "message"), asked.algorithm)
    return {"key_id": found.id, "algorithm": asked.algorithm, "mac": encoded(code)}


@router.post("/keys/{key}/verify-mac")
async def verify_code(fleet: Serving, who: Asking, key: str, asked: keyshapes.Coded) -> Json:
    """Say whether a message authentication code is the key's."""
    message, given = decoded(asked.message, "message"), decoded(asked.mac, "mac")
    found, good = await fleet.kms.uses.verify_code(who, key, message, given, asked.algorithm)
    return {"key_id": found.id, "algorithm": asked.algorithm, "valid": good}
