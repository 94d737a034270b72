"""OpenSSH's own client with managed keys: kps ssh, kps ssh-config, kps ssh-agent, on real servers, one of them behind others."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from controller.demo.fleet import Login, Spec
from tests.fleet.looks import until
from tests.fleet.product import KPS, SECONDS

MOVED = 2022


@pytest.fixture
def short(product, monkeypatch):
    """A directory with a short path, as a socket needs it; what kps makes for itself is made there too."""
    with tempfile.TemporaryDirectory(prefix="t") as made:
        monkeypatch.setitem(product.environment, "TMPDIR", made)
        yield Path(made)


@pytest.fixture(scope="module")
def three(fleet, product):
    """A jump server, one behind it that is opened as another login, and one behind that whose sshd has moved."""
    deploy = Login("deploy", "s3cret deploy", sudo="nopasswd")
    gate, inner, moved = made = [fleet.add(Spec()), fleet.add(Spec(logins=(deploy,))), fleet.add(Spec())]
    product.add(gate)
    product.add(inner, login="deploy", jump=[gate.name])
    product.add(moved, jump=[inner.name])
    pair, other = product.keypair(), product.keypair(type="rsa-3072")
    product.succeeds("bind", gate, keypair=pair, password=gate.root_password)
    product.succeeds("bind", inner, keypair=other, password="s3cret deploy", keep_password_login=True)
    product.succeeds("bind", moved, keypair=pair, password=moved.root_password)
    moved.write("/etc/default/ssh", f'SSHD_OPTS="-o ListenAddress={moved.host}:{MOVED}"\n')
    moved.stop()
    moved.port = MOVED
    moved.start()
    product.kps("server", "set", moved.name, "--port", str(MOVED))
    yield gate, inner, moved
    for each in made:
        fleet.remove(each)


@contextlib.contextmanager
def another_machine(server, other):
    """Within the block another host key is shown at a server's address."""
    names = ("/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub")
    before = {name: server.read(name) for name in names}
    for name in names:
        server.write(name, other.read(name))
    server.reload()
    yield
    for name in names:
        server.write(name, before[name])
    server.reload()


def openings(product, server):
    """How often the private half of what is bound to a server's own login was given out."""
    keypair = product.server(server)["keypair"]
    found = product.ask("GET", "/audit/events", params={"kind": "keypair_exported", "keypair": keypair})
    return len(found)


def agents(place):
    """The processes that were told of a place."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(place).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_kps_ssh_logs_in_and_hands_on_what_the_command_came_to(product, three, short):
    gate, _inner, moved = three
    before = openings(product, gate)
    trace = short / "trace"
    watch = ["strace", "-f", "-y", "-s", "8192", "-o", trace, "-e", "trace=execve,write,writev,pwrite64,pwritev,sendto,sendmsg"]
    asked = [*watch, KPS, "ssh", moved.name, "--", "cat; hostname; echo $SSH_CONNECTION >&2; exit 7"]
    done = subprocess.run(asked, env=product.environment, input="given\n", capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (7, f"given\n{moved.name}\n")
    assert f"{moved.host} {MOVED}" in done.stderr
    # Two key pairs for three servers: each taken out once, by a pipe, into no file and no word of a command.
    assert openings(product, gate) == before + 1
    lines = [line for line in trace.read_text(errors="replace").splitlines() if "PRIVATE KEY" in line]
    assert [line for line in lines if "ssh-add" not in line]  # so the watch sees what it is there to see
    assert not [line for line in lines if "execve" in line or re.search(r"\(\d+</(?!dev/)", line)], lines
    # Nothing is left: no agent, no file.
    trace.unlink()
    until(lambda: agents(short) == [], what="an ssh-agent goes on")
    assert list(short.iterdir()) == []
    # A signal is a program's end too, and a word that looks like an option is the command's.
    assert product.kps("ssh", gate.name, "--", "kill -9 $$", ends=None).returncode == 255
    assert product.kps("ssh", gate.name, "--", "printf", "%s", "-l").stdout == "-l"


def test_the_agent_ends_with_kps_however_that_ends(product, three, short):
    gate = three[0]
    for how in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            [KPS, "ssh", gate.name, "--", "echo in; cat"],
            env=product.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout.readline() == b"in\n"
        (path,) = short.glob("*/agent")
        process.send_signal(how)
        assert process.wait(SECONDS) == {signal.SIGTERM: 255, signal.SIGKILL: -9}[how]  # ssh says 255
        process.stdin.close()
        process.stdout.close()

        def gone(path=path):
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(path)) != 0

        until(gone, what="an ssh-agent goes on")


def test_ssh_logs_in_to_each_server_by_the_configuration(product, three, short):
    gate, inner, moved = three
    names = [each.name for each in three]
    place = short / "made"
    # What the user's own configuration says does not count, nor what they hold themselves.
    told = product.kps("ssh-config", *names[1:], "--output", str(place)).stdout
    assert told.startswith(f"{place}/config: 3 servers\n")  # the jump server is one of them
    assert not [path for path in place.rglob("*") if path.is_file() and "PRIVATE" in path.read_text()]
    assert place.stat().st_mode & 0o777 == 0o700

    def ssh(name, *words, **more):
        asked = ("ssh-agent", "--from", str(place), "--", "ssh", "-F", str(place / "config"), *words, name, "hostname; id -un")
        return product.kps(*asked, **more)

    for each in three:
        login = "deploy" if each is inner else "root"
        assert ssh(each.name).stdout == f"{each.name}\n{login}\n"
    # Without the agent nobody is let in, and nothing else is tried.
    bare = ["ssh", "-F", place / "config", "-o", "BatchMode=yes", gate.name, "true"]
    done = subprocess.run(bare, env=product.environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, "Permission denied" in done.stderr) == (255, True)
    # scp, by the same words.
    copy = ("scp", "-q", "-F", str(place / "config"), f"{moved.name}:/etc/hostname", str(short / "copied"))
    product.kps("ssh-agent", "--from", str(place), "--", *copy)
    assert (short / "copied").read_text() == moved.read("/etc/hostname")
    # Another machine at that address is not spoken to.
    with another_machine(inner, gate):
        assert "Host key verification failed" in ssh(moved.name, ends=255).stderr
        assert "Host key verification failed" in product.kps("ssh", inner.name, "--", "true", ends=255).stderr


def test_an_agent_of_ones_own_waits_and_is_ended(product, three, short):
    gate = three[0]
    place = short / "made"
    product.kps("ssh-config", gate.name, "--output", str(place))
    process = subprocess.Popen(
        [KPS, "ssh-agent", "--from", place], env=product.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("1 key in ")
    asked = ["ssh", "-F", place / "config", gate.name, "hostname"]
    assert subprocess.run(asked, env=product.environment, capture_output=True, text=True, check=True).stdout == f"{gate.name}\n"
    assert "agent_running" in product.kps("ssh-agent", "--from", str(place), "--json", ends=4).stderr
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=SECONDS)[1] == ""
    assert process.returncode == 0
    assert not (place / "agent").exists()


def test_a_key_pair_that_is_not_in_custody_is_the_users_own_agents(make_server, product, three, short, monkeypatch):
    server, place = make_server(), short / "made"
    product.add(server)
    pair = product.keypair(managed=False)
    product.succeeds("bind", server, keypair=pair, password=server.root_password, accept_unproved=True)
    path = short / "own"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as own, contextlib.ExitStack() as ends:
        ends.callback(own.terminate)  # else a failure would wait for it
        assert str(path).encode() in own.stdout.readline()  # by then it listens; the socket is there before that
        environment = os.environ | {"SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", "-"], env=environment, input=pair["private_key"], text=True, check=True)
        monkeypatch.setitem(product.environment, "SSH_AUTH_SOCK", str(path))
        assert product.kps("ssh", server.name, "--", "hostname").stdout == f"{server.name}\n"
        # Within kps ssh-agent that agent is still theirs: one command reaches servers of both kinds.
        both = [three[0].name, server.name]
        product.kps("ssh-config", *both, "--output", str(place))
        script = f"for name in {' '.join(both)}; do ssh -n -F {place}/config $name hostname || exit; done"
        done = product.kps("ssh-agent", "--from", str(place), "--", "sh", "-c", script)
        assert done.stdout == "".join(f"{name}\n" for name in both)


@pytest.mark.parametrize("command", [("ssh",), ("ssh-config",)])
def test_what_cannot_be_reached_says_why(make_server, product, short, command):
    server = make_server()
    product.add(server, host_key=None, login="root")
    if command == ("ssh",):
        assert "host_key_unknown" in product.kps("ssh", server.name, "--json", ends=4).stderr
        product.kps("server", "remove", server.name)
        product.add(server)
        assert "nothing_bound" in product.kps("ssh", server.name, "--json", ends=4).stderr
        assert "server_not_found" in product.kps("ssh", "nobody-here", "--json", ends=3).stderr
    else:
        done = product.kps("ssh-config", server.name, "--output", str(short / "made"))
        assert f"left out, since their host keys are not known: {server.name};" in done.stderr
        assert "Host " not in (short / "made/config").read_text()
