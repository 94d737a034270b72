"""All that a home can do: the services as one value, for whatever face stands before them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from controller.model import Caller, Secret
from controller.service.accesskeys import AccessKeys
from controller.service.audit import Audit
from controller.service.bindings import Bindings
from controller.service.console import Console
from controller.service.custody import Custody
from controller.service.doctor import Doctor
from controller.service.doorbell import Doorbell
from controller.service.emergency import Emergency
from controller.service.failures import Failures
from controller.service.keypairs import Keypairs
from controller.service.kms import KeyService
from controller.service.news import News
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
from controller.service.tasks import Tasks
from controller.service.temporary import TemporaryKeys, Tokens
from controller.service.verifying import Verifications

if TYPE_CHECKING:
    from controller.service.metrics import Metrics


class People(Protocol):
    """Knows who is behind what came with a request, and from where they may ask. Unknown for everything else."""

    async def known(self, access_key: str, security_token: str | None, address: str | None) -> Caller | None: ...
    async def of_access_key(self, access_key: str, security_token: str | None, address: str | None) -> tuple[Caller, Secret]: ...
    async def of_token(self, token: str, address: str | None) -> tuple[Caller, str]: ...
    async def used(self, access_key: str) -> None: ...
    async def token_used(self, token_id: str) -> None: ...


@dataclass(frozen=True)
class Fleet:
    """What the routes work with."""

    keypairs: Keypairs
    custody: Custody
    secrets: Secrets
    servers: Servers
    standing: Standing
    bindings: Bindings
    rollouts: Rollouts
    rollout_plans: RolloutPlans
    rollout_reports: RolloutReports
    policies: Policies
    emergency: Emergency
    doorbell: Doorbell
    tasks: Tasks
    failures: Failures
    kms: KeyService
    users: Users
    access_keys: AccessKeys
    temporary_keys: TemporaryKeys
    tokens: Tokens
    quotas: Quotas
    tenants: Tenants
    audit: Audit
    verifications: Verifications
    overview: Overview
    caller: Callable[[Any], Awaitable[Caller]]  # of a request
    owner: Caller
    people: People
    console: Console
    news: News
    readiness: Readiness
    doctor: Doctor
    stopping: Stopping
    streams: Streams
    metrics: "Metrics | None"  # where the home is served
