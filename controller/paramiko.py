"""paramiko with managed keys, recorded host keys and jump servers.

from controller.paramiko import connect

with connect("web-1") as ssh:
    _, printed, _ = ssh.exec_command("uptime")
    print(printed.read().decode())
"""

import io
import os
from collections.abc import Sequence

import paramiko
from paramiko.hostkeys import HostKeyEntry

from controller.client import Refused
from controller.scripts import Controller, Hop

__all__ = ["Client", "connect", "host_keys", "private_key"]

CONNECT_SECONDS = 20
_KINDS: dict[str, type[paramiko.PKey]] = {
    "ssh-ed25519": paramiko.Ed25519Key,
    "ssh-rsa": paramiko.RSAKey,
    "ecdsa-sha2-nistp256": paramiko.ECDSAKey,
    "ecdsa-sha2-nistp384": paramiko.ECDSAKey,
    "ecdsa-sha2-nistp521": paramiko.ECDSAKey,
}


class Client(paramiko.SSHClient):
    """An SSHClient that ends the connections to the jump servers on its way too. It knows one host key, and takes no other."""

    def __init__(self, hop: Hop, through: "Client | None" = None) -> None:
        super().__init__()
        self._through = through
        for name, key in host_keys(hop):
            self.get_host_keys().add(name, key.get_name(), key)
        self.set_missing_host_key_policy(paramiko.RejectPolicy())

    def close(self) -> None:
        """End the connection, and those that it went through."""
        super().close()
        if self._through is not None:
            self._through.close()


def connect(
    name: str,
    login: str | None = None,
    *,
    profile: str | None = None,
    home: str | os.PathLike[str] | None = None,
    controller: Controller | None = None,
    seconds: float = CONNECT_SECONDS,
) -> Client:
    """Return a client that is logged in to a server by the key pair that is bound there, over its jump servers.

    login: None: the one that is bound. profile, home: of the controller, as --profile and --home. controller: one for several
    connections, so that each private half is opened once. seconds: for each step of a login. Refused: host_key_unknown,
    nothing_bound, keypair_not_yours, and what an export raises; paramiko's own errors where the way itself fails.
    """
    controller = controller or Controller(profile, home)
    return _connected(controller, controller.way(name, login), seconds)


def private_key(controller: Controller, hop: Hop) -> paramiko.PKey:
    """Return what opens a login, taken out of custody into memory. Refused(key_type_unusable): paramiko has no such keys."""
    kind = _KINDS.get((hop.public_key or "").split(" ")[0])
    if kind is None:
        raise Refused(409, "key_type_unusable", f"{hop.name}: paramiko has no keys of the type of {hop.keypair}; use `kps ssh`")
    return kind.from_private_key(io.StringIO(controller.private_key(hop)))


def host_keys(hop: Hop) -> list[tuple[str, paramiko.PKey]]:
    """Return the recorded host key under the name by which paramiko looks for it."""
    name = hop.host if hop.port == 22 else f"[{hop.host}]:{hop.port}"
    entry = HostKeyEntry.from_line(f"{name} {hop.host_key}")
    if entry is None or entry.key is None:
        raise Refused(
            409, "key_type_unusable", f"{hop.name}: paramiko has no host keys of the type that is recorded; use `kps ssh`"
        )
    return [(name, entry.key)]


def _connected(controller: Controller, way: Sequence[Hop], seconds: float) -> Client:
    through: Client | None = None
    try:
        for hop in way:
            sock = None if through is None else _channel(through, hop, seconds)
            client = Client(hop, through)
            through = client
            client.connect(
                hop.host,
                hop.port,
                hop.login,
                pkey=private_key(controller, hop),
                allow_agent=False,
                look_for_keys=False,
                sock=sock,
                timeout=seconds,
                banner_timeout=seconds,
                auth_timeout=seconds,
            )
    except BaseException:
        if through is not None:
            through.close()
        raise
    assert through is not None  # noqa: S101  # the server itself is on its way
    return through


def _channel(through: Client, hop: Hop, seconds: float) -> paramiko.Channel:
    transport = through.get_transport()
    assert transport is not None  # noqa: S101  # it is logged in
    return transport.open_channel("direct-tcpip", (hop.host, hop.port), ("", 0), timeout=seconds)
