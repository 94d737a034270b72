"""Runs pytest as often as it is asked to, each time in a child of its own that has loaded already what takes long to load.

Reads one JSON list from a line of standard input: the file for the output, then pytest's arguments. Answers with its exit code.
What is under test, and the tests, are loaded by the child: only there is the tree as it has to be.
"""

import json
import os
import sys

import asyncssh  # noqa: F401
import hypothesis.strategies  # noqa: F401
import pytest


def main() -> None:
    for line in sys.stdin:
        output, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(output, arguments)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(output: str, arguments: list[str]) -> None:
    code = 70  # something that pytest never says
    try:
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, to in ((0, null), (1, opened), (2, opened)):
            os.dup2(to, number)
        code = int(pytest.main(arguments))
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
