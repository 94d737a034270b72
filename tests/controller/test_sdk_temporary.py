"""Temporary credentials in the public service's own SDK, unchanged, against kps serve; no server is needed for these calls."""

import json
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import huaweicloudsdkkps.v3 as v3
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException

from tests.controller.faces import KPS, program


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("sdk") / "home"
    made = json.loads(program(home, "init", "--json").stdout)
    words = [KPS, "serve", "--home", str(home), "--http", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = ""
    while not told.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        told += line
    url = json.loads(told)["url"]

    def client(given: dict[str, Any], token: str | None) -> Any:
        credentials = BasicCredentials(given["access_key"], given["secret_key"], made["project_id"])
        if token is not None:
            credentials = credentials.with_security_token(token)
        return v3.KpsClient.new_builder().with_credentials(credentials).with_endpoint(url).build()

    def kps(*words: str) -> Any:
        return json.loads(program(home, *words, "--json").stdout)

    secrets: list[str] = []
    yield SimpleNamespace(made=made, client=client, kps=kps, url=url, secrets=secrets)
    process.terminate()
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    for secret in secrets:
        assert secret not in out + errors  # the log, too


def names(client: Any) -> list[str]:
    return [each.keypair.name for each in client.list_keypairs(v3.ListKeypairsRequest()).keypairs]


def refused(client: Any) -> tuple[int, str]:
    with pytest.raises(ClientRequestException) as caught:
        names(client)
    assert len(caught.value.request_id) == 32
    return caught.value.status_code, caught.value.error_code


def test_the_sdk_asks_with_temporary_credentials(served: Any) -> None:
    given, other = (served.kps("temporary-key", "create", "--for", "15m") for _ in range(2))
    served.secrets.extend([given["secret_key"], given["security_token"]])
    mine = served.client(given, given["security_token"])
    action = v3.CreateKeypairAction(name="made-with-temporary")
    made = mine.create_keypair(v3.CreateKeypairRequest(body=v3.CreateKeypairRequestBody(keypair=action))).keypair
    assert made.user_id == served.made["user_id"]
    assert names(mine) == ["made-with-temporary"]
    for token in ("wrong", other["security_token"], None):
        assert refused(served.client(given, token)) == (401, "APIGW.0301")
    assert refused(served.client(served.made, given["security_token"])) == (401, "APIGW.0301")
    served.kps("temporary-key", "revoke", given["access_key"])
    assert refused(mine) == (401, "APIGW.0301")
    assert names(served.client(other, other["security_token"])) == ["made-with-temporary"]


def test_a_token_asks_in_the_place_of_a_signature_until_it_is_revoked(served: Any) -> None:
    given = served.kps("token", "create", "--for", "1h")
    served.secrets.append(given["token"])
    path = f"{served.url}/v3/{served.made['project_id']}/keypairs"

    def status(headers: dict[str, str]) -> int:
        return httpx.get(path, headers=headers, trust_env=False).status_code

    assert status({"X-Auth-Token": given["token"]}) == 200
    assert status({"X-Auth-Token": given["token"][:-1]}) == 401
    served.kps("token", "revoke", given["id"])
    assert status({"X-Auth-Token": given["token"]}) == 401
