"""The words for what happens: the closed list of kinds of event (docs/events.md)."""

KINDS: dict[str, str] = {
    "home_initialised": "the home, its first tenant and its administrator were made",
    "master_key_created": "a customer master key was made at its first use",
    "keypair_created": "a key pair was generated",
    "keypair_imported": "a key pair was taken in",
    "keypair_exported": "the private half was given to the person who asked",
    "keypair_deleted": "a key pair and its private half were deleted",
    "server_added": "a server came into the inventory",
    "server_removed": "a server left the inventory",
    "host_key_pinned": "the host key that this server must show from now on was recorded",
    "server_noted": "something seen of a server was recorded",
    "binding_set": "a key pair is on a login of a server",
    "binding_removed": "a key pair is no longer on a login of a server",
    "task_ready": "a task waits to be run",
    "task_running": "somebody runs the task",
    "task_phase": "a running task came to its next phase",
    "task_finished": "a task came to its final state",
    "task_cancelled": "a task was given up before it ran",
    "task_interrupted": "who ran the task, or was to run it, was heard no more",
    "task_settled": "the state of the server after an interrupted task became known",
    "task_deleted": "a failed task was taken off the list",
}
