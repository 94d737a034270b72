"""The transport by itself, in this process, against real sshds: what no part above it may have to make good."""

import asyncio
import base64
import struct

import asyncssh
import pytest

from controller.model import Secret
from controller.transport import proof
from controller.transport.connect import NotConnected, Target, connect
from controller.transport.jumps import Jump, Places
from controller.transport.offer import Held
from tests.fleet import judge
from tests.fleet.causes import install_key
from tests.fleet.test_causes_reaching import with_log
from tests.fleet.test_man_in_the_middle import LOG, asked, rsa_only


def target(server, **more):
    about = {"name": server.name, "host": server.host, "port": server.port, "host_key": server.public_host_key}
    return Target(**(about | more))


def held(private, public):
    async def opens():
        return Held(public, asyncssh.import_private_key(private))

    return opens


def test_a_removal_that_a_password_can_prove_fails_no_login(make_server):
    server = make_server(tree="trixie")
    with_log(server)
    _, removed = judge.new_key_pair()
    for _ in range(3):
        secret = Secret(server.root_password)
        answer = asyncio.run(proof.key_refused(target(server), "root", removed, "/dev/null", None, secret))
        assert answer == {"method": "refused", "nonce": ""}
    assert "failed authentication" not in server.read(LOG)


def in_hardware(kind):
    """A public key such as a FIDO token makes; its private half is nowhere."""

    def field(value):
        return struct.pack(">I", len(value)) + value

    private = asyncssh.generate_private_key("ssh-ed25519" if "ed25519" in kind else "ecdsa-sha2-nistp256")
    blob = private.public_data
    rest = blob[4 + int.from_bytes(blob[:4], "big") :]
    return f"{kind} {base64.b64encode(field(kind.encode()) + rest + field(b'ssh:')).decode()}"


def without_its_private_half(kind):
    if kind.startswith("sk-"):
        return in_hardware(kind)
    more = {"key_size": 2048} if kind == "ssh-rsa" else {}
    return asyncssh.generate_private_key(kind, **more).export_public_key().decode().strip()


@pytest.mark.parametrize(
    "kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", "ssh-dss", "ssh-rsa", "ecdsa-sha2-nistp521"]
)
def test_a_removed_key_of_any_type_is_shown_to_the_server(make_server, kind):
    server = make_server(sshd_config_top="PubkeyAcceptedAlgorithms +ssh-dss\n")
    public = without_its_private_half(kind)
    install_key(server, public)
    assert asyncio.run(proof.key_refused(target(server), "root", public, "/dev/null"))["cause"] == "old_key_still_accepted"
    assert asyncio.run(proof.key_accepted(target(server), "root", public)) == {"method": "accepted"}
    server.run(["rm", "/root/.ssh/authorized_keys"])
    assert asyncio.run(proof.key_refused(target(server), "root", public, "/dev/null")) == {"method": "refused"}
    assert asyncio.run(proof.key_accepted(target(server), "root", public))["cause"] == "new_key_refused"


@pytest.mark.parametrize("tree", ["host", "trixie"])
def test_a_removed_rsa_key_is_shown_with_sha1_too_and_no_key_that_is_bound(make_server, tree):
    """The one sshd names signatures that it does not take, the other only what it takes."""
    server = make_server(tree=tree, sshd_config_top="PubkeyAcceptedAlgorithms ssh-rsa\n")
    public = without_its_private_half("ssh-rsa")
    install_key(server, public)
    assert asyncio.run(proof.key_refused(target(server), "root", public, "/dev/null"))["cause"] == "old_key_still_accepted"
    # Its owner's ssh would not sign with SHA-1 today: a server that takes nothing else does not let the key in.
    assert "cause" in asyncio.run(proof.key_accepted(target(server), "root", public))
    server.run(["rm", "/root/.ssh/authorized_keys"])
    assert asyncio.run(proof.key_refused(target(server), "root", public, "/dev/null")) == {"method": "refused"}


def test_what_a_jump_server_refuses_is_its_own_refusal(make_server):
    jump, server = make_server(), make_server()
    private, public = judge.new_key_pair()
    install_key(server, public)

    async def refused():
        through = Jump(target(jump), [("root", held(private, public))])
        await connect(target(server, through=through), "root", keys=[])

    with pytest.raises(NotConnected) as caught:
        asyncio.run(refused())
    assert (caught.value.cause, caught.value.evidence["hop"], caught.value.evidence["hop_cause"]) == (
        "jump_refused", jump.name, "key_refused",
    )  # fmt: skip


def test_nobody_is_talked_down_to_sha1(make_server):
    attacker = make_server()
    public = rsa_only(attacker, "HostKeyAlgorithms ssh-rsa\n")
    with_log(attacker)
    with pytest.raises(NotConnected) as caught:
        asyncio.run(connect(target(attacker, host_key=public), "root", password=Secret("never to be sent")))
    assert caught.value.cause == "algorithms_incompatible"
    assert asked(attacker)[1] == []


def test_what_holds_a_jump_server_s_places_lets_nobody_else_in_and_nobody_waits_for_ever():
    """Two ways over the same two jump servers, in opposite order: neither waits for what the other one holds."""

    async def most():
        places, now, seen = Places(2), 0, []

        async def one(way):
            nonlocal now
            async with places.taken(way):
                now += 1
                seen.append(now)
                await asyncio.sleep(0)
                now -= 1

        async with asyncio.timeout(10):
            await asyncio.gather(*(one(("a", "b") if turn % 2 else ("b", "a")) for turn in range(50)))
        return max(seen)

    assert asyncio.run(most()) == 2
