"""The typed client has a verb for each call of the document, which returns what the document says."""

import collections.abc
import inspect
import re
import typing
from typing import Any

from controller import answers
from controller.api.fleet.document import ANSWERS
from controller.client import ANSWER_SECONDS, masterkeys, verbs
from controller.client.call import Call, Flow, Verb
from controller.client.masterkeys import OfKey

NO_VERB = {"GET /events/stream"}  # `events` waits for what happens, and needs no connection kept
# Of these no more is given than what is asked for: one field of an object, or that nothing is wrong.
LESS = {"export_keypair", "decrypt_password", "delete_failed_tasks", "check_servers"}
ALL: dict[str, Verb[Any, Any]] = dict(inspect.getmembers(verbs.Verbs, lambda each: isinstance(each, Verb)))
NAMES = {"a": answers, "Call": Call, "Flow": Flow, "OfKey": OfKey, "Any": Any, "Iterable": collections.abc.Iterable} | {
    "Mapping": collections.abc.Mapping, "Sequence": collections.abc.Sequence, "Literal": typing.Literal, "Json": verbs.Json,
    "Request": masterkeys.Request, "LifeStep": masterkeys.LifeStep,
}  # fmt: skip
# Of verbs that take any text.
STEPS = {
    "change_rollout": ["pause", "resume", "cancel", "retry"],
    "change_policy": ["pause", "resume"],
    "decide_doors": ["approve", "refuse"],
}


def given(verb: str, name: str, annotation: Any) -> list[Any]:
    """Return what a parameter may be given: each of a few words, else something of its type."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if annotation is str:
        return STEPS.get(verb, ["x"]) if name == "step" else ["x"]
    if annotation in (int, bool):
        return [1]
    return [{}] if typing.get_origin(annotation) is collections.abc.Mapping else [["x"]]


def asked(verb: Verb[Any, Any]) -> list[tuple[Call[Any], Any]]:
    """Return the first call that a verb makes, for each way to ask it, with the type of its answer."""
    described = inspect.unwrap(verb)  # type: ignore[arg-type]
    hints = typing.get_type_hints(described, NAMES)
    answer = hints.pop("return")
    answer = typing.get_args(answer)[-1]
    needed = [
        (each.name, hints[each.name])
        for each in list(inspect.signature(described).parameters.values())[1:]
        if each.default is inspect.Parameter.empty
    ]
    ways: list[dict[str, Any]] = [{}]
    for name, annotation in needed:
        ways = [way | {name: value} for way in ways for value in given(described.__name__, name, annotation)]
    return [(next(iter(described(None, **way))), answer) for way in ways]


def called(call: Call[Any]) -> str:
    """Return the name of the document's call that this is."""
    fits = [
        name for name in ANSWERS
        if name.startswith(f"{call.method} ") and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", name.partition(" ")[2]), call.path)
    ]  # fmt: skip
    assert fits, (call.method, call.path)
    return min(fits, key=lambda name: name.count("{"))


def test_each_call_has_a_verb_that_returns_what_the_document_says() -> None:
    found: set[str] = set()
    for name, verb in ALL.items():
        for call, answer in asked(verb):
            which = called(call)
            found.add(which)
            kind = ANSWERS[which].kind
            if name not in LESS:
                assert answer == (type(None) if kind is None else kind), (name, which)
    assert found == ANSWERS.keys() - NO_VERB


def test_whoever_asks_for_passwords_that_are_told_once_waits_longer_for_them_than_for_other_answers() -> None:
    described = inspect.unwrap(ALL["open_doors"])
    assert "timeout" not in described(None, {}).wanted
    assert described(None, {"one_time": True}).wanted["timeout"] >= 5 * ANSWER_SECONDS
