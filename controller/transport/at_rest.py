"""The agent on the disk of a server that is shut down: a process of this machine, confined to where the disk is mounted."""

import asyncio
import json
import os
import secrets
import sys
from typing import Any

from controller.transport import ship
from controller.transport.frames import Result, parse
from kpsagent.errors import Failed, Refused

_SECONDS = 120
_LONGEST = 4 << 20


async def run(root: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Carry out a plan on the disk that is mounted at root. Refused where that is no system's disk, or we are not root."""
    if not os.path.isabs(root) or os.path.realpath(root) == "/":  # noqa: ASYNC240 - one look at a local path
        raise Refused(
            "disk_gone", f"{root or 'no directory'}: name the directory at which the server's disk is mounted", path=root
        )
    if os.geteuid() != 0:
        raise Refused("sudo_refused", "working on a mounted disk takes root on this machine; run this command as root")
    marker = secrets.token_hex(16)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-E", "-B", "-c", ship.BOOTSTRAP, "rest", root),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST,
    )
    order = json.dumps({"marker": marker, "plan": plan}).encode("ascii") + b"\n"
    try:
        async with asyncio.timeout(_SECONDS):
            return await _result(process, ship.payload(*ship.needed(plan)) + order, marker.encode("ascii"))
    except TimeoutError:
        raise Failed("disk_gone", f"{root}: no answer from this disk within {_SECONDS} s", path=root) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _result(process: asyncio.subprocess.Process, given: bytes, marker: bytes) -> dict[str, Any]:
    """Return what the agent says at its end. Its standard input stays open as long: an end of file would make it undo."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise TypeError("the agent's process has no pipes")
    process.stdin.write(given)
    async for line in process.stdout:
        said, _, rest = line.partition(b" ")
        frame = parse(rest) if said == marker else None
        if isinstance(frame, Result):
            process.stdin.close()
            await process.wait()
            return frame.model_dump()
    said_last = (await process.stderr.read(2000)).decode("utf-8", "replace")
    raise Failed("unexpected", f"the agent ended without a result: {said_last[-300:]}")
