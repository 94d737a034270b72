"""A secret says nothing."""

import copy
import json
import logging
import pickle
import traceback
from dataclasses import asdict

import pytest

from controller.errors import Damaged, Problem
from controller.model import KEY_TYPES, Credential, MasterKeyVersion, Sealed, Secret, now

WORD = "correct horse battery staple"


def test_a_secret_opens() -> None:
    assert Secret(WORD).open() == WORD.encode()
    assert bytes(Secret(WORD).view()) == WORD.encode()
    assert Secret("\udcff").open() == b"\xff"
    assert len(Secret(WORD)) == len(WORD)


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret(WORD)
    credential = Credential(password=secret, identity=Secret(WORD), passphrase=Secret(WORD))
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>99}", f"{secret:>99}", "{}".format(secret)]  # noqa: UP032
    shown += [repr([secret]), repr(credential), str({"password": secret})]
    assert "correct" not in "".join(shown)
    assert not hasattr(secret, "__dict__")


def test_a_secret_does_not_show_itself_in_a_traceback_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(WORD)
    try:
        raise Problem("code", "a sentence", secret=secret)
    except Problem as problem:
        shown = "".join(traceback.TracebackException.from_exception(problem, capture_locals=True).format())
        logging.getLogger("kps").exception("failed with %s %r", secret, problem.evidence)
    assert "correct" not in shown + caplog.text
    assert "Secret(...)" in shown


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps])
def test_a_secret_cannot_be_pickled_copied_or_made_json(leave: object) -> None:
    assert callable(leave)
    with pytest.raises(TypeError):
        leave(Secret(WORD))
    if leave is not copy.copy:  # a shallow copy holds the same secret
        with pytest.raises(TypeError):
            leave(Credential(password=Secret(WORD)))


def test_a_credential_cannot_be_taken_apart_into_a_dict() -> None:
    with pytest.raises(TypeError):
        asdict(Credential(password=Secret(WORD)))


def test_secrets_are_compared_by_value_and_only_with_secrets() -> None:
    assert Secret(WORD) == Secret(WORD.encode())
    assert Secret(WORD) != Secret(WORD + ".")
    assert Secret(WORD) != WORD.encode()
    with pytest.raises(TypeError):
        hash(Secret(WORD))


def test_a_wiped_secret_is_gone_from_what_it_took_over() -> None:
    value = bytearray(WORD.encode())
    secret = Secret(value)
    view = secret.view()
    secret.wipe()
    assert value == secret.open() == bytes(view) == bytes(len(WORD))
    with pytest.raises(TypeError):
        view[0] = 1


def test_wrapped_keys_and_sealed_records_are_not_shown() -> None:
    version = MasterKeyVersion("id", "tenant", 1, b"wrapped bytes", "check", now(), b"sealed bytes")
    assert "sealed bytes" not in repr(version)
    assert "wrapped bytes" not in repr(version) + repr(Sealed(b"wrapped bytes"))


def test_problems_say_what_to_answer() -> None:
    problem = Damaged("record_unreadable", "a sentence", record="x")
    assert (problem.code, problem.message, str(problem)) == ("record_unreadable", "a sentence", "a sentence")
    assert (problem.status, problem.evidence) == (500, {"record": "x"})


def test_there_are_seven_key_types() -> None:
    assert len(set(KEY_TYPES)) == 7
