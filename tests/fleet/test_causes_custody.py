"""What is wrong with what is in custody: each caused from outside, told apart, and nothing changed on the server."""

import json
import os
import sqlite3
from contextlib import closing

import pytest

from controller.cli import exits
from tests.fleet import judge
from tests.fleet.causes import unchanged
from tests.fleet.product import Product


def swap(product, one, other):
    """Put each key pair's sealed private half into the row of the other, as somebody with the database could."""
    with closing(sqlite3.connect(product.home / "kps.db")) as connection, connection:
        sealed = dict(connection.execute("SELECT name, sealed FROM keypairs WHERE name IN (?, ?)", (one["name"], other["name"])))
        for name, record in ((one["name"], sealed[other["name"]]), (other["name"], sealed[one["name"]])):
            assert connection.execute("UPDATE keypairs SET sealed = ? WHERE name = ?", (record, name)).rowcount == 1


def refused(product, name):
    """How kps refuses to export a key pair: the sentence, with its exit code checked."""
    done = product.kps("keypair", "export", name, "--json", ends=exits.UNAVAILABLE)
    assert done.stdout == ""
    return json.loads(done.stderr)["error"]


@pytest.mark.cause("custody_damaged")
def test_a_private_half_that_was_moved_to_another_key_pairs_row(product, server, told):
    product.add(server)
    one, other = product.keypair(), product.keypair()
    swap(product, one, other)
    said = refused(product, one["name"])
    assert said["code"] == "sealed_for_another"
    assert one["name"] in said["message"]
    assert "restore a backup" in said["message"]
    with unchanged(server):
        task = told(product.run("bind", server, keypair=one, password=server.root_password))
    assert task["evidence"] == {"keypair": one["name"], "custody": "sealed_for_another"}
    swap(product, one, other)  # the backup
    assert product.retry(task, password=server.root_password)["status"] == "succeeded"
    assert judge.key_login_works(server, "root", product.private(one))


@pytest.mark.cause("custody_damaged")
def test_a_bound_private_half_that_does_not_open_any_more_locks_nobody_out(product, server, told):
    product.add(server)
    bound, other, new = product.keypair(), product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=bound, password=server.root_password, keep_password_login=True)
    swap(product, bound, other)
    with unchanged(server):
        told(product.run("replace", server, keypair=new))
        told(product.run("check", server))
        told(product.run("password-login-disable", server, password=server.root_password))
    # Another way in is as good as ever, also where custody would come first.
    product.succeeds("unbind", server, password=server.root_password)
    product.succeeds("bind", server, keypair=new, password=server.root_password)
    assert judge.key_login_works(server, "root", product.private(new))


@pytest.mark.cause("custody_damaged")
def test_a_private_half_with_one_bit_changed(product, server, told):
    product.add(server)
    pair = product.keypair(type="rsa-2048")
    with closing(sqlite3.connect(product.home / "kps.db")) as connection, connection:
        (record,) = connection.execute("SELECT sealed FROM keypairs WHERE name = ?", (pair["name"],)).fetchone()
        changed = record[:-1] + bytes([record[-1] ^ 1])
        connection.execute("UPDATE keypairs SET sealed = ? WHERE name = ?", (changed, pair["name"]))
    with unchanged(server):
        told(product.run("bind", server, keypair=pair, password=server.root_password))


@pytest.mark.cause("master_key_unusable")
def test_a_private_half_under_a_master_key_that_is_disabled(product, server, told):
    product.add(server)
    pair = product.keypair()

    product.kps("kms", "key", "create", "orders")
    product.kps("keypair", "move", pair["name"], "--master-key", "orders")
    product.kps("kms", "key", "disable", "orders")
    done = product.kps("keypair", "export", pair["name"], "--json", ends=exits.REFUSED)
    assert json.loads(done.stderr)["error"]["code"] == "master_key_disabled"
    with unchanged(server):
        task = told(product.run("bind", server, keypair=pair, password=server.root_password))
    assert task["evidence"] == {"keypair": pair["name"], "custody": "master_key_disabled"}
    product.kps("kms", "key", "enable", "orders")
    assert product.retry(task, password=server.root_password)["status"] == "succeeded"
    assert judge.key_login_works(server, "root", product.private(pair))
    # Now it is the only way in.
    done = product.kps("kms", "key", "disable", "orders", "--json", ends=exits.REFUSED)
    assert json.loads(done.stderr)["error"]["code"] == "only_way_in"


@pytest.mark.cause("root_key_missing")
def test_another_root_key_than_the_one_that_everything_is_sealed_under(server, told, tmp_path):
    product = Product(tmp_path / "home")
    right = (product.home / "root.key").read_bytes()
    with product:
        product.add(server)
        pair = product.keypair()
        product.end()
        (product.home / "root.key").write_bytes(os.urandom(len(right)))
        product.serve()
        said = refused(product, pair["name"])
        assert (said["code"], pair["name"] in said["message"]) == ("root_key_wrong", True)
        with unchanged(server):
            task = told(product.run("bind", server, keypair=pair, password=server.root_password))
        assert task["evidence"] == {"keypair": pair["name"], "custody": "root_key_wrong"}
        product.end()
        (product.home / "root.key").write_bytes(right)
        product.serve()
        assert product.retry(task, password=server.root_password)["status"] == "succeeded"
        assert judge.key_login_works(server, "root", product.private(pair))


def test_without_its_root_key_a_home_still_tells_what_is_in_it_and_does_nothing_else(server, tmp_path):
    product = Product(tmp_path / "home")
    with product:
        product.add(server)
        pair = product.keypair()
        product.end()
        (product.home / "root.key").unlink()
        assert [each["name"] for each in json.loads(product.kps("server", "list", "--json").stdout)]
        assert refused(product, pair["name"])["code"] == "root_key_missing"
        done = product.kps("keypair", "create", "another", "--json", ends=exits.UNAVAILABLE)
        assert json.loads(done.stderr)["error"]["code"] == "root_key_missing"
    assert not (product.home / "root.key").exists()
