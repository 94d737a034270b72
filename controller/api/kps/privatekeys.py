"""Private halves: taken into custody, given out, cleared."""

import io
import zipfile
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import Field

from controller.api.fleet.asking import Fleet
from controller.api.kps.asking import Asking, Serving, is_own
from controller.api.kps.keypairs import KEY_BYTES, MOST_AT_ONCE, Encryption
from controller.api.kps.reading import Given, KeyText, Text, body_as
from controller.api.kps.refusals import Refusal, wrong
from controller.errors import NotFound
from controller.model import Caller, Secret

Json = dict[str, Any]
router = APIRouter()


class Protected(Given):
    private_key: Annotated[KeyText, Field(min_length=1, max_length=KEY_BYTES)]
    encryption: Encryption


class Imported(Given):
    name: Text
    user_id: Text | None = None
    key_protection: Protected


class Import(Given):
    keypair: Imported


class Named(Given):
    name: Text


class Export(Given):
    keypair: Named


@router.post("/keypairs/private-key/import")
async def import_private_key(fleet: Serving, who: Asking, asked: Annotated[Import, Depends(body_as(Import))]) -> Json:
    """Take the private half of a key pair into custody, or seal it under another master key."""
    wanted = asked.keypair
    is_own(who, wanted.user_id)
    private = Secret(wanted.key_protection.private_key.get_secret_value())
    try:
        await fleet.custody.manage(who, wanted.name, private, master_key=wanted.key_protection.encryption.master_key, again=True)
    finally:
        private.wipe()
    return {"keypair": {"name": wanted.name}}


@router.post("/keypairs/private-key/export")
async def export_private_key(fleet: Serving, who: Asking, asked: Annotated[Export, Depends(body_as(Export))]) -> Json:
    """Give the private half to the person who asks for it."""
    private = await text_of(fleet, who, asked.keypair.name)
    try:
        return {"keypair": {"name": asked.keypair.name, "private_key": private.open().decode("ascii")}}
    finally:
        private.wipe()


@router.post("/keypairs/private-key/batch-export", response_class=Response)
async def batch_export_private_key(
    fleet: Serving, who: Asking, asked: Annotated[list[Export], Depends(body_as(list[Export]))]
) -> Response:
    """Give several private halves as one zip archive, each NAME.pem; all of them or none."""
    if not 1 <= len(asked) <= MOST_AT_ONCE:
        raise wrong(f"{len(asked)} elements; 1 to {MOST_AT_ONCE} at a time")
    names = [each.keypair.name for each in asked]
    if len(set(names)) != len(names):
        raise wrong("a name comes twice")
    for name in names:  # before anything is opened
        keypair = await fleet.keypairs.get(who, name)
        if not keypair.managed:
            raise Refusal(400, "KPS.6005", f"{name}: the private half is not in custody")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            private = await text_of(fleet, who, name)
            packed.writestr(f"{name}.pem", private.open())
            private.wipe()
    headers = {"Content-Disposition": "attachment; filename=keypairs.zip"}
    return Response(archive.getvalue(), media_type="application/octet-stream", headers=headers)


@router.delete("/keypairs/{keypair_name}/private-key")
async def clear_private_key(fleet: Serving, who: Asking, keypair_name: str) -> Json:
    """Destroy the private half in custody; the key pair stays."""
    if not (await fleet.keypairs.get(who, keypair_name)).managed:
        raise NotFound("keypair_not_found", f"{keypair_name}: there is no private half in custody", keypair=keypair_name)
    await fleet.custody.clear(who, keypair_name)
    return {}


async def text_of(fleet: Fleet, who: Caller, name: str) -> Secret:
    """Return a private half in the form that clients of this API know: traditional PEM, where there is one for its type."""
    keypair = await fleet.keypairs.get(who, name)
    return await fleet.keypairs.export(who, name, "openssh" if keypair.type == "ed25519" else "pem")
