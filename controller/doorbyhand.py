"""What a person at a server's console types where nothing else gets in: a door that closes itself. Pure."""

import ipaddress
import shlex

CONFIG = "/etc/ssh/sshd_config"
ENTRY = "/run/kps-door.conf"
PID_FILE = "/run/sshd.pid"


def by_hand(
    login: str, seconds: int, network: str | None = None, *, config: str = CONFIG, entry: str = ENTRY, pid_file: str = PID_FILE
) -> str:
    """Return one line for a root shell (POSIX sh, OpenSSH 8.2 and later): password login for one login, for so many seconds.

    The entry is a Match in a file of its own, which the main file includes at its top: a Match inside an included file ends with
    that file. It is in force only where sshd -t takes it. A background process takes both out again; the entry is in /run, so a
    reboot closes the door too, and leaves one line that includes nothing. login: a login, and no pattern.
    """
    where = "" if network is None else f" Address {ipaddress.ip_network(network)}"
    words = ["PasswordAuthentication yes", "AuthenticationMethods any", *(["PermitRootLogin yes"] if login == "root" else [])]
    match = "\\n ".join([f"Match User %s{where}", *words]) + "\\n"
    return (
        f"(f={config} d={entry};"
        "t(){ $(command -v sshd||echo /usr/sbin/sshd) -t -f $f;};"
        # An sshd that reads what it does not take ends: it is told once it takes it.
        f"h(){{ t&&(systemctl reload ssh||systemctl reload sshd||kill -HUP $(cat {pid_file}));}} 2>/dev/null;"
        'u(){ sed -i "\\|^Include $d$|d" $f;rm -f $d;};'
        f"printf '{match}' {shlex.quote(login)} >$d;"
        'sed -i "1i Include $d" $f;'
        f"if t;then h;(trap '' HUP;sleep {seconds};u;until h;do sleep 9;done)>&- 2>&- <&- & else u;fi)"
    )
