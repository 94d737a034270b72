"""How many may fail before nothing more is begun."""

from collections import Counter
from collections.abc import Sequence

from controller.rollout.strategy import EVERY, Member, Strategy


class Budget:
    """What has failed so far, held against what may."""

    def __init__(self, strategy: Strategy, members: Sequence[Member], canary: Sequence[Member]) -> None:
        self._strategy = strategy
        self._whole = len(members)
        self._canary = {each.server_id for each in canary}
        self._of_label = Counter(each.label for each in members if each.label is not None)
        self._failed = 0
        self._by_cause: Counter[str] = Counter()
        self._by_label: Counter[str] = Counter()

    def failed(self, member: Member, cause: str) -> str | None:
        """Count a failure; returns why nothing more may be begun, None while more may."""
        self._failed += 1
        self._by_cause[cause] += 1
        if member.label is not None:
            self._by_label[member.label] += 1
        if member.server_id in self._canary:
            return f"a server of the canary failed ({cause})"
        return self._by_itself(cause) or self._of_the(member.label) or self._in_all()

    def _in_all(self) -> str | None:
        most = self._strategy.max_failures.at_most(self._whole)
        if self._failed <= most:
            return None
        return f"{_servers(self._failed)} failed, most of them by {self._most_common()}; {_allowed(most)}"

    def _by_itself(self, cause: str) -> str | None:
        amount = self._strategy.max_failures_of.get(cause, self._strategy.max_failures_of.get(EVERY))
        most = self._whole if amount is None else amount.at_most(self._whole)
        if self._by_cause[cause] <= most:
            return None
        return f"{_servers(self._by_cause[cause])} failed by {cause}; {_allowed(most)} by one cause"

    def _of_the(self, label: str | None) -> str | None:
        if label is None:
            return None
        most = self._strategy.max_failures.at_most(self._of_label[label])
        # A label of few servers is not stopped by one failure where of all servers more may fail.
        most = max(most, min(1, self._strategy.max_failures.at_most(self._whole)))
        if self._by_label[label] <= most:
            return None
        named = f"{self._strategy.per_label}={label}"
        return (
            f"{_servers(self._by_label[label])} of {named} failed, most of them by {self._most_common()}; {_allowed(most)} of it"
        )

    def _most_common(self) -> str:
        # Of two that are as common, the name decides: what is told must not depend on which server was quicker.
        return min(self._by_cause, key=lambda cause: (-self._by_cause[cause], cause))


def _servers(count: int) -> str:
    return "1 server" if count == 1 else f"{count} servers"


def _allowed(most: int) -> str:
    return "none may fail" if most == 0 else f"at most {most} may"
