"""Who is told of emergency doors: the log, and by a signed request whomever the tenant wants told (docs/emergency.md)."""

import asyncio
import contextlib
import hashlib
import hmac
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

import structlog

from controller import addresses
from controller.doors import Door
from controller.errors import Conflict, Damaged, Invalid, Problem, Unavailable
from controller.kms import Context, Kms
from controller.model import DOOR_OPERATIONS, Caller, Secret, Task, now
from controller.plain import plain
from controller.service.roles import allow
from controller.service.sweeps import ALWAYS
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.doorhooks import DoorAlert, DoorHook

TELL_SECONDS = 5.0  # one request, with the connection
GOODBYE_SECONDS = 5.0  # for what a command that runs in its own process has to tell
LOOK_SECONDS = 5.0  # between two looks at what waits to be told
LEAST_SECRET, MOST_SECRET = 16, 256
_AGAIN_SECONDS = (10, 30, 60, 300, 900, 3600, 4 * 3600, 8 * 3600)
_AT_ONCE = 16  # tenants; and what one of them is told before it is looked again
_URL = re.compile(r"https?://[!-~]{1,2000}")

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("kps.doors")


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return what X-KPS-Signature holds: v1= and the HMAC-SHA256 of the timestamp, a full stop and the body, in hex."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Doorbell:
    """Tells tenants of their doors. Nothing waits for it, and nothing that goes wrong with it stops a door."""

    def __init__(
        self,
        store: Store,
        kms: Kms,
        executor: Executor | None = None,
        *,
        logs: bool = False,
        allowed: Sequence[addresses.Network] = (),
        turn: Callable[[], Awaitable[bool]] = ALWAYS.take,
    ) -> None:
        """logs: whether what becomes of doors is logged. allowed: networks to which any administrator may have it sent.

        turn: whether it is for this process to tell, of all that share a store.
        """
        self._store = store
        self._kms = kms
        self._executor = executor
        self._logs = logs
        self._allowed = allowed
        self._turn = turn
        self._bell = asyncio.Event()
        self._logging: set[asyncio.Task[None]] = set()

    # -- where a tenant is told

    async def set_hook(self, who: Caller, url: str, secret: Secret) -> DoorHook:
        """Tell the tenant at a URL from now on, signed with a secret; whoever was told until now hears of that first.

        Invalid: url_unusable, secret_unusable.
        """
        allow(who, "door.rule", what="alerts")
        _check_url(url, who.at_home)
        if not LEAST_SECRET <= len(secret) <= MOST_SECRET:
            raise Invalid("secret_unusable", f"the secret has {len(secret)} bytes; give {LEAST_SECRET} to {MOST_SECRET}")
        sealed = await self._off(self._kms.seal, who.tenant_id, secret, _context(who.tenant_id, url))
        hook = DoorHook(who.tenant_id, url, sealed, who.user_id, who.at_home, now())
        await self._goes(who, "door_hook_set", {"url": url, "user_id": who.user_id})
        await self._off(self._store.set_door_hook, hook)
        return hook

    async def hook(self, who: Caller) -> DoorHook | None:
        """Return where the tenant is told; None: nowhere."""
        allow(who, "door.rule", what="alerts")
        return await self._off(self._store.door_hook, who.tenant_id)

    async def remove_hook(self, who: Caller) -> None:
        """Tell the tenant nowhere any more; whoever was told until now hears of that first. NotFound(door_hook_not_found)."""
        allow(who, "door.rule", what="alerts")
        await self._goes(who, "door_hook_removed", {"user_id": who.user_id})
        await self._off(self._store.remove_door_hook, who.tenant_id, who.user_id)

    # -- telling

    def ring(self) -> None:
        """Have it looked for what is to be told."""
        self._bell.set()

    def ended(self, task: Task) -> None:
        """Take note that a task has ended: of a door, perhaps."""
        if task.operation not in DOOR_OPERATIONS:
            return
        self.ring()
        if self._logs:
            logging = asyncio.get_running_loop().create_task(self._log_of(task))
            self._logging.add(logging)
            logging.add_done_callback(self._logging.discard)

    async def run(self) -> None:
        """Tell, ever again, what is to be told by now."""
        while True:
            with contextlib.suppress(Problem):  # of the home or its disk; every request says so too
                await self.tell_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._bell.wait()
            self._bell.clear()

    async def goodbye(self) -> None:
        """Tell what waits, for a few seconds at most: this process ends."""
        with contextlib.suppress(TimeoutError, Problem):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.tell_due()

    async def tell_due(self) -> None:
        """Tell what is to be told by now. What is not taken is told later, and after nine times no more: that is an event.

        Where one is not taken the tenant's others wait for the next look: a dead listener holds up nobody else's.
        """
        if not await self._turn():
            return  # another controller tells, within the time between two looks
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def told(tenant_id: str) -> None:
            async with at_once:
                await self._tell(tenant_id)

        await asyncio.gather(*map(told, await self._off(self._store.door_alert_tenants)))

    # -- steps

    async def _goes(self, who: Caller, kind: str, detail: dict[str, str]) -> None:
        """Tell whoever was told until now what waits, and that it is somebody else, or nobody, from now on; for some seconds."""
        await self._off(self._store.door_hook_goes, who.tenant_id, kind, detail)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._tell(who.tenant_id)

    async def _tell(self, tenant_id: str) -> None:
        while due := await self._off(self._store.door_alerts, _AT_ONCE, tenant_id):
            for alert in due:
                if not await self._told(alert):
                    return

    async def _told(self, alert: DoorAlert) -> bool:
        try:
            why = await self._sent(alert)
        except Problem as problem:
            why = problem.message
        if not why:
            await self._off(self._store.door_alert_told, alert)
            return True
        again = self._store.now() + timedelta(seconds=_AGAIN_SECONDS[alert.tries]) if alert.tries < len(_AGAIN_SECONDS) else None
        log.warning("door alert not taken", alert=alert.id, tries=alert.tries + 1, why=why)
        await self._off(self._store.door_alert_not_told, alert, why, again)
        return False

    async def _sent(self, alert: DoorAlert) -> str:
        """Send one, and return why it was not taken; "": it was."""
        import httpx  # not for every command: it takes its time to be loaded

        hook = await self._off(self._store.door_hook, alert.tenant_id)
        if hook is None:
            return ""
        try:
            secret = await self._off(self._kms.open, hook.sealed, _context(hook.tenant_id, hook.url))
        except (Conflict, Damaged, Unavailable) as problem:
            return f"what it is signed with does not open: {problem.message}"
        body = alert.body.encode()
        timestamp = str(int(now().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "X-KPS-Timestamp": timestamp,
            "X-KPS-Signature": signature(secret.open(), timestamp, body),
        }
        secret.wipe()
        try:
            async with asyncio.timeout(TELL_SECONDS):
                url, host = await self._placed(hook)
                # No redirect is followed: it would be told where nobody has set it. No proxy: a secret is none of its business.
                context = ssl.create_default_context()
                async with httpx.AsyncClient(verify=context, trust_env=False, timeout=TELL_SECONDS) as client:
                    request = client.build_request(
                        "POST", url, content=body, headers={**headers, "Host": host}, extensions={"sni_hostname": _name(hook.url)}
                    )
                    answer = await client.send(request, stream=True)
                    await answer.aclose()
        except TimeoutError:
            return f"no answer within {TELL_SECONDS:.0f} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return plain(f"{type(error).__name__}: {error}")[:200]
        return "" if answer.is_success else f"answered with {answer.status_code}"

    async def _placed(self, hook: DoorHook) -> tuple[str, str]:
        """Return the URL with the address in the place of the name, looked up once, and what the Host header is to say.

        Unavailable(address_not_allowed): the controller's own machine or link, which the home's owner alone may name.
        """
        parts = urlsplit(hook.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=1)
        address = str(found[0][4][0])
        if not hook.any_address and not addresses.admitted(address, self._allowed):
            raise Unavailable("address_not_allowed", f"{parts.hostname}: {address} is the controller's own machine or link")
        literal = f"[{address}]" if ":" in address else address
        return parts._replace(netloc=f"{literal}:{port}").geturl(), parts.netloc

    async def _log_of(self, task: Task) -> None:
        with contextlib.suppress(Problem):
            self._log(await self._off(self._store.door, task.tenant_id, str(task.request.get("door_id"))))

    def _log(self, door: Door) -> None:
        told = {"server": door.server_name, "login": door.login, "network": door.network, "reason": plain(door.reason)}
        deadline = None if door.deadline is None else door.deadline.isoformat()
        log.warning("door", id=door.id, state=door.state, user_id=door.user_id, deadline=deadline, note=plain(door.note), **told)

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)


def _context(tenant_id: str, url: str) -> Context:
    """Return what the secret of a hook is sealed for: this URL too, so that nobody has it sign for another one."""
    return Context("door hook", tenant_id, facts={"url": url})


def _name(url: str) -> str:
    return urlsplit(url).hostname or ""


def _check_url(url: str, at_home: bool) -> None:
    try:
        parts = urlsplit(url)
        fits = bool(_URL.fullmatch(url)) and bool(parts.hostname) and parts.username is None and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        raise Invalid("url_unusable", f"{plain(url)[:200]}: give a URL as https://alerts.example.com/kps, without a user in it")
    if parts.scheme != "https" and not at_home:
        raise Invalid(
            "url_unusable", "only the home's owner may have doors told without TLS; give a URL that begins with https://"
        )
