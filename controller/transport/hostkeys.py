"""The host key of a server that is not known yet: fetched without offering any credential."""

import asyncio

import asyncssh

from controller.transport.connect import NotConnected, Target, _reach


async def fetch(host: str, port: int, timeout: float = 10.0, name: str = "") -> str:  # noqa: ASYNC109 - the wait is ours to word
    """Return the host key that host:port shows, as "type blob". Raises NotConnected."""
    target = Target(name or host, host, port, None, timeout)
    sock, _ = await _reach(target)
    try:
        async with asyncio.timeout(timeout):
            key = await asyncssh.get_server_host_key(host, port, sock=sock, config=None)
    except (TimeoutError, OSError, asyncssh.Error) as error:
        sock.close()
        raise NotConnected(
            "connection_closed", f"{target.name} ({host}:{port}): no host key: {error}", server=target.name, host=host, port=port
        ) from None
    if key is None:
        raise NotConnected("not_ssh", f"{target.name} ({host}:{port}): it showed no host key", server=target.name)
    return " ".join(key.export_public_key().decode("ascii").split()[:2])
