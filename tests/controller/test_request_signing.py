"""A request is let in when it is signed as it must be; each of the three worked vectors, and whatever else somebody sends."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import signing
from controller.model import Secret
from controller.signing import Claim, NotSigned, Request, claimed, sign, verify

ACCESS_KEY, SECRET_KEY = "KPSDEMOACCESSKEY0001", "demo-secret-key-for-test-vectors-only-01"
PROJECT = b"9f86d081884c4d63a1b2c3d4e5f60718"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
USUAL = [
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"demo-client/1.0"),
    (b"X-Project-Id", PROJECT),
    (b"Host", b"127.0.0.1:8443"),
]
VECTORS = {
    "a body": (
        Request(
            "POST",
            b"/v3/" + PROJECT + b"/keypairs",
            b"",
            [(b"Content-Type", b"application/json;charset=utf-8"), *USUAL[1:]],
            b'{"keypair": {"name": "demo-key_1"}}',
        ),
        "c4fef15c33b0f8d0c21f3997a9dade8feed2c497e5a69499124b95b2ef33589e",
    ),
    "a query and a security token": (
        Request(
            "GET",
            b"/v3/" + PROJECT + b"/keypairs",
            b"marker=a%20b%2Fc%2Bd~e&limit=2",
            [*USUAL, (b"X-Security-Token", b"TESTTOKEN==")],
            b"",
        ),
        "fb0d27db0d77088e89917ed8b23f5a004efe36306f59599caaed74ccc17e1354",
    ),
    "an escaped slash in the path": (
        Request(
            "DELETE",
            b"/v1.0/" + PROJECT + b"/kms/0d0466b0-e727-4d9c-b35d-f84bb474a37f/tags/dept%2Fx%20y",
            b"",
            USUAL,
            b"",
        ),
        "26358df93caa2a21e88629d35c1e7ae34446cb771c51e0be2934e9d78487c055",
    ),
}


def signed(request: Request, secret_key: str = SECRET_KEY, at: datetime = AT) -> Request:
    return replace(request, headers=[*request.headers, *sign(request, ACCESS_KEY, Secret(secret_key), at)])


def let_in(request: Request, now: datetime = AT) -> Claim:
    claim = claimed(request, now)
    verify(request, claim, Secret(SECRET_KEY))
    return claim


def reason(request: Request, now: datetime = AT) -> str:
    with pytest.raises(NotSigned) as refused:
        let_in(request, now)
    return refused.value.reason


def with_header(request: Request, name: bytes, value: bytes | None) -> Request:
    kept = [(each, old) for each, old in request.headers if each.lower() != name.lower()]
    return replace(request, headers=kept if value is None else [*kept, (name, value)])


@pytest.mark.parametrize("name", VECTORS)
def test_the_worked_vectors_have_the_signatures_that_were_published_for_them(name: str) -> None:
    request, signature = VECTORS[name]
    claim = let_in(signed(request))
    assert claim.signature == signature
    assert claim.access_key == ACCESS_KEY


BASE = signed(VECTORS["a body"][0])


def test_neither_host_nor_project_has_to_be_signed() -> None:
    bare = Request("GET", b"/v3/x/keypairs", b"", [(b"Accept", b"*/*")], b"")
    arrived = replace(signed(bare), headers=[*signed(bare).headers, (b"Host", b"kps"), (b"X-Project-Id", PROJECT)])
    assert let_in(arrived).signed == ("accept", "x-sdk-date")


def test_the_same_request_may_come_twice() -> None:
    assert let_in(BASE) == let_in(BASE, AT + timedelta(minutes=14))


@pytest.mark.parametrize("path", [b"/v3/x/keypairs", b"/v3/x/keypairs/"])
def test_a_slash_at_the_end_makes_no_difference(path: bytes) -> None:
    other = replace(signed(Request("GET", b"/v3/x/keypairs", b"", USUAL, b"")), path=path)
    let_in(other)


@pytest.mark.parametrize("minutes", [-16, 16, 60 * 24])
def test_a_date_that_is_too_far_off_is_refused(minutes: int) -> None:
    assert reason(BASE, AT + timedelta(minutes=minutes)) == "signature expired"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"X-Sdk-Date", None),
        (b"X-Sdk-Date", b"2026-01-02T03:04:05Z"),
        (b"X-Sdk-Date", b"20261302T030405Z"),
        (b"Authorization", None),
        (b"Authorization", b""),
        (b"Authorization", b"Bearer x"),
        (b"Authorization", b"SDK-HMAC-SHA256 Access=A, SignedHeaders=x-sdk-date, Signature=" + b"A" * 64),
        (b"Authorization", b"SDK-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=" + b"a" * 64),
        (b"Authorization", b"SDK-HMAC-SHA256 Access=A, SignedHeaders=x-sdk-date;x-sdk-date, Signature=" + b"a" * 64),
        (b"Authorization", b"SDK-HMAC-SHA256 Access=" + b"A" * 5000),
    ],
)
def test_a_form_that_is_not_as_it_must_be_is_told(name: bytes, value: bytes | None) -> None:
    assert reason(with_header(BASE, name, value)) not in (signing.WRONG, "signature expired")


@pytest.mark.parametrize("word", ["SDK-HMAC-SM3", "SDK-ECDSA-P256-SHA256", "SDK-SM2-SM3", "V11-HMAC-SHA256"])
def test_another_algorithm_is_refused_by_its_name(word: str) -> None:
    authorization = f"{word} Access=A, SignedHeaders=x-sdk-date, Signature=00".encode()
    assert reason(with_header(BASE, b"Authorization", authorization)) == f"{word} is not supported, use SDK-HMAC-SHA256"


def test_two_authorizations_or_dates_are_one_too_many() -> None:
    for name in (b"Authorization", b"X-Sdk-Date"):
        again = [(each, value) for each, value in BASE.headers if each == name]
        assert reason(replace(BASE, headers=[*BASE.headers, *again])) != signing.WRONG


@pytest.mark.parametrize("hashed", [b"UNSIGNED-PAYLOAD", b"0" * 64, b""])
def test_a_hash_of_the_body_that_is_said_and_not_its_own_is_refused(hashed: bytes) -> None:
    said = replace(VECTORS["a body"][0], headers=[*VECTORS["a body"][0].headers, (b"X-Sdk-Content-Sha256", hashed)])
    with pytest.raises(NotSigned, match=signing.WRONG):
        signed(said)
    # Whoever signs it nevertheless, by rules of their own.
    forged = with_header(BASE, b"X-Sdk-Content-Sha256", hashed)
    assert reason(forged) == signing.WRONG


UNTOUCHED = (b"Authorization", b"X-Sdk-Date", b"Content-Length")


def mutated(random: random.Random) -> Request:
    """Return a signed request of which something that is signed was changed afterwards."""
    return mutated_from(BASE if random.random() < 0.5 else signed(VECTORS["a query and a security token"][0]), random)


def mutated_from(request: Request, random: random.Random) -> Request:
    """Return a signed request, with User-Agent among what is signed, of which something that is signed was changed afterwards."""
    kind = random.choice(["method", "path", "query", "body", "header", "header gone", "header twice", "signature", "key", "list"])
    authorization = next(value for name, value in request.headers if name == b"Authorization")
    if kind == "method":
        return replace(request, method=random.choice(sorted({"GET", "PUT", "DELETE", "PATCH", "POST"} - {request.method})))
    if kind in ("path", "query", "body"):
        text = bytearray(getattr(request, kind))
        place = random.randrange(len(text) + 1)
        # Letters, so that it is not another spelling of the same.
        text[place : place + random.randrange(2)] = bytes([random.choice(b"abcxyzABC019")])
        if bytes(text) == getattr(request, kind):
            text += b"z"
        return replace(request, **{kind: bytes(text)})
    if kind in ("header", "header gone", "header twice"):
        name, value = random.choice([each for each in request.headers if each[0] not in UNTOUCHED])
        if kind == "header gone":
            return with_header(request, name, None)
        if kind == "header twice":
            return replace(request, headers=[*request.headers, (name, b"x")])
        return with_header(request, name, value + b"x")
    if kind == "signature":
        place = random.randrange(64)
        digit = random.choice(sorted(set("0123456789abcdef") - {chr(authorization[len(authorization) - 64 + place])}))
        changed = (
            authorization[: len(authorization) - 64 + place] + digit.encode() + authorization[len(authorization) - 63 + place :]
        )
        return with_header(request, b"Authorization", changed)
    if kind == "key":
        bare = replace(request, headers=[each for each in request.headers if each[0] not in UNTOUCHED])
        (date,) = request.values("x-sdk-date")
        at = datetime.strptime(date.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        anew = sign(bare, claimed(request, at).access_key, Secret("another"), at)
        return replace(bare, headers=[*bare.headers, *anew])
    return with_header(request, b"Authorization", authorization.replace(b";user-agent", b""))


def test_a_thousand_changed_requests_are_refused_and_not_told_what_was_wrong() -> None:
    chance = random.Random(1)
    for _ in range(1000):
        changed = mutated(chance)
        assert reason(changed) == signing.WRONG, changed


names = st.text(alphabet="abcXYZ019-_.~ /+%&=?ä", max_size=8)


@given(
    segments=st.lists(names, max_size=4),
    query=st.lists(st.tuples(names, names), max_size=4),
    body=st.binary(max_size=20),
    value=st.text(alphabet="ab c;,\t=ü", max_size=8),
)
def test_what_is_signed_is_let_in(segments: list[str], query: list[tuple[str, str]], body: bytes, value: str) -> None:
    from urllib.parse import quote

    path = "/" + "/".join(quote(each, safe="") for each in segments)
    raw = "&".join(f"{quote(name, safe='')}={quote(each, safe='')}" for name, each in query if name)
    request = Request("PUT", path.encode(), raw.encode(), [(b"Host", b"h"), (b"X-Thing", value.encode())], body)
    let_in(signed(request))
    if value.strip():
        with pytest.raises(NotSigned):
            let_in(with_header(signed(request), b"X-Thing", value.encode() + b"z"))
