"""Emergency doors: what was asked for, who agreed, and how each stands. Frozen; what a door comes to next is worked out here."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from controller.errors import Invalid
from controller.model import DoorSeen, Task

# asked: a second user has to agree first. closing: it is to be closed, and the server has not said yet that it is. failed: it was
# never opened. refused, lapsed: nobody agreed.
DoorState = Literal["asked", "opening", "open", "closing", "closed", "failed", "refused", "lapsed"]
DoorOrderState = Literal["given", "asked", "approved", "refused", "lapsed"]
DoorDoes = Literal["open", "extend"]

OVER: frozenset[DoorState] = frozenset({"closed", "failed", "refused", "lapsed"})
MAY_BE_OPEN: frozenset[DoorState] = frozenset({"opening", "open", "closing"})
# Ahead of all that waits; an order to look is not.
URGENT = ("door-open", "door-extend", "door-close")
# What makes a door stand open, or for longer, is not done later than this: nobody waits for it any more, nor looks after it.
MAKES_OPEN = ("door-open", "door-extend")
BEGUN_AT_LATEST = timedelta(hours=1)  # after it was asked for, or agreed to: thousands of doors take their time
BEGUN_WITHIN = timedelta(minutes=15)  # after its password was ordered: whoever asked for the door waits for that, and goes on
FIRST_ASKED = timedelta(seconds=2)  # after the deadline: the server closes by itself, and is given a moment
_ASKED_AGAIN = (3, 10, 30, 60, 300, 600)  # seconds; the last one for ever
_ASKED_FOR = timedelta(days=2)  # after the deadline; from then on somebody has to ask by hand


@dataclass(frozen=True, slots=True)
class DoorRule:
    """Doors of servers with a label are opened only after a second user has agreed, within so many minutes."""

    tenant_id: str
    label: str
    value: str
    minutes: int
    user_id: str  # who set it
    created_at: datetime

    @property
    def where(self) -> str:
        """The servers that it is about, in words."""
        return f"{self.label}={self.value}"


@dataclass(frozen=True, slots=True)
class DoorOrder:
    """What somebody has asked for: doors opened, or open for longer."""

    id: str
    tenant_id: str
    user_id: str
    does: DoorDoes
    reason: str
    seconds: int
    doors: list[str]
    created_at: datetime
    state: DoorOrderState = "given"
    rules: list[str] = field(default_factory=list)  # by which a second user has to agree: label=value
    approve_until: datetime | None = None
    decided_by: str | None = None
    decided_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Door:
    """Password login opened for one login of one server, for some time."""

    id: str  # 32 hex digits; the server knows it by this too
    tenant_id: str
    user_id: str
    server_id: str
    server_name: str  # outlives the server in the inventory
    login: str
    order_id: str  # that asked for it
    reason: str
    network: str | None  # from which it opens; None: from everywhere
    seconds: int
    created_at: datetime
    task_id: str  # that opens it; there is one once the order is given
    state: DoorState = "opening"
    opened_at: datetime | None = None
    deadline: datetime | None = None  # by our clock; the server closes by its own, and counts seconds as we do
    closed_at: datetime | None = None
    closed_by: str | None = None  # order, deadline, boot or damage, as the server says
    closing_task_id: str | None = None  # the last one that closes it, or asks whether it is closed
    asks: int = 0  # how often the server was asked after the deadline, and did not say that it is closed
    ask_at: datetime | None = None  # when it is asked next, by whoever serves the home
    note: str = ""  # why it stands as it does, where that needs saying
    given: dict[str, Any] = field(default_factory=dict)  # which kinds of credential came for it, as its task keeps it
    one_time: bool = False  # a password was made for it, and works until it is changed, which is done once the door is over
    rotation_id: str | None = None  # by which that password is being changed

    @property
    def password_works(self) -> bool:
        """Whether it is over, and the password that was made for it was not seen changed: whoever was shown it still knows it."""
        return self.one_time and self.state in OVER

    @property
    def unbegun(self) -> bool:
        """Whether its password is being set, and whoever asked has still to say that it is to be opened by that."""
        return self.state == "opening" and self.ask_at is not None

    @property
    def confirmed(self) -> bool:
        """Whether how it ended is known, and not only asked for."""
        return self.state in OVER


def refuse_too_long(door: Door, seconds: int, longest_seconds: int, at: datetime) -> None:
    """Invalid(door_too_long): open for so many seconds from now on a door would be open for longer than the limit in all.

    A door that was seen open without its opening having been heard counts from when it was asked for.
    """
    been = (at - (door.opened_at or door.created_at)).total_seconds()
    if been + seconds > longest_seconds:
        left = max(0, int(longest_seconds - been))
        told = f"{door.server_name}: open for {int(been)} s by now, and for {longest_seconds} s at most in all"
        raise Invalid("door_too_long", f"{told}; at most {left} s more, or open it anew", door=door.id)


def after(door: Door, task: Task, at: datetime) -> Door:
    """Return a door as it is after a task of it has ended at this time, by what that came to and what the server has said."""
    seen, well = DoorSeen.told(task.evidence), task.status in ("succeeded", "unchanged")
    told = seen if seen is not None and seen.id == door.id else None
    if task.operation == "door-open":
        return _after_opening(door, task, told, well, at)
    if told is not None and told.state == "closed":
        return _closed(door, told.closed_by or ("order" if task.operation == "door-close" else None), at)
    looked = well and task.operation == "door-status"
    if told is None and (looked or (well and seen is not None) or task.cause == "door_unknown"):
        return _closed(door, None, at)  # none stands there, or another one, of which a server has one at a time
    if task.operation == "door-close" and well:
        return _closed(door, "order", at)
    if task.operation == "door-extend":
        if not well:
            return replace(door, note=f"not extended: {task.message}")
        return _open(door, int(task.request["door_seconds"]), at)
    if told is not None and task.operation == "door-status" and door.deadline is not None and at < door.deadline:
        return replace(door, state="open", asks=0, ask_at=door.deadline + FIRST_ASKED, note="")
    said = "the server says that it is open still" if told is not None else task.message
    return unanswered(replace(door, state="closing", note=f"not confirmed: {said}"), at)


def in_use(door: Door, at: datetime) -> bool:
    """Whether somebody may get in by a door, or may be about to: its password stays as it is.

    Not by one about which its server was asked for as long as anybody asks: it has closed that by itself long since.
    """
    given_up = door.state == "closing" and door.deadline is not None and at >= door.deadline + _ASKED_FOR
    return door.state in MAY_BE_OPEN and not given_up


def unanswered(door: Door, at: datetime) -> Door:
    """Return a door whose server did not say that it is closed: it is asked again, ever more rarely, for two days."""
    again = at + timedelta(seconds=_ASKED_AGAIN[min(door.asks, len(_ASKED_AGAIN) - 1)])
    last = (door.deadline or at) + _ASKED_FOR
    return replace(door, asks=door.asks + 1, ask_at=again if again < last else None)


def _after_opening(door: Door, task: Task, told: DoorSeen | None, well: bool, at: datetime) -> Door:
    if well or (told is not None and told.state == "open"):
        opened = _open(door, door.seconds, at)
        return replace(opened, opened_at=at, note="" if well else task.message)
    if task.server_state in ("as_before", "reverted") or told is not None:
        return replace(door, state="failed", closed_at=at, note=task.message, ask_at=None)
    # Nobody heard the end: it may be open, and closes by itself.
    until = door.deadline or at + timedelta(seconds=door.seconds)
    return unanswered(replace(door, state="closing", deadline=until, note=f"not confirmed: {task.message}"), at)


def _open(door: Door, seconds: int, at: datetime) -> Door:
    deadline = at + timedelta(seconds=seconds)
    return replace(door, state="open", deadline=deadline, asks=0, ask_at=deadline + FIRST_ASKED, note="")


def _closed(door: Door, closed_by: str | None, at: datetime) -> Door:
    return replace(door, state="closed", closed_at=at, closed_by=closed_by, ask_at=None, note="")
