"""The effects: everything that an operation may want from a server, as values.

A host is anything with `do(effect)`. It answers an effect, or raises errors.Stop or OSError. What each answers is said here
once; LocalHost does it on a machine, and the suite in tests/contracts holds every host to it.

Paths are absolute. `account` is whose file it is: the host touches it with that login's own rights, follows no links on the
way, and never reaches outside what that login could reach. `account=None` is root's own file (sshd_config).
"""

from collections import namedtuple

MAIN_CONFIG = "/etc/ssh/sshd_config"  # where sshd looks when it is not told otherwise

# -- what a host knows -------------------------------------------------------------------------------------------------

Account = namedtuple("Account", "name uid gid groups group_ids home shell password expired barred")
Account.__new__.__defaults__ = ("",)
Account.__doc__ = """A login. groups: names; group_ids: numbers of the supplementary ones. password: "usable", "locked"
(a leading !), "empty" (no word is needed), "none" (cannot match) or "unknown". expired: "" or what is: "account", "password".
barred: "" or what keeps it out whatever it shows, in words."""

Daemon = namedtuple("Daemon", "how pid program arguments config unit")
Daemon.__doc__ = """The sshd that serves us. how: "listener", "each" (started for every connection) or "none" (a disk at rest,
or nothing found). arguments: those that change its configuration. config: path of its main file. unit: systemd's, or ""."""

File = namedtuple("File", "path text mode uid gid stuck")
File.__new__.__defaults__ = ("",)
File.__doc__ = """A file's text, or None where there is none; mode without the type bits. stuck: "" or why it cannot be replaced:
"immutable", "append only", "mount point" or "read-only", as far as that can be seen without trying."""

Output = namedtuple("Output", "code out err")

Session = namedtuple("Session", "pid begun since source used")
Session.__doc__ = """An open SSH session. pid: of sshd's process for its connection; begun: what tells it from a later one of that
number. since: seconds since 1970. source: "ADDRESS port PORT", or "". used: "yes" where a log says that one of the keys opened
it, "maybe" where none says what did."""

# -- reading -----------------------------------------------------------------------------------------------------------

FindAccount = namedtuple("FindAccount", "name")
FindAccount.__doc__ = "-> Account, or None."

ListAccounts = namedtuple("ListAccounts", "")
ListAccounts.__doc__ = "-> (list of Account in the server's own files, whether a directory service may know more)."

FindDaemon = namedtuple("FindDaemon", "connection")
FindDaemon.__doc__ = """-> Daemon: the sshd at the server's end of this connection ([client address, port, server address,
port], or None where there is none)."""

AskSshd = namedtuple("AskSshd", "daemon flags text")
AskSshd.__doc__ = (
    """-> Output of sshd with the daemon's own arguments and these flags; with text, as if its main file held that."""
)

Unread = namedtuple("Unread", "daemon pid_file paths")
Unread.__doc__ = """-> those of root's files and directories that were changed since the running sshd last read its configuration;
[] where that cannot be told."""

Walk = namedtuple("Walk", "path account")
Walk.__doc__ = "-> list of permissions.Component: what sshd's StrictModes looks at for this path."

Follow = namedtuple("Follow", "path account")
Follow.__doc__ = "-> the path that sshd opens for the account: this one with every link on it resolved, as the login resolves it."

Ground = namedtuple("Ground", "path account")
Ground.__doc__ = """-> (directory, its inode number): what a path of the account's stands on. That is its home where the path is
within it, else the nearest directory on the way that is there. The number is another, or None, where what was there is not:
while the file system that holds it is not mounted."""

Read = namedtuple("Read", "path account")
Read.__doc__ = "-> File. Regular files with one name only, up to a size limit; else Refused."

ReadFollowed = namedtuple("ReadFollowed", "path account")
ReadFollowed.__doc__ = """-> File, as Read, of where Follow led: with the account's own rights also where only root can change the
directory, for where a link leads is the choice of whoever made it."""

Mislabelled = namedtuple("Mislabelled", "paths account")
Mislabelled.__doc__ = """-> list of (path, label, the label that the policy has for it): of these paths those where the two
differ, while SELinux denies what its policy does not allow; [] where it does not, or nothing there tells."""

Glob = namedtuple("Glob", "pattern")
Glob.__doc__ = "-> sorted list of root's files that match, as sshd's Include does."

Clock = namedtuple("Clock", "")
Clock.__doc__ = "-> (seconds since boot, which boot this is). Wall clocks jump; this does not."

Sessions = namedtuple("Sessions", "account fingerprints")
Sessions.__doc__ = """-> list of Session: those of this login that one of these keys opened, or may have; ours is not among them.
None where that cannot be told."""

Limits = namedtuple("Limits", "")
Limits.__doc__ = """-> list of sentences: what cannot be guaranteed on this server with this way of working. It is told before
anything is written (--plan), and with the result."""

# -- writing -----------------------------------------------------------------------------------------------------------

Replace = namedtuple("Replace", "path account expected text insist")
Replace.__new__.__defaults__ = (False,)  # Python 3.6 has no other way
Replace.__doc__ = """The file holds text, or what it held before, at every instant and after a crash; durable when answered.
expected: the text it must hold now (None: no file), else errors.Changed. Owner, mode, ACL and other attributes stay; a new
file is the account's, 0600, or where only root can change its directory: root's, 0644. Who has the file open to write in it is
waited for a moment, then errors.Changed; with insist it is replaced first, and told as changed all the same."""

Delete = namedtuple("Delete", "path account expected")
Delete.__doc__ = "The file is gone; errors.Changed where it does not hold expected."

MakeDirectory = namedtuple("MakeDirectory", "path account")
MakeDirectory.__doc__ = """An empty directory of the account, 0700 (root's, 0755, where only root can change its parent);
errors.Changed where there is something already."""

RemoveDirectory = namedtuple("RemoveDirectory", "path account")
RemoveDirectory.__doc__ = "-> whether it is gone; one that is not empty stays."

SetMode = namedtuple("SetMode", "path account expected mode")
SetMode.__doc__ = "The mode is changed from expected; errors.Changed where it was another."

SetOwner = namedtuple("SetOwner", "path account expected owner")
SetOwner.__doc__ = """Owner and group are changed from expected to owner ([uid, gid] each); errors.Changed where they were others.
Of what stands in the account's home, and only where nothing is given away by it: a file of key lines with one name, or a
directory that holds nothing but files of keys; else Refused."""

SetLabel = namedtuple("SetLabel", "path account expected label")
SetLabel.__doc__ = """The SELinux label is changed from expected; errors.Changed where it was another. Only of what is the
account's own and, where it is a file, has one name; else Refused."""

SetPassword = namedtuple("SetPassword", "account expected hash")
SetPassword.__doc__ = """The account's hash in shadow, "hash:day it was set" as it stands there; without a day, today.
errors.Changed where the hash is not that of expected. Whoever else changes accounts of a running server waits meanwhile."""

Sweep = namedtuple("Sweep", "path account")
Sweep.__doc__ = "Temporary files of ours beside path are gone."

Reload = namedtuple("Reload", "daemon revive")
Reload.__doc__ = """-> whether sshd was seen to listen anew after being told to re-read its configuration; open sessions live
on. Only after a good `sshd -t`. With revive, one that is not running is started."""

EndSession = namedtuple("EndSession", "session")
EndSession.__doc__ = """-> whether it is gone: its connection, and what it ran that is still of it. False for the session that we
are in, and where it cannot be done."""

# -- our own state on the server ---------------------------------------------------------------------------------------

Lock = namedtuple("Lock", "must")
Lock.__doc__ = """-> whether we have it; held until the host is closed. Where another holds it: Refused busy if it is a must, else
False after a little patience."""

ReadState = namedtuple("ReadState", "")
ReadState.__doc__ = "-> the dict last written, or {}."

WriteState = namedtuple("WriteState", "state")
WriteState.__doc__ = "Durable when answered. One of a lower generation than what stands there changes nothing."

ReadJournal = namedtuple("ReadJournal", "")
ReadJournal.__doc__ = """-> (one of "armed", "revoking", "confirmed", "reverting"; the journal), or None. Where we hold the lock,
what a killed run left half written in our directory, and its nonce, are gone."""

WriteJournal = namedtuple("WriteJournal", "journal")
WriteJournal.__doc__ = "The journal stands as armed; durable when answered."

MoveJournal = namedtuple("MoveJournal", "to")
MoveJournal.__doc__ = '-> whether it was we who moved it from armed to "revoking", "confirmed" or "reverting".'

DropJournal = namedtuple("DropJournal", "")

Arm = namedtuple("Arm", "deadline")
Arm.__doc__ = """An undo runs at deadline (seconds since boot), whatever becomes of this process, its session or the
controller, and at the next boot. -> list of what will do it."""

Disarm = namedtuple("Disarm", "")
Disarm.__doc__ = "Nothing that Arm put in place is left."

# -- a door (kpsagent/doors.py) -----------------------------------------------------------------------------------------

Door = namedtuple("Door", "")
Door.__doc__ = (
    """-> the door that stands here (dict), or None; one whose time is over is closed first. For whoever holds the lock."""
)

DoorPlace = namedtuple("DoorPlace", "")
DoorPlace.__doc__ = """-> (path of the file for a door's entry, whether a reboot takes that file away, list of what would close
a door at the next boot). Refused where no door can be made."""

AskBeside = namedtuple("AskBeside", "daemon flags text beside")
AskBeside.__doc__ = "-> as AskSshd, and with beside, (path, text), as if the file of this path that text includes held that."

Wall = namedtuple("Wall", "")
Wall.__doc__ = "-> seconds since 1970, as this server believes."

ReadDoor = namedtuple("ReadDoor", "")
ReadDoor.__doc__ = '-> (one of "opening", "open", "closing"; the door), or None.'

WriteDoor = namedtuple("WriteDoor", "name door")
WriteDoor.__doc__ = "The door stands under this name; durable when answered."

MoveDoor = namedtuple("MoveDoor", "to")
MoveDoor.__doc__ = '-> whether it was we who moved the door: from opening to "open", or from either to "closing".'

DropDoor = namedtuple("DropDoor", "")

ArmDoor = namedtuple("ArmDoor", "boot")
ArmDoor.__doc__ = """The door that stands is watched: closed at its deadline, whatever becomes of this process, its session or the
controller. With boot, something of the next boot is put in place too. -> list of what will do it."""

DisarmDoor = namedtuple("DisarmDoor", "")
DisarmDoor.__doc__ = "Nothing that ArmDoor put in place is left."

Overwrite = namedtuple("Overwrite", "path before after")
Overwrite.__doc__ = """Where the file holds before it holds after, of as many bytes, written in its place: that takes no room on
the disk. -> whether it was not so already. Changed where neither is there."""

EndHalfOpen = namedtuple("EndHalfOpen", "login config connection")
EndHalfOpen.__doc__ = """Connections to the sshd of this one, or to one that runs on this main file, that have not got in yet, and
could as this login, are ended, where that can be told; no other is. -> how many were."""

ReloadOthers = namedtuple("ReloadOthers", "daemon connection heard")
ReloadOthers.__doc__ = """Each sshd here that runs on the main file of this one is told to re-read it, but for the one that
listens where this connection came in, and for those that listen on what is in heard; one that is being started is told once it
listens. -> (process ids of those that were told, of those that were not seen to read it, what the others listen on by now)."""

OF_DOORS = (DoorPlace, AskBeside, Wall, ReadDoor, WriteDoor, MoveDoor, DropDoor, ArmDoor, DisarmDoor, ReloadOthers, Overwrite)

# -- the rope ----------------------------------------------------------------------------------------------------------

WriteNonce = namedtuple("WriteNonce", "")
WriteNonce.__doc__ = "-> (a new nonce, the path at which any login of this server can read it)."

Ask = namedtuple("Ask", "phase questions path deadline")
Ask.__doc__ = "-> the controller's answers, one a question. Lost at end of file or at the deadline (seconds since boot)."

Listening = namedtuple("Listening", "deadline")
Listening.__doc__ = "Lost where the rope has ended, the deadline has passed, or the journal is no longer ours."

Say = namedtuple("Say", "phase detail")
Say.__doc__ = "Tell the controller how far we are. Nobody has to hear it."
