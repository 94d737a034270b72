"""The host key of a server that is not known yet: fetched without offering any credential."""

from collections.abc import Callable

from controller.transport.connect import Target, first_host_key


async def fetch(
    host: str,
    port: int,
    timeout: float = 10.0,  # noqa: ASYNC109 - the wait is ours to word
    admits: Callable[[str], bool] | None = None,
) -> str:
    """Return the host key that host:port shows, as "type blob". Raises NotConnected. admits: which addresses may be tried."""
    return await first_host_key(Target(host, host, port, None, timeout, admits=admits))
