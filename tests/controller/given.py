"""What a test starts from."""

import uuid

from controller.model import Binding, Caller, Outcome, Server, Task, now
from controller.store import Store


def server(store: Store, who: Caller, name: str = "web-1") -> Server:
    """Have a new server."""
    return store.add_servers([Server(str(uuid.uuid4()), who.tenant_id, name, "192.0.2.1")])[0]


def task(store: Store, who: Caller, name: str = "web-1") -> Task:
    """Have a task for a server that is new, ready and held by nobody."""
    added = server(store, who, name)
    made = Task(str(uuid.uuid4()), who.tenant_id, who.user_id, added.id, added.name, "root", "bind", {}, now())
    return store.add_tasks([made])[0]


def bind(store: Store, binding: Binding) -> None:
    """Have a task bind a key pair to a login, as every binding comes about."""
    server = store.server_by_id(binding.server_id)
    task = Task(
        str(uuid.uuid4()), server.tenant_id, "user", server.id, server.name, binding.login, "bind", {}, now()
    )  # fmt: skip
    store.add_tasks([task])
    claimed = store.claim(task.id, "given", 30)
    assert claimed is not None
    assert store.finish(task.id, "given", claimed.generation, Outcome("succeeded", "as_asked"), binding=binding)
