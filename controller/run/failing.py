"""How a task ended that failed, where the agent has not said it."""

from typing import Any

from controller import causes
from controller.causes import CAUSES
from controller.doorbyhand import by_hand
from controller.model import Outcome
from controller.record import named
from controller.run.job import Job
from controller.transport.frames import plain, small
from kpsagent.errors import Refused, Stop


def failed(job: Job, stop: Stop) -> Outcome:
    """The outcome of a task that ended without the agent's word."""
    touched = job.handed_over and not isinstance(stop, Refused)
    cause = stop.cause if stop.cause in CAUSES else "unexpected"
    return Outcome(
        status="failed",
        server_state="unknown" if touched else "as_before",
        phase=job.phase,  # type: ignore[arg-type]
        cause=cause,
        message=named(job.task.server_name, plain(stop.message)),
        evidence=small(stop.evidence) | _by_hand(job),
        handling=causes.handling(cause, SOURCE=stop.evidence.get("source"), **job.place),
        retryable=CAUSES[cause].retryable,
    )


def _by_hand(job: Job) -> dict[str, Any]:
    """Return what is left where nothing gets in to open a door: its disk at rest, its console, and what to type there."""
    task = job.task
    if task.operation != "door-open" or job.handed_over:
        return {}
    request, command = task.request, job.means.settings.console_command
    line = by_hand(task.login, int(request["door_seconds"]), request.get("door_from"))
    place = {"server": task.server_name, "login": task.login} | {name.lower(): value for name, value in job.place.items()}
    for name, value in place.items():
        command = command.replace(f"{{{name}}}", str(value))
    at_rest = {"reset_root": job.server.reset_root} if job.server.reset_root else {}
    return at_rest | {"by_hand": line} | ({"console_command": plain(command)} if command else {})
