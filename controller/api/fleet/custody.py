"""The private halves of key pairs."""

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.shapes import Json
from controller.model import Secret

router = router_of()


@router.post("/keypairs/{name}/manage")
async def manage_keypair(fleet: Serving, who: Asking, name: str, asked: shapes.ManagedKeypair) -> Json:
    """Take the private half of an unmanaged key pair into custody."""
    given = Secret(asked.private_key.get_secret_value())
    try:
        return shapes.keypair(
            await fleet.custody.manage(who, name, given, shapes.secret(asked.passphrase), master_key=asked.master_key)
        )
    finally:
        given.wipe()


@router.post("/keypairs/{name}/clear")
async def clear_keypair(fleet: Serving, who: Asking, name: str, asked: shapes.ClearedKeypair) -> Json:
    """Destroy the private half of a key pair, which stays, unmanaged."""
    return shapes.keypair(await fleet.custody.clear(who, name, even_if_only_way_in=asked.even_if_only_way_in))


@router.post("/keypairs/{name}/move")
async def move_keypair(fleet: Serving, who: Asking, name: str, asked: shapes.MovedKeypair) -> Json:
    """Put the private half of a key pair under another customer master key."""
    return shapes.keypair(await fleet.custody.move(who, name, asked.master_key))
