"""A login that swaps its own files for links to what only root may touch, at full speed, while our agent works on them as root.

Nothing outside that login's reach is read, written, or gets another owner or mode; and no agent hangs.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter

from controller.demo.fleet import Fleet, Login, Server, Spec
from tests.drills.faults import Scale
from tests.drills.faults.writers import LOGIN, Json, run_agent
from tests.drills.figures import Figure, Report, zero
from tests.fleet import judge
from tests.fleet.looks import changed, picture

SECONDS, SAMPLE_SECONDS = 60, 5
LONGEST_SECONDS = 40  # of one agent: its deadline, and what a busy machine takes
HOME = f"/home/{LOGIN}"
MARKER = "only-root-may-read-this"
OURS = ("/home", "/var/lib/kps")

# Only root's: a directory that nobody else gets into, and one that all may read and only root may change.
PREPARE = f"""set -e
mkdir -p /srv
mount -t tmpfs -o mode=755 none /srv
for d in secret open; do
  mkdir /srv/$d
  for f in authorized_keys authorized_keys2 victim; do echo "ssh-ed25519 AAAA {MARKER}-$d" >/srv/$d/$f; done
  mkdir /srv/$d/.ssh; echo {MARKER}-$d >/srv/$d/.ssh/authorized_keys
done
chmod 700 /srv/secret; chmod 600 /srv/secret/*
find /srv -type f -exec touch -a -d '2001-01-01' {{}} +
"""
AS_LOGIN = f"""set -e
cd {HOME}; mkdir -m 700 .ssh; : >.ssh/authorized_keys; chmod 600 .ssh/authorized_keys
mkdir other; mkfifo pipe; ln -s /srv/secret to-secret; ln -s /srv/open to-open; ln -s /srv/open/.ssh to-ssh
ln -s . here; echo x >plain; mkdir -m 777 loose; : >loose/authorized_keys
mkdir k; cd k; ln -s /srv/secret/authorized_keys a; ln -s /srv/open/victim b; mkfifo c; ln -s /dev/zero d
echo x >e; ln e e2; truncate -s 9M f; mkdir g; ln -s /etc/shadow h; ln -s loop loop; : >m; chmod 666 m
"""
_SWAP = """
use strict; my ($what) = @ARGV; my $home = "HOME";
sub swap { my ($x, $y) = @_; syscall(316, -100, $x, -100, $y, 2) }
my @dirs = map {"$home/$_"} qw(to-secret to-open to-ssh pipe other plain loose);
my @files = map {"$home/k/$_"} qw(a b c d e f g h loop m);
while (1) {
  if ($what eq "directory") {
    for my $each (@dirs) {
      swap("$home/.ssh", $each); select(undef, undef, undef, rand 0.004) if rand() < 0.5;
      swap("$home/.ssh", $each);
      select(undef, undef, undef, rand 0.8) if rand() < 0.3;
    }
  } elsif ($what eq "file") {
    for my $each (@files) {
      swap("$home/.ssh/authorized_keys", $each); select(undef, undef, undef, rand 0.004) if rand() < 0.5;
      swap("$home/.ssh/authorized_keys", $each);
    }
    select(undef, undef, undef, rand() < 0.3 ? rand 0.8 : rand 0.02);
  } else {
    opendir(my $open, "$home/.ssh") or next;
    for my $name (grep {/kps/} readdir $open) {
      my $there = "$home/.ssh/$name"; my $chance = rand();
      if ($chance < 0.3) { symlink("/srv/open/victim", "$there.x"); rename("$there.x", $there) }
      elsif ($chance < 0.5) { swap($there, "$home/k/a") }
      elsif ($chance < 0.6) { swap($there, "$home/k/c") }
      elsif ($chance < 0.7) { link($there, "$home/k/kept$name") }
      elsif ($chance < 0.8) { unlink $there }
    }
  }
}
""".replace("HOME", HOME)  # fmt: skip


def part(report: Report, scale: Scale) -> None:
    """Have our agent work on a login's files while the login swaps them for links, pipes, devices and more."""
    keys = [judge.new_key_pair()[1] for _ in range(2)]
    ends: Counter[str] = Counter()
    longest, leaked = 0.0, 0
    with Fleet([Spec(tree="trixie", logins=(Login(LOGIN),))]) as fleet:
        server = fleet.servers[0]
        server.run(["sh", "-c", PREPARE])
        inside = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
        server.run([*inside, "sh", "-c", AS_LOGIN])
        sees = _a_read_shows(server)
        before = picture(server)
        server.run(["find", "/srv", "-type", "f", "-exec", "touch", "-a", "-d", "2001-01-01", "{}", "+"])
        hostile = [
            subprocess.Popen([*server._way_in(), *inside, "perl", "-e", _SWAP, what])
            for what in ("directory", "file", "temporary")
        ]
        until = time.monotonic() + (SAMPLE_SECONDS if scale.sample else SECONDS)
        number = 0
        try:
            while time.monotonic() < until:
                plan = _plan(number, keys)
                begun = time.monotonic()
                result = run_agent(server, plan, LONGEST_SECONDS)
                longest = max(longest, time.monotonic() - begun)
                ends[f"{plan['operation']}: {result['cause'] or result['status']}"] += 1
                leaked += f"{MARKER}-secret" in json.dumps(result)
                number += 1
            alive = sum(each.poll() is None for each in hostile)
        finally:
            _end(server, hostile)
        accessed = server.run(["find", "/srv/secret", "-type", "f", "-newerat", "2002-01-01"]).stdout.split()
        read = server.run(["sh", "-c", f"grep -rIl --devices=skip {MARKER}-secret {HOME} /var/lib/kps 2>/dev/null || :"]).stdout
        escaped = sorted(path for path in changed(before, picture(server)) if not path.startswith(OURS))
    report.misses += [f"race: changed: {path}" for path in escaped[:10]] + [f"race: read: {path}" for path in accessed[:10]]
    report.misses += [f"race: copied into {path}" for path in read.split()[:5]]
    came_through = sum(number for end, number in ends.items() if end.endswith((": succeeded", ": unchanged")))
    print("race: " + ", ".join(f"{end} {number}" for end, number in ends.most_common(12)))
    report.add(
        Figure("race: seconds", SAMPLE_SECONDS if scale.sample else SECONDS, unit=" s"),
        Figure("race: operations", sum(ends.values()), 1 if scale.sample else 15),
        Figure("race: of them through", came_through, None if scale.sample else 1),
        Figure("race: hostile processes to the end", alive, 3, 3),
        Figure("race: a read would be seen", float(sees), 1, 1),
        zero("race: files of others changed", len(escaped)),
        zero("race: files of others read", len(accessed) + leaked + len(read.split())),
        Figure("race: longest operation", round(longest, 1), None, LONGEST_SECONDS, unit=" s"),
    )


def _end(server: Server, hostile: list[subprocess.Popen[bytes]]) -> None:
    """End the hostile processes, those in the server first: one that outlives its way in there would go on swapping."""
    while swapping := [pid for pid, title in server.processes().items() if title.startswith("perl -e")]:
        for pid in swapping:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for each in hostile:
        each.kill()
        each.wait()


def _plan(number: int, keys: list[str]) -> Json:
    operation = ("bind", "replace", "unbind", "check", "bind")[number % 5]
    plan: Json = {"operation": operation, "id": f"r{number}", "generation": 1, "login": LOGIN, "deadline_seconds": 10}
    if operation in ("bind", "replace"):
        plan |= {"key": keys[number % 2], "provable": True, "fix_permissions": number % 3 == 0}
    if operation in ("replace", "unbind"):
        plan["remove"] = [keys[1 - number % 2]]
    if operation == "unbind":
        plan["accept_lockout"] = [LOGIN]
    return plan


def _a_read_shows(server: Server) -> bool:
    """Whether the time of the last access tells that a file was read: a trial that nobody could fail proves nothing."""
    server.run(["cat", "/srv/open/victim"])
    return "/srv/open/victim" in server.run(["find", "/srv", "-type", "f", "-newerat", "2002-01-01"]).stdout
