"""OpenSSH 10 makes an address wait from which logins fail too often: ours never comes to that, whatever is removed."""

import re

import pytest

from controller.transport.pace import FAILED, UNTRIED, Pace, makes_wait
from tests.fleet.looks import until
from tests.fleet.product import methods
from tests.fleet.test_causes_reaching import with_log

LOG = "/var/log/sshd.log"
FAST = ("OpenSSH_9.2p1 Debian-2", "OpenSSH_8.4p1", "dropbear_2022.83", "")
TEN = "SSH-2.0-OpenSSH_10.0p2 Debian-7"


def penalties(server):
    """What a server's sshd has held against an address, for which reason; and which connections it dropped for that."""
    log = server.read(LOG)
    held = re.findall(r"srclimit_penalise: .*(?:penalty|already exists).*", log)
    return held, re.findall("^drop connection.*", log, re.MULTILINE)


def greeted(server):
    """What is held against who looked whether it is up; written down once that one's process has ended."""
    until(lambda: penalties(server)[0], what="nothing is written down")
    return penalties(server)[0]


def test_ten_unbinds_in_a_row_are_not_slowed_down(make_server, product):
    """Each is proved by a login that first offers the removed key and then gets in: nothing is held against us."""
    server = make_server(tree="trixie")
    with_log(server)
    product.add(server)
    pair = product.keypair()
    at_first = greeted(server)
    for _ in range(10):
        product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
        task = product.succeeds("unbind", server, password=server.root_password)
        assert ("key", "refused") in methods(task)
    held, dropped = penalties(server)
    assert dropped == []
    assert held == at_first


def test_unbinds_that_nothing_but_a_failed_login_can_prove_are_spaced(make_server, product):
    """No password is given, so only a login that fails can prove the removal: it is held against us each time."""
    server = make_server(tree="trixie")
    with_log(server)
    product.add(server)
    for _ in range(4):
        pair = product.keypair()
        product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
        task = product.succeeds("unbind", server)
        assert ("key", "refused") in methods(task)

    def failed():
        return [each for each in penalties(server)[0] if "authentication" in each or "already exists" in each]

    until(lambda: len(failed()) >= 4, what="not each was proved by a login that fails, or that is not in the log yet")
    assert penalties(server)[1] == []


# -- what is added up --------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("greeting", FAST)
def test_a_server_without_penalties_is_never_waited_for(greeting):
    pace = Pace(Clock())
    for _ in range(20):
        pace.failed(("192.0.2.1", 22), FAILED, greeting)
    assert pace.wait(("192.0.2.1", 22)) == 0
    assert not makes_wait(greeting)


def test_a_third_failure_in_a_row_waits_until_time_has_paid_for_the_first():
    clock = Clock()
    pace, place = Pace(clock), ("192.0.2.1", 22)
    for _ in range(2):
        assert pace.wait(place) == 0
        pace.failed(place, FAILED, TEN)
    wait = pace.wait(place)
    assert 0 < wait <= FAILED
    assert pace.wait(("192.0.2.2", 22)) == 0
    clock.now += wait
    assert pace.wait(place) == 0


def test_what_sshd_would_add_up_never_comes_to_what_it_enforces():
    """sshd_config(5): 5 s for a failed login, 1 s for a connection that never tried, refused from 15 s on."""
    clock = Clock()
    pace, place, owed = Pace(clock), ("192.0.2.1", 22), 0.0
    for turn in range(200):
        waited = pace.wait(place)
        clock.now += waited + 0.1
        cost = UNTRIED if turn % 3 else FAILED
        owed = max(0.0, owed - waited - 0.1) + cost
        assert owed < 15
        pace.failed(place, cost, TEN)
