"""Users, access keys, quotas and tenants."""

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.shapes import Json

router = router_of()


@router.get("/whoami")
async def whoami(fleet: Serving, who: Asking) -> Json:
    """Say as whom the caller is taken."""
    user = await fleet.users.get(who, who.user_id)
    tenant = next(each for each in await fleet.tenants.list(who) if each.id == who.tenant_id)
    return {
        "user": user.name,
        "user_id": user.id,
        "role": who.role,
        "kind": who.kind,
        "tenant": tenant.name,
        "tenant_id": tenant.id,
        "project_id": who.project_id,
        "at_home": who.at_home,
    }


@router.get("/users")
async def list_users(fleet: Serving, who: Asking) -> list[Json]:
    """List the tenant's users."""
    return [shapes.user(found) for found in await fleet.users.list(who)]


@router.post("/users", status_code=201)
async def create_user(fleet: Serving, who: Asking, asked: shapes.NewUser) -> Json:
    """Take a user in."""
    return shapes.user(await fleet.users.create(who, **asked.model_dump()))


@router.get("/users/{name}")
async def show_user(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one user."""
    return shapes.user(await fleet.users.get(who, name))


@router.patch("/users/{name}")
async def change_user(fleet: Serving, who: Asking, name: str, asked: shapes.ChangedUser) -> Json:
    """Change a user; what is left out stays as it is."""
    return shapes.user(await fleet.users.change(who, name, **asked.model_dump()))


@router.delete("/users/{name}")
async def delete_user(fleet: Serving, who: Asking, name: str, with_keypairs: bool = False) -> Json:
    """Delete a user; with_keypairs: with their private key pairs, which are named in the answer."""
    return {"name": name, "keypairs": await fleet.users.delete(who, name, with_keypairs=with_keypairs)}


@router.get("/access-keys")
async def list_access_keys(fleet: Serving, who: Asking, user: str | None = None) -> list[Json]:
    """List the access keys of a user, or all that the caller may see."""
    return [shapes.access_key(found, name) for found, name in await fleet.access_keys.list(who, user)]


@router.post("/access-keys", status_code=201)
async def create_access_key(fleet: Serving, who: Asking, asked: shapes.NewAccessKey) -> Json:
    """Make an access key; its secret is in this answer and nowhere else."""
    made, secret = await fleet.access_keys.create(who, asked.user, asked.days)
    return await _with_secret(fleet, who, made.access_key, secret.open().decode())


@router.post("/access-keys/{access_key}/rotate", status_code=201)
async def rotate_access_key(fleet: Serving, who: Asking, access_key: str, asked: shapes.Rotation) -> Json:
    """Make an access key in the place of one, which goes on for so many hours; the new secret is in this answer alone."""
    made, secret = await fleet.access_keys.rotate(who, access_key, asked.beside_hours)
    return await _with_secret(fleet, who, made.access_key, secret.open().decode())


@router.patch("/access-keys/{access_key}")
async def change_access_key(fleet: Serving, who: Asking, access_key: str, asked: shapes.ChangedAccessKey) -> Json:
    """Enable or disable an access key."""
    await fleet.access_keys.enable(who, access_key, enabled=asked.enabled)
    return await _one(fleet, who, access_key)


@router.delete("/access-keys/{access_key}", status_code=204)
async def delete_access_key(fleet: Serving, who: Asking, access_key: str) -> None:
    """Delete an access key."""
    await fleet.access_keys.delete(who, access_key)


@router.get("/quotas")
async def show_quotas(fleet: Serving, who: Asking, user: str | None = None) -> list[Json]:
    """Show the quotas of the tenant, or of a user, and what is used of each."""
    return [shapes.usage(each) for each in await fleet.quotas.show(who, user)]


@router.put("/quotas/{name}")
async def set_quota(fleet: Serving, who: Asking, name: str, asked: shapes.NewQuota) -> list[Json]:
    """Set a quota of the tenant, or of a user; without a limit the default holds again."""
    return [shapes.usage(each) for each in await fleet.quotas.set(who, name, asked.limit, asked.user)]


@router.get("/tenant")
async def show_tenant(fleet: Serving, who: Asking) -> Json:
    """Show the caller's own tenant."""
    return shapes.tenant(await fleet.tenants.own(who))


@router.patch("/tenant")
async def change_tenant(fleet: Serving, who: Asking, asked: shapes.ChangedTenant) -> Json:
    """Change what the caller's own tenant lets v3 calls do."""
    return shapes.tenant(await fleet.tenants.change(who, v3_accepts_lockout=asked.v3_accepts_lockout))


@router.get("/tenants")
async def list_tenants(fleet: Serving, who: Asking) -> list[Json]:
    """List all tenants for the home's owner, for everybody else their own."""
    return [shapes.tenant(found) for found in await fleet.tenants.list(who)]


@router.post("/tenants", status_code=201)
async def create_tenant(fleet: Serving, who: Asking, asked: shapes.NewTenant) -> Json:
    """Make a tenant with its administrator, whose secret key is in this answer and nowhere else."""
    made, first, access_key, secret = await fleet.tenants.create(who, asked.name, asked.administrator)
    known = {"administrator": asked.administrator, "user_id": first.user_id, "access_key": access_key}
    return shapes.tenant(made) | known | {"secret_key": secret.open().decode()}


@router.post("/tenants/{name}/access-key", status_code=201)
async def rescue_tenant(fleet: Serving, who: Asking, name: str) -> Json:
    """Make an access key for a tenant's oldest administrator, in the place of all theirs; the secret is in this answer."""
    user, key, secret = await fleet.tenants.access_key(who, name)
    return shapes.access_key(key, user.name) | {"secret_key": secret.open().decode()}


async def _one(fleet: Serving, who: Asking, access_key: str) -> Json:
    found = await fleet.access_keys.list(who)
    return next(shapes.access_key(each, name) for each, name in found if each.access_key == access_key)


async def _with_secret(fleet: Serving, who: Asking, access_key: str, secret: str) -> Json:
    return await _one(fleet, who, access_key) | {"secret_key": secret}
