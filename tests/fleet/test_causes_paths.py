"""What is wrong on the way to authorized_keys, or with the disk beneath: each caused on a real server."""

import fcntl
import os
import struct

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import CONFIG, KEYS, STATE, bind, block_device, install_key, mount, unchanged
from tests.fleet.looks import changed, disk_picture, picture

HOME = "/home/deploy"
DEPLOY = Login("deploy", "walk the dog")
SSH = f"{HOME}/.ssh"
_SHUT_DOWN = 0x8004587D  # ioctl of ext4 and XFS (EXT4_IOC_SHUTDOWN): the file system ends as if its disk were gone
_AT_ONCE = 2


@pytest.fixture
def deploy(product, make_server):
    """A server with a login that is reached as root."""
    server = make_server(logins=(DEPLOY,))
    product.add(server)
    return server


@pytest.mark.cause("path_permissions")
@pytest.mark.parametrize(
    ("command", "path", "found"),
    [
        (["chmod", "777", HOME], HOME, "mode 0777"),
        (["chmod", "1777", SSH], SSH, "mode 1777"),
        (["chmod", "666", f"{SSH}/authorized_keys"], f"{SSH}/authorized_keys", "mode 0666"),
        (["chown", "bin", SSH], SSH, "owner uid 2"),
        (["chown", "bin", f"{SSH}/authorized_keys"], f"{SSH}/authorized_keys", "owner uid 2"),
    ],
)
def test_a_component_of_the_path_with_the_wrong_owner_or_mode(product, deploy, told, command, path, found):
    private, public = judge.new_key_pair()
    install_key(deploy, public, "deploy")
    deploy.run(command)
    assert not judge.key_login_works(deploy, "deploy", private)
    task = told(bind(product, deploy, "deploy", keep_password_login=True))
    assert (task["evidence"]["path"], task["evidence"]["found"]) == (path, found)
    assert task["evidence"]["wanted"]


@pytest.mark.cause("path_permissions")
def test_a_file_that_the_login_itself_cannot_read(product, deploy, told):
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    deploy.run(["chmod", "000", f"{SSH}/authorized_keys"])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("path_permissions")
def test_a_home_directory_that_does_not_exist(product, deploy, told):
    deploy.run(["rm", "-r", HOME])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("path_unsafe")
@pytest.mark.parametrize(
    "script",
    [
        "mv authorized_keys elsewhere; ln -s elsewhere authorized_keys",
        "ln -sf /etc/shadow authorized_keys",
        "ln authorized_keys second-name",
        "rm authorized_keys; mkfifo authorized_keys",
        "rm authorized_keys; mkdir authorized_keys",
    ],
    ids=["link", "link to another's file", "hard link", "pipe", "directory"],
)
def test_something_that_is_not_a_plain_file_of_one_name(product, deploy, told, script):
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    deploy.run(["sh", "-c", f"cd {SSH}; {script}"])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.hazard("H13")
@pytest.mark.cause("authorized_keys_elsewhere")
def test_an_sshd_that_reads_no_authorized_keys_file(product, make_server, told):
    server = make_server(sshd_config_top="AuthorizedKeysFile none\n")
    product.add(server)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("authorized_keys_unreadable")
@pytest.mark.parametrize("text", ["#" * (8 << 20) + "\n", "s\0s\0h\0-\0\n\0"], ids=["too large", "UTF-16"])
def test_an_authorized_keys_that_is_no_text_to_edit(product, server, told, text):
    product.add(server)
    server.write(KEYS, text, 0o600)
    server.run(["chmod", "700", "/root/.ssh"])
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("disk_full")
def test_a_home_on_a_full_disk(product, deploy, told):
    mount(deploy, "tmpfs", "none", HOME, "size=64k")
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    deploy.run(["sh", "-c", f"cat /dev/zero >{HOME}/ballast"], check=False)
    told(bind(product, deploy, "deploy", STATE, keep_password_login=True), "reverted")


@pytest.mark.cause("disk_full")
def test_a_full_disk_beneath_our_own_journal(product, deploy, told):
    deploy.run(["mkdir", "-p", "/var/lib/kps"])
    deploy.run(["chmod", "711", "/var/lib/kps"])
    mount(deploy, "tmpfs", "none", "/var/lib/kps", "size=4k")
    deploy.run(["sh", "-c", "cat /dev/zero >/var/lib/kps/ballast"], check=False)
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("read_only")
def test_a_server_of_which_everything_is_read_only(product, server, told):
    product.add(server)
    server.run(["mount", "-o", "remount,ro", "/"])
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("read_only")
def test_a_home_that_is_mounted_read_only(product, deploy, told):
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    mount(deploy, "none", HOME, HOME, "bind")
    deploy.run(["mount", "-o", "remount,bind,ro", HOME])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("immutable")
@pytest.mark.parametrize("flag", ["i", "a"])
def test_a_file_that_may_not_be_replaced(product, deploy, told, flag):
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    deploy.run(["chattr", f"+{flag}", f"{SSH}/authorized_keys"])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("immutable")
def test_a_directory_in_which_nothing_may_be_made(product, deploy, told):
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    deploy.run(["chattr", "+i", SSH])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("immutable")
def test_an_sshd_config_that_may_not_be_replaced(product, server, told):
    product.add(server)
    server.run(["chattr", "+i", CONFIG])
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert (task["phase"], task["evidence"]["path"]) == ("decide", CONFIG)


@pytest.mark.cause("immutable")
def test_a_file_that_is_a_mount_point_of_its_own(product, deploy, told):
    install_key(deploy, judge.new_key_pair()[1], "deploy")
    deploy.run(["mount", "--bind", f"{SSH}/authorized_keys", f"{SSH}/authorized_keys"])
    told(bind(product, deploy, "deploy", keep_password_login=True))


@pytest.mark.cause("disk_gone")
def test_a_home_whose_disk_is_gone(product, deploy, told):
    private, public = judge.new_key_pair()
    install_key(deploy, public)
    with block_device(deploy) as device:
        mount(deploy, "ext4", device, HOME)
        install_key(deploy, judge.new_key_pair()[1], "deploy")
        deploy.run(["umount", HOME])
        before = picture(deploy)
        deploy.run(["mount", device, HOME])
        there = picture(deploy)
        end_of_the_disk(f"/proc/{deploy.pid}/root{HOME}")
        told(product.run("bind", deploy, keypair=product.keypair(), login="deploy", identity=private, keep_password_login=True))
        deploy.run(["umount", HOME])
        assert picture(deploy) == before
        deploy.run(["mount", device, HOME])
        assert picture(deploy) == there
        deploy.run(["umount", HOME])
    assert judge.password_login_works(deploy, "root", deploy.root_password)


@pytest.mark.cause("disk_gone")
@pytest.mark.parametrize("root", ["", "/nowhere/at/all"], ids=["an empty directory", "nothing"])
def test_a_reset_of_a_disk_that_is_not_mounted(product, server, told, tmp_path, root):
    product.add(server)
    server.stop()
    disk = server.mounted_root()
    before = disk_picture(disk)
    told(product.run("reset", server, keypair=product.keypair(), root=root or str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    assert changed(before, disk_picture(disk)) == set()


def end_of_the_disk(directory):
    """Take the disk from under a mounted file system."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(opened, _SHUT_DOWN, struct.pack("I", _AT_ONCE))
    finally:
        os.close(opened)


def test_pictures_see_what_stays(server):
    """The comparison on which all of these rest notices a file, a mode and an owner."""
    before = picture(server)
    server.run(["sh", "-c", "touch /root/.authorized_keys.kps; chmod 700 /etc/ssh/sshd_config; chown bin /etc/cron.d"])
    assert changed(before, picture(server)) == {"/root/.authorized_keys.kps", "/etc/ssh/sshd_config", "/etc/cron.d"}
