"""Key pairs: create, import, list, describe, delete."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, model_validator

from controller.api.fleet.asking import Fleet
from controller.api.kps.asking import Asking, Serving, is_own, told_of
from controller.api.kps.reading import Given, KeyText, LongText, Text, body_as, element_as, text_in
from controller.api.kps.refusals import Refusal, wrong
from controller.errors import Problem
from controller.model import Caller, KeyPair, Scope, Secret

Json = dict[str, Any]
PAGE, LARGEST_PAGE = 50, 1000
MOST_AT_ONCE = 10
DESCRIPTION_CHARACTERS = 255
KEY_BYTES = 64 * 1024
MARKER = "^[A-Za-z0-9_-]{0,255}$"  # a name, or nothing
router = APIRouter()

# What the public service calls our scopes and types.
SCOPES: dict[Scope, str] = {"private": "user", "account": "domain"}
OURS: dict[str, Scope] = {"user": "private", "domain": "account"}


class Encryption(Given):
    type: Literal["default", "kms"]
    kms_key_name: Text | None = None
    kms_key_id: Text | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        # An empty name is none: there are clients that send every field that they have.
        named = bool(self.kms_key_name) + bool(self.kms_key_id)
        if named != (self.type == "kms"):
            raise ValueError("type kms goes with one of kms_key_name and kms_key_id, default with neither")
        return self

    @property
    def master_key(self) -> str | None:
        """The alias or id of the master key; None: the default one."""
        return self.kms_key_name or self.kms_key_id or None


class KeyProtection(Given):
    encryption: Encryption
    private_key: Annotated[KeyText, Field(min_length=1, max_length=KEY_BYTES)] | None = None


class NewKeypair(Given):
    name: Text
    type: Literal["ssh", "x509"] = "ssh"
    public_key: LongText | None = None
    scope: Literal["user", "domain"] = "user"
    user_id: Text | None = None
    key_protection: KeyProtection | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        protection = self.key_protection
        if protection is not None and (self.public_key is None) != (protection.private_key is None):
            raise ValueError("key_protection holds the private_key where public_key is given, and only there")
        if self.type == "x509":
            raise ValueError("x509 is for servers that run Windows, which are not served here; leave type out, or give ssh")
        return self


class Create(Given):
    keypair: NewKeypair


class Description(Given):
    description: Annotated[Text, Field(max_length=DESCRIPTION_CHARACTERS)]


class Describe(Given):
    keypair: Description


@router.post("/keypairs")
async def create_keypair(fleet: Serving, who: Asking, asked: Annotated[Create, Depends(body_as(Create))]) -> Json:
    """Make a key pair, or take one in; the private half of one that is made is in this answer."""
    return {"keypair": await made(fleet, who, asked.keypair)}


@router.get("/keypairs")
async def list_keypairs(
    fleet: Serving,
    who: Asking,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = PAGE,
    marker: Annotated[str, Query(pattern=MARKER)] = "",
) -> Json:
    """List the caller's own key pairs and the account's by name, those after the marker.

    The marker is a name: also of a key pair that was deleted since, so that whoever pages while others delete misses none.
    """
    found = await fleet.keypairs.list(who, marker, limit + 1)
    page = found[:limit]
    info: Json = {"current_count": len(page)}
    if page:
        info["previous_marker"] = page[0].name
    if len(found) > limit:
        info["next_marker"] = page[-1].name
    return {"keypairs": [{"keypair": listed(each)} for each in page], "page_info": info}


@router.post("/keypairs/batch-import")
async def batch_import_keypair(
    request: Request, fleet: Serving, who: Asking, asked: Annotated[list[Any], Depends(body_as(list[Any]))]
) -> Json:
    """Take in several key pairs; one that is refused is told, and hinders no other."""
    if not 1 <= len(asked) <= MOST_AT_ONCE:
        raise wrong(f"{len(asked)} elements; 1 to {MOST_AT_ONCE} at a time")
    succeeded, failed = [], []
    for each in asked:
        try:
            found = await made(fleet, who, element_as(Create, each).keypair)
            # Clients of one kind read it on the outer level, those of the other on the inner one.
            succeeded.append({"keypair": found | {"keypair": found}})
        except (Refusal, Problem) as refused:
            reason = (await told_of(request, refused)).message
            failed.append({"keypair_name": text_in(each, "keypair", "name"), "failed_reason": reason})
    return {"succeeded_keypairs": succeeded, "failed_keypairs": failed}


@router.get("/keypairs/{keypair_name}")
async def list_keypair_detail(fleet: Serving, who: Asking, keypair_name: str) -> Json:
    """Show one key pair."""
    return {"keypair": detail(await fleet.keypairs.get(who, keypair_name))}


@router.put("/keypairs/{keypair_name}")
async def update_keypair_description(
    fleet: Serving, who: Asking, keypair_name: str, asked: Annotated[Describe, Depends(body_as(Describe))]
) -> Json:
    """Describe a key pair anew."""
    await fleet.keypairs.describe(who, keypair_name, asked.keypair.description)
    return {}


@router.delete("/keypairs/{keypair_name}", status_code=204)
async def delete_keypair(fleet: Serving, who: Asking, keypair_name: str) -> None:
    """Delete a key pair that is bound nowhere."""
    await fleet.keypairs.delete(who, keypair_name)


async def made(fleet: Fleet, who: Caller, asked: NewKeypair) -> Json:
    """Make or take in one key pair, and return it as this API shows a new one."""
    is_own(who, asked.user_id)
    scope, protection = OURS[asked.scope], asked.key_protection
    master_key = None if protection is None else protection.encryption.master_key
    given: Secret | None = None
    if asked.public_key is None:
        keypair, given = await fleet.keypairs.create(
            who, asked.name, "rsa-2048", scope, protection is not None, master_key=master_key, give="pem"
        )
    else:
        private = None if protection is None or protection.private_key is None else protection.private_key.get_secret_value()
        keypair = await fleet.keypairs.import_(
            who,
            asked.name,
            scope,
            public_key=asked.public_key,
            private_key=None if private is None else Secret(private),
            master_key=master_key,
        )
    shape = {name: listed(keypair)[name] for name in ("name", "type", "public_key", "fingerprint")} | {
        "user_id": keypair.owner_id
    }
    if given is not None:
        shape["private_key"] = given.open().decode("ascii")
        given.wipe()
    return shape


def listed(keypair: KeyPair) -> Json:
    """Return a key pair as an element of a list."""
    return {
        "name": keypair.name,
        "type": "ssh",
        "scope": SCOPES[keypair.scope],
        "public_key": keypair.public_key,
        "fingerprint": keypair.fingerprint_md5,
        "is_key_protection": keypair.managed,
        "frozen_state": "0",
    }


def detail(keypair: KeyPair) -> Json:
    """Return a key pair with all that is known of it."""
    return listed(keypair) | {
        "id": keypair.number,
        "user_id": keypair.owner_id,
        "description": keypair.description,
        "deleted": False,
        "create_time": milliseconds(keypair.created_at),
        "update_time": milliseconds(keypair.updated_at),
        "delete_time": None,
        "frozen_state": 0,
        "key_id": keypair.master_key_id,
        "algorithm": algorithm(keypair.type),
    }


def algorithm(key_type: str) -> str:
    """Return a type as the public service writes it: SSH_RSA_2048."""
    return "SSH_" + key_type.upper().replace("-", "_")


def milliseconds(at: datetime | None) -> int | None:
    """Return a time as this API has it."""
    return None if at is None else int(at.timestamp() * 1000)
