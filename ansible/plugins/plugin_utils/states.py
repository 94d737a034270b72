# SPDX-License-Identifier: Apache-2.0
"""Things that the controller has on record: what there is, and what a change of it means to Ansible."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused


def found_or_none(controller, path):
    """Return what a path shows, or None where there is nothing."""
    try:
        return controller.ask("GET", path)
    except Refused as refused:
        if refused.status != 404:
            raise
        return None


def compared(action, before, after, **more):
    """Return a result: changed where the two differ, with the difference in diff mode. None: there is nothing."""
    result = {"changed": before != after, **more}
    if after is not None:
        result[action._task.action.rpartition(".")[2]] = after
    if action.shows_diff:
        known = set(before or {}) & set(after or {}) if before and after else set(before or after or {})
        result["diff"] = {
            "before": {} if before is None else {name: before[name] for name in sorted(known)},
            "after": {} if after is None else {name: after[name] for name in sorted(known)},
        }
    return result
