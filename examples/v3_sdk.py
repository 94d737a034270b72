"""Make a key pair, put it on a server, take it off again: with the public service's own SDK, against a controller of one's own.

    python -m venv sdk && sdk/bin/pip install huaweicloudsdkkps
    sdk/bin/python examples/v3_sdk.py https://kps.example.com:8443 SERVER-ID --certificate tls.crt < root-password

SERVER-ID is what `kps server show NAME` tells. The keys come from HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK and
HUAWEICLOUD_SDK_PROJECT_ID, as the SDK has them; `kps init` and `kps access-key create` show them. Root's password is read from
standard input. Ends with 0 where the server took the key and gave it back, with 1 where the controller refused or failed.
"""

import argparse
import os
import sys
import time

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import SdkException, ServiceResponseException
from huaweicloudsdkcore.http.http_config import HttpConfig
from huaweicloudsdkkps.v3 import (
    AssociateKeypairRequest,
    AssociateKeypairRequestBody,
    Auth,
    CreateKeypairAction,
    CreateKeypairRequest,
    CreateKeypairRequestBody,
    DeleteKeypairRequest,
    DisassociateEcsServerInfo,
    DisassociateKeypairRequest,
    DisassociateKeypairRequestBody,
    EcsServerInfo,
    Encryption,
    KeyProtection,
    KpsClient,
    ListFailedTaskRequest,
    ListKeypairDetailRequest,
    ListKeypairTaskRequest,
)

NAME = "sdk-example"
POLL_SECONDS = 1


def client(url: str, certificate: str | None) -> KpsClient:
    """Return a client of the controller at url; certificate: the file that vouches for it, None: what the system trusts."""
    config = HttpConfig.get_default_config()
    config.ssl_ca_cert = certificate
    keys = (os.environ[f"HUAWEICLOUD_SDK_{name}"] for name in ("AK", "SK", "PROJECT_ID"))
    builder = KpsClient.new_builder().with_http_config(config).with_credentials(BasicCredentials(*keys))
    return builder.with_endpoint(url).build()


def ended(kps: KpsClient, task_id: str) -> str:
    """Wait until a task has ended, and return its word: SUCCESS_BIND, say. What kept it from that is printed."""
    while True:
        word: str = kps.list_keypair_task(ListKeypairTaskRequest(task_id=task_id)).task_status
        if word.startswith("FAILED_"):
            failed = kps.list_failed_task(ListFailedTaskRequest()).tasks
            print(*(each.task_error_msg for each in failed if each.task_id == task_id), file=sys.stderr)
        if word.startswith(("SUCCESS_", "FAILED_")):
            return word
        time.sleep(POLL_SECONDS)


def main() -> int:
    """Do it, step by step."""
    words = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    words.add_argument("url")
    words.add_argument("server_id")
    words.add_argument("--certificate", help="what vouches for the controller: its home's tls.crt, or the authority's")
    given = words.parse_args()
    password = sys.stdin.readline().rstrip("\n")
    kps = client(given.url, given.certificate)
    try:
        # The private half is in this answer, and in the controller's custody: it opens the server from then on.
        kept = KeyProtection(encryption=Encryption(type="default"))
        action = CreateKeypairAction(name=NAME, key_protection=kept)
        kps.create_keypair(CreateKeypairRequest(CreateKeypairRequestBody(keypair=action)))
        pair = kps.list_keypair_detail(ListKeypairDetailRequest(keypair_name=NAME)).keypair
        print(f"{pair.name} {pair.algorithm} {pair.fingerprint}")

        server = EcsServerInfo(id=given.server_id, auth=Auth(type="password", key=password), disable_password=True)
        asked = AssociateKeypairRequestBody(keypair_name=NAME, server=server)
        first = ended(kps, kps.associate_keypair(AssociateKeypairRequest(body=asked)).task_id)
        print(first)
        if first != "SUCCESS_BIND":
            kps.delete_keypair(DeleteKeypairRequest(keypair_name=NAME))
            return 1

        # No auth: the controller holds the key that opens the server. Password login comes back.
        off = DisassociateKeypairRequestBody(server=DisassociateEcsServerInfo(id=given.server_id))
        last = ended(kps, kps.disassociate_keypair(DisassociateKeypairRequest(body=off)).task_id)
        print(last)
        if last != "SUCCESS_UNBIND":
            return 1

        kps.delete_keypair(DeleteKeypairRequest(keypair_name=NAME))
    except ServiceResponseException as refused:
        print(f"{refused.status_code} {refused.error_code}: {refused.error_msg} (request {refused.request_id})", file=sys.stderr)
        return 1
    except SdkException as unreached:  # no controller there, or a certificate that nobody vouches for
        print(f"{given.url}: {unreached.error_msg}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
