# SPDX-License-Identifier: Apache-2.0
"""Makes a key pair, takes one in, changes what may be changed of it, or deletes it."""

from __future__ import annotations

import os

from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused, segment
from ansible_collections.kps.fleet.plugins.plugin_utils.asking import Asking
from ansible_collections.kps.fleet.plugins.plugin_utils.keys import public_half
from ansible_collections.kps.fleet.plugins.plugin_utils.states import compared, found_or_none


class ActionModule(Asking):
    SPEC = {
        "name": {"type": "str", "required": True},
        "type": {"type": "str"},
        "scope": {"type": "str", "choices": ["private", "account"]},
        "managed": {"type": "bool"},
        "master_key": {"type": "str", "no_log": False},
        "public_key": {"type": "str"},
        "private_key": {"type": "str", "no_log": True},
        "passphrase": {"type": "str", "no_log": True},
        "allow_weak": {"type": "bool", "default": False},
        "private_key_file": {"type": "path"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }

    def answer(self, controller, asked):
        name = asked["name"]
        path = f"/keypairs/{segment(name)}"
        before = found_or_none(controller, path)
        if asked["state"] == "absent":
            if before and not self.looks_only:
                controller.ask("DELETE", path)
            return compared(self, before, None)
        if before is None:
            try:
                return self._made(controller, name, asked)
            except Refused as refused:
                # Another host of the play may have made it in this moment.
                before = found_or_none(controller, path) if refused.status == 409 else None
                if before is None:
                    raise
        self._refuse_other(name, before, asked)
        return self._changed(controller, path, before, asked)

    def _made(self, controller, name, asked):
        body = {each: asked[each] for each in ("scope", "master_key") if asked[each] is not None}
        body["name"] = name
        if asked["public_key"] or asked["private_key"]:
            given = ("public_key", "private_key", "passphrase", "allow_weak")
            body.update({each: asked[each] for each in given if asked[each]})
            if self.looks_only:
                return compared(self, None, {"name": name, "managed": bool(asked["private_key"])})
            return compared(self, None, controller.ask("POST", "/keypairs/import", body=body))
        body.update({each: asked[each] for each in ("type", "managed") if asked[each] is not None})
        if asked["managed"] is False and not asked["private_key_file"]:
            told = "%s: the private half of a key pair that is not managed is given out once; say private_key_file"
            raise Refused("private_key_file_missing", told % name)
        if asked["private_key_file"] and os.path.lexists(asked["private_key_file"]):
            raise Refused("file_exists", "{} exists already; it is not written over".format(asked["private_key_file"]))
        if self.looks_only:
            return compared(self, None, body)
        if asked["managed"] is not False:
            return compared(self, None, controller.ask("POST", "/keypairs", body=body))
        # Made before the key is: where it cannot be written, no key pair exists whose private half is lost.
        out = os.open(asked["private_key_file"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(out, "w") as file:
            try:
                made = controller.ask("POST", "/keypairs", body=body)
            except Refused:
                os.unlink(asked["private_key_file"])
                raise
            file.write(made.pop("private_key"))
        return compared(self, None, made)

    def _refuse_other(self, name, before, asked):
        """A key pair is not turned into another one: what is bound would no longer be what its name says."""
        different = []
        said = [asked["public_key"]] if asked["public_key"] else []
        if asked["private_key"]:
            half = public_half(asked["private_key"], asked["passphrase"])
            if half is None and not said and before["managed"]:
                told = "%s: of which key pair this private key is cannot be read here; say its public_key too"
                raise Refused("public_key_missing", told % name)
            said += [half] if half else []
        if any(each.split()[:2] != before["public_key"].split()[:2] for each in said):
            different.append("public key")
        if asked["type"] and asked["type"] != before["type"]:
            different.append("type")
        if asked["scope"] == "private" and before["scope"] == "account":
            different.append("scope")
        if asked["managed"] is False and before["managed"]:
            different.append("custody (its private half is kept; `kps keypair clear` destroys it)")
        if asked["managed"] and not before["managed"] and not asked["private_key"]:
            different.append("custody (its private half is not kept; give it as private_key)")
        if different:
            told = "%s: there is a key pair of this name with another %s; take another name"
            raise Refused("keypair_differs", told % (name, " and ".join(different)), evidence={"keypair": before})

    def _changed(self, controller, path, before, asked):
        now = before
        if asked["private_key"] and not before["managed"]:
            body = {each: asked[each] for each in ("private_key", "passphrase", "master_key") if asked[each]}
            now = self._done(controller, path + "/manage", body, now, {"managed": True})
        if asked["scope"] == "account" and before["scope"] == "private":
            now = self._done(controller, path + "/upgrade", None, now, {"scope": "account"})
        if asked["master_key"] and before["managed"]:
            (master_key,) = controller.ask("GET", "/kms/keys", [("named", asked["master_key"])])
            wanted = master_key["id"]
            if wanted != before["master_key_id"]:
                now = self._done(controller, path + "/move", {"master_key": wanted}, now, {"master_key_id": wanted})
        return compared(self, before, now)

    def _done(self, controller, path, body, now, predicted):
        return {**now, **predicted} if self.looks_only else controller.ask("POST", path, body=body)
