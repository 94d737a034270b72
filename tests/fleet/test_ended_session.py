"""A session that is ended with all that it started, as logind does (logind.conf(5), KillUserProcesses): its agent still undoes.

logind sends SIGTERM to each, and SIGKILL a minute and a half later. Keys have no watchers of their own: the agent's undo is all.
"""

import contextlib
import os
import signal

import pytest

from tests.fleet import judge
from tests.fleet.causes import KEYS, Gate, is_agent
from tests.fleet.looks import until
from tests.fleet.product import Product


@pytest.fixture
def lost(tmp_path):
    """A controller that a test may lose."""
    with Product(tmp_path / "home") as product:
        yield product


@pytest.mark.parametrize("python", [True, False])
def test_a_replace_whose_session_is_ended_is_undone_at_once(make_server, lost, python):
    server = make_server(python=python)
    lost.add(server)
    old, new = lost.keypair(), lost.keypair()
    private = lost.private(old)
    lost.succeeds("bind", server, keypair=old, password=server.root_password, keep_password_login=True)
    before = server.read(KEYS)
    gate = Gate(server, f"! grep -q {old['public_key'].split()[1]} {KEYS}")
    lost.begin("replace", server, keypair=new)
    gate.await_login()

    # The agent first: it must still be there when it hears that nobody is.
    sessions = ("sshd: root@", "sshd-session: root@")
    found = server.processes().items()
    assert any(is_agent(title) for _, title in found)
    for words in (is_agent, lambda title: title.startswith(sessions)):
        for pid in [pid for pid, title in found if words(title)]:
            with contextlib.suppress(ProcessLookupError):  # it has ended with another one
                os.kill(pid, signal.SIGTERM)
    lost.end(signal.SIGKILL)
    until(lambda: not any(map(is_agent, server.processes().values())), what="an agent goes on living")
    assert server.read(KEYS) == before, "the replace is not undone"
    assert server.run(["ls", "/var/lib/kps"]).stdout == "state.json\n", "it is not finished"
    assert judge.key_login_works(server, "root", private)
