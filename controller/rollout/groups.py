"""Quorum groups: of each only one server is worked on at a time, and none any more once one was left unsafe."""

from collections import deque

from controller.rollout.strategy import Member


class Groups:
    """Who of which group is worked on, and who stands in line behind it. A member without a group is always free."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Member]] = {}  # by group that is worked on
        self._worked_on: dict[str, str] = {}
        self._spoiled: dict[str, str] = {}

    def spoiled(self, member: Member) -> str | None:
        """Return why nobody of this member's group is begun any more; None while they are."""
        return None if member.group is None else self._spoiled.get(member.group)

    def takes(self, member: Member) -> bool:
        """Say whether this member may begin as far as its group goes; if not, it stands in line and comes back by leave()."""
        group = member.group
        if group is None or self._worked_on.get(group) in (None, member.server_id):
            return True
        self._lines[group].append(member)
        return False

    def enter(self, member: Member) -> None:
        """Work on this member: of its group, on nobody else."""
        if member.group is not None:
            self._worked_on[member.group] = member.server_id
            self._lines.setdefault(member.group, deque())

    def leave(self, member: Member, unsafe: str | None = None) -> list[Member]:
        """Work on this member no more; returns who stood in line. unsafe: why none of them may begin, now or later."""
        group = member.group
        if group is None or self._worked_on.get(group) != member.server_id:
            return []
        del self._worked_on[group]
        if unsafe is not None:
            self._spoiled[group] = unsafe
        return list(self._lines.pop(group))
