# SPDX-License-Identifier: Apache-2.0
"""What the controller has on record, listed."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.plugin_utils.asking import Asking


class Listing(Asking):
    """An action that lists things and changes none. LISTED: what they are called."""

    LISTED = ""

    def answer(self, controller, asked):
        return {"changed": False, self.LISTED: self.listed(controller, asked)}

    def listed(self, controller, asked):
        """Return the things that are asked for."""
        raise NotImplementedError


def given(asked, *names):
    """Return the arguments that were given, as pairs of a query."""
    return [(name, str(asked[name])) for name in names if asked[name]]


def of_these(found, asked, *names):
    """Return of what was found that which has the value that was asked for, under each of these names."""
    return [each for each in found if all(asked[name] in (None, each[name]) for name in names)]
