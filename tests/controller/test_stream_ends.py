"""A stream of events tells nobody anything once they would be let in no more, by whatever they came with."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.controller.sockets import Served, serving
from tests.controller.test_gate import Signed

STREAM = "/fleet/v1/events/stream"
SECONDS = 90  # an idle stream looks with each beat, so it is told of sooner


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("stream-ends") / "home", KPS_REQUESTS_AT_ONCE="100000") as found:
        yield found


class Anna:
    """Somebody with one of everything that lets a user in, taken in for one test."""

    def __init__(self, served: Served, name: str) -> None:
        self.served, self.name = served, name
        assert self.do("POST", "/users", {"name": name, "role": "operator"})["name"] == name
        self.key = self.do("POST", "/access-keys", {"user": name})
        self.signed = Signed(self.key["access_key"], self.key["secret_key"])
        self.temporary = self.ask("POST", "/temporary-keys", {})
        self.token = self.ask("POST", "/tokens", {})

    def do(self, method: str, path: str, body: Any = None) -> Any:
        """Ask as the owner of the home."""
        answer = self.served.ask(method, f"/fleet/v1{path}", b"" if body is None else json.dumps(body).encode())
        assert answer.status < 300, answer.body
        return answer.json() if answer.body else None

    def ask(self, method: str, path: str, body: Any) -> Any:
        """Ask as Anna."""
        answer = httpx.request(method, self.url(f"/fleet/v1{path}"), json=body, auth=self.signed, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.served.port}{path}"

    def coming(self, by: str) -> dict[str, Any]:
        """What a request is sent with that comes by an access key, by a temporary one, or by a token."""
        if by == "token":
            return {"headers": {"X-Auth-Token": self.token["token"]}}
        if by == "key":
            return {"auth": self.signed}
        key = self.temporary
        return {"auth": Signed(key["access_key"], key["secret_key"], token=key["security_token"])}


def expired(anna: Anna, table: str, of: str, name: str) -> None:
    """Have something ended by itself: its time, which is a minute at least, is put into the past."""
    with closing(sqlite3.connect(anna.served.home / "kps.db", timeout=SECONDS)) as connection, connection:
        made = connection.execute(f"SELECT created_at FROM {table} WHERE {of} = ?", (name,)).fetchone()  # noqa: S608
        assert connection.execute(f"UPDATE {table} SET expires_at = ? WHERE {of} = ?", (*made, name)).rowcount == 1  # noqa: S608


ENDS: dict[str, tuple[str, Callable[[Anna], None]]] = {
    "the key is switched off": ("key", lambda a: a.do("PATCH", f"/access-keys/{a.key['access_key']}", {"enabled": False})),
    "the key is deleted": ("key", lambda a: a.do("DELETE", f"/access-keys/{a.key['access_key']}")),
    "the user is switched off": ("key", lambda a: a.do("PATCH", f"/users/{a.name}", {"enabled": False})),
    "the user is deleted": ("key", lambda a: a.do("DELETE", f"/users/{a.name}")),
    "the user may ask from elsewhere only": (
        "key",
        lambda a: a.do("PATCH", f"/users/{a.name}", {"source_networks": ["192.0.2.0/24"]}),
    ),
    "the temporary key is ended": ("temporary", lambda a: a.do("DELETE", f"/temporary-keys/{a.temporary['access_key']}")),
    "what the temporary key stands on is switched off": (
        "temporary",
        lambda a: a.do("PATCH", f"/access-keys/{a.key['access_key']}", {"enabled": False}),
    ),
    "the temporary key has ended": (
        "temporary",
        lambda a: expired(a, "temporary_keys", "access_key", a.temporary["access_key"]),
    ),
    "the token is ended": ("token", lambda a: a.do("DELETE", f"/tokens/{a.token['id']}")),
    "the token has ended": ("token", lambda a: expired(a, "tokens", "id", a.token["id"])),
}


class Listener(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, anna: Anna, by: str) -> None:
        super().__init__(daemon=True)
        self.anna, self.coming = anna, anna.coming(by)
        self.told: list[str] = []
        self.heard = {when: threading.Event() for when in ("told-before", "told-after")}
        self.start()

    def run(self) -> None:
        with httpx.stream("GET", self.anna.url(STREAM), timeout=SECONDS, trust_env=False, **self.coming) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                self.told.append(line)
                for when, heard in self.heard.items():
                    if f'"{when}"' in line:
                        heard.set()
        self.told.append("ended")


def test_who_would_be_let_in_no_more_is_told_nothing_more(served: Served) -> None:
    """All at the same time, for each waits until what was looked up is believed no more."""
    boss = Anna(served, "boss")
    listeners = {how: Listener(Anna(served, f"anna-{number}"), by) for number, (how, (by, _)) in enumerate(ENDS.items())}
    staying = [Listener(boss, by) for by in ("key", "temporary", "token")]
    boss.do("POST", "/keypairs", {"name": "told-before", "scope": "account"})
    for each in [*listeners.values(), *staying]:
        assert each.heard["told-before"].wait(SECONDS), each.told
    for how, listener in listeners.items():
        ENDS[how][1](listener.anna)
    threading.Event().wait(1.1)
    boss.do("POST", "/keypairs", {"name": "told-after", "scope": "account"})
    for each in staying:
        assert each.heard["told-after"].wait(SECONDS), each.told
    for how, listener in listeners.items():
        listener.join(SECONDS)
        assert listener.told[-1] == "ended", how
        assert not listener.heard["told-after"].is_set(), how
