"""Key pairs: the lists, one key pair, and what makes one: pages of the console."""

from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from controller import keyfiles
from controller.errors import AlreadyExists, Invalid, Problem
from controller.model import KEY_TYPES, KeyFormat, KeyPair, KeyType, MasterKey, Scope, Secret
from controller.service.roles import allow
from controller.web.asking import Asked, Page
from controller.web.door import ROOT
from controller.web.downloads import download

HERE = f"{ROOT}/keypairs"
AT_ONCE = 100
DUE_AT_ONCE = 200
CRUMBS = [("Key pairs", f"{HERE}/")]
TYPES = [(each, each) for each in KEY_TYPES]
# By the name of a format: what it is called, and how a file of it ends.
FORMATS: dict[KeyFormat, tuple[str, str]] = {
    "openssh": ("OpenSSH", ""),
    "pkcs8": ("PKCS#8 (PEM)", ".pem"),
    "pem": ("PEM as OpenSSL 1.0 wrote it", ".pem"),
    "ppk3": ("PuTTY, .ppk version 3", ".ppk"),
    "ppk2": ("PuTTY, .ppk version 2", ".ppk"),
}
# What a form holds that nobody has filled in.
_BLANK = {"name": "", "master_key": "", "public_key": "", "allow_weak": ""}

router = APIRouter(prefix="/keypairs")
Name = Annotated[str, Query(max_length=255)]


def path_of(name: str) -> str:
    """Return where a key pair's page is."""
    return f"{HERE}/named/{name}"


# -- the lists


@router.get("/")
async def listed(page: Page, scope: Scope | None = None, q: Name = "", after: Name = "") -> Response:
    """Show the key pairs of a scope, by name."""
    chosen = scope or ("private" if page.may("keypair.create", "private") else "account")
    found = await page.fleet.keypairs.list(page.who, after, AT_ONCE + 1, scope=chosen, part_of_name=q.strip())
    more, found = len(found) > AT_ONCE, found[:AT_ONCE]
    kept = {"scope": chosen} | ({"q": q} if q else {})
    return await page.show(
        "keypairs/list.html",
        "keypairs",
        "Key pairs",
        keypairs=found,
        bound=await page.fleet.keypairs.bound_counts(found),
        scope=chosen,
        q=q,
        first=f"{HERE}/?{urlencode(kept)}" if after else "",
        next=f"{HERE}/?{urlencode(kept | {'after': found[-1].name})}" if more else "",
    )


@router.get("/rotation")
async def rotation(page: Page) -> Response:
    """Show the rotation policies, and what is due by them."""
    due = await page.fleet.policies.due(page.who)
    return await page.show(
        "keypairs/rotation.html",
        "keypairs",
        "Key pairs",
        policies=await page.fleet.policies.list(page.who),
        due=due[:DUE_AT_ONCE],
        more=max(0, len(due) - DUE_AT_ONCE),
    )


# -- made, or taken in


@router.get("/new")
async def new(page: Page, scope: Scope = "private") -> Response:
    """Ask what is to be made."""
    return await _new(page, {"scope": scope, "type": "ed25519", "custody": "kept", "format": "openssh"})


@router.post("/new")
async def create(page: Page) -> Response:
    """Make a key pair; where its private half is not kept, that is the answer, this once."""
    form = page.form
    given = {each: form.text(each) for each in ("name", "scope", "type", "custody", "format", "master_key")}
    kept = given["custody"] != "given"
    try:
        made, private = await page.fleet.keypairs.create(
            page.who,
            given["name"],
            _type(given["type"]),
            _scope(given["scope"]),
            managed=kept,
            master_key=(given["master_key"] or None) if kept else None,
            give=None if kept else _format(given["format"]),
        )
    except (Invalid, AlreadyExists) as problem:
        return await _new(page, given, await _told(page, problem))
    if private is None:
        return page.go(path_of(made.name), f"{made.name} is made; its private half is kept here, encrypted")
    page.say(f"{made.name} is made; its private half was given to you, and is kept nowhere here")
    return _file(private, made.name, _format(given["format"]))


@router.get("/import")
async def ask_import(page: Page, scope: Scope = "private") -> Response:
    """Ask for what is to be taken in."""
    return await _import(page, {"scope": scope})


@router.post("/import")
async def import_(page: Page) -> Response:
    """Take a key pair in. What is secret of what was given is in no answer."""
    form = page.form
    given = {each: form.text(each) for each in ("name", "scope", "master_key")}
    given |= {"public_key": form.long_text("public_key"), "allow_weak": "on" if form.on("allow_weak") else ""}
    private, passphrase = await _secret(page, "private_key"), form.secret("passphrase")
    try:
        public = await _public(page)
        made = await page.fleet.keypairs.import_(
            page.who,
            given["name"],
            scope=_scope(given["scope"]),
            public_key=public,
            private_key=private,
            passphrase=passphrase,
            master_key=(given["master_key"] or None) if private is not None else None,
            allow_weak=form.on("allow_weak"),
        )
    except (Invalid, AlreadyExists) as problem:
        return await _import(page, given, await _told(page, problem))
    finally:
        _wipe(private, passphrase)
    kept = "its private half is kept here, encrypted" if made.managed else "only its public half: nothing opens with it here"
    return page.go(path_of(made.name), f"{made.name} is taken in: {kept}")


# -- one key pair


@router.get("/named/{name}")
async def shown(page: Page, name: str, server: Name = "", login: Name = "") -> Response:
    """Show a key pair, where it is bound, and what may be done with it."""
    keypair = await page.fleet.keypairs.get(page.who, name)
    places = await page.fleet.keypairs.places(page.who, name, (server, login), AT_ONCE + 1)
    more, places = len(places) > AT_ONCE, places[:AT_ONCE]
    last = {"server": places[-1][0], "login": places[-1][1].login} if more else {}
    counts = await page.fleet.keypairs.bound_counts([keypair])
    return await page.show(
        "keypairs/keypair.html",
        "keypairs",
        keypair.name,
        crumbs=CRUMBS,
        keypair=keypair,
        warnings=keyfiles.warnings(keypair.type),
        master_key=await _master_key(page, keypair),
        places=places,
        bound=counts.get(keypair.id, 0),
        due=[each for each in await page.fleet.policies.due(page.who, all=True) if each.name == keypair.name],
        first=path_of(name) if server else "",
        next=f"{path_of(name)}?{urlencode(last)}" if more else "",
    )


@router.post("/named/{name}/describe")
async def describe(page: Page, name: str) -> Response:
    """Describe a key pair anew."""
    await page.fleet.keypairs.describe(page.who, name, page.form.text("description"))
    return page.go(path_of(name), "The description is changed")


@router.get("/named/{name}/export")
async def ask_export(page: Page, name: str) -> Response:
    """Ask as what file the private half is to be given."""
    return await _ask(page, name, "export", formats=_formats())


@router.post("/named/{name}/export")
async def export(page: Page, name: str) -> Response:
    """Give the private half to whoever asks for it."""
    form, passphrase, again = page.form.text("format", "openssh"), page.form.secret("passphrase"), page.form.secret("again")
    try:
        if passphrase != again:
            raise Invalid("passphrases_differ", "the passphrase and its repetition are not the same; type both again")
        private = await page.fleet.keypairs.export(page.who, name, _format(form), passphrase)
    except Invalid as problem:
        return await _ask(page, name, "export", 400, problem=problem, formats=_formats(), format=form)
    finally:
        _wipe(passphrase, again)
    return _file(private, name, _format(form))


@router.get("/named/{name}/clear")
async def ask_clear(page: Page, name: str) -> Response:
    """Ask whether the private half is to be destroyed."""
    return await _ask(page, name, "clear")


@router.post("/named/{name}/clear")
async def clear(page: Page, name: str) -> Response:
    """Destroy the private half; the key pair stays."""
    await _refuse_another(page, name)
    await page.fleet.custody.clear(page.who, name, even_if_only_way_in=page.form.on("even_if_only_way_in"))
    return page.go(path_of(name), f"The private half of {name} is destroyed")


@router.get("/named/{name}/manage")
async def ask_manage(page: Page, name: str) -> Response:
    """Ask for the private half of a key pair."""
    return await _ask(page, name, "manage", master_keys=await _master_keys(page))


@router.post("/named/{name}/manage")
async def manage(page: Page, name: str) -> Response:
    """Take the private half of a key pair into custody."""
    private, passphrase = await _secret(page, "private_key"), page.form.secret("passphrase")
    try:
        if private is None:
            raise Invalid("key_missing", f"{name}: paste the private key, or choose its file")
        master_key = page.form.text("master_key") or None
        await page.fleet.custody.manage(page.who, name, private, passphrase, master_key=master_key)
    except Invalid as problem:
        return await _ask(page, name, "manage", 400, problem=problem, master_keys=await _master_keys(page))
    finally:
        _wipe(private, passphrase)
    return page.go(path_of(name), f"The private half of {name} is kept here now, encrypted")


@router.get("/named/{name}/move")
async def ask_move(page: Page, name: str) -> Response:
    """Ask under which master key the private half is to be."""
    return await _ask(page, name, "move", master_keys=await _master_keys(page))


@router.post("/named/{name}/move")
async def move(page: Page, name: str) -> Response:
    """Put the private half under another master key."""
    await page.fleet.custody.move(page.who, name, page.form.text("master_key") or "kps/default")
    return page.go(path_of(name), f"The private half of {name} is under another master key")


@router.get("/named/{name}/upgrade")
async def ask_upgrade(page: Page, name: str) -> Response:
    """Ask whether a key pair is to be one of the account."""
    return await _ask(page, name, "upgrade", scope="account")


@router.post("/named/{name}/upgrade")
async def upgrade(page: Page, name: str) -> Response:
    """Make a key pair one of the account."""
    await _refuse_another(page, name)
    await page.fleet.keypairs.upgrade(page.who, name)
    return page.go(path_of(name), f"{name} is a key pair of the account now")


@router.get("/named/{name}/delete")
async def ask_delete(page: Page, name: str) -> Response:
    """Ask whether a key pair is to be deleted."""
    return await _ask(page, name, "delete")


@router.post("/named/{name}/delete")
async def delete(page: Page, name: str) -> Response:
    """Delete a key pair."""
    await _refuse_another(page, name)
    await page.fleet.keypairs.delete(page.who, name)
    return page.go(f"{HERE}/", f"{name} is deleted")


# -- forms


async def _new(page: Asked, given: dict[str, str], problem: Problem | None = None) -> Response:
    _may_make(page)
    return await page.show(
        "keypairs/new.html", "keypairs", "Make a key pair", 200 if problem is None else problem.status,
        crumbs=CRUMBS, given=_BLANK | given, problem=problem, types=TYPES, scopes=_scopes(page), formats=_formats(),
        master_keys=await _master_keys(page),
    )  # fmt: skip


async def _import(page: Asked, given: dict[str, str], problem: Problem | None = None) -> Response:
    _may_make(page)
    return await page.show(
        "keypairs/import.html", "keypairs", "Import a key pair", 200 if problem is None else problem.status,
        crumbs=CRUMBS, given=_BLANK | given, problem=problem, scopes=_scopes(page), master_keys=await _master_keys(page),
    )  # fmt: skip


async def _ask(page: Asked, name: str, verb: str, status: int = 200, *, scope: str | None = None, **values: Any) -> Response:
    """Show the page that asks before something is done with a key pair, to whoever may do it."""
    keypair = await page.fleet.keypairs.get(page.who, name)
    allow(page.who, f"keypair.{verb}", scope or keypair.scope, name)
    counts = await page.fleet.keypairs.bound_counts([keypair])
    words = {"manage": "Take in the private half of", "move": "Another master key for", "upgrade": "Move to the account:",
             "export": "Export", "clear": "Destroy the private half of", "delete": "Delete"}  # fmt: skip
    values = {"problem": None, "format": "openssh"} | values
    return await page.show(
        f"keypairs/{verb}.html", "keypairs", f"{words[verb]} {name}", status,
        crumbs=[*CRUMBS, (name, path_of(name))], keypair=keypair, bound=counts.get(keypair.id, 0), **values,
    )  # fmt: skip


async def _refuse_another(page: Asked, name: str) -> None:
    """Refuse what cannot be undone where the page that asked was about another key pair of this name."""
    page.refuse_another(name, (await page.fleet.keypairs.get(page.who, name)).id)


def _may_make(page: Asked) -> None:
    """NotAllowed where the caller may make no key pair at all."""
    if not page.may("keypair.create", "private"):
        allow(page.who, "keypair.create", "account")


def _scopes(page: Asked) -> list[tuple[str, str, str]]:
    told = {
        "private": ("Private", "Yours alone: nobody else sees or uses it."),
        "account": ("Account", "Everybody of the tenant uses it; administrators export, clear and delete it."),
    }
    return [(each, *told[each]) for each in get_args(Scope) if page.may("keypair.create", each)]


def _formats() -> list[tuple[str, str]]:
    return [(each, words) for each, (words, _) in FORMATS.items()]


async def _master_keys(page: Asked) -> list[tuple[str, str]]:
    """Return what may be chosen to seal a private half with."""
    found, _ = await page.fleet.kms.keys.list(page.who, spec="AES_256", state="enabled")
    return [("", "The default one"), *((each.id, each.alias) for each in found if not each.default)]


async def _master_key(page: Asked, keypair: KeyPair) -> MasterKey | None:
    return None if keypair.master_key_id is None else await page.fleet.kms.keys.get(page.who, keypair.master_key_id)


async def _told(page: Asked, problem: Problem) -> Problem:
    """Have a refusal on record that is shown beside its form."""
    await page.note_refused(problem)
    return problem


def _type(given: str) -> KeyType:
    for known in KEY_TYPES:
        if given == known:
            return known
    raise Invalid("key_type_unknown", "type: choose one of the list")


def _scope(given: str) -> Scope:
    for known in get_args(Scope):
        if given == known:
            return known  # type: ignore[no-any-return]
    raise Invalid("scope_unknown", "scope: choose private or account")


def _format(given: str) -> KeyFormat:
    for known in FORMATS:
        if given == known:
            return known
    raise Invalid("format_unusable", "format: choose one of the list")


async def _secret(page: Asked, name: str) -> Secret | None:
    """Return what was pasted, or else the file that was chosen."""
    return page.form.secret(name) or await page.form.file(f"{name}_file")


async def _public(page: Asked) -> str | None:
    pasted = page.form.long_text("public_key")
    if pasted.strip():
        return pasted
    chosen = await page.form.file("public_key_file")
    return None if chosen is None else chosen.open().decode("utf-8", "surrogateescape")


def _file(private: Secret, name: str, form: KeyFormat) -> Response:
    try:
        return download(private.open(), f"{name}{FORMATS[form][1]}")
    finally:
        private.wipe()


def _wipe(*secrets: Secret | None) -> None:
    for each in secrets:
        if each is not None:
            each.wipe()
