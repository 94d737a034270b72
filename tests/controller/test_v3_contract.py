"""The v3 API on the wire, statement by statement of the public service's reference: key pairs and their private halves."""

import io
import itertools
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import keyfiles
from controller.api.kps import refusals
from controller.model import Secret
from tests.controller.wire import LINE, OTHER_PRIVATE, PRIVATE, PUBLIC, Wire, serve

Json = dict[str, Any]
NUMBERS = itertools.count(1001)  # as many digits for each, so that names keep their order
DEFAULT = {"encryption": {"type": "default"}}
KMS = {"encryption": {"type": "kms", "kms_key_name": "kps/default"}}
NEW = ["name", "type", "public_key", "fingerprint", "user_id"]
LISTED = ["name", "type", "scope", "public_key", "fingerprint", "is_key_protection", "frozen_state"]
MILLISECONDS = 1000


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with serve(tmp_path_factory.mktemp("wire") / "home") as served:
        yield served


def fresh() -> str:
    """A name that no key pair has yet."""
    return f"k{next(NUMBERS)}"


def create(wire: Wire, **fields: Any) -> Json:
    """Make a key pair, or take the usual public key in, and return it."""
    answer = wire.ask("POST", "/keypairs", {"keypair": {"name": fresh(), "public_key": LINE} | fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["keypair"])


def code(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal, whose shape is that of every refusal."""
    told = answer.json()
    assert set(told) == {"error_code", "error_msg"}, told
    assert all(isinstance(each, str) and each for each in told.values())
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
    return answer.status_code, told["error_code"]


# -- what holds for every call


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/keypairs/"), ("DELETE", "/keypairs/"), ("PUT", "/keypairs/"), ("POST", "/keypairs/"),
        ("DELETE", "/keypairs//private-key"), ("GET", "/tasks/"), ("DELETE", "/failed-tasks/"), ("PATCH", "/keypairs/x"),
        ("GET", "/nothing"), ("POST", "/keypairs/tags"), ("GET", "/keypairs/x/tags"),
        ("POST", "/keypairs/resource-instances/filter"), ("GET", "/v3/nobody/keypairs"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_404_and_never_a_redirect(wire: Wire, method: str, path: str) -> None:
    assert code(wire.ask(method, path, {"keypair": {"description": "x"}})) == (404, "APIGW.0101")


@pytest.mark.parametrize("name", ["%7Bkeypair_name%7D", "a%2Fb", "%2e%2e%2fx", "A%00", "%F0%9F%94%91", "x" * 255])
def test_a_name_is_one_segment_as_it_was_sent(wire: Wire, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "/private-key")):
        assert code(wire.ask(method, f"/keypairs/{name}{path}")) == (404, "KPS.4016")


def test_words_of_the_routes_are_names_too(wire: Wire) -> None:
    for name in ("associate", "batch-import", "private-key", "disassociate", "batch-associate"):
        create(wire, name=name)
        assert wire.ask("GET", f"/keypairs/{name}").json()["keypair"]["name"] == name
        assert wire.ask("DELETE", f"/keypairs/{name}").status_code == 204


def test_the_project_is_asked_for_in_words_that_the_sdk_leaves_there(wire: Wire) -> None:
    answer = wire.ask("GET", "/v3/%7Bproject_id%7D/keypairs")
    assert code(answer) == (400, "KPS.0002")
    assert "project id" in answer.json()["error_msg"]
    assert code(wire.ask("GET", f"/v3/{'0' * 32}/keypairs")) == (404, "APIGW.0101")
    assert code(wire.ask("GET", "/keypairs", X_Project_Id="0" * 32)) == (400, "KPS.0002")
    assert wire.ask("GET", "/keypairs", X_Project_Id=wire.made["project_id"]).status_code == 200


@pytest.mark.parametrize("media_type", ["application/json", "application/json;charset=utf-8", "application/json; charset=UTF-8"])
def test_a_media_type_may_have_parameters(wire: Wire, media_type: str) -> None:
    answer = wire.ask("POST", "/keypairs", {"keypair": {"name": fresh(), "public_key": LINE}}, Content_Type=media_type)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert wire.ask("GET", "/keypairs", Content_Type=media_type).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"), (b"{}", "keypair: is missing"), (b"[]", "body: must be an object"), (b"null", "must be an object"),
        (b'{"keypair": {}}', "keypair.name: is missing"), (b'{"keypair": null}', "keypair: is missing"),
        (b'{"keypair": {"name": null}}', "keypair.name: is missing"), (b'{"keypair": {"name": ""}}', "1 to 255"),
        (b'{"keypair": {"name": true}}', "keypair.name: must be text"), (b'{"keypair": {"name": ["x"]}}', "must be text"),
        (b'{"keypair": {"name": "a b"}}', "1 to 255 letters"), (b'{"keypair": {"name": "b\xc3\xbcro"}}', "1 to 255 letters"),
        (b'{"keypair": {"name": "a.b"}}', "1 to 255 letters"), (b'{"keypair": {"name": "a\\n"}}', "1 to 255 letters"),
        (b'{"keypair": {"name": "' + b"x" * 256 + b'"}}', "keypair.name: at most 255 characters"),
        (b'{"keypair": {"name": "\\ud800"}}', "half of a surrogate pair"), (b"\xff", "UTF-8"),
        (b'{"keypair": {"name": "x", "name": "y"}}', "twice"),
        (b'{"keypair": {"name": "x", "scope": "world"}}', "'user' or 'domain'"),
        (b'{"keypair": {"name": "x", "type": "dsa"}}', "keypair.type: must be"),
        (b'{"keypair": {"name": "x", "type": "x509"}}', "Windows"),
        (b'{"keypair": {"name": "x", "public_key": ""}}', "public key"),
        (b'{"keypair": {"name": "x", "public_key": "ssh-rsa AAAA"}}', "public key"),
        (b'{"keypair": {"name": "x", "key_protection": {}}}', "encryption: is missing"),
        (b'{"keypair": {"name": "x", "key_protection": {"encryption": {}}}}', "encryption.type: is missing"),
        (b'{"keypair": {"name": "x", "key_protection": {"encryption": {"type": "aes"}}}}', "'default' or 'kms'"),
        (b'{"keypair": {"name": "x", "key_protection": {"encryption": {"type": "kms"}}}}', "kms_key_name"),
        (b'{"keypair": {"name": "x", "key_protection": {"encryption": {"type": "default", "kms_key_id": "a"}}}}', "neither"),
        (b'{"keypair": {"name": "x", "key_protection": {"encryption": {"type": "kms", "kms_key_id": "a", "kms_key_name": "b"}}}}',
         "one of"),
        (b'{"keypair": {"name": "x", "key_protection": {"private_key": "p", "encryption": {"type": "default"}}}}', "public_key"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_told_where_and_why(wire: Wire, body: bytes, said: str) -> None:
    answer = wire.ask("POST", "/keypairs", raw=body)
    assert code(answer) == (400, "KPS.0002")
    assert said in answer.json()["error_msg"]
    assert code(wire.ask("GET", "/keypairs/x")) == (404, "KPS.4016")


def test_half_a_character_is_no_key(wire: Wire) -> None:
    body = {"keypair": {"name": fresh(), "public_key": LINE, "key_protection": {"private_key": "\ud800"} | DEFAULT}}
    assert code(wire.ask("POST", "/keypairs", body)) == (400, "KPS.0002")
    auth = {"type": "password", "key": "\udfff"}
    body = {"keypair_name": "x", "server": {"id": wire.server("halves").id, "auth": auth}}
    assert code(wire.ask("POST", "/keypairs/associate", body)) == (400, "KPS.0002")


# -- create


def test_a_key_pair_is_made_or_taken_in_as_its_fields_say(wire: Wire) -> None:
    """public_key, key_protection, private_key: each way to combine them has one outcome."""
    pair = {"private_key": PRIVATE}
    shown = []
    for given in ({}, {"key_protection": DEFAULT}, {"key_protection": KMS}):
        name = fresh()
        answer = wire.ask("POST", "/keypairs", {"keypair": {"name": name} | given})
        made = answer.json()["keypair"]
        assert list(made) == [*NEW, "private_key"]
        assert made["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----\n")
        assert keyfiles.read_private(Secret(made["private_key"]))[0].fingerprint_md5 == made["fingerprint"]
        shown.append(wire.ask("GET", f"/keypairs/{name}").json()["keypair"])
    assert [each["is_key_protection"] for each in shown] == [False, True, True]
    assert [each["algorithm"] for each in shown] == ["SSH_RSA_2048"] * 3
    assert shown[0]["key_id"] is None
    assert shown[1]["key_id"] == shown[2]["key_id"]  # both are kps/default
    for given, is_kept in (({}, False), ({"key_protection": pair | DEFAULT}, True), ({"key_protection": pair | KMS}, True)):
        made = create(wire, **given)
        assert list(made) == NEW  # what was sent is not sent back
        assert (made["type"], made["fingerprint"]) == ("ssh", PUBLIC.fingerprint_md5)
        assert wire.ask("GET", f"/keypairs/{made['name']}").json()["keypair"]["is_key_protection"] is is_kept
    for given, found in (
        ({"key_protection": DEFAULT}, "KPS.0002"),
        ({"key_protection": {"private_key": OTHER_PRIVATE} | DEFAULT}, "KPS.6011"),
    ):
        body = {"keypair": {"name": fresh(), "public_key": LINE} | given}
        assert code(wire.ask("POST", "/keypairs", body)) == (400, found)


def test_a_master_key_is_named_by_name_or_id_and_an_empty_name_is_none(wire: Wire) -> None:
    """There are clients that send every field that they have."""
    made = create(wire, public_key=None, key_protection={"encryption": {"type": "default", "kms_key_name": "", "kms_key_id": ""}})
    key_id = wire.ask("GET", f"/keypairs/{made['name']}").json()["keypair"]["key_id"]
    by_id = {"type": "kms", "kms_key_name": "", "kms_key_id": key_id}
    made = create(wire, key_protection={"private_key": PRIVATE, "encryption": by_id})
    assert wire.ask("GET", f"/keypairs/{made['name']}").json()["keypair"]["key_id"] == key_id
    for named in ({"kms_key_name": "none-such"}, {"kms_key_id": "none-such"}):
        body = {"keypair": {"name": fresh(), "key_protection": {"encryption": {"type": "kms"} | named}}}
        assert code(wire.ask("POST", "/keypairs", body)) == (400, "KPS.6008")


@pytest.mark.parametrize(
    "fields", [{}, {"user_id": None}, {"user_id": ""}, {"type": None, "scope": None}, {"of a newer client": 1}]
)
def test_what_is_null_or_not_known_counts_as_absent(wire: Wire, fields: Json) -> None:
    assert create(wire, **fields)["user_id"] == wire.made["user_id"]


def test_whoever_asks_is_the_owner(wire: Wire) -> None:
    assert create(wire, user_id=wire.made["user_id"])["user_id"] == wire.made["user_id"]
    body = {"keypair": {"name": fresh(), "user_id": "0" * 32}}
    assert code(wire.ask("POST", "/keypairs", body)) == (400, "KPS.0006")
    body = {"keypair": {"name": create(wire)["name"], "user_id": "0" * 32, "key_protection": {"private_key": PRIVATE} | DEFAULT}}
    assert code(wire.ask("POST", "/keypairs/private-key/import", body)) == (400, "KPS.0006")
    assert code(wire.ask("POST", "/keypairs/private-key/export", {"keypair": {"name": body["keypair"]["name"]}}))[1] == "KPS.6005"


def test_names_are_told_apart_by_case_and_come_once_in_both_scopes(wire: Wire) -> None:
    name = create(wire)["name"]
    create(wire, name=name.upper())
    for scope in ("user", "domain"):
        answer = wire.ask("POST", "/keypairs", {"keypair": {"name": name, "public_key": LINE, "scope": scope}})
        assert code(answer) == (409, "KPS.0002")
        assert name in answer.json()["error_msg"]
    for longest in ("x" * 64, "_-" * 127 + "y"):
        assert create(wire, name=longest)["name"] == longest
    assert create(wire, name=4711)["name"] == "4711"


@pytest.mark.parametrize("comment", ["", " me@laptop", ' it\'s a "test" \\ # $(x)', " b\u00fcro  two"])
@pytest.mark.parametrize("protection", [{}, {"key_protection": {"private_key": PRIVATE} | DEFAULT}])
def test_a_public_key_is_shown_as_it_was_given(wire: Wire, comment: str, protection: Json) -> None:
    """Terraform compares the two, and makes the key pair anew where they differ."""
    made = create(wire, public_key=LINE + comment, **protection)
    assert made["public_key"] == LINE + comment
    assert wire.ask("GET", f"/keypairs/{made['name']}").json()["keypair"]["public_key"] == LINE + comment
    # On servers it has the name of the key pair: in a comment people write anything.
    kept = wire.do(lambda: wire.fleet.keypairs.get(wire.owner, made["name"]))
    assert kept.line == f"{LINE} {made['name']}"


@pytest.mark.parametrize("key_type", ["ed25519", "ecdsa-nistp256", "ecdsa-nistp384", "ecdsa-nistp521", "rsa-3072"])
def test_keys_that_can_be_taken_in(wire: Wire, key_type: Any) -> None:
    public, stored = keyfiles.generate(key_type)
    text = keyfiles.openssh_private(key_type, stored).open().decode()
    made = create(wire, public_key=public.line(), key_protection={"private_key": text} | DEFAULT)
    shown = wire.ask("GET", f"/keypairs/{made['name']}").json()["keypair"]
    assert shown["algorithm"] == "SSH_" + key_type.upper().replace("-", "_")
    out = wire.ask("POST", "/keypairs/private-key/export", {"keypair": {"name": made["name"]}}).json()["keypair"]
    assert keyfiles.read_private(Secret(out["private_key"]))[1] == stored
    begins = {"ed25519": "OPENSSH", "rsa-3072": "RSA"}.get(key_type, "EC")
    assert out["private_key"].startswith(f"-----BEGIN {begins} PRIVATE KEY-----\n")


# -- shown


def test_a_detail_has_every_field_in_its_type(wire: Wire) -> None:
    made = create(wire, scope="domain", key_protection={"private_key": PRIVATE} | DEFAULT)
    shown = wire.ask("GET", f"/keypairs/{made['name']}").json()["keypair"]
    types = {name: type(value).__name__ for name, value in shown.items()}
    assert types == dict.fromkeys(LISTED, "str") | {
        "is_key_protection": "bool", "id": "int", "deleted": "bool", "description": "str", "user_id": "str", "create_time": "int",
        "delete_time": "NoneType", "update_time": "NoneType", "frozen_state": "int", "key_id": "str", "algorithm": "str",
    }  # fmt: skip
    assert abs(shown["create_time"] / MILLISECONDS - time.time()) < 600
    assert re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){15}", shown["fingerprint"])
    assert (shown["scope"], shown["description"], shown["deleted"], shown["frozen_state"]) == ("domain", "", False, 0)


def test_a_list_is_of_wrapped_elements_and_its_frozen_state_is_text(wire: Wire) -> None:
    name = create(wire)["name"]
    answer = wire.ask("GET", "/keypairs?limit=1000").json()
    assert list(answer) == ["keypairs", "page_info"]
    (found,) = (each["keypair"] for each in answer["keypairs"] if each["keypair"]["name"] == name)
    assert list(found) == LISTED
    assert (found["frozen_state"], found["is_key_protection"]) == ("0", False)


def test_pages_follow_each_other_by_name_and_the_last_says_so(wire: Wire) -> None:
    names = sorted(f"page-{letter}" for letter in "AZaz09")
    for name in names:
        create(wire, name=name)
    # What sorts before "page-" as these do, and nothing else after it up to "page-~".
    seen, marker = [], "page-"
    while True:
        page = wire.ask("GET", f"/keypairs?limit=2&marker={marker}").json()
        found = [each["keypair"]["name"] for each in page["keypairs"]]
        info = page["page_info"]
        assert info["current_count"] == len(found) <= 2
        assert info["previous_marker"] == found[0]
        seen += found
        if not info.get("next_marker"):
            break
        assert info["next_marker"] == found[-1]
        marker = info["next_marker"]
    assert [name for name in seen if name.startswith("page-")] == names
    beyond = wire.ask("GET", "/keypairs?marker=zzzz").json()
    assert beyond == {"keypairs": [], "page_info": {"current_count": 0}}
    assert wire.ask("GET", "/keypairs?marker=page-B&limit=1").json()["keypairs"][0]["keypair"]["name"] == "page-Z"


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=1001", "limit=x", "limit=", "limit=1.5", "marker=" + "x" * 256])
def test_a_page_that_cannot_be_is_refused(wire: Wire, query: str) -> None:
    answer = wire.ask("GET", f"/keypairs?{query}")
    assert code(answer) == (400, "KPS.0002")
    assert answer.json()["error_msg"].startswith(query.partition("=")[0] + ":")


def test_a_description_comes_and_goes(wire: Wire) -> None:
    path = f"/keypairs/{create(wire)['name']}"
    for text in ("runners in hall 2", "Büro ☕", "x" * 255, ""):
        answer = wire.ask("PUT", path, {"keypair": {"description": text}})
        assert (answer.status_code, answer.json()) == (200, {})
        shown = wire.ask("GET", path).json()["keypair"]
        assert shown["description"] == text
        assert shown["update_time"] >= shown["create_time"]
    for wrong in ({}, {"description": None}, {"description": "x" * 256}, {"description": "two\nlines"}, {"description": True}):
        assert code(wire.ask("PUT", path, {"keypair": wrong})) == (400, "KPS.0002")
    assert code(wire.ask("PUT", "/keypairs/none", {"keypair": {"description": "x"}})) == (404, "KPS.4016")


def test_deleting_says_nothing_and_is_done_once(wire: Wire) -> None:
    path = f"/keypairs/{create(wire)['name']}"
    answer = wire.ask("DELETE", path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert code(wire.ask("DELETE", path)) == (404, "KPS.4016")


# -- several at once


def test_a_batch_tells_what_was_taken_in_and_what_was_not(wire: Wire) -> None:
    names = [fresh() for _ in range(3)]
    batch = [
        {"keypair": {"name": names[0], "public_key": LINE, "scope": "domain", "user_id": None}},
        {"keypair": {"name": "h 2", "public_key": "not a key"}},
        {"keypair": {"name": names[1], "key_protection": DEFAULT}},
        {"keypair": {"name": names[0], "public_key": LINE}},
        {"keypair": {"name": 12, "public_key": "not a key"}},
        {"keypair": {"name": names[2], "type": "x509"}},
        {"keypair": {}},
        7,
        None,
    ]
    answer = wire.ask("POST", "/keypairs/batch-import", batch)
    assert answer.status_code == 200
    told = answer.json()
    assert list(told) == ["succeeded_keypairs", "failed_keypairs"]
    for each in told["succeeded_keypairs"]:
        (outer,) = each.values()
        # Clients of one kind read the outer level, those of the other the inner one.
        assert outer["keypair"] == {name: value for name, value in outer.items() if name != "keypair"}
    assert [each["keypair"]["name"] for each in told["succeeded_keypairs"]] == names[:2]
    assert ["private_key" in each["keypair"] for each in told["succeeded_keypairs"]] == [False, True]
    assert [each["keypair_name"] for each in told["failed_keypairs"]] == ["h 2", names[0], "12", names[2], "", "", ""]
    assert all(each["failed_reason"] for each in told["failed_keypairs"])


@pytest.mark.parametrize("path", ["batch-import", "private-key/batch-export"])
@pytest.mark.parametrize("body", [[], [{"keypair": {"name": "x"}}] * 11, {}, {"keypair": {"name": "x"}}, "x"])
def test_a_batch_is_a_list_of_one_to_ten(wire: Wire, path: str, body: Any) -> None:
    assert code(wire.ask("POST", f"/keypairs/{path}", body)) == (400, "KPS.0002")


def test_what_a_batch_refuses_is_on_record_as_if_asked_for_alone(wire: Wire) -> None:
    name = create(wire)["name"]
    wire.ask("POST", "/keypairs/batch-import", [{"keypair": {"name": name, "public_key": LINE}}])
    events = wire.do(lambda: wire.fleet.audit.events(wire.owner, kinds=["request_refused"], limit=1))
    assert events[0].detail["code"] == "keypair_exists"
    assert events[0].detail["request"].endswith("/keypairs/batch-import")


# -- private halves


def keep(wire: Wire, name: str, private_key: str = PRIVATE, **encryption: str) -> Any:
    protection = {"private_key": private_key, "encryption": encryption or {"type": "default"}}
    return wire.ask("POST", "/keypairs/private-key/import", {"keypair": {"name": name, "key_protection": protection}})


def export(wire: Wire, name: str, **more: Any) -> Any:
    return wire.ask("POST", "/keypairs/private-key/export", {"keypair": {"name": name} | more})


def test_a_private_half_is_taken_in_given_out_and_cleared(wire: Wire) -> None:
    name = create(wire)["name"]
    assert code(export(wire, name)) == (400, "KPS.6005")
    assert code(wire.ask("DELETE", f"/keypairs/{name}/private-key")) == (404, "KPS.4016")
    assert code(keep(wire, name, OTHER_PRIVATE)) == (400, "KPS.6011")
    assert code(keep(wire, name, "nothing")) == (400, "KPS.0002")
    assert code(keep(wire, name, type="kms", kms_key_name="none-such")) == (400, "KPS.6008")
    assert code(keep(wire, "none-such")) == (404, "KPS.4016")
    for _ in range(2):  # again is no error
        answer = keep(wire, name)
        assert (answer.status_code, answer.json()) == (200, {"keypair": {"name": name}})
    for more in ({}, {"private_key": "of an older client"}):
        answer = export(wire, name, **more)
        assert list(answer.json()["keypair"]) == ["name", "private_key"]
        assert keyfiles.read_private(Secret(answer.json()["keypair"]["private_key"]))[0].blob == PUBLIC.blob
        assert "no-store" in answer.headers["Cache-Control"]
    assert code(export(wire, "none-such")) == (404, "KPS.4016")
    cleared = wire.ask("DELETE", f"/keypairs/{name}/private-key")
    assert (cleared.status_code, cleared.json()) == (200, {})
    assert code(export(wire, name)) == (400, "KPS.6005")
    assert code(wire.ask("DELETE", "/keypairs/none-such/private-key")) == (404, "KPS.4016")


def test_taken_in_again_a_private_half_goes_under_the_master_key_that_is_named(wire: Wire) -> None:
    name = create(wire, key_protection={"private_key": PRIVATE} | DEFAULT)["name"]
    path = f"/keypairs/{name}"
    before = wire.ask("GET", path).json()["keypair"]["key_id"]
    wire.do(lambda: wire.fleet.kms.keys.create(wire.owner, "payments"))
    assert keep(wire, name, type="kms", kms_key_name="payments").status_code == 200
    after = wire.ask("GET", path).json()["keypair"]["key_id"]
    assert after not in (None, before)
    assert export(wire, name).status_code == 200
    wire.do(lambda: wire.fleet.kms.keys.disable(wire.owner, "payments"))
    assert code(export(wire, name)) == (400, "KPS.6008")
    assert code(wire.ask("POST", "/keypairs/private-key/batch-export", [{"keypair": {"name": name}}])) == (400, "KPS.6008")


@pytest.mark.parametrize("missing", ["name", "key_protection", "private_key", "encryption"])
def test_what_an_import_of_a_private_half_needs(wire: Wire, missing: str) -> None:
    protection: Json = {"private_key": PRIVATE} | DEFAULT
    keypair = {"name": "x", "key_protection": protection}
    for each in (keypair, protection):
        each.pop(missing, None)
    answer = wire.ask("POST", "/keypairs/private-key/import", {"keypair": keypair})
    assert code(answer) == (400, "KPS.0002")
    assert f"{missing}: is missing" in answer.json()["error_msg"]


def test_a_zip_archive_holds_one_file_for_each_name(wire: Wire) -> None:
    names = [create(wire, key_protection={"private_key": PRIVATE} | DEFAULT)["name"] for _ in range(3)]
    # Whatever else a client sends of a key pair, null too.
    batch = [{"keypair": {"name": name, "type": "ssh", "scope": None, "frozen_state": "0"}} for name in names]
    answer = wire.ask("POST", "/keypairs/private-key/batch-export", batch)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    assert answer.headers["Content-Disposition"] == "attachment; filename=keypairs.zip"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.namelist() == [f"{name}.pem" for name in names]
        assert packed.testzip() is None
        for name in names:
            assert keyfiles.read_private(Secret(packed.read(f"{name}.pem")))[0].blob == PUBLIC.blob
    one, bare = names[0], create(wire)["name"]
    for wanted, found in (
        ([one, one], (400, "KPS.0002")), ([one, bare], (400, "KPS.6005")), ([one, "none-such"], (404, "KPS.4016")),
    ):  # fmt: skip
        assert (
            code(wire.ask("POST", "/keypairs/private-key/batch-export", [{"keypair": {"name": each}} for each in wanted]))
            == found
        )
    assert code(wire.ask("POST", "/keypairs/private-key/batch-export", [{"keypair": {}}])) == (400, "KPS.0002")


def test_no_private_half_that_was_sent_comes_back_with_a_refusal(wire: Wire) -> None:
    secret = "correct horse battery staple"
    bodies = [
        ("/keypairs", {"keypair": {"name": "x", "public_key": LINE, "key_protection": {"private_key": secret} | DEFAULT}}),
        ("/keypairs", {"keypair": {"name": "x", "public_key": secret}}),
        ("/keypairs/private-key/import", {"keypair": {"name": secret, "key_protection": {"private_key": secret}}}),
        ("/keypairs/associate", {"keypair_name": "x", "server": {"id": "x", "auth": {"type": secret, "key": secret}}}),
        ("/keypairs/associate", {"keypair_name": "x", "server": {"id": "x", "auth": {"key": secret}}}),
        (
            "/keypairs/batch-import",
            [{"keypair": {"name": "x", "public_key": LINE, "key_protection": {"private_key": secret} | KMS}}],
        ),
    ]
    for path, body in bodies:
        answer = wire.ask("POST", path, body)
        assert secret not in answer.text, json.dumps(body)


def test_every_problem_with_a_code_of_its_own_is_one_that_there_is() -> None:
    package = Path(refusals.__file__).parents[2]
    code = "".join(path.read_text() for path in package.rglob("*.py") if path != Path(refusals.__file__))
    assert [each for each in refusals._BY_CODE if f'"{each}"' not in code] == []
