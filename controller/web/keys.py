"""Customer master keys, and their lives: pages of the console."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from controller.errors import AlreadyExists, Conflict, Invalid, Problem
from controller.model import MasterKey
from controller.service.roles import allow
from controller.web.asking import Asked, Page
from controller.web.door import ROOT

HERE = f"{ROOT}/keys"
CRUMBS = [("Keys", f"{HERE}/")]
AT_ONCE = 200
STATES = ("enabled", "disabled", "pending_deletion", "pending_import")
# What may be made here, with what it is for.
SPECS = [
    ("AES_256", "AES_256: seals key pairs, encrypts"),
    ("HMAC_256", "HMAC_256: message codes"),
    ("HMAC_384", "HMAC_384: message codes"),
    ("HMAC_512", "HMAC_512: message codes"),
    ("RSA_2048", "RSA_2048: signs, or encrypts"),
    ("RSA_3072", "RSA_3072: signs, or encrypts"),
    ("RSA_4096", "RSA_4096: signs, or encrypts"),
    ("EC_P256", "EC_P256: signs"),
    ("EC_P384", "EC_P384: signs"),
]
USAGES = [
    ("", "What keys of the kind are for"),
    ("ENCRYPT_DECRYPT", "Encrypt and decrypt"),
    ("SIGN_VERIFY", "Sign and verify"),
    ("GENERATE_VERIFY_MAC", "Message codes"),
]
_BLANK = {"alias": "", "spec": "AES_256", "usage": "", "description": ""}

router = APIRouter(prefix="/keys")
Word = Annotated[str, Query(max_length=255)]


def path_of(key: MasterKey) -> str:
    """Return where a master key's page is."""
    return f"{HERE}/{key.id}"


@router.get("/")
async def listed(page: Page, state: Word = "", q: Word = "") -> Response:
    """Show the master keys, by age."""
    keys, total = await page.fleet.kms.keys.list(
        page.who, state=state if state in STATES else None, part_of_name=q.strip(), limit=AT_ONCE
    )
    return await page.show(
        "keys/list.html",
        "keys",
        "Keys",
        keys=keys,
        total=total,
        sealing=await page.fleet.kms.keys.sealing(page.who),
        quota=await page.fleet.kms.keys.quota(page.who),
        choices=[("", "Every state"), *((each, each.replace("_", " ")) for each in STATES)],
        state=state,
        q=q,
    )


@router.get("/new")
async def new(page: Page) -> Response:
    """Ask what is to be made."""
    return await _new(page, _BLANK)


@router.post("/new")
async def create(page: Page) -> Response:
    """Make a master key."""
    given = {each: page.form.text(each) for each in _BLANK}
    try:
        made = await page.fleet.kms.keys.create(
            page.who, given["alias"], spec=given["spec"], usage=given["usage"] or None, description=given["description"]
        )
    except (Invalid, AlreadyExists) as problem:
        await page.note_refused(problem)
        return await _new(page, given, problem)
    return page.go(path_of(made), f"{made.alias} is made")


@router.get("/{key_id}")
async def shown(page: Page, key_id: str) -> Response:
    """Show a master key, what belongs to it, and what may be done with it."""
    key, verbs = await page.fleet.kms.keys.get(page.who, key_id), page.fleet.kms
    sealing = await verbs.keys.sealing(page.who)
    grants = await verbs.grants.list(page.who, key.id) if page.may("masterkey.change") else None
    ids = [] if grants is None else [each.grantee for each in grants]
    return await page.show(
        "keys/key.html",
        "keys",
        key.alias,
        crumbs=CRUMBS,
        key=key,
        sealing=sealing.get(key.id, 0),
        versions=await verbs.keys.versions(page.who, key.id),
        aliases=await verbs.names.aliases(page.who, key.id),
        tags=await verbs.names.tags(page.who, key.id),
        grants=grants,
        names=await page.fleet.audit.names_of(page.who, ids) if grants and page.may("audit.read") else {},
    )


@router.post("/{key_id}/describe")
async def describe(page: Page, key_id: str) -> Response:
    """Give a master key another alias and description."""
    key = await page.fleet.kms.keys.get(page.who, key_id)
    alias, description = page.form.text("alias", key.alias), page.form.text("description")
    if description != key.description:
        key = await page.fleet.kms.keys.describe(page.who, key.id, description)
    if alias != key.alias:
        key = await page.fleet.kms.keys.rename(page.who, key.id, alias)
    allow(page.who, "masterkey.change", what=key.alias)
    return page.go(path_of(key), f"{key.alias} is described anew")


@router.post("/{key_id}/enable")
async def enable(page: Page, key_id: str) -> Response:
    """Enable a master key."""
    key = await page.fleet.kms.keys.enable(page.who, key_id)
    return page.go(path_of(key), f"{key.alias} is enabled: what it sealed opens again")


@router.get("/{key_id}/disable")
async def ask_disable(page: Page, key_id: str) -> Response:
    """Ask whether a master key is to be disabled."""
    return await _ask(page, key_id, "disable")


@router.post("/{key_id}/disable")
async def disable(page: Page, key_id: str) -> Response:
    """Disable a master key."""
    key = await page.fleet.kms.keys.disable(page.who, key_id, even_if_only_way_in=page.form.on("even_if_only_way_in"))
    return page.go(path_of(key), f"{key.alias} is disabled: nothing that it sealed opens")


@router.get("/{key_id}/delete")
async def ask_delete(page: Page, key_id: str) -> Response:
    """Ask whether and when a master key is to be destroyed."""
    return await _ask(page, key_id, "delete")


@router.post("/{key_id}/delete")
async def delete(page: Page, key_id: str) -> Response:
    """Have a master key destroyed at a date."""
    days, only = page.form.number("days"), page.form.on("even_if_only_way_in")
    if days is None:
        raise Invalid("invalid", "days: give a whole number")
    key = await page.fleet.kms.keys.schedule_deletion(page.who, key_id, days, even_if_only_way_in=only)
    return page.go(path_of(key), f"{key.alias} is destroyed in {days} days, unless that is cancelled")


@router.post("/{key_id}/keep")
async def keep(page: Page, key_id: str) -> Response:
    """Keep a master key that was to be destroyed."""
    key = await page.fleet.kms.keys.cancel_deletion(page.who, key_id)
    return page.go(path_of(key), f"{key.alias} is kept; enable it to have it open what it sealed")


@router.post("/{key_id}/rotate")
async def rotate(page: Page, key_id: str) -> Response:
    """Give a master key its next version."""
    key = await page.fleet.kms.keys.rotate(page.who, key_id)
    return page.go(path_of(key), f"{key.alias} has version {key.version} now; what the older ones sealed still opens")


@router.post("/{key_id}/rotation")
async def rotation(page: Page, key_id: str) -> Response:
    """Say when a master key is rotated by itself; no days: not at all."""
    days = page.form.number("days")
    key, verbs = await page.fleet.kms.keys.get(page.who, key_id), page.fleet.kms.keys
    if days is None:
        key = await verbs.disable_rotation(page.who, key.id)
        return page.go(path_of(key), f"{key.alias} is not rotated by itself any more")
    change = verbs.enable_rotation if key.rotates_every is None else verbs.change_rotation
    key = await change(page.who, key.id, days)
    return page.go(path_of(key), f"{key.alias} is rotated every {days} days")


async def _new(page: Asked, given: dict[str, str], problem: Problem | None = None) -> Response:
    allow(page.who, "masterkey.change")
    return await page.show(
        "keys/new.html", "keys", "Make a master key", 200 if problem is None else problem.status,
        crumbs=CRUMBS, given=given, problem=problem, specs=SPECS, usages=USAGES,
    )  # fmt: skip


async def _ask(page: Asked, key_id: str, verb: str, **values: Any) -> Response:
    """Show the page that asks before a master key is taken away, to whoever may do that."""
    key = await page.fleet.kms.keys.get(page.who, key_id)
    allow(page.who, "masterkey.change", what=key.alias)
    if key.default:
        raise Conflict("master_key_default", f"{key.alias}: the service's own key is neither disabled nor destroyed")
    sealing = await page.fleet.kms.keys.sealing(page.who)
    return await page.show(
        f"keys/{verb}.html", "keys", f"{'Disable' if verb == 'disable' else 'Destroy'} {key.alias}",
        crumbs=[*CRUMBS, (key.alias, path_of(key))], key=key, sealing=sealing.get(key.id, 0), **values,
    )  # fmt: skip
