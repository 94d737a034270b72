"""What a check finds of a key that can't, or soon can't, log in: a closed list, each with what it means and how it is mended.

docs/doctor.md is this list for people; a check holds the two together. A finding for which an operation is refused or fails has
that cause (controller/causes.py), and where the cause says all there is to say, its word too.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. cause: what an operation that meets it ends with, or "". repair: the command that mends it, or shows where.

    Root pastes it: it changes nothing at PATH but with the login's own rights, who may have put a link there since.
    safe: `kps server check --repair` does it.
    """

    cause: str
    meaning: str
    repair: str
    safe: bool = False


FINDINGS: dict[str, Finding] = {
    # -- the server and its sshd ---------------------------------------------------------------------------------------
    "sshd_config_invalid": Finding(
        "sshd_config_invalid",
        "sshd does not accept its configuration. One that runs goes on with what it has read, until it is restarted.",
        "sshd -t",
    ),
    "setting_pending": Finding(
        "setting_pending",
        "sshd's configuration was changed after the running sshd read it, so it does not do what is written there.",
        "sshd -t && systemctl reload ssh",
    ),
    "sshd_replaced": Finding(
        "",
        "The program of the running sshd is another by now (an upgrade without a restart); new connections may fail.",
        "sshd -t && systemctl restart ssh",
    ),
    # -- the login -----------------------------------------------------------------------------------------------------
    "login_missing": Finding("login_missing", "There is no such login.", "useradd -m LOGIN"),
    "login_locked": Finding(
        "login_locked",
        "The password is locked with '!' and sshd runs without PAM: then it refuses the login's keys too.",
        "usermod -p '*' LOGIN",
    ),
    "account_expired": Finding("login_expired", "The account has expired.", "chage -E -1 LOGIN"),
    "password_expired": Finding(
        "login_expired",
        "The password has expired: the key is taken, and then nothing runs until the password is changed.",
        "passwd LOGIN",
    ),
    "shell_missing": Finding(
        "login_not_allowed",
        "The login's shell does not exist, or cannot be executed; sshd turns the login away.",
        "usermod -s /bin/sh LOGIN",
    ),
    "shell_ends_at_once": Finding(
        "login_not_allowed",
        "The login's shell is nologin or false: the key is taken, and the session ends at once.",
        "usermod -s /bin/sh LOGIN",
    ),
    "pam_rule": Finding(
        "login_not_allowed",
        "PAM's account rules for sshd are more than the usual ones (access.conf, time.conf, a directory's); one may say no.",
        "sed -n LINEp PATH",
    ),
    "shadow_line_missing": Finding(
        "login_not_allowed",
        "The login is in passwd and has no line in shadow; PAM turns it away once its key was taken.",
        "pwconv",
    ),
    "nologin_file": Finding(
        "login_not_allowed",
        "A file says that nobody but root may log in now (maintenance, or a boot that is not through).",
        "rm -f /etc/nologin /run/nologin",
    ),
    "home_missing": Finding(
        "path_permissions", "The login's home directory, in which its keys are, does not exist.", "mkhomedir_helper LOGIN"
    ),
    # -- what sshd allows ----------------------------------------------------------------------------------------------
    "deny_users": Finding(
        "login_not_allowed", "DenyUsers names the login.", "sshd -T -C user=LOGIN,host=ADDRESS,addr=ADDRESS | grep -i users"
    ),
    "allow_users": Finding(
        "login_not_allowed",
        "AllowUsers is set and does not name the login, or not from this address.",
        "sshd -T -C user=LOGIN,host=ADDRESS,addr=ADDRESS | grep -i users",
    ),
    "deny_groups": Finding("login_not_allowed", "DenyGroups names a group of the login.", "gpasswd -d LOGIN GROUP"),
    "allow_groups": Finding(
        "login_not_allowed", "AllowGroups is set and names no group of the login.", "usermod -a -G GROUP LOGIN"
    ),
    "root_login_off": Finding(
        "login_not_allowed", "PermitRootLogin no keeps root out, whatever it shows.", "sshd -T | grep -i permitrootlogin"
    ),
    "root_login_commands_only": Finding(
        "login_not_allowed",
        "PermitRootLogin forced-commands-only lets root in only with a key whose line has a command.",
        "sshd -T | grep -i permitrootlogin",
    ),
    "keys_off": Finding(
        "login_not_allowed",
        "PubkeyAuthentication no: sshd takes no keys from this login.",
        "grep -rni pubkeyauthentication /etc/ssh",
    ),
    "authentication_methods": Finding(
        "authentication_methods", "AuthenticationMethods asks for more than a key.", "grep -rni authenticationmethods /etc/ssh"
    ),
    # -- the key -------------------------------------------------------------------------------------------------------
    "key_type_refused": Finding(
        "key_type_refused",
        "This sshd does not accept keys of this type (PubkeyAcceptedAlgorithms).",
        "kps keypair create NAME --type ed25519",
    ),
    "key_too_short": Finding(
        "key_type_refused", "The RSA key is shorter than RequiredRSASize.", "kps keypair create NAME --type rsa-4096"
    ),
    "key_revoked": Finding("new_key_refused", "The file of RevokedKeys lists the key.", "kps replace SERVER --keypair NAME"),
    "revoked_keys_unreadable": Finding(
        "new_key_refused",
        "RevokedKeys names a file that is not there, can't be read or is damaged: then sshd refuses every key.",
        "grep -rni revokedkeys /etc/ssh",
    ),
    # -- the way to the file of keys -----------------------------------------------------------------------------------
    "path_writable": Finding(
        "path_permissions",
        "Others may write to a directory or file on the way to the key, so sshd does not trust it.",
        "su -s /bin/sh LOGIN -c 'chmod go-w PATH'",
        True,
    ),
    "path_owner": Finding(
        "path_permissions",
        "A directory or file on the way to the key belongs to neither the login nor root.",
        "kps server check SERVER --login LOGIN --repair",
        True,
    ),
    "path_unreadable": Finding(
        "path_permissions",
        "The login may not read its own file of keys, or pass through a directory on the way; sshd reads it as the login.",
        "kps server check SERVER --login LOGIN --repair",
        True,
    ),
    "path_label": Finding(
        "new_key_refused",
        "SELinux enforces, and a directory or file on the way to the key has another label than its policy has for it.",
        "su -s /bin/sh LOGIN -c 'restorecon -v PATH'",
        True,
    ),
    "path_unsafe": Finding("path_unsafe", "Something on the way is not the directory or file that it should be.", "ls -ld PATH"),
    "link_leads_astray": Finding(
        "path_unsafe",
        "A link leads to a place that somebody else may change, so sshd does not trust it.",
        "namei -l PATH",
    ),
    "keys_file_unreadable": Finding("path_permissions", "The file of keys cannot be read.", "namei -l PATH"),
    "authorized_keys_unreadable": Finding(
        "authorized_keys_unreadable", "The file of keys is UTF-16 text or too large; sshd finds no key in it.", "file PATH"
    ),
    "authorized_keys_elsewhere": Finding(
        "authorized_keys_elsewhere",
        "sshd reads no file of keys for this login (AuthorizedKeysFile none).",
        "grep -rni authorizedkeysfile /etc/ssh",
    ),
    "keys_from_command": Finding(
        "new_key_refused",
        "The login's keys come from a program alone (AuthorizedKeysCommand), which does not name this one, or fails.",
        "grep -rni authorizedkeyscommand /etc/ssh",
    ),
    "keys_file_missing": Finding(
        "new_key_refused", "None of the files in which sshd looks for keys exists.", "kps bind SERVER --keypair NAME"
    ),
    "key_not_listed": Finding(
        "new_key_refused", "No line of the files in which sshd looks holds the key.", "kps bind SERVER --keypair NAME"
    ),
    # -- the line that holds the key -----------------------------------------------------------------------------------
    "line_commented_out": Finding(
        "new_key_refused", "The key is in a comment.", "su -s /bin/sh LOGIN -c \"sed -i 'LINEs/^[# \\t]*//' PATH\""
    ),
    "line_byte_order_mark": Finding(
        "new_key_refused",
        "A byte order mark stands before the key, as some editors put it there.",
        "su -s /bin/sh LOGIN -c \"sed -i '1s/^\\xef\\xbb\\xbf//' PATH\"",
    ),
    "line_odd_blank": Finding(
        "new_key_refused",
        "The line begins with something that looks like a blank and is none to sshd.",
        "sed -n LINEp PATH | cat -A",
    ),
    "line_carriage_return": Finding(
        "new_key_refused",
        "The lines end with a carriage return only, so to sshd the file is one line.",
        "su -s /bin/sh LOGIN -c \"sed -i 's/\\r/\\n/g' PATH\"",
    ),
    "line_nul": Finding("new_key_refused", "A NUL ends the line before the key.", "sed -n LINEp PATH | cat -A"),
    "line_type_misspelt": Finding("new_key_refused", "The type of the key is written in capitals.", "sed -n LINEp PATH"),
    "line_type_missing": Finding("new_key_refused", "The type does not stand before the key.", "sed -n LINEp PATH"),
    "line_key_broken": Finding(
        "new_key_refused",
        "The key's Base64 is cut, broken over two lines, or has letters too many or too few.",
        "ssh-keygen -l -f PATH",
    ),
    "line_options_broken": Finding(
        "new_key_refused", "sshd does not understand the options before the key, so it drops the line.", "sed -n LINEp PATH"
    ),
    "line_from": Finding(
        "new_key_refused", "The line's from= does not take the key from the controller's address.", "sed -n LINEp PATH"
    ),
    "line_expired": Finding("new_key_refused", "The line's expiry-time is past.", "sed -n LINEp PATH"),
    "line_cert_authority": Finding(
        "new_key_refused",
        "The line says cert-authority: it takes certificates that the key signed, and not the key.",
        "sed -n LINEp PATH",
    ),
    "line_command": Finding(
        "session_disturbed", "The line forces a command: the key is taken, and nothing else runs.", "sed -n LINEp PATH"
    ),
    "line_shadowed": Finding(
        "session_disturbed",
        "An earlier line for the same key forces a command; sshd goes by the first.",
        "su -s /bin/sh LOGIN -c 'sed -i LINEd PATH'",
    ),
    # -- the session ---------------------------------------------------------------------------------------------------
    "force_command": Finding(
        "session_disturbed", "ForceCommand runs something else, whatever is asked for.", "grep -rni forcecommand /etc/ssh"
    ),
    "sftp_only": Finding(
        "session_disturbed",
        "ForceCommand internal-sftp: the login gets files, and no command.",
        "grep -rni forcecommand /etc/ssh",
    ),
    "no_sessions": Finding("session_disturbed", "MaxSessions 0: sshd opens no session.", "grep -rni maxsessions /etc/ssh"),
    "chroot_unsafe": Finding(
        "session_disturbed",
        "ChrootDirectory is missing, or somebody else than root may change it, so sshd ends the session.",
        "namei -l PATH",
    ),
    "session_fails": Finding(
        "session_disturbed",
        "sshd takes the key, and then no command runs; nothing of what is looked at says why: start-up files, PAM or the shell.",
        "ssh LOGIN@SERVER true",
    ),
    # -- from outside --------------------------------------------------------------------------------------------------
    "refused_unseen": Finding(
        "key_refused",
        "sshd refuses the key, and nothing that is known gets in to see why.",
        "kps server check SERVER --password-stdin",
    ),
    "unexplained": Finding(
        "key_refused",
        "sshd refuses the key, and nothing of what is looked at says why. Its own log does.",
        "journalctl -u ssh -n 50",
    ),
}

_SAFE = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@:+%-]{0,299}")


def repair(code: str, **known: Any) -> str:
    """Return the command that mends a finding, with what is known in the place of its words in capitals.

    What a server said goes into it only where no shell could take it for anything else than a name.
    """
    given = {word: str(value) for word, value in known.items() if value and _SAFE.fullmatch(str(value))}
    return re.sub(
        r"\b(LOGIN|PATH|LINE|ADDRESS|SERVER)(?=\b|[sdp])",
        lambda word: shlex.quote(given[word[0]]) if word[0] in given else word[0],
        FINDINGS[code].repair,
    )
