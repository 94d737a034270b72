"""Passwords of real servers: made, sealed, set, proved by a log-in, and changed again."""

from controller.demo.fleet import Server
from tests.fleet import judge
from tests.fleet.product import Json, Product, methods

SHADOW = "/etc/shadow"


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
