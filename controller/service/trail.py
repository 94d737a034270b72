"""How events are told to whoever verifies them: with all that their digests and signatures are made of."""

from typing import TYPE_CHECKING, Any

from controller.model import Event
from controller.store.chain import Reach, spelt

if TYPE_CHECKING:
    from controller.service.audit import Export

Json = dict[str, Any]


def chained_event(found: Event) -> Json:
    """Return an event with all that its digest and its signature are made of; the time to the microsecond, as it was signed."""
    return {
        "id": found.id,
        "number": found.number,
        "user_id": found.user_id,
        "task_id": found.task_id,
        "server_id": found.server_id,
        "keypair_id": found.keypair_id,
        "kind": found.kind,
        "phase": found.phase,
        "detail": found.detail,
        "at": spelt(found.at),
        "tenant_id": found.tenant_id,
        "digest": found.digest,
        "signature": found.signature,
    }


def reach(found: Reach) -> Json:
    """Return a signed statement of how far the trail reaches, as it was signed."""
    return {
        "tenant_id": found.tenant_id,
        "first": found.first,
        "previous": found.previous,
        "number": found.number,
        "digest": found.digest,
        "at": spelt(found.at),
        "signature": found.signature,
    }


def export_header(made: "Export") -> Json:
    """Return the first line of an export."""
    checkpoints = [reach(each) for each in made.checkpoints]
    return {"kps": "audit export 1", **reach(made.reach), "public_key": made.public_key, "checkpoints": checkpoints}


def checkpoint(made: Reach, public_key: str) -> Json:
    """Return a checkpoint as it is kept elsewhere."""
    return {"kps": "audit checkpoint 1", **reach(made), "public_key": public_key}
