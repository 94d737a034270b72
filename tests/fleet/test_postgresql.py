"""The main session of a home whose store is PostgreSQL: the same commands, and the server restarted while a controller serves."""

from tests.fleet.product import Product


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
