"""The one place where the parts are wired together: as an application, in this process or on a Unix socket."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request

from controller.api import fleet, problems
from controller.api.fleet import Fleet
from controller.dispatch import SERVING, InProcess, owner_name
from controller.errors import Conflict, Problem, Unavailable
from controller.kms import Kms, root
from controller.model import Caller
from controller.run import Runner
from controller.service.accesskeys import AccessKeys
from controller.service.audit import Audit
from controller.service.auditkeys import AuditKeys
from controller.service.bindings import Bindings
from controller.service.custody import Custody
from controller.service.home import require
from controller.service.keypairs import Keypairs
from controller.service.kms import KeyService, MasterKeys
from controller.service.people import Tenants, Users
from controller.service.quotas import Quotas
from controller.service.servers import Servers
from controller.service.tasks import Tasks
from controller.service.worker import off_loop
from controller.settings import Settings
from controller.store import Store
from controller.transport import hostkeys

SOCKET_PATH_BYTES = 107  # unix(7): sun_path, without its final NUL
GOODBYE_SECONDS = 5  # for requests under way when the controller is told to stop
REQUEST_HEAD_BYTES = 64 * 1024
_SETTLE_SECONDS = 3.0
_KEYS_SECONDS = 60.0
_RAREST_SETTLE_SECONDS = 600.0

Warn = Callable[[Problem], None]


def unheard(problem: Problem) -> None:
    """Pass over what was wrong at the start: whoever needs it meets it again."""


@contextlib.asynccontextmanager
async def opened(settings: Settings, serving: bool = False, warn: Warn = unheard) -> AsyncIterator[Fleet]:
    """Open the home and give its services; what runs when the block ends is stopped, and undone on its server.

    serving: as the only one who serves it (sole): what an earlier one had begun is ended at once, and its servers are asked.
    The root key is then opened at once too; warn is told what keeps it from that. What needs no root key goes on without it, and
    the rest once it opens. Otherwise it is opened at its first use.
    """
    require(settings)
    with contextlib.ExitStack() as closing:
        closing.enter_context(root.in_use(settings.home))
        worker = closing.enter_context(ThreadPoolExecutor(1, "store"))
        store = Store(settings.database_url)
        closing.callback(store.close)
        store.migrate()
        roots = root.roots(settings.home, settings.root_key_uri)
        if serving:
            try:
                await off_loop(worker, roots[0].opened)
            except Problem as problem:
                warn(problem)
        kms = Kms(store, *roots)
        owner = store.caller_by_local_home()
        audit_keys = AuditKeys(store, kms)
        store.sign_with(audit_keys)
        await off_loop(worker, audit_keys.prepare_all)
        store.interrupt_expired(SERVING if serving else None)
        me = owner_name(serving)
        runner = Runner(store, kms, settings, me, worker)
        dispatch = dispatching(settings, runner, me)

        async def caller(request: Request) -> Caller:
            # Whoever gets here has been let into the home, and that is its owner.
            return owner

        keys = KeyService.of(store, kms, worker)
        background = [
            asyncio.create_task(sweep(store, worker, settings.lease_seconds)),
            asyncio.create_task(sweep_keys(keys.keys)),
        ]
        if serving:
            background.append(asyncio.create_task(settle(runner)))
        try:
            yield Fleet(
                keypairs=Keypairs(store, kms, worker, settings.quotas),
                custody=Custody(store, kms, worker),
                servers=Servers(store, hostkeys, settings.connect_timeout_seconds, worker),
                bindings=Bindings(store, dispatch, worker),
                tasks=Tasks(store, dispatch, worker),
                kms=keys,
                users=Users(store, worker, settings.quotas),
                access_keys=AccessKeys(store, kms, worker),
                quotas=Quotas(store, settings.quotas, worker),
                tenants=Tenants(store, kms, audit_keys, worker),
                audit=Audit(store, audit_keys, worker),
                caller=caller,
            )
        finally:
            for each in background:
                each.cancel()
            await asyncio.wait(background)
            await dispatch.close()


def dispatching(settings: Settings, runner: Runner, owner: str) -> InProcess:
    """Return what runs the tasks of this process."""
    return InProcess(runner, runner.run, owner, settings.concurrency, settings.lease_seconds)


async def sweep(store: Store, worker: Executor, lease_seconds: float) -> None:
    """End, ever again, the running tasks whose process was heard no more."""
    while True:
        await asyncio.sleep(lease_seconds)
        await off_loop(worker, store.interrupt_expired)


async def sweep_keys(keys: MasterKeys) -> None:
    """Do, ever again, what is due for the customer master keys: destroy, take expired material away, rotate."""
    while True:
        work = asyncio.ensure_future(keys.sweep())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # It is at work on the store's thread, and the store is closed next.
            await asyncio.wait([work])
            raise
        except Problem:
            pass  # of the home or its disk; every request says so too
        await asyncio.sleep(_KEYS_SECONDS)


async def settle(runner: Runner) -> None:
    """Ask, ever again, the servers of which nobody knows how a task has left them; one that stays away ever more rarely."""
    loop = asyncio.get_running_loop()
    waits: dict[str, tuple[float, float]] = {}  # task id -> when it is tried again, and how long it waited before
    while True:
        left = await runner.settle_all(lambda task: loop.time() >= waits.get(task.id, (0.0, 0.0))[0])
        for task in left:
            wait = min(max(2 * waits.get(task.id, (0.0, 0.0))[1], _SETTLE_SECONDS), _RAREST_SETTLE_SECONDS)
            waits[task.id] = (loop.time() + wait, wait)
        await asyncio.sleep(_SETTLE_SECONDS)


def application(settings: Settings, serving: bool = False, warn: Warn = unheard) -> FastAPI:
    """Return the ASGI application for a home; the home is opened by its lifespan. serving: see opened()."""

    @contextlib.asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[None]:
        async with opened(settings, serving, warn) as services:
            served.state.fleet = services
            yield

    served = FastAPI(
        title="kps", version=version("kps-fleet"), lifespan=lifespan,
        openapi_url="/fleet/v1/openapi.json", docs_url=None, redoc_url=None,
    )  # fmt: skip
    served.include_router(fleet.router)
    served.add_middleware(problems.Capped)
    problems.install(served, fleet.refused)
    return served


@contextlib.asynccontextmanager
async def in_process(settings: Settings, serving: bool = False, warn: Warn = unheard) -> AsyncIterator[FastAPI]:
    """Give the application, open, to a caller in this process. serving: see opened()."""
    served = application(settings, serving, warn)
    async with served.router.lifespan_context(served):
        yield served


async def serve(settings: Settings, ready: Callable[[], None], warn: Warn = unheard) -> None:
    """Serve the home on its Unix socket until SIGINT or SIGTERM. ready: called when connections are taken. warn: see opened()."""
    require(settings)
    with sole(settings.home):
        async with in_process(settings, serving=True, warn=warn) as served:
            # Not before the application is open: who connects is waited for.
            with listening(settings.socket) as listener:
                await Server(served, ready).serve(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn, told to stop by the event loop's own signal handling, so that stopping is an ordinary end."""

    def __init__(self, served: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                served,
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GOODBYE_SECONDS,
                h11_max_incomplete_event_size=REQUEST_HEAD_BYTES,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def sole(home: Path) -> Iterator[None]:
    """Be the only one who serves this home, for as long as the block or the process lasts."""
    try:
        descriptor = os.open(home / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"{home}/serve.lock: {error.strerror}; see the mode of the home, and its disk"
        raise Unavailable("home_unusable", message) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("already_served", f"{home}: somebody serves this home already") from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket for this user alone. What a controller that died has left there is taken away."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise Unavailable("socket_path_too_long", f"{path}: longer than {SOCKET_PATH_BYTES} bytes; choose another home")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Unavailable("socket_in_the_way", f"{path}: not a socket; move it away")
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            message = f"{path}: {error.strerror}; see the mode of the home, and its disk"
            raise Unavailable("home_unusable", message) from error
        os.chmod(path, 0o600)
        listener.listen(128)
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
