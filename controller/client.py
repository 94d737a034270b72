"""The fleet API as a caller sees it: one method for each verb, and two ways to be refused."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

IDS_PER_REQUEST = 200  # keeps the request line below the 16 KiB that servers commonly take
PAGE = 1000  # of a list, in one answer
WAIT_SECONDS = 20  # of one long poll
ANSWER_SECONDS = 120  # for one answer; a long poll is the longest that a good controller takes
ENDINGS = frozenset({"task_finished", "task_cancelled", "task_interrupted"})


class Refused(Exception):
    """the controller answered, and said no"""

    def __init__(self, status: int, code: str, message: str, evidence: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.evidence = evidence or {}


class Unreachable(Exception):
    """no answer came: try again, or look after the controller"""


class Client:
    """An async client of /fleet/v1. Values are the JSON of the API, unchanged."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    def over_socket(cls, path: Path) -> Self:
        """Reach the controller that listens on the Unix socket at path."""
        return cls._on(httpx.AsyncHTTPTransport(uds=str(path)))

    @classmethod
    def in_process(cls, application: Any) -> Self:
        """Reach an ASGI application in this process; its lifespan is the caller's business."""
        return cls._on(httpx.ASGITransport(application))

    @classmethod
    def _on(cls, transport: httpx.AsyncBaseTransport) -> Self:
        return cls(
            httpx.AsyncClient(transport=transport, base_url="http://kps/fleet/v1", timeout=ANSWER_SECONDS, trust_env=False)
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def _ask(self, method: str, path: str, *, params: Any = None, body: Any = None) -> Any:
        try:
            answer = await self._http.request(method, path, params=params, json=body)
        except httpx.TransportError as error:
            raise Unreachable(f"the controller did not answer: {str(error) or type(error).__name__}") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            problem = answer.json()
            refused = Refused(answer.status_code, str(problem["code"]), str(problem["detail"]), problem.get("evidence"))
        except (ValueError, KeyError, TypeError):
            refused = Refused(
                answer.status_code, "unexpected", f"the controller answered {answer.status_code} without saying why"
            )
        raise refused

    async def _all(self, path: str, params: Iterable[tuple[str, str]] = (), after: str = "name") -> list[Json]:
        """Return all that a list has, asked for page after page: each begins after what the last one ended with."""
        found: list[Json] = []
        while True:
            begins = [("after", str(found[-1][after]))] if found else []
            page = await self._ask("GET", path, params=[*params, *begins, ("limit", str(PAGE))])
            found += page
            if len(page) != PAGE:
                return found

    # servers

    async def servers(self, words: Iterable[str] = (), *, every: bool = False) -> list[Json]:
        """Return the servers that words (names, label=value) select; every server without words or if asked."""
        chosen = [("select", word) for word in words]
        if every:
            chosen.append(("all", "true"))
        return await self._all("/servers", chosen)

    async def server(self, name: str) -> Json:
        """Return one server."""
        answer: Json = await self._ask("GET", f"/servers/{_segment(name)}")
        return answer

    async def add_server(self, server: Mapping[str, Any]) -> Json:
        """Add one server and return it."""
        answer: Json = await self._ask("POST", "/servers", body=dict(server))
        return answer

    async def change_server(self, name: str, changes: Mapping[str, Any]) -> Json:
        """Change how one server is reached, and return it."""
        answer: Json = await self._ask("PATCH", f"/servers/{_segment(name)}", body=dict(changes))
        return answer

    async def import_servers(self, servers: list[Json]) -> list[Json]:
        """Add all of the servers or none of them, and return them."""
        answer: list[Json] = await self._ask("POST", "/servers/import", body=servers)
        return answer

    async def check_servers(self, servers: list[Json]) -> None:
        """Be refused as import_servers would be, and add none."""
        await self._ask("POST", "/servers/import", params={"check": True}, body=servers)

    async def remove_server(self, name: str, *, force: bool = False) -> None:
        """Take one server out of the inventory; nothing is changed on it."""
        await self._ask("DELETE", f"/servers/{_segment(name)}", params={"force": force})

    # key pairs

    async def keypairs(self) -> list[Json]:
        """Return the key pairs that the caller may see."""
        return await self._all("/keypairs")

    async def keypair(self, name: str) -> Json:
        """Return one key pair."""
        answer: Json = await self._ask("GET", f"/keypairs/{_segment(name)}")
        return answer

    async def create_keypair(self, request: Mapping[str, Any]) -> Json:
        """Generate a key pair; an unmanaged one comes with its private_key, this once."""
        answer: Json = await self._ask("POST", "/keypairs", body=dict(request))
        return answer

    async def import_keypair(self, request: Mapping[str, Any]) -> Json:
        """Take in a public key, or a private key and with it both halves."""
        answer: Json = await self._ask("POST", "/keypairs/import", body=dict(request))
        return answer

    async def export_keypair(self, name: str, request: Mapping[str, Any] | None = None) -> str:
        """Return the private half; as an OpenSSH file where the request names no other format."""
        answer: Json = await self._ask("POST", f"/keypairs/{_segment(name)}/export", body=request and dict(request))
        return str(answer["private_key"])

    async def manage_keypair(self, name: str, request: Mapping[str, Any]) -> Json:
        """Take the private half of an unmanaged key pair into custody."""
        answer: Json = await self._ask("POST", f"/keypairs/{_segment(name)}/manage", body=dict(request))
        return answer

    async def clear_keypair(self, name: str, *, even_if_only_way_in: bool = False) -> Json:
        """Destroy a private half; the key pair stays, unmanaged."""
        body = {"even_if_only_way_in": even_if_only_way_in}
        answer: Json = await self._ask("POST", f"/keypairs/{_segment(name)}/clear", body=body)
        return answer

    async def move_keypair(self, name: str, master_key: str) -> Json:
        """Put a private half under another customer master key."""
        answer: Json = await self._ask("POST", f"/keypairs/{_segment(name)}/move", body={"master_key": master_key})
        return answer

    async def decrypt_password(self, name: str, encrypted: str) -> str:
        """Return a password that was encrypted to an RSA key pair in custody."""
        body = {"encrypted": encrypted}
        answer: Json = await self._ask("POST", f"/keypairs/{_segment(name)}/decrypt-password", body=body)
        return str(answer["password"])

    async def delete_keypair(self, name: str) -> None:
        """Delete a key pair and its private half."""
        await self._ask("DELETE", f"/keypairs/{_segment(name)}")

    async def upgrade_keypair(self, name: str) -> Json:
        """Make a private key pair one of the account, and return it."""
        answer: Json = await self._ask("POST", f"/keypairs/{_segment(name)}/upgrade")
        return answer

    # customer master keys

    async def kms(self, method: str, path: str, *, params: Any = None, body: Any = None) -> Any:
        """Ask something of /kms that is not about one key by its name."""
        return await self._ask(method, f"/kms/{path}", params=params, body=body)

    async def master_key(self, name: str, step: str = "", body: Any = None, *, method: str = "POST", params: Any = None) -> Any:
        """Take a step with one master key, called by its id or one of its aliases; without a step, with the key itself."""
        if "/" in name:  # no path takes that
            found: list[Json] = await self._ask("GET", "/kms/keys", params={"named": name})
            name = str(found[0]["id"])
        path = f"/kms/keys/{_segment(name)}"
        return await self._ask(method, f"{path}/{step}" if step else path, params=params, body=body)

    # people

    async def users(self) -> list[Json]:
        """Return the tenant's users."""
        answer: list[Json] = await self._ask("GET", "/users")
        return answer

    async def user(self, name: str) -> Json:
        """Return one user."""
        answer: Json = await self._ask("GET", f"/users/{_segment(name)}")
        return answer

    async def create_user(self, request: Mapping[str, Any]) -> Json:
        """Take a user in and return them."""
        answer: Json = await self._ask("POST", "/users", body=dict(request))
        return answer

    async def change_user(self, name: str, changes: Mapping[str, Any]) -> Json:
        """Change one user and return them."""
        answer: Json = await self._ask("PATCH", f"/users/{_segment(name)}", body=dict(changes))
        return answer

    async def delete_user(self, name: str, *, with_keypairs: bool = False) -> Json:
        """Delete a user; returns the names of the private key pairs that went with them."""
        answer: Json = await self._ask("DELETE", f"/users/{_segment(name)}", params={"with_keypairs": with_keypairs})
        return answer

    async def access_keys(self, user: str | None = None) -> list[Json]:
        """Return the access keys of a user, or all that the caller may see."""
        answer: list[Json] = await self._ask("GET", "/access-keys", params={} if user is None else {"user": user})
        return answer

    async def create_access_key(self, request: Mapping[str, Any]) -> Json:
        """Make an access key and return it with its secret_key, this once."""
        answer: Json = await self._ask("POST", "/access-keys", body=dict(request))
        return answer

    async def rotate_access_key(self, access_key: str, beside_hours: int) -> Json:
        """Make an access key in the place of one and return it with its secret_key, this once."""
        body = {"beside_hours": beside_hours}
        answer: Json = await self._ask("POST", f"/access-keys/{_segment(access_key)}/rotate", body=body)
        return answer

    async def enable_access_key(self, access_key: str, *, enabled: bool) -> Json:
        """Enable or disable an access key and return it."""
        answer: Json = await self._ask("PATCH", f"/access-keys/{_segment(access_key)}", body={"enabled": enabled})
        return answer

    async def delete_access_key(self, access_key: str) -> None:
        """Delete an access key."""
        await self._ask("DELETE", f"/access-keys/{_segment(access_key)}")

    async def quotas(self, user: str | None = None) -> list[Json]:
        """Return the quotas of the tenant, or of a user."""
        answer: list[Json] = await self._ask("GET", "/quotas", params={} if user is None else {"user": user})
        return answer

    async def set_quota(self, name: str, limit: int | None, user: str | None = None) -> list[Json]:
        """Set a quota, None for the default, and return all of them."""
        answer: list[Json] = await self._ask("PUT", f"/quotas/{_segment(name)}", body={"limit": limit, "user": user})
        return answer

    async def tenants(self) -> list[Json]:
        """Return the tenants that the caller may see."""
        answer: list[Json] = await self._ask("GET", "/tenants")
        return answer

    async def create_tenant(self, name: str, administrator: str) -> Json:
        """Make a tenant and return it with its administrator's secret_key, this once."""
        answer: Json = await self._ask("POST", "/tenants", body={"name": name, "administrator": administrator})
        return answer

    async def rescue_tenant(self, name: str) -> Json:
        """Return a new access key of a tenant's administrator with its secret_key, this once."""
        answer: Json = await self._ask("POST", f"/tenants/{_segment(name)}/access-key")
        return answer

    # operations and tasks

    async def start(self, request: Mapping[str, Any]) -> list[Json]:
        """Start an operation and return its tasks, one for each server."""
        answer: list[Json] = await self._ask("POST", "/operations", body=dict(request))
        return answer

    async def tasks(self, ids: Iterable[str] = (), *, failed: bool = False, running: bool = False) -> list[Json]:
        """Return tasks in the order in which they were asked for."""
        wanted = list(ids)
        params: list[tuple[str, str]] = []
        if failed:
            params.append(("failed", "true"))
        if running:
            params.append(("running", "true"))
        if not wanted:
            return await self._all("/tasks", params, "number")
        found: list[Json] = []
        for first in range(0, len(wanted), IDS_PER_REQUEST):
            some = [("id", task_id) for task_id in wanted[first : first + IDS_PER_REQUEST]]
            found += await self._ask("GET", "/tasks", params=params + some)
        return found

    async def task(self, task_id: str) -> Json:
        """Return one task."""
        answer: Json = await self._ask("GET", f"/tasks/{_segment(task_id)}")
        return answer

    async def retry(self, task_id: str, credential: Mapping[str, str] | None = None) -> Json:
        """Ask once more for what failed, and return the new task."""
        answer: Json = await self._ask(
            "POST", f"/tasks/{_segment(task_id)}/retry", body={"credential": dict(credential) if credential else None}
        )
        return answer

    async def delete_task(self, task_id: str) -> Json:
        """Take one failed task off the list, or cancel one that nobody has begun; returns how many of each."""
        answer: Json = await self._ask("DELETE", f"/tasks/{_segment(task_id)}")
        return answer

    async def delete_failed_tasks(self) -> int:
        """Take every failed task off the list and return how many there were."""
        answer: Json = await self._ask("DELETE", "/tasks")
        return int(answer["deleted"])

    async def events(self, after: int, tasks: Iterable[str] = (), *, wait_seconds: int = 0) -> list[Json]:
        """Return the events after a number, of these tasks or of all; wait for the first of them if asked."""
        params = [("after", str(after)), ("wait", str(wait_seconds)), *(("task", task_id) for task_id in tasks)]
        answer: list[Json] = await self._ask("GET", "/events", params=params)
        return answer

    # the trail

    async def audit_events(
        self,
        wanted: Mapping[str, Any],
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        wait_seconds: int = 0,
    ) -> list[Json]:
        """Return wanted events (kind: a list; user, server, keypair, task, since, until), the newest first; after: the oldest."""
        params = [("limit", str(limit)), ("wait", str(wait_seconds))]
        for name, value in ({"after": after, "before": before} | dict(wanted)).items():
            values = value if isinstance(value, list) else [] if value is None else [value]
            params += [(name, str(one)) for one in values]
        answer: list[Json] = await self._ask("GET", "/audit/events", params=params)
        return answer

    async def audit_names(self) -> dict[str, str]:
        """Return what users and servers are called, by their ids."""
        answer: dict[str, str] = await self._ask("GET", "/audit/names")
        return answer

    async def audit_key(self) -> Json:
        """Return the public half of the key that signs the events."""
        answer: Json = await self._ask("GET", "/audit/key")
        return answer

    async def audit_export(self, since: str | None = None, until: str | None = None) -> Json:
        """Return the first line of an export; its events are those of its numbers."""
        params = {name: value for name, value in (("since", since), ("until", until)) if value is not None}
        answer: Json = await self._ask("GET", "/audit/export", params=params)
        return answer

    async def audit_exported(self, first: int, number: int, digest: str) -> None:
        """Have it recorded that these events were given out."""
        await self._ask("POST", "/audit/export", body={"first": first, "number": number, "digest": digest})

    async def audit_checkpoint(self) -> Json:
        """Have how far the trail reaches signed, and return that."""
        answer: Json = await self._ask("POST", "/audit/checkpoints")
        return answer

    async def audit_prune(self, before: str) -> Json:
        """Delete events from before a time, and return how many, and which is the first now."""
        answer: Json = await self._ask("POST", "/audit/prune", body={"before": before})
        return answer


def _segment(name: str) -> str:
    """Return name as one segment of a path. What a path would not take as a name is the name of nothing."""
    if name in ("", ".", "..") or "/" in name:
        raise Refused(404, "not_found", f"{name!r}: there is nothing of this name")
    return quote(name, safe="")
