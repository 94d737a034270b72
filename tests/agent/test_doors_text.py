"""What stands in sshd_config for a door, how it goes again, and when a door is over. Text and numbers only."""

import pytest

from kpsagent import doors, plan, sshd
from kpsagent.errors import Failed
from kpsagent.host import (
    AskSshd,
    Clock,
    Daemon,
    EndHalfOpen,
    File,
    FindDaemon,
    Lock,
    Output,
    Read,
    ReadDoor,
    Reload,
    ReloadOthers,
    Replace,
    Wall,
    WriteDoor,
)

ENTRY = doors.entry("ab" * 16, 'Include "/run/kps-door"\n')
TEXTS = ["", "Port 22\n", "no final newline", "\n\n", "Match all\n", "# kps: begin\nUsePAM yes\n# kps: end\nX yes\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_was_put_in_is_taken_out_to_the_byte(text):
    assert doors.without(ENTRY + text, ENTRY) == text
    after, ours = doors.before_first_match(text, ENTRY)
    assert after != text
    assert doors.without(after, ours) == text


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_of_the_owner_s_stands_behind_our_match(text):
    lines = doors.entry("ab" * 16, doors.match("alice", None, [("PasswordAuthentication", "yes")]))
    after, _ = doors.before_first_match(text, lines)
    behind = after.partition(lines)[2]
    assert behind == "" or behind.startswith("Match")


@pytest.mark.parametrize("lines", ["Match User alice\n    PasswordAuthentication yes\n", 'Include "/run/kps-door"\n'])
def test_our_lines_are_made_out_in_a_file_where_nothing_else_is_known_of_them(lines):
    ours = doors.entry("ab" * 16, lines)
    assert doors.left_in(f"X11Forwarding no\n{ours}Match User bob\n    X11Forwarding yes\n") == ("ab" * 16, ours)
    theirs = ours.replace(doors.MARK + " end", f"X11Forwarding no\n{doors.MARK} end")
    assert doors.left_in(theirs) == ("ab" * 16, ours)
    left = doors.without(theirs, doors.left_in(theirs)[1])
    assert "X11Forwarding no" in left
    assert lines.split("\n")[-2] not in left
    assert doors.left_in("X11Forwarding no\n# kps: door end\n") == ("", "")
    cut = "# kps: door \nInclude /run/kps-door\n# kps: door end\n"
    assert doors.left_in(cut) == ("", cut)
    assert doors.left_in(ours.replace(doors.MARK + " end\n", "")) == ("", "")


def test_our_lines_as_comments_are_as_long_and_are_taken_out_too():
    assert len(doors.muted(MATCH)) == len(MATCH)
    assert all(line.startswith("#") for line in doors.muted(MATCH).split("\n")[:-1])
    assert doors.without(f"a\n{doors.muted(MATCH)}b\n", MATCH) == "a\nb\n"


def test_who_was_told_once_that_it_is_closed_is_not_told_again_while_another_cannot_be():
    door = dict(DOOR, place="", config="c", entry="e", before=True, login="alice", connection=[], opened=True)
    door["daemon"], disk, done, heard = ["listener", 1, "", [], "c", ""], ["e"], [], set()
    known = {Wall: 2000.0, Clock: (2000.0, "b"), ReadDoor: ("closing", door), FindDaemon: Daemon(*door["daemon"]), Reload: True}

    def answer(effect):
        done.append(type(effect))
        if isinstance(effect, Read):
            return File("c", disk[-1], 0o644, 0, 0)
        if isinstance(effect, Replace):
            disk.append(effect.text)
        if isinstance(effect, ReloadOthers):
            return [7], [7], ["4711"]
        return Output(0, "", "") if isinstance(effect, AskSshd) else known.get(type(effect))

    for _ in range(3):
        with pytest.raises(Failed, match=r"process 7\)"):
            driven(doors.unattended(True, heard), answer)
    assert disk == ["e", ""]
    assert [done.count(each) for each in (Reload, ReloadOthers)] == [1, 3]
    # Who could get in yet is ended before the others are waited for.
    assert done.index(EndHalfOpen) < done.index(ReloadOthers)


def test_what_others_wrote_between_our_lines_stays():
    begin, include, end = ENTRY.rstrip("\n").split("\n")
    text = f"a\n{begin}\nb\n{include}\nc\n{end}\nd\n"
    assert doors.without(text, ENTRY) == "a\nb\nc\nd\n"
    assert doors.without(f"{include}\n", ENTRY) == f"{include}\n"  # one of their own


MATCH = doors.entry("ab" * 16, doors.match("alice", None, [("PasswordAuthentication", "yes")]))
THEIRS = "Match User alice\n    PasswordAuthentication no\n"


@pytest.mark.parametrize(
    "spelling", ["    PasswordAuthentication  yes", "passwordauthentication=yes", "\tPasswordAuthentication yes # x"]
)
@pytest.mark.parametrize("end", ["# kps: door end\n", ""])
def test_what_others_make_of_our_match_holds_for_nobody_else_afterwards(spelling, end):
    begin, head, _, _ = MATCH.rstrip("\n").split("\n")
    assert doors.without(f"a\n{begin}\n{head}\n{spelling}\n{end}{THEIRS}", MATCH) == f"a\n{THEIRS}"
    text = f"a\n{begin}\n{head}\n# theirs\n{spelling}\n    X11Forwarding yes\n{end}{THEIRS}"
    assert doors.without(text, MATCH) == f"a\n# theirs\n{head}\n    X11Forwarding yes\n{THEIRS}"


def test_a_match_of_others_between_our_lines_stays_whole():
    begin, head, setting, end = MATCH.rstrip("\n").split("\n")
    theirs = f"Match User bob\n{setting}\n"
    assert doors.without(f"{begin}\n{head}\n{setting}\n{theirs}{end}\nb\n", MATCH) == f"{theirs}b\n"


@pytest.mark.parametrize("login", ["a*", "a?", "!a", "a,b", "a b", "a\nMatch all", 'a"b', "a#b", "", "-a", "@a", "a\\b", "ä"])
def test_what_sshd_takes_for_more_than_a_name_opens_nothing(login):
    assert not doors.is_plain(login)
    with pytest.raises(ValueError, match="more than a name"):
        doors.match(login, None, [])


@pytest.mark.parametrize(
    ("header", "network", "within"),
    [
        ("Match Address 10.1.0.0/16", "10.0.0.0/8", True),
        ("Match User alice Address 10.1.2.3,10.2.0.0/16", "10.0.0.0/8", True),
        ("Match Address 10.0.0.0/8", "10.1.0.0/16", False),
        ("Match Address 10.1.2.3,11.0.0.1", "10.0.0.0/8", False),
        ("Match Address *", "10.0.0.0/8", False),
        ("Match Address 10.*", "10.0.0.0/8", False),
        ("Match Address 2001:db8::/48", "2001:db8::/32", True),
        ("Match Address 2001:db8::/48", "0.0.0.0/0", False),
        ("Match User alice", "10.0.0.0/8", False),
        ("Match LocalPort 22", "0.0.0.0/0", False),
    ],
)
def test_a_match_is_within_a_network_only_where_that_can_be_told(header, network, within):
    assert sshd.within(header, network) is within


@pytest.mark.parametrize(
    "wrong", ["10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "x/8", "10.0.0.0/", "::1/64", "10.0.0.0/8 "]
)
def test_what_is_no_network_is_none(wrong):
    assert sshd.network(wrong) is None
    order = {
        "operation": "door-open",
        "id": "x",
        "generation": 1,
        "login": "a",
        "door": {"id": "ab" * 16, "from": wrong, "seconds": 1},
    }
    with pytest.raises(ValueError, match="network"):
        plan.parse(order)


DOOR = {"boot": "b", "until": 100.0, "opening_until": 50.0, "opened_at": 1000, "deadline": 1090}


@pytest.mark.parametrize(
    ("name", "wall", "clock", "why"),
    [
        ("open", 1089.0, (99.0, "b"), ""),
        ("open", 1090.0, (20.0, "b"), "deadline"),  # the machine stood still, or its wall clock was early until now
        ("open", 1.0, (99.0, "b"), ""),  # set back: the other clock counts on
        ("open", 1001.0, (100.0, "b"), "deadline"),
        ("opening", 1001.0, (49.0, "b"), ""),
        ("opening", 1001.0, (50.0, "b"), "deadline"),
        ("opening", 1001.0, (1.0, "c"), "boot"),
        ("open", 1001.0, (1.0, "c"), ""),
        ("open", 1090.0, (1.0, "c"), "boot"),
        ("open", 999.0, (1.0, "c"), "boot"),
        ("closing", 1001.0, (1.0, "b"), "deadline"),
    ],
)
def test_a_door_is_over_by_the_clock_that_can_be_believed(name, wall, clock, why):
    assert doors.over(name, DOOR, wall, clock) == why


def test_where_no_boot_can_be_told_from_another_both_clocks_count():
    door = dict(DOOR, boot="")
    assert doors.over("open", door, 1001.0, (100.0, "")) == "deadline"
    assert doors.over("open", door, 1090.0, (1.0, "")) == "boot"
    assert doors.over("open", door, 1001.0, (1.0, "")) == ""


def test_a_door_that_outlived_a_boot_with_an_early_clock_is_closed_once_the_clock_is_right():
    world = {"wall": 1010.0}  # it was off for hours, and keeps no time
    written, door = [], dict(DOOR, place="", config="", entry="")

    def answer(effect):
        if isinstance(effect, WriteDoor):
            written.append(effect.door)
        return {Lock: True, ReadDoor: ("open", door), Wall: world["wall"], Clock: (5.0, "c")}.get(type(effect))

    driven(doors.at_boot(), answer)
    assert doors.over("open", written[0], 1020.0, (15.0, "c")) == ""
    assert doors.over("open", written[0], 9000.0, (16.0, "c")) == "deadline"


def driven(play, answer):
    """Drive a play of the agent's by these answers and return what it returns."""
    said = None
    while True:
        try:
            effect = play.send(said)
        except StopIteration as end:
            return end.value
        said = answer(effect)
