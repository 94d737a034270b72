"""What others write into a file between our last look and our rename, and just after it, is kept; and we say that they did."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kpsagent import files, swap
from kpsagent.errors import Changed
from tests.contracts.places import local_place

Act = Callable[[Path], None]
really_exchange = swap.Swapper.exchange


@pytest.fixture
def place() -> Iterator:
    with local_place() as made:
        yield made


@pytest.fixture
def path(place) -> Path:
    place.put(f"{place.home}/authorized_keys", "one\ntwo\n")
    return Path(place.home, "authorized_keys")


@pytest.fixture(params=["by the library", "by perl"])
def way(request, monkeypatch) -> str:
    """How two names change places: where the C library can be called, and where only perl can."""
    if request.param == "by perl":
        monkeypatch.setattr(swap, "_library", lambda: None)
    return request.param


def meanwhile(monkeypatch, act: Act, path: Path) -> None:
    """Have somebody act just before two names change places, when all our looks are over; once."""
    acts = [act]

    def exchange(*names):
        while acts:
            acts.pop()(path)
        return really_exchange(*names)

    monkeypatch.setattr(swap.Swapper, "exchange", exchange)


def appends(path: Path) -> None:
    with path.open("a") as stream:
        stream.write("theirs\n")


def renames(path: Path) -> None:
    new = path.with_name("sedX1")
    new.write_text(path.read_text() + "theirs\n")
    os.rename(new, path)


def rewrites(path: Path) -> None:
    path.write_text("theirs\n")


def takes_out(path: Path) -> None:
    new = path.with_name("sedX1")
    new.write_text("two\n")
    os.rename(new, path)


@pytest.mark.parametrize(
    ("act", "holds"),
    [
        (appends, "one\ntwo\nours\ntheirs\n"),
        (renames, "one\ntwo\ntheirs\n"),
        (rewrites, "theirs\n"),
        (takes_out, "two\n"),
    ],
)
def test_what_came_after_our_last_look_is_kept_and_told(monkeypatch, place, path, way, act, holds):
    meanwhile(monkeypatch, act, path)
    with pytest.raises(Changed) as changed:
        files.replace(str(path), place.account, "one\ntwo\n", "one\ntwo\nours\n")
    assert changed.value.cause == "authorized_keys_changed"
    assert path.read_text() == holds
    assert os.listdir(place.home) == ["authorized_keys"]


def test_a_writer_who_had_the_file_open_is_waited_for(monkeypatch, place, path, way):
    """As `>>` does: opened before we put ours in its place, written after."""

    def late(path: Path) -> None:
        child = os.fork()
        if child == 0:
            os.close(reading)
            opened = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.close(writing)  # says that it has the file
            while path.read_text() == "one\ntwo\n":
                pass
            time.sleep(0.1)  # it takes its time, and is waited for
            os.write(opened, b"theirs\n")
            os._exit(0)
        os.close(writing)
        os.read(reading, 1)
        children.append(child)

    monkeypatch.setattr(files, "_AFTER_SECONDS", 30)
    reading, writing = os.pipe()
    children: list[int] = []
    meanwhile(monkeypatch, late, path)
    with pytest.raises(Changed):
        files.replace(str(path), place.account, "one\ntwo\n", "one\ntwo\nours\n")
    os.waitpid(children[0], 0)
    os.close(reading)
    assert path.read_text() == "one\ntwo\nours\ntheirs\n"


def test_a_file_that_somebody_has_open_to_write_in_is_let_alone(place, path):
    with path.open("a"), pytest.raises(Changed, match="has it open to write in it"):
        files.replace(str(path), place.account, "one\ntwo\n", "one\ntwo\nours\n")
    files.replace(str(path), place.account, "one\ntwo\n", "one\ntwo\nours\n")
    assert path.read_text() == "one\ntwo\nours\n"


def test_who_holds_a_file_open_to_write_in_it_does_not_keep_an_undo_out_of_it(place, path, way):
    with path.open("a"), pytest.raises(Changed, match="has the file open to write in it that stood there"):
        files.replace(str(path), place.account, "one\ntwo\n", "one\n", insist=True)
    assert path.read_text() == "one\n"
    assert os.listdir(place.home) == ["authorized_keys"]


def test_where_names_cannot_change_places_what_is_appended_late_is_kept_all_the_same(monkeypatch, place, path):
    acts = [appends]

    def cannot(*_):
        while acts:
            acts.pop()(path)
        return False

    monkeypatch.setattr(swap.Swapper, "exchange", cannot)
    with pytest.raises(Changed):
        files.replace(str(path), place.account, "one\ntwo\n", "one\ntwo\nours\n")
    assert path.read_text() == "one\ntwo\nours\ntheirs\n"


def test_where_the_kernel_tells_nobody_who_writes_the_file_is_replaced_all_the_same(monkeypatch, place, path):
    """As a file system of the network does: it gives no lease, or refuses every one."""
    for answer in (None, False):
        monkeypatch.setattr(swap, "nobody_writes", lambda _, answer=answer: answer)
        place.put(str(path), "one\n")
        files.replace(str(path), place.account, "one\n", "two\n")
        assert path.read_text() == "two\n"


def test_a_file_that_is_taken_away_while_somebody_adds_to_it_is_put_back(monkeypatch, place, path):
    really_rename = os.rename

    def rename(*names, **how):
        if path.exists() and path.read_text() == "one\ntwo\n":
            appends(path)
        really_rename(*names, **how)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(Changed):
        files.delete(str(path), place.account, "one\ntwo\n")
    assert path.read_text() == "one\ntwo\ntheirs\n"
    assert os.listdir(place.home) == ["authorized_keys"]


def test_names_change_places_and_what_cannot_is_told(place, path, way):
    place.put(f"{place.home}/other", "other\n")
    parent = os.open(place.home, os.O_RDONLY)
    try:
        with files.acting_as(place.account), swap.Swapper(parent) as swapper:
            assert swapper.exchange("authorized_keys", "other")
            with pytest.raises(FileNotFoundError):
                swapper.exchange("authorized_keys", "nothing")
    finally:
        os.close(parent)
    assert (path.read_text(), Path(place.home, "other").read_text()) == ("other\n", "one\ntwo\n")


def on_perl(monkeypatch, act):
    """Have the login do this to the process that exchanges, once the request is written and before the answer is read."""
    monkeypatch.setattr(swap, "_library", lambda: None)
    really_answer, really_write = swap._answer, os.write
    asked: list[swap.Swapper] = []

    def exchange(swapper, *names):
        asked.append(swapper)
        return really_exchange(swapper, *names)

    def answer(out):
        while asked:
            act(asked.pop(), really_answer, out)
            monkeypatch.setattr(swap, "_PERL_SECONDS", 1)  # who is to answer may take its time; from now on nobody does
        return really_answer(out)

    def write(opened, content):
        if asked and act is stopped_before:
            act(asked.pop(), really_answer, opened)
            monkeypatch.setattr(swap, "_PERL_SECONDS", 1)
        return really_write(opened, content)

    monkeypatch.setattr(swap.Swapper, "exchange", exchange)
    monkeypatch.setattr(swap, "_answer", answer)
    monkeypatch.setattr(swap.os, "write", write)


def stopped_before(swapper, _, __):
    os.kill(swapper._perl[0], signal.SIGSTOP)


def killed_after(swapper, really_answer, out):
    assert really_answer(out) == 0  # the names have changed places, and nobody hears it
    os.kill(swapper._perl[0], signal.SIGKILL)


def stopped_after(swapper, really_answer, out):
    assert really_answer(out) == 0
    os.kill(swapper._perl[0], signal.SIGSTOP)


@pytest.mark.parametrize("act", [stopped_before, killed_after, stopped_after])
def test_a_login_that_stops_or_kills_what_exchanges_neither_holds_us_up_nor_gets_its_old_text_back(monkeypatch, place, path, act):
    on_perl(monkeypatch, act)
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for ever"))
    signal.alarm(20)
    try:
        files.replace(str(path), place.account, "one\ntwo\n", "ours\n")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert path.read_text() == "ours\n"
    assert os.listdir(place.home) == ["authorized_keys"]


def test_on_a_disk_at_rest_nothing_of_the_disk_is_started(monkeypatch, place, path):
    monkeypatch.setattr(swap, "_library", lambda: None)
    monkeypatch.setattr(swap, "_confined", [])
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a program of the disk is started"))
    swap.confine()
    files.replace(str(path), place.account, "one\ntwo\n", "ours\n")
    assert path.read_text() == "ours\n"
