"""A home, and the controller that serves it over plain HTTP on loopback."""

import asyncio
import contextlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from controller.errors import AlreadyExists
from controller.model import Role
from controller.service.console import Console
from controller.service.people import Users
from controller.settings import Settings
from controller.store import Store
from tests.controller.faces import KPS

SECONDS = 60


class Served:
    """One that runs; stop() ends it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        if not home.exists():
            subprocess.run([KPS, "init", "--home", home], check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [KPS, "serve", "--http", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": os.environ["PATH"], "KPS_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, told
            told += line
        self.url: str = json.loads(told)["url"]

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=SECONDS)

    def code(self, role: Role) -> str:
        """Return what a link carries that lets a user of this role in once; administrator: the home's owner."""
        # A browser's loop runs in this thread, so this has one of its own.
        with ThreadPoolExecutor(1) as elsewhere:
            return elsewhere.submit(asyncio.run, self._code(role)).result()

    async def _code(self, role: Role) -> str:
        store = Store(Settings(home=self.home).database_url)
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
