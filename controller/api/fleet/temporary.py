"""What users are given for a while: temporary access keys, and tokens."""

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.shapes import Json

router = router_of()


@router.get("/temporary-keys")
async def list_temporary_keys(fleet: Serving, who: Asking, user: str | None = None) -> list[Json]:
    """List the temporary access keys of a user, or all that the caller may see."""
    return [shapes.temporary_key(found, name) for found, name in await fleet.temporary_keys.list(who, user)]


@router.post("/temporary-keys", status_code=201)
async def create_temporary_key(fleet: Serving, who: Asking, asked: shapes.NewTemporaryKey) -> Json:
    """Make a temporary access key; its secret and its security token are in this answer and nowhere else."""
    made = await fleet.temporary_keys.create(who, asked.access_key, asked.seconds)
    secrets = {"secret_key": made.secret.open().decode(), "security_token": made.token.open().decode()}
    return shapes.temporary_key(made.key, made.user) | {"project_id": made.project_id} | secrets


@router.delete("/temporary-keys/{access_key}", status_code=204)
async def revoke_temporary_key(fleet: Serving, who: Asking, access_key: str) -> None:
    """End a temporary access key now."""
    await fleet.temporary_keys.revoke(who, access_key)


@router.get("/tokens")
async def list_tokens(fleet: Serving, who: Asking, user: str | None = None) -> list[Json]:
    """List the tokens of a user, or all that the caller may see."""
    return [shapes.token(found, name) for found, name in await fleet.tokens.list(who, user)]


@router.post("/tokens", status_code=201)
async def create_token(fleet: Serving, who: Asking, asked: shapes.NewToken) -> Json:
    """Make a token, which is in this answer and nowhere else."""
    made, user, token = await fleet.tokens.create(who, asked.user, asked.seconds, asked.description)
    return shapes.token(made, user) | {"token": token.open().decode()}


@router.delete("/tokens/{token_id}", status_code=204)
async def revoke_token(fleet: Serving, who: Asking, token_id: str) -> None:
    """End a token now."""
    await fleet.tokens.revoke(who, token_id)
