"""Secrets: kept in versions, opened on record, and, where they are passwords, set on their servers."""

from typing import Annotated

from fastapi import Query

from controller.api import secretshapes, shapes
from controller.api.fleet.asking import PAGE, AfterName, Asking, Limit, Serving, router_of
from controller.api.shapes import Json
from controller.errors import Invalid

router = router_of()
OfSecret = Annotated[str | None, Query(max_length=255)]


@router.get("/secrets")
async def list_secrets(fleet: Serving, who: Asking, after: AfterName = "", limit: Limit = PAGE) -> list[Json]:
    """List the secrets that the caller may know of, by name, without their values: of those after a name, the first so many."""
    return [secretshapes.kept(found) for found in await fleet.secrets.list(who, after, limit)]


@router.post("/secrets", status_code=201)
async def create_secret(fleet: Serving, who: Asking, asked: secretshapes.NewSecret) -> Json:
    """Take a secret in. A password may come without a value: the first rotation makes one."""
    value = asked.secret()
    server = None if asked.server is None else await fleet.servers.get(who, asked.server)
    try:
        made = await fleet.secrets.create(
            who,
            asked.name,
            value,
            scope=asked.scope,
            description=asked.description,
            binary=asked.binary,
            expires_at=asked.expires_at,
            server=server,
            login=asked.login,
        )
    finally:
        if value is not None:
            value.wipe()
    return secretshapes.kept(made)


@router.get("/secrets/{name}")
async def show_secret(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one secret and its versions, without values."""
    return secretshapes.whole(*await fleet.secrets.get(who, name))


@router.patch("/secrets/{name}")
async def change_secret(fleet: Serving, who: Asking, name: str, asked: secretshapes.ChangedSecret) -> Json:
    """Describe a secret anew."""
    return secretshapes.kept(await fleet.secrets.describe(who, name, asked.description))


@router.delete("/secrets/{name}", status_code=204)
async def delete_secret(fleet: Serving, who: Asking, name: str) -> None:
    """Delete a secret with all its versions, for good. What a server has as a password stays there."""
    await fleet.secrets.delete(who, name)


@router.post("/secrets/{name}/versions", status_code=201)
async def store_secret(fleet: Serving, who: Asking, name: str, asked: secretshapes.NewSecretVersion) -> Json:
    """Keep a new version of a secret; it becomes the current one, where no stages are named."""
    value = asked.secret()
    if value is None:
        raise Invalid("secret_missing", f"{name}: give value or value_base64")
    try:
        found = await fleet.secrets.keep(who, name, value, stages=asked.stages, binary=asked.binary, expires_at=asked.expires_at)
    finally:
        value.wipe()
    return secretshapes.version(found)


@router.post("/secrets/{name}/open")
async def open_secret(fleet: Serving, who: Asking, name: str, asked: secretshapes.OpenSecret | None = None) -> Json:
    """Give a version with its value to the person who asks; on record first."""
    asked = asked or secretshapes.OpenSecret()
    found, value = await fleet.secrets.open(who, name, version=asked.version, stage=asked.stage)
    try:
        return secretshapes.opened(name, found, value)
    finally:
        value.wipe()


@router.put("/secrets/{name}/stages/{stage}")
async def set_stage(fleet: Serving, who: Asking, name: str, stage: str, asked: secretshapes.MarkedVersion) -> Json:
    """Have a stage mark a version, and answer with all stages."""
    return secretshapes.named_stages(await fleet.secrets.set_stage(who, name, stage, asked.version))


@router.delete("/secrets/{name}/stages/{stage}")
async def delete_stage(fleet: Serving, who: Asking, name: str, stage: str) -> Json:
    """Delete a stage, and answer with those that are left; SYSCURRENT and SYSPREVIOUS cannot be deleted."""
    return secretshapes.named_stages(await fleet.secrets.delete_stage(who, name, stage))


@router.post("/secrets/{name}/rotate", status_code=202)
async def rotate_secret(fleet: Serving, who: Asking, name: str, asked: secretshapes.RotateSecret | None = None) -> Json:
    """Make a new version of a password, and set it on its server by a task that runs from now on."""
    given = asked.credential.credential() if asked is not None and asked.credential is not None else None
    rotation, task = await fleet.secrets.rotate(who, name, given)
    return {"rotation": secretshapes.rotation(rotation), "task": shapes.task(task)}


@router.put("/secrets/{name}/rotation")
async def set_secret_schedule(fleet: Serving, who: Asking, name: str, asked: secretshapes.SecretSchedule) -> Json:
    """Have a password rotated by itself, every so often (30d, 12h)."""
    return secretshapes.kept(await fleet.secrets.schedule(who, name, asked.every))


@router.delete("/secrets/{name}/rotation")
async def delete_secret_schedule(fleet: Serving, who: Asking, name: str) -> Json:
    """Have a password rotated by hand only."""
    return secretshapes.kept(await fleet.secrets.schedule(who, name, None))


@router.get("/secret-rotations")
async def list_secret_rotations(fleet: Serving, who: Asking, secret: OfSecret = None, failed: bool = False) -> list[Json]:
    """List the rotations of passwords, the oldest first: of one secret, or of all; failed: those alone. Kept 30 days."""
    return [secretshapes.rotation(each) for each in await fleet.secrets.rotations(who, secret, failed=failed)]
