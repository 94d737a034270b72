"""Every hazard that we know of has a test that is marked with it: `@pytest.mark.hazard("H1")`, and is about nothing else.

H: authorized_keys and keys; S: sshd_config.
"""

import ast
import functools
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
HAZARDS = {
    "H1": "a line that is appended to a file without a final newline joins two keys",
    "H2": "a key stands there several times, or in another spelling",
    "H3": "a key stands in authorized_keys2, a second file, another login's, or comes from a command or a certificate authority",
    "H4": "open sessions outlive the key by which they were opened",
    "H5": "a line that sshd does not take counts as bound",
    "H6": "line ends, comments or encodings of others are made uniform",
    "H7": "another idea of what a line is makes hidden text a key",
    "H8": "a name or comment from outside brings a line of its own along",
    "H9": "options are lost, or change their order, on a replace",
    "H10": "a client offers more keys than MaxAuthTries allows",
    "H11": "a line with options that an old sshd does not know is dead",
    "H12": "a key is revoked, or the list of revoked keys is missing, and so every key is",
    "H13": "sshd reads no authorized_keys file at all",
    "H14": "OpenSSH 9.8 and later turn away an address from which logins failed",
    "H15": "keys of an agent, or the operator's own configuration of ssh, come into play",
    "S1": "a drop-in, a Match or keyboard-interactive keeps passwords in",
    "S2": "a setting lands in somebody's Match",
    "S3": "AuthenticationMethods needs a method that is switched off",
    "S4": "a reload puts somebody else's pending edit into force",
    "S5": "UsePAM, or anything else, changes along",
    "S6": "a keyword that this version does not know",
    "S7": "a vendor's configuration is hidden by a new main file",
    "S8": "NUL, byte order mark, or a carriage return within a line",
    "S9": "a file that is read at each login is half written",
    "S10": "an Include takes up a temporary file",
}


@functools.cache
def marked() -> dict[str, list[str]]:
    """Hazard to the tests that are marked with it, from their source."""
    found = defaultdict(list)
    for path in sorted(ROOT.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for decorator in node.decorator_list if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ():
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.hazard":
                    for row in map(ast.literal_eval, decorator.args):
                        found[row].append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


@pytest.mark.parametrize("row", HAZARDS)
def test_every_hazard_has_its_test(row):
    assert marked()[row], HAZARDS[row]


def test_no_test_is_marked_with_a_hazard_that_is_none():
    assert set(marked()) <= set(HAZARDS)
