"""The verbs of emergency doors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from controller.client.call import PAGE, Call, Flow, Verb, by_ids, pages, segment

if TYPE_CHECKING:
    from controller import answers as a

# A thousand passwords, on a busy machine: they are told once, so whoever asked is to be there still.
MAKING_SECONDS = 600.0


class DoorVerbs:
    """Doors, what a second user has to agree to, and who is told."""

    @Verb
    def open_doors(self, request: Mapping[str, Any]) -> Call[a.DoorsAsked]:
        """Open doors, or ask for them where a second user has to agree; returns the orders and their doors.

        one_time: passwords are made and set first; returns them, this once, with the tasks that do it. Then begin_doors().
        """
        wait_seconds = MAKING_SECONDS if request.get("one_time") else None
        return Call("POST", "/doors", body=dict(request), wait_seconds=wait_seconds)

    @Verb
    def doors(self, ids: Iterable[str] | None = None, *, every: bool = False, server: str | None = None) -> Flow[list[a.Door]]:
        """Return the doors that are, may be, or are to be open, the newest first; every: those that are over too.

        ids: these, however they stand. server: on this one alone.
        """
        if ids is not None:
            return (yield from by_ids("/doors", ids))
        params = [("all", "true")] if every else []
        return (yield from pages("/doors", params + ([] if server is None else [("server", server)]), "id"))

    @Verb
    def door(self, door_id: str) -> Call[a.DoorWithOrder]:
        """Return one door, with the order that asked for it."""
        return Call("GET", f"/doors/{segment(door_id)}")

    @Verb
    def extend_doors(self, request: Mapping[str, Any]) -> Call[a.DoorsAsked]:
        """Have doors stay open longer; returns the orders and their doors."""
        return Call("POST", "/doors/extend", body=dict(request))

    @Verb
    def close_doors(self, door_ids: Iterable[str], request: Mapping[str, Any] | None = None) -> Flow[list[a.Door]]:
        """Close doors, however many, and return them; where one request for some of them is refused, those of before it are."""
        wanted = list(door_ids)
        found: list[a.Door] = []
        for first in range(0, len(wanted), PAGE):
            some = {"doors": wanted[first : first + PAGE], **(request or {})}
            found += yield from Call("POST", "/doors/close", body=some)
        return found

    @Verb
    def door_orders(self) -> Call[list[a.DoorOrder]]:
        """Return what a second user has to agree to."""
        return Call("GET", "/door-orders")

    @Verb
    def begin_doors(self, order_id: str, request: Mapping[str, Any] | None = None) -> Call[a.DecidedDoors]:
        """Open the doors whose one-time passwords are set by now; returns their order and all its doors."""
        return Call("POST", f"/door-orders/{segment(order_id)}/begin", body=dict(request or {}))

    @Verb
    def decide_doors(
        self, order_id: str, step: Literal["approve", "refuse"], request: Mapping[str, Any] | None = None
    ) -> Call[a.DecidedDoors]:
        """Approve or refuse an order; returns it and its doors."""
        body = dict(request or {}) if step == "approve" else None
        return Call("POST", f"/door-orders/{segment(order_id)}/{step}", body=body)

    @Verb
    def door_rules(self) -> Call[list[a.DoorRule]]:
        """Return for which servers a second user has to agree."""
        return Call("GET", "/door-rules")

    @Verb
    def set_door_rule(self, servers: str, minutes: int) -> Call[a.DoorRule]:
        """Have doors of servers with a label opened only after a second user has agreed; returns the rule."""
        return Call("PUT", "/door-rules", body={"servers": servers, "minutes": minutes})

    @Verb
    def remove_door_rule(self, servers: str) -> Call[None]:
        """Have doors of these servers opened without a second user."""
        return Call("DELETE", "/door-rules", params=[("servers", servers)])

    @Verb
    def door_alerts(self) -> Call[a.DoorHook]:
        """Return where the tenant is told of its doors."""
        return Call("GET", "/door-alerts")

    @Verb
    def set_door_alerts(self, url: str, secret: str) -> Call[a.DoorHook]:
        """Tell the tenant of its doors at a URL."""
        return Call("PUT", "/door-alerts", body={"url": url, "secret": secret})

    @Verb
    def remove_door_alerts(self) -> Call[None]:
        """Tell the tenant of its doors nowhere any more."""
        return Call("DELETE", "/door-alerts")
