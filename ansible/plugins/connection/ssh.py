# SPDX-License-Identifier: Apache-2.0
"""ssh with the key pair that the controller keeps, and the host key that it has on record."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: ssh
short_description: ssh with managed keys and recorded host keys
version_added: 0.1.0
description:
  - Connects as P(ansible.builtin.ssh#connection) does, and takes all its options.
  - The key pair that is bound to the login is taken out of the controller's custody into an ssh-agent that lives as
    long as this run of
    Ansible, however it ends. The private key is in no file. It is the only key that is offered.
  - The host key is the recorded one and no other. Jump servers are those of the controller, each with its own key
    pair and host key.
options:
  kps_name:
    description: Name of the server in the controller's inventory. Without it, the host's.
    type: str
    vars:
      - name: kps_name
  kps_keypair_name:
    description: Name of the key pair. Without it, the one that is bound to the login.
    type: str
    vars:
      - name: kps_keypair_name
  kps_key_seconds:
    description: So long a key stays in the agent at most; then it is asked for anew.
    type: int
    default: 3600
    vars:
      - name: kps_key_seconds
  url:
    description: Where the controller is.
    type: str
    required: true
    env: [{name: KPS_URL}]
    vars: [{name: kps_url}]
  access_key:
    description: Id of the access key that requests are signed with.
    type: str
    required: true
    env: [{name: KPS_ACCESS_KEY}]
    vars: [{name: kps_access_key}]
  secret_key:
    description: Its secret.
    type: str
    required: true
    env: [{name: KPS_SECRET_KEY}]
    vars: [{name: kps_secret_key}]
  security_token:
    description: The security token of a temporary access key.
    type: str
    env: [{name: KPS_SECURITY_TOKEN}]
    vars: [{name: kps_security_token}]
  fingerprint:
    description: SHA-256 fingerprint of the controller's certificate.
    type: str
    env: [{name: KPS_FINGERPRINT}]
    vars: [{name: kps_fingerprint}]
  ca_certificate:
    description: PEM file with the controller's certificate, or its authority's.
    type: path
    env: [{name: KPS_CA_CERTIFICATE}]
    vars: [{name: kps_ca_certificate}]
notes:
  - Connections that ssh keeps open between tasks (C(ControlPersist)) are each of one server, login and key pair, and
    end with the run.
author:
  - The kps project (@kps)
"""

import hashlib
import shlex
from pathlib import Path

import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ssh
from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused, segment
from ansible_collections.kps.fleet.plugins.plugin_utils import runs
from ansible_collections.kps.fleet.plugins.plugin_utils.keys import exported
from ansible_collections.kps.fleet.plugins.plugin_utils.settings import controller_by_options


def _with_options_of_ssh(own):
    """Return the document of this plugin with the options of Ansible's ssh: it takes them, and Ansible reads them from here."""
    theirs, mine = yaml.safe_load(ssh.DOCUMENTATION), yaml.safe_load(own)
    mine["options"] = {**theirs["options"], **mine["options"]}
    mine["extends_documentation_fragment"] = theirs["extends_documentation_fragment"]
    return yaml.safe_dump(mine)


# Not an assignment: ansible-doc reads the text above, and shows what is special here.
globals().update(DOCUMENTATION=_with_options_of_ssh(DOCUMENTATION))

# Of a Unix socket's path, 104 bytes with some systems; ssh appends 17 characters of its own while it makes one.
LONGEST_SOCKET = 104 - 17 - 1
# As the controller allows.
MOST_HOPS = 8


class Connection(ssh.Connection):
    """ssh, told which key and which host key."""

    transport = "kps.fleet.ssh"

    def _build_command(self, binary, subsystem, *other_args):
        command = super()._build_command(binary, subsystem, *other_args)
        program = binary if isinstance(binary, bytes) else binary.encode("utf-8")
        # The first word that ssh hears about a setting holds.
        at = command.index(program) + 1
        return command[:at] + [word.encode("utf-8") for word in self._words()] + command[at:]

    def reset(self):
        """Connect anew, with what is bound now."""
        runs.forget(self._name())
        super().reset()

    def _name(self):
        return str(self.get_option("kps_name") or self._play_context.remote_addr)

    def _words(self):
        """Return what ssh is told, with the keys for it in the agent."""
        name = self._name()
        try:
            run = runs.directory()
            known = runs.kept(run, name)
            if known is None or not all(runs.loaded(run, public) for public in known["public_keys"]):
                known = self._asked(run, name)
                runs.keep(run, name, known)
            return known["words"]
        except Refused as refused:
            raise AnsibleConnectionFailure(f"{name}: {refused.code}: {refused.message}") from refused

    def _asked(self, run, name):
        controller = controller_by_options(self)
        server = controller.ask("GET", f"/servers/{segment(name)}")
        login = str(self.get_option("remote_user") or server["login"])
        words, public = self._told(controller, run, server, login, self.get_option("kps_keypair_name"))
        publics = [public]
        words += ["-o", f"ControlPath={control_path(run, server, login, public)}"]
        hops = []
        for hop in way_to(server, lambda hop: controller.ask("GET", f"/servers/{segment(hop)}")):
            said, public = self._told(controller, run, hop, hop["login"], None)
            publics.append(public)
            hops.append((hop, said))
        if hops:
            words += ["-o", f"ProxyCommand={proxy_command(hops)}", "-o", "ProxyJump=none"]
        return {"words": words, "public_keys": publics}

    def _told(self, controller, run, server, login, keypair):
        """Return what ssh is told of one server, and the public key for it, whose private half is in the agent then."""
        name = server["name"]
        if not server["host_key"]:
            raise AnsibleConnectionFailure(f"{name}: the controller has no host key of it; take it in with one, or check it once")
        keypair = keypair or next((each["keypair"] for each in server["bindings"] if each["login"] == login), None)
        if keypair is None:
            raise AnsibleConnectionFailure(f"{name}: no key pair that you may use is bound to {login}")
        public = controller.ask("GET", f"/keypairs/{segment(keypair)}")["public_key"]
        # Of several workers one opens it: each opening is on record.
        with runs.alone(f"{runs.place(run, f'keypair {keypair}')}.lock"):
            if not runs.loaded(run, public):
                runs.load(run, exported(controller, keypair), self.get_option("kps_key_seconds"))
        at = runs.place(run, f"{name} {login}")
        runs.put(Path(f"{at}.pub"), f"{public}\n")
        runs.put(Path(f"{at}.known"), f"kps-{server['id']} {server['host_key']}\n")
        settings = {
            "IdentityAgent": literal(run / "agent"),
            "IdentitiesOnly": "yes",
            "IdentityFile": literal(f"{at}.pub"),
            "CertificateFile": "none",
            "ForwardAgent": "no",
            "UserKnownHostsFile": literal(f"{at}.known"),
            "GlobalKnownHostsFile": "/dev/null",
            "KnownHostsCommand": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "VerifyHostKeyDNS": "no",
            "HostKeyAlias": f"kps-{server['id']}",
        }
        return [word for setting, value in settings.items() for word in ("-o", f"{setting}={value}")], public


def literal(text):
    """Return a text as ssh must be told it where it puts something for each %h and the like."""
    return str(text).replace("%", "%%")


def control_path(run, server, login, public):
    """Return where ssh keeps its connection open between tasks: one for each server, login and key, whatever their addresses.

    Of this run alone, so it was opened with this host key. "none", that is no such connection, where its path would be too long.
    """
    named = f"{server['id']} {login} {' '.join(public.split()[:2])}"
    path = run / f"{hashlib.sha256(named.encode('utf-8')).hexdigest()[:12]}.cp"
    return literal(path) if len(str(path).encode("utf-8")) <= LONGEST_SOCKET else "none"


def way_to(server, find):
    """Return the jump servers on the way to a server, the nearest to us first, as the controller goes it. find: one by its name.

    The first of a server's jumps is reached on its own way, each further one from the one before it.
    """
    way = []
    here = server
    while here["jump"]:
        way[:0] = [find(name) for name in here["jump"]]
        here = way[0]
        passed = [each["id"] for each in [*way, server]]
        if len(set(passed)) != len(passed) or len(way) > MOST_HOPS:
            raise AnsibleConnectionFailure(f"{server['name']}: its jump servers lead in a circle, or are more than {MOST_HOPS}")
    return way


def proxy_command(hops):
    """Return the ProxyCommand by which ssh reaches its target through hops, the nearest to us first: (server, what ssh is told).

    Each hop is reached by its own login and key, through those before it. Only the last is told %h, the target of the ssh that
    runs this: that puts its own target for every %h that it sees, at whatever depth. It takes one % of two, as does each within.
    """
    through = None
    for number, (hop, said) in enumerate(hops):
        further = [each for each, _said in hops[number + 1 : number + 2]]
        to = "".join(literal(f"[{each['host']}]:{each['port']}") for each in further) or "[%h]:%p"
        proxy = "none" if through is None else through
        words = ["ssh", "-F", "none", "-o", "BatchMode=yes", *said, "-o", f"ProxyCommand={proxy}"]
        command = shlex.join([*words, "-p", str(hop["port"]), "-l", hop["login"]])
        through = f"{literal(command)} -W {shlex.quote(to)} {shlex.quote(literal(hop['host']))}"
    return through
