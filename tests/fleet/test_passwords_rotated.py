"""A sample of `make passwords`: while controller, log-ins and agents fail, one of the two versions that are kept always works."""

from controller.demo.fleet import Login
from tests.fleet.passwords import Place, story
from tests.fleet.product import Product

LOGINS, ROUNDS = 3, 2


def test_at_every_moment_the_current_or_the_previous_version_works(make_server, tmp_path):
    names = [f"user{number}" for number in range(LOGINS)]
    server = make_server(logins=tuple(Login(name, f"first word of {name}") for name in names))
    with Product(tmp_path / "home", lease_seconds=10, deadline_seconds=20) as product:
        product.add(server)
        product.succeeds("bind", server, keypair=product.keypair(), keep_password_login=True, password=server.root_password)
        places = [Place(server, name, f"{server.name}-{name}") for name in names]
        seen = story(product, places, ROUNDS)
    assert (seen.locked_out, seen.misses) == ([], [])
    assert seen.faults.total() == ROUNDS
    assert seen.failed.total() >= 1
    assert seen.looks >= LOGINS * ROUNDS
    assert seen.logins_tried >= LOGINS * 2
