"""Writes what each task of a play came to, a line of JSON each, where KPS_TOLD says: a callback of Ansible, for the tests."""

import json
import os

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: told
type: notification
short_description: writes the result of each task as a line of JSON
description: for the tests
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "told"

    def v2_runner_on_ok(self, result):
        self._write(result, "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write(result, "failed")

    def v2_runner_on_unreachable(self, result):
        self._write(result, "unreachable")

    def _write(self, result, came):
        told = {"task": result._task.get_name(), "host": result._host.get_name(), "came": came, "result": result._result}
        with open(os.environ["KPS_TOLD"], "a") as file:
            file.write(json.dumps(told, default=str) + "\n")
