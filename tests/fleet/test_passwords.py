"""Passwords of real servers: made, sealed, set, proved by a log-in, and changed again."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from controller.api.fleet import Fleet
from controller.demo.fleet import Login, Server
from controller.model import FINAL, Caller, Task
from tests.fleet import judge
from tests.fleet.product import Json, Product, methods
from tests.fleet.test_other_users import ended, two_users

SHADOW = "/etc/shadow"
# Its child holds the lock, and it ends itself once that is so.
HOLDS = """
import fcntl, os, sys, time
told, tell = os.pipe()
child = os.fork()
if child == 0:
    lock = open("/etc/.pwd.lock", "w")
    fcntl.lockf(lock, fcntl.LOCK_EX)
    os.write(tell, b"held")
    for each in (0, 1, 2):
        os.close(each)
    time.sleep(int(sys.argv[1]))
    os._exit(0)
os.read(told, 4)
print(child)
"""


def kept(product: Product, server: Server, login: str = "root", **more: object) -> str:
    """Have the password of a login kept as a secret; returns its name."""
    name = f"{server.name}-{login}"
    product.ask("POST", "/secrets", body={"name": name, "server": server.name, "login": login} | more)
    return name


def rotated(product: Product, name: str, **given: str) -> Json:
    """Rotate a password and return the task when it has ended."""
    begun = product.ask("POST", f"/secrets/{name}/rotate", body={"credential": given or None})
    return product.ended(begun["task"]["id"])


def value(product: Product, name: str, **which: str) -> str:
    """What a secret is, as whoever asks is given it."""
    return str(product.ask("POST", f"/secrets/{name}/open", body=which)["value"])


def hash_of(server: Server, login: str) -> str:
    """The line of shadow of a login."""
    return next(line for line in server.read(SHADOW).split("\n") if line.startswith(f"{login}:"))


def bound(product: Product, server: Server, **more: object) -> None:
    """Bind a key pair to the server's own login, and leave passwords on."""
    product.add(server)
    product.succeeds("bind", server, keypair=product.keypair(), keep_password_login=True, password=server.root_password, **more)


def test_a_password_is_made_set_proved_and_changed_again(product, server):
    bound(product, server)
    name = kept(product, server)
    others = [line for line in server.read(SHADOW).split("\n") if not line.startswith("root:")]
    first = rotated(product, name)
    assert (first["status"], methods(first)) == ("succeeded", {("password", "logged_in")}), first
    old = value(product, name)
    assert judge.password_login_works(server, "root", old)
    assert not judge.password_login_works(server, "root", server.root_password)
    assert [line for line in server.read(SHADOW).split("\n") if not line.startswith("root:")] == others

    second = rotated(product, name)
    assert second["status"] == "succeeded", second
    new = value(product, name)
    assert judge.password_login_works(server, "root", new)
    assert not judge.password_login_works(server, "root", old)
    assert value(product, name, stage="SYSPREVIOUS") == old
    found = product.ask("GET", f"/secrets/{name}")
    assert (found["works"], [each["stages"] for each in found["versions"]]) == ("v2", [["SYSPREVIOUS"], ["SYSCURRENT"]])
    rotations = product.ask("GET", "/secret-rotations", params={"secret": name})
    assert [(each["state"], each["proved"], each["by"]) for each in rotations] == [("done", True, "hand")] * 2


def test_where_no_password_gets_in_it_is_set_and_nobody_says_that_it_was_proved(product, server):
    product.add(server)
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password)
    name = kept(product, server)
    before = hash_of(server, "root")
    task = rotated(product, name)
    assert (task["status"], methods(task)) == ("succeeded", set()), task
    assert "nobody has logged in" in " ".join(task["evidence"]["limits"])
    assert hash_of(server, "root") != before
    rotations = product.ask("GET", "/secret-rotations", params={"secret": name})
    assert [(each["state"], each["proved"]) for each in rotations] == [("done", False)]
    product.succeeds("password-login-enable", server)
    assert judge.password_login_works(server, "root", value(product, name))


def test_the_password_that_works_is_a_way_in_by_itself(product, server):
    product.add(server)
    name = kept(product, server, value=server.root_password)
    assert value(product, name) == server.root_password
    for _ in range(2):
        task = rotated(product, name)
        assert task["status"] == "succeeded", task
    assert judge.password_login_works(server, "root", value(product, name))
    assert not judge.password_login_works(server, "root", value(product, name, stage="SYSPREVIOUS"))


def test_of_a_login_beside_the_servers_own(product, make_server):
    server = make_server(logins=(Login("deploy", "tr0ub4dor&3"),))
    bound(product, server)
    name = kept(product, server, "deploy", value="tr0ub4dor&3")
    task = rotated(product, name)
    assert (task["status"], methods(task)) == ("succeeded", {("password", "logged_in")}), task
    assert judge.password_login_works(server, "deploy", value(product, name))
    assert judge.password_login_works(server, "root", server.root_password)


def test_a_password_that_does_not_get_in_is_taken_back_and_the_same_one_is_tried_again(product, server):
    bound(product, server)
    name = kept(product, server)
    assert rotated(product, name)["status"] == "succeeded"
    works, line = value(product, name), hash_of(server, "root")
    pam = server.read("/etc/pam.d/sshd")
    server.write("/etc/pam.d/sshd", "auth required pam_deny.so\n" + pam)
    task = rotated(product, name)
    assert (task["status"], task["server_state"], task["phase"]) == ("failed", "reverted", "prove"), task
    assert hash_of(server, "root") == line
    server.write("/etc/pam.d/sshd", pam)
    found = product.ask("GET", f"/secrets/{name}")
    assert (found["works"], [each["stages"] for each in found["versions"]]) == ("v1", [["SYSPREVIOUS"], ["SYSCURRENT"]])
    assert judge.password_login_works(server, "root", works)
    (failed,) = product.ask("GET", "/secret-rotations", params={"secret": name, "failed": True})
    assert (failed["version"], failed["cause"], failed["tries"]) == ("v2", task["cause"], 1)
    assert failed["again_at"]

    newest = value(product, name)
    assert rotated(product, name)["status"] == "succeeded"
    assert value(product, name) == newest
    assert judge.password_login_works(server, "root", newest)
    rotations = product.ask("GET", "/secret-rotations", params={"secret": name})
    assert [(each["version"], each["state"], each["tries"]) for each in rotations] == [("v1", "done", 1), ("v2", "done", 2)]


@pytest.mark.cause("secret_changed")
def test_an_older_password_is_not_put_back_by_a_late_retry(product, server, told):
    bound(product, server)
    name = kept(product, server)
    server.stop()
    away = rotated(product, name)
    assert away["status"] == "failed", away
    server.start()
    for _ in range(2):
        assert rotated(product, name)["status"] == "succeeded"
    line = hash_of(server, "root")
    told(product.retry(away))
    assert hash_of(server, "root") == line


def test_while_somebody_changes_accounts_a_password_waits_and_is_not_set_beside_them(product, server):
    bound(product, server)
    name = kept(product, server)
    line = hash_of(server, "root")
    with accounts_held(server, 60):
        task = rotated(product, name)
        assert (task["status"], task["cause"], task["server_state"]) == ("failed", "busy", "reverted"), task
        assert hash_of(server, "root") == line
    with accounts_held(server, 2):
        assert rotated(product, name)["status"] == "succeeded"
    assert judge.password_login_works(server, "root", value(product, name))


def test_without_python_no_password_is_set(product, make_server):
    server = make_server(python=False)
    product.add(server)
    name = kept(product, server, value=server.root_password)
    line = hash_of(server, "root")
    task = rotated(product, name)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "no_python", "as_before"), task
    assert hash_of(server, "root") == line


def test_a_one_time_password_works_until_it_is_changed_again(make_server, tmp_path):
    server = make_server()

    async def story() -> None:
        async with two_users(tmp_path / "home") as (fleet, boss, _):
            await fleet.servers.add(boss, server.name, server.host, server.port, host_key=server.host_key)
            await fleet.keypairs.create(boss, "ops")
            bound = await ended(fleet, boss, server.name, "bind", server.root_password, keypair="ops", keep_password_login=True)
            assert bound.status == "succeeded", bound
            (found,) = await fleet.servers.select(boss, [server.name])
            made = await fleet.secrets.make_password(boss, found, "root")
            assert (await until_ended(fleet, boss, made.task.id)).status == "succeeded"
            shown = made.password.open().decode()
            made.password.wipe()
            assert await asyncio.to_thread(judge.password_login_works, server, "root", shown)
            again = await fleet.secrets.change_password(boss, found, "root")
            assert (await until_ended(fleet, boss, again.task_id)).status == "succeeded"
            assert not await asyncio.to_thread(judge.password_login_works, server, "root", shown)
            _, value = await fleet.secrets.open(boss, made.secret.name)
            assert await asyncio.to_thread(judge.password_login_works, server, "root", value.open().decode())
            assert {each.by for each in await fleet.secrets.rotations(boss)} == {"emergency"}

    asyncio.run(story())


async def until_ended(fleet: Fleet, who: Caller, task_id: str) -> Task:
    """Return a task when it has ended."""
    after = 0
    while (task := await fleet.tasks.get(who, task_id)).status not in FINAL:
        after = max([after, *(each.id for each in await fleet.tasks.events(who, after, [task_id], 5))])
    return task


@contextlib.contextmanager
def accounts_held(server: Server, seconds: int) -> Iterator[None]:
    """Somebody on the server holds the lock on its accounts for so long, as passwd(1) does while it writes."""
    pid = server.run(["python3", "-c", HOLDS, str(seconds)]).stdout.strip()
    try:
        yield
    finally:
        server.run(["kill", pid], check=False)
