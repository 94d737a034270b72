"""Audit: the trail, filtered; verified; given out: pages of the console."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from controller.errors import Invalid, NotFound, Problem
from controller.events import KINDS
from controller.service.trail import Json, checkpoint
from controller.web.asking import Asked, Page
from controller.web.door import ROOT
from controller.web.downloads import download

HERE = f"{ROOT}/audit"
AT_ONCE = 100
CRUMBS = [("Audit", f"{HERE}/")]
_KEY_CHARACTERS = 100

router = APIRouter(prefix="/audit")
Word = Annotated[str, Query(max_length=255)]


@router.get("/")
async def listed(
    page: Page,
    kind: Word = "",
    user: Word = "",
    server: Word = "",
    keypair: Word = "",
    task: Word = "",
    since: Word = "",
    until: Word = "",
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
) -> Response:
    """Show events, the newest first."""
    asked = {"kind": kind, "user": user, "server": server, "keypair": keypair, "task": task, "since": since, "until": until}
    asked = {name: value.strip() for name, value in asked.items()}
    problem: Problem | None = None
    found = []
    try:
        found = await page.fleet.audit.events(
            page.who, before=before, limit=AT_ONCE + 1, kinds=[asked["kind"]] if asked["kind"] else [],
            user=asked["user"] or None, server=asked["server"] or None, keypair=asked["keypair"] or None,
            task=asked["task"] or None, since=_time("since", asked["since"]), until=_time("until", asked["until"]),
        )  # fmt: skip
    except (Invalid, NotFound) as refused:
        problem = refused
    more, found = len(found) > AT_ONCE, found[:AT_ONCE]
    ids = {each for event in found for each in (event.user_id, event.server_id) if each}
    kept = {name: value for name, value in asked.items() if value}
    return await page.show(
        "audit/list.html",
        "audit",
        "Audit",
        200 if problem is None else problem.status,
        events=found,
        names=await page.fleet.audit.names_of(page.who, ids),
        asked=asked,
        filtered=bool(kept),
        kinds=[("", "Every kind"), *((each, each.replace("_", " ")) for each in sorted(KINDS))],
        problem=problem,
        first=f"{HERE}/?{urlencode(kept)}" if before is not None else "",
        next=f"{HERE}/?{urlencode(kept | {'before': found[-1].number})}" if more else "",
    )


@router.get("/verify")
async def verification(page: Page) -> Response:
    """Show how the last verification ended, or how far the one under way is; and ask for the next."""
    return await _verify(page)


@router.post("/verify")
async def verify(page: Page) -> Response:
    """Begin to verify the whole trail."""
    kept = page.form.long_text("checkpoint", 16 * 1024).strip()
    if not kept:
        chosen = await page.form.file("checkpoint_file")
        kept = "" if chosen is None else chosen.open().decode("utf-8", "replace")
    key = page.form.text("key", most=_KEY_CHARACTERS)
    try:
        await page.fleet.verifications.begin(page.who, key, kept)
    except Invalid as problem:
        return await _verify(page, problem, {"key": key, "checkpoint": kept})
    return page.go(f"{HERE}/verify")


@router.get("/export")
async def ask_export(page: Page) -> Response:
    """Ask from when to when the trail is to be given out."""
    await page.fleet.audit.key(page.who)
    return await page.show(
        "audit/export.html", "audit", "Export the trail", crumbs=CRUMBS, problem=None, given={"since": "", "until": ""}
    )


@router.post("/export")
async def export(page: Page) -> Response:
    """Give out the trail as JSON lines that can be verified by themselves."""
    given = {each: page.form.text(each) for each in ("since", "until")}
    try:
        made = await page.fleet.audit.export(page.who, _time("since", given["since"]), _time("until", given["until"]))
    except Invalid as problem:
        return await page.show("audit/export.html", "audit", "Export the trail", 400, crumbs=CRUMBS, problem=problem, given=given)
    name = f"kps-audit-{made.reach.first}-{made.reach.number}.jsonl"
    return download(page.fleet.audit.lines(page.who, made), name, "application/jsonl")


@router.post("/checkpoint")
async def keep_checkpoint(page: Page) -> Response:
    """Give a signed statement of how far the trail reaches, to be kept elsewhere."""
    made, public_key = await page.fleet.audit.checkpoint(page.who)
    told: Json = checkpoint(made, public_key)
    return download(_json(told), f"kps-checkpoint-{made.number}.json", "application/json")


async def _verify(page: Asked, problem: Problem | None = None, given: dict[str, str] | None = None) -> Response:
    found = page.fleet.verifications.standing(page.who)
    by: dict[str, Any] = {} if found is None else await page.fleet.audit.names_of(page.who, [found.by])
    return await page.show(
        "audit/verify.html",
        "audit",
        "Verify the trail",
        200 if problem is None else problem.status,
        crumbs=CRUMBS,
        verification=found,
        by="" if found is None else by.get(found.by, found.by),
        key=await page.fleet.audit.key(page.who),
        problem=problem,
        given={"key": "", "checkpoint": ""} | (given or {}),
    )


def _json(told: Json) -> str:
    return json.dumps(told) + "\n"


def _time(name: str, given: str) -> datetime | None:
    """Return a time as it was typed or chosen: 2026-11-01, or 2026-11-01T12:00; without a zone, UTC."""
    if not given:
        return None
    try:
        read = datetime.fromisoformat(given)
        return read.astimezone(UTC) if read.tzinfo is not None else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid("invalid", f"{name}: give a time as 2026-11-01 or 2026-11-01T12:00") from None
