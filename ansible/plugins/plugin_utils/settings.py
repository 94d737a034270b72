# SPDX-License-Identifier: Apache-2.0
"""Where the controller is, for plugins that are told by options of their own."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import Controller

NAMES = ("fingerprint", "ca_certificate", "security_token", "timeout")


def controller_by_options(plugin):
    """Return the controller that the options of a plugin tell of."""
    more = {name: plugin.get_option(name) for name in NAMES if plugin.get_option(name)}
    url, access_key, secret_key = (str(plugin.get_option(name)) for name in ("url", "access_key", "secret_key"))
    return Controller(url, access_key, secret_key, **more)
