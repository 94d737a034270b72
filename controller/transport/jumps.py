"""Jump servers: logged in to on the way to others, and never asked for more connections at once than they carry."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

import asyncssh

from controller.transport.connect import NotConnected, Target, connect
from controller.transport.handshake import Client
from controller.transport.offer import Held, Offer

# What says that the jump server does not let us in, in contrast to that it could not be reached.
_NOT_LET_IN = (
    "wrong_password", "password_refused", "key_refused", "key_mismatch", "login_expired", "credential_needed", "custody_damaged",
    "root_key_missing", "master_key_unusable", "prompt_not_password", "agent_unusable",
)  # fmt: skip
# These say already what they are, whichever server on the way they are about.
_AS_IT_IS = ("host_key_changed", "host_key_unknown", "jump_forbids_forwarding")
_MOST_FAILED_LOGINS = 2
_ANOTHER_LOOK_SECONDS = 0.2

Turn = Callable[[str], Awaitable[object]]
Opens = Callable[[], Awaitable[Held]]  # takes a private key out of where it is kept


class Jump:
    """One jump server, for one task: logged in to when it is first needed, and used for all that goes through it."""

    def __init__(self, target: Target, ways: Sequence[tuple[str, Opens]]) -> None:
        """ways: the login and the key of each way in, the best first."""
        self._target = target
        self._ways = ways
        self._turn = asyncio.Lock()
        self._open: asyncssh.SSHClientConnection | None = None

    @property
    def name(self) -> str:
        return self._target.name

    @property
    def host(self) -> str:
        return self._target.host

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Return the connection to it, made anew where it has broken. NotConnected names the jump server (hop)."""
        async with self._turn:
            if self._open is None or self._open.is_closed():
                try:
                    self._open = await self._logged_in()
                except NotConnected as error:
                    raise _on_the_way(self._target, error) from None
            return self._open

    async def _logged_in(self) -> asyncssh.SSHClientConnection:
        failed: list[NotConnected] = []
        for login, opens in self._ways:
            try:
                client = Client()
                return await connect(self._target, login, client=client, keys=[Offer.of(await opens(), client)])
            except NotConnected as error:
                failed.append(error)
                if error.cause not in _NOT_LET_IN or len(failed) >= _MOST_FAILED_LOGINS:
                    break
        raise (
            failed[0]
            if failed
            else NotConnected(
                "credential_needed",
                f"{self._target.name}: no managed key is bound there; bind one, or give a key (--identity, --agent)",
                **self._target.evidence,
            )
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._open is not None:
            self._open.close()


def _on_the_way(hop: Target, error: NotConnected) -> NotConnected:
    """Return a failure at a jump server as one of the server that it leads to: never taken for what that server says."""
    if "hop" in error.evidence:
        return error  # of another one, on the way to this one
    cause = error.cause
    if cause not in _AS_IT_IS:
        cause = "jump_refused" if cause in _NOT_LET_IN else "jump_unreachable"
    evidence = dict(error.evidence, hop=hop.name, hop_cause=error.cause)
    return NotConnected(cause, f"at the jump server {error.message}", **evidence)


class Places:
    """How many tasks at once each jump server carries for this process; the others wait for their turn."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, asyncio.Semaphore] = {}

    @contextlib.asynccontextmanager
    async def taken(self, jump_ids: Iterable[str]) -> AsyncIterator[None]:
        """Hold a place at each of these jump servers while the block runs."""
        async with contextlib.AsyncExitStack() as held:
            # In one order for all, so that no two wait for each other.
            for each in sorted(set(jump_ids)):
                await held.enter_async_context(self._of.setdefault(each, asyncio.Semaphore(self._most)))
            yield


class SharedPlaces(Places):
    """The same of all controllers that share a store: each place there has a turn, which one of them has at a time."""

    def __init__(self, most: int, take: Turn, leave: Turn) -> None:
        """take: whether a turn of this name is ours from now on. leave: gives it back."""
        super().__init__(most)
        self._take = take
        self._leave = leave
        self._ours: set[str] = set()  # and what we are just asking for
        self._asking: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def taken(self, jump_ids: Iterable[str]) -> AsyncIterator[None]:
        async with super().taken(jump_ids), contextlib.AsyncExitStack() as held:
            for each in sorted(set(jump_ids)):
                await held.enter_async_context(self._place(each))
            yield

    @contextlib.asynccontextmanager
    async def _place(self, jump_id: str) -> AsyncIterator[None]:
        name = await self._free(jump_id)
        try:
            yield
        finally:
            try:
                await self._leave(name)
            finally:
                self._ours.discard(name)

    async def _free(self, jump_id: str) -> str:
        # One asks for all that wait here: each look is as many questions as there are places.
        async with self._asking.setdefault(jump_id, asyncio.Lock()):
            return await self._asked_for(jump_id)

    async def _asked_for(self, jump_id: str) -> str:
        while True:
            for name in (f"jump {jump_id} {number}" for number in range(self._most)):
                if name in self._ours:
                    continue
                self._ours.add(name)
                if await self._is_ours(name):
                    return name
            await asyncio.sleep(_ANOTHER_LOOK_SECONDS)  # other controllers have them all

    async def _is_ours(self, name: str) -> bool:
        taken: object = False
        try:
            taken = await self._take(name)
        finally:
            if not taken:
                self._ours.discard(name)
        return bool(taken)
