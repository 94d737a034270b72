"""The hazards of authorized_keys (H) and of sshd_config (S) for which no other test was there; each on a real server.

What each is: tests/test_hazards.py, which also knows which tests are marked with it.
"""

import base64
import os
import struct
import subprocess

import httpx
import pytest

from controller.demo.fleet import Login
from kpsagent import sshd
from tests.fleet import judge
from tests.fleet.causes import CONFIG, KEYS, unchanged
from tests.fleet.product import NO_TLS, Product

ALICE = Login("alice", "alice's own word")


def lets_in(server, private, login="root"):
    return judge.key_login_works(server, login, private)


def keep(server, text):
    """Have root's authorized_keys hold this, as its owner would."""
    server.run(["install", "-d", "-m", "700", "/root/.ssh"])
    server.write(KEYS, text, 0o600)


def bound(product, server, **kind):
    """Bind a key pair beside the password, and return it."""
    pair = product.keypair(**kind)
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    return pair


# -- authorized_keys ---------------------------------------------------------------------------------------------------


@pytest.mark.hazard("H1")
def test_a_key_is_added_to_a_file_without_a_final_newline_and_both_keys_get_in(product, server):
    private, public = judge.new_key_pair()
    keep(server, public)
    product.add(server)
    pair = bound(product, server)
    assert lets_in(server, private)
    assert lets_in(server, product.private(pair))


def spellings(public):
    """One RSA key in four ways, each of which sshd takes."""
    kind, word, *_ = public.split()
    blob = base64.b64decode(word)
    fields, at = [], 0
    while at < len(blob):
        length = struct.unpack_from(">I", blob, at)[0]
        fields.append(blob[at + 4 : at + 4 + length])
        at += 4 + length
    zeros = b"".join(struct.pack(">I", len(each)) + each for each in (*fields[:2], bytes(3) + fields[2]))
    return [
        f"{kind} {word}",
        f"rsa-sha2-512 {word}",
        f"{kind} {word[:40]}\x0b{word[40:]}",
        f"{kind} {base64.b64encode(zeros).decode()}",
    ]


@pytest.mark.hazard("H2")
def test_a_key_that_is_there_in_four_spellings_is_gone_in_all_of_them(product, server):
    product.add(server)
    pair = bound(product, server, type="rsa-3072")
    private = product.private(pair)
    for line in (four := spellings(pair["public_key"])):
        keep(server, f"# one\n{line} c\n")
        assert lets_in(server, private), line
    keep(server, "".join(f"{line} c\n# and\n" for line in four))
    product.succeeds("unbind", server, password=server.root_password)
    assert not lets_in(server, private)
    assert server.read(KEYS) == "# and\n" * 4


@pytest.mark.hazard("H5")
@pytest.mark.parametrize("odd", ["\ufeff", "\x0b", "\xa0"], ids=["byte order mark", "vertical tab", "no-break space"])
def test_a_line_that_sshd_does_not_take_is_not_taken_for_the_key(product, server, odd):
    pair = product.keypair()
    keep(server, f"{odd}{pair['public_key']}\n")
    product.add(server)
    assert not lets_in(server, product.private(pair))
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    assert lets_in(server, product.private(pair))
    assert server.read(KEYS).startswith(f"{odd}{pair['public_key']}\n")


@pytest.mark.hazard("H6")
def test_what_is_not_ours_stays_byte_for_byte_whatever_it_is(product, server):
    private, public = judge.new_key_pair()
    odd = [
        "# caf\udce9 \udcff\udcfe",
        "#\0hidden",
        f"{public} mine\r",
        "",
        " \t ",
        "# a\x85b\u2028c\x0b",
        "#" + "y" * (1 << 20),
        "# end\r",
    ]
    keep(server, "\n".join(odd))
    product.add(server)
    pair = bound(product, server)
    now = server.read(KEYS)
    assert [line for line in now.split("\n") if pair["public_key"] not in line] == odd
    assert lets_in(server, private)
    assert lets_in(server, product.private(pair))
    product.succeeds("unbind", server, password=server.root_password)
    assert server.read(KEYS) == "\n".join(odd)


@pytest.mark.hazard("H7")
@pytest.mark.parametrize("separator", ["\r", "\x85", "\u2028", "\x0b", "\x1c"])
def test_text_that_a_comment_hides_stays_hidden(product, server, separator):
    private, attacker = judge.new_key_pair()
    _, mine = judge.new_key_pair()
    keep(server, f"{mine} x{separator}{attacker}\n")
    product.add(server)
    before = server.read(KEYS)
    pair = bound(product, server)
    assert server.read(KEYS).startswith(before)
    product.succeeds("unbind", server, password=server.root_password)
    assert server.read(KEYS) == before
    assert lets_in(server, product.private(pair)) == lets_in(server, private) is False


@pytest.mark.hazard("H8")
@pytest.mark.parametrize("odd", ["\n", "\r", "\0", '"', "\u2028"])
def test_a_name_or_comment_cannot_bring_a_line_of_its_own_along(product, server, odd):
    _, attacker = judge.new_key_pair()
    _, public = judge.new_key_pair(comment="")
    product.add(server)
    transport = httpx.HTTPTransport(uds=str(product.home / "kps.sock"), verify=NO_TLS)
    orders = [
        ("/keypairs", {"name": f"a{odd}{attacker}"}),
        ("/keypairs/import", {"name": f"b{odd}{attacker}", "public_key": public}),
        ("/keypairs/import", {"name": f"plain{ord(odd)}", "public_key": f"{public} a{odd}{attacker}"}),
    ]
    with httpx.Client(transport=transport, base_url="http://kps/fleet/v1", trust_env=False) as http:
        answers = [http.post(path, json=body) for path, body in orders]
    assert all(400 <= answer.status_code < 500 for answer in answers[:2]), answers
    if answers[2].is_success:
        # What it keeps of a comment is for people; what reaches a server is made anew.
        name = answers[2].json()["name"]
        product.succeeds("bind", server, keypair=name, password=server.root_password, keep_password_login=True)
        assert attacker.split()[1] not in server.read(KEYS)


@pytest.fixture
def crowded(tmp_path):
    """The environment of an operator: ten keys in an agent, keys of the usual names, and a trap for a configuration of ssh."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    trap = tmp_path / "sprung"
    (home / ".ssh/config").write_text(f"Host *\n  ProxyCommand touch {trap}\n  User nobody\n  IdentityFile ~/.ssh/id_rsa\n")
    sock = tmp_path / "agent"
    said = subprocess.run(["ssh-agent", "-s", "-a", str(sock)], check=True, capture_output=True, text=True).stdout
    pid = int(said.partition("SSH_AGENT_PID=")[2].partition(";")[0])
    environment = {"SSH_AUTH_SOCK": str(sock), "HOME": str(home)}
    try:
        for number in range(10):
            path = home / ".ssh" / ("id_ed25519" if number == 0 else f"key{number}")
            path.write_text(judge.new_key_pair()[0])
            path.chmod(0o600)
            subprocess.run(["ssh-add", "-q", str(path)], check=True, env=os.environ | environment, capture_output=True)
        yield environment, trap
    finally:
        os.kill(pid, 15)


@pytest.mark.hazard("H10", "H15")
def test_neither_an_agent_full_of_keys_nor_the_operator_s_ssh_configuration_counts(server, tmp_path, crowded):
    environment, trap = crowded
    private, public = judge.new_key_pair()
    keep(server, public + "\n")
    product = Product(tmp_path / "kps")
    product.environment |= environment
    with product:
        product.add(server)
        pair = product.keypair()
        product.succeeds("bind", server, keypair=pair, identity=private, keep_password_login=True)
        product.succeeds("replace", server, keypair=(new := product.keypair()))
        assert lets_in(server, product.private(new))
        assert not lets_in(server, product.private(pair))
    assert not trap.exists()


@pytest.mark.hazard("H11")
@pytest.mark.parametrize("tree", ["bullseye", "host", "trixie"])
def test_the_line_of_a_new_key_has_no_options_that_an_sshd_might_not_know(product, make_server, tree):
    server = make_server(tree=tree)
    product.add(server)
    pair = bound(product, server)
    type_word, blob, *_ = server.read(KEYS).split()
    assert f"{type_word} {blob}" == " ".join(pair["public_key"].split()[:2])
    assert lets_in(server, product.private(pair))


@pytest.mark.hazard("H14")
def test_unbinds_in_a_row_are_not_slowed_down_by_an_sshd_that_punishes_failures(product, make_server):
    """OpenSSH 9.8 and later turn an address away that failed three times; ours offers the good key in the same connection."""
    server = make_server(tree="trixie", logins=tuple(Login(f"u{number}", f"word {number}") for number in range(4)))
    product.add(server)
    for login in server.spec.logins:
        pair = product.keypair()
        order = {"login": login.name, "password": login.password, "keep_password_login": True}
        product.succeeds("bind", server, keypair=pair, **order)
        task = product.succeeds("unbind", server, login=login.name, password=login.password)
        assert not lets_in(server, product.private(pair), login.name)
        assert task["cause"] is None


# -- sshd_config -------------------------------------------------------------------------------------------------------


@pytest.mark.hazard("S2")
@pytest.mark.parametrize("end", ["Match User alice\n  X11Forwarding no\n", "Match User alice\n  X11Forwarding no"])
def test_a_file_that_ends_in_a_match_is_closed_for_those_whom_that_does_not_match(product, make_server, end):
    server = make_server(sshd_config_end=end, logins=(ALICE, Login("bob", "bob's own word")))
    product.add(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password, accept_lockout=["alice", "bob"])
    for login in ("root", "alice", "bob"):
        assert judge.effective_settings(server, login)["passwordauthentication"] == ["no"]
        assert not judge.password_login_works(server, login, server.passwords[login])
    assert judge.effective_settings(server, "alice")["x11forwarding"] == ["no"]


@pytest.mark.hazard("S3")
def test_a_match_that_asks_for_a_key_and_a_password_is_no_lock_out_of_whom_it_matches(product, make_server):
    """sshd -t and -T find nothing wrong with it, and alice's login would die of it."""
    setting = "Match User alice\n    AuthenticationMethods publickey,password\n"
    server = make_server(sshd_config_end=setting, logins=(ALICE,))
    _, public = judge.new_key_pair()
    server.run(["install", "-d", "-o", "alice", "-g", "alice", "-m", "700", "/home/alice/.ssh"])
    server.write("/home/alice/.ssh/authorized_keys", public + "\n", 0o600, "alice:alice")
    product.add(server)
    with unchanged(server):
        task = product.fails("others_locked_out", "bind", server, keypair=product.keypair(), password=server.root_password)
    assert task["evidence"]["logins"] == ["alice"]


@pytest.mark.hazard("S6")
@pytest.mark.parametrize("tree", ["bullseye", "host", "trixie"])
def test_only_keywords_are_written_that_this_sshd_knows(product, make_server, tree):
    server = make_server(tree=tree)
    product.add(server)
    known = judge.effective_settings(server)
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password)
    written = [keyword.lower() for keyword, _ in sshd.block(server.read(CONFIG))]
    assert written
    assert set(written) <= set(known)
    said = server.run(["/usr/sbin/sshd", "-t"], check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@pytest.mark.hazard("S8")
@pytest.mark.parametrize("odd", ["# a\0b\nX11Forwarding no\n", "# a\rb\n", None], ids=["NUL", "lone CR", "byte order mark"])
def test_a_file_in_which_a_line_is_not_what_it_seems_is_left_alone(product, server, odd):
    product.add(server)
    text = server.read(CONFIG)
    server.write(CONFIG, f"\ufeff{text}" if odd is None else text + odd)
    with unchanged(server):
        task = product.run("bind", server, keypair=product.keypair(), password=server.root_password)
    assert task["status"] == "failed"
    assert task["cause"] in ("sshd_config_odd", "sshd_config_invalid")
