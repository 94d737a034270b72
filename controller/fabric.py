"""Fabric with managed keys, recorded host keys and jump servers.

from controller.fabric import connection, group

connection("web-1").run("uptime")
group("stage=prod").run("systemctl is-active nginx")
"""

import os
import threading
from typing import Any

import fabric
import paramiko

from controller.paramiko import CONNECT_SECONDS, host_keys, private_key
from controller.scripts import Controller, Hop

Json = dict[str, Any]

__all__ = ["Connection", "Group", "connection", "group"]


class Connection(fabric.Connection):  # type: ignore[misc]  # fabric has no types
    """A fabric.Connection to a server of the controller. Its key is taken out of custody when it is opened first.

    Of Fabric's configuration it takes all but what says how to connect; ~/.ssh/config is not read. hop: the server and login.
    """

    # Fabric makes every other attribute a setting of its configuration.
    name = ""
    hop: Hop | None = None
    _controller: Controller | None = None
    _turn: Any = None
    _shares: bool = False

    def __init__(
        self, hop: Hop, controller: Controller, gateway: "Connection | None" = None, config: Any = None, shares: bool = False
    ) -> None:
        """shares: the gateway is others' too, and stays open when this one is closed."""
        config = fabric.Config() if config is None else config.clone(into=fabric.Config)
        config.base_ssh_config = paramiko.SSHConfig()
        super().__init__(
            "kps",  # not the address: Fabric would read one as login@host:port
            user=hop.login,
            port=hop.port,
            gateway=gateway or False,  # None would be what the configuration says
            config=config,
            connect_timeout=CONNECT_SECONDS,
        )
        self.name, self.hop, self.host, self.original_host = hop.name, hop, hop.host, hop.name
        self._controller, self._turn, self._shares = controller, threading.Lock(), shares
        self.connect_kwargs: Json = {}
        for name, key in host_keys(hop):
            self.client.get_host_keys().add(name, key.get_name(), key)
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self.config.authentication.strategy_class = None

    def open(self) -> Any:
        """Log in; the only key is the managed one. Refused: what an export raises."""
        with self._turn:  # others may wait for the same gateway
            if self.is_connected:
                return None
            assert self.hop is not None and self._controller is not None  # noqa: S101, PT018
            key = private_key(self._controller, self.hop)
            self.connect_kwargs = {"pkey": key, "allow_agent": False, "look_for_keys": False}
            try:
                return super().open()
            finally:
                self.connect_kwargs = {}

    def close(self) -> None:
        """End the connection, and that to a gateway which is its own."""
        super().close()
        if self.gateway and not self._shares:
            self.gateway.close()

    def _identity(self) -> tuple[str, str, int]:
        # Behind two jump servers one address is two servers.
        assert self.hop is not None  # noqa: S101
        return (self.hop.id, self.user, self.port)

    def __repr__(self) -> str:
        return f"<Connection {self.name} user={self.user} host={self.host} port={self.port}>"


class Group(fabric.ThreadingGroup):  # type: ignore[misc]
    """A ThreadingGroup whose members share the connections to their jump servers."""

    gateways: tuple[Connection, ...] = ()

    def close(self) -> None:
        """End all connections."""
        super().close()
        for gateway in reversed(self.gateways):
            gateway.close()


def connection(
    name: str,
    login: str | None = None,
    *,
    profile: str | None = None,
    home: str | os.PathLike[str] | None = None,
    config: Any = None,
    controller: Controller | None = None,
) -> Connection:
    """Return a connection to a server, to be opened by its first use.

    login: None: the one that is bound. profile, home: of the controller, as --profile and --home. config: of Fabric or Invoke,
    such as a task's own (c.config). controller: one for several, so that each private half is opened once. Refused:
    host_key_unknown, nothing_bound, keypair_not_yours.
    """
    controller = controller or Controller(profile, home)
    made: Connection | None = None
    for hop in controller.way(name, login):
        made = Connection(hop, controller, made, config)
    assert made is not None  # noqa: S101  # the server itself is on its way
    return made


def group(
    *select: str,
    every: bool = False,
    profile: str | None = None,
    home: str | os.PathLike[str] | None = None,
    config: Any = None,
    controller: Controller | None = None,
) -> Group:
    """Return a group of the servers that are selected (names, label=value), or with every=True of all servers.

    It works on all of them at once. Refused: selection_empty where nothing is selected, as by a list that came out empty;
    selection_twice. To the rest: see connection().
    """
    controller = controller or Controller(profile, home)
    gateways: dict[tuple[str, ...], Connection] = {}
    members = []
    for way in controller.ways(select, every=every):
        made: Connection | None = None
        passed: tuple[str, ...] = ()
        for hop in way[:-1]:
            passed = (*passed, hop.id)
            if passed not in gateways:
                gateways[passed] = Connection(hop, controller, made, config, shares=True)
            made = gateways[passed]
        members.append(Connection(way[-1], controller, made, config, shares=True))
    found: Group = Group.from_connections(members)
    found.gateways = tuple(gateways.values())
    return found
