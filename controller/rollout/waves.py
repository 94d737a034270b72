"""Who is in the canary, and who in which batch."""

from collections import defaultdict, deque
from collections.abc import Sequence

from controller.rollout.strategy import Member, Strategy


def waves(members: Sequence[Member], strategy: Strategy) -> tuple[list[Member], list[list[Member]]]:
    """Return the canary (empty where none is wanted), and the batches of all others.

    The canary has somebody of as many labels as it has servers, so that what hits one label is met there; the order of the
    members is kept otherwise.
    """
    count, size = sizes(len(members), strategy)
    canary = _spread(members, count)
    chosen = {each.server_id for each in canary}
    rest = [each for each in members if each.server_id not in chosen]
    return canary, [rest[first : first + size] for first in range(0, len(rest), size)]


def sizes(servers: int, strategy: Strategy) -> tuple[int, int]:
    """Return how many of so many servers are in the canary, and how many in a batch, the last one apart."""
    wanted = strategy.canary
    count = wanted.at_least_one(servers) if wanted.share else wanted.at_most(servers)
    return min(count, servers), strategy.batch.at_least_one(servers)


def _spread(members: Sequence[Member], count: int) -> list[Member]:
    """Return count members, of each label in turn. Those that have none count as one label more."""
    by_label: dict[str | None, deque[Member]] = defaultdict(deque)
    for each in members:
        by_label[each.label].append(each)
    chosen: list[Member] = []
    while len(chosen) < count:
        for waiting in [found for found in by_label.values() if found][: count - len(chosen)]:
            chosen.append(waiting.popleft())
    return chosen
