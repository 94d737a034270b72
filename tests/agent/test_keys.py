"""authorized_keys, row by row: what sshd takes as a key line, we do, and no other."""

import base64
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hostile_keys
import judge
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsagent import keys
from kpsagent.errors import Refused

R = random.Random(20)
ED, EC, RSA, OTHER = (hostile_keys.public_key(R, t) for t in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa", "ssh-ed25519"))
E_FIELD, N_FIELD = RSA.fields


def b64(*fields: bytes) -> str:
    return base64.b64encode(hostile_keys.packed(*fields)).decode()


def spaced(word: str, blank: str) -> str:
    return word[:30] + blank + word[30:]


# name, file, key, whether sshd 9.2 accepts the key, whether a line of the file holds it (None: as accepted)
ROWS = [
    ("a line as ssh-keygen writes it", f"{ED.line} alice@host\n", ED, True, None),
    ("no final newline", f"{OTHER.line}\n{ED.line}", ED, True, None),
    ("no comment", f"{ED.line}\n", ED, True, None),
    ("CRLF", f"{OTHER.line}\r\n{ED.line}\r\n", ED, True, None),
    ("leading blanks and tabs", f" \t {ED.type} \t {ED.word}\t c\n", ED, True, None),
    ("lone CR as separator", f"{OTHER.line} a\r{ED.line} b\r", ED, False, None),
    ("NEL in a comment", f"{OTHER.line} a\x85{ED.line}\n", ED, False, None),
    ("LINE SEPARATOR in a comment", f"# a\u2028{ED.line}\n", ED, False, None),
    ("vertical tab first", f"\x0b{ED.line}\n", ED, False, None),
    ("form feed first", f"\x0c{ED.line}\n", ED, False, None),
    ("no-break space first", f"\xa0{ED.line}\n", ED, False, None),
    ("byte order mark first", f"\ufeff{ED.line}\n", ED, False, None),
    ("the line after a byte order mark", f"\ufeff{OTHER.line}\n{ED.line}\n", ED, True, None),
    ("NUL after the key", f"{ED.line}\0junk\n", ED, True, None),
    ("NUL in the comment", f"{ED.line} a\0b\n", ED, True, None),
    ("NUL first", f"\0{ED.line}\n", ED, False, None),
    ("NUL after a hash", f"#\0{ED.line}\n", ED, False, None),
    ("NUL in the blob", f"{ED.type} {spaced(ED.word, chr(0))}\n", ED, False, None),
    ("comment", f"#{ED.line}\n", ED, False, None),
    ("comment after blanks", f"  # {ED.line}\n", ED, False, None),
    ("no blank before the comment", f"{ED.line}#c\n", ED, False, None),
    ("upper-case type", f"SSH-ED25519 {ED.word}\n", ED, False, None),
    ("short type", f"ed25519 {ED.word}\n", ED, False, None),
    ("blob only", f"{ED.word}\n", ED, False, None),
    ("blank in the blob", f"{ED.type} {spaced(ED.word, ' ')}\n", ED, False, None),
    ("blob over two lines", f"{ED.type} {spaced(ED.word, chr(10))}\n", ED, False, None),
    ("continued line", f"{ED.type} \\\n{ED.word}\n", ED, False, None),
    ("rsa-sha2-256 as type", f"rsa-sha2-256 {RSA.word}\n", RSA, True, None),
    ("rsa-sha2-512 as type", f"rsa-sha2-512 {RSA.word} c\n", RSA, True, None),
    ("type and blob disagree", f"ssh-rsa {ED.word}\n", ED, False, None),
    ("ecdsa types disagree", f"ecdsa-sha2-nistp384 {EC.word}\n", EC, False, None),
    ("vertical tab in the blob", f"{ED.type} {spaced(ED.word, chr(11))}\n", ED, True, None),
    ("form feed in the blob", f"{EC.type} {spaced(EC.word, chr(12))}\n", EC, True, None),
    ("CR in the blob", f"{RSA.type} {spaced(RSA.word, chr(13))}\n", RSA, True, None),
    ("leading zeros in n", f"ssh-rsa {b64(b'ssh-rsa', E_FIELD, bytes(3) + N_FIELD)}\n", RSA, True, None),
    ("leading zeros in e", f"ssh-rsa {b64(b'ssh-rsa', bytes(9) + E_FIELD, N_FIELD)}\n", RSA, True, None),
    ("as many zeros as fit", f"ssh-rsa {b64(b'ssh-rsa', E_FIELD, N_FIELD.rjust(2049, bytes(1)))}\n", RSA, True, None),
    ("more zeros than fit", f"ssh-rsa {b64(b'ssh-rsa', E_FIELD, N_FIELD.rjust(2050, bytes(1)))}\n", RSA, False, None),
    ("negative n", f"ssh-rsa {b64(b'ssh-rsa', E_FIELD, N_FIELD[1:])}\n", RSA, False, None),
    ("inner type rsa-sha2-256", f"ssh-rsa {b64(b'rsa-sha2-256', E_FIELD, N_FIELD)}\n", RSA, True, None),
    ("inner type RSA", f"ssh-rsa {b64(b'RSA', E_FIELD, N_FIELD)}\n", RSA, True, None),
    ("inner type ed25519", f"ssh-ed25519 {b64(b'Ed25519', *ED.fields)}\n", ED, True, None),
    ("inner type ECDSA", f"{EC.type} {b64(b'ECDSA', *EC.fields)}\n", EC, False, None),
    ("NUL ends the inner type", f"ssh-ed25519 {b64(b'ssh-ed25519' + bytes(1), *ED.fields)}\n", ED, True, None),
    ("NUL ends the curve", f"{EC.type} {b64(EC.type.encode(), b'nistp256' + bytes(1), EC.fields[1])}\n", EC, True, None),
    ("two NULs end the inner type", f"ssh-ed25519 {b64(b'ssh-ed25519' + bytes(2), *ED.fields)}\n", ED, False, None),
    ("padding missing", f"{EC.type} {EC.word.rstrip('=')}\n", EC, EC.word.rstrip("=") == EC.word, None),
    ("padding too much", f"{ED.type} {ED.word}=\n", ED, False, None),
    ("bytes after the key", f"{ED.type} {b64(b'ssh-ed25519', *ED.fields, b'')}\n", ED, False, None),
    ("option", f"no-pty {ED.line}\n", ED, True, None),
    ("upper-case option", f"NO-PTY {ED.line}\n", ED, True, None),
    ("commas at the ends and doubled", f",no-pty,,no-user-rc, {ED.line}\n", ED, True, None),
    ("quotes, blanks and escapes in options", f'command="a \\"b # c",no-pty {ED.line}\n', ED, True, None),
    ("unknown option", f'foo="x" {ED.line}\n', ED, False, True),
    ("the line after an unknown option", f"foo {OTHER.line}\n{ED.line}\n", ED, True, None),
    ("blank after a comma", f"no-pty, no-user-rc {ED.line}\n", ED, False, None),
    ("unquoted command", f"command=echo {ED.line}\n", ED, False, True),
    ("single quotes", f"command='a b' {ED.line}\n", ED, False, None),
    ("unterminated quote", f'command="echo {ED.line}\n', ED, False, None),
    ("quoted option name", f'"no-pty" {ED.line}\n', ED, False, True),
    ("odd escape", f'command="a\\\\" {ED.line}\n', ED, False, None),
    ("command twice", f'command="a",command="b" {ED.line}\n', ED, False, True),
    ("from elsewhere", f'from="192.0.2.1" {ED.line}\n', ED, False, True),
    ("from elsewhere, then plain", f'from="192.0.2.1" {ED.line}\n{ED.line}\n', ED, True, None),
    ("expired", f'expiry-time="20200101" {ED.line}\n', ED, False, True),
    ("certificate authority", f"cert-authority {ED.line}\n", ED, False, True),
    ("certificate type", f"ssh-ed25519-cert-v01@openssh.com {ED.word}\n", ED, False, None),
    ("junk around", f"-----BEGIN X-----\n1024 35 123 a\n\udcff\udcfe\x01\n{ED.line}\n\udce9\n", ED, True, None),
    ("a long line before", "# " + "x" * 1_000_000 + f"\n{ED.line}\n", ED, True, None),
    ("the key in another's comment", f"{OTHER.line} not {ED.line}\n", ED, False, None),
    ("the key in another's options", f'environment="A={ED.word}" {OTHER.line}\n', ED, False, None),
    ("a type where options stand", f"ssh-rsa {ED.line}\n", ED, False, True),
    ("empty file", "", ED, False, None),
]


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[judge.Logins]:
    judge.need(judge.SSHD, judge.KEYGEN)
    logins = judge.Logins(tmp_path_factory.mktemp("logins"))
    yield logins
    logins.close()


@pytest.mark.parametrize(("text", "key", "accepted", "holds"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_a_line_holds_a_key_where_sshd_says_so(
    text: str, key: hostile_keys.PublicKey, accepted: bool, holds: bool | None, logins: judge.Logins
) -> None:
    added = keys.add(text, key.line)
    removed = keys.remove(added, keys.parse(key.line))
    asked = [(each, key.blob) for each in (text, added, removed)]
    assert logins.verdicts(asked) == [accepted, True, False]
    assert bool(keys.find(text, keys.parse(key.line))) == (accepted if holds is None else holds)


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_fingerprint_is_what_ssh_keygen_prints(kind: str, tmp_path: Path) -> None:
    judge.need(judge.KEYGEN)
    subprocess.run([judge.KEYGEN, "-q", "-t", kind, "-N", "", "-C", "a b", "-f", tmp_path / "k"], check=True)
    line = (tmp_path / "k.pub").read_text().rstrip("\n")
    assert keys.fingerprint(keys.parse(line)) == judge.fingerprint(line, tmp_path)
    assert keys.text(keys.parse(line)) == line


def test_every_spelling_has_the_fingerprint_of_the_key(tmp_path: Path) -> None:
    judge.need(judge.KEYGEN)
    for _, text, key, accepted, _ in ROWS:
        for line in keys.find(text, keys.parse(key.line)) if accepted else []:
            assert keys.fingerprint(line.key) == judge.fingerprint(key.line, tmp_path)
            if "\r" not in line.text and "\0" not in line.text:
                assert keys.fingerprint(line.key) == judge.fingerprint(line.text, tmp_path) or line.options


SECURITY_KEYS = {
    "sk-ssh-ed25519@openssh.com": (*ED.fields, b"ssh:"),
    "sk-ecdsa-sha2-nistp256@openssh.com": (*EC.fields, b"ssh:"),
}


@pytest.mark.parametrize("type", SECURITY_KEYS)
def test_security_keys_are_known_in_each_spelling(type: str, tmp_path: Path) -> None:
    judge.need(judge.KEYGEN)
    fields = SECURITY_KEYS[type]
    key = keys.parse(f"{type} {b64(type.encode(), *fields)}")
    assert keys.fingerprint(key) == judge.fingerprint(keys.text(key), tmp_path)
    other = f"{type} {b64(type.encode() + bytes(1), *fields[:-1], b'ssh:' + bytes(1))}"
    assert judge.fingerprint(other, tmp_path) == keys.fingerprint(key)
    assert keys.find(other, key)
    assert not keys.find(f"{type} {b64(type.encode(), *fields[:-1], b'other')}", key)


def test_webauthn_is_another_word_for_a_security_key(tmp_path: Path) -> None:
    type = "sk-ecdsa-sha2-nistp256@openssh.com"
    blob = b64(type.encode(), *SECURITY_KEYS[type])
    assert keys.find(f"webauthn-{type} {blob}", keys.parse(f"{type} {blob}"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        f"{ED.line}\n",
        f"{ED.line} a\n{OTHER.line}",
        f"{ED.line} a\r{OTHER.line}",
        f"{ED.line} a\0b",
        f"no-pty {ED.line}",
        f"# {ED.line}",
        f"{ED.line} naïve",
        f'{ED.line} a"b',
        f"{ED.line} a\tb",
        f"{ED.line} a\x85b",
        f"{ED.line} {'x' * 129}",
        f"ssh-ed25519 {RSA.word}",
        f"ssh-rsa {b64(b'ssh-rsa', E_FIELD, hostile_keys.integer(1 << 1000 | 1))}",
        f"ssh-ed25519-cert-v01@openssh.com {ED.word}",
        f"ssh-ed25519 {ED.word[:-4]}",
        f"ecdsa-sha2-nistp256 {b64(EC.type.encode(), b'nistp256', bytes([2]) + EC.fields[1][1:33])}",
    ],
)
def test_a_line_that_is_not_exactly_a_public_key_is_refused(line: str) -> None:
    with pytest.raises(Refused) as refusal:
        keys.parse(line)
    assert refusal.value.cause == "key_type_refused"


def test_a_parsed_key_is_written_in_its_plainest_spelling() -> None:
    odd = f"  rsa-sha2-512 \t{b64(b'RSA', bytes(4) + E_FIELD, bytes(4) + N_FIELD)}\t me@home "
    assert keys.text(keys.parse(odd)) == f"{RSA.line} me@home"
    assert keys.parse(odd).bits == 2048
    assert keys.parse(ED.line).bits == 0
    assert keys.text(keys.parse(ED.line)) == ED.line


def test_dss_keys_are_recognised() -> None:
    fields = [hostile_keys.integer(R.getrandbits(bits) | 1) for bits in (1024, 160, 1023, 1023)]
    key = keys.parse(f"ssh-dss {b64(b'ssh-dss', *fields)}")
    assert key.type == "ssh-dss"
    assert keys.find(f"ssh-dss {b64(b'dsa', *[bytes(2) + field for field in fields])}", key)


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_are_told_apart_by_name_outside_quotes() -> None:
    options = 'NO-pty,Command="a,b=\\"c,d\\"",,environment="from=x",tunnel="0",'
    assert keys.option_names(options) == {"no-pty", "command", "environment", "tunnel"}
    assert keys.option_names("") == set()


@pytest.mark.parametrize("options", ['command="x"', 'FROM="a"', 'no-pty,expiry-time="1"', "cert-authority", 'principals="a"'])
def test_options_that_may_keep_a_login_out_restrict(options: str) -> None:
    assert keys.restricted(options)


@pytest.mark.parametrize("options", ["", "no-pty", 'environment="command=x"', "restrict,pty", "no-port-forwarding"])
def test_options_that_let_a_login_in_do_not_restrict(options: str) -> None:
    assert not keys.restricted(options)


def test_options_are_handed_over_as_they_stand() -> None:
    (line,) = keys.lines(f'\t from="a",Command="x \\" y"  {ED.line} c d\r')
    assert (line.index, line.options, line.comment) == (0, 'from="a",Command="x \\" y"', "c d\r")


# -- add, remove, inherit ----------------------------------------------------------------------------------------------


def test_ours_goes_before_a_line_with_options() -> None:
    text = f'{OTHER.line}\ncommand="x" {ED.line} c\n{ED.line}\n'
    assert keys.add(text, ED.line) == f'{OTHER.line}\n{ED.line}\ncommand="x" {ED.line} c\n{ED.line}\n'


def test_a_line_without_options_that_decides_already_is_enough() -> None:
    text = f'{OTHER.line}\n  rsa-sha2-256 {RSA.word} c\ncommand="x" {RSA.line}\n'
    assert keys.add(text, RSA.line) == text


@pytest.mark.parametrize(
    "line",
    [
        f"{ED.type} {b64(b'ed25519', *ED.fields)}",
        f"{RSA.type} {b64(b'rsa-sha2-256', *RSA.fields)}",
        f"{RSA.type} {b64(b'ssh-rsa', E_FIELD, bytes(1) + N_FIELD)}",
    ],
    ids=["short name", "name of a signature", "leading zero"],
)
def test_a_spelling_that_not_every_sshd_takes_does_not_count_as_bound(line: str) -> None:
    """OpenSSH 10 refuses some of what 9.2 takes: ours goes before it, and unbind takes both."""
    key = ED if line.startswith(ED.type) else RSA
    added = keys.add(f"{OTHER.line}\n{line} c\n", key.line)
    assert added == f"{OTHER.line}\n{key.line}\n{line} c\n"
    assert keys.remove(added, keys.parse(key.line)) == f"{OTHER.line}\n"


@pytest.mark.parametrize("line", [f"{ED.line}\r", f"\t{ED.type}\t{spaced(ED.word, chr(11))} c", f"{ED.line}\0x"])
def test_white_space_and_line_ends_do_not_make_a_spelling_unusual(line: str) -> None:
    assert keys.add(f"{line}\n", ED.line) == f"{line}\n"


def test_a_file_ends_as_it_ended() -> None:
    assert keys.add("", ED.line) == f"{ED.line}\n"
    assert keys.add("# a", ED.line) == f"# a\n{ED.line}"
    assert keys.add("# a\r\n", ED.line) == f"# a\r\n{ED.line}\n"
    assert keys.remove(f"# a\n{ED.line}", keys.parse(ED.line)) == "# a"


def test_every_line_that_holds_the_key_goes() -> None:
    text = f'{RSA.line} 1\n{OTHER.line}\ncert-authority {RSA.line}\nrsa-sha2-256 {RSA.word}\n# {RSA.line}\nfrom="x" {RSA.line}'
    assert keys.remove(text, keys.parse(RSA.line)) == f"{OTHER.line}\n# {RSA.line}"


def test_the_heir_of_a_line_has_its_options() -> None:
    text = f'from="a",command="b \\" c"  {ED.line} old\r\n{OTHER.line}\nno-pty {ED.line}'
    want = (
        f'from="a",command="b \\" c"  {ED.line} old\r\nfrom="a",command="b \\" c" {EC.line} new\r\n'
        f"{OTHER.line}\nno-pty {ED.line}\nno-pty {EC.line} new"
    )
    assert keys.inherit(text, keys.parse(ED.line), f"{EC.line} new") == want
    assert keys.inherit(want, keys.parse(ED.line), f"{EC.line} renamed") == want


def test_without_an_old_line_the_heir_is_added() -> None:
    assert keys.inherit(f"{OTHER.line}\n", keys.parse(ED.line), EC.line) == f"{OTHER.line}\n{EC.line}\n"


def test_a_key_is_not_its_own_heir() -> None:
    text = f"no-pty {ED.line}\n"
    assert keys.inherit(text, keys.parse(ED.line), ED.line) == keys.add(text, ED.line)


LETTERS = st.sampled_from(
    [*" \t\r\x0b\x0c\x85\u2028\0#\"\\,='ab", "\udcff", "\ufeff", "no-pty ", 'command="', "ssh-ed25519 ", "ssh-rsa "]
)
LINES = st.one_of(
    st.lists(LETTERS, max_size=12).map("".join),
    st.sampled_from(
        [OTHER.line, f"{EC.line} c", f"# {ED.line}", f"\x0b{ED.line}", f"{OTHER.line} x\r{ED.line}", f"a,b {RSA.line}"]
    ),
)
TEXTS = st.tuples(st.lists(LINES, max_size=8).map("\n".join), st.sampled_from(["", "\n"])).map("".join)


@given(TEXTS)
def test_add_then_remove_is_identity(text: str) -> None:
    text = keys.remove(text, keys.parse(ED.line))
    assert keys.remove(keys.add(text, ED.line), keys.parse(ED.line)) == text


@given(TEXTS)
def test_add_twice_is_add_once(text: str) -> None:
    once = keys.add(text, ED.line)
    assert keys.add(once, ED.line) == once
    assert not keys.find(once, keys.parse(ED.line))[0].options


@given(TEXTS, st.sampled_from([ED, EC, RSA]))
def test_neighbours_survive_byte_for_byte(text: str, key: hostile_keys.PublicKey) -> None:
    mine = keys.parse(key.line)
    held = {line.index for line in keys.find(text, mine)}
    others = [line for index, line in enumerate(text.split("\n")) if index not in held]
    assert [line for line in keys.remove(text, mine).split("\n") if line] == [line for line in others if line]
    for after in (keys.add(text, key.line), keys.inherit(text, keys.parse(OTHER.line), key.line)):
        left = iter(after.split("\n"))
        assert all(line in left for line in text.split("\n") if line)
        assert keys.find(after, mine)


@given(TEXTS)
def test_inherit_then_remove_new_is_identity(text: str) -> None:
    text = keys.remove(text, keys.parse(RSA.line))
    heirs = keys.inherit(text, keys.parse(ED.line), RSA.line)
    assert keys.remove(heirs, keys.parse(RSA.line)) == text
    assert keys.inherit(heirs, keys.parse(ED.line), RSA.line) == heirs


# -- odd files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_text_is_refused(encoding: str) -> None:
    text = f"{ED.line}\n".encode(encoding).decode("utf-8", "surrogateescape")
    with pytest.raises(Refused, match="UTF-16") as refusal:
        keys.refuse_odd(text, "/home/a/.ssh/authorized_keys")
    assert refusal.value.cause == "authorized_keys_unreadable"


def test_a_huge_file_is_refused() -> None:
    with pytest.raises(Refused, match="larger"):
        keys.refuse_odd("x" * (keys.LARGEST + 1), "/k")


@pytest.mark.parametrize("text", ["", "a", "\0", "\0" + ED.line, f"\ufeff{ED.line}", "\udcff", f"{ED.line}\0\r\n", "x" * 100])
def test_odd_text_that_can_be_edited_is_not_refused(text: str) -> None:
    keys.refuse_odd(text, "/k")
