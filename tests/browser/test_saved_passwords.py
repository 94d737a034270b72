"""What a browser keeps: a user's own password, saved by it, is for signing in and goes into no field that a server is sent."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import CHROMIUM
from tests.browser.served import Served
from tests.fleet.looks import until

OWN = "the console's own password"
ARGS = ["--no-sandbox", "--disable-dev-shm-usage", "--password-store=basic"]
# A field that the browser is asked to fill stands beside those of the page: once it is filled, all are that will be.
SENTINEL = """document.body.insertAdjacentHTML("beforeend", '<form><input name="name" autocomplete="username">\
<input id="sentinel" type="password" autocomplete="current-password"></form>')"""


def begun(browser: Browser, profile: Path) -> BrowserContext:
    """Begin a browser that keeps what it knows in a directory, as a person's does."""
    return browser.browser_type.launch_persistent_context(
        profile, executable_path=CHROMIUM, args=ARGS, ignore_default_args=["--enable-automation"]
    )


def save(profile: Path, url: str) -> None:
    """Have a profile hold a password for the console, as if somebody had said yes to that (os_crypt, without a keyring)."""
    key = PBKDF2HMAC(hashes.SHA1(), 16, b"saltysalt", 1).derive(b"peanuts")  # noqa: S303  (as Chromium has it)
    blank = 16 - len(OWN) % 16
    cipher = Cipher(algorithms.AES(key), modes.CBC(b" " * 16)).encryptor()
    sealed = b"v10" + cipher.update(OWN.encode() + bytes([blank]) * blank) + cipher.finalize()
    known = {
        "origin_url": f"{url}/console/sign-in", "action_url": f"{url}/console/sign-in", "signon_realm": f"{url}/",
        "username_element": "name", "username_value": "administrator", "password_element": "password", "password_value": sealed,
    }  # fmt: skip
    with contextlib.closing(sqlite3.connect(profile / "Default/Login Data")) as connection, connection:
        for _, name, kind, needed, default, _ in connection.execute("PRAGMA table_info(logins)"):
            if needed and default is None and name != "id":
                known.setdefault(name, 0 if "INT" in kind else b"" if kind == "BLOB" else "")
        marks = ",".join("?" * len(known))
        connection.execute(f"INSERT INTO logins ({','.join(known)}) VALUES ({marks})", list(known.values()))  # noqa: S608


def has_table(profile: Path) -> bool:
    """Whether the browser, which goes on, has made the table of its passwords."""
    place = (profile / "Default/Login Data").as_uri()
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{place}?mode=ro&immutable=1", uri=True)) as found,
    ):
        return found.execute("SELECT 1 FROM sqlite_master WHERE name = 'logins'").fetchone() is not None
    return False


@pytest.fixture
def person(browser: Browser, served: Served, tmp_path: Path) -> Iterator[Page]:
    """A page of somebody who is signed in with a browser that has their password saved."""
    profile = tmp_path / "profile"
    with begun(browser, profile) as first:
        first.pages[0].goto(f"{served.url}/console/sign-in")
        until(lambda: has_table(profile))  # what it had not come to when it ends stays undone
    save(profile, served.url)
    with begun(browser, profile) as context:
        page = context.pages[0]
        page.goto(f"{served.url}/console/sign-in")
        expect(page.locator("#password:autofill")).to_have_count(1)
        page.goto(f"{served.url}/console/link#{served.code('administrator')}")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{served.url}/console/")
        yield page


def test_a_saved_password_is_for_signing_in_alone(person: Page, served: Served) -> None:
    served.ask("POST", "/servers", body={"name": "web-1", "host": "127.0.0.1", "port": 1, "trust_on_first_use": True})
    served.kps("keypair", "create", "ops", "--scope", "account")
    order = {"operation": "bind", "servers": ["web-1"], "keypair": "ops", "credentials": {"web-1": {"password": "x"}}}
    (task,) = served.ask("POST", "/operations", body=order)
    served.ended(task["id"])
    pages = (
        "servers/web-1", "orders/new?server=web-1", f"failed-tasks/again?task={task['id']}", "rollouts/new",
        "emergency/doors/new?servers=web-1&reason=why&minutes=5", "keypairs/import", "keypairs/named/ops/export",
    )  # fmt: skip
    found = []
    for path in pages:
        person.goto(f"{served.url}/console/{path}")
        assert person.locator("input[type=password]").count(), path
        person.evaluate(SENTINEL)
        expect(person.locator("#sentinel:autofill")).to_have_count(1)
        found += [
            f"{path}: {name}" for name in person.locator("main :autofill").evaluate_all("all => all.map(each => each.name)")
        ]
    assert found == []
