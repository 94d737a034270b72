"""What may begin now: waves, limits, budget, breakers and groups together, for one rollout."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from typing import Literal

from controller.rollout.breaker import Breaker
from controller.rollout.budget import Budget
from controller.rollout.endings import Ending, wait
from controller.rollout.groups import Groups
from controller.rollout.strategy import Member, Strategy
from controller.rollout.waves import waves

State = Literal["waiting", "running", "later", "done", "failed", "held"]
_NOT_ENDED: frozenset[State] = frozenset({"waiting", "running", "later"})


@dataclass(frozen=True, slots=True)
class Past:
    """What a member has behind it, as after a restart. One that was never begun has none."""

    tries: int
    ending: Ending | None = None  # of its last task; None: that is under way
    again_at: datetime | None = None  # when it is to be tried again
    held: bool = False
    forgiven: bool = False  # it failed, and somebody has said since that the rollout goes on all the same


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now. held: members that this rollout begins no more, each with the reason."""

    begin: list[Member] = field(default_factory=list)
    held: list[tuple[Member, str]] = field(default_factory=list)


class Progress:
    """One rollout as it goes: ask it what begins, tell it what ended. What that costs does not grow with the servers."""

    def __init__(
        self, strategy: Strategy, members: Sequence[Member], past: Mapping[str, Past] | None = None, *, go_on: bool = False
    ) -> None:
        """past: of those that were begun, in the order in which they ended. go_on: somebody has seen the canary and said yes."""
        canary, batches = waves(members, strategy)
        self.stopped: str | None = None  # why nothing more is begun
        self.counts: Counter[State] = Counter({"waiting": len(members)})
        self._strategy = strategy
        self._budget = Budget(strategy, members, canary)
        self._member = {each.server_id: each for each in members}
        self._state: dict[str, State] = dict.fromkeys(self._member, "waiting")
        self._tries: Counter[str] = Counter()
        self._waves = deque([canary, *batches] if canary else batches)
        self._go_on = go_on or not strategy.pause_after_canary or not canary
        self._canary_is_past = not canary
        self._current: set[str] = set()  # of the wave that is worked on: who has not ended
        self._roads: dict[tuple[str, ...], deque[Member]] = {}  # who is ready, by the jump servers on the way
        self._behind: Counter[str] = Counter()  # how many run, by jump server
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)  # by jump server, and by subnet
        self._parked: defaultdict[str, deque[Member]] = defaultdict(deque)  # by the subnet that is left alone for a while
        self._groups = Groups()
        self._later: list[tuple[datetime, int, Member]] = []
        self._ordinal = 0
        self._held: list[tuple[Member, str]] = []  # not told yet
        for server_id, each in (past or {}).items():
            self._remember(self._member[server_id], each)
        self._next_wave()

    @property
    def over(self) -> bool:
        """Whether every server has come to its end."""
        return not any(self.counts[state] for state in _NOT_ENDED)

    @property
    def waits_for_go(self) -> bool:
        """Whether the canary has ended well and somebody is to look at it."""
        return not self._go_on and not self._current and not self.over and self.stopped is None

    def go_on(self) -> None:
        """Begin what comes after the canary."""
        self._go_on = True

    def state(self, server_id: str) -> State:
        """Return how far a server is."""
        return self._state[server_id]

    def tries(self, server_id: str) -> int:
        """Return how often a server was begun."""
        return self._tries[server_id]

    def step(self, at: datetime) -> Step:
        """Return what is to be done at a moment; it is taken for done."""
        begin: list[Member] = []
        while self._later and self._later[0][0] <= at:
            self._enqueue(heappop(self._later)[2], first=True)
        if self.stopped is None and (self._strategy.window is None or self._strategy.window.open_at(at)):
            self._unpark(at)
            while self.counts["running"] < self._strategy.concurrency:
                member = self._next(at)
                if member is not None:
                    self._begin(member)
                    begin.append(member)
                elif self._current or not self._next_wave():
                    break
        held, self._held = self._held, []
        return Step(begin, held)

    def ended(self, server_id: str, ending: Ending, at: datetime) -> datetime | None:
        """Take note of how a server's task ended; returns when it is to be tried again, None where it is not."""
        member = self._member[server_id]
        for bastion in member.bastions:
            self._behind[bastion] -= 1
        self._judge_ways(member, ending, at)
        if ending.heals and self._tries[server_id] < self._strategy.tries:
            again_at = at + wait(server_id, self._tries[server_id])
            self._put_off(member, again_at)
            return again_at
        self._conclude(member, ending)
        return None

    def next_look(self, at: datetime) -> datetime | None:
        """Return when step() may have something to do without anything having ended; None: not before something ends."""
        if self.stopped is not None or self.waits_for_go or self.over:
            return None
        window = self._strategy.window
        if window is not None and not window.open_at(at):
            return window.next_open(at)
        moments = [self._later[0][0]] if self._later else []
        moments += [shut for shut in self._shut_ways() if shut > at]
        return min(moments, default=None)

    # -- what it knows -------------------------------------------------------------------------------------------------

    def _remember(self, member: Member, past: Past) -> None:
        self._tries[member.server_id] = past.tries
        if past.held:
            self._set(member, "held")
        elif past.again_at is not None:
            self._groups.enter(member)
            self._put_off(member, past.again_at)
        elif past.ending is None:
            self._run(member)
        elif past.forgiven:
            self._set(member, "failed")
        else:
            self._groups.enter(member)
            self._conclude(member, past.ending)

    def _set(self, member: Member, state: State) -> None:
        self.counts[self._state[member.server_id]] -= 1
        self.counts[state] += 1
        self._state[member.server_id] = state
        if state not in _NOT_ENDED:
            self._current.discard(member.server_id)

    def _next_wave(self) -> bool:
        """Go on to the next wave that has somebody left in it; say whether there is one."""
        while not self._current and self._waves and (self._go_on or not self._canary_is_past):
            self._canary_is_past = True
            wave = self._waves.popleft()
            self._current = {each.server_id for each in wave if self._state[each.server_id] in _NOT_ENDED}
            for each in wave:
                if self._state[each.server_id] == "waiting":
                    self._enqueue(each)
        return bool(self._current)

    # -- who comes next ------------------------------------------------------------------------------------------------

    def _enqueue(self, member: Member, first: bool = False) -> None:
        road = self._roads.setdefault(member.bastions, deque())
        road.appendleft(member) if first else road.append(member)

    def _next(self, at: datetime) -> Member | None:
        """Take the next member out of its queue, each way there in turn; None where nobody may begin now."""
        for bastions in list(self._roads):
            road = self._roads.pop(bastions)
            for bastion in bastions:
                if self._breakers[bastion].given_up:
                    self._hold(road, f"a jump server on its way ({bastion}) could not be reached again and again")
            found = self._of_road(road, at) if self._has_room(bastions, at) else None
            if road:
                self._roads[bastions] = road  # now the last
            if found is not None:
                return found
        return None

    def _has_room(self, bastions: tuple[str, ...], at: datetime) -> bool:
        most = self._strategy.per_bastion
        return all(self._breakers[each].lets(at) and (most is None or self._behind[each] < most) for each in bastions)

    def _of_road(self, road: deque[Member], at: datetime) -> Member | None:
        while road:
            member = road.popleft()
            if not self._kept_back(member, at):
                return member
        return None

    def _kept_back(self, member: Member, at: datetime) -> bool:
        """Say whether a member may not begin now, having put it where it waits, or ended it."""
        subnet = member.subnet
        spoiled = self._groups.spoiled(member)
        if spoiled is not None:
            self._hold([member], spoiled)
        elif subnet is not None and self._breakers[subnet].given_up:
            self._hold([member], _not_answering(subnet))
        elif subnet is not None and not self._breakers[subnet].lets(at):
            self._parked[subnet].append(member)
        else:
            return not self._groups.takes(member)
        return True

    def _unpark(self, at: datetime) -> None:
        """Have those that waited for a subnet looked at again, where that may be tried now or is not tried any more."""
        for subnet in [each for each in self._parked if self._breakers[each].given_up or self._breakers[each].lets(at)]:
            for member in reversed(self._parked.pop(subnet)):
                self._enqueue(member, first=True)

    def _hold(self, members: Iterable[Member], reason: str) -> None:
        for each in list(members):
            self._held.append((each, reason))
            self._set(each, "held")
            self._queue_those(self._groups.leave(each))
        if isinstance(members, deque):
            members.clear()

    def _shut_ways(self) -> Iterator[datetime]:
        """The moments from which ways that somebody waits for may be tried again."""
        waited_for = {bastion for bastions in self._roads for bastion in bastions} | set(self._parked)
        for each in waited_for:
            shut = self._breakers[each].shut_until
            if shut is not None:
                yield shut

    # -- how it goes on ------------------------------------------------------------------------------------------------

    def _begin(self, member: Member) -> None:
        self._tries[member.server_id] += 1
        for way in _ways(member):
            self._breakers[way].begun(member.server_id)
        self._run(member)

    def _run(self, member: Member) -> None:
        self._groups.enter(member)
        self._behind.update(member.bastions)
        self._set(member, "running")

    def _put_off(self, member: Member, again_at: datetime) -> None:
        self._set(member, "later")
        self._ordinal += 1
        heappush(self._later, (again_at, self._ordinal, member))

    def _conclude(self, member: Member, ending: Ending) -> None:
        unsafe = None if ending.safe else f"another server of {member.group} was left in doubt ({ending.cause})"
        self._queue_those(self._groups.leave(member, unsafe))
        if ending.cause is not None:
            self._set(member, "failed")
            self.stopped = self.stopped or self._budget.failed(member, ending.cause)
        else:
            self._set(member, "done" if ending.tried else "held")

    def _queue_those(self, members: list[Member]) -> None:
        for each in reversed(members):
            self._enqueue(each, first=True)

    def _judge_ways(self, member: Member, ending: Ending, at: datetime) -> None:
        """Tell the breakers what the end of a task says of the ways to its server."""
        at_a_jump = ending.cause == "jump_unreachable"
        for way in _ways(member):
            breaker = self._breakers[way]
            if not ending.tried or (at_a_jump and way == member.subnet):
                breaker.left(member.server_id)
            elif ending.reached or (way != member.subnet and not at_a_jump):
                breaker.reached(member.server_id)
            else:
                breaker.not_reached(member.server_id, at)


def _ways(member: Member) -> tuple[str, ...]:
    return member.bastions if member.subnet is None else (*member.bastions, member.subnet)


def _not_answering(subnet: str) -> str:
    return f"servers of {subnet} could not be reached again and again"
