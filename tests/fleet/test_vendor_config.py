"""An sshd as SUSE builds it: without a main file of the owner's it reads the vendor's, which one of ours would hide."""

import pytest

from tests.fleet import judge
from tests.fleet.causes import CONFIG, STATE, unchanged
from tests.fleet.looks import changed, picture

VENDORS = "/usr/etc/ssh/sshd_config"
DROP_IN = "/etc/ssh/sshd_config.d/00-kps.conf"


@pytest.fixture
def suse(make_server, product, request):
    """A server whose sshd knows the vendor's file only. Its name in the program is as long as the one that it replaces."""
    server = make_server(tree=getattr(request, "param", "host"))
    server.run(["mkdir", "-p", "/usr/etc/ssh"])
    server.run(["mv", CONFIG, VENDORS])
    server.run(["ln", "-s", "ssh/sshd_config", "/usr/etc/sshd_config"])
    programs = "for each in /usr/sbin/sshd /usr/lib/openssh/sshd-session /usr/lib/openssh/sshd-auth; do [ ! -e $each ] || "
    server.run(["sh", "-c", programs + "sed -i 's|/etc/ssh/sshd_config\\x00|/usr/etc/sshd_config\\x00|g' $each; done"])
    server.reboot()
    product.add(server)
    return server


@pytest.mark.parametrize("suse", ["host", "trixie"], indirect=True)
def test_our_block_is_a_drop_in_that_comes_and_goes(suse, product):
    before = picture(suse)
    pair = product.keypair()
    product.succeeds("bind", suse, keypair=pair, password=suse.root_password)
    assert not suse.exists(CONFIG)
    assert changed(before, picture(suse)) - {"/root/.ssh"} == {DROP_IN, "/root/.ssh/authorized_keys"} | STATE
    assert picture(suse)[DROP_IN][4].startswith("# kps: begin")
    assert judge.key_login_works(suse, "root", product.private(pair))
    assert not judge.password_login_works(suse, "root", suse.root_password)

    suse.reboot()
    assert not judge.password_login_works(suse, "root", suse.root_password)

    bound = picture(suse)
    product.succeeds("password-login-enable", suse)
    assert changed(bound, picture(suse)) - STATE == {DROP_IN}
    assert not suse.exists(DROP_IN)
    product.succeeds("password-login-disable", suse)
    assert changed(bound, picture(suse)) <= STATE

    product.succeeds("unbind", suse, password=suse.root_password)
    assert not suse.exists(DROP_IN)
    assert judge.password_login_works(suse, "root", suse.root_password)
    assert not suse.exists(CONFIG)


def test_somebody_elses_drop_in_that_comes_before_ours_is_seen_to_win(suse, product):
    suse.write("/etc/ssh/sshd_config.d/00-cloud.conf", "PasswordAuthentication yes\n")
    suse.reboot()
    with unchanged(suse):
        product.fails("setting_overridden", "bind", suse, keypair=product.keypair(), password=suse.root_password)
    assert not suse.exists(CONFIG)


def test_a_vendors_file_that_reads_no_drop_ins_is_left_to_its_owner(suse, product):
    suse.write(VENDORS, suse.read(VENDORS).replace("Include ", "# Include "))
    suse.reboot()
    with unchanged(suse):
        product.fails("sshd_config_missing", "bind", suse, keypair=product.keypair(), password=suse.root_password)
    assert not suse.exists(CONFIG)


def test_a_reset_opens_what_the_vendors_file_closes(suse, product):
    suse.write(VENDORS, suse.read(VENDORS).replace("PermitRootLogin yes", "PermitRootLogin no"))
    suse.stop()
    new = product.keypair()
    product.succeeds("reset", suse, keypair=new, root=str(suse.mounted_root()))
    suse.start()
    assert judge.key_login_works(suse, "root", product.private(new))
    assert "PermitRootLogin prohibit-password" in suse.read(DROP_IN)
    assert not suse.exists(CONFIG)
