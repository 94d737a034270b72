"""Operations on servers: one task for each, rung for at once."""

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from controller import keyfiles
from controller.deposits import Deposits, Order
from controller.errors import Conflict, Invalid, NotFound
from controller.model import Caller, Credential, Server, Task, now
from controller.order import TAKES_AWAY, UNNAMED_LOCKOUT
from controller.service.doorrules import refuse_opened_for_good
from controller.service.roles import allow, may_name_places
from controller.service.servers import LOGIN
from controller.service.tasks import Dispatch, given, kept_sealed
from controller.service.worker import off_loop
from controller.store import Store

_NEED_A_KEYPAIR = ("bind", "replace", "reset")
# What each operation can be told besides the login. Anything else would be taken for granted and never looked at.
_CONSENTS = frozenset({"accept_lockout", "accept_unproved"})
_REVOKE = frozenset({"revoke", "everywhere", "end_sessions"})
_OPTIONS: dict[str, frozenset[str]] = {
    "bind": frozenset({"plan", "keypair", "keep_password_login", "fix_permissions", UNNAMED_LOCKOUT}) | _CONSENTS,
    "replace": frozenset({"plan", "keypair", "fix_permissions", "take_over", "close_password_login", UNNAMED_LOCKOUT})
    | _CONSENTS
    | _REVOKE,
    "unbind": frozenset({"plan", "take_over", "keep_password_login"}) | _CONSENTS | _REVOKE,
    "reset": frozenset(
        {"keypair", "root", "set_password", "fix_permissions", "take_over", "keep_password_login", "close_password_login"}
    ),
    "password-login-enable": frozenset({"plan", "force"}),
    "password-login-disable": frozenset({"plan"}) | _CONSENTS,
    "password-login-status": frozenset(),
    "check": frozenset({"keypair", "public_key", "repair"}) | _CONSENTS,
}


class Bindings:
    """Key pairs on the logins of the tenant's servers."""

    def __init__(
        self, store: Store, dispatch: Dispatch, executor: Executor | None = None, deposits: Deposits | None = None
    ) -> None:
        """deposits: seals what is given with an order; without it that lives in this process's memory alone."""
        self._store = store
        self._dispatch = dispatch
        self._executor = executor
        self._deposits = deposits

    async def start(
        self,
        who: Caller,
        operation: str,
        servers: Sequence[Server],
        request: Mapping[str, Any],
        credentials: Mapping[str, Credential],
    ) -> list[Task]:
        """Order the operation on each of the servers; returns the tasks, which run from now on. As checked()."""
        kept, private = await self.checked(who, operation, servers, request, credentials)
        login = request.get("login")
        tasks = [
            _task(
                who,
                operation,
                server,
                login_of(server, operation, login),
                kept | given(operation, credentials.get(server.id)),
                private,
            )
            for server in servers
        ]
        holder = (self._dispatch.owner, self._dispatch.lease_seconds)
        # What comes with a reset is what it sets: told once, and not kept.
        orders = [] if operation == "reset" else [(Order.of_task(task), credentials.get(task.server_id)) for task in tasks]
        sealed = await kept_sealed(self._deposits, self._executor, orders)
        tasks = await off_loop(self._executor, self._store.add_tasks, tasks, *holder, sealed)
        self._dispatch.ring([task.id for task in tasks], credentials)
        return tasks

    async def checked(
        self,
        who: Caller,
        operation: str,
        servers: Sequence[Server],
        request: Mapping[str, Any],
        credentials: Mapping[str, Credential],
    ) -> tuple[dict[str, Any], bool]:
        """Return what each task keeps of a request, and whether a private key pair is in it; refused where it cannot be meant.

        request: keypair (a name), login (else each server's own), and the operation's options. credentials: by server id.
        Invalid: option_unknown for an option of another operation, login_unusable. Conflict(password_login_under_rule).
        """
        if operation not in _OPTIONS:
            raise Invalid("operation_unknown", f"{operation}: one of " + ", ".join(_OPTIONS))
        allow(who, "binding.order", what=operation)
        if not servers:
            raise Invalid("no_servers", "name at least one server")
        for server in servers:
            if server.tenant_id != who.tenant_id:
                raise NotFound("server_not_found", f"{server.name}: no server of this name", server=server.name)
        kept = {name: value for name, value in request.items() if value not in (None, False, []) and name != "login"}
        foreign = sorted(kept.keys() - _OPTIONS[operation])
        if foreign:
            raise Invalid("option_unknown", f"{operation} takes no {', '.join(foreign)}; it would change nothing")
        if kept.keys() & _REVOKE and not kept.get("revoke"):
            named = ", ".join(sorted(kept.keys() & _REVOKE))
            raise Invalid("option_unknown", f"{operation} takes {named} together with revoke only")
        if kept.get("keep_password_login") and kept.get("close_password_login"):
            raise Invalid("options_contradict", "password login is kept or closed, not both")
        if operation == "reset" and not kept.get("root"):
            raise Invalid("root_missing", "reset: say where the server's disk is mounted")
        for name in (request.get("login"), *kept.get("accept_lockout", ())):
            if name is not None and not LOGIN.fullmatch(str(name)):
                raise Invalid("login_unusable", f"{str(name)!r}: this cannot be a login; use letters, digits, _ . @ + and -")
        if kept.get("public_key"):
            kept["public_key"] = keyfiles.read_public(str(kept["public_key"]), allow_weak=True).line()
            if kept.get("keypair"):
                raise Invalid("key_twice", "name a key pair or give a public key, not both")
        if operation in _NEED_A_KEYPAIR and not kept.get("keypair"):
            raise Invalid("keypair_missing", f"{operation}: name a key pair")
        private = False
        if kept.get("keypair"):
            keypair = await off_loop(self._executor, self._store.keypair, who.tenant_id, who.user_id, str(kept["keypair"]))
            allow(who, "keypair.use", keypair.scope, keypair.name)
            kept["keypair_id"] = keypair.id
            private = keypair.scope == "private"
        await self._refuse_strangers(who, operation, servers, request)
        if operation == "password-login-enable":
            await off_loop(self._executor, refuse_opened_for_good, self._store, who.tenant_id, servers)
        if kept.get("root") and any(server.reset_root != kept["root"] for server in servers):
            may_name_places(who, f"{kept['root']}: a disk")
        if any(each.agent_socket for each in credentials.values()):
            may_name_places(who, "an ssh-agent")
        return kept, private

    async def _refuse_strangers(self, who: Caller, operation: str, servers: Sequence[Server], request: Mapping[str, Any]) -> None:
        """Refuse to take another user's private key pair away, unless the caller may, and says that this is meant."""
        if operation not in TAKES_AWAY:
            return
        if request.get("take_over"):
            allow(who, "binding.take", "other", operation)
            return
        strangers = await off_loop(self._executor, self._store.strangers, who.tenant_id, who.user_id)
        bound = {(each.server_id, each.login) for each in strangers}
        login = request.get("login")
        theirs = [server.name for server in servers if (server.id, login_of(server, operation, login)) in bound]
        if theirs:
            on = f"{operation} on {', '.join(theirs)}: another user's private key pair is bound there"
            allow(who, "binding.take", "other", on)
            raise Conflict("bound_by_another", f"{on}; --take-over says that it is to go all the same", servers=theirs)


def login_of(server: Server, operation: str, named: str | None = None) -> str:
    """Return the login that is meant. Where none is named: after a reset, a check is about the one that was reset."""
    if named:
        return str(named)
    if operation == "check" and server.after_reset and server.login not in server.after_reset:
        return min(server.after_reset)
    return server.login


def _task(who: Caller, operation: str, server: Server, login: str, request: dict[str, Any], private: bool) -> Task:
    return Task(
        id=str(uuid.uuid4()),
        tenant_id=who.tenant_id,
        user_id=who.user_id,
        server_id=server.id,
        server_name=server.name,
        login=login,
        operation=operation,  # type: ignore[arg-type]
        request=request,
        created_at=now(),
        private=private,
    )
