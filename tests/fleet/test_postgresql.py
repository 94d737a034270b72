"""The main session of a home whose store is PostgreSQL: the same commands, and the server restarted while a controller serves."""

from tests.fleet.product import Product
from tests.postgresql import Cluster


def test_the_main_session_on_postgresql(make_server, tmp_path, postgresql, database):
    server = make_server()
    product = Product(tmp_path / "home", database_url=database)
    del product.environment["KPS_DATABASE_URL"]  # the home knows
    words = ["--port", str(server.port), "--host-key", server.host_key]
    product.kps("server", "add", server.name, server.host, *words)
    product.kps("keypair", "create", "ops")
    product.kps("bind", server.name, "--keypair", "ops", "--password-stdin", given=server.root_password)
    assert server.name in product.kps("server", "list").stdout
    product.kps("audit", "verify")
    with product:
        postgresql.stop()
        try:
            refused = product.kps("server", "list", ends=None)
            assert refused.returncode != 0
            assert "see that PostgreSQL runs" in refused.stderr
        finally:
            postgresql.start()
        pair = product.keypair()
        product.succeeds("replace", server, keypair=pair)  # with what it has kept, and with no help
    product.kps("audit", "verify")
    assert not list((tmp_path / "home").glob("kps.db*"))


def test_servers_take_the_orders_of_a_database_that_was_restored_from_a_dump(make_server, tmp_path, postgresql: Cluster):
    server, dump = make_server(), tmp_path / "kps.dump"
    with postgresql.database() as url, postgresql.database() as restored:
        product = Product(tmp_path / "home", database_url=url)
        with product:
            product.add(server)
            first, second = product.keypair(), product.keypair()
            product.succeeds("bind", server, keypair=first, password=server.root_password)
            postgresql.program("pg_dump", "--format=custom", f"--file={dump}", url)
            for pair in (second, first, second, first):
                product.succeeds("replace", server, keypair=pair)
        postgresql.program("pg_restore", "--no-owner", f"--dbname={restored}", dump)
        (product.home / "database.url").unlink()
        product.environment["KPS_DATABASE_URL"] = restored
        product.kps("init")  # writes down where the database is now
        with product:  # too early: the server has seen newer orders
            product.fails("stale_generation", "replace", server, keypair=second)
        assert "tasks ended  0" in product.kps("after-restore").stdout
        with product:
            product.succeeds("replace", server, keypair=second)
            product.kps("audit", "verify")
