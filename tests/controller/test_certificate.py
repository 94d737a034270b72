"""The home's own certificate: warned of in time, made anew with the key that it has, and taken up without a new start."""

import datetime
import json
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from controller.errors import Invalid, Unavailable
from controller.model import now
from controller.service import certificate
from controller.settings import Settings
from tests.controller.faces import KPS, here


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    pair = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.ensure(*pair)
    return pair


def test_it_is_made_anew_with_the_key_and_the_names_that_it_has(files: tuple[Path, Path]) -> None:
    before, key = certificate.show(files[0]), files[1].read_bytes()
    after = certificate.renew(*files)
    assert (after.public_key, after.names, files[1].read_bytes()) == (before.public_key, before.names, key)
    assert after.fingerprint != before.fingerprint
    assert after == certificate.show(files[0])
    assert (files[0].stat().st_mode & 0o777, len(list(files[0].parent.iterdir()))) == (0o600, 2)


def test_it_may_be_given_other_names(files: tuple[Path, Path]) -> None:
    names = ["kps.example.com", "192.0.2.5", "2001:db8::1"]
    assert certificate.renew(*files, names).names == names
    for wrong in ("a b", "", "-x", "a,b", "x" * 300):
        with pytest.raises(Invalid):
            certificate.renew(*files, [wrong])
    assert certificate.show(files[0]).names == names


@pytest.mark.parametrize(
    ("left", "code"),
    [(61, None), (59, "certificate_expires_soon"), (0.01, "certificate_expires_soon"), (-1, "certificate_expired")],
)
def test_it_is_warned_of_in_time(files: tuple[Path, Path], left: float, code: str | None) -> None:
    at = certificate.show(files[0]).ends_at - datetime.timedelta(days=left)
    told = certificate.warning(files[0], at)
    assert (None if told is None else told.code) == code
    assert told is None or "kps certificate renew" in told.message


def test_what_is_no_certificate_or_another_key_is_told_and_left(files: tuple[Path, Path]) -> None:
    before = files[0].read_bytes()
    for text in (b"none", b""):
        files[1].write_bytes(text)
        with pytest.raises(Unavailable):
            certificate.renew(*files)
        assert files[0].read_bytes() == before
    files[0].write_bytes(b"none")
    told = certificate.warning(files[0])
    assert told is not None
    assert told.code == "certificate_unusable"


def test_the_commands_show_and_renew_it(settings: Settings, made: Any) -> None:
    certificate.ensure(settings.certificate, settings.certificate_key)
    before = json.loads(here(settings.home, "certificate", "show", "--json").stdout)
    after = json.loads(here(settings.home, "certificate", "renew", "--name", "kps.example.com", "--json").stdout)
    assert (after["public_key"], after["names"]) == (before["public_key"], ["kps.example.com"])
    assert datetime.datetime.fromisoformat(after["ends_at"]) > now() + datetime.timedelta(days=800)
    assert f"sha256//{after['public_key']}" in here(settings.home, "certificate", "show").stdout


def shown(port: int) -> bytes:
    """The certificate that a client is shown now."""
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as raw, anything.wrap_socket(raw) as connection:
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return found


def of(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_at_sighup_the_new_one_is_shown_and_the_log_begins_anew(settings: Settings, made: Any, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / "notify"))
    notified.settimeout(60)
    environment = {"PATH": "/usr/bin:/bin", "KPS_ACCESS_LOG": str(log), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    words = [KPS, "serve", "--home", str(settings.home), "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def heard(word: bytes) -> None:
        while word not in notified.recv(1000).split(b"\n"):
            pass

    try:
        assert process.stdout is not None
        told = ""
        while not told.rstrip().endswith("}"):
            told += process.stdout.readline()
        port = int(json.loads(told)["url"].rpartition(":")[2])
        heard(b"READY=1")
        before = shown(port)
        assert before == of(settings.certificate)
        certificate.renew(settings.certificate, settings.certificate_key)
        assert shown(port) == before
        log.rename(tmp_path / "access.log.1")
        process.send_signal(signal.SIGHUP)
        heard(b"RELOADING=1")
        heard(b"READY=1")
        assert shown(port) == of(settings.certificate) != before
        # A key that is another's is not taken up, and what was there goes on being shown.
        good = settings.certificate.read_bytes()
        settings.certificate.write_bytes(b"none")
        process.send_signal(signal.SIGHUP)
        heard(b"RELOADING=1")
        heard(b"READY=1")
        assert shown(port) == ssl.PEM_cert_to_DER_cert(good.decode())
        with socket.create_connection(("127.0.0.1", port)) as raw:
            trust = ssl.create_default_context(cadata=good.decode())
            with trust.wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(
                    b"GET /fleet/v1/servers?secret=1 HTTP/1.1\r\nHost: x\r\nAuthorization: secret\r\nConnection: close\r\n\r\n"
                )
                while client.recv(4096):
                    pass
        until = time.monotonic() + 60
        while not (log.exists() and log.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        process.terminate()
        heard(b"STOPPING=1")
        assert process.wait(60) == 0
    finally:
        process.kill()
        _, errors = process.communicate(timeout=60)
        notified.close()
    (line,) = [json.loads(each) for each in log.read_text().splitlines()]
    assert {name: line[name] for name in ("event", "method", "path", "status", "address")} == {
        "event": "request",
        "method": "GET",
        "path": "/fleet/v1/servers",
        "status": 401,
        "address": "127.0.0.1",
    }
    assert "secret" not in log.read_text()
    assert (log.stat().st_mode & 0o777, (tmp_path / "access.log.1").read_text()) == (0o600, "")
    assert [json.loads(each)["error"]["code"] for each in errors.splitlines()] == ["certificate_unusable"]
