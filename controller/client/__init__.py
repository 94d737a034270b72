"""The fleet API as a caller sees it: one method for each verb, in an async and a sync client.

from controller.client import KpsClient, Remote
from controller.model import Secret

remote = Remote("https://kps.example.com:8443", "AK...", Secret(secret_key), ca_certificate=Path("tls.crt"))
with KpsClient.over_network(remote) as kps:
    print(kps.servers(["stage=prod"]))
"""

from controller.client.call import IDS_PER_REQUEST
from controller.client.clients import ANSWER_SECONDS, AsyncKpsClient, KpsClient
from controller.client.refusals import ClockDiffers, NotTrusted, Refused, Unreachable
from controller.client.remote import Remote
from controller.client.verbs import ENDINGS, WAIT_SECONDS, Json, Verbs

__all__ = [
    "ANSWER_SECONDS",
    "ENDINGS",
    "IDS_PER_REQUEST",
    "WAIT_SECONDS",
    "AsyncKpsClient",
    "ClockDiffers",
    "Json",
    "KpsClient",
    "NotTrusted",
    "Refused",
    "Remote",
    "Unreachable",
    "Verbs",
]
