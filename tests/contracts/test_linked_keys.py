"""A file of keys that is a link of the login's: what it leads to is read with the login's own rights."""

import os

import pytest

from kpsagent import doctor
from kpsagent.host import Read, ReadFollowed
from kpsagent.transaction import drive
from tests.contracts.places import local_place
from tests.contracts.shell_places import shell_place
from tests.needs import lacking

ROOTS_OWN = "/etc/shadow"  # in a directory that only root can change, and not for everybody to read


@pytest.fixture(params=["local", "dash", "bash"])
def place(request):
    if os.geteuid() != 0:
        lacking("root: what only root may read")
    with local_place() if request.param == "local" else shell_place(request.param) as made:
        yield made


@pytest.fixture
def host(place):
    host = place.host()
    yield host
    host.close()


def test_what_is_read_as_the_login_is_not_read_with_root_s_rights(place, host):
    assert host.do(Read(ROOTS_OWN, place.account)).text
    with pytest.raises(PermissionError):
        host.do(ReadFollowed(ROOTS_OWN, place.account))
    assert host.do(ReadFollowed("/etc/passwd", place.account)).text


def test_a_doctor_reads_nothing_through_a_login_s_link_that_the_login_may_not_read(place, host):
    path = f"{place.home}/authorized_keys"
    os.symlink(ROOTS_OWN, path)
    looked = drive(doctor._looked(path, place.account, {}), host)
    assert (looked.real, looked.text) == (ROOTS_OWN, None)
    assert "ermission denied" in looked.error
    os.unlink(path)
    os.symlink("/etc/passwd", path)
    assert drive(doctor._looked(path, place.account, {}), host).text
