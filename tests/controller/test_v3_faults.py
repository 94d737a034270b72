"""What is the controller's own fault or its machine's, caused for real, as a user of the public service's SDK is told of it."""

import json
import re
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import huaweicloudsdkkps.v3 as v3
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ServerResponseException
from huaweicloudsdkcore.http.http_config import HttpConfig

from tests.controller.faces import here
from tests.controller.remotely import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "home")
    yield found
    found.stop()
    assert found.process.returncode == 0


def sdk(served: Served) -> v3.KpsClient:
    made = json.loads(here(served.home, "access-key", "create", "--json").stdout)
    config = HttpConfig.get_default_config()
    config.ssl_ca_cert = str(served.home / "tls.crt")
    credentials = BasicCredentials(*(made[name] for name in ("access_key", "secret_key", "project_id")))
    builder = v3.KpsClient.new_builder().with_http_config(config).with_credentials(credentials)
    client: v3.KpsClient = builder.with_endpoint(served.url).build()
    return client


def fault(work: Callable[[], Any]) -> tuple[int, str, str]:
    """Status, code and words of a fault that the SDK takes for the server's, with the number by which the log has it."""
    with pytest.raises(ServerResponseException) as caught:
        work()
    assert re.fullmatch("[0-9a-f]{32}", caught.value.request_id)
    return caught.value.status_code, caught.value.error_code, caught.value.error_msg


def names(kps: v3.KpsClient) -> list[str]:
    return [each.keypair.name for each in kps.list_keypairs(v3.ListKeypairsRequest()).keypairs]


def create(kps: v3.KpsClient, name: str) -> None:
    kps.create_keypair(v3.CreateKeypairRequest(v3.CreateKeypairRequestBody(v3.CreateKeypairAction(name=name))))


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_half_made(served: Served) -> None:
    kps = sdk(served)
    assert names(kps) == []  # and that the access key is used has been noted
    whole = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (4096, whole[1]))
    status, code, words = fault(lambda: create(kps, "full"))
    assert (status, code) == (500, "KPS.0003")
    assert "kps.db" in words
    assert names(kps) == []
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, whole)
    create(kps, "full")
    assert names(kps) == ["full"]


def test_a_root_key_that_is_gone_is_told_before_anybody_is_let_in(served: Served) -> None:
    kps = sdk(served)
    key = served.home / "root.key"
    away = key.rename(served.home / "away")
    served.kill()
    served.start()
    status, code, words = fault(lambda: names(kps))
    assert (status, code) == (503, "KPS.0003")
    assert "root key" in words
    away.rename(key)
    assert names(kps) == []


@pytest.mark.parametrize("table", ["keypairs", "access_keys"])
def test_a_fault_of_ours_says_so_and_nothing_of_what_is_inside(served: Served, table: str) -> None:
    """In a call, and already where it is looked up who asks; the SDK keeps its connection, and it is as good as before."""
    kps = sdk(served)
    create(kps, "mine")

    def renamed(old: str, new: str) -> None:
        with closing(sqlite3.connect(served.home / "kps.db", timeout=60)) as connection, connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    renamed(table, "elsewhere")
    for _ in range(2):
        assert fault(lambda: names(kps)) == (500, "KPS.0004", "a fault of the controller itself; its log has the trace")
    renamed("elsewhere", table)
    assert names(kps) == ["mine"]
