"""All that was asked of how a rollout goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from controller.causes import CAUSES
from controller.errors import Invalid
from controller.rollout.amounts import Amount, amount
from controller.rollout.window import Window, window

EVERY = "*"  # in place of a cause: each of them by itself
_ONE, _A_TENTH, _ONE_IN_FIFTY = Amount(1), Amount(share=1000), Amount(share=200)


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a rollout goes. As it is here: one server first, then a tenth at a time, until more than one in fifty failed."""

    canary: Amount = _ONE  # of all servers, before all others; any failure among them stops the rollout
    batch: Amount = _A_TENTH  # of all servers, at a time; the next batch begins when the last one has ended
    max_failures: Amount = _ONE_IN_FIFTY  # of all servers, and of those of each label: one more stops the rollout
    max_failures_of: Mapping[str, Amount] = field(default_factory=dict)  # by cause, or EVERY, of all servers
    per_label: str | None = None  # the label by whose values canaries are spread and failures are counted
    quorum: str | None = None  # the label of whose equal values only one server is worked on at a time
    concurrency: int = 32  # servers at the same time
    per_bastion: int | None = None  # servers at the same time behind each jump server; None: as many as at all
    window: Window | None = None  # in which servers are begun; None: always
    pause_after_canary: bool = False
    tries: int = 3  # of a server, where what failed may heal by itself

    @classmethod
    def read(cls, words: Mapping[str, Any]) -> Self:
        """Return what was asked for in words, as told() gives it; what is not there, or None, is as the defaults are.

        Invalid: amount_unusable, window_unusable, cause_unknown.
        """
        given: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
        for name in ("canary", "batch", "max_failures"):
            if name in given:
                given[name] = amount(str(given[name]), name)
        limits: Mapping[str, Any] = given.pop("max_failures_of", {})
        unknown = sorted(limits.keys() - CAUSES.keys() - {EVERY})
        if unknown:
            raise Invalid("cause_unknown", f"{', '.join(unknown)[:200]}: no such cause; kps explain lists them, {EVERY} is each")
        given["max_failures_of"] = {cause: amount(str(limit), cause) for cause, limit in limits.items()}
        if "window" in given:
            given["window"] = window(str(given["window"]))
        return cls(**given)

    def looking(self) -> Self:
        """Return how to look at all servers for a plan: nobody first, whoever fails stops nothing, at any hour, and once each."""
        every = Amount(share=10_000)
        return replace(
            self, canary=Amount(0), batch=every, max_failures=every, max_failures_of={}, quorum=None, window=None,
            pause_after_canary=False, tries=1,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """Return the same in words and numbers: JSON."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        told["max_failures_of"] = {cause: str(limit) for cause, limit in self.max_failures_of.items()}
        for name in ("canary", "batch", "max_failures", "window"):
            told[name] = None if told[name] is None else str(told[name])
        return told


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a rollout, as far as order and limits go."""

    server_id: str
    label: str | None = None  # its value of per_label
    group: str | None = None  # its value of quorum
    bastions: tuple[str, ...] = ()  # ids of the jump servers on its way
    subnet: str | None = None
