"""What a test starts from."""

import uuid

from controller.model import Binding, Outcome, Task, now
from controller.store import Store


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
