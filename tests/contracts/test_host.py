"""What every host does, the model and this machine: the promises of kpsagent/host.py, one by one."""

import posixpath
import stat

import pytest

from kpsagent.errors import Changed, Lost, Refused
from kpsagent.host import (
    Ask,
    Clock,
    Delete,
    DropJournal,
    FindAccount,
    Follow,
    Glob,
    Ground,
    Limits,
    Listening,
    Lock,
    MakeDirectory,
    MoveJournal,
    Read,
    ReadJournal,
    ReadState,
    RemoveDirectory,
    Replace,
    Say,
    SetMode,
    SetOwner,
    Sweep,
    Walk,
    WriteJournal,
    WriteNonce,
    WriteState,
)
from tests.contracts.places import ModelPlace, local_place
from tests.contracts.shell_places import shell_place

JOURNAL = {
    "operation": "op-1",
    "generation": 1,
    "login": "zoe",
    "deadline": 1e9,
    "boot": "b/1",
    "connection": None,
    "daemon": ["none", 0, "", [], "/etc/ssh/sshd_config", ""],
    "grounds": {},
    "widening": 1,
    "steps": [["keys", "/x", None, None, "caf\udce9\n"]],
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDaclKEGNhR/jEFxpeDpma+HzpS9VwXrTcQ/+cwPRCc1 hers"
ODD = "no final newline\x00\r\x0b\x85\u2028caf\udce9"


# A shell program undoes beside the holder of the lock by itself (test_shell.py), and gives no file to another owner.
NOT_IN_SHELL = pytest.mark.parametrize("place", ["model", "local"], indirect=True)


@pytest.fixture(params=["model", "local", "dash", "bash", "busybox"])
def place(request):
    if request.param == "model":
        yield ModelPlace()
        return
    with local_place() if request.param == "local" else shell_place(request.param) as made:
        yield made


@pytest.fixture
def host(place):
    host = place.host()
    yield host
    host.close()


@pytest.fixture
def path(place):
    return posixpath.join(place.home, "authorized_keys")


@pytest.fixture
def locked(host):
    host.do(Lock(True))
    return host


# -- files


def test_a_file_that_is_not_there_is_read_as_none(host, place, path):
    assert host.do(Read(path, place.account)).text is None


def test_a_file_below_a_directory_that_is_not_there_is_read_as_none(host, place):
    assert host.do(Read(f"{place.home}/.ssh/authorized_keys", place.account)).text is None


@pytest.mark.parametrize("text", ["", "one\n", ODD])
def test_a_file_is_read_with_its_text_mode_and_owner(host, place, path, text):
    place.put(path, text, 0o640)
    found = host.do(Read(path, place.account))
    assert (found.path, found.text, found.mode, found.uid) == (path, text, 0o640, place.account.uid)


def test_a_directory_is_not_read_as_a_file(host, place, path):
    place.make_directory(path)
    with pytest.raises(Refused) as refused:
        host.do(Read(path, place.account))
    assert refused.value.cause == "path_unsafe"


@pytest.mark.parametrize("text", ["", "two\n", ODD])
def test_a_file_that_is_replaced_holds_the_text_and_keeps_mode_and_owner(host, place, path, text):
    place.put(path, "one\n", 0o640)
    host.do(Replace(path, place.account, "one\n", text))
    assert place.names(place.home) == ["authorized_keys"]
    assert place.look(path) == ("file", text, 0o640, place.account.uid)


def test_a_new_file_is_the_accounts_and_nobody_elses(host, place, path):
    host.do(Replace(path, place.account, None, "one\n"))
    assert place.look(path) == ("file", "one\n", 0o600, place.account.uid)


@pytest.mark.parametrize(("there", "expected"), [("theirs\n", "one\n"), ("theirs\n", None), (None, "one\n")])
def test_a_file_that_holds_something_else_than_expected_is_left_as_it_is(host, place, path, there, expected):
    if there is not None:
        place.put(path, there)
    before = place.look(path)
    with pytest.raises(Changed) as changed:
        host.do(Replace(path, place.account, expected, "ours\n"))
    assert changed.value.cause == "authorized_keys_changed"
    assert place.look(path) == before
    assert place.names(place.home) == ([] if there is None else ["authorized_keys"])


def test_no_file_is_made_in_a_directory_that_is_not_there(host, place):
    with pytest.raises(FileNotFoundError):
        host.do(Replace(f"{place.home}/.ssh/authorized_keys", place.account, None, "one\n"))


def test_a_file_is_deleted_only_while_it_holds_what_is_expected(host, place, path):
    place.put(path, "theirs\n")
    with pytest.raises(Changed):
        host.do(Delete(path, place.account, "one\n"))
    assert place.look(path)[1] == "theirs\n"
    host.do(Delete(path, place.account, "theirs\n"))
    assert place.look(path) is None


def test_a_directory_is_made_for_the_account_alone(host, place, path):
    host.do(MakeDirectory(path, place.account))
    assert place.look(path) == ("directory", "", 0o700, place.account.uid)
    assert host.do(RemoveDirectory(path, place.account)) is True
    assert place.look(path) is None


def test_what_stands_there_already_is_not_made_a_directory(host, place, path):
    place.put(path, "theirs\n")
    with pytest.raises(Changed):
        host.do(MakeDirectory(path, place.account))
    assert place.look(path)[1] == "theirs\n"


def test_a_directory_that_is_not_empty_stays(host, place, path):
    place.make_directory(path)
    place.put(f"{path}/theirs", "theirs\n")
    assert host.do(RemoveDirectory(path, place.account)) is False
    assert place.look(f"{path}/theirs")[1] == "theirs\n"


def test_a_directory_that_is_gone_is_gone(host, place, path):
    assert host.do(RemoveDirectory(path, place.account)) is True
    assert host.do(RemoveDirectory(f"{path}/below", place.account)) is True


def test_a_mode_is_changed_only_from_the_one_expected(host, place, path):
    place.put(path, "one\n", 0o664)
    host.do(SetMode(path, place.account, 0o664, 0o644))
    assert place.look(path) == ("file", "one\n", 0o644, place.account.uid)
    with pytest.raises(Changed):
        host.do(SetMode(path, place.account, 0o664, 0o600))
    assert place.look(path)[2] == 0o644


def test_the_mode_of_what_is_gone_is_not_as_expected(host, place, path):
    for gone in (path, f"{path}/below"):
        with pytest.raises(Changed):
            host.do(SetMode(gone, place.account, 0o664, 0o600))


@NOT_IN_SHELL
def test_an_owner_is_changed_only_from_the_one_expected(host, place, path):
    theirs, roots = [place.account.uid, place.account.gid], [0, 0]
    place.put(path, f"{KEY}\n", 0o644)
    host.do(SetOwner(path, place.account, theirs, roots))
    assert place.look(path)[2:] == (0o644, 0)
    with pytest.raises(Changed):
        host.do(SetOwner(path, place.account, theirs, roots))
    host.do(SetOwner(path, place.account, roots, theirs))
    assert place.look(path)[2:] == (0o644, place.account.uid)


@NOT_IN_SHELL
def test_the_owner_of_what_is_gone_is_not_as_expected(host, place, path):
    for gone in (path, f"{path}/below"):
        with pytest.raises(Changed):
            host.do(SetOwner(gone, place.account, [0, 0], [place.account.uid, place.account.gid]))


@NOT_IN_SHELL
def test_what_holds_more_than_keys_is_given_to_nobody(host, place, path):
    place.put(path, f"{KEY}\nroot's own notes\n", 0o644)
    with pytest.raises(Refused) as refused:
        host.do(SetOwner(path, place.account, [place.account.uid, place.account.gid], [0, 0]))
    assert refused.value.cause == "path_unsafe"
    assert place.look(path)[3] == place.account.uid


def test_a_path_without_links_leads_where_it_says(host, place, path):
    assert host.do(Follow(path, place.account)) == path


def test_a_sweep_takes_what_a_killed_replace_left_and_nothing_else(host, place, path):
    place.put(path, "one\n")
    place.put(f"{place.home}/.authorized_keys.bak", "theirs\n")
    left = place.leave_temporary(path)
    beside = place.leave_temporary(f"{place.home}/config")
    host.do(Sweep(path, place.account))
    assert place.look(left) is None
    assert place.look(path)[1] == "one\n"
    assert place.look(beside)
    assert place.look(f"{place.home}/.authorized_keys.bak")


def test_a_sweep_below_a_directory_that_is_gone_is_done(host, place):
    host.do(Sweep(f"{place.home}/.ssh/authorized_keys", place.account))


def test_a_walk_goes_from_the_home_to_the_file(host, place):
    place.make_directory(f"{place.home}/.ssh")
    place.put(f"{place.home}/.ssh/authorized_keys", "one\n", 0o640)
    walked = host.do(Walk(f"{place.home}/.ssh/authorized_keys", place.account))
    assert [(part.path, part.kind, part.mode, part.uid) for part in walked] == [
        (place.home, "directory", 0o755, place.account.uid),
        (f"{place.home}/.ssh", "directory", 0o755, place.account.uid),
        (f"{place.home}/.ssh/authorized_keys", "file", 0o640, place.account.uid),
    ]


def test_a_walk_calls_missing_what_is_missing(host, place):
    walked = host.do(Walk(f"{place.home}/.ssh/authorized_keys", place.account))
    assert [part.kind for part in walked] == ["directory", "missing", "missing"]


def test_what_is_in_the_home_stands_on_the_home(host, place):
    home, number = host.do(Ground(f"{place.home}/.ssh/authorized_keys", place.account))
    assert home == place.home
    assert number is not None
    place.make_directory(f"{place.home}/.ssh")
    place.put(f"{place.home}/.ssh/authorized_keys", "one\n")
    for path in (place.home, f"{place.home}/.ssh", f"{place.home}/.ssh/authorized_keys"):
        assert host.do(Ground(path, place.account)) == (home, number)


def test_what_is_elsewhere_stands_on_the_nearest_directory(host, place):
    account = place.account._replace(home="/nowhere")
    assert host.do(Ground("/nowhere/.ssh/authorized_keys", account)) == ("/nowhere", None)
    directory, number = host.do(Ground(f"{place.home}/keys/zoe", account))
    assert directory == place.home
    assert number is not None
    assert host.do(Ground(directory, account)) == (directory, number)


def test_a_glob_is_sorted_and_passes_over_what_is_hidden(host, place):
    for name in ("b.conf", "a.conf", ".hidden.conf", "c.txt"):
        place.put(f"{place.home}/{name}", "")
    assert host.do(Glob(f"{place.home}/*.conf")) == [f"{place.home}/a.conf", f"{place.home}/b.conf"]
    assert host.do(Glob(f"{place.home}/.ssh/*")) == []


def test_a_login_that_does_not_exist_is_none(host):
    assert host.do(FindAccount("no-such-login")) is None


def test_a_login_is_found_by_its_name(host, place):
    found = host.do(FindAccount(place.account.name))
    assert (found.name, found.uid, found.gid) == place.account[:3]


# -- our own state


def test_a_second_one_is_refused_while_the_first_holds_the_lock(host, place):
    host.do(Lock(True))
    second = place.host()
    with pytest.raises(Refused) as refused:
        second.do(Lock(True))
    assert refused.value.cause == "busy"
    second.close()


def test_a_second_one_that_need_not_have_the_lock_goes_on_without(host, place):
    assert host.do(Lock(True)) is True
    second = place.host()
    assert second.do(Lock(False)) is False
    second.close()
    with pytest.raises(Refused):
        place.host().do(Lock(True))


def test_the_lock_is_free_once_its_holder_has_closed(place):
    first, second = place.host(), place.host()
    first.do(Lock(True))
    first.close()
    assert second.do(Lock(False)) is True
    second.close()


def test_state_is_what_was_last_written_for_whoever_comes_next(locked, place):
    assert locked.do(ReadState()) == {}
    locked.do(WriteState({"generation": 1}))
    locked.do(WriteState({"generation": 2, "result": "caf\u00e9"}))
    assert place.host().do(ReadState()) == {"generation": 2, "result": "caf\u00e9"}


def test_the_generation_never_goes_back(locked):
    for generation in (7, 1, 7, 8):
        locked.do(WriteState({"generation": generation, "result": f"of {generation}"}))
        assert locked.do(ReadState()) == {"generation": max(generation, 7), "result": f"of {max(generation, 7)}"}


def test_a_journal_stands_as_armed_from_when_it_was_written(locked, place):
    assert locked.do(ReadJournal()) is None
    locked.do(WriteJournal(JOURNAL))
    name, journal = place.host().do(ReadJournal())
    assert (name, journal) == ("armed", JOURNAL)


@pytest.mark.parametrize(("first", "second"), [("confirmed", "reverting"), ("reverting", "confirmed")])
def test_of_two_that_move_the_journal_the_first_wins(locked, place, first, second):
    locked.do(WriteJournal(JOURNAL))
    assert locked.do(MoveJournal(first)) is True
    assert place.host().do(MoveJournal(second)) is False
    assert place.host().do(ReadJournal())[0] == first


@pytest.mark.parametrize("name", ["armed", "confirmed", "reverting"])
def test_a_dropped_journal_is_gone_under_each_of_its_names(locked, name):
    locked.do(WriteJournal(JOURNAL))
    if name != "armed":
        locked.do(MoveJournal(name))
    locked.do(WriteNonce())
    _, path = locked.do(WriteNonce())
    locked.do(DropJournal())
    assert locked.do(ReadJournal()) is None
    assert locked.do(Read(path, None)).text is None


def test_a_nonce_is_new_each_time_and_everybody_can_read_it(locked, place):
    first, path = locked.do(WriteNonce())
    second, same_path = locked.do(WriteNonce())
    assert first != second
    assert path == same_path
    kind, text, mode, _ = place.look(path)
    assert (kind, text.strip()) == ("file", second)
    assert mode & stat.S_IROTH
    while path != "/":
        path = posixpath.dirname(path)
        assert place.look(path)[2] & stat.S_IXOTH, path


def test_what_a_killed_run_left_half_written_is_gone_once_the_journal_has_been_read(locked, place):
    left = [*place.leave_half_written(), locked.do(WriteNonce())[1]]
    locked.do(ReadJournal())
    assert [path for path in left if place.look(path)] == []


def test_what_is_in_use_stays_where_another_reads_the_journal(locked, place):
    locked.do(WriteJournal(JOURNAL))
    used = [*place.leave_half_written(), locked.do(WriteNonce())[1]]
    place.host().do(ReadJournal())
    assert [path for path in used if place.look(path) is None] == []


@NOT_IN_SHELL
def test_a_host_for_one_operation_does_nothing_once_that_is_over(locked, place, path):
    locked.do(WriteJournal(JOURNAL))
    beside = place.host(only=JOURNAL)
    assert beside.do(ReadJournal()) == ("armed", JOURNAL)
    assert beside.do(MoveJournal("reverting")) is True
    locked.do(DropJournal())
    effects = [Replace(path, place.account, None, "ours\n"), WriteState({"generation": 1}), DropJournal(), Lock(False)]
    for following in (None, dict(JOURNAL, operation="op-2")):
        if following is not None:
            locked.do(WriteJournal(following))
        for effect in effects:
            with pytest.raises(Lost):
                beside.do(effect)
    assert place.look(path) is None
    assert locked.do(ReadJournal()) == ("armed", following)


@NOT_IN_SHELL
def test_a_host_for_one_operation_tidies_up_after_it(place):
    host = place.host()
    host.do(Lock(True))
    host.do(WriteJournal(JOURNAL))
    host.close()
    watcher = place.host(only=JOURNAL)
    watcher.do(Lock(True))
    watcher.do(DropJournal())
    assert watcher.do(ReadJournal()) is None
    watcher.close()


# -- clock and rope


def test_the_clock_does_not_go_back_and_knows_which_boot_this_is(host, place):
    first, boot = host.do(Clock())
    second, same_boot = place.host().do(Clock())
    assert second >= first
    assert boot == same_boot


def test_whoever_listens_in_time_hears_nothing(locked):
    now, _ = locked.do(Clock())
    locked.do(Listening(now + 60))
    locked.do(Say("widen", {"steps": 1}))


@pytest.mark.parametrize("effect", [lambda until: Listening(until), lambda until: Ask("widen", [], "/nonce", until)])
def test_the_end_of_the_rope_is_heard(locked, place, effect):
    now, _ = locked.do(Clock())
    place.end_rope()
    with pytest.raises(Lost) as lost:
        locked.do(effect(now + 60))
    assert lost.value.cause == "connection_lost"


@pytest.mark.parametrize("effect", [lambda until: Listening(until), lambda until: Ask("widen", [], "/nonce", until)])
def test_a_deadline_that_has_passed_is_heard(locked, effect):
    now, _ = locked.do(Clock())
    with pytest.raises(Lost) as lost:
        locked.do(effect(now))
    assert lost.value.cause == "deadline_passed"


def test_what_cannot_be_guaranteed_is_told_in_sentences(locked):
    assert all(isinstance(each, str) and " " in each for each in locked.do(Limits()))


def test_somebody_else_who_moves_our_journal_is_heard(locked, place):
    now, _ = locked.do(Clock())
    locked.do(WriteJournal(JOURNAL))
    locked.do(Listening(now + 60))
    assert place.host().do(MoveJournal("reverting")) is True
    with pytest.raises(Lost) as lost:
        locked.do(Listening(now + 60))
    assert lost.value.cause == "deadline_passed"
