"""A watcher of a door goes on whatever the machine cannot give it: processes, memory, a disk that answers."""

import errno
import os

import pytest

from kpsagent import arming, doorhost, doors, doorwatch
from kpsagent.doorhost import FIRST
from kpsagent.doorstate import load, standing_door
from kpsagent.host import WriteDoor
from kpsagent.local import LocalHost, boot_clock

THEIRS = "PasswordAuthentication no\n"
ENTRY = doors.entry("ab" * 16, "Match User alice\n    PasswordAuthentication yes\n")
SECONDS = 0.3


@pytest.fixture
def door(tmp_path, monkeypatch):
    """A door that is open for a moment; its watcher is about to begin. Returns (the main file, our directory)."""
    monkeypatch.setattr(doorwatch, "_SOON", 0.01)
    config, state = tmp_path / "sshd_config", tmp_path / "state"
    config.write_text(ENTRY + THEIRS)
    state.mkdir(mode=0o711)
    now, boot = boot_clock()
    about = {"id": "ab" * 16, "login": "alice", "from": None, "watchers": [], "operation": "op", "generation": 1}
    files = {"place": "", "match": "", "config": str(config), "entry": ENTRY, "before": True, "connection": None}
    times = {"boot": boot, "opened_at": 0, "deadline": 9999999999, "until": now + SECONDS, "opening_until": now}
    arming.write(str(state / "door-agent"), b"", 0o600)
    arming.write(str(state / "door-agent.second"), b"", 0o600)
    written(state, {**about, **files, **times, "daemon": ["none", 0, "", [], str(config), ""]})
    return config, state


def written(state, door):
    host = LocalHost(str(state))
    host.do(WriteDoor("open", door))
    host.close()


def fails(number):
    raise OSError(number, os.strerror(number))


def test_where_no_process_can_be_started_the_door_is_closed_all_the_same(door, monkeypatch):
    config, state = door
    tried = []
    _, record = standing_door(str(state))
    written(state, dict(record, until=record["until"] + 600))  # its time is over once that was tried, however slow the disk is

    def fork():
        tried.append(config.read_text())
        written(state, record)
        fails(errno.EAGAIN)

    monkeypatch.setattr(os, "fork", fork)  # the other watcher is no more, and cannot be started
    doorwatch.attend(str(state), FIRST)
    assert tried
    assert config.read_text() == THEIRS
    assert standing_door(str(state)) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
def test_where_the_door_cannot_be_read_for_a_while_it_is_closed_all_the_same(door, monkeypatch, number):
    config, state = door
    left = [number] * 5

    def read(directory):
        return fails(left.pop()) if left else standing_door(directory)

    monkeypatch.setattr(doorwatch, "standing_door", read)
    monkeypatch.setattr(doorwatch, "revive_other", lambda *_: None)
    doorwatch.attend(str(state), FIRST)
    assert not left
    assert config.read_text() == THEIRS


def test_where_the_door_cannot_be_read_any_more_it_is_closed_by_what_is_remembered(door, monkeypatch):
    config, state = door
    read = []

    def once(directory):
        read.append(config.read_text())
        if len(read) > 1 and config.read_text() != THEIRS:
            assert len(read) < 1000
            fails(errno.EIO)
        return standing_door(directory)

    for module in (doorwatch, doorhost):
        monkeypatch.setattr(module, "standing_door", once)
    monkeypatch.setattr(doorwatch, "revive_other", lambda *_: None)
    doorwatch.attend(str(state), FIRST)
    assert config.read_text() == THEIRS
    assert standing_door(str(state)) is None


@pytest.mark.parametrize("record", ["", "{", "[]", '{"id": "ab"}', "\0" * 900])
def test_a_door_whose_record_is_damaged_is_closed(door, monkeypatch, record):
    config, state = door
    monkeypatch.setattr(doors, "MAIN_CONFIG", str(config))
    (state / "door.open").write_text(record)
    doorwatch.attend(str(state), FIRST)
    assert config.read_text() == THEIRS
    assert standing_door(str(state)) is None
    assert load(str(state / "state.json"))["door"]["closed_by"] == "damage"
