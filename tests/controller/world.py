"""One home with several tenants, each with users of every role and kind, and all the services: where scopes are tried."""

import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import get_args

from controller import keyfiles
from controller.kms import FileRootKey, Kms
from controller.model import (
    Binding,
    Caller,
    Credential,
    KeyPair,
    Outcome,
    Quotas,
    Role,
    Rollout,
    Scope,
    Sealed,
    Secret,
    Server,
    Task,
    UserKind,
    now,
)
from controller.service.accesskeys import AccessKeys
from controller.service.audit import Audit
from controller.service.auditkeys import AuditKeys
from controller.service.bindings import Bindings
from controller.service.console import Console
from controller.service.custody import Custody
from controller.service.doorbell import Doorbell
from controller.service.emergency import Emergency
from controller.service.failures import Failures
from controller.service.home import initialise
from controller.service.identity import Identity
from controller.service.keypairs import Keypairs
from controller.service.kms import KeyService
from controller.service.news import News
from controller.service.overview import Overview
from controller.service.people import Tenants, Users
from controller.service.policies import Policies
from controller.service.quotas import Quotas as QuotaVerbs
from controller.service.rolloutplans import RolloutPlans
from controller.service.rolloutreports import RolloutReports
from controller.service.rollouts import Rollouts
from controller.service.secrets import Secrets
from controller.service.servers import Servers
from controller.service.standing import Standing
from controller.service.stopping import Stopping
from controller.service.tasks import Tasks
from controller.service.temporary import TemporaryKeys, Tokens
from controller.service.verifying import Verifications
from controller.settings import Settings
from controller.store import Store
from controller.transport import hostkeys
from tests.controller.given import bind

ROLES: tuple[Role, ...] = get_args(Role)
KINDS: tuple[UserKind, ...] = get_args(UserKind)
PUBLIC, STORED = keyfiles.generate("ed25519")
HOST_KEY = PUBLIC.line()


class Dispatch:
    """Takes tasks, and runs none."""

    owner = "me"
    lease_seconds = 30.0

    def ring(self, task_ids: Collection[str], credentials: Mapping[str, Credential], *, urgent: bool = False) -> None:
        """Say nothing to nobody."""

    def called_off(self, task_id: str) -> None:
        """Let it be."""


class Dead(Dispatch):
    """Takes tasks for a process that is no more: nothing waits for them."""

    lease_seconds = 0.0


class Drives:
    """Takes rollouts, and drives none."""

    def begin(self, rollout: Rollout, credentials: Mapping[str, Credential] | None = None, until: datetime | None = None) -> None:
        """Begin nothing."""

    def changed(self, rollout_id: str) -> None:
        """Look at nothing."""

    @contextlib.asynccontextmanager
    async def reserved(self, rollout_id: str) -> AsyncIterator[None]:
        """Nobody else is there."""
        yield


@dataclass
class World:
    """A home, open. Names are given once, so that what is found tells where it comes from."""

    home: Path
    store: Store = field(init=False)
    # As many digits for each, wherever a test comes: what is in the order of its names has pair-10 before pair-9.
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1001))

    def __post_init__(self) -> None:
        self.settings = Settings(home=self.home)
        initialise(self.settings)
        self.store = Store(self.settings.database_url)
        self.kms = Kms(self.store, FileRootKey(self.settings.root_key))
        defaults = Quotas(1000, 1000, 1000)
        dispatch = Dispatch()
        self.keypairs = Keypairs(self.store, self.kms, quotas=defaults)
        self.custody = Custody(self.store, self.kms)
        self.secrets = Secrets(self.store, self.kms, dispatch)
        self.kms_verbs = KeyService.of(self.store, self.kms)
        self.servers = Servers(self.store, hostkeys)
        self.bindings = Bindings(self.store, dispatch)
        self.rollouts = Rollouts(self.store, self.bindings, Drives())
        self.policies = Policies(self.store, self.kms, Drives())
        self.emergency = Emergency(self.store, Dead(), passwords=self.secrets)
        self.doorbell = Doorbell(self.store, self.kms)
        self.tasks = Tasks(self.store, dispatch)
        self.users = Users(self.store, quotas=defaults)
        self.access_keys = AccessKeys(self.store, self.kms)
        self.temporary_keys = TemporaryKeys(self.store, self.kms)
        self.tokens = Tokens(self.store)
        self.console = Console(self.store)
        self.news = News(self.store, self.tasks.feed)
        self.standing = Standing(self.store)
        self.identity = Identity(self.store, self.kms)
        self.quotas = QuotaVerbs(self.store, defaults)
        audit_keys = AuditKeys(self.store, self.kms)
        self.store.sign_with(audit_keys)
        self.rollout_reports = RolloutReports(self.store, self.rollouts)
        self.rollout_plans = RolloutPlans(self.store, self.rollouts, audit_keys)
        self.tenants = Tenants(self.store, self.kms, audit_keys)
        self.audit = Audit(self.store, audit_keys)
        self.verifications = Verifications(self.store, self.audit, Stopping())
        self.failures = Failures(self.store, self.tasks)
        self.overview = Overview(self.store)

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()

    def name(self, begins: str) -> str:
        """Return a name that nobody has yet."""
        return f"{begins}-{next(self.numbers)}"

    def tenant(self, begins: str = "tenant") -> Caller:
        """Return the administrator of a new tenant, in which there is nothing else."""
        made = Caller(uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex, "administrator", at_home=True)
        name = self.name(begins)
        self.store.add_tenant(made, name, self.name(f"{begins}-administrator"), name.upper()[:20], Sealed(b"x"), "test")
        return made

    def user(self, tenant: Caller, role: Role, kind: UserKind = "local", begins: str = "user") -> Caller:
        """Return a new user of a tenant."""
        from controller.model import User

        name = self.name(f"{begins}-{role}")
        outside = name if kind == "federated" else None
        user = self.store.add_user(User(uuid.uuid4().hex, tenant.tenant_id, name, role, kind, outside), "test")
        return replace(tenant, user_id=user.id, role=role, kind=kind)

    def pair(
        self, owner: Caller, scope: Scope = "private", begins: str = "pair", *, managed: bool = True, fresh: bool = False
    ) -> KeyPair:
        """Return a new key pair, whether its owner may make one or not; all have the same key but for fresh ones."""
        name = self.name(begins)
        public, stored = keyfiles.generate("ed25519") if fresh else (PUBLIC, STORED)
        keypair = KeyPair(
            id=str(uuid.uuid4()),
            tenant_id=owner.tenant_id,
            owner_id=owner.user_id,
            scope=scope,
            name=name,
            type="ed25519",
            managed=managed,
            public_key=public.line(name),
            fingerprint=public.fingerprint,
            fingerprint_md5=public.fingerprint_md5,
            created_at=now(),
        )
        sealed = self.kms.seal_private(keypair, Secret(bytearray(stored.open()))) if managed else None
        return self.store.add_keypair(keypair, sealed)

    async def secret(self, owner: Caller, scope: Scope = "private", begins: str = "secret") -> str:
        """Return the name of a new secret, whether its owner may make one or not; of the account, it is a server's password."""
        name, boss = self.name(begins), replace(owner, role="administrator", kind="local")
        server = self.server(owner) if scope == "account" else None
        await self.secrets.create(boss, name, Secret("a password"), server=server)
        return name

    def server(self, tenant: Caller, begins: str = "server") -> Server:
        """Return a new server."""
        return self.store.add_servers([Server(str(uuid.uuid4()), tenant.tenant_id, self.name(begins), "192.0.2.1")])[0]

    def bound(self, server: Server, keypair: KeyPair, login: str = "root") -> None:
        """Bind a key pair."""
        bind(self.store, Binding(server.id, login, keypair.id, "logged_in", True, "t", now()))

    def failed(self, who: Caller, server: Server, keypair: KeyPair | None = None) -> Task:
        """Return a task that has failed, and in whose end the key pair is named."""
        request = {} if keypair is None else {"keypair": keypair.name, "keypair_id": keypair.id}
        private = keypair is not None and keypair.scope == "private"
        task = Task(
            str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", "bind", request, now(), private=private
        )  # fmt: skip
        self.store.add_tasks([task])
        claimed = self.store.claim(task.id, "me", 30)
        assert claimed is not None
        told = "" if keypair is None else keypair.name
        outcome = Outcome("failed", "as_before", "connect", "key_refused", f"{server.name}: {told}", {"keypair": told})
        assert self.store.finish(task.id, "me", claimed.generation, outcome)
        return self.store.task(who.tenant_id, task.id)
