"""The calls that Terraform's provider for the public service makes, in its order and signed as its Go client signs.

Every loop of it ends, and every status is one that it takes. The signer here is one of its own: it shares no code with ours.
"""

import hashlib
import hmac
import http.client
import json
import time
from datetime import UTC, datetime
from urllib.parse import quote, unquote

import pytest

from controller import keyfiles
from controller.api.kps.associating import AnyServer
from controller.api.kps.keypairs import Encryption
from tests.fleet import judge, test_sdk

served = test_sdk.served
TAKEN = {"GET": (200,), "POST": (200, 201, 202), "PUT": (200, 201, 202), "DELETE": (200, 202, 204)}
MOST_POLLS = 200  # it asks every 20 s for up to half an hour; here more often
MOST_PAGES = 50  # of any list here: a loop that has not ended by then does not end


class Gone(Exception):
    """404: the provider takes the resource out of its state"""


class Provider:
    """Speaks as the Go client does."""

    def __init__(self, served):
        self.host = served.url.partition("//")[2]
        self.made = served.made
        self.asked = []

    def ask(self, method, path, body=None):
        """Return what a call answers, decoded where there is something; fails where the client would."""
        target = f"/v3/{self.made['project_id']}{path}"
        sent = b"" if body is None else json.dumps(body).encode()
        # Neither Host nor what is added later (X-Project-Id) is signed; Accept is.
        signed = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "X-Sdk-Date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        }
        headers = signed | {"Authorization": self.signature(method, target, signed, sent)}
        headers |= {"X-Project-Id": self.made["project_id"], "User-Agent": "terraform-provider", "Accept-Encoding": "gzip"}
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request(method, target, sent or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.asked.append((method, path, answer.status))
        if answer.status == 404 and method in ("GET", "DELETE"):
            raise Gone(path)
        assert answer.status in TAKEN[method], (method, path, answer.status, content)
        if answer.headers["Content-Type"] == "application/octet-stream":
            return content
        # An empty body where a result is decoded is an error there.
        assert content or answer.status == 204, (method, path)
        return json.loads(content) if content else None

    def signature(self, method, target, headers, sent):
        path, _, query = target.partition("?")
        path = "/".join(quote(unquote(each), safe="-_.~") for each in path.split("/"))
        pairs = sorted(each.split("=", 1) for each in query.split("&") if each)
        names = sorted(name.lower() for name in headers)
        lower = {name.lower(): value for name, value in headers.items()}
        canonical = [
            method,
            path if path.endswith("/") else path + "/",
            "&".join(f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}" for name, value in pairs),
            *(f"{name}:{lower[name]}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(sent).hexdigest(),
        ]
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        to_sign = f"SDK-HMAC-SHA256\n{lower['x-sdk-date']}\n{digest}"
        secret = self.made["secret_key"].encode()
        found = hmac.new(secret, to_sign.encode(), hashlib.sha256).hexdigest()
        return f"SDK-HMAC-SHA256 Access={self.made['access_key']}, SignedHeaders={';'.join(names)}, Signature={found}"

    # -- what its resources and data sources do

    def create_keypair(self, description="", **wanted):
        made = self.ask("POST", "/keypairs", {"keypair": {"type": "ssh", **wanted}})["keypair"]
        if description:
            self.describe(made["name"], description)
        return made, self.read_keypair(made["name"])

    def describe(self, name, description):
        self.ask("PUT", f"/keypairs/{name}", {"keypair": {"description": description}})

    def read_keypair(self, name):
        """Read as it does, each field as it does: what has another type would be an error there."""
        found = self.ask("GET", f"/keypairs/{name}")["keypair"]
        for field in ("name", "scope", "public_key", "description", "fingerprint"):
            assert isinstance(found[field], str), field
        assert isinstance(found["is_key_protection"], bool)
        assert found["create_time"] // 1000 > 1_000_000_000
        assert found["scope"] in ("user", "domain")
        return found

    def all_keypairs(self):
        """Page by the marker alone, until there is none; the marker goes into the URL as it is."""
        found, marker = [], None
        for _ in range(MOST_PAGES):
            page = self.ask("GET", "/keypairs" if marker is None else f"/keypairs?marker={marker}")
            found += [each["keypair"] for each in page["keypairs"]]
            # There, "" would mean page one again: it has to be absent or null.
            marker = page["page_info"].get("next_marker")
            assert marker != ""
            if marker is None:
                return found
        raise AssertionError("the list does not end")

    def all_tasks(self, which):
        """Page by an offset that grows by what came, until nothing comes."""
        found = []
        for _ in range(MOST_PAGES):
            page = self.ask("GET", which if not found else f"{which}?offset={len(found)}")
            if not page["tasks"]:
                return found
            found += page["tasks"]
            for each in page["tasks"]:
                assert isinstance(each["task_time"], str)
                assert int(each["task_time"]) > 1_000_000_000_000
        raise AssertionError("the list does not end")

    def wait_for(self, kinds, submitted):
        """Poll a task until its word is one that ends it."""
        assert submitted["task_id"]
        for _ in range(MOST_POLLS):
            word = self.ask("GET", f"/tasks/{submitted['task_id']}")["task_status"]
            assert word.split("_")[0] in ("READY", "RUNNING", "SUCCESS", "FAILED")
            if word in [f"{phase}_{kind}" for phase in ("SUCCESS", "FAILED") for kind in kinds]:
                return word
            time.sleep(0.3)
        raise AssertionError("the task does not end")

    def associate(self, name, server_id, auth, **more):
        server = {"id": server_id, "auth": auth, "disable_password": False, **more}
        submitted = self.ask("POST", "/keypairs/associate", {"keypair_name": name, "server": server})
        return self.wait_for(("BIND", "RESET", "REPLACE"), submitted)

    def disassociate(self, server_id, auth, port):
        submitted = self.ask("POST", "/keypairs/disassociate", {"server": {"id": server_id, "auth": auth, "port": port}})
        return self.wait_for(("UNBIND",), submitted)


@pytest.fixture
def provider(served):
    return Provider(served)


def test_a_keypair_resource_from_create_to_destroy(provider):
    # What is not given is sent as "", for the client's type has no other word for it.
    kept = {"encryption": {"type": "default", "kms_key_name": ""}}
    made, read = provider.create_keypair("for runners", name="tf-one", scope="domain", key_protection=kept)
    assert made["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")  # is written into key_file
    assert (read["description"], read["scope"], read["is_key_protection"]) == ("for runners", "domain", True)
    assert provider.read_keypair("tf-one") == read  # refresh: nothing to change
    provider.describe("tf-one", "")
    assert provider.read_keypair("tf-one")["description"] == ""

    # Another encryption: private-key/import of what is kept, and with "" the private key is cleared, then imported again.
    under = {"type": "kms", "kms_key_name": "kps/default"}
    again = {"name": "tf-one", "key_protection": {"private_key": made["private_key"], "encryption": under}}
    assert provider.ask("POST", "/keypairs/private-key/import", {"keypair": again})["keypair"]["name"] == "tf-one"
    provider.ask("DELETE", "/keypairs/tf-one/private-key")
    with pytest.raises(Gone):
        provider.ask("DELETE", "/keypairs/tf-one/private-key")
    assert not provider.read_keypair("tf-one")["is_key_protection"]
    again["key_protection"]["encryption"] = {"type": "default", "kms_key_name": ""}
    provider.ask("POST", "/keypairs/private-key/import", {"keypair": again})
    exported = provider.ask("POST", "/keypairs/private-key/export", {"keypair": {"name": "tf-one"}})
    assert exported["keypair"]["private_key"] == made["private_key"]

    provider.ask("DELETE", "/keypairs/tf-one")
    assert provider.asked[-1][2] == 204
    for method in ("GET", "DELETE"):
        with pytest.raises(Gone):
            provider.ask(method, "/keypairs/tf-one")


def test_a_public_key_is_taken_in_and_a_resource_is_imported(provider):
    public, private = keyfiles.generate("ed25519")
    made, read = provider.create_keypair(name="tf-public", public_key=public.line("me"))
    assert made.get("private_key") is None
    assert read["public_key"].split()[:2] == public.line().split()[:2]
    kept = {
        "private_key": keyfiles.openssh_private("ed25519", private).open().decode(),
        "encryption": {"type": "kms", "kms_key_name": "kps/default"},
    }
    _, read = provider.create_keypair(name="tf-both", public_key=public.line("me"), key_protection=kept)
    assert (read["is_key_protection"], read["scope"]) == (True, "user")
    # terraform import: the name is all that is known.
    assert provider.read_keypair("tf-public")["fingerprint"] == read["fingerprint"]
    with pytest.raises(Gone):
        provider.read_keypair("tf-nobody")


def test_several_at_once_and_the_data_source_that_lists_all(provider):
    line = keyfiles.generate("ed25519")[0].line()
    names = [f"tf-many-{number:03}" for number in range(110)]
    for first in range(0, len(names), 10):
        wanted = [{"keypair": {"name": name, "public_key": line, "type": "ssh"}} for name in names[first : first + 10]]
        answer = provider.ask("POST", "/keypairs/batch-import", wanted)
        assert [each["keypair"]["keypair"]["name"] for each in answer["succeeded_keypairs"]] == names[first : first + 10]
    found = provider.all_keypairs()
    assert [each["name"] for each in found if each["name"] in names] == names
    assert len({each["name"] for each in found}) == len(found)
    assert all(isinstance(each["frozen_state"], str) for each in found)


def test_associate_replace_and_disassociate_are_polled_to_their_ends(provider, served, make_server):
    server = make_server()
    server_id = served.add(server)
    one, _ = provider.create_keypair(name="tf-bind")
    two, _ = provider.create_keypair(name="tf-replace")
    password = {"type": "password", "key": server.root_password}
    assert provider.all_tasks("/running-tasks") == []
    assert provider.associate("tf-bind", server_id, {"type": "password", "key": "not this one"}) == "FAILED_BIND"
    assert provider.associate("tf-bind", server_id, password) == "SUCCESS_BIND"
    assert judge.key_login_works(server, "root", one["private_key"])
    assert provider.associate("tf-replace", server_id, {"type": "keypair", "key": one["private_key"]}) == "SUCCESS_REPLACE"
    assert judge.key_login_works(server, "root", two["private_key"])
    assert not judge.key_login_works(server, "root", one["private_key"])
    auth = {"type": "keypair", "key": two["private_key"]}
    assert provider.disassociate(server_id, auth, server.port) == "SUCCESS_UNBIND"
    assert not judge.key_login_works(server, "root", two["private_key"])

    failed = [each for each in provider.all_tasks("/failed-tasks") if each["server_id"] == server_id]
    assert [(each["operate_type"], each["keypair_name"]) for each in failed] == [("FAILED_BIND", "tf-bind")]
    provider.ask("DELETE", f"/failed-tasks/{failed[0]['task_id']}")
    provider.ask("DELETE", "/failed-tasks")
    assert provider.all_tasks("/failed-tasks") == []


def test_what_is_not_given_comes_as_nothing_in_it():
    assert AnyServer.model_validate({"id": "x", "auth": {}}).way_in is None
    assert Encryption.model_validate({"type": "default", "kms_key_name": "", "kms_key_id": ""}).master_key is None
    with pytest.raises(ValueError, match="type kms goes with"):
        Encryption.model_validate({"type": "kms", "kms_key_name": ""})
