"""Before a server is asked: what was given, what is on record, and whether two have to agree."""

from dataclasses import replace
from functools import partial

from controller import deposits, dossier, order, passwords
from controller.model import Server
from controller.order import Way
from controller.passwords import SETS_PASSWORD
from controller.record import Record
from controller.run.job import ONLY_LOOK, Job
from controller.run.keys import key_given, line_given, private_half
from kpsagent.errors import Refused


async def recall(job: Job) -> None:
    """Have what was given with the order, where a process of before had it.

    Refused(credential_needed) where that is not to be had and an order to look would look from outside only. Any other goes
    on by what is bound there, for an earlier try may have come to its end, and says so only where nothing gets in.
    """
    if job.task.operation == SETS_PASSWORD:
        means = job.means
        asked = (means.off, means.store, means.kms)
        job.new_password, job.given = await passwords.recalled(job.task, job.given, *asked)
    if job.given is not None or not job.task.request.get("given"):
        return
    try:
        job.given = await job.means.off(deposits.opened, job.means.store, job.means.kms, job.task)
    except Refused as lost:
        if job.task.operation in ("check", *ONLY_LOOK):
            raise
        job.lost = lost


async def prepare(job: Job) -> None:
    """Have the job know its server and its order, by what is on record now."""
    known = await job.means.kept(dossier.look_up, job.means.store, job.task)  # with what others write
    job.server = known.server
    job.private = known.names_private
    job.identity = await key_given(job)
    line, seconds = line_given(job), job.means.settings.deadline_seconds
    made = order.make(job.task, job.server, known.bound, known.wanted, job.given, line, seconds)
    job.without_key = not made.ways
    job.order = made = replace(made, ways=_with_left(made.ways, known.left))
    if made.keypair is not None and made.keypair.managed and "key" in made.plan:
        # Now, while nothing is touched: what does not open can be neither proved nor used.
        await private_half(job, made.keypair)
    job.record = Record(job.task, job.server, made)


async def refuse_under_rule(job: Job, server: Server) -> None:
    """Refused where passwords would be let in, for good or by a door to which nobody has agreed, and that takes two here.

    By the rules of now: which unbind is the last one is known as it begins, and which machine this is by the host key that it
    has shown by then.
    """
    instead = order.opens_for_good(job.task, job.order.plan)
    is_door = job.task.operation == "door-open"
    rules = await job.means.off(job.means.ruled.of, server) if instead or is_door else []
    if not rules or (is_door and await job.means.off(partial(_is_agreed, job))):
        return
    where = ", ".join(each.where for each in rules)
    told = f"a second user has to agree before passwords are let in here ({where}), and nobody has agreed to this"
    more = f"{instead or 'ask for the door anew (kps emergency open)'}; or have an administrator remove the rule"
    message = f"{server.name}: {told}; {more} (kps emergency rule remove)"
    raise Refused("password_login_under_rule", message, rules=[each.where for each in rules])


def _is_agreed(job: Job) -> bool:
    """Whether a second user has agreed to the door that is to be opened."""
    door = job.means.store.door(job.task.tenant_id, str(job.task.request.get("door_id")))
    return job.means.store.door_order(job.task.tenant_id, door.order_id)[0].state == "approved"


def _with_left(known: list[Way], left: list[Way]) -> list[Way]:
    """Return the ways with those that earlier tasks may have left there: the newest of these before all others.

    The rest of them comes last: a login that fails costs one of the few that a server puts up with.
    """
    return list(dict.fromkeys([*left[:1], *known, *left[1:]]))
