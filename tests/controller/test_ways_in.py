"""Who would be left without a way in: the whole table, judged by the rule said in another way."""

import itertools

import pytest

from controller.errors import Conflict
from controller.model import BoundKey, PasswordLogin
from controller.service import ways_in

PROOFS = ("logged_in", "accepted", "not_applicable")
PASSWORDS: tuple[PasswordLogin, ...] = ("on", "off", "unknown")
# What else is bound on the server: where, and to which key pair.
LOGINS = ("root", "deploy", "another")
OTHERS = [None, *itertools.product(LOGINS, ("kept", "lost", "lost too"), PROOFS, (True, False), (True, False))]
CASES = list(itertools.product(("root", "deploy"), PROOFS, (True, False), PASSWORDS, OTHERS))


@pytest.mark.parametrize("login", ["root", "deploy"])
def test_every_case_of_one_binding_and_another_beside_it(login: str) -> None:
    seen = set()
    for at, proof, in_custody, password_login, other in CASES:
        if at != login or (other is not None and other[0] == login):
            continue  # a login has one binding
        bound = [BoundKey("web-1", login, "lost", proof, in_custody, password_login)]
        if other is not None:
            bound.append(BoundKey("web-1", *other[:-1], password_login, opens=other[-1]))
        found = bound[0] in ways_in.only_way_in(bound, {"lost", "lost too"})
        other_helps = other is not None and other == ("root", "kept", other[2], True, True) and other[2] != "not_applicable"
        assert found == (in_custody and password_login != "on" and not other_helps), bound
        seen.add(found)
    assert seen == {True, False}


def test_a_key_pair_that_is_not_asked_about_is_never_named() -> None:
    bound = [BoundKey("web-1", "deploy", "kept", "logged_in", True, "off")]
    assert ways_in.only_way_in(bound, {"lost"}) == []
    assert ways_in.only_way_in(bound, set()) == []


def test_root_of_another_server_helps_nobody() -> None:
    lost = BoundKey("web-1", "deploy", "lost", "logged_in", True, "off")
    root = BoundKey("web-2", "root", "kept", "logged_in", True, "off")
    assert ways_in.only_way_in([lost, root], {"lost"}) == [lost]


def test_several_lost_at_once_do_not_vouch_for_each_other() -> None:
    deploy = BoundKey("web-1", "deploy", "one", "logged_in", True, "off")
    root = BoundKey("web-1", "root", "two", "logged_in", True, "off")
    assert ways_in.only_way_in([deploy, root], {"one"}) == []
    assert ways_in.only_way_in([deploy, root], {"two"}) == [root]
    assert ways_in.only_way_in([deploy, root], {"one", "two"}) == [deploy, root]


def test_a_refusal_names_servers_and_logins() -> None:
    left_out = [BoundKey(f"web-{n}", "root", "lost", "logged_in", True, "off") for n in range(10, 22)]
    with pytest.raises(Conflict) as refused:
        ways_in.refuse(left_out, "clearing ops")
    assert refused.value.code == "only_way_in"
    assert "root@web-10" in refused.value.message
    assert "and 2 more" in refused.value.message
    assert refused.value.evidence["logins"][0] == {"server": "web-10", "login": "root"}
    ways_in.refuse([], "clearing ops")
