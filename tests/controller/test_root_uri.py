"""Where a root key lives: what a URI may say, and what each kind refuses before it is used."""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from controller.errors import Conflict, Problem, Unavailable
from controller.kms import root
from controller.kms.root import awskms, pin, pkcs11
from controller.kms.root.file import FileRootKey
from controller.kms.root.uri import parse
from controller.model import Secret
from tests import roots

TOKEN = "pkcs11:token=kps;object=root?module-path=/usr/lib/hsm.so&pin-source="


def refusal(uri: str, home: Path) -> str:
    with pytest.raises(Problem) as refused:
        root.open_root(uri, home)
    return f"{refused.value.code}: {refused.value.message}"


def test_a_uri_is_taken_apart() -> None:
    uri = parse("pkcs11:token=My%20token;id=%01%FF?module-path=/usr/lib/hsm.so&pin-source=file:/run/a%20b")
    assert dict(uri.attributes) == {"token": "My token", "id": "\x01\xff"}
    assert dict(uri.query) == {"module-path": "/usr/lib/hsm.so", "pin-source": "file:/run/a b"}
    assert parse("file:a?b").path == "a?b"
    assert parse("awskms:alias/kps?region=eu-central-1").path == "alias/kps"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "no scheme"),
        ("/etc/root.key", "no scheme"),
        ("vault:secret", "scheme vault; a root key is one of file:..., pkcs11:..., awskms:..."),
        ("FILE:x", "no scheme"),
        ("file:", "names no root key"),
        ("file:a%00b", "names no root key"),
        ("file:a\nb", "can be printed"),
        ("file:" + "a" * 2048, "2048"),
        ("pkcs11:", "names no root key"),
        (TOKEN + "file:/run/pin&colour=red", "'colour': not known in a pkcs11 URI"),
        (TOKEN + "file:/run/pin&pin-source=fd:3", "pin-source: give it one value, once"),
        (TOKEN.replace("token=kps;", "") + "fd:3", "lacks token=LABEL or serial=NUMBER"),
        (TOKEN.replace("object=root", "type=private") + "fd:3", "object=NAME or id=BYTES, type=secret-key"),
        ("pkcs11:token=a;object=b?pin-source=fd:3", "lacks module-path=FILE, absolute"),
        ("pkcs11:token=a;object=b?module-path=hsm.so&pin-source=fd:3", "lacks module-path=FILE, absolute"),
        ("pkcs11:token=a;object=b?module-path=/hsm.so", "give the PIN by pin-source"),
        (TOKEN + "fd:x", "give the PIN by pin-source"),
        (TOKEN + "|cat /run/pin", "give the PIN by pin-source"),
        (TOKEN + "file:pin", "give the PIN by pin-source"),
        ("awskms:key?region=eu-central-1&endpoint=http://kms.example.org", "the endpoint must be https"),
    ],
)
def test_a_uri_that_is_none_is_refused_and_says_why(uri: str, why: str, tmp_path: Path) -> None:
    said = refusal(uri, tmp_path)
    assert said.startswith("root_key_uri_unusable")
    assert why in said


@pytest.mark.parametrize("where", ["pkcs11:token=kps;object=root;pin-value=4711", TOKEN + "fd:3&pin-value=4711"])
def test_a_pin_in_a_uri_is_refused_by_name_and_not_repeated(where: str, tmp_path: Path) -> None:
    said = refusal(where, tmp_path)
    assert "pin-value" in said
    assert "4711" not in said


def test_a_path_that_is_not_absolute_is_in_the_home(tmp_path: Path) -> None:
    made = root.make_root("file:keys.root", tmp_path)
    assert root.open_root(f"file://{tmp_path}/keys.root", Path("/")).check_value == made.check_value


@pytest.mark.parametrize(("uri", "extra"), [(TOKEN + "fd:3", "hsm"), ("awskms:key?region=eu-central-1", "aws")])
def test_without_the_library_it_says_what_to_install(
    uri: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pkcs11", "boto3", "botocore.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    assert f"install kps with its extra {extra}" in refusal(uri, tmp_path)


# -- opened at its first use


class Forgetful(FileRootKey):
    """Gives back another key than was wrapped."""

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        return Secret(bytes(32))


def test_a_root_key_that_gives_back_something_else_is_not_used(tmp_path: Path) -> None:
    FileRootKey.make(tmp_path / "root.key")
    later = root.LaterRootKey("file:root.key", lambda: Forgetful(tmp_path / "root.key"))
    with pytest.raises(Unavailable) as refused:
        later.wrap(Secret(bytes(32)), b"")
    assert refused.value.code == "root_key_unsound"


def test_a_root_key_that_is_given_is_taken_without_writing_beside_it(tmp_path: Path) -> None:
    given = FileRootKey.make(tmp_path / "root.key")
    before = tmp_path.stat().st_mtime_ns
    assert FileRootKey.make(tmp_path / "root.key").check_value == given.check_value
    assert tmp_path.stat().st_mtime_ns == before


def test_another_root_key_than_on_record_wraps_nothing(tmp_path: Path) -> None:
    root.record(tmp_path, [root.Known("file:root.key", "0" * 16)])
    FileRootKey.make(tmp_path / "root.key")
    (later,) = root.roots(tmp_path)
    with pytest.raises(Unavailable) as refused:
        later.wrap(Secret(bytes(32)), b"")
    assert refused.value.code == "root_key_wrong"


def test_what_could_not_be_opened_is_opened_once_it_is_there(tmp_path: Path) -> None:
    made = FileRootKey.make(tmp_path / "root.key")
    root.record(tmp_path, [root.Known("file:root.key", made.check_value)])
    (tmp_path / "root.key").rename(tmp_path / "away")
    (later,) = root.roots(tmp_path)
    assert later.check_value == made.check_value
    with pytest.raises(Unavailable):
        later.opened()
    (tmp_path / "away").rename(tmp_path / "root.key")
    assert later.unwrap(made.wrap(Secret(b"x"), b""), b"").open() == b"x"


def test_another_way_to_the_same_key_will_do_and_another_key_will_not(tmp_path: Path) -> None:
    made = FileRootKey.make(tmp_path / "root.key")
    other = FileRootKey.make(tmp_path / "other.key")
    with pytest.raises(Unavailable) as refused:
        root.roots(tmp_path, "file:other.key")
    assert refused.value.code == "root_record_missing"
    root.record(tmp_path, [root.Known("file:root.key", made.check_value)])
    (tmp_path / "root.key").rename(tmp_path / "moved.key")
    assert root.roots(tmp_path, "file:moved.key")[0].opened().check_value == made.check_value
    with pytest.raises(Unavailable) as refused:
        root.roots(tmp_path, "file:other.key")[0].opened()
    assert refused.value.code == "root_key_wrong"
    assert other.check_value in refused.value.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"roots": []}', '{"roots": [{"uri": "file:x"}]}', '{"roots": [{"uri": 1, "check": 2}]}']
)
def test_a_record_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "root.json").write_text(text)
    with pytest.raises(Unavailable) as refused:
        root.known(tmp_path)
    assert refused.value.code == "root_record_unreadable"


def test_a_record_changes_only_where_nobody_works(tmp_path: Path) -> None:
    with root.in_use(tmp_path), root.in_use(tmp_path):
        with pytest.raises(Conflict) as refused, root.changing(tmp_path):
            pass
        assert refused.value.code == "home_in_use"
    with root.changing(tmp_path):
        with pytest.raises(Conflict) as refused, root.in_use(tmp_path):
            pass
        assert refused.value.code == "root_rotating"
    with root.in_use(tmp_path):
        pass


# -- PINs


def a_source(place: object) -> pin.Source:
    return pin.Source(place)  # type: ignore[arg-type]


def test_a_pin_is_read_without_the_end_of_its_line(tmp_path: Path) -> None:
    assert a_source(roots.pin(tmp_path / "pin", "4711\r")).read().open() == b"4711"


@pytest.mark.parametrize(("text", "code"), [("", "root_pin_missing"), ("x" * 300, "root_pin_malformed")])
def test_a_pin_that_is_none_is_refused(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(Unavailable) as refused:
        a_source(roots.pin(tmp_path / "pin", text)).read()
    assert refused.value.code == code


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_pin_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = roots.pin(tmp_path / "pin", "4711")
    path.chmod(mode)
    with pytest.raises(Unavailable) as refused:
        a_source(path).read()
    assert refused.value.code == "root_pin_exposed"
    assert "4711" not in refused.value.message


def test_a_pin_comes_from_a_descriptor_that_was_given_and_from_no_other() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"4711\n")
    os.close(writing)
    with pytest.raises(Unavailable) as refused:  # one of our own: never handed on
        a_source(reading).read()
    assert refused.value.code == "root_pin_missing"
    os.set_inheritable(reading, True)
    assert a_source(reading).read().open() == b"4711"
    with pytest.raises(Unavailable) as refused:  # read, and closed
        a_source(reading).read()
    assert refused.value.code == "root_pin_missing"


class Lock:
    """A token that takes one PIN, and counts."""

    def __init__(self, home: Path, right: str) -> None:
        self.home, self.right, self.tries = home, right, 0

    def login(self, source: pin.Source, *, again: bool = False) -> None:
        with pin.one_attempt(self.home, "token t", source, again=again):
            self.tries += 1
            if source.read().open().decode() != self.right:
                raise pin.Refused("PinIncorrect")


def test_a_wrong_pin_is_tried_once_until_it_is_another_or_somebody_says_so(tmp_path: Path) -> None:
    lock, source = Lock(tmp_path, "right"), a_source(roots.pin(tmp_path / "pin", "wrong"))
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            lock.login(source)
        assert refused.value.code == "root_pin_refused"
        assert "--try-pin-again" in refused.value.message
    assert lock.tries == 1
    with pytest.raises(Unavailable):
        lock.login(source, again=True)
    assert lock.tries == 2
    roots.pin(tmp_path / "pin", "right")
    lock.login(source)
    lock.login(source)
    assert lock.tries == 4
    assert "wrong" not in (tmp_path / pin.REMEMBERED).read_text()
    assert (tmp_path / pin.REMEMBERED).stat().st_mode & 0o777 == 0o600


def test_a_wrong_pin_is_tried_once_however_many_come_at_once(tmp_path: Path) -> None:
    lock, source, together = Lock(tmp_path, "right"), a_source(roots.pin(tmp_path / "pin", "wrong")), threading.Barrier(8)

    def login() -> None:
        together.wait()
        with pytest.raises(Unavailable):
            lock.login(source)

    threads = [threading.Thread(target=login) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lock.tries == 1


# -- in a token


def test_threads_share_one_session_of_a_token(tmp_path: Path) -> None:
    keys = [roots.root("pkcs11", tmp_path) for _ in range(2)]
    wrapped, failed = keys[0].wrap(Secret(b"x" * 32), b"c"), []

    def work(key: root.RootKey) -> None:
        try:
            for _ in range(50):
                assert key.unwrap(wrapped, b"c").open() == b"x" * 32
                key.wrap(Secret(b"y" * 32), b"c")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(keys[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_token_is_not_used_across_a_fork(tmp_path: Path) -> None:
    key = roots.root("pkcs11", tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            key.wrap(Secret(bytes(32)), b"")
        except Unavailable as problem:
            os.write(writing, problem.code.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as said:
        assert said.read() == b"root_key_unreachable"
    key.wrap(Secret(bytes(32)), b"")


def test_the_key_was_made_in_the_token_and_stays_there(tmp_path: Path) -> None:
    import pkcs11 as library

    key = roots.root("pkcs11", tmp_path)
    assert isinstance(key, pkcs11.Pkcs11RootKey)
    attribute = library.Attribute
    yes, no = ("LOCAL", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "TOKEN", "PRIVATE"), ("WRAP", "SIGN", "DERIVE")
    wanted = dict.fromkeys(yes, True) | dict.fromkeys(no, False)
    assert {name: key._key[attribute[name]] for name in wanted} == wanted
    with pytest.raises(library.exceptions.AttributeSensitive):
        key._key[attribute.VALUE]


@pytest.mark.parametrize("flaw", [{"EXTRACTABLE": True}, {"SENSITIVE": False}, {"bits": 128}])
def test_a_key_that_could_leave_the_token_is_not_taken(tmp_path: Path, flaw: dict[str, object]) -> None:
    import pkcs11 as library

    uri = roots.uri("pkcs11", tmp_path)
    with pytest.raises(Unavailable) as refused:
        root.open_root(uri, tmp_path)
    assert refused.value.code == "root_key_missing"
    template = {library.Attribute.SENSITIVE: True, library.Attribute.EXTRACTABLE: False}
    template |= {library.Attribute[name]: value for name, value in flaw.items() if name != "bits"}
    token = library.lib(str(roots.MODULE)).get_token(token_label="kps")
    with token.open(rw=True) as session:
        bits, label = int(str(flaw.get("bits", 256))), parse(uri).attributes["object"]
        session.generate_key(library.KeyType.AES, bits, label=label, store=True, template=template)
    assert refusal(uri, tmp_path).startswith("root_key_unsuitable")


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        (("token=kps", "token=none"), "root_key_unreachable", "no such token"),
        (("libsofthsm2.so", "none.so"), "root_key_unreachable", "cannot open shared object"),
        (("object=root", "object=none"), "root_key_missing", "no such key"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, change: tuple[str, str], code: str, why: str) -> None:
    roots.root("pkcs11", tmp_path)
    said = refusal(roots.uri("pkcs11", tmp_path).replace(*change), tmp_path)
    assert said.startswith(code)
    assert why in said


# -- in AWS KMS


def test_what_was_changed_and_checked_anew_is_refused_by_the_service(tmp_path: Path) -> None:
    key = roots.root("awskms", tmp_path)
    assert isinstance(key, awskms.AwsKmsRootKey)
    wrapped = key.wrap(Secret(b"x" * 32), b"c")
    blob = bytearray(wrapped[len(key.MARK) + 16 :])
    blob[-1] ^= 1
    with pytest.raises(Problem):
        key.unwrap(key._head(bytes(blob)) + bytes(blob), b"c")


def test_a_key_that_is_unknown_is_told(tmp_path: Path) -> None:
    uri = roots.uri("awskms", tmp_path)
    unknown = uri.replace(parse(uri).path, "00000000-0000-4000-8000-000000000000")
    assert refusal(unknown, tmp_path).startswith("root_key_missing")


def test_a_service_that_does_not_answer_is_tried_a_few_times_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots.uri("awskms", tmp_path)  # sets the credentials
    asked = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            nonlocal asked
            while asked < awskms.ATTEMPTS:
                connection, _ = server.accept()
                asked += 1
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", slept.append)
        said = refusal(f"awskms:key?region=eu-central-1&endpoint=http://127.0.0.1:{port}", tmp_path)
        thread.join()
    assert said.startswith("root_key_unreachable")
    assert asked == awskms.ATTEMPTS
    assert len(slept) == awskms.ATTEMPTS - 1


def test_the_context_is_bound_and_holds_no_secret() -> None:
    assert json.dumps(awskms._context(b"kps\0\1")) == '{"kps": "context:6b70730001"}'
