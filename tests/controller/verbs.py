"""Every verb of every service, asked for what is another tenant's. One that is not here fails test_tenants."""

import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

from controller import keyfiles
from controller.doors import Door
from controller.errors import NotAllowed, NotFound
from controller.model import Caller, KeyPair, MasterKey, Rollout, Secret, Server, Task, User
from controller.service.doctor import Doctor, Process
from controller.service.standing import Sought
from controller.store.failures import Which
from tests.controller.world import HOST_KEY, PUBLIC, STORED, World

HOST = "192.0.2.9"
DIGEST = bytes(32)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Theirs:
    """What there is in a tenant."""

    who: Caller
    private: KeyPair
    shared: KeyPair
    server: Server
    task: Task
    rollout: Rollout
    policy: str
    user: User
    door: Door
    access_key: str
    temporary_key: str
    token: str
    key: MasterKey
    grant: str
    ciphertext: bytes
    secret: str

    @property
    def ids(self) -> list[str]:
        """By these what is theirs would be known again."""
        of_tenant = [self.who.tenant_id, self.who.user_id, self.user.id, self.access_key, self.temporary_key, self.token]
        named = [self.private, self.shared, self.server, self.task, self.rollout, self.key, self.door]
        return [*of_tenant, *(each.id for each in named), self.grant]


Call = Callable[[World, Caller, Theirs], Awaitable[Any]]

# "not found": it names a thing, which is not there. "own": it works, on what is the caller's, and shows nothing else.
VERBS: dict[str, tuple[str, Call]] = {
    "Keypairs.create": ("own", lambda w, me, it: w.keypairs.create(me, it.shared.name)),
    "Keypairs.import_": ("own", lambda w, me, it: w.keypairs.import_(me, it.private.name, public_key=PUBLIC.line())),
    "Keypairs.list": ("own", lambda w, me, it: w.keypairs.list(me)),
    "Keypairs.get": ("not found", lambda w, me, it: w.keypairs.get(me, it.shared.name)),
    "Keypairs.export": ("not found", lambda w, me, it: w.keypairs.export(me, it.shared.name)),
    "Keypairs.decrypt_password": ("not found", lambda w, me, it: w.keypairs.decrypt_password(me, it.shared.name, "eA==")),
    "Keypairs.describe": ("not found", lambda w, me, it: w.keypairs.describe(me, it.shared.name, "mine")),
    "Keypairs.upgrade": ("not found", lambda w, me, it: w.keypairs.upgrade(me, it.private.name)),
    "Keypairs.delete": ("not found", lambda w, me, it: w.keypairs.delete(me, it.shared.name)),
    "Custody.manage": ("not found", lambda w, me, it: w.custody.manage(me, it.shared.name, private_half())),
    "Custody.clear": ("not found", lambda w, me, it: w.custody.clear(me, it.shared.name)),
    "Custody.move": ("not found", lambda w, me, it: w.custody.move(me, it.shared.name, "kps/default")),
    "Secrets.create": ("own", lambda w, me, it: w.secrets.create(me, it.secret, Secret("mine"))),
    "Secrets.list": ("own", lambda w, me, it: w.secrets.list(me)),
    "Secrets.get": ("not found", lambda w, me, it: w.secrets.get(me, it.secret)),
    "Secrets.keep": ("not found", lambda w, me, it: w.secrets.keep(me, it.secret, Secret("mine"))),
    "Secrets.open": ("not found", lambda w, me, it: w.secrets.open(me, it.secret)),
    "Secrets.set_stage": ("not found", lambda w, me, it: w.secrets.set_stage(me, it.secret, "blue", "v1")),
    "Secrets.delete_stage": ("not found", lambda w, me, it: w.secrets.delete_stage(me, it.secret, "SYSCURRENT")),
    "Secrets.describe": ("not found", lambda w, me, it: w.secrets.describe(me, it.secret, "mine")),
    "Secrets.delete": ("not found", lambda w, me, it: w.secrets.delete(me, it.secret)),
    "Secrets.schedule": ("not found", lambda w, me, it: w.secrets.schedule(me, it.secret, "30d")),
    "Secrets.rotate": ("not found", lambda w, me, it: w.secrets.rotate(me, it.secret)),
    "Secrets.rotations": ("not found", lambda w, me, it: w.secrets.rotations(me, it.secret)),
    "Secrets.of_logins": ("own", lambda w, me, it: nothing(w.secrets.of_logins(me, {(it.server.id, "root")}))),
    "Secrets.make_password": ("not found", lambda w, me, it: w.secrets.make_password(me, it.server, "root")),
    "Secrets.change_password": ("not found", lambda w, me, it: w.secrets.change_password(me, it.server, "root")),
    "Servers.add": ("not found", lambda w, me, it: w.servers.add(me, "mine", HOST, host_key=HOST_KEY, jump=[it.server.name])),
    "Servers.add_all": ("own", lambda w, me, it: w.servers.add_all(me, [a_server(it.server.name)])),
    "Servers.change_all": ("own", lambda w, me, it: w.servers.change_all(me, [it.server.id], port=23)),
    "Servers.change": ("not found", lambda w, me, it: w.servers.change(me, it.server.id, old_algorithms=["all"])),
    "Servers.jump_names": ("own", lambda w, me, it: w.servers.jump_names(me, [it.server])),
    "Servers.list": ("own", lambda w, me, it: w.servers.list(me)),
    "Servers.get": ("not found", lambda w, me, it: w.servers.get(me, it.server.id)),
    "Servers.remove": ("not found", lambda w, me, it: w.servers.remove(me, it.server.id, force=True)),
    "Servers.select": ("not found", lambda w, me, it: w.servers.select(me, [it.server.id])),
    "Servers.bindings": ("own", lambda w, me, it: w.servers.bindings(me, it.server.id)),
    "Bindings.start": ("not found", lambda w, me, it: w.bindings.start(me, "check", [it.server], {}, {})),
    "Tasks.list": ("own", lambda w, me, it: w.tasks.list(me, ids=[it.task.id])),
    "Tasks.counted": ("own", lambda w, me, it: w.tasks.counted(me, ["bind", "check"], failed=True, offset=0, limit=9)),
    "Tasks.get": ("not found", lambda w, me, it: w.tasks.get(me, it.task.id)),
    "Tasks.retry": ("not found", lambda w, me, it: w.tasks.retry(me, it.task.id)),
    "Tasks.delete": ("not found", lambda w, me, it: w.tasks.delete(me, it.task.id)),
    "Tasks.delete_failed": ("own", lambda w, me, it: w.tasks.delete_failed(me)),
    "Tasks.events": ("own", lambda w, me, it: w.tasks.events(me, task_ids=[it.task.id])),
    "Bindings.checked": ("not found", lambda w, me, it: w.bindings.checked(me, "check", [it.server], {}, {})),
    "Rollouts.start": ("not found", lambda w, me, it: w.rollouts.start(me, "check", [it.server], {}, {}, {})),
    "Rollouts.list": ("own", lambda w, me, it: w.rollouts.list(me)),
    "Rollouts.get": ("not found", lambda w, me, it: w.rollouts.get(me, it.rollout.id)),
    "Rollouts.servers": ("not found", lambda w, me, it: w.rollouts.servers(me, it.rollout.id)),
    "Rollouts.pause": ("not found", lambda w, me, it: w.rollouts.pause(me, it.rollout.id)),
    "Rollouts.cancel": ("not found", lambda w, me, it: w.rollouts.cancel(me, it.rollout.id)),
    "Rollouts.resume": ("not found", lambda w, me, it: w.rollouts.resume(me, it.rollout.id)),
    "Rollouts.failures": ("not found", lambda w, me, it: w.rollouts.failures(me, it.rollout.id)),
    "Rollouts.failed": ("not found", lambda w, me, it: w.rollouts.failed(me, it.rollout.id, None)),
    "Rollouts.retry": ("not found", lambda w, me, it: w.rollouts.retry(me, it.rollout.id, None, {})),
    "RolloutReports.document": ("not found", lambda w, me, it: w.rollout_reports.document(me, it.rollout.id)),
    "RolloutReports.course": ("not found", lambda w, me, it: w.rollout_reports.course(me, it.rollout.id)),
    "RolloutReports.rate": ("own", lambda w, me, it: w.rollout_reports.rate(me, it.rollout)),
    "Rollouts.page": ("own", lambda w, me, it: w.rollouts.page(me, None, 100)),
    "Failures.causes": ("own", lambda w, me, it: w.failures.causes(me, Which())),
    "Failures.list": ("own", lambda w, me, it: w.failures.list(me, Which(ids=(it.task.id,)))),
    "Failures.retries": ("own", lambda w, me, it: w.failures.retries(me, 100)),
    "Failures.retried_as": ("own", lambda w, me, it: w.failures.retried_as(me, it.task.id)),
    "Failures.retry": ("own", lambda w, me, it: w.failures.retry(me, Which(ids=(it.task.id,)))),
    "Failures.delete": ("own", lambda w, me, it: w.failures.delete(me, Which(ids=(it.task.id,)))),
    "Tasks.retry_all": ("own", lambda w, me, it: refused_all(w.tasks.retry_all(me, [it.task.id]))),
    "Overview.standing": ("own", lambda w, me, it: w.overview.standing(me)),
    "Keypairs.places": ("not found", lambda w, me, it: w.keypairs.places(me, it.shared.name)),
    "MasterKeys.sealing": ("own", lambda w, me, it: w.kms_verbs.keys.sealing(me)),
    "Servers.labels": ("own", lambda w, me, it: w.servers.labels(me)),
    "Servers.since": ("own", lambda w, me, it: w.servers.since(me, it.server)),
    "Servers.taking": ("own", lambda w, me, it: w.servers.taking(me, it.server.password_login)),
    "Audit.names_of": ("own", lambda w, me, it: nothing(w.audit.names_of(me, [it.user.id, it.server.id]))),
    "Verifications.begin": ("own", lambda w, me, it: w.verifications.begin(me)),
    "RolloutReports.report": ("not found", lambda w, me, it: w.rollout_reports.report(me, it.rollout.id)),
    "RolloutPlans.sealed": ("not found", lambda w, me, it: w.rollout_plans.sealed(me, it.rollout.id)),
    "RolloutPlans.looks": ("not found", lambda w, me, it: w.rollout_plans.looks(me, it.rollout.id)),
    "RolloutPlans.begun_as": ("not found", lambda w, me, it: w.rollout_plans.begun_as(me, it.rollout.id)),
    "RolloutPlans.start": ("not found", lambda w, me, it: w.rollout_plans.start(me, it.rollout.id, {})),
    "Emergency.open": ("not found", lambda w, me, it: w.emergency.open(me, [it.server], reason="x", seconds=60)),
    "Emergency.open_by_password": (
        "not found",
        lambda w, me, it: w.emergency.open_by_password(me, [it.server], reason="x", seconds=60),
    ),
    "Emergency.begin": ("not found", lambda w, me, it: w.emergency.begin(me, it.door.order_id)),
    "Emergency.extend": ("not found", lambda w, me, it: w.emergency.extend(me, [it.door.id], 60, "x")),
    "Emergency.close": ("not found", lambda w, me, it: w.emergency.close(me, [it.door.id])),
    "DoorApprovals.approve": ("not found", lambda w, me, it: w.emergency.approvals.approve(me, it.door.order_id)),
    "DoorApprovals.take_back": (
        "not found",
        lambda w, me, it: w.emergency.approvals.take_back(me, it.door.order_id, [it.door]),
    ),
    "DoorApprovals.refuse": ("not found", lambda w, me, it: w.emergency.approvals.refuse(me, it.door.order_id)),
    "Emergency.list": ("own", lambda w, me, it: w.emergency.list(me, all=True)),
    "Emergency.get": ("not found", lambda w, me, it: w.emergency.get(me, it.door.id)),
    "DoorApprovals.list": ("own", lambda w, me, it: w.emergency.approvals.list(me, ids=[it.door.order_id])),
    "Emergency.counted": ("own", lambda w, me, it: w.emergency.counted(me)),
    "DoorRules.list": ("own", lambda w, me, it: w.emergency.rules.list(me)),
    "DoorRules.of": ("not found", lambda w, me, it: w.emergency.rules.of(me, [it.server])),
    "DoorRules.set": ("own", lambda w, me, it: w.emergency.rules.set(me, "env=prod", 15)),
    "DoorRules.remove": ("not found", lambda w, me, it: w.emergency.rules.remove(me, "zone=theirs")),
    "Doorbell.set_hook": ("own", lambda w, me, it: w.doorbell.set_hook(me, "https://alerts.example.com", Secret("x" * 16))),
    "Doorbell.hook": ("own", lambda w, me, it: w.doorbell.hook(me)),
    "Doorbell.remove_hook": ("not found", lambda w, me, it: w.doorbell.remove_hook(me)),
    "Policies.set": ("own", lambda w, me, it: w.policies.set(me, it.policy, None, 90)),
    "Policies.list": ("own", lambda w, me, it: w.policies.list(me)),
    "Policies.get": ("not found", lambda w, me, it: w.policies.get(me, it.policy)),
    "Policies.delete": ("not found", lambda w, me, it: w.policies.delete(me, it.policy)),
    "Policies.pause": ("not found", lambda w, me, it: w.policies.pause(me, it.policy)),
    "Policies.resume": ("not found", lambda w, me, it: w.policies.resume(me, it.policy)),
    "Policies.due": ("own", lambda w, me, it: w.policies.due(me, all=True)),
    "Policies.rotations": ("own", lambda w, me, it: w.policies.rotations(me)),
    "Policies.run": ("not found", lambda w, me, it: w.policies.run(me, it.policy)),
    "Users.create": ("own", lambda w, me, it: w.users.create(me, it.user.name)),
    "Users.list": ("own", lambda w, me, it: w.users.list(me)),
    "Users.get": ("not found", lambda w, me, it: w.users.get(me, it.user.id)),
    "Users.change": ("not found", lambda w, me, it: w.users.change(me, it.user.id, enabled=False)),
    "Users.delete": ("not found", lambda w, me, it: w.users.delete(me, it.user.id)),
    "AccessKeys.create": ("not found", lambda w, me, it: w.access_keys.create(me, it.user.id)),
    "AccessKeys.list": ("own", lambda w, me, it: w.access_keys.list(me)),
    "AccessKeys.rotate": ("not found", lambda w, me, it: w.access_keys.rotate(me, it.access_key)),
    "AccessKeys.enable": ("not found", lambda w, me, it: w.access_keys.enable(me, it.access_key, enabled=False)),
    "AccessKeys.delete": ("not found", lambda w, me, it: w.access_keys.delete(me, it.access_key)),
    "Console.set_password": ("not found", lambda w, me, it: w.console.set_password(me, it.user.id, Secret("a long password"))),
    "Console.link": ("not found", lambda w, me, it: w.console.link(me, it.user.id)),
    "Standing.servers": ("own", lambda w, me, it: w.standing.servers(me, Sought())),
    "Standing.found": ("own", lambda w, me, it: w.standing.found(me, Sought(words=[it.server.name]), 100)),
    "Standing.one": ("not found", lambda w, me, it: w.standing.one(me, it.server.name)),
    "Standing.checked": ("not found", lambda w, me, it: w.standing.checked(me, it.server.id)),
    "Standing.tasks": ("not found", lambda w, me, it: w.standing.tasks(me, it.server.id)),
    "News.after": ("own", lambda w, me, it: w.news.after(me, 0, 0)),
    "TemporaryKeys.create": ("not found", lambda w, me, it: w.temporary_keys.create(me, it.access_key)),
    "TemporaryKeys.list": ("own", lambda w, me, it: w.temporary_keys.list(me)),
    "TemporaryKeys.revoke": ("not found", lambda w, me, it: w.temporary_keys.revoke(me, it.temporary_key)),
    "Tokens.create": ("not found", lambda w, me, it: w.tokens.create(me, it.user.id)),
    "Tokens.list": ("own", lambda w, me, it: w.tokens.list(me)),
    "Tokens.revoke": ("not found", lambda w, me, it: w.tokens.revoke(me, it.token)),
    "Quotas.show": ("not found", lambda w, me, it: w.quotas.show(me, it.user.id)),
    "Quotas.set": ("not found", lambda w, me, it: w.quotas.set(me, "private_keypairs", 0, it.user.id)),
    "Tenants.list": ("own", lambda w, me, it: w.tenants.list(me)),
    "Tenants.own": ("own", lambda w, me, it: w.tenants.own(me)),
    "Tenants.change": ("own", lambda w, me, it: w.tenants.change(me, v3_accepts_lockout=True)),
    "Doctor.findings": ("not allowed", lambda w, me, it: doctor(w).findings(replace(me, at_home=False))),
    "Tenants.access_key": ("not allowed", lambda w, me, it: w.tenants.access_key(me, it.who.tenant_id)),
    "Tenants.create": ("not allowed", lambda w, me, it: w.tenants.create(me, w.name("tenant"))),
    "Audit.events": ("own", lambda w, me, it: w.audit.events(me, task=it.task.id)),
    "Audit.names": ("own", lambda w, me, it: w.audit.names(me)),
    "Audit.key": ("own", lambda w, me, it: w.audit.key(me)),
    "Audit.export": ("own", lambda w, me, it: w.audit.export(me)),
    "Audit.exported": ("own", lambda w, me, it: exported(w, me)),
    "Audit.checkpoint": ("own", lambda w, me, it: w.audit.checkpoint(me)),
    "Audit.prune": ("own", lambda w, me, it: w.audit.prune(me, LONG_AGO)),
    "Audit.refused": ("own", lambda w, me, it: w.audit.refused(me, NotAllowed("role_reads_only", "no"), "POST", it.server.name)),
    "MasterKeys.create": ("own", lambda w, me, it: w.kms_verbs.keys.create(me, it.key.alias)),
    "MasterKeys.get": ("not found", lambda w, me, it: w.kms_verbs.keys.get(me, it.key.id)),
    "MasterKeys.list": ("own", lambda w, me, it: w.kms_verbs.keys.list(me)),
    "MasterKeys.quota": ("own", lambda w, me, it: w.kms_verbs.keys.quota(me)),
    "MasterKeys.rename": ("not found", lambda w, me, it: w.kms_verbs.keys.rename(me, it.key.id, "mine")),
    "MasterKeys.describe": ("not found", lambda w, me, it: w.kms_verbs.keys.describe(me, it.key.id, "mine")),
    "MasterKeys.enable": ("not found", lambda w, me, it: w.kms_verbs.keys.enable(me, it.key.id)),
    "MasterKeys.disable": ("not found", lambda w, me, it: w.kms_verbs.keys.disable(me, it.key.id)),
    "MasterKeys.schedule_deletion": ("not found", lambda w, me, it: w.kms_verbs.keys.schedule_deletion(me, it.key.id, 7)),
    "MasterKeys.cancel_deletion": ("not found", lambda w, me, it: w.kms_verbs.keys.cancel_deletion(me, it.key.id)),
    "MasterKeys.enable_rotation": ("not found", lambda w, me, it: w.kms_verbs.keys.enable_rotation(me, it.key.id)),
    "MasterKeys.disable_rotation": ("not found", lambda w, me, it: w.kms_verbs.keys.disable_rotation(me, it.key.id)),
    "MasterKeys.change_rotation": ("not found", lambda w, me, it: w.kms_verbs.keys.change_rotation(me, it.key.id, 30)),
    "MasterKeys.rotate": ("not found", lambda w, me, it: w.kms_verbs.keys.rotate(me, it.key.id)),
    "MasterKeys.versions": ("not found", lambda w, me, it: w.kms_verbs.keys.versions(me, it.key.id)),
    "Names.aliases": ("own", lambda w, me, it: w.kms_verbs.names.aliases(me)),
    "Names.add_alias": ("not found", lambda w, me, it: w.kms_verbs.names.add_alias(me, it.key.id, "mine")),
    "Names.move_alias": ("not found", lambda w, me, it: w.kms_verbs.names.move_alias(me, "alias/alpha", it.key.id)),
    "Names.delete_alias": ("not found", lambda w, me, it: w.kms_verbs.names.delete_alias(me, "alias/alpha")),
    "Names.tags": ("not found", lambda w, me, it: w.kms_verbs.names.tags(me, it.key.id)),
    "Names.all_tags": ("own", lambda w, me, it: w.kms_verbs.names.all_tags(me)),
    "Names.tag": ("not found", lambda w, me, it: w.kms_verbs.names.tag(me, it.key.id, {"a": "b"})),
    "Names.untag": ("not found", lambda w, me, it: w.kms_verbs.names.untag(me, it.key.id, ["a"])),
    "Grants.list": ("not found", lambda w, me, it: w.kms_verbs.grants.list(me, it.key.id)),
    "Grants.retirable": ("own", lambda w, me, it: w.kms_verbs.grants.retirable(me)),
    "Grants.create": ("not found", lambda w, me, it: w.kms_verbs.grants.create(me, it.key.id, me.user_id, ["encrypt-data"])),
    "Grants.revoke": ("not found", lambda w, me, it: w.kms_verbs.grants.revoke(me, it.key.id, it.grant)),
    "Grants.retire": ("not found", lambda w, me, it: w.kms_verbs.grants.retire(me, it.key.id, it.grant)),
    "Imports.parameters": ("not found", lambda w, me, it: w.kms_verbs.imports.parameters(me, it.key.id)),
    "Imports.import_": ("not found", lambda w, me, it: w.kms_verbs.imports.import_(me, it.key.id, b"x", b"x")),
    "Imports.delete": ("not found", lambda w, me, it: w.kms_verbs.imports.delete(me, it.key.id)),
    "KeyUses.encrypt": ("not found", lambda w, me, it: w.kms_verbs.uses.encrypt(me, it.key.id, Secret("x"))),
    "KeyUses.decrypt": ("not found", lambda w, me, it: w.kms_verbs.uses.decrypt(me, it.ciphertext)),
    "KeyUses.re_encrypt": ("not found", lambda w, me, it: w.kms_verbs.uses.re_encrypt(me, it.ciphertext, it.key.id)),
    "KeyUses.create_data_key": ("not found", lambda w, me, it: w.kms_verbs.uses.create_data_key(me, it.key.id, spec="AES_256")),
    "KeyUses.encrypt_data_key": (
        "not found",
        lambda w, me, it: w.kms_verbs.uses.encrypt_data_key(me, it.key.id, Secret(bytes(32)), DIGEST, 32),
    ),
    "KeyUses.decrypt_data_key": (
        "not found",
        lambda w, me, it: w.kms_verbs.uses.decrypt_data_key(me, it.key.id, it.ciphertext),
    ),
    "KeyUses.create_data_key_pair": (
        "not found",
        lambda w, me, it: w.kms_verbs.uses.create_data_key_pair(me, it.key.id, "EC_P256"),
    ),
    "KeyUses.random": ("own", lambda w, me, it: w.kms_verbs.uses.random(me)),
    "Signatures.sign": ("not found", lambda w, me, it: w.kms_verbs.uses.sign(me, it.key.id, DIGEST, "ECDSA_SHA_256")),
    "Signatures.verify": ("not found", lambda w, me, it: w.kms_verbs.uses.verify(me, it.key.id, DIGEST, b"x", "ECDSA_SHA_256")),
    "Signatures.public_key": ("not found", lambda w, me, it: w.kms_verbs.uses.public_key(me, it.key.id)),
    "Signatures.code": ("not found", lambda w, me, it: w.kms_verbs.uses.code(me, it.key.id, b"x", "HMAC_SHA_256")),
    "Signatures.verify_code": (
        "not found",
        lambda w, me, it: w.kms_verbs.uses.verify_code(me, it.key.id, b"x", b"x", "HMAC_SHA_256"),
    ),
}
# Nobody asks by these: they find out who does, or are the controller's own work.
WITHOUT_CALLER = {
    "Identity.known", "Identity.of_access_key", "Identity.of_token", "Identity.used", "Identity.token_used", "MasterKeys.sweep",
    "Tasks.adopt", "Tasks.drain", "Policies.sweep", "Secrets.sweep", "Feed.after", "Stopping.rest", "Readiness.report",
    # Who comes into the console is found out by these; News.newest tells a number, and nothing of whose.
    "Console.sign_in", "Console.follow", "Console.known", "Console.still", "Console.seen", "Console.sign_out", "News.newest",
    "Console.canonical", "Console.sessions", "Console.end_session", "Console.change_password",  # of whoever is signed in
    "Keypairs.bound_counts",  # of key pairs that the caller was given
    "Verifications.close",
    "DoorPasswords.change_with", "DoorPasswords.sweep", "DoorTasks.sealed",  # of doors that Emergency was given
    "Emergency.sweep", "DoorApprovals.lapse", "Doorbell.run", "Doorbell.goodbye", "Doorbell.tell_due",
    "Measured.watch_loop", "Metrics.exposed",  # who may read the figures is decided before: controller/api/scraping.py
}  # fmt: skip


def doctor(world: World) -> Doctor:
    """Return a doctor of the home that nobody serves; it refuses before it looks at anything."""
    return Doctor(world.settings, Process([]), cast(Any, None))


async def refused_all(work: Awaitable[Any]) -> None:
    """Nothing was done for any of them, whether each was refused or passed over."""
    done, refused = await work
    assert (done, {type(each) for each in refused} <= {NotFound}) == ([], True)


async def nothing(work: Awaitable[Any]) -> None:
    """It comes to nothing."""
    assert not await work


async def exported(world: World, who: Caller) -> None:
    """Export what there is, to its end."""
    reach = (await world.audit.export(who)).reach
    await world.audit.exported(who, reach.first, reach.number, reach.digest)


def private_half() -> Secret:
    """Return the private half of the one key of these tests, as a file."""
    return keyfiles.openssh_private("ed25519", STORED)


def a_server(name: str) -> dict[str, Any]:
    """Return a server as an import names it."""
    return {"name": name, "host": HOST, "host_key": HOST_KEY}


def modules(package: Any) -> list[str]:
    """Return the names of all modules of a package."""
    return [each.name for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
