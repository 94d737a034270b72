"""The words for what happens: the closed list of kinds of event (docs/events.md), and on whose behalf it happens."""

from contextvars import ContextVar
from dataclasses import dataclass

KINDS: dict[str, str] = {
    "home_initialised": "the home, its first tenant and its administrator were made",
    "tenant_created": "a tenant, its project and its administrator were made",
    "tenant_changed": "what a tenant lets calls of the v3 API do was changed",
    "user_created": "a user was taken in",
    "user_changed": "a user's role, source networks, or whether they are enabled was changed",
    "user_deleted": "a user was deleted, with their access keys",
    "access_key_created": "a user was given an access key, perhaps in the place of another one",
    "access_key_changed": "an access key was enabled or disabled",
    "access_key_deleted": "an access key was deleted",
    "temporary_key_created": "a user was given a temporary access key, with a security token, until when",
    "temporary_key_revoked": "a temporary access key was ended before its time",
    "token_created": "a user was given a token, until when",
    "token_revoked": "a token was ended before its time",
    "quota_changed": "a quota of the tenant or of a user was set",
    "master_key_rewrapped": "a master key was wrapped by another root key; nothing that it seals was opened",
    "master_key_created": "a customer master key was made: by a user, or by a service at its first use",
    "master_key_renamed": "a customer master key was given another alias",
    "master_key_described": "a customer master key was given another description",
    "master_key_enabled": "a customer master key was enabled",
    "master_key_disabled": "a customer master key was disabled: nothing that it sealed opens",
    "master_key_deletion_scheduled": "a customer master key is to be destroyed at a date; until then it is of no use",
    "master_key_deletion_cancelled": "a customer master key that was to be destroyed is kept",
    "master_key_destroyed": "a customer master key was destroyed, at its date: nothing opens any more what it sealed",
    "master_key_rotation_changed": "when a customer master key is rotated by itself was changed",
    "master_key_rotated": "a customer master key was given its next version: by a user, or because it was due",
    "master_key_import_begun": "somebody was given a key and a token to import material with",
    "master_key_material_imported": "material was imported into a customer master key",
    "master_key_material_deleted": "imported material was taken away for good, as somebody asked",
    "master_key_material_expired": "imported material was taken away for good, at its date",
    "master_key_used": "a user used a customer master key: for what, and by which grant where the role does not allow it",
    "master_key_granted": "a user was granted the use of a customer master key",
    "master_key_grant_revoked": "a grant was taken back",
    "master_key_grant_retired": "a grant was given up",
    "master_key_alias_set": "a further alias came to mean a customer master key",
    "master_key_alias_deleted": "a further alias of a customer master key was taken away",
    "master_key_tagged": "tags were put on a customer master key",
    "master_key_untagged": "tags were taken off a customer master key",
    "keypair_created": "a key pair was generated",
    "keypair_imported": "a key pair was taken in",
    "keypair_exported": "the private half was given to the person who asked",
    "home_backed_up": "everything was copied out into a file, with or without the root key",
    "home_restored": "this home began anew from a backup: what had not ended was ended, and generations were raised",
    "keypair_opened": "a private half in custody was opened: who asked, for what, and for which task",
    "keypair_managed": "the private half of a key pair was taken into custody later",
    "keypair_cleared": "the private half was destroyed; the key pair stays, unmanaged",
    "keypair_moved": "the private half was put under another customer master key, unopened",
    "keypair_upgraded": "a private key pair became one of the account",
    "keypair_described": "a key pair was described anew",
    "keypair_deleted": "a key pair and its private half were deleted",
    "server_added": "a server came into the inventory",
    "server_changed": "how a server is reached was changed: its jump servers, or the old algorithms that it is allowed",
    "server_removed": "a server left the inventory",
    "host_key_pinned": "the host key that this server must show from now on was recorded",
    "server_noted": "something seen of a server was recorded",
    "binding_set": "a key pair is on a login of a server",
    "binding_removed": "a key pair is no longer on a login of a server",
    "credential_opened": "what was given with an order, and kept sealed, was opened for its task by a controller that came later",
    "task_ready": "a task waits to be run",
    "task_running": "somebody runs the task",
    "task_phase": "a running task came to its next phase",
    "task_finished": "a task came to its final state",
    "task_cancelled": "a task was given up before it ran",
    "task_interrupted": "who ran the task, or was to run it, was heard no more",
    "task_handed_on": "a task that nobody had begun waits for the controller that comes next",
    "task_settled": "the state of the server after an interrupted task became known",
    "task_deleted": "a failed task was taken off the list",
    "rollout_started": "an order for many servers was taken, with how it is to go",
    "rollout_changed": "a rollout was paused, stopped, resumed, cancelled, or came to its end; with the reason",
    "rollout_given": "servers of a rollout were given other credentials",
    "rollout_again": "servers of a rollout that had failed are to be tried once more",
    "audit_key_made": "the key that signs the tenant's events was made, and what had happened before was signed with it",
    "head_unproved": "the end of the trail was found without a good signature: events may have been cut off or added there",
    "audit_exported": "the trail was given out, up to an event",
    "audit_pruned": "events that had been exported were deleted, up to one; their last digest stands in the signed head",
    "request_refused": "somebody asked for what they may not do",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf something happens: a user, and the task where there is one. Neither: the controller by itself."""

    tenant_id: str | None = None
    user_id: str | None = None
    task_id: str | None = None


# Set where a request, or a task, begins; the events that it leads to name this actor, unless they name another one.
acting: ContextVar[Actor] = ContextVar("acting", default=Actor())  # noqa: B039  (it is frozen)
