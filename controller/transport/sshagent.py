"""A key that an ssh-agent keeps: one, named, and no other of those that are there. Protocol: draft-ietf-sshm-ssh-agent."""

import asyncio
import base64
import os
import stat
from collections.abc import Sequence

import asyncssh
from asyncssh.agent import SSH_AGENT_RSA_SHA2_256, SSH_AGENT_RSA_SHA2_512, SSHAgentClient

from controller.transport.connect import NotConnected, fingerprint
from controller.transport.offer import Held

SECONDS = 30.0  # somebody may be asked to confirm: ssh-add -c
_FLAGS = {b"rsa-sha2-256": SSH_AGENT_RSA_SHA2_256, b"rsa-sha2-512": SSH_AGENT_RSA_SHA2_512}


class AgentKey:
    """What signs with one key of an ssh-agent; the private half stays there."""

    def __init__(self, socket: str, blob: bytes) -> None:
        self._socket = socket
        self._blob = blob

    async def sign(self, data: bytes, sig_algorithm: bytes, /) -> bytes:
        """Return the signature. NotConnected agent_unusable: the ssh-agent does not sign."""
        signature = b""
        try:
            async with asyncio.timeout(SECONDS), SSHAgentClient(self._socket) as agent:
                signature = await agent.sign(self._blob, data, _FLAGS.get(sig_algorithm, 0))
        except (TimeoutError, ValueError, OSError) as error:
            raise _unusable(
                f"does not sign with the key: {error or 'no answer'}; is it locked, or was it not confirmed?"
            ) from None
        return signature


async def find(socket: str, named: str) -> Held:
    """Return the one key of the ssh-agent at a socket that is named so: a fingerprint, a public key line, or its comment.

    NotConnected agent_unusable where there is none, or more than one.
    """
    _look_at(socket)
    try:
        async with asyncio.timeout(SECONDS), SSHAgentClient(socket) as agent:
            known = [key for key in await agent.get_keys() if not key.has_cert]
    except (TimeoutError, ValueError, OSError, asyncssh.Error) as error:
        raise _unusable(f"does not answer: {error or 'in time'}") from None
    lines = [(_line(key), key.get_comment(errors="replace") or "") for key in known]
    found = dict.fromkeys(line for line, comment in lines if named in (fingerprint(line), comment) or _same(named, line))
    if len(found) != 1:
        there = ", ".join(f"{fingerprint(line)} ({comment})" for line, comment in lines[:10]) or "none"
        raise _unusable(f"has {'no key' if not found else 'more than one key'} that is called {named[:100]!r}; it has: {there}")
    line = next(iter(found))
    return Held(line, AgentKey(socket, asyncssh.import_public_key(line).public_data))


def _look_at(socket: str) -> None:
    try:
        found = os.stat(socket)
    except (OSError, ValueError) as error:
        raise _unusable(f"is not to be found at {socket}: {error}") from None
    if not os.path.isabs(socket) or not stat.S_ISSOCK(found.st_mode):
        raise _unusable(f"is no socket: {socket}")
    if found.st_uid != os.geteuid():
        raise _unusable(f"is somebody else's: {socket}")


def _line(key: asyncssh.SSHKeyPair) -> str:
    return f"{key.get_algorithm()} {base64.b64encode(key.public_data).decode('ascii')}"


def _same(named: str, line: str) -> bool:
    words: Sequence[str] = named.split()
    return len(words) > 1 and list(words[:2]) == line.split()


def _unusable(why: str) -> NotConnected:
    return NotConnected("agent_unusable", f"the ssh-agent {why}")
