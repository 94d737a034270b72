"""Why a task fails: the closed list of cause codes, each with what it means, what to do, and whether a retry can help.

docs/causes.md is this list for people; a check holds the two together.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause. retryable: the same order can succeed once its handling has been followed."""

    meaning: str
    handling: str
    retryable: bool


_RETRY = "kps task retry ID"

# The server, or what leads to it, was not reached, or went away in the middle.
NOT_REACHED = frozenset(
    {
        "name_not_resolved", "connection_refused", "connection_timed_out", "connection_closed", "jump_unreachable",
        "connection_lost", "server_shut_down",
    }
)  # fmt: skip
# What passes by itself, so that a rollout tries it again. A password or key that was wrong is never in here: each try costs one
# of few.
HEALS = NOT_REACHED | {
    "server_rebooted", "source_penalized", "busy", "stale_generation", "interrupted", "authorized_keys_changed",
    "sshd_config_changed",
}  # fmt: skip

CAUSES: dict[str, Cause] = {
    # -- credentials ---------------------------------------------------------------------------------------------------
    "wrong_password": Cause(
        "The server asked for a password and did not accept the one given. It was tried once.",
        f"Check the password for the login that the message names, then {_RETRY} --password-stdin. Where sshd lets root in "
        "with keys only (PermitRootLogin prohibit-password), it refuses the right password in the same way: give a key "
        "(--identity FILE).",
        True,
    ),
    "password_refused": Cause(
        "The server does not take passwords from this login at all.",
        f"Give a key that works today: {_RETRY} --identity FILE. Or switch password login on at the server's console.",
        True,
    ),
    "private_key_unreadable": Cause(
        "The private key given is in no format that is read, or damaged.",
        "Give an OpenSSH, PKCS#1, PKCS#8 or SEC1 private key; ssh-keygen -p -f FILE rewrites one in OpenSSH's format.",
        True,
    ),
    "passphrase_wrong": Cause(
        "The private key given is encrypted, and its passphrase is missing or wrong.",
        f"{_RETRY} --identity FILE --passphrase-stdin, and give the passphrase.",
        True,
    ),
    "key_mismatch": Cause(
        "The private key given is not the half of the key pair on record for this login, and sshd did not take it.",
        "Compare ssh-keygen -l -f FILE with kps keypair show NAME, and give the right file.",
        True,
    ),
    "key_refused": Cause(
        "sshd did not take the key for this login: it is not in its authorized_keys, or may not be used from here.",
        "Give a key that is (--identity FILE) or the password (--password-stdin); the server's own log says which rule refused.",
        True,
    ),
    "credential_needed": Cause(
        "Nothing is known that gets into this server: no managed key is bound there, and no credential came with the order, or "
        "the one that came has expired or does not open any more.",
        f"{_RETRY} --password-stdin or --identity FILE. What came with an order is kept sealed while it may be needed, a day at "
        "most (KPS_CREDENTIAL_HOURS).",
        True,
    ),
    "custody_damaged": Cause(
        "The private half in custody does not open: what is stored is not what was stored for this key pair.",
        "Restore the database from its backup. Where there is none: bind or replace with another key pair, and give a password "
        "(--password-stdin) or a key (--identity) to get in.",
        True,
    ),
    "root_key_missing": Cause(
        "The root key that opens the private half in custody is not there, is another one, or does not answer.",
        f"kps root check says what is wrong. Put the root key, its token or its PIN right, then {_RETRY}.",
        True,
    ),
    "master_key_unusable": Cause(
        "The customer master key under which the private half is sealed is disabled, waits for its deletion or its material, or "
        "was destroyed.",
        f"Enable the master key again (kps kms key show KEY says how it stands), then {_RETRY}. Where it was destroyed: bind or "
        "replace with another key pair, and give a password (--password-stdin) or a key (--identity) to get in.",
        True,
    ),
    "prompt_not_password": Cause(
        "The server asks for something that is not the login's password: a one-time code, a new password, or what nobody can "
        "tell. No secret was given as an answer to that.",
        f"Give a key ({_RETRY} --identity FILE), or a login for which the password alone is enough. Log in by hand once where a "
        "new password is asked for.",
        True,
    ),
    "agent_unusable": Cause(
        "The ssh-agent on the controller's machine does not answer, has no such key (or more than one of that name), or does not "
        "sign with it.",
        f"See ssh-add -l, and name one of its keys: {_RETRY} --agent KEY.",
        True,
    ),
    "certificate_unusable": Cause(
        "The certificate given is no user certificate of the key given, or is not valid now.",
        f"See ssh-keygen -L -f FILE, have one made, then {_RETRY} --identity FILE --certificate FILE.",
        True,
    ),
    # -- connection ----------------------------------------------------------------------------------------------------
    "name_not_resolved": Cause(
        "The server's host name has no address.",
        "Check the name in kps server show, and DNS on the controller's machine.",
        True,
    ),
    "connection_refused": Cause(
        "The machine is there, but nothing listens on that port.",
        "Is sshd running, and on this port? A firewall that rejects looks the same. "
        "If it is another one: kps server set NAME --port NUMBER.",
        True,
    ),
    "connection_timed_out": Cause(
        "No answer: a firewall or security group drops packets, the machine is off, or it is overloaded.",
        "Admit TCP port PORT from SOURCE in the firewall or security group; then check that the machine is up.",
        True,
    ),
    "connection_closed": Cause(
        "The connection was closed or reset before or during the log-in.",
        "sshd may be at MaxStartups, may have banned the controller's address (fail2ban, PerSourcePenalties), or be restarting. "
        "Where it took the key before (taken), PAM's account rules turn the login away: the findings name them.",
        True,
    ),
    "address_not_allowed": Cause(
        "The server's name leads to the controller's own machine or link, and a user has added it.",
        "Correct the host (kps server set NAME --address ADDRESS), have the home's owner set it, or allow the network "
        "(KPS_ALLOW_NETWORKS).",
        True,
    ),
    "not_ssh": Cause(
        "Something else than an SSH server listens on that port.",
        "Correct the port: kps server set NAME --port NUMBER. Then ask again.",
        True,
    ),
    "host_key_unknown": Cause(
        "The server's host key is not on record, so nothing was sent to it.",
        "Give it (kps server add --host-key), or add the server with --trust-on-first-use and run kps server check.",
        False,
    ),
    "host_key_changed": Cause(
        "The server shows another host key than the one on record. No credential was sent.",
        "If the server was rebuilt: kps server remove NAME --force, and add it again with the new key. If it was not, somebody "
        "is in between.",
        False,
    ),
    "algorithms_incompatible": Cause(
        "Of one kind of algorithm the server offers none that is considered safe.",
        "Bring sshd up to date, or take the restriction out of its configuration; the message names the kind. Where neither can "
        f"be done, kps server set NAME --allow-old-algorithms ALGORITHM allows it for this server. Then {_RETRY}.",
        True,
    ),
    "source_penalized": Cause(
        "The server's sshd takes no connection from the controller's address for a while, because logins from there failed too "
        "often (PerSourcePenalties, OpenSSH 9.8 and later).",
        f"Wait a minute, longer after many failures, and give the right credential: {_RETRY}. Look what else on this address "
        "fails to log in there.",
        True,
    ),
    "jump_unreachable": Cause(
        "A jump server on the way could not be reached, or broke off before we were logged in; the message names it.",
        f"Mend the way to the jump server (kps server check on it tells more), then {_RETRY}.",
        True,
    ),
    "jump_refused": Cause(
        "A jump server on the way did not let us in; the message names it.",
        f"Bind a managed key pair on the jump server (kps bind), or give a key that opens it: {_RETRY} --identity FILE. A "
        "password is not given to a jump server.",
        True,
    ),
    "jump_forbids_forwarding": Cause(
        "A jump server on the way lets us in, and may not lead on to the server: its sshd forbids to forward connections.",
        "On the jump server allow it (AllowTcpForwarding, PermitOpen; no-port-forwarding or restrict before our key), then "
        f"{_RETRY}.",
        True,
    ),
    "connection_lost": Cause(
        "The connection ended, or fell silent, in the middle of the operation. The server undoes by itself what was not "
        "confirmed.",
        f"{_RETRY}; it first finds out how the interrupted one ended.",
        True,
    ),
    "server_rebooted": Cause(
        "The server was rebooted in the middle of the operation.",
        f"{_RETRY}; what was not confirmed has been undone, at boot or by the retry.",
        True,
    ),
    "server_shut_down": Cause(
        "The server went away in the middle of the operation and has not come back.",
        f"Start the server, then {_RETRY}. If it stays off: kps reset with its disk mounted.",
        True,
    ),
    # -- getting started on the server -----------------------------------------------------------------------------------
    "no_python": Cause(
        "There is no Python 3 on the server, and for an agent in shell a tool is missing that it cannot do without.",
        "Install what the message names, or python3-minimal (your distribution's smallest Python 3), and retry.",
        True,
    ),
    "sudo_refused": Cause(
        "This takes root, and the login may not become root by sudo: it is not in sudoers, or sudo wants a password.",
        "Give the login's password with the order (--password-stdin --password-of LOGIN), a NOPASSWD rule, or connect as root.",
        True,
    ),
    "session_disturbed": Cause(
        "The login's session does not run our command: a forced command, a start-up file that gets in the way, or MaxSessions 0. "
        "Or what came over it is nothing that our agent says, or more than it ever says.",
        "Run 'ssh LOGIN@HOST true' by hand and see what it prints; take ForceCommand, MaxSessions 0 or the start-up file's exit "
        "away. Where that works and prints nothing, something on the server answers in the agent's place: do not trust it.",
        True,
    ),
    "busy": Cause(
        "Another operation is at work on this server, from this controller or another.",
        f"Wait for it to end, then {_RETRY}.",
        True,
    ),
    "stale_generation": Cause(
        "The server has carried out a newer order than this one: the task was handed on while it waited, another controller "
        "works on this server, this one's backup was restored, or the server was added under another address.",
        f"Look at the newer task of this server. If there is none, {_RETRY}: the next order is newer than what was seen there.",
        True,
    ),
    "secret_changed": Cause(
        "The password that was to be set is not the newest version of its secret any more, or the secret was deleted.",
        "Nothing is to be done: the newer version has its own task. kps secret versions NAME shows which one works.",
        False,
    ),
    "changed_since_plan": Cause(
        "The server is not as it was when the plan was made, so what would be done there is not what was planned. Nothing was "
        "changed.",
        f"See what has changed there, then plan anew and start that; or put it back, then {_RETRY}.",
        True,
    ),
    # -- the login -------------------------------------------------------------------------------------------------------
    "login_missing": Cause("There is no such login on the server.", "Make the login, or name another with --login.", True),
    "login_locked": Cause(
        "The login's password is locked with '!' and sshd runs without PAM: then its keys are refused too.",
        "usermod -p '*' LOGIN leaves it without a password and lets keys in.",
        True,
    ),
    "login_expired": Cause(
        "The login's account or password has expired, so sshd turns it away whatever it shows.",
        "chage -l LOGIN shows it; chage -E -1 or a new password mends it.",
        True,
    ),
    "login_not_allowed": Cause(
        "A rule keeps this login or key out: AllowUsers and the like, PermitRootLogin, RevokedKeys, no shell, /etc/nologin.",
        "The message names the rule. Change it on the server, or name another login.",
        True,
    ),
    # -- paths -----------------------------------------------------------------------------------------------------------
    "path_permissions": Cause(
        "A directory or file on the way to authorized_keys has an owner or mode with which sshd ignores it.",
        "The message names the component, what it is and what it must be; --fix-permissions repairs what is safe to repair.",
        True,
    ),
    "path_unsafe": Cause(
        "Something on the way to the file is not what it should be: a link, a pipe, a second name.",
        "Look who put it there. What is behind a link is never edited.",
        True,
    ),
    "authorized_keys_elsewhere": Cause(
        "sshd reads no authorized_keys file for this login (AuthorizedKeysFile none, or a command only).",
        "Bind keys where that server takes them from, or change AuthorizedKeysFile.",
        True,
    ),
    "authorized_keys_unreadable": Cause(
        "The file is not text that can be edited safely, or too large.",
        "Look at it by hand: file ~/.ssh/authorized_keys.",
        True,
    ),
    "authorized_keys_changed": Cause(
        "Somebody else edited the file while the operation ran. Ours was taken out, theirs stays.",
        f"Find out who edits it (cloud-init, a configuration manager), then {_RETRY}.",
        True,
    ),
    "sshd_config_changed": Cause(
        "Somebody else edited sshd's configuration while the operation ran. Our block was taken out, their edit stays.",
        f"Find out who edits it (cloud-init, a configuration manager), then {_RETRY}.",
        True,
    ),
    "disk_full": Cause("No space or quota was left for a few kilobytes.", f"Free some space, then {_RETRY}.", True),
    "read_only": Cause("The file system is mounted read-only.", f"Mount it read-write (see dmesg why), then {_RETRY}.", True),
    "immutable": Cause(
        "The file may not be replaced: chattr +i or +a, or it is a mount point of its own.",
        f"lsattr FILE; chattr -i -a FILE; then {_RETRY}.",
        True,
    ),
    "disk_gone": Cause(
        "The disk does not answer, or what was named as a mounted disk is none.",
        "See the kernel's log on the server, or mount the disk and name its root directory.",
        True,
    ),
    # -- keys ------------------------------------------------------------------------------------------------------------
    "key_type_refused": Cause(
        "This server's sshd does not accept keys of this type.",
        "Use another type: kps keypair create --type rsa-3072 for old ones, ed25519 or ecdsa-nistp256 for new ones.",
        False,
    ),
    "options_block_proof": Cause(
        "The old key's line carries options under which a login can run no command, so the new key could not be proved.",
        "Take the options off the old line, or bind the new key pair beside it on another login.",
        True,
    ),
    # -- sshd ------------------------------------------------------------------------------------------------------------
    "sshd_config_invalid": Cause(
        "sshd does not accept its own configuration as it stands; reloading it would shut the door.",
        "Run sshd -t on the server and mend what it names.",
        True,
    ),
    "sshd_config_missing": Cause(
        "The main sshd_config does not exist: it was removed, or the vendor's is elsewhere and creating one would hide that.",
        "If it was removed, put it back. Where the vendor's file is elsewhere, keep password login as it is "
        "(--keep-password-login), or write a main file of your own first.",
        True,
    ),
    "sshd_config_odd": Cause(
        "The configuration holds bytes that sshd reads differently than people do: NUL, a byte order mark, a lone CR.",
        "Clean the line that the message names.",
        True,
    ),
    "setting_pending": Cause(
        "sshd's configuration was changed after sshd last read it, so a reload of ours would put somebody else's change into "
        "force.",
        "Look at the files that the message names. Reload sshd yourself and see that it is right, or mend them; then "
        f"{_RETRY}. Or leave password login as it is (--keep-password-login).",
        True,
    ),
    "setting_overridden": Cause(
        "A Match block or an include keeps passwords open whatever is set globally.",
        "The message names file and line: edit it by hand, or leave password login open (--keep-password-login).",
        True,
    ),
    "authentication_methods": Cause(
        "AuthenticationMethods asks for more than a key.",
        "Change it for this login, or name a login for which a key is enough.",
        True,
    ),
    "reload_failed": Cause(
        "sshd did not listen anew after it was told to re-read its configuration.",
        "See its log (journalctl -u ssh). The change was taken back, and sshd started again where it had ended.",
        True,
    ),
    "password_off_by_owner": Cause(
        "The server's own configuration, not ours, keeps passwords out.",
        "Change it there, or put a setting of ours above it: --force.",
        True,
    ),
    # -- emergency doors -------------------------------------------------------------------------------------------------
    "door_open": Cause(
        "An emergency door is open on this server: until it is closed no other order changes sshd's configuration, and none "
        "opens a second door.",
        f"Close the door (kps emergency close), or wait for it to close by itself, then {_RETRY}. A bind or replace goes on "
        "beside it with --keep-password-login.",
        True,
    ),
    "door_wider": Cause(
        "The door would let in more than was asked for, or something in the server's configuration keeps it from opening: a "
        "Match, or an include.",
        "The message names what, with file and line. Change that by hand, or ask for another login or network (--from).",
        True,
    ),
    "door_needless": Cause(
        "Passwords get the login in already, from wherever the door was to be open. A door would open nothing, and its end would "
        "close nothing.",
        "Log in with the password. One that was made with this order (--set-password) is changed again: kps secret rotate makes "
        "one that stays, and kps secret show shows it. To close password login: kps password-login disable.",
        False,
    ),
    "door_unknown": Cause(
        "The door that is to be closed or extended does not stand on the server: it closed by itself, or never was open.",
        "kps emergency list shows which are open. To open one: kps emergency open.",
        False,
    ),
    "door_unwatched": Cause(
        "Nothing on this server would be sure to close the door: there is no Python, or nothing that runs at its boot.",
        "Install python3-minimal and an init that runs /etc/rcS.d, or, where /run is in memory, cron. Or give the login a key: "
        "kps bind with its password, or kps reset.",
        True,
    ),
    "door_stuck": Cause(
        "The door's time is over, or it was told to close, and sshd could not be brought to close it. The server goes on trying.",
        "The message says what is in the way: a sshd_config that sshd does not accept, a disk that went read-only, an sshd that "
        "was started and never listens. Mend that at the server.",
        True,
    ),
    "password_login_under_rule": Cause(
        "A second user has to agree before passwords are let in on this server, and nobody has agreed to this order.",
        "To get in by password ask for a door (kps emergency open), anew where this was one: it waits for the second user. "
        "Instead of unbind: kps replace with another key pair, or kps unbind --keep-password-login. Or have an administrator "
        "remove the rule (kps emergency rule remove), which is on record.",
        False,
    ),
    "login_is_pattern": Cause(
        "The login's name holds characters that sshd would take for a pattern, so a door for it could let in others.",
        "Name another login with --login.",
        False,
    ),
    "no_usable_password": Cause(
        "The login has no password that could get it in: it is locked, empty, or none was ever set.",
        "Set one: kps emergency open --set-password does so with the order, or passwd at the server.",
        True,
    ),
    # -- lock-out --------------------------------------------------------------------------------------------------------
    "others_locked_out": Cause(
        "Other logins have a password and no key; they would have no way in.",
        "Give them keys, or name each with --accept-lockout LOGIN, or use --keep-password-login.",
        True,
    ),
    "no_way_in_remains": Cause(
        "After this nothing that can be seen would let the login in.",
        "Give the login a usable password or another key first, or say --accept-lockout LOGIN.",
        True,
    ),
    "proof_too_weak": Cause(
        "Nobody has shown to hold the private half of the key, so nothing is taken away on its account.",
        "Give the private half (--identity FILE), import it into custody, or say --accept-unproved.",
        True,
    ),
    # -- proof -----------------------------------------------------------------------------------------------------------
    "new_key_refused": Cause(
        "sshd did not let the login in with the new key, or it could run nothing. The change was taken back.",
        "The evidence says what was seen; the server's log (journalctl -u ssh) says why.",
        True,
    ),
    "old_key_still_accepted": Cause(
        "sshd still takes the key that was removed: a second file, an AuthorizedKeysCommand or a CA lets it in. The change "
        "was taken back, but for a revoke.",
        "sshd -T -C user=LOGIN shows where it looks; remove it there.",
        True,
    ),
    "key_remains": Cause(
        "The revoked key is out of every file that is ours to change, and stays out; what is named still lets it in somewhere.",
        f"Take it out of each place that the message names (another login's file: --everywhere), then {_RETRY}.",
        True,
    ),
    "password_still_accepted": Cause(
        "sshd still offers password login from here after it was switched off. The change was taken back.",
        "Look for a Match block on the client's host name (Match Host, with UseDNS yes), for a second sshd, or for a proxy "
        "behind this address and port.",
        True,
    ),
    "wrong_machine": Cause(
        "The login that should prove the change reached another machine than the one that was changed. The change was taken "
        "back.",
        "Behind this address there is more than one machine: give each server an address of its own.",
        False,
    ),
    "deadline_passed": Cause(
        "The proof did not come in time, and the server undid the change.",
        f"{_RETRY}; if the way to the server is slow, raise KPS_DEADLINE_SECONDS.",
        True,
    ),
    # -- bookkeeping -----------------------------------------------------------------------------------------------------
    "already_bound": Cause("Another key pair is bound to this login.", "Use kps replace, or unbind the other one first.", False),
    "not_bound": Cause(
        "No key pair is bound to this login, and none was given.",
        f"{_RETRY} --identity FILE with the key that should go, or order anew for another login.",
        True,
    ),
    "undo_incomplete": Cause(
        "A change could not be taken back completely; what remains is named.",
        f"Mend what keeps the files named in the evidence from being written; {_RETRY}, like any order, finishes the undo first.",
        True,
    ),
    "interrupted": Cause(
        "The controller ended while this task ran. The server undoes by itself what was not confirmed.",
        f"{_RETRY}; it first finds out how the interrupted one ended.",
        True,
    ),
    "unexpected": Cause(
        "Something that this list does not know.",
        "Keep the evidence and report it: it is a defect that this has no name.",
        True,
    ),
}


def handling(code: str, **known: object) -> str:
    """Return what to do about a cause, with what is known in the place of its words in capitals: HOST, PORT, SOURCE.

    ID and LOGIN stay: what shows a task to a person puts its id in, and whose login is meant the message says. A user may well
    copy it into a shell, so nothing that a server said belongs here.
    """
    return re.sub(r"\b[A-Z]+\b", lambda word: str(known.get(word[0]) or word[0]), CAUSES[code].handling)
