"""A home, and the controller that serves it over plain HTTP on loopback."""

import asyncio
import contextlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

from controller.errors import AlreadyExists
from controller.kms import Kms, root
from controller.model import Role
from controller.service.auditkeys import AuditKeys
from controller.service.console import Console
from controller.service.people import Users
from controller.settings import Settings
from controller.store import Store
from tests.fleet.product import KPS, Product


class Served(Product):
    """The product, with its console for a browser at url; what else it can do, it does over its socket (ask, kps, add)."""

    url: str

    def serve(self) -> None:
        """Have a controller serve the home; returns when it takes requests."""
        with open(self.home / "serve.log", "a") as log:
            self.process = subprocess.Popen(
                [KPS, "serve", "--http", "127.0.0.1:0", "--json"],
                env=self.environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, (self.home / "serve.log").read_text()
            told += line
        self.url = json.loads(told)["url"]

    def code(self, role: Role) -> str:
        """Return what a link carries that lets a user of this role in once; administrator: the home's owner."""
        # A browser's loop runs in this thread, so this has one of its own.
        with ThreadPoolExecutor(1) as elsewhere:
            return elsewhere.submit(asyncio.run, self._code(role)).result()

    async def _code(self, role: Role) -> str:
        settings = Settings(home=self.home)
        store = Store(settings.database_url)
        # Its events are signed as all are, or the trail would not verify.
        store.sign_with(AuditKeys(store, Kms(store, *root.roots(settings.home, settings.root_key_uri))))
        console = Console(store)
        try:
            owner, name = store.caller_by_local_home(), None if role == "administrator" else f"the-{role}"
            if name is not None:
                with contextlib.suppress(AlreadyExists):
                    await Users(store).create(owner, name, role)
            _, token, _ = await console.link(owner, name)
            return token.open().decode()
        finally:
            console.close()
            store.close()
