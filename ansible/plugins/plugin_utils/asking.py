# SPDX-License-Identifier: Apache-2.0
"""What all actions share. They ask the controller from where Ansible runs: nothing is copied to the managed host, no connection
to it is opened, and no argument, so no secret, is written to a file on the way."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.module_utils.basic import env_fallback
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.plugins.action import ActionBase
from ansible_collections.kps.fleet.plugins.module_utils.controller import Controller, Refused

CONTROLLER = {
    "url": {"type": "str", "required": True, "fallback": (env_fallback, ["KPS_URL"])},
    "access_key": {"type": "str", "required": True, "no_log": False, "fallback": (env_fallback, ["KPS_ACCESS_KEY"])},
    "secret_key": {"type": "str", "required": True, "no_log": True, "fallback": (env_fallback, ["KPS_SECRET_KEY"])},
    "security_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["KPS_SECURITY_TOKEN"])},
    "fingerprint": {"type": "str", "fallback": (env_fallback, ["KPS_FINGERPRINT"])},
    "ca_certificate": {"type": "path", "fallback": (env_fallback, ["KPS_CA_CERTIFICATE"])},
    "timeout": {"type": "int", "default": 30},
}
# What opens a server's door this once.
CREDENTIAL = {
    "password": {"type": "str", "no_log": True},
    "password_of": {"type": "str", "no_log": False},
    "identity": {"type": "str", "no_log": True},
    "passphrase": {"type": "str", "no_log": True},
    "certificate": {"type": "str"},
}
WAIT = {"wait_seconds": {"type": "int", "default": 600}}


class Asking(ActionBase):
    """An action that asks the controller. SPEC and RULES: its arguments, beside those that say where the controller is."""

    SPEC = {}
    RULES = {}
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        """Return what answer() makes of the arguments; what the controller refuses fails the task, with its cause."""
        result = super().run(tmp, task_vars)
        spec = {**CONTROLLER, **self.SPEC}
        checked = ArgumentSpecValidator(spec, **self.RULES).validate(dict(self._task.args))
        if checked.error_messages:
            raise AnsibleActionFail("; ".join(checked.error_messages))
        asked = checked.validated_parameters
        secrets = {each for name, about in spec.items() if about.get("no_log") for each in _texts(asked.get(name))}
        self.here = (task_vars or {}).get("inventory_hostname")
        try:
            controller = controller_of(asked)
            result.update(self.answer(controller, asked))
        except Refused as refused:
            result.update(failed=True, changed=False, msg=refused.message, cause=refused.code, evidence=refused.evidence)
        return remove_values(result, secrets)

    def answer(self, controller, asked):
        """Return the result of the task. asked: its arguments, checked."""
        raise NotImplementedError

    @property
    def looks_only(self):
        """Whether nothing may be changed."""
        return bool(self._task.check_mode)

    @property
    def shows_diff(self):
        """Whether the lines that change are wanted."""
        return bool(self._task.diff)

    def named(self, name):
        """Return the name of a server: the one that was given, else the inventory's."""
        if not (name or self.here):
            raise AnsibleActionFail("name the server")
        return str(name or self.here)


def controller_of(asked):
    """Return the controller that arguments, or the options of a plugin, tell of."""
    names = ("fingerprint", "ca_certificate", "security_token", "timeout")
    more = {name: asked[name] for name in names if asked.get(name)}
    return Controller(str(asked["url"]), str(asked["access_key"]), str(asked["secret_key"]), **more)


def credential_of(asked):
    """Return what opens the server, as the API takes it; empty where nothing was given."""
    return {name: str(asked[name]) for name in CREDENTIAL if asked.get(name)}


def _texts(value):
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in _texts(each)]
    return [str(value)] if value else []
