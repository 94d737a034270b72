"""sshd_config and `sshd -T`, case by case: our block, odd spellings, who gets in and by what."""

import random
from pathlib import Path

import hostile_keys
import judge
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsagent import keys, sshd
from kpsagent.errors import Refused

OFF = [("PasswordAuthentication", "no"), ("KbdInteractiveAuthentication", "no")]
ED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.fixture(scope="module")
def sshds(tmp_path_factory: pytest.TempPathFactory) -> judge.Configurations:
    judge.need(judge.SSHD, judge.KEYGEN)
    return judge.Configurations(tmp_path_factory.mktemp("sshd"))


# -- our block ---------------------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        "",
        "PasswordAuthentication yes",
        "Match all",
        "# kps: end",
        "# remark\r",
        "\tInclude x",
        "\udcff",
        "# a\u2028b",
        "\x85",
        "#\x0b",
    ]
)
TEXTS = st.tuples(st.lists(LINES, max_size=6).map("\n".join), st.sampled_from(["", "\n"])).map("".join)
SETTINGS = st.lists(st.sampled_from([(word, values[0]) for word, values in sshd.ALLOWED.items()]), min_size=1, max_size=4)


@given(TEXTS, SETTINGS)
def test_taking_our_block_out_gives_back_the_same_bytes(text: str, settings: list[tuple[str, str]]) -> None:
    ours = sshd.with_block(text, settings)
    assert ours.startswith(sshd.BEGIN + "\n")
    assert ours.endswith(text)
    assert sshd.block(text) is None
    assert sshd.block(ours) == settings
    assert sshd.without_block(ours) == sshd.with_block(ours, []) == text
    assert sshd.with_block(ours, OFF) == sshd.with_block(text, OFF)


def test_our_block_is_found_wherever_somebody_moved_it() -> None:
    moved = "# new first line\n" + sshd.with_block("UsePAM yes\n", OFF) + sshd.with_block("", OFF)
    assert sshd.block(moved) == OFF + OFF
    assert sshd.without_block(moved) == "# new first line\nUsePAM yes\n"
    assert sshd.with_block(moved, OFF) == sshd.with_block("# new first line\nUsePAM yes\n", OFF)


def test_our_block_is_found_with_other_line_ends() -> None:
    assert sshd.without_block(sshd.with_block("UsePAM yes\n", OFF).replace("\n", "\r\n")) == "UsePAM yes\r\n"


def test_what_others_wrote_into_our_block_stays() -> None:
    ours = sshd.with_block("UsePAM yes\n", OFF).replace(sshd.END, "X11Forwarding no\n" + sshd.END)
    assert sshd.without_block(ours) == "X11Forwarding no\nUsePAM yes\n"


def test_a_block_without_its_end_ends_at_the_first_line_that_is_not_ours() -> None:
    cut = sshd.with_block("# remark\nPasswordAuthentication yes\n", OFF).replace(sshd.END + "\n", "")
    assert sshd.without_block(cut) == "# remark\nPasswordAuthentication yes\n"
    assert sshd.without_block(cut.replace("# remark", sshd.BEGIN)) == ""


@pytest.mark.parametrize(
    "setting", [("Port", "22"), ("AllowUsers", "a"), ("passwordauthentication", "no"), ("UsePAM", "no\nPort 1")]
)
def test_no_other_setting_gets_into_our_block(setting: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="not for us"):
        sshd.with_block("", [setting])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\ufeff# a\n", 1),
        ("\udcff\udcfeP", 1),
        ("# a\nUsePAM yes\0\n", 2),
        ("# a\rUsePAM yes\n", 1),
        ("\n\nUsePAM yes\r\rx", 3),
    ],
)
def test_odd_bytes_are_refused_with_their_line(text: str, line: int) -> None:
    with pytest.raises(Refused) as refusal:
        sshd.refuse_odd(text, "/etc/ssh/sshd_config")
    assert refusal.value.cause == "sshd_config_odd"
    assert refusal.value.evidence == {"path": "/etc/ssh/sshd_config", "line": line}
    assert f"/etc/ssh/sshd_config:{line}:" in refusal.value.message


@pytest.mark.parametrize("text", ["", "UsePAM yes\r\n", "# ü \udcff \x0b \x85 \u2028\n", "UsePAM yes\r"])
def test_ordinary_bytes_are_not_refused(text: str) -> None:
    sshd.refuse_odd(text, "/etc/ssh/sshd_config")


# -- how lines are read ------------------------------------------------------------------------------------------------

# A line, and whether sshd 9.2 takes it for PasswordAuthentication no.
SPELLINGS = [
    ("PasswordAuthentication no", True),
    ("PASSWORDAUTHENTICATION No", None),
    ("passwordauthentication NO", None),
    ("PasswordAuthentication=no", True),
    ("PasswordAuthentication = no", True),
    ("PasswordAuthentication =no", True),
    ("  \tPasswordAuthentication\t no\t ", True),
    ('"PasswordAuthentication" no', True),
    ('PasswordAuthentication "no"', True),
    ("PasswordAuthentication 'no'", True),
    ('Pass"wordAuthentication" no', True),
    ("=PasswordAuthentication no", True),
    ("PasswordAuthentication no # remark", True),
    ("PasswordAuthentication no\r", True),
    ("PasswordAuthentication no\f", True),
    ("PasswordAuthentication n\\o", False),
    ("PasswordAuthentication no#remark", False),
    ("PasswordAuthentication == no", False),
    ("PasswordAuthentication no yes", False),
    ("'PasswordAuthentication' no", False),
    ('"PasswordAuthentication no', False),
    ("\fPasswordAuthentication no", False),
    ("#PasswordAuthentication no", False),
    (" # PasswordAuthentication no", False),
    ("PasswordAuthentication", False),
]


@pytest.mark.parametrize(("line", "sets"), SPELLINGS)
def test_a_line_sets_a_keyword_where_sshd_says_so(line: str, sets: bool | None, sshds: judge.Configurations) -> None:
    means_no = sshds.check(line) and sshd.effective(sshds.settings(line))["passwordauthentication"] == ["no"]
    ours = sshd.scan({"/c": line}, "/c", "zoe", [])["passwordauthentication"] == ["no"]
    assert means_no == (sets is not False)
    if sshds.check(line):  # what sshd rejects never gets as far as being read by us
        assert ours == means_no


def test_places_are_named_with_file_line_and_match() -> None:
    main = "Include a\n# PasswordAuthentication yes\nMatch User git\n\tpasswordauthentication=yes # c\n"
    main += "Match all\nSkeyAuthentication yes\n"
    files = [("/main", main), ("/a", "PasswordAuthentication no\n")]
    assert sshd.places(files, "PasswordAuthentication") == [
        ("/main", 4, "passwordauthentication=yes # c", "Match User git"),
        ("/a", 1, "PasswordAuthentication no", None),
    ]
    assert [place.line_number for place in sshd.places(files, "KbdInteractiveAuthentication")] == [6]
    assert sshd.places(files, "UsePAM") == []


def test_a_file_that_is_included_within_a_match_is_within_it() -> None:
    files = [("/main", "Include /all\nMatch Address 192.0.2.0/24\nInclude /some/*\n"), ("/all", "UsePAM yes\n")]
    files += [("/some/1", "PasswordAuthentication yes\n"), ("/other", "PasswordAuthentication no\n")]
    found = sshd.places(files, "PasswordAuthentication")
    assert [(place.path, place.match) for place in found] == [("/some/1", "Match Address 192.0.2.0/24"), ("/other", None)]


OPENINGS = {
    "PasswordAuthentication yes\nUsePAM yes\n": [],
    "Match Address 192.0.2.0/24\nPasswordAuthentication no\n": [],
    "Match User bob\n password-authentication yes\n": [],
    "Match User bob\n passwordauthentication=yes\n": [2],
    "Match User bob\n PasswordAuthentication No\n": [],
    "Match User bob\n PasswordAuthentication yes\n AuthenticationMethods publickey,password\n": [],
    "Match User bob\n PasswordAuthentication yes\n AuthenticationMethods publickey password\n": [2],
    "UsePAM yes\nMatch LocalPort 2222\nKbdInteractiveAuthentication yes\nSkeyAuthentication no\n": [3],
    "Match all\nChallengeResponseAuthentication yes\n": [],  # without PAM nobody answers
    "Match User bob\n PasswordAuthentication no\n PasswordAuthentication yes\n": [],
    "Match User bob\n PasswordAuthentication no\nMatch User al\n PasswordAuthentication yes\n": [4],
    "Match User bob\n PasswordAuthentication no\nMatch all\nMatch User bob\n PasswordAuthentication yes\n": [],
    "Match exec a\n PasswordAuthentication no\nMatch exec a\n PasswordAuthentication yes\n": [4],
    "UsePAM yes\nMatch User bob\n KbdInteractiveAuthentication no\n ChallengeResponseAuthentication yes\n": [4],
}


@pytest.mark.parametrize("text", OPENINGS)
def test_what_lets_passwords_in_for_some_only_is_named(text: str) -> None:
    places = sshd.password_places([("/c", text)])
    settings = sshd.scan({"/c": text}, "/c", "zoe", [])
    assert [place.line_number for place in sshd.opening(places, settings)] == OPENINGS[text]


@pytest.mark.parametrize(
    ("header", "could"),
    [
        ("Match all", True),
        ("Match Address 192.0.2.0/24", True),
        ("Match LocalPort 2222 LocalAddress 192.0.2.1", True),
        ("Match User bob", False),
        ("match user z*,!bob address 192.0.2.0/24", True),
        ("Match User bob Address 192.0.2.0/24", False),
        ("Match Group staff Host *.example.org", True),
        ("Match Group !staff,*", False),
    ],
)
def test_a_match_could_hold_for_a_login_wherever_it_comes_from(header: str, could: bool) -> None:
    assert sshd.could_match(header, "zoe", ["staff", "zoe"]) is could


def test_the_files_of_a_login_are_those_of_every_match_that_could_hold_for_it() -> None:
    text = "AuthorizedKeysFile .ssh/keys\nMatch User bob\nAuthorizedKeysFile /bobs\n"
    text += "Match Address 192.0.2.0/24\nAuthorizedKeysFile /k/%u none\n"
    assert sshd.authorized_keys_anywhere([("/c", text)], "zoe", [], 7, "/home/zoe") == ["/k/zoe"]


def test_includes_are_named_with_absolute_patterns() -> None:
    text = 'include sshd_config.d/*.conf "/x y/*"\n#Include no\nMatch User a\n  Include=/z # c\n'
    assert sshd.includes(text) == [(1, "/etc/ssh/sshd_config.d/*.conf", False), (1, "/x y/*", False), (4, "/z", True)]


def test_a_match_is_told_from_a_remark() -> None:
    assert sshd.has_match(' "match" user a\n')
    assert not sshd.has_match("#Match all\nMatchbox 1\n")


# -- who gets in -------------------------------------------------------------------------------------------------------

SAID = "port 22\nusepam yes\npermitrootlogin without-password\npubkeyauthentication yes\npasswordauthentication yes\n"
SAID += (
    "kbdinteractiveauthentication no\nacceptenv LANG\nacceptenv LC_*\nauthenticationmethods any\nbanner none\nversionaddendum\n"
)
SETTINGS_92 = sshd.effective(SAID)


def settings(**changes: str) -> dict[str, list[str]]:
    return {**SETTINGS_92, **{keyword: [value] for keyword, value in changes.items()}}


def test_what_sshd_says_is_read_line_by_line() -> None:
    assert SETTINGS_92["acceptenv"] == ["LANG", "LC_*"]
    assert SETTINGS_92["versionaddendum"] == [""]
    assert sshd.changed(SETTINGS_92, settings(usepam="no", new="x")) == {"usepam", "new"}
    assert sshd.changed(SETTINGS_92, dict(SETTINGS_92)) == set()


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (".ssh/authorized_keys .ssh/authorized_keys2", ["/home/al/.ssh/authorized_keys", "/home/al/.ssh/authorized_keys2"]),
        ("/etc/keys/%u", ["/etc/keys/al"]),
        ("%h/k /k/%U /k/100%%u", ["/home/al/k", "/k/1000", "/k/100%u"]),
        ("none", []),
        ("none .ssh/x", ["/home/al/.ssh/x"]),
    ],
)
def test_paths_of_keys_are_worked_out(value: str, paths: list[str]) -> None:
    assert sshd.authorized_keys_paths(settings(authorizedkeysfile=value), "al", 1000, "/home/al") == paths


def test_a_home_that_is_the_root_directory_gives_plain_paths() -> None:
    assert sshd.authorized_keys_paths(settings(authorizedkeysfile=".k"), "x", 1, "/") == ["/.k"]


WAYS = [
    ({}, 1000, {"password"}),
    ({}, 0, set()),
    ({"permitrootlogin": "yes"}, 0, {"password"}),
    ({"permitrootlogin": "prohibit-password"}, 0, set()),
    ({"passwordauthentication": "no"}, 1000, set()),
    ({"passwordauthentication": "no", "kbdinteractiveauthentication": "yes"}, 1000, {"keyboard-interactive"}),
    ({"kbdinteractiveauthentication": "yes", "usepam": "no"}, 1000, {"password"}),
    ({"passwordauthentication": "no", "challengeresponseauthentication": "yes"}, 1000, {"keyboard-interactive"}),
    ({"authenticationmethods": "publickey"}, 1000, set()),
    ({"authenticationmethods": "publickey,password"}, 1000, set()),
    ({"authenticationmethods": "publickey,password password"}, 1000, {"password"}),
    ({"authenticationmethods": "password,keyboard-interactive:pam"}, 1000, set()),
    (
        {"authenticationmethods": "password,keyboard-interactive:pam", "kbdinteractiveauthentication": "yes"},
        1000,
        {"password", "keyboard-interactive"},
    ),
]


@pytest.mark.parametrize(("changes", "uid", "ways"), WAYS)
def test_the_ways_of_a_password_are_counted(changes: dict[str, str], uid: int, ways: set[str]) -> None:
    assert sshd.password_ways(settings(**changes), "root" if uid == 0 else "al", uid) == ways


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, True),
        ({"pubkeyauthentication": "no"}, False),
        ({"authenticationmethods": "publickey,password"}, False),
        ({"authenticationmethods": "password"}, False),
        ({"authenticationmethods": "publickey,publickey"}, False),
        ({"authenticationmethods": "publickey,password publickey"}, True),
    ],
)
def test_a_key_alone_must_complete_a_login(changes: dict[str, str], left: bool) -> None:
    assert sshd.methods_left(settings(**changes)) == left


def test_passwords_are_closed_by_the_keywords_that_this_sshd_knows() -> None:
    assert sshd.password_off(SETTINGS_92) == OFF
    assert sshd.password_off(settings(challengeresponseauthentication="yes")) == [*OFF, ("ChallengeResponseAuthentication", "no")]
    assert sshd.password_off({"passwordauthentication": ["yes"]}) == OFF[:1]


def test_keys_that_this_sshd_would_not_look_at_are_known() -> None:
    ed = keys.parse(ED)
    assert sshd.key_accepted(SETTINGS_92, ed)
    assert sshd.key_accepted(settings(pubkeyacceptedalgorithms="rsa-sha2-256,ssh-ed25519"), ed)
    assert not sshd.key_accepted(settings(pubkeyacceptedalgorithms="rsa-sha2-256"), ed)
    assert not sshd.key_accepted(settings(pubkeyacceptedkeytypes="ecdsa-*"), ed)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"requiredrsasize": "2048"}, True),
        ({"requiredrsasize": "3072"}, False),
        ({"pubkeyacceptedalgorithms": "rsa-sha2-512"}, True),
        ({"pubkeyacceptedalgorithms": "ssh-ed25519"}, False),
    ],
)
def test_rsa_keys_are_judged_by_length_and_signature(changes: dict[str, str], accepted: bool) -> None:
    key = keys.Key("ssh-rsa", "", b"\0\0\0\1r\0\0\0\1\3\0\0\1\1\0" + b"\x80" * 256, "")
    assert key.bits == 2048
    assert sshd.key_accepted(settings(**changes), key) == accepted


def test_dss_keys_are_not_accepted_unless_sshd_says_so() -> None:
    dss = keys.Key("ssh-dss", "", b"", "")
    assert not sshd.key_accepted(SETTINGS_92, dss)
    assert sshd.key_accepted(settings(pubkeyacceptedalgorithms="ssh-dss"), dss)


ALLOWED = [
    ({}, None),
    ({"allowusers": ["bob", "al"]}, None),
    ({"allowusers": ["bob carol"]}, "AllowUsers bob carol does not let it in from 10.1.2.3"),
    ({"allowusers": ["a?"]}, None),
    ({"allowusers": ["*l"]}, None),
    ({"allowusers": ["al@10.0.0.0/8"]}, None),
    ({"allowusers": ["al@10.1.2.3"]}, None),
    ({"allowusers": ["al@192.0.2.*"]}, "AllowUsers al@192.0.2.* does not let it in from 10.1.2.3"),
    ({"allowusers": ["al@!10.1.2.3,10.0.0.0/8"]}, "AllowUsers al@!10.1.2.3,10.0.0.0/8 does not let it in from 10.1.2.3"),
    ({"allowusers": ["*@!10.9.0.0/16,10.0.0.0/8"]}, None),
    ({"allowusers": ["al@*.example.org"]}, None),
    ({"allowusers": ["al@web.EXAMPLE.org"]}, None),
    ({"allowusers": ["al@!web.*,*"]}, "AllowUsers al@!web.*,* does not let it in from 10.1.2.3"),
    ({"allowusers": ["al@2001:db8::/32"]}, "AllowUsers al@2001:db8::/32 does not let it in from 10.1.2.3"),
    ({"denyusers": ["al"]}, "DenyUsers al"),
    ({"denyusers": ["al@10.0.0.0/8"]}, "DenyUsers al@10.0.0.0/8"),
    ({"denyusers": ["al@11.0.0.0/8"]}, None),
    ({"denyusers": ["al"], "allowusers": ["al"]}, "DenyUsers al"),
    ({"denygroups": ["wheel"]}, "DenyGroups wheel"),
    ({"denygroups": ["w*l"]}, "DenyGroups w*l"),
    ({"allowgroups": ["users", "adm"]}, None),
    ({"allowgroups": ["sudo"]}, "AllowGroups sudo names none of its groups"),
    ({"permitrootlogin": ["no"]}, None),
]


@pytest.mark.parametrize(("changes", "reason"), ALLOWED)
def test_a_login_is_let_in_or_the_reason_is_named(changes: dict[str, list[str]], reason: str | None) -> None:
    said = sshd.login_allowed({**SETTINGS_92, **changes}, "al", ["wheel", "users"], "web.example.org", "10.1.2.3")
    assert said == reason


def test_an_address_of_version_six_is_matched() -> None:
    limited = {"allowusers": ["al@2001:db8::/32"]}
    assert sshd.login_allowed(limited, "al", [], "h", "2001:db8:1::9") is None
    assert sshd.login_allowed(limited, "al", [], "h", "2001:db9::9") is not None


@pytest.mark.parametrize(("value", "refused"), [("yes", 0), ("prohibit-password", 0), ("no", 1), ("forced-commands-only", 1)])
def test_root_is_let_in_as_permitrootlogin_says(value: str, refused: bool) -> None:
    assert bool(sshd.login_allowed(settings(permitrootlogin=value), "root", [], "h", "10.0.0.1")) == refused
    assert bool(sshd.login_allowed(settings(permitrootlogin=value), "toor", [], "h", "10.0.0.1", uid=0)) == refused
    assert sshd.login_allowed(settings(permitrootlogin=value), "root", [], "h", "10.0.0.1", uid=5) is None


@pytest.mark.parametrize(
    "line",
    [
        "AllowUsers root",
        "AllowUsers r??t bob",
        "AllowUsers !root *",
        "AllowUsers bob",
        "AllowUsers root@127.0.0.0/8",
        "AllowUsers root@10.0.0.0/8",
        "AllowUsers root@!127.0.0.1,127.0.0.0/8",
        "AllowUsers *@127.0.0.?",
        "DenyUsers root@10.0.0.0/8,127.0.0.1",
        "DenyUsers ROOT",
        "DenyUsers !bob",
        "AllowGroups !wheel,root",
        "AllowGroups ro*",
        "DenyGroups *",
        "PermitRootLogin prohibit-password",  # not "no": sshd answers the query, and turns root away after the signature
        "AuthenticationMethods password publickey",
        "PubkeyAcceptedAlgorithms rsa-*",
        "PubkeyAcceptedAlgorithms -ssh-ed25519",
    ],
)
def test_root_gets_in_on_a_real_sshd_where_we_say_so(line: str, sshds: judge.Configurations, tmp_path: Path) -> None:
    said = sshd.effective(sshds.settings(f"{line}\nPermitRootLogin yes\n", "root"))
    key = hostile_keys.public_key(random.Random(1), "ssh-ed25519")
    ours = sshd.login_allowed(said, "root", ["root"], "127.0.0.1", "127.0.0.1") is None
    ours = ours and sshd.key_accepted(said, keys.parse(key.line)) and sshd.methods_left(said)
    logins = judge.Logins(tmp_path, settings=f"StrictModes no\n{line}")
    try:
        assert logins.verdicts([(key.line, key.blob)]) == [ours]
    finally:
        logins.close()


# -- a disk at rest ----------------------------------------------------------------------------------------------------


def test_a_disk_at_rest_is_read_as_sshd_would() -> None:
    files = {
        "/etc/ssh/sshd_config": "Include sshd_config.d/*.conf\nPasswordAuthentication no\nAllowUsers al\nMatch Group wheel\n"
        "Include /etc/ssh/wheel\nPasswordAuthentication no\nMatch Address 10.0.0.0/8\nPubkeyAuthentication no\n",
        "/etc/ssh/sshd_config.d/50-b.conf": "PermitRootLogin no\n",
        "/etc/ssh/sshd_config.d/10-a.conf": "PermitRootLogin yes\nAllowUsers bob\nMatch User carol\nUsePAM no\n",
        "/etc/ssh/sshd_config.d/.hidden.conf": "PermitRootLogin forced-commands-only\n",
        "/etc/ssh/sshd_config.d/10-a.conf.old": "PermitRootLogin forced-commands-only\n",
        "/etc/ssh/wheel": "PasswordAuthentication yes\n",
    }
    ordinary = sshd.scan(files, "/etc/ssh/sshd_config", "al", ["users"])
    assert ordinary["permitrootlogin"] == ["yes"]
    assert ordinary["passwordauthentication"] == ["no"]
    assert ordinary["allowusers"] == ["bob", "al"]
    assert ordinary["pubkeyauthentication"] == ["yes"]
    assert sshd.scan(files, "/etc/ssh/sshd_config", "al", ["wheel"])["passwordauthentication"] == ["yes"]


def test_a_file_that_includes_itself_ends() -> None:
    assert sshd.scan({"/c": "Include /c\nUsePAM yes\n"}, "/c", "al", [])["usepam"] == ["yes"]


def test_old_and_new_name_of_a_setting_are_one_to_a_disk_at_rest() -> None:
    text = "ChallengeResponseAuthentication no\nKbdInteractiveAuthentication yes\nPermitRootLogin prohibit-password\n"
    read = sshd.scan({"/c": text}, "/c", "al", [])
    assert read["kbdinteractiveauthentication"] == ["no"]
    assert read["permitrootlogin"] == ["without-password"]


def test_sshd_has_no_other_defaults_than_we_assume(sshds: judge.Configurations) -> None:
    theirs = sshd.effective(sshds.settings(""))
    for keyword, values in sshd.scan({"/c": ""}, "/c", "zoe", []).items():
        assert theirs[keyword] == values
    assert set(sshd.effective(sshds.settings("AllowUsers zoe\n"))) >= {"allowusers"}
