"""The transport by itself, in this process, against real sshds: what no part above it may have to make good."""

import asyncio

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
