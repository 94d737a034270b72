"""The verbs of /fleet/v1, each written once: which calls it takes, and what it returns. How they are sent: clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from controller.client.call import Call, Flow, Verb, by_ids, pages, segment
from controller.client.console import ConsoleVerbs
from controller.client.doors import DoorVerbs
from controller.client.masterkeys import MasterKeyVerbs
from controller.client.secrets import SecretVerbs

if TYPE_CHECKING:
    from controller import answers as a

Json = dict[str, Any]

WAIT_SECONDS = 20  # of one long poll
ENDINGS = frozenset({"task_finished", "task_cancelled", "task_interrupted"})


class Verbs(MasterKeyVerbs, SecretVerbs, ConsoleVerbs, DoorVerbs):
    """What both clients can ask for. What a path would not take as a name is refused as the name of nothing (not_found)."""

    @Verb
    def whoami(self) -> Call[a.Caller]:
        """Return as whom the controller takes the caller: user, role, tenant and project."""
        return Call("GET", "/whoami")

    @Verb
    def health(self) -> Call[a.Health]:
        """Return that the controller answers."""
        return Call("GET", "/health")

    @Verb
    def ready(self) -> Call[a.Ready]:
        """Return what was looked at. Refused(not_ready, stopping): with what the controller lacks in its evidence."""
        return Call("GET", "/ready")

    @Verb
    def doctor(self) -> Call[a.Diagnosis]:
        """Return what the controller's own doctor finds. Refused(only_at_home): the home's owner asks, through its socket."""
        return Call("GET", "/doctor")

    # servers

    @Verb
    def servers(self, words: Iterable[str] = (), *, every: bool = False) -> Flow[list[a.Server]]:
        """Return the servers that words (names, label=value) select; every server without words or if asked."""
        chosen = [("select", word) for word in words]
        if every:
            chosen.append(("all", "true"))
        return (yield from pages("/servers", chosen))

    @Verb
    def server(self, name: str) -> Call[a.Server]:
        """Return one server."""
        return Call("GET", f"/servers/{segment(name)}")

    @Verb
    def add_server(self, server: Mapping[str, Any]) -> Call[a.Server]:
        """Add one server and return it."""
        return Call("POST", "/servers", body=dict(server))

    @Verb
    def change_server(self, name: str, changes: Mapping[str, Any]) -> Call[a.Server]:
        """Change how one server is reached, and return it."""
        return Call("PATCH", f"/servers/{segment(name)}", body=dict(changes))

    @Verb
    def import_servers(self, servers: list[Json]) -> Call[list[a.Server]]:
        """Add all of the servers or none of them, and return them."""
        return Call("POST", "/servers/import", body=servers)

    @Verb
    def check_servers(self, servers: list[Json]) -> Call[None]:
        """Be refused as import_servers would be, and add none."""
        return Call("POST", "/servers/import", params={"check": True}, body=servers)

    @Verb
    def remove_server(self, name: str, *, force: bool = False) -> Call[None]:
        """Take one server out of the inventory; nothing is changed on it."""
        return Call("DELETE", f"/servers/{segment(name)}", params={"force": force})

    @Verb
    def bindings(
        self, *, server: str | None = None, login: str | None = None, keypair: str | None = None
    ) -> Flow[list[a.Binding]]:
        """Return what is bound, by server and login; only on a server, on a login, or of a key pair."""
        only = [
            (name, value) for name, value in (("server", server), ("login", login), ("keypair", keypair)) if value is not None
        ]
        if server is not None:  # comes whole
            found: list[a.Binding] = yield from Call("GET", "/bindings", params=only)
            return found
        return (yield from pages("/bindings", only, "server"))

    @Verb
    def logins(self, *, server: str | None = None) -> Flow[list[a.Login]]:
        """Return the logins that are known, by server; only on a server."""
        if server is not None:
            found: list[a.Login] = yield from Call("GET", "/logins", params={"server": server})
            return found
        return (yield from pages("/logins", [], "server"))

    # key pairs

    @Verb
    def keypairs(self) -> Flow[list[a.Keypair]]:
        """Return the key pairs that the caller may see."""
        return (yield from pages("/keypairs"))

    @Verb
    def keypair(self, name: str) -> Call[a.Keypair]:
        """Return one key pair."""
        return Call("GET", f"/keypairs/{segment(name)}")

    @Verb
    def create_keypair(self, request: Mapping[str, Any]) -> Call[a.MadeKeypair]:
        """Generate a key pair; an unmanaged one comes with its private_key, this once."""
        return Call("POST", "/keypairs", body=dict(request))

    @Verb
    def import_keypair(self, request: Mapping[str, Any]) -> Call[a.Keypair]:
        """Take in a public key, or a private key and with it both halves."""
        return Call("POST", "/keypairs/import", body=dict(request))

    @Verb
    def export_keypair(self, name: str, request: Mapping[str, Any] | None = None) -> Flow[str]:
        """Return the private half; as an OpenSSH file where the request names no other format."""
        answer: Json = yield from Call("POST", f"/keypairs/{segment(name)}/export", body=request and dict(request))
        return str(answer["private_key"])

    @Verb
    def manage_keypair(self, name: str, request: Mapping[str, Any]) -> Call[a.Keypair]:
        """Take the private half of an unmanaged key pair into custody."""
        return Call("POST", f"/keypairs/{segment(name)}/manage", body=dict(request))

    @Verb
    def clear_keypair(self, name: str, *, even_if_only_way_in: bool = False) -> Call[a.Keypair]:
        """Destroy a private half; the key pair stays, unmanaged."""
        body = {"even_if_only_way_in": even_if_only_way_in}
        return Call("POST", f"/keypairs/{segment(name)}/clear", body=body)

    @Verb
    def move_keypair(self, name: str, master_key: str) -> Call[a.Keypair]:
        """Put a private half under another customer master key."""
        return Call("POST", f"/keypairs/{segment(name)}/move", body={"master_key": master_key})

    @Verb
    def decrypt_password(self, name: str, encrypted: str) -> Flow[str]:
        """Return a password that was encrypted to an RSA key pair in custody."""
        body = {"encrypted": encrypted}
        answer: Json = yield from Call("POST", f"/keypairs/{segment(name)}/decrypt-password", body=body)
        return str(answer["password"])

    @Verb
    def delete_keypair(self, name: str) -> Call[None]:
        """Delete a key pair and its private half."""
        return Call("DELETE", f"/keypairs/{segment(name)}")

    @Verb
    def upgrade_keypair(self, name: str) -> Call[a.Keypair]:
        """Make a private key pair one of the account, and return it."""
        return Call("POST", f"/keypairs/{segment(name)}/upgrade")

    # people

    @Verb
    def users(self) -> Call[list[a.User]]:
        """Return the tenant's users."""
        return Call("GET", "/users")

    @Verb
    def user(self, name: str) -> Call[a.User]:
        """Return one user."""
        return Call("GET", f"/users/{segment(name)}")

    @Verb
    def create_user(self, request: Mapping[str, Any]) -> Call[a.User]:
        """Take a user in and return them."""
        return Call("POST", "/users", body=dict(request))

    @Verb
    def change_user(self, name: str, changes: Mapping[str, Any]) -> Call[a.User]:
        """Change one user and return them."""
        return Call("PATCH", f"/users/{segment(name)}", body=dict(changes))

    @Verb
    def delete_user(self, name: str, *, with_keypairs: bool = False) -> Call[a.DeletedUser]:
        """Delete a user; returns the names of the private key pairs that went with them."""
        return Call("DELETE", f"/users/{segment(name)}", params={"with_keypairs": with_keypairs})

    @Verb
    def access_keys(self, user: str | None = None) -> Call[list[a.AccessKey]]:
        """Return the access keys of a user, or all that the caller may see."""
        return Call("GET", "/access-keys", params={} if user is None else {"user": user})

    @Verb
    def create_access_key(self, request: Mapping[str, Any]) -> Call[a.MadeAccessKey]:
        """Make an access key and return it with its secret_key, this once."""
        return Call("POST", "/access-keys", body=dict(request))

    @Verb
    def rotate_access_key(self, access_key: str, beside_hours: int) -> Call[a.MadeAccessKey]:
        """Make an access key in the place of one and return it with its secret_key, this once."""
        body = {"beside_hours": beside_hours}
        return Call("POST", f"/access-keys/{segment(access_key)}/rotate", body=body)

    @Verb
    def enable_access_key(self, access_key: str, *, enabled: bool) -> Call[a.AccessKey]:
        """Enable or disable an access key and return it."""
        return Call("PATCH", f"/access-keys/{segment(access_key)}", body={"enabled": enabled})

    @Verb
    def delete_access_key(self, access_key: str) -> Call[None]:
        """Delete an access key."""
        return Call("DELETE", f"/access-keys/{segment(access_key)}")

    @Verb
    def temporary_keys(self, user: str | None = None) -> Call[list[a.TemporaryKey]]:
        """Return the temporary access keys of a user, or all that the caller may see."""
        return Call("GET", "/temporary-keys", params={} if user is None else {"user": user})

    @Verb
    def create_temporary_key(self, request: Mapping[str, Any]) -> Call[a.MadeTemporaryKey]:
        """Make a temporary access key and return it with its secret_key and security_token, this once."""
        return Call("POST", "/temporary-keys", body=dict(request))

    @Verb
    def revoke_temporary_key(self, access_key: str) -> Call[None]:
        """End a temporary access key now."""
        return Call("DELETE", f"/temporary-keys/{segment(access_key)}")

    @Verb
    def tokens(self, user: str | None = None) -> Call[list[a.Token]]:
        """Return the tokens of a user, or all that the caller may see."""
        return Call("GET", "/tokens", params={} if user is None else {"user": user})

    @Verb
    def create_token(self, request: Mapping[str, Any]) -> Call[a.MadeToken]:
        """Make a token and return it with the token itself, this once."""
        return Call("POST", "/tokens", body=dict(request))

    @Verb
    def revoke_token(self, token_id: str) -> Call[None]:
        """End a token now."""
        return Call("DELETE", f"/tokens/{segment(token_id)}")

    @Verb
    def quotas(self, user: str | None = None) -> Call[list[a.Quota]]:
        """Return the quotas of the tenant, or of a user."""
        return Call("GET", "/quotas", params={} if user is None else {"user": user})

    @Verb
    def set_quota(self, name: str, limit: int | None, user: str | None = None) -> Call[list[a.Quota]]:
        """Set a quota, None for the default, and return all of them."""
        return Call("PUT", f"/quotas/{segment(name)}", body={"limit": limit, "user": user})

    @Verb
    def tenants(self) -> Call[list[a.Tenant]]:
        """Return the tenants that the caller may see."""
        return Call("GET", "/tenants")

    @Verb
    def tenant(self) -> Call[a.Tenant]:
        """Return the caller's own tenant."""
        return Call("GET", "/tenant")

    @Verb
    def change_tenant(self, changes: Mapping[str, Any]) -> Call[a.Tenant]:
        """Change what the caller's own tenant lets v3 calls do, and return it."""
        return Call("PATCH", "/tenant", body=dict(changes))

    @Verb
    def create_tenant(self, name: str, administrator: str) -> Call[a.MadeTenant]:
        """Make a tenant and return it with its administrator's secret_key, this once."""
        return Call("POST", "/tenants", body={"name": name, "administrator": administrator})

    @Verb
    def rescue_tenant(self, name: str) -> Call[a.MadeAccessKey]:
        """Return a new access key of a tenant's administrator with its secret_key, this once."""
        return Call("POST", f"/tenants/{segment(name)}/access-key")

    # operations and tasks

    @Verb
    def start(self, request: Mapping[str, Any]) -> Call[list[a.StartedTask]]:
        """Start an operation and return its tasks, one for each server."""
        return Call("POST", "/operations", body=dict(request))

    @Verb
    def plan_operation(self, request: Mapping[str, Any]) -> Call[list[a.StartedTask]]:
        """Ask what an operation would do, and return the tasks that look, one for each server."""
        return Call("POST", "/plans", body=dict(request))

    @Verb
    def plan(self, task_id: str) -> Call[a.Plan]:
        """Return what came of a plan: what would be done, or why it would be refused."""
        return Call("GET", f"/plans/{segment(task_id)}")

    @Verb
    def tasks(self, ids: Iterable[str] = (), *, failed: bool = False, running: bool = False) -> Flow[list[a.Task]]:
        """Return tasks in the order in which they were asked for."""
        wanted = list(ids)
        params: list[tuple[str, str]] = []
        if failed:
            params.append(("failed", "true"))
        if running:
            params.append(("running", "true"))
        if not wanted:
            return (yield from pages("/tasks", params, "number"))
        return (yield from by_ids("/tasks", wanted, params))

    @Verb
    def task(self, task_id: str) -> Call[a.Task]:
        """Return one task."""
        return Call("GET", f"/tasks/{segment(task_id)}")

    @Verb
    def retry(self, task_id: str, credential: Mapping[str, str] | None = None) -> Call[a.StartedTask]:
        """Ask once more for what failed, and return the new task."""
        return Call("POST", f"/tasks/{segment(task_id)}/retry", body={"credential": dict(credential) if credential else None})

    @Verb
    def delete_task(self, task_id: str) -> Call[a.Ended]:
        """Take one failed task off the list, or cancel one that nobody has begun; returns how many of each."""
        return Call("DELETE", f"/tasks/{segment(task_id)}")

    @Verb
    def delete_failed_tasks(self) -> Flow[int]:
        """Take every failed task off the list and return how many there were."""
        answer: Json = yield from Call("DELETE", "/tasks")
        return int(answer["deleted"])

    @Verb
    def events(self, after: int, tasks: Iterable[str] = (), *, wait_seconds: int = 0) -> Call[list[a.Event]]:
        """Return the events after a number, of these tasks or of all; wait for the first of them if asked."""
        params = [("after", str(after)), ("wait", str(wait_seconds)), *(("task", task_id) for task_id in tasks)]
        return Call("GET", "/events", params=params, wait_seconds=wait_seconds)

    # rollouts

    @Verb
    def start_rollout(self, request: Mapping[str, Any]) -> Call[a.Rollout]:
        """Start a rollout and return it."""
        return Call("POST", "/rollouts", body=dict(request))

    @Verb
    def rollouts(self) -> Call[list[a.Rollout]]:
        """Return the rollouts, the oldest first."""
        return Call("GET", "/rollouts")

    @Verb
    def rollout(self, rollout_id: str) -> Call[a.RolloutProgress]:
        """Return one rollout, with how many of its servers are how far."""
        return Call("GET", f"/rollouts/{segment(rollout_id)}")

    @Verb
    def rollout_servers(self, rollout_id: str) -> Flow[list[a.RolloutServer]]:
        """Return the servers of a rollout in their order, each with what its last task has come to."""
        return (yield from pages(f"/rollouts/{segment(rollout_id)}/servers", [], "position"))

    @Verb
    def rollout_report(self, rollout_id: str) -> Call[a.RolloutReport]:
        """Return all there is to tell of a rollout: causes with an example each, what is left to do, how it went over time."""
        return Call("GET", f"/rollouts/{segment(rollout_id)}/report")

    @Verb
    def sealed_plan(self, plan_id: str) -> Call[a.KeptPlan]:
        """Return the signed head of a plan: what was asked, by whom, and digests of what was found of its servers."""
        return Call("GET", f"/rollouts/{segment(plan_id)}/plan")

    @Verb
    def plan_looks(self, plan_id: str) -> Flow[list[a.PlanLook]]:
        """Return what a plan has found of its servers, in their order."""
        return (yield from pages(f"/rollouts/{segment(plan_id)}/plan/servers", [], "position"))

    @Verb
    def start_plan(self, plan_id: str, request: Mapping[str, Any]) -> Call[a.StartedPlan]:
        """Start what was planned, as a rollout of its own, and return that."""
        return Call("POST", f"/rollouts/{segment(plan_id)}/start", body=dict(request))

    @Verb
    def change_rollout(self, rollout_id: str, step: str, request: Mapping[str, Any] | None = None) -> Call[a.Rollout]:
        """Pause, resume, cancel or retry a rollout, and return it."""
        body = dict(request or {}) if step in ("resume", "retry") else None
        return Call("POST", f"/rollouts/{segment(rollout_id)}/{step}", body=body)

    # rotation policies

    @Verb
    def policies(self) -> Call[list[a.Policy]]:
        """Return the rotation policies, by name."""
        return Call("GET", "/policies")

    @Verb
    def policy(self, name: str) -> Call[a.PolicyWithRotations]:
        """Return one policy, with its rotations."""
        return Call("GET", f"/policies/{segment(name)}")

    @Verb
    def set_policy(self, name: str, request: Mapping[str, Any]) -> Call[a.Policy]:
        """Set a policy and return it."""
        return Call("PUT", f"/policies/{segment(name)}", body=dict(request))

    @Verb
    def delete_policy(self, name: str, *, give_up: bool = False) -> Call[None]:
        """Delete a policy; give_up: also while a rotation of it is under way."""
        return Call("DELETE", f"/policies/{segment(name)}", params=[("give_up", "true")] if give_up else [])

    @Verb
    def change_policy(self, name: str, step: str) -> Call[a.Policy]:
        """Pause or resume a policy, and return it."""
        return Call("POST", f"/policies/{segment(name)}/{step}")

    @Verb
    def run_policy(
        self, name: str, *, keypairs: Iterable[str] = (), early: bool = False, again: bool = True
    ) -> Call[list[a.Rotation]]:
        """Have a policy looked at now, and return its rotations under way; again: at once what failed, not in a day."""
        body = {"keypairs": list(keypairs), "early": early, "again": again}
        return Call("POST", f"/policies/{segment(name)}/run", body=body)

    @Verb
    def run_due(self) -> Call[list[a.Rotation]]:
        """Have all policies looked at now, and return the rotations under way."""
        return Call("POST", "/rotations/run")

    @Verb
    def rotations(self, policy: str | None = None, *, under_way: bool = False) -> Call[list[a.Rotation]]:
        """Return rotations, the oldest first."""
        params = [("policy", policy)] if policy is not None else []
        return Call("GET", "/rotations", params=params + ([("under_way", "true")] if under_way else []))

    @Verb
    def due_keys(self, policy: str | None = None, *, every: bool = False) -> Call[list[a.DueKey]]:
        """Return the key pairs that are due, soon due, or being rotated; every: the others too."""
        params = [("policy", policy)] if policy is not None else []
        return Call("GET", "/rotations/due", params=params + ([("all", "true")] if every else []))

    # the trail

    @Verb
    def audit_events(
        self,
        wanted: Mapping[str, Any],
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        wait_seconds: int = 0,
    ) -> Call[list[a.ChainedEvent]]:
        """Return wanted events (kind: a list; user, server, keypair, task, since, until), the newest first; after: the oldest."""
        params = [("limit", str(limit)), ("wait", str(wait_seconds))]
        for name, value in ({"after": after, "before": before} | dict(wanted)).items():
            values = value if isinstance(value, list) else [] if value is None else [value]
            params += [(name, str(one)) for one in values]
        return Call("GET", "/audit/events", params=params, wait_seconds=wait_seconds)

    @Verb
    def audit_names(self) -> Call[dict[str, str]]:
        """Return what users and servers are called, by their ids."""
        return Call("GET", "/audit/names")

    @Verb
    def audit_key(self) -> Call[a.AuditKey]:
        """Return the public half of the key that signs the events."""
        return Call("GET", "/audit/key")

    @Verb
    def audit_export(self, since: str | None = None, until: str | None = None) -> Call[a.AuditExport]:
        """Return the first line of an export; its events are those of its numbers."""
        params = {name: value for name, value in (("since", since), ("until", until)) if value is not None}
        return Call("GET", "/audit/export", params=params)

    @Verb
    def audit_exported(self, first: int, number: int, digest: str) -> Call[None]:
        """Have it recorded that these events were given out."""
        return Call("POST", "/audit/export", body={"first": first, "number": number, "digest": digest})

    @Verb
    def audit_checkpoint(self) -> Call[a.AuditCheckpoint]:
        """Have how far the trail reaches signed, and return that."""
        return Call("POST", "/audit/checkpoints")

    @Verb
    def audit_prune(self, before: str) -> Call[a.Pruned]:
        """Delete events from before a time, and return how many, and which is the first now."""
        return Call("POST", "/audit/prune", body={"before": before})
