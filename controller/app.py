"""The one place where the parts are wired together: as an application, in this process or on a Unix socket."""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from controller import accesslog, secretvalues, serving, supervisor
from controller.api import documents, fleet, gate, leaving, problems, scraping
from controller.api.segments import segmented
from controller.deposits import Deposits
from controller.dispatch import InProcess, owner_name
from controller.doors import URGENT
from controller.errors import Invalid, NotAllowed, Problem, Unavailable
from controller.kms import Kms, root
from controller.measures import UNMEASURED
from controller.model import SERVING, Caller, Task, session_name
from controller.rolling import Rolling
from controller.run import Runner
from controller.service.accesskeys import AccessKeys
from controller.service.audit import Audit
from controller.service.auditkeys import AuditKeys
from controller.service.bindings import Bindings
from controller.service.console import Console
from controller.service.custody import Custody
from controller.service.doctor import Doctor, Process
from controller.service.doorbell import Doorbell
from controller.service.emergency import Emergency
from controller.service.failures import Failures
from controller.service.fleet import Fleet
from controller.service.home import bring_up, require
from controller.service.identity import Identity
from controller.service.keypairs import Keypairs
from controller.service.kms import KeyService
from controller.service.news import News
from controller.service.opens import Opens
from controller.service.overview import Overview
from controller.service.people import Tenants, Users
from controller.service.policies import Policies
from controller.service.quotas import Quotas
from controller.service.readiness import Readiness
from controller.service.rolloutplans import RolloutPlans
from controller.service.rolloutreports import RolloutReports
from controller.service.rollouts import Rollouts
from controller.service.secrets import Secrets
from controller.service.servers import Servers
from controller.service.standing import Standing
from controller.service.stopping import Stopping
from controller.service.streams import Streams
from controller.service.sweeps import ALWAYS, Turn, ever_again
from controller.service.tasks import Tasks
from controller.service.temporary import TemporaryKeys, Tokens
from controller.service.verifying import Verifications
from controller.service.worker import off_loop
from controller.serving import Place
from controller.settings import Settings
from controller.store import Store, postgresql
from controller.transport import hostkeys

if TYPE_CHECKING:
    from controller.dispatch.shared import Shared
    from controller.service.metrics import Metrics

_SETTLE_SECONDS = 3.0
_DOORS_SECONDS = 1.0
_KEYS_SECONDS = 60.0
_ENDED_SECONDS = 60.0
_RING_SECONDS = 10.0
_OPENS_SECONDS = 10.0
_POLICIES_SECONDS = 60.0
_SECRETS_SECONDS = 60.0  # each of them an hour apart at the least
_WATCH_SECONDS = 60.0
_RAREST_SETTLE_SECONDS = 600.0
_NOT_SHARED = "its store is a file, which one controller serves; move it to PostgreSQL first: kps migrate-store"

Warn = Callable[[Problem], None]
Waits = Callable[[int, float], None]


def unheard(problem: Problem) -> None:
    """Pass over what was wrong at the start: whoever needs it meets it again."""


@contextlib.asynccontextmanager
async def opened(
    settings: Settings,
    serving: bool = False,
    warn: Warn = unheard,
    stopping: Stopping | None = None,
    takes: bool = True,
) -> AsyncIterator[Fleet]:
    """Open the home and give its services; what runs when the block ends is stopped, and undone on its server.

    serving: what an earlier controller had begun is ended, and its servers are asked; what it had not begun, and needs nothing
    that ended with it, is begun in its turn. Of a home whose store is a file nobody else serves it (sole), so that is done at
    once; of one on PostgreSQL when the other is heard no more.
    The root key is then opened at once too; warn is told what keeps it from that. What needs no root key goes on without it, and
    the rest once it opens. Otherwise it is opened at its first use.
    takes: whether tasks that others may run as well are taken from the queue, where there is one.
    """
    require(settings)
    if not serving:
        accesslog.aside()
    stopping = stopping or Stopping()
    with contextlib.ExitStack() as closing:
        worker = closing.enter_context(ThreadPoolExecutor(1, "store"))
        store = Store(settings.database_url)
        closing.callback(store.close)
        bring_up(settings, store)
        closing.enter_context(root.in_use(settings.home))
        # Whoever is refused has changed nothing.
        closing.enter_context(store.working())
        store.migrate()
        roots = root.roots(settings.home, settings.root_key_uri)
        kms = Kms(store, *roots)

        def open_root() -> None:
            roots[0].opened()
            kms.refuse_another_root()

        opens = Opens(open_root, worker)
        if serving and not await opens() and opens.why is not None:
            opens.why.message += "; what needs the root key fails until it opens"
            if store.shared:
                opens.why.message += ", and what others can do is left to them"
            warn(opens.why)
        owner = store.caller_by_local_home()
        audit_keys = AuditKeys(store, kms)
        store.sign_with(audit_keys)
        await off_loop(worker, audit_keys.prepare_all)
        if serving and opens.why is None:
            # Whoever hears that this serves may rely on it. Other tenants get theirs from a sweep, as it takes a while; so
            # does this one where it cannot be made now, and the sweep tells why.
            with contextlib.suppress(Problem):
                await off_loop(worker, secretvalues.prepare, store, kms, owner.tenant_id)
        if not store.shared:  # else in the sweep: the store may have been away for those who run them
            store.interrupt_expired(SERVING if serving else None)
        me = owner_name(serving)
        runner = Runner(store, kms, settings, me, worker)
        shared = await sharing(settings, runner, me, opens if takes else None) if serving and store.shared else None
        dispatch = shared or dispatching(settings, runner, me)
        rolling = Rolling(store, dispatch, settings.home, worker, lambda: stopping.begun, runner.means.commits)
        deposits = Deposits(kms, settings.credential_hours, store.now)

        def turn(name: str) -> Turn:
            if not store.shared:
                return ALWAYS

            async def leave() -> None:
                await off_loop(worker, store.leave_turn, name)

            async def take() -> bool:
                # A command opens the root key at its first use, and is soon over.
                if serving and not await opens():
                    await leave()
                    return False
                return await off_loop(worker, store.take_turn, name)

            return Turn(take, leave)

        tells = turn("doorbell").take
        doorbell = Doorbell(store, kms, worker, logs=serving, allowed=settings.allowed_networks, turn=tells)
        kept_secrets = Secrets(store, kms, dispatch, worker, deposits)
        emergency = Emergency(store, dispatch, worker, deposits, settings.door_hours, doorbell.ring, kept_secrets)

        def ended(task: Task) -> None:
            rolling.ended(task)
            doorbell.ended(task)

        runner.ended = ended
        metrics = measured(store, settings, dispatch) if serving else None
        runner.means.measures = UNMEASURED if metrics is None else metrics.measured

        keys = KeyService.of(store, kms, worker)
        tasks = Tasks(store, dispatch, worker, stopping, deposits)

        background = [
            asyncio.create_task(sweep(store, worker, dispatch, tasks if serving else None)),
            asyncio.create_task(ever_again(keys.keys.sweep, _KEYS_SECONDS, turn=turn("keys"))),
            asyncio.create_task(sweep_ended(store, worker)),
            asyncio.create_task(doorbell.run()),
        ]
        policies = Policies(store, kms, rolling, worker, settings.quotas)
        if serving:
            background.append(asyncio.create_task(ever_again(policies.sweep, _POLICIES_SECONDS, stopping, turn("policies"))))
            background.append(asyncio.create_task(ever_again(kept_secrets.sweep, _SECRETS_SECONDS, stopping, turn("secrets"))))
            background.append(asyncio.create_task(settle(runner, turn("settle"))))
            background.append(asyncio.create_task(ever_again(emergency.sweep, _DOORS_SECONDS, stopping, turn("doors"))))
            background.append(asyncio.create_task(rolling.go_on()))
            if shared is not None:
                background.append(asyncio.create_task(ever_again(shared.ring_again, _RING_SECONDS, turn=turn("queue"))))
                background.append(asyncio.create_task(ever_again(shared.see_what_opens, _OPENS_SECONDS)))
        if metrics is not None:
            background.append(asyncio.create_task(metrics.measured.watch_loop()))
        bindings = Bindings(store, dispatch, worker, deposits)
        rollouts = Rollouts(store, bindings, rolling, worker, deposits)
        console = Console(store, worker, store.now)
        closing.callback(console.close)
        readiness = Readiness(settings.home, store, open_root, background, stopping, worker)
        doctor = Doctor(settings, Process(roots), readiness)
        closing.callback(doctor.close)
        if metrics is not None:
            metrics.readiness = readiness
        audit = Audit(store, audit_keys, worker, feed=tasks.feed)
        verifications = Verifications(store, audit, stopping, worker)
        try:
            yield Fleet(
                keypairs=Keypairs(store, kms, worker, settings.quotas),
                custody=Custody(store, kms, worker),
                secrets=kept_secrets,
                servers=Servers(store, hostkeys, settings.connect_timeout_seconds, worker, settings.allowed_networks),
                standing=Standing(store, worker),
                bindings=bindings,
                rollouts=rollouts,
                rollout_plans=RolloutPlans(store, rollouts, audit_keys, worker),
                rollout_reports=RolloutReports(store, rollouts, worker),
                policies=policies,
                emergency=emergency,
                doorbell=doorbell,
                tasks=tasks,
                failures=Failures(store, tasks, worker),
                kms=keys,
                users=Users(store, worker, settings.quotas),
                access_keys=AccessKeys(store, kms, worker),
                temporary_keys=TemporaryKeys(store, kms, worker),
                tokens=Tokens(store, worker),
                quotas=Quotas(store, settings.quotas, worker),
                tenants=Tenants(store, kms, audit_keys, worker),
                audit=audit,
                verifications=verifications,
                overview=Overview(store, worker),
                caller=caller,
                owner=owner,
                people=Identity(store, kms, worker, store.now),
                console=console,
                news=News(store, tasks.feed, worker),
                readiness=readiness,
                doctor=doctor,
                stopping=stopping,
                streams=Streams(),
                metrics=metrics,
            )
        finally:
            stopping.end()
            runner.means.patience.end()
            for each in background:
                each.cancel()
            await asyncio.wait(background)
            await verifications.close()
            await rolling.close()
            await dispatch.close()
            await doorbell.goodbye()


def measured(store: Store, settings: Settings, dispatch: InProcess) -> "Metrics":
    """Return what counts in this process, and tells it."""
    # Not for every command that runs in its own process: it takes its time to be loaded.
    from controller.service.metrics import Metrics

    return Metrics(store, settings.database if settings.in_file else None, lambda: dispatch.running)


def dispatching(settings: Settings, runner: Runner, owner: str) -> InProcess:
    """Return what runs the tasks of this process."""
    among_others = not settings.in_file
    return InProcess(runner, runner.run, owner, settings.concurrency, settings.lease_seconds, among_others=among_others)


async def sharing(settings: Settings, runner: Runner, owner: str, takes: Opens | None) -> "Shared":
    """Return what runs tasks together with all that share the store.

    takes: whether the root key opens, without which others' are not taken; None: only those that need this process's memory.
    """
    # Not for every command: it takes its time to be loaded, and need not be installed.
    from controller.dispatch.queue import Queue
    from controller.dispatch.shared import Shared

    connecting = postgresql.defaults(settings.database_url)
    if takes is not None:
        connecting["application_name"] = session_name(owner)  # by it the store knows who takes tasks
    queue = Queue(settings.database_url, settings.lease_seconds, connecting, postgresql.SESSION)
    await queue.open()
    made = Shared(runner, runner.run, owner, settings.concurrency, settings.lease_seconds, queue, URGENT)
    if takes is not None:
        await made.take(takes)
    return made


async def sweep(store: Store, worker: Executor, dispatch: InProcess, tasks: Tasks | None) -> None:
    """End, ever again, the running tasks whose process was heard no more. tasks: begin there what was handed on."""
    while True:
        # A full disk, say, is told by every request; it is not to end this for good.
        with contextlib.suppress(Problem):
            if tasks is not None:
                await tasks.adopt()
        await asyncio.sleep(dispatch.lease_seconds)
        with contextlib.suppress(Problem):
            await end_unheard(store, worker, dispatch)


async def end_unheard(store: Store, worker: Executor, dispatch: InProcess) -> None:
    """End the running tasks whose process was heard no more. That is never this one, however long the store was away."""
    await dispatch.hold()
    if dispatch.may_judge:
        # By now: where this waits, so do those who would have renewed theirs meanwhile.
        await off_loop(worker, store.interrupt_expired, at=store.now())


async def sweep_ended(store: Store, worker: Executor) -> None:
    """Take away, ever again, what users were given for a while and has ended."""
    while True:
        await asyncio.sleep(_ENDED_SECONDS)
        with contextlib.suppress(Problem):  # of the home or its disk; every request says so too
            await off_loop(worker, store.drop_ended)
            await off_loop(worker, store.drop_credentials)


async def settle(runner: Runner, turn: Turn = ALWAYS) -> None:
    """Ask, ever again, the servers of which nobody knows how a task has left them; one that stays away ever more rarely."""
    loop = asyncio.get_running_loop()
    waits: dict[str, tuple[float, float]] = {}  # task id -> when it is tried again, and how long it waited before
    while True:
        left: list[Task] = []
        with contextlib.suppress(Problem):  # of the home or its disk
            if await turn.take():
                left = await runner.settle_all(lambda task: loop.time() >= waits.get(task.id, (0.0, 0.0))[0])
        for task in left:
            wait = min(max(2 * waits.get(task.id, (0.0, 0.0))[1], _SETTLE_SECONDS), _RAREST_SETTLE_SECONDS)
            waits[task.id] = (loop.time() + wait, wait)
        await asyncio.sleep(_SETTLE_SECONDS)


async def caller(request: Request) -> Caller:
    """Return who asks, as the gate has found out (controller/api/gate)."""
    found: Caller | None = request.scope.get(gate.CALLER)
    if found is None:
        raise NotAllowed("nobody_asks", "nobody is known to ask; sign the request")
    return found


class Application:
    """The APIs of a home, open for as long as lifespan() is entered: our own, and on the network the public service's too."""

    def __init__(self, settings: Settings, serving: bool = False, warn: Warn = unheard, takes: bool = True) -> None:
        """serving, warn, takes: see opened()."""
        self._settings = settings
        self._serving = serving
        self._warn = warn
        self._takes = takes
        self.stopping = Stopping()
        self._fleet = documents.Documented(
            fleet.API,
            title="kps",
            version=version("kps-fleet"),
            openapi_url="/fleet/v1/openapi.json",
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,  # where to is told in a Location, which would be made of the caller's Host
        )
        self._fleet.router.routes.extend(fleet.ROUTES)
        self._fleet.add_middleware(problems.Capped)
        problems.install(self._fleet, fleet.refused)
        self._public: ASGIApp = self._fleet
        self._scrapes = scraping.Scrapes(lambda: self.services.metrics)

    @property
    def services(self) -> Fleet:
        """What the routes work with."""
        found: Fleet = self._fleet.state.fleet
        return found

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the home; what runs when the block ends is stopped."""
        async with opened(self._settings, self._serving, self._warn, self.stopping, self._takes) as services:
            self._fleet.state.fleet = services
            gc.freeze()  # all that has been made by now stays; whoever looks for garbage need not look through it
            yield

    async def leave(self, hurry: asyncio.Event, waits: Waits) -> None:
        """Begin nothing more, and return once what runs has ended, stop_seconds have passed, or somebody is in a hurry.

        Until then questions are answered; what would change something is refused. waits: told how many tasks are waited for, and
        for how many seconds at most.
        """
        self.stopping.begin()
        # With the seconds that are needed besides, for answers under way and for what is undone.
        more = f"EXTEND_TIMEOUT_USEC={int((self._settings.stop_seconds + 30) * 1_000_000)}"
        supervisor.notify("STOPPING=1", "STATUS=stopping", more)
        drained = asyncio.ensure_future(self.services.tasks.drain())
        hurried = asyncio.ensure_future(hurry.wait())
        bound = self._settings.stop_seconds
        if self.services.tasks.running and bound:
            waits(self.services.tasks.running, bound)
        await asyncio.wait([drained, hurried], timeout=bound, return_when=asyncio.FIRST_COMPLETED)
        for each in (drained, hurried):
            each.cancel()
        self.stopping.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = segmented(scope)
            refused = leaving.refusal(scope) if self.stopping.begun else None
            if refused is not None:
                await refused(scope, receive, send)
                return
            if scope["path"] == scraping.PATH:
                who: Caller | None = scope.get(gate.CALLER)
                may = bool(scope.get(scraping.SCRAPES)) or (who is not None and who.at_home)
                await self._scrapes(scope, receive, send, may=may)
                return
        ours = scope["type"] != "http" or scope["path"].startswith("/fleet/")
        await (self._fleet if ours else self._public)(scope, receive, send)

    @property
    def local(self) -> gate.Local:
        """The application for whoever has been let into the home, and that is its owner."""
        return gate.Local(self, lambda: self.services.owner)

    @property
    def networked(self) -> ASGIApp:
        """The application with the gate before it, and the console with its door, once it is open."""
        # Not for every command that runs in its own process: they take their time to be made.
        from controller.api import kps
        from controller.web import entry

        served = kps.application(version("kps-fleet"))
        served.state.fleet = self.services
        self._public = served
        people = self.services.people
        return entry.Entry(gate.Gate(self, lambda: people, self._settings), entry.console(self.services, self._settings))


@contextlib.asynccontextmanager
async def in_process(settings: Settings, serving: bool = False, warn: Warn = unheard) -> AsyncIterator[gate.Local]:
    """Give the application, open, to a caller in this process. serving: see opened()."""
    served = Application(settings, serving, warn)
    async with served.lifespan():
        yield served.local


async def serve(
    settings: Settings,
    ready: Callable[[str | None], None],
    where: Place | None = None,
    warn: Warn = unheard,
    waits: Waits = lambda tasks, seconds: None,
) -> None:
    """Serve the home on its Unix socket, and at a place on the network if asked, until SIGINT or SIGTERM.

    ready is called when connections are taken everywhere, with the URL on the network; waits when the stop waits for tasks that
    run: for how many, and how many seconds at most.
    """
    require(settings)
    with serving.sole(settings.home), contextlib.ExitStack() as listening:
        # Taken before the home is opened: who may not listen here is told at once.
        network = None if where is None else listening.enter_context(serving.on_network(where))
        served = Application(settings, serving=True, warn=warn, takes=settings.serve_takes_tasks)
        async with served.lifespan():
            try:
                if settings.metrics_token_file is not None:
                    scraping.usable(settings.metrics_token_file)
            except Problem as problem:
                warn(problem)
            log = accesslog.begin(settings.access_log)
            listening.callback(log.close)
            # Not before the application is open: who connects is waited for.
            local = listening.enter_context(serving.listening(settings.socket))
            waiting = 1 if network is None else 2

            def listens() -> None:
                nonlocal waiting
                waiting -= 1
                if not waiting:
                    ready(None if where is None else where.url_of(network))
                    supervisor.notify("READY=1", f"MAINPID={os.getpid()}")

            servers = [(serving.Server(served.local, listens), local)]
            if network is not None and where is not None:
                servers.append((serving.Server(served.networked, listens, where), network))
                served.services.readiness.certificate = served.services.doctor.process.certificate = where.certificate
                served.services.console.url = served.services.doctor.process.url = where.url_of(network)

            def again() -> None:
                """Take up what others have put in the place of what was there: a certificate, a log that was moved away."""
                supervisor.notify(*supervisor.reloading())
                log.reopen()
                try:
                    for server, _ in servers:
                        server.take_up_certificate()
                except Problem as problem:
                    warn(problem)
                supervisor.notify("READY=1")

            async with watched(served.services.readiness, warn):
                await serving.until_told(servers, lambda hurry: served.leave(hurry, waits), again)


async def work(
    settings: Settings, ready: Callable[[], None], warn: Warn = unheard, waits: Waits = lambda tasks, seconds: None
) -> None:
    """Run tasks from the queue of a home on PostgreSQL, and what all controllers do in turn, until SIGINT or SIGTERM.

    ready, waits: as serve(). Invalid(store_not_shared) for a home whose store is a file.
    """
    require(settings)
    if settings.in_file:
        raise Invalid("store_not_shared", f"{settings.home}: {_NOT_SHARED}")
    worker = Application(settings, serving=True, warn=warn)
    log = accesslog.begin(None)  # nobody asks over the network; what a rollout or a policy could not do is told
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(log.close)
        await stack.enter_async_context(worker.lifespan())

        def listens() -> None:
            supervisor.notify("READY=1", f"MAINPID={os.getpid()}")
            ready()

        with serving.as_worker(settings.home) as asked:
            async with watched(worker.services.readiness, warn):
                server = serving.Server(worker.local, listens)
                await serving.until_told([(server, asked)], lambda hurry: worker.leave(hurry, waits), lambda: None)


@contextlib.asynccontextmanager
async def watched(readiness: Readiness, warn: Warn) -> AsyncIterator[None]:
    """Tell what the controller lacks, and that it lives, while the block lasts.

    Unavailable(store_too_new) after it, where that is why it was told to stop.
    """
    watching = asyncio.create_task(watch(readiness, warn))
    beating = asyncio.create_task(beat())
    try:
        yield
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        beating.cancel()


async def watch(readiness: Readiness, warn: Warn) -> None:
    """Tell, ever again, what the controller has come to lack; each thing once, until it is back.

    Unavailable(store_too_new), and this process is told to stop: all that it could still put on record is refused.
    """
    told = {"root_key"}  # that it did not open at the start has been said
    while True:
        found = await readiness.report()
        lacking = {name: code for name, code in found.checks.items() if code != "ok"}
        for name in sorted(lacking.keys() - told):
            warn(Unavailable(lacking[name], found.why.get(name, f"{name}: {lacking[name]}")))
        told = set(lacking)
        if lacking.get("database") == "store_too_new":
            os.kill(os.getpid(), signal.SIGTERM)
            raise Unavailable("store_too_new", found.why["database"])
        if not found.stopping:
            supervisor.notify("STATUS=" + ("ready" if not lacking else "not ready: " + ", ".join(sorted(lacking.values()))))
        await asyncio.sleep(_WATCH_SECONDS)


async def beat() -> None:
    """Give the supervisor signs of life, if it wants any: that requests and tasks are worked on."""
    seconds = supervisor.watchdog_seconds()
    while seconds is not None:
        supervisor.notify("WATCHDOG=1")
        await asyncio.sleep(seconds)
