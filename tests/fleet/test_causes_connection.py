"""What is wrong on the way to a server: each caused by a real listener, proxy or sshd, told apart from its neighbours."""

import socket

import pytest

from tests.fleet import judge
from tests.fleet.causes import Place, deaf, listener, proxy, reset, unchanged
from tests.fleet.looks import free_port, until


def arrive(product, place, **request):
    """Try to bind a key pair at a place, with a password that nobody may ever see there."""
    product.add(place)
    return product.run("bind", place, keypair=product.keypair(), password="never to be sent", **request)


@pytest.mark.cause("name_not_resolved")
def test_a_name_that_has_no_address(impatient, told):
    told(arrive(impatient, Place("nowhere", "nowhere.invalid", 22)))


@pytest.mark.cause("connection_refused")
def test_a_port_on_which_nobody_listens(impatient, told):
    task = told(arrive(impatient, Place("nobody", "127.0.0.1", free_port("127.0.0.1"))))
    assert task["phase"] == "connect"


@pytest.mark.cause("connection_refused")
def test_a_server_that_is_shut_down(impatient, server, told):
    server.stop()
    told(arrive(impatient, server))


@pytest.mark.cause("connection_timed_out")
def test_a_port_at_which_packets_are_dropped(impatient, told):
    with deaf() as place:
        task = told(arrive(impatient, place))
    assert f"port {place.port} from 127.0.0.1" in task["message"]
    assert f"port {place.port} from 127.0.0.1" in task["handling"]


@pytest.mark.cause("connection_timed_out")
def test_a_listener_that_never_says_anything(impatient, told):
    with listener(lambda connection: connection.recv(1 << 16) and connection.recv(1)) as place:
        task = told(arrive(impatient, place))
    assert task["evidence"]["stage"] == "banner"
    assert f"port {place.port} from 127.0.0.1" in task["handling"]


@pytest.mark.cause("connection_timed_out")
def test_an_sshd_that_freezes_during_the_login(impatient, told):
    def freeze(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        while connection.recv(1 << 16):
            pass

    with listener(freeze) as place:
        task = told(arrive(impatient, place))
    assert task["evidence"]["stage"] == "login"


@pytest.mark.cause("connection_closed")
@pytest.mark.parametrize("answer", [lambda connection: None, reset], ids=["closed", "reset"])
def test_a_connection_that_ends_before_the_greeting(impatient, told, answer):
    with listener(answer) as place:
        task = told(arrive(impatient, place))
    assert task["evidence"]["stage"] == "banner"


@pytest.mark.cause("connection_closed")
def test_a_connection_that_ends_before_the_greeting_after_a_while(impatient, told):
    """As one that hosts.deny turns away: first nothing, for longer than is listened the second time, and then the end."""
    came = []

    def answer(connection: socket.socket) -> None:
        came.append(connection)
        while len(came) % 2 == 0 and connection.recv(1 << 16):
            pass

    with listener(answer) as place:
        task = told(arrive(impatient, place))
    assert task["evidence"]["stage"] == "banner"


@pytest.mark.cause("connection_closed")
def test_an_sshd_that_is_at_its_limit_of_logins_under_way(product, make_server, told):
    server = make_server(max_startups=1)
    with unchanged(server, password_works=None), socket.create_connection((server.host, server.port)) as waiting:
        waiting.recv(4)
        told(arrive(product, server))
    # The place of the one that waited is free when sshd has seen it go.
    until(lambda: product.run("check", server)["status"] == "unchanged")
    until(lambda: gets_in(server))


def gets_in(server):
    try:
        return judge.password_login_works(server, "root", server.root_password)
    except judge.Puzzled:
        return False  # it was turned away before it could try


@pytest.mark.cause("not_ssh")
def test_a_web_server(impatient, told):
    def answer(connection):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with listener(answer) as place:
        task = told(arrive(impatient, place))
    assert task["evidence"]["said"] == "HTTP/1.1 400 Bad Request"


@pytest.mark.cause("not_ssh")
def test_a_mail_server_that_speaks_first(impatient, told):
    with listener(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n") or connection.recv(1 << 16)) as place:
        told(arrive(impatient, place))


@pytest.mark.cause("host_key_unknown")
def test_a_server_whose_host_key_nobody_gave(product, server, told):
    product.add(server, host_key=None)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("host_key_changed")
def test_a_server_that_was_given_a_new_host_key(product, server, told):
    product.add(server)
    before = judge.fingerprint(server.public_host_key)
    private, public = judge.new_key_pair()
    server.write("/etc/ssh/ssh_host_ed25519_key", private)
    server.write("/etc/ssh/ssh_host_ed25519_key.pub", public + "\n")
    server.reload()
    with unchanged(server, password_works=None):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert (task["evidence"]["pinned"], task["evidence"]["seen"]) == (before, judge.fingerprint(public))
    assert product.server(server)["host_key"].split()[:2] == server.public_host_key.split()


@pytest.mark.cause("host_key_changed")
def test_a_server_that_shows_its_host_key_of_another_type_only(product, server, told):
    """Whoever sits in between offers a type that is not on record: neither trusted, nor taken for old algorithms."""
    product.add(server)
    server.run(["rm", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"])
    server.reload()
    with unchanged(server, password_works=None):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("algorithms_incompatible")
@pytest.mark.parametrize("setting", ["Ciphers aes256-cbc", "KexAlgorithms diffie-hellman-group1-sha1", "MACs hmac-md5"])
def test_an_sshd_that_offers_only_what_is_no_longer_safe(product, make_server, told, setting):
    # A MAC counts only beside a cipher that needs one.
    server = make_server(sshd_config_top=setting + ("\nCiphers aes128-ctr\n" if setting.startswith("MACs") else "\n"))
    product.add(server)
    with unchanged(server, password_works=None):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("connection_closed")
def test_a_proxy_that_resets_in_the_middle_of_the_login(impatient, server, told):
    with unchanged(server), proxy(lambda: None, f"{server.name}-behind", server.host_key) as place:
        told(arrive(impatient, place))
