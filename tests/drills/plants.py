"""What keeps a key out of a real server, planted there as a person, a script or a distribution would leave it.

This module knows sshd, Linux and a server of the fleet, and nothing of the product: it never imports what it is to test. Each
plant says by which words of docs/doctor.md it may be named first. Verified by a real login: tests/drills/causes.py.
"""
# ruff: noqa: E501 - a table

import base64
import random
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controller.demo.fleet import Login, Server, Spec

_NOBODY = 0xFFFFFFFF  # in an access control list
LOGIN, PASSWORD = "deploy", "walk the dog"
FROM = "127.0.0.1"
USERS = (Login(LOGIN, PASSWORD), Login("other", "fetch"))
ADMIN = (Login("admin", "open sesame", sudo="password"),)


@dataclass
class Case:
    """One login on one server, into which a key gets as long as nothing is planted."""

    server: Server
    private: str
    public: str
    login: str = LOGIN
    reloads: bool = False
    source: str | None = None  # from where OpenSSH's client comes; None: from anywhere

    @property
    def home(self) -> str:
        return "/root" if self.login == "root" else f"/home/{self.login}"

    @property
    def keys(self) -> str:
        return f"{self.home}/.ssh/authorized_keys"

    def sh(self, script: str, *words: str) -> str:
        return self.server.run(["sh", "-c", script, "sh", *words]).stdout

    def install(self, text: str | None = None) -> None:
        """Write the file of keys as its owner would."""
        self.sh('install -d -m 700 -o "$1" -g "$1" "$2"', self.login, f"{self.home}/.ssh")
        self.server.write(self.keys, f"{self.public}\n" if text is None else text, 0o600, f"{self.login}:{self.login}")

    def config(self, text: str, reload: bool = True) -> None:
        """Put lines before everything else that sshd reads."""
        name = f"/etc/ssh/sshd_config.d/00-{random.randrange(10**9):09d}.conf"
        self.server.write(name, text + "\n")
        self.reloads = self.reloads or reload

    def settle(self) -> None:
        """Have sshd read what was written."""
        if self.reloads:
            self.server.reload()


@dataclass(frozen=True)
class Plant:
    """One cause. group: two of one group do not go together. codes: the words by which it may be named."""

    name: str
    group: str
    codes: tuple[str, ...]
    sow: Callable[[Case], object]
    key: tuple[str, int | None] = ("ed25519", None)
    login: str = LOGIN
    tree: str = "host"
    warns: Callable[[Case], bool] | None = None  # for what keeps nobody out yet: whether it has the effect that it warns of
    logins: tuple[Login, ...] = USERS
    source: str | None = None
    another_way: bool = True  # whether the check is given one more credential, to look inside with


def _key_of(public: str) -> tuple[str, str, str]:
    kind, blob, *comment = public.split()
    return kind, blob, " ".join(comment)


def _line(make: Callable[[str, str, str], str]) -> Callable[[Case], None]:
    def sow(case: Case) -> None:
        case.install(make(*_key_of(case.public)))

    return sow


def _config(text: str) -> Callable[[Case], None]:
    return lambda case: case.config(text.replace("LOGIN", case.login))


def _run(script: str) -> Callable[[Case], str]:
    return lambda case: case.sh(script.replace("LOGIN", case.login).replace("HOME", case.home).replace("KEYS", case.keys))


def _pam(rule: str, script: str = "true") -> Callable[[Case], None]:
    """Put one more account rule before sshd's own, as an administrator would."""
    return lambda case: case.sh(f"{script}; sed -i '1i account required {rule}' /etc/pam.d/sshd".replace("LOGIN", case.login))


def _other_key() -> str:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return path.with_suffix(".pub").read_text()


def _revoked(case: Case, how: str) -> None:
    path = "/etc/ssh/revoked"
    if how == "keys":
        case.server.write(path, f"{_other_key()}{case.public}\n", 0o644)
    if how in ("krl", "cut"):
        with tempfile.TemporaryDirectory() as directory:
            public, krl = Path(directory, "key.pub"), Path(directory, "krl")
            public.write_text((case.public if how == "krl" else _other_key().strip()) + "\n")
            subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(krl), str(public)], check=True)
            encoded = base64.b64encode(krl.read_bytes()[: -20 if how == "cut" else None]).decode()
        case.sh(f"echo {encoded} | base64 -d > {path}")
    case.config(f"RevokedKeys {path}")


def _utf16(case: Case) -> None:
    encoded = base64.b64encode(f"{case.public}\n".encode("utf-16")).decode()
    case.install("")
    case.sh(f"echo {encoded} | base64 -d > {case.keys}")


def _padded(kind: str, blob: str, comment: str) -> str:
    """A letter of the key that is gone: its Base64 is still Base64."""
    return f"{kind} {blob[:40]}{blob[44:]} {comment}\n"


def _wrong_inside(kind: str, blob: str, comment: str) -> str:
    raw = base64.b64decode(blob)
    size = struct.unpack(">I", raw[:4])[0]
    cut = raw[: 4 + size] + raw[4 + size : -3]
    return f"{kind} {base64.b64encode(cut).decode()} {comment}\n"


def _denied_after_reload(case: Case) -> bool:
    case.server.reload()
    return "denyusers" in case.server.run(["/usr/sbin/sshd", "-T", "-C", f"user={case.login},host={FROM},addr={FROM}"]).stdout


def _acl(case: Case, path: str, *entries: tuple[int, int, int]) -> None:
    """Give a file the entries (tag, permissions, id) of an access control list: acl(5)."""
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    case.sh(f'python3 -c \'import os; os.setxattr("{path}", "system.posix_acl_access", bytes.fromhex("{value.hex()}"))\'')


def _shut_out(case: Case) -> None:
    """Everybody may read root's file but the login, by an entry of its own."""
    case.sh(f"chown root:root {case.keys}; chmod 644 {case.keys}")
    _acl(case, case.keys, (0x01, 6, _NOBODY), (0x02, 0, 1000), (0x04, 4, _NOBODY), (0x10, 4, _NOBODY), (0x20, 4, _NOBODY))


# What SELinux would do is played, for this machine's kernel has none: it is said to be on, and a tool of the name knows a policy of
# one rule. The label is a real attribute.
RESTORECON = """#!/bin/sh
[ "$1 $2" = "-n -v" ] || exit 1
shift 2
exec python3 - "$@" <<'END'
import os, re, sys
for path in sys.argv[1:]:
    label = os.getxattr(path, "security.selinux").decode().rstrip("\\0") if os.listxattr(path) else "(null)"
    wanted = re.sub("user_home_t|var_t", "ssh_home_t", label)
    if "/.ssh" in path and wanted != label:
        print("Would relabel {} from {} to {}".format(path, label, wanted))
END
"""


def labelled(case: Case, label: str = "unconfined_u:object_r:user_home_t:s0", path: str = "") -> None:
    case.sh("mkdir -p /sys/fs/selinux; echo 1 > /sys/fs/selinux/enforce")
    case.server.write("/usr/sbin/restorecon", RESTORECON, 0o755)
    command = f'import os; os.setxattr("{path or case.keys}", "security.selinux", b"{label}\\0")'
    case.sh(f"python3 -c '{command}'")


def _denied_by_name(case: Case) -> None:
    """By the name that the DNS has for the controller's address: sshd_config(5), UseDNS."""
    case.config(f"UseDNS yes\nDenyUsers {case.login}@localhost")


def _program_is_gone(case: Case) -> bool:
    return "(deleted)" in case.sh("readlink /proc/$(cat /run/sshd.pid)/exe")


def _config_is_refused(case: Case) -> bool:
    return case.server.run(["/usr/sbin/sshd", "-t"], check=False).returncode != 0


PLANTS = (
    # the login
    Plant("password locked, no PAM", "pam", ("login_locked",), lambda c: (c.sh(f"usermod -L {c.login}"), c.config("UsePAM no"))),
    Plant("account expired", "expiry", ("account_expired",), _run("chage -E 0 LOGIN")),
    Plant("account expired, no PAM", "pam", ("account_expired",), lambda c: (c.sh(f"chage -E 0 {c.login}"), c.config("UsePAM no"))),
    Plant("password to be changed", "expiry", ("password_expired",), _run("chage -d 0 LOGIN")),
    Plant("password too old", "expiry", ("password_expired",), _run("chage -d 2000-01-01 -M 30 LOGIN")),
    Plant("shell gone", "shell", ("shell_missing",), _run("usermod -s /opt/fish LOGIN")),
    Plant("shell not executable", "shell", ("shell_missing",), _run("usermod -s /etc/motd LOGIN; touch /etc/motd; chmod 644 /etc/motd")),
    Plant("shell nologin", "shell", ("shell_ends_at_once",), _run("usermod -s /usr/sbin/nologin LOGIN")),
    Plant("shell false", "shell", ("shell_ends_at_once",), _run("usermod -s /bin/false LOGIN")),
    Plant("/etc/nologin", "nologin", ("nologin_file",), _run("echo maintenance > /etc/nologin")),
    Plant("/run/nologin", "nologin", ("nologin_file",), _run("echo booting > /run/nologin")),
    Plant("access.conf", "rule", ("pam_rule",), _pam("pam_access.so", "echo '-:ALL EXCEPT root:ALL' >> /etc/security/access.conf")),
    Plant("closed by time.conf", "rule", ("pam_rule",), _pam("pam_time.so", "echo 'sshd;*;LOGIN;!Al0000-2400' >> /etc/security/time.conf")),
    Plant("a list of logins", "rule", ("pam_rule",), _pam("pam_listfile.so onerr=fail item=user sense=allow file=/etc/ssh/who", "echo root > /etc/ssh/who")),
    Plant("a group is asked for", "rule", ("pam_rule",), _pam("pam_succeed_if.so user ingroup wheel", "groupadd wheel; gpasswd -a root wheel")),
    Plant("a program that says no", "rule", ("pam_rule",), _pam("pam_exec.so quiet /etc/ssh/may-log-in", "printf '#!/bin/sh\\n[ $PAM_USER = root ]\\n' > /etc/ssh/may-log-in; chmod 755 /etc/ssh/may-log-in")),
    Plant("no line in shadow", "shadow", ("shadow_line_missing",), _run("sed -i /^LOGIN:/d /etc/shadow")),
    Plant("home gone", "file", ("home_missing",), _run("mv HOME HOME.away")),
    # what sshd allows
    Plant("DenyUsers", "deny users", ("deny_users",), _config("DenyUsers LOGIN")),
    Plant("DenyUsers by pattern", "deny users", ("deny_users",), _config("DenyUsers nobody de*oy@127.*")),
    Plant("AllowUsers", "allow users", ("allow_users",), _config("AllowUsers root other")),
    Plant("AllowUsers from elsewhere", "allow users", ("allow_users",), _config("AllowUsers root LOGIN@192.0.2.0/24")),
    Plant("DenyGroups", "deny groups", ("deny_groups",), lambda c: (c.sh(f"groupadd out; gpasswd -a {c.login} out"), c.config("DenyGroups out"))),
    Plant("AllowGroups", "allow groups", ("allow_groups",), _config("AllowGroups root other")),
    Plant("PermitRootLogin no", "root", ("root_login_off",), _config("PermitRootLogin no"), login="root", logins=ADMIN),
    Plant("root by forced commands only", "root", ("root_login_commands_only",), _config("PermitRootLogin forced-commands-only"), login="root", logins=ADMIN),
    Plant("no keys", "keys", ("keys_off",), _config("Match User LOGIN\n  PubkeyAuthentication no")),
    Plant("key and password", "methods", ("authentication_methods",), _config("Match User LOGIN\n  AuthenticationMethods publickey,password")),
    Plant("password only", "methods", ("authentication_methods",), _config("Match User LOGIN\n  AuthenticationMethods password")),
    # the key
    Plant("type not accepted", "type", ("key_type_refused",), _config("PubkeyAcceptedAlgorithms rsa-sha2-512,ecdsa-sha2-nistp256")),
    Plant("RSA by SHA-1 only", "type", ("key_type_refused",), _config("PubkeyAcceptedAlgorithms ssh-ed25519"), key=("rsa", 2048)),
    Plant("RSA too short", "type", ("key_too_short",), _config("RequiredRSASize 3072"), key=("rsa", 2048)),
    Plant("revoked in a list", "revoked", ("key_revoked",), lambda c: _revoked(c, "keys")),
    Plant("revoked in a KRL", "revoked", ("key_revoked",), lambda c: _revoked(c, "krl")),
    Plant("list of revoked keys gone", "revoked", ("revoked_keys_unreadable",), lambda c: _revoked(c, "gone")),
    Plant("a KRL that was cut", "revoked", ("revoked_keys_unreadable",), lambda c: _revoked(c, "cut")),
    # the way to the file
    Plant("an entry against the login", "path", ("keys_file_unreadable",), _shut_out),
    Plant("home writable by all", "path", ("path_writable",), _run("chmod 777 HOME")),
    Plant("home of a stranger", "path", ("path_owner",), _run("chown 4711 HOME; chmod 755 HOME")),
    Plant("home writable by a shared group", "path", ("path_writable",), _run("gpasswd -a other LOGIN; chmod 775 HOME")),
    Plant(".ssh writable by all, sticky", "path", ("path_writable",), _run("chmod 1777 HOME/.ssh")),
    Plant(".ssh of root, closed", "path", ("path_unreadable",), _run("chown -R root:root HOME/.ssh")),
    Plant(".ssh closed to its owner", "path", ("path_unreadable",), _run("chmod 600 HOME/.ssh")),
    Plant("file writable by all", "path", ("path_writable",), _run("chmod 666 KEYS")),
    Plant("file of a stranger", "path", ("path_owner",), _run("chown bin KEYS; chmod 644 KEYS")),
    Plant("file of root, closed", "path", ("path_unreadable",), _run("chown root:root KEYS; chmod 600 KEYS")),
    Plant("file closed to its owner", "path", ("path_unreadable",), _run("chmod 0 KEYS")),
    Plant("file in group users, writable", "path", ("path_writable",), _run("chgrp users KEYS; chmod 660 KEYS")),
    Plant("a pipe for a file", "file", ("path_unsafe",), _run("rm KEYS; mkfifo KEYS; chown LOGIN KEYS")),
    Plant("a directory for a file", "file", ("path_unsafe",), _run("rm KEYS; mkdir KEYS; chown LOGIN KEYS")),
    Plant("link into /tmp", "file", ("link_leads_astray",), _run("mv KEYS /tmp/keys-LOGIN; ln -s /tmp/keys-LOGIN KEYS")),
    Plant(".ssh is a link to a shared place", "file", ("link_leads_astray", "path_writable"), _run("mkdir -p /srv/keys; chmod 777 /srv/keys; mv HOME/.ssh /srv/keys/LOGIN; ln -s /srv/keys/LOGIN HOME/.ssh")),
    Plant("link to nowhere", "file", ("keys_file_missing",), _run("rm KEYS; ln -s HOME/keys.txt KEYS")),
    Plant("AuthorizedKeysFile none", "where", ("authorized_keys_elsewhere",), _config("AuthorizedKeysFile none")),
    Plant("keys from a program", "where", ("keys_from_command",), _config("AuthorizedKeysFile none\nAuthorizedKeysCommand /bin/echo\nAuthorizedKeysCommandUser nobody")),
    Plant("keys from a program that fails", "where", ("keys_from_command",), _config("AuthorizedKeysFile none\nAuthorizedKeysCommand /bin/false\nAuthorizedKeysCommandUser nobody")),
    Plant("AuthorizedKeysFile elsewhere", "where", ("keys_file_missing",), _config("AuthorizedKeysFile /etc/ssh/keys/%u")),
    Plant("AuthorizedKeysFile elsewhere for one", "where", ("keys_file_missing",), _config("Match User LOGIN\n  AuthorizedKeysFile .keys/%u")),
    # the line
    Plant("no file", "file", ("keys_file_missing",), _run("rm KEYS")),
    Plant("empty file", "line", ("key_not_listed",), lambda c: c.install("")),
    Plant("another key", "line", ("key_not_listed",), lambda c: c.install(_other_key())),
    Plant("commented out", "line", ("line_commented_out",), _line(lambda k, b, c: f"# {k} {b} {c}\n")),
    Plant("byte order mark", "line", ("line_byte_order_mark",), _line(lambda k, b, c: f"\ufeff{k} {b} {c}\n")),
    Plant("vertical tab before it", "line", ("line_odd_blank",), _line(lambda k, b, c: f"\v{k} {b} {c}\n")),
    Plant("no-break space before it", "line", ("line_odd_blank",), _line(lambda k, b, c: f"\u00a0{k} {b} {c}\n")),
    Plant("old Mac line ends", "line", ("line_carriage_return",), _line(lambda k, b, c: f"# my keys\r{k} {b} {c}\r")),
    Plant("UTF-16", "line", ("authorized_keys_unreadable",), _utf16),
    Plant("type in capitals", "line", ("line_type_misspelt",), _line(lambda k, b, c: f"{k.upper()} {b} {c}\n")),
    Plant("no type", "line", ("line_type_missing",), _line(lambda k, b, c: f"{b} {c}\n")),
    Plant("over two lines", "line", ("line_key_broken",), _line(lambda k, b, c: f"{k} {b[:48]}\n{b[48:]} {c}\n")),
    Plant("a blank in it", "line", ("line_key_broken",), _line(lambda k, b, c: f"{k} {b[:30]} {b[30:]} {c}\n")),
    Plant("cut at its end", "line", ("line_key_broken",), _line(lambda k, b, c: f"{k} {b[:-5]}\n")),
    Plant("four letters gone", "line", ("line_key_broken",), _line(_padded)),
    Plant("three bytes short", "line", ("line_key_broken",), _line(_wrong_inside)),
    Plant("NUL before it", "line", ("line_nul",), _line(lambda k, b, c: f"#\0{k} {b} {c}\n")),
    Plant("unknown option", "line", ("line_options_broken",), _line(lambda k, b, c: f"no-sutch-option {k} {b} {c}\n")),
    Plant("option without quotes", "line", ("line_options_broken",), _line(lambda k, b, c: f"command=/bin/true {k} {b} {c}\n")),
    Plant("blank after a comma", "line", ("line_options_broken",), _line(lambda k, b, c: f"no-pty, no-agent-forwarding {k} {b} {c}\n")),
    Plant("quotes that do not end", "line", ("line_options_broken",), _line(lambda k, b, c: f'command="/bin/true {k} {b} {c}\n')),
    Plant("from elsewhere", "line", ("line_from",), _line(lambda k, b, c: f'from="192.0.2.0/24,10.*" {k} {b} {c}\n')),
    Plant("from anywhere but here", "line", ("line_from",), _line(lambda k, b, c: f'from="*,!127.*" {k} {b} {c}\n')),
    Plant("expired line", "line", ("line_expired",), _line(lambda k, b, c: f'expiry-time="20200101" {k} {b} {c}\n')),
    Plant("certificate authority", "line", ("line_cert_authority",), _line(lambda k, b, c: f"cert-authority {k} {b} {c}\n")),
    Plant("forced command", "line", ("line_command",), _line(lambda k, b, c: f'command="/bin/echo backup",no-pty {k} {b} {c}\n')),
    Plant("forced command before it", "line", ("line_shadowed",), _line(lambda k, b, c: f'command="/bin/echo backup" {k} {b} {c}\n{k} {b} {c}\n')),
    # the session
    Plant("ForceCommand", "session", ("force_command",), _config("Match User LOGIN\n  ForceCommand /bin/echo welcome")),
    Plant("files only", "session", ("sftp_only",), _config("Match User LOGIN\n  ForceCommand internal-sftp")),
    Plant("start-up file that ends it", "rc", ("session_fails",), _run("echo 'exit 1' > HOME/.bashrc; chown LOGIN: HOME/.bashrc")),
    Plant("MaxSessions 0", "sessions", ("no_sessions",), _config("Match User LOGIN\n  MaxSessions 0")),
    Plant("chroot that the login owns", "chroot", ("chroot_unsafe",), _config("Match User LOGIN\n  ChrootDirectory %h")),
    Plant("chroot that is not there", "chroot", ("chroot_unsafe",), _config("Match User LOGIN\n  ChrootDirectory /srv/jail")),
    # sshd itself: nobody is kept out yet
    Plant("edit not yet read", "pending", ("setting_pending",), lambda c: c.config(f"DenyUsers {c.login}", reload=False), warns=_denied_after_reload),
    Plant("program replaced", "program", ("sshd_replaced",), _run("cp -p /usr/sbin/sshd /usr/sbin/sshd.new; mv /usr/sbin/sshd.new /usr/sbin/sshd"), warns=_program_is_gone),
    Plant("configuration broken", "broken", ("sshd_config_invalid", "setting_pending"), lambda c: c.config("NoSuchKeyword yes", reload=False), warns=_config_is_refused),
)  # fmt: skip


# These go with no other: they take away what another would be planted on, or what would show it.
ALONE = (
    Plant("login gone", "alone", ("login_missing",), _run("userdel LOGIN")),
    Plant("no way in but that", "alone", ("refused_unseen",), lambda c: c.install(_other_key()), another_way=False),
    Plant("denied by a name in the DNS", "alone", ("unexplained",), _denied_by_name, source=FROM),
    Plant("label of another place, SELinux played", "alone", ("path_label",), lambda c: (labelled(c), _denied_by_name(c)), source=FROM),
)  # fmt: skip


def case(plant: Plant, add: Callable[[Spec], Server], make_key: Callable[[str, int | None], tuple[str, str]]) -> Case:
    """Return a server with a login that gets in by its key, as it is before anything is planted."""
    server = add(Spec(tree=plant.tree, logins=plant.logins, max_startups=200))
    private, public = make_key(*plant.key)
    made = Case(server, private, public, plant.login, source=plant.source)
    made.install()
    return made


# -- from outside ------------------------------------------------------------------------------------------------------


def _stopped(case: Case) -> None:
    case.sh("kill $(cat /run/sshd.pid); while kill -0 $(cat /run/sshd.pid 2>/dev/null) 2>/dev/null; do :; done")


def _new_host_key(case: Case) -> None:
    case.sh("cd /etc/ssh && rm -f ssh_host_*key* && ssh-keygen -q -A")
    case.reloads = True


UNREACHED = (
    Plant("sshd does not run", "reach", ("connection_refused",), _stopped),
    Plant("address in hosts.deny", "reach", ("connection_closed",), _run("echo 'sshd: ALL' > /etc/hosts.deny")),
    Plant("host key made anew", "reach", ("host_key_changed",), _new_host_key),
)


# -- nothing is wrong --------------------------------------------------------------------------------------------------


def _lent(case: Case) -> None:
    """Another login may write to the file too, by an entry of its own; to sshd that looks like a mode of 0660."""
    _acl(case, case.keys, (0x01, 6, _NOBODY), (0x02, 6, 1001), (0x04, 4, _NOBODY), (0x10, 6, _NOBODY), (0x20, 4, _NOBODY))


def _leading_zeros(kind: str, blob: str, comment: str) -> str:
    raw, fields = base64.b64decode(blob), []
    while raw:
        size = struct.unpack(">I", raw[:4])[0]
        fields.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    fields[2] = b"\0" + fields[2]
    return f"{kind} {base64.b64encode(b''.join(struct.pack('>I', len(each)) + each for each in fields)).decode()} {comment}\n"


def _kept_by_root(case: Case) -> None:
    case.sh(f"mkdir -p /etc/ssh/keys; cat {case.keys} > /etc/ssh/keys/{case.login}; rm -r {case.home}/.ssh")
    case.config("AuthorizedKeysFile /etc/ssh/keys/%u")


def _state(name: str, sow: Callable[[Case], object], **more: object) -> Plant:
    return Plant(name, "healthy", (), sow, **more)  # type: ignore[arg-type]


HEALTHY = (
    _state("as it should be", _run("true")),
    *(_state(f"file {mode}", _run(f"chmod {mode} KEYS")) for mode in ("644", "640", "400", "755", "440", "444")),
    _state("file of root, open", _run("chown root:root KEYS; chmod 644 KEYS")),
    _state("file of root, the login's group", _run("chown root:LOGIN KEYS; chmod 640 KEYS")),
    *(_state(f"file {mode}, private group", _run(f"chmod {mode} KEYS")) for mode in ("660", "620", "664")),
    _state(".ssh 0775, private group", _run("chmod 775 HOME/.ssh")),
    _state(".ssh of root, open", _run("chown root:root HOME/.ssh; chmod 755 HOME/.ssh")),
    *(_state(f"home {mode}, private group", _run(f"chmod {mode} HOME")) for mode in ("775", "770", "2775", "700", "711")),
    _state("home, .ssh and file, private group", _run("chmod 775 HOME HOME/.ssh; chmod 660 KEYS")),
    _state("an ACL for another login", _lent),
    _state("/home writable by all", _run("chmod 777 /home")),
    _state("/home of somebody else", _run("chown 4711 /home")),
    _state("a link to another file in the home", _run("mv KEYS HOME/keys; ln -s ../keys KEYS")),
    _state("an absolute link in the home", _run("mkdir -p HOME/dot; chown LOGIN: HOME/dot; mv KEYS HOME/dot/keys; ln -s HOME/dot/keys KEYS")),
    _state("a link to root's file", _run("mv KEYS /etc/keys-LOGIN; chown root:root /etc/keys-LOGIN; chmod 644 /etc/keys-LOGIN; ln -s /etc/keys-LOGIN KEYS")),
    _state(".ssh is a link in the home", _run("mv HOME/.ssh HOME/dotssh; ln -s dotssh HOME/.ssh")),
    _state(".ssh is a link to a place of root's", _run("mkdir -p /srv/keys; mv HOME/.ssh /srv/keys/LOGIN; ln -s /srv/keys/LOGIN HOME/.ssh")),
    _state("home is a link", _run("mv HOME /srv/LOGIN; ln -s /srv/LOGIN HOME")),
    _state("a second name", _run("ln KEYS HOME/backup")),
    _state("StrictModes no", lambda c: (c.sh(f"chmod 777 {c.home} {c.home}/.ssh; chmod 666 {c.keys}"), c.config("StrictModes no"))),
    _state("kept by root", _kept_by_root),
    _state("in authorized_keys2", _run("mv KEYS KEYS2")),
    _state("in the second file, the first closed", lambda c: (c.sh(f"cp -p {c.keys} {c.keys}2; echo '# none' > {c.keys}; chmod 666 {c.keys}; chown {c.login}: {c.keys}2"))),
    # lines
    _state("no end of line", _line(lambda k, b, c: f"{k} {b}")),
    _state("CRLF", _line(lambda k, b, c: f"# mine\r\n{k} {b} {c}\r\n")),
    _state("blanks and tabs", _line(lambda k, b, c: f" \t {k}\t{b}\t {c}\n")),
    _state("after junk", _line(lambda k, b, c: f"-----BEGIN JUNK-----\n\ufeffwhatever\n# {k} {b}\nssh-dss AAAA\n\n{k} {b} {c}\n")),
    _state("after a broken copy of itself", _line(lambda k, b, c: f"{k} {b[:-4]} {c}\n{k} {b} {c}\n")),
    _state("after an expired one", _line(lambda k, b, c: f'expiry-time="20200101" {k} {b} {c}\n{k} {b} {c}\n')),
    _state("after one from elsewhere", _line(lambda k, b, c: f'from="192.0.2.1" {k} {b} {c}\n{k} {b} {c}\n')),
    _state("after one with an unknown option", _line(lambda k, b, c: f'no-sutch {k} {b} {c}\n{k} {b} {c}\n')),
    _state("before one with a command", _line(lambda k, b, c: f'{k} {b} {c}\ncommand="/bin/false" {k} {b} {c}\n')),
    _state("a vertical tab within", _line(lambda k, b, c: f"{k} {b[:40]}\v{b[40:]} {c}\n")),
    _state("RSA by a signature's name", _line(lambda k, b, c: f"rsa-sha2-512 {b} {c}\n"), key=("rsa", 2048)),
    _state("RSA with leading zeros", _line(_leading_zeros), key=("rsa", 2048)),
    _state("ECDSA", _run("true"), key=("ecdsa", 256)),
    _state("many keys", lambda c: c.install("".join(_fake(n) for n in range(3000)) + f"{c.public}\n")),
    _state("a line of a mebibyte", lambda c: c.install(f"# {'x' * (1 << 20)}\n{c.public}\n")),
    _state("from here", _line(lambda k, b, c: f'from="127.0.0.0/8" {k} {b} {c}\n')),
    _state("from here by pattern", _line(lambda k, b, c: f'from="!192.0.2.*,127.*" {k} {b} {c}\n')),
    _state("expires late", _line(lambda k, b, c: f'expiry-time="20990101" {k} {b} {c}\n')),
    _state("restricted", _line(lambda k, b, c: f"restrict,pty {k} {b} {c}\n")),
    _state("options in capitals", _line(lambda k, b, c: f"NO-PTY,No-X11-Forwarding {k} {b} {c}\n")),
    _state("commas too many", _line(lambda k, b, c: f",no-pty,,no-user-rc {k} {b} {c}\n")),
    _state("a quoted option with a key in it", _line(lambda k, b, c: f'environment="X={k} {b}" {k} {b} {c}\n')),
    # logins
    _state("password locked, with PAM", _run("usermod -L LOGIN")),
    _state("no password, without PAM", lambda c: (c.sh(f"usermod -p '*' {c.login}"), c.config("UsePAM no"))),
    _state("expires tomorrow", _run("chage -E $(date -d tomorrow +%F) LOGIN")),
    _state("password changed long ago, no limit", _run("chage -d 2001-01-01 -M 99999 LOGIN")),
    _state("/bin/sh", _run("usermod -s /bin/sh LOGIN")),
    _state("no shell named", _run("sed -i '/^LOGIN:/s/:[^:]*$/:/' /etc/passwd")),
    # sshd
    _state("named by AllowUsers", _config("AllowUsers root LOGIN@127.0.0.0/8")),
    _state("in AllowGroups", _config("AllowGroups root LOGIN")),
    _state("others denied", _config("DenyUsers other root@192.0.2.1\nDenyGroups other")),
    _state("a key is enough by AuthenticationMethods", _config("AuthenticationMethods publickey,password publickey password")),
    _state("a Match for somebody else", _config("Match User other\n  PubkeyAuthentication no\n  ForceCommand /bin/false")),
    _state("a Match for another address", _config("Match Address 192.0.2.0/24\n  AuthorizedKeysFile none")),
    _state("no passwords", _config("Match User LOGIN\n  PasswordAuthentication no\n  KbdInteractiveAuthentication no")),
    _state("another key is revoked", lambda c: (c.server.write("/etc/ssh/revoked", _other_key()), c.config("RevokedKeys /etc/ssh/revoked"))),
    _state("nothing is revoked", lambda c: (c.server.write("/etc/ssh/revoked", "# none\n"), c.config("RevokedKeys /etc/ssh/revoked"))),
    _state("its own types", _config("PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512")),
    _state("a banner", lambda c: (c.server.write("/etc/ssh/banner", "Welcome. Go away.\n"), c.config("Banner /etc/ssh/banner"))),
    _state("few sessions", _config("MaxSessions 2")),
    _state("reloaded twice", lambda c: (c.config("X11Forwarding no"), c.server.reload(), c.config("PrintMotd no"))),
    _state("a rule of PAM's that lets it in", _pam("pam_access.so", "echo '-:ALL EXCEPT root LOGIN:ALL' >> /etc/security/access.conf")),
    _state("a group that PAM asks for", _pam("pam_succeed_if.so user in LOGIN:root")),
    _state("labels that SELinux's policy does not have", labelled),
    _state("names of the DNS", _config("UseDNS yes\nAllowUsers LOGIN@localhost LOGIN@127.* other")),
    # root
    _state("root", _run("true"), login="root"),
    _state("root by keys only", _config("PermitRootLogin prohibit-password"), login="root"),
    _state("root, file 0660", _run("chmod 660 KEYS"), login="root"),
    _state("root, /root 0770", _run("chmod 770 HOME"), login="root"),
    _state("root while nobody else may", _run("echo maintenance > /etc/nologin"), login="root"),
    _state("root, locked password", _run("usermod -L LOGIN"), login="root"),
)  # fmt: skip


def _fake(number: int) -> str:
    blob = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + number.to_bytes(32, "big")
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} key-{number}\n"
