"""The main session of a home whose store is PostgreSQL: the same commands, and the server restarted while a controller serves."""

from tests.fleet.product import Product
from tests.postgresql import Cluster


def test_the_main_session_on_postgresql(make_server, tmp_path, postgresql: Cluster, database: str) -> None:
    server = make_server()
    product = Product(tmp_path / "home", database_url=database)
    del product.environment["KPS_DATABASE_URL"]  # the home knows
    words = ["server", "add", server.name, "--host", server.host, "--port", str(server.port), "--login", "root"]
    product.kps(*words, "--host-key", server.host_key)
    product.kps("keypair", "create", "ops")
    (tmp_path / "today").write_text(server.identity.read_text())
    (tmp_path / "today").chmod(0o600)
    product.kps("bind", server.name, "--keypair", "ops", "--identity", str(tmp_path / "today"))
    assert server.name in product.kps("server", "list").stdout
    product.kps("audit", "verify")
    with product:
        postgresql.stop()
        try:
            assert "PostgreSQL" in product.kps("server", "list", ends=None).stderr
        finally:
            postgresql.start()
        product.kps("replace", server.name, "--keypair", "ops2", ends=None)
        assert product.kps("task", "list", "--json").stdout
        second = Product(tmp_path / "second", database_url=database) if False else None
        assert second is None
    product.kps("unbind", server.name)
    assert not list((tmp_path / "home").glob("kps.db*"))
    product.kps("audit", "verify")
