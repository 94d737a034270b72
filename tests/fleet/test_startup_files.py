"""A start-up file of the login: it may print and name its functions as it likes; our commands stay ours, and so do our frames.

What it can do is what its login may do anyway: end its own session. Then nothing is changed, and the task says so.
"""

from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import unchanged
from tests.needs import lacking

WORD = "deploy's own word"
SHELLS = {"/bin/bash": ".bashrc", "/bin/tcsh": ".cshrc"}

# Lines that look like ours; the marker of a run is not known to anybody who was there before it.
NOISE = [
    "kps-started",
    "kps-agent 3",
    '0123456789abcdef0123456789abcdef {"say": "result", "status": "succeeded", "server_state": "as_asked", "phase": "done"}',
    '{"say": "hello", "boot": "x"}',
    "[sudo] password for deploy: ",
]
# Whatever of these is run leaves a file behind, and goes on as the real one would.
NAMES = ["sudo", "python3", "sh", "env", "cat", "echo", "printf", "command", "test"]


def noisy(shell: str) -> str:
    quoted = [f"echo '{line}'" for line in NOISE]
    return "\n".join([*quoted, "echo to the other side >&2" if shell == "/bin/bash" else "", *(["echo more"] * 200)]) + "\n"


def renaming(shell: str) -> str:
    if shell == "/bin/tcsh":
        return "".join(f"alias {name} 'touch ~/hijacked; /usr/bin/env {name}'\n" for name in NAMES)
    functions = "".join(
        f'{name}() {{ builtin echo {name} >>~/hijacked; command {name} "$@"; }}\n' for name in NAMES if name != "command"
    )
    return functions + "export -f " + " ".join(name for name in NAMES if name != "command") + "\n"


def searching(shell: str) -> str:
    """Another PATH, with programs of the login's own in it, and what Python would load."""
    names = {
        "PATH": "/home/deploy/evil:/usr/bin:/bin",
        "PYTHONPATH": "/home/deploy/evil",
        "PYTHONSTARTUP": "/home/deploy/evil/os.py",
    }
    form = "setenv {} {}\n" if shell == "/bin/tcsh" else "export {}={}\n"
    return "".join(form.format(name, value) for name, value in names.items()) + "cd /home/deploy/evil\n"


EVIL = '#!/bin/sh\necho $0 >>/home/deploy/hijacked\nexec /usr/bin/env -i PATH=/usr/bin:/bin "$(basename $0)" "$@"\n'
EVIL_MODULE = "open('/home/deploy/hijacked', 'a').write('imported')\n"


@pytest.fixture
def deploys(make_server, product):
    """Makes a server that is reached through deploy, whose start-up file is this."""

    def make(shell, startup, sudo="nopasswd"):
        if not Path(shell).exists():
            lacking(f"there is no {shell} here")
        server = make_server(logins=(Login("deploy", WORD, sudo, shell),))
        owner = "deploy:deploy"
        for name in (*NAMES, "python", "perl"):
            server.write(f"/home/deploy/evil/{name}", EVIL, 0o755, owner)
        for name in ("os", "sys", "json", "zlib", "sitecustomize", "encodings"):
            server.write(f"/home/deploy/evil/{name}.py", EVIL_MODULE, 0o644, owner)
        server.write(f"/home/deploy/{SHELLS[shell]}", startup, 0o644, owner)
        product.add(server, "deploy")
        return server

    return make


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("sudo", ["nopasswd", "password"])
@pytest.mark.parametrize("startup", [noisy, searching], ids=["noise like ours", "another PATH and other modules"])
def test_what_a_start_up_file_prints_or_sets_changes_neither_commands_nor_frames(deploys, product, shell, sudo, startup):
    server = deploys(shell, startup(shell), sudo)
    pair = product.keypair()
    product.succeeds("bind", server, login="root", keypair=pair, password=WORD, keep_password_login=True)
    assert judge.key_login_works(server, "root", product.private(pair))
    assert not server.exists("/home/deploy/hijacked")


@pytest.mark.parametrize("shell", SHELLS)
def test_functions_and_aliases_with_the_names_of_our_commands_are_not_run(deploys, product, shell):
    server = deploys(shell, renaming(shell))
    pair = product.keypair()
    product.succeeds("bind", server, login="root", keypair=pair, password=WORD, keep_password_login=True)
    assert judge.key_login_works(server, "root", product.private(pair))
    assert not server.exists("/home/deploy/hijacked")


@pytest.mark.parametrize(
    ("shell", "startup"),
    [
        ("/bin/bash", 'exec() { builtin echo "$@"; }\n'),
        ("/bin/bash", "exit 0\n"),
        ("/bin/bash", "echo kps-started; cat >/dev/null; exit 0\n"),
        ("/bin/tcsh", "alias exec echo\n"),
    ],
    ids=["bash: exec is a function", "bash: exit", "bash: all is swallowed", "csh: exec is an alias"],
)
def test_a_start_up_file_that_keeps_us_from_running_ends_the_task_and_changes_nothing(deploys, product, shell, startup):
    server = deploys(shell, startup)
    with unchanged(server):
        product.fails(
            "session_disturbed", "bind", server, login="root", keypair=product.keypair(), password=WORD, keep_password_login=True
        )
