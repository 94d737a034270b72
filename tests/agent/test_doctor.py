"""The pure half of the doctor: which line lets a key in, with a real sshd as the judge. Whole servers are `make causes`'s."""

import hashlib
import random
import struct
import subprocess

import pytest
from hostile_keys import PublicKey
from hypothesis import given
from hypothesis import strategies as st
from judge import Logins, need

from kpsagent import doctor, keys
from kpsagent.host import Account
from kpsagent.plan import parse

KEY = PublicKey("ssh-ed25519", (bytes(range(32)),))
LINE = f"{KEY.type} {KEY.word} mine"
PLAN = parse(
    {"operation": "check", "id": "1", "generation": 1, "login": "root", "connection": ["127.0.0.1", "1", "127.0.0.1", "22"]}
)
# ruff: noqa: E501 - two tables
OPTIONS = (
    "no-pty", "pty", "restrict", "No-Port-Forwarding", "user-rc", "cert-authority", "no-cert-authority", "no-restrict", "verify-required",
    "no-touch-required", "no-sutch", "ptyx", "x11-forwarding", "agent-forwarding", "command", "from", 'command="a b"', "command=a",
    'command="a\\"b"', 'command="a', 'command=""', "command='a'", 'from="127.0.0.1"', 'from="127.0.0.0/8"', 'from="192.0.2.1"',
    'from="!127.0.0.1,*"', 'from="*,!192.0.2.*"', 'from="127.?.0.*"', 'from="localhost"', 'from=""', 'expiry-time="20990101"',
    'expiry-time="20200101"', 'expiry-time="20200101120000"', 'expiry-time="202001011200"', 'expiry-time="2099"', 'expiry-time="20991301"',
    'environment="A=b"', 'principals="a,b"', 'permitopen="host:80"', 'permitlisten="8080"', 'tunnel="1"', "", " ", "no-pty ", '"no-pty"',
)  # fmt: skip
SPELLINGS = (
    LINE, f"# {LINE}", f"\ufeff{LINE}", f"\v{LINE}", f" \t{LINE}", f"{KEY.type.upper()} {KEY.word}", KEY.word, f"{KEY.type} {KEY.word[:-4]}",
    f"{KEY.type} {KEY.word[:30]} {KEY.word[30:]}", f"{KEY.type} {KEY.word[:30]}\v{KEY.word[30:]}", f"{LINE}\r", f"x\r{LINE}",
    f"#\0{LINE}", "", f"{KEY.type} {KEY.word}#mine", f"{KEY.type}  {KEY.word}", f"\u00a0{LINE}", f"{KEY.type}\t{KEY.word}",
)  # fmt: skip


def looked(text):
    return doctor.Looked("/k", "/k", [], text, "", [])


def lets_in(text):
    state, found = doctor._in_file(PLAN, looked(text), keys.parse(LINE))
    assert (state == "absent") == (state != "lets_in" and not found)
    return state == "lets_in"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    need("/usr/sbin/sshd", "ssh-keygen")
    judge = Logins(tmp_path_factory.mktemp("sshd"))
    yield judge
    judge.close()


def test_a_line_lets_a_key_in_where_sshd_says_so(sshd):
    dice = random.Random(20)
    texts = [f"{options} {LINE}\n" for options in OPTIONS] + [f"{line}\n" for line in SPELLINGS]
    for _ in range(500):
        options = [",".join(dice.sample(OPTIONS, dice.randint(1, 3))) for _ in range(dice.randint(1, 2))]
        lines = [f"{each} {dice.choice(SPELLINGS)}" if dice.random() < 0.7 else dice.choice(SPELLINGS) for each in options]
        texts.append("".join(f"{line}\n" for line in lines))
    verdicts = sshd.verdicts([(text, KEY.blob) for text in texts])
    assert [text for text, verdict in zip(texts, verdicts, strict=True) if lets_in(text) != verdict] == []
    assert 50 < sum(verdicts) < len(verdicts) - 50


@given(st.text(max_size=200))
def test_no_text_is_too_odd_to_be_looked_at(text):
    assert isinstance(lets_in(text), bool)
    doctor.options_wrong(text)
    doctor.option_values(text)


@given(st.sampled_from(SPELLINGS), st.integers(0, 80), st.text(max_size=3))
def test_a_damaged_line_is_named_by_one_word(line, at, put_in):
    text = line[:at] + put_in + line[at:]
    state, found = doctor._in_file(PLAN, looked(text), keys.parse(LINE))
    assert all(each.code.startswith(("line_", "authorized_keys_")) for each in found)
    assert state in ("lets_in", "held", "absent")


def test_where_it_does_not_look_it_says_so():
    account = Account("root", 0, 0, [], [], "/root", "/bin/sh", "none", "", "")
    for pattern, said in (("/root/.ssh/keys.d/*", True), ("/root/.ssh/authorized_keys", False)):
        files = [looked("# none\n"), doctor.Looked(pattern, pattern, [], None, "", [])]
        notes = doctor.Notes({}, files, None, "", [], [], False, [])
        (finding,) = doctor._lines(PLAN, notes, account, keys.parse(LINE))
        assert finding.code == "key_not_listed"
        assert (f"; files that fit {pattern} are not looked at" in finding.message) is said


def test_a_krl_is_damaged_where_ssh_keygen_says_so(tmp_path):
    need("ssh-keygen")
    names = [tmp_path / name for name in ("one", "two")]
    for name in names:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
    made, other = tmp_path / "krl", names[1].with_suffix(".pub")
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", made, names[0].with_suffix(".pub")], check=True)
    whole, wrong = made.read_bytes(), []
    for end in range(len(b"SSHKRL\n\0"), len(whole) + 1):
        made.write_bytes(whole[:end])
        takes_it = subprocess.run(["ssh-keygen", "-Q", "-f", made, other], capture_output=True).returncode == 0
        if doctor._whole(whole[:end].decode("utf-8", "surrogateescape")) != takes_it:
            wrong.append(end)
    assert wrong == []
    assert doctor._whole(f"{LINE}\nwhatever\n")


def krl(*digests):
    return ("SSHKRL\n\0" + b"".join(digests).decode("utf-8", "surrogateescape")) if digests else ""


def test_a_key_is_revoked_by_its_line_and_by_its_hash():
    key, other = keys.parse(LINE), keys.parse(f"ssh-ed25519 {PublicKey('ssh-ed25519', (bytes(32),)).word}")
    assert doctor._revoked(f"{keys.text(other)}\n{LINE}\n", key)
    assert not doctor._revoked(f"{keys.text(other)}\n", key)
    assert doctor._revoked(krl(struct.pack(">I", 32), hashlib.sha256(key.material).digest()), key)
    assert not doctor._revoked(krl(hashlib.sha256(other.material).digest()), key)
