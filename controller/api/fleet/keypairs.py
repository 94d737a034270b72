"""Key pairs."""

from controller.api import shapes
from controller.api.fleet.asking import PAGE, AfterName, Asking, Limit, Serving, router_of
from controller.api.shapes import Json

router = router_of()


@router.get("/keypairs")
async def list_keypairs(fleet: Serving, who: Asking, after: AfterName = "", limit: Limit = PAGE) -> list[Json]:
    """List the key pairs that the caller may see, by name: of those after a name, the first so many."""
    return [shapes.keypair(found) for found in await fleet.keypairs.list(who, after, limit)]


@router.post("/keypairs", status_code=201)
async def create_keypair(fleet: Serving, who: Asking, asked: shapes.NewKeypair) -> Json:
    """Generate a key pair; the private half of an unmanaged one is in this answer and nowhere else."""
    made, private = await fleet.keypairs.create(who, asked.name, asked.type, asked.scope, asked.managed, asked.master_key)
    shape = shapes.keypair(made)
    if private is not None:
        shape["private_key"] = private.open().decode("ascii")
    return shape


@router.post("/keypairs/import", status_code=201)
async def import_keypair(fleet: Serving, who: Asking, asked: shapes.ImportedKeypair) -> Json:
    """Take in a public key, or a private key and with it both halves."""
    return shapes.keypair(
        await fleet.keypairs.import_(
            who,
            asked.name,
            scope=asked.scope,
            public_key=asked.public_key,
            private_key=shapes.secret(asked.private_key),
            passphrase=shapes.secret(asked.passphrase),
            master_key=asked.master_key,
            allow_weak=asked.allow_weak,
        )
    )


@router.get("/keypairs/{name}")
async def show_keypair(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one key pair."""
    return shapes.keypair(await fleet.keypairs.get(who, name))


@router.post("/keypairs/{name}/upgrade")
async def upgrade_keypair(fleet: Serving, who: Asking, name: str) -> Json:
    """Make a private key pair one of the account."""
    return shapes.keypair(await fleet.keypairs.upgrade(who, name))


@router.post("/keypairs/{name}/export")
async def export_keypair(fleet: Serving, who: Asking, name: str, asked: shapes.ExportedKeypair | None = None) -> Json:
    """Give the private half to the person who asks for it, as an OpenSSH file where nothing else is said."""
    asked = asked or shapes.ExportedKeypair()
    private = await fleet.keypairs.export(who, name, asked.format, shapes.secret(asked.passphrase))
    return {"name": name, "private_key": private.open().decode("ascii")}


@router.post("/keypairs/{name}/decrypt-password")
async def decrypt_password(fleet: Serving, who: Asking, name: str, asked: shapes.EncryptedPassword) -> Json:
    """Open a password that was encrypted to an RSA key pair in custody."""
    found = await fleet.keypairs.decrypt_password(who, name, asked.encrypted)
    return {"name": name, "password": found.open().decode("utf-8")}


@router.delete("/keypairs/{name}", status_code=204)
async def delete_keypair(fleet: Serving, who: Asking, name: str) -> None:
    """Delete a key pair that is bound nowhere."""
    await fleet.keypairs.delete(who, name)
