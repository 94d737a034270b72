"""Files of a login, touched with that login's own rights, and root's own files: read whole, replaced whole.

A login's path is walked from the root directory one component at a time, following no links, as that login. So whatever it
does to its own home at the same moment, root neither reads nor writes what the login itself could not.
"""

import errno
import fcntl
import os
import stat
import struct
import time

from . import keys, swap
from .errors import Changed, Refused
from .host import Account, File
from .labels import ATTRIBUTE
from .permissions import Component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Tuple

LARGEST = 8 << 20
_ACL, _CAPABILITY = "system.posix_acl_access", "security.capability"
# FS_IOC_GETFLAGS of linux/fs.h, whose number holds the size of a long, and the flags that it answers: ioctl_iflags(2).
_GET_FLAGS = 0x80006601 | struct.calcsize("l") << 16
_FLAGS = ((0x10, "immutable"), (0x20, "append only"))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, "link"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISREG, "file"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
)


class acting_as:  # a context manager, used like a function
    """Within it this process has the login's rights and no more.

    Its real user stays root, so the login can neither signal nor trace it.
    """

    def __init__(self, account: "Optional[Account]") -> None:
        self.account = account if account is not None and account.uid != 0 and os.geteuid() == 0 else None

    def __enter__(self) -> None:
        if self.account is not None:
            self.before = os.getgroups()
            os.setgroups(_group_numbers(self.account))
            os.setegid(self.account.gid)
            os.seteuid(self.account.uid)

    def __exit__(self, *_: "Any") -> None:
        if self.account is not None:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(self.before)


def _group_numbers(account: Account) -> "List[int]":
    return [account.gid] + list(account.group_ids)


# -- walking -----------------------------------------------------------------------------------------------------------


def kind_of(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "device")


def open_directory(path: str) -> int:
    """Return a descriptor of the directory at this absolute path without links; OSError ELOOP or ENOTDIR where there is one."""
    here = os.open("/", _DIRECTORY | os.O_PATH)
    try:
        parts = [part for part in path.split("/") if part]
        for part in parts:
            there = os.open(part, _DIRECTORY | os.O_PATH, dir_fd=here)
            os.close(here)
            here = there
        return os.open(".", _DIRECTORY, dir_fd=here)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(here)


def _parent(path: str, account: "Optional[Account]") -> "Tuple[str, str, Optional[Account]]":
    """Return the real directory of path, its last name, and with whose rights to go there.

    A directory that nobody but root can change on any component is root's business (AuthorizedKeysFile under /etc); all else is
    done as the login. That is asked of the path as it is configured, before any link is followed: where a link leads is the
    choice of whoever could make it. Links on the way are resolved once, as the login, and the result is walked without links.
    """
    directory, name = os.path.split(path)
    if account is None or account.uid == 0:
        return os.path.realpath(directory), name, None
    if _only_roots(directory):
        return os.path.realpath(directory), name, None
    with acting_as(account):
        return os.path.realpath(directory), name, account


def _only_roots(directory: str, links: int = 8) -> bool:
    """Whether nobody but root can change any component of this path, nor of what root's own links on it lead to."""
    parts = directory.split("/")
    for depth in range(1, len(parts) + 1):
        here = "/".join(parts[:depth]) or "/"
        try:
            found = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(found.st_mode) else ""
        except OSError:
            return False
        if found.st_uid != 0:
            return False
        if target:
            leads = os.path.join(os.path.dirname(here), target, *parts[depth:])
            return bool(links) and ".." not in leads.split("/") and _only_roots(os.path.normpath(leads), links - 1)
        if found.st_mode & 0o022 or not stat.S_ISDIR(found.st_mode):
            return False
    return True


def _is_kept_by_root(account: "Optional[Account]", rights: "Optional[Account]") -> bool:
    """Whether a login's file is one that only root changes."""
    return account is not None and account.uid != 0 and rights is None and os.geteuid() == 0


def walk(path: str, account: Account, private_group: bool) -> "List[Component]":
    """Return what StrictModes looks at: all from the home directory to the file, or from the root where it is elsewhere."""
    with acting_as(account):
        home = os.path.realpath(account.home)
        directory, name = os.path.split(path)
        real = os.path.realpath(directory)
    parts = real.split("/")
    chain = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts) + 1)]
    if home in chain:
        chain = chain[chain.index(home) :]
    # Where root's own links lead is as good as where they stand; any other link shows in the path that it leads to.
    there = directory
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    last = path if _only_roots(there) else os.path.join(real, name)
    return [_component(each, account, private_group) for each in chain + [last]]


def _lstat(path: str, account: Account) -> os.stat_result:
    try:
        return os.lstat(path)
    except PermissionError:
        # Root is nobody on a home that NFS serves with root_squash; the login is not, and sshd acts as the login.
        with acting_as(account):
            return os.lstat(path)


def _component(path: str, account: Account, private_group: bool) -> Component:
    try:
        found = _lstat(path, account)
    except FileNotFoundError:
        return Component(path, "missing", 0, 0, 0, 0, False)
    return Component(
        path,
        kind_of(found.st_mode),
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_nlink,
        private_group and found.st_gid == account.gid,
    )


def follow(path: str, account: Account) -> str:
    """Return path with every link on it resolved, as the login resolves it."""
    with acting_as(account):
        return os.path.realpath(path)


def ground(path: str, account: Account) -> "Tuple[str, Optional[int]]":
    """Return the directory that path stands on, as host.Ground says, and its inode number."""
    with acting_as(account):
        home, here = os.path.realpath(account.home), os.path.realpath(path)
        if (here + "/").startswith(home.rstrip("/") + "/"):
            here = home
        while here != home and not os.path.isdir(here):
            here = os.path.dirname(here)
        try:
            # The device's number would not do: it may be another after a reboot.
            return here, os.stat(here).st_ino
        except FileNotFoundError:
            return here, None


# -- reading -----------------------------------------------------------------------------------------------------------


def read(path: str, account: "Optional[Account]", as_login: bool = False) -> File:
    """Return the file at path as the login would read it; text None where there is none. Refused where it is not a plain file.

    as_login: with the login's rights whoever keeps the directory.
    """
    directory, name, rights = _parent(path, account)
    if as_login:
        rights = account
    with acting_as(rights):
        try:
            parent = open_directory(directory)
        except FileNotFoundError:
            return File(path, None, 0, 0, 0, _stuck_above(directory))
        try:
            # sshd_config may well be a link; it is root's, and sshd follows it
            return _read_at(parent, name, path, os.O_NOFOLLOW if account is not None else 0)
        finally:
            os.close(parent)


def _read_at(parent: int, name: str, path: str, nofollow: int) -> File:
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | nofollow, dir_fd=parent)
    except FileNotFoundError:
        return File(path, None, 0, 0, 0, _stuck(parent))
    except OSError as error:
        error.filename = path
        raise
    try:
        found = os.fstat(opened)
        _refuse_unless_plain(found, path, bool(nofollow))
        stuck = _stuck(opened) or _stuck(parent) or ("mount point" if _mount(opened) != _mount(parent) else "")
        with os.fdopen(opened, "rb", closefd=False) as stream:
            content = stream.read(LARGEST + 1)
    finally:
        os.close(opened)
    if len(content) > LARGEST:
        raise Refused("authorized_keys_unreadable", "{} is larger than {} bytes".format(path, LARGEST), path=path)
    text = content.decode("utf-8", "surrogateescape")
    return File(path, text, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, stuck)


def _stuck_above(directory: str) -> str:
    """The same for the nearest directory above that is there, in which the missing one would be made."""
    while True:
        directory = os.path.dirname(directory)
        try:
            opened = open_directory(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return ""  # whoever may not look there makes nothing there either
        try:
            return _stuck(opened)
        finally:
            os.close(opened)


def _stuck(opened: int) -> str:
    """Why what is open here cannot be renamed or taken away, nor anything in it; "" where nothing is to be seen."""
    if os.fstatvfs(opened).f_flag & os.ST_RDONLY:
        return "read-only"
    try:
        flags = struct.unpack_from("I", fcntl.ioctl(opened, _GET_FLAGS, bytes(struct.calcsize("l"))))[0]
    except OSError:
        return ""  # this file system has none
    return next((name for flag, name in _FLAGS if flags & flag), "")


def _mount(opened: int) -> bytes:
    """Which mount this was opened through; b"" where that can't be told. A file that is one itself, no rename takes away."""
    try:
        said = os.open("/proc/self/fdinfo/{}".format(opened), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        # Bytes: a login may not be able to load what decodes them.
        return next((line for line in os.read(said, 4096).split(b"\n") if line.startswith(b"mnt_id:")), b"")
    finally:
        os.close(said)


def _refuse_unless_plain(found: os.stat_result, path: str, one_name: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Refused("path_unsafe", "{} is a {}, not a file".format(path, kind_of(found.st_mode)), path=path)
    if found.st_nlink > 1 and one_name:
        raise Refused("path_unsafe", "{} has {} names (hard links)".format(path, found.st_nlink), path=path)


def glob(pattern: str) -> "List[str]":
    """Return the paths that fit, sorted, as sshd's Include finds them: glob(7), where * takes no leading dot."""
    directory, name = os.path.split(pattern)
    if "[" in pattern or "*" in directory or "?" in directory:
        import glob as slow  # rare, and it costs every run a third of its start-up time

        return sorted(slow.glob(pattern))
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    hidden = name.startswith(".")
    return sorted(os.path.join(directory, each) for each in names if _fits(each, name) and (hidden or not each.startswith(".")))


def _fits(word: str, pattern: str) -> bool:
    if not pattern:
        return not word
    if pattern[0] == "*":
        return any(_fits(word[start:], pattern[1:]) for start in range(len(word) + 1))
    return bool(word) and pattern[0] in ("?", word[0]) and _fits(word[1:], pattern[1:])


# -- writing -----------------------------------------------------------------------------------------------------------


def _temporary(name: str) -> str:
    # A leading dot and no .conf: no Include pattern of sshd_config.d takes it up. A watcher and the agent may both be at work.
    return ".{}.kps-{}".format(name, os.urandom(8).hex())


def replace(path: str, account: "Optional[Account]", expected: "Optional[str]", text: str, insist: bool = False) -> None:
    """Make the file hold text: at every instant it holds that or what it held before. Durable on return.

    Owner, mode, ACL and other attributes of an existing file stay. errors.Changed where it does not hold expected, or somebody
    has it open to write in it; with insist the text stands there by then.
    """
    if account is None:
        path = os.path.realpath(path)
    directory, name, rights = _parent(path, account)
    with acting_as(rights):
        parent = open_directory(directory)
        try:
            _replace_at(parent, name, path, account, rights, expected, text, insist)
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(parent)


def _replace_at(
    parent: int,
    name: str,
    path: str,
    account: "Optional[Account]",
    rights: "Optional[Account]",
    expected: "Optional[str]",
    text: str,
    insist: bool,
) -> None:
    with swap.Swapper(parent) as swapper:
        stands, theirs = _put(swapper, name, path, account, rights, expected, text, insist)
        if stands and not theirs:
            return
        until = time.monotonic() + _AFTER_SECONDS
        while theirs:
            # As whoever wrote it would have, had they come a moment later.
            now = _read_at(parent, name, path, os.O_NOFOLLOW).text or ""
            merged = now + ("" if not now or now.endswith("\n") else "\n") + "".join(line + "\n" for line in theirs)
            try:
                stands, more = _put(swapper, name, path, account, rights, now, merged, insist)
                theirs = more if stands else theirs + more
            except Changed:
                pass
            if theirs and time.monotonic() > until:
                lost = "; ".join(theirs)[:2000]
                raise _changed(path, account, "keeps changing it; of what they wrote this is lost: " + lost, "")
    raise _changed(path, account, "changed it")


def _put(
    swapper: swap.Swapper,
    name: str,
    path: str,
    account: "Optional[Account]",
    rights: "Optional[Account]",
    expected: "Optional[str]",
    text: str,
    insist: bool,
) -> "Tuple[bool, List[str]]":
    """Have the file hold text; return whether it does, and the lines that others wrote meanwhile and that are not in it now.

    errors.Changed where nothing was done, or somebody goes on writing in what was displaced.
    """
    parent, temporary = swapper.parent, _temporary(name)
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    old = -1
    try:
        try:
            _write_all(opened, text.encode("utf-8", "surrogateescape"))
            old = _open_old(name, parent)
            if old >= 0:
                _refuse_unless_plain(os.fstat(old), path, True)
                _copy_attributes(old, opened, rights)
            elif _is_kept_by_root(account, rights):
                os.fchmod(opened, 0o644)  # sshd reads it as the login, which shall not be able to change it
            os.fsync(opened)
        finally:
            os.close(opened)
        tells = old >= 0 and _kernel_tells(temporary, parent)
        if old >= 0 and _still_written(old, tells, rights, _BEFORE_SECONDS) and not insist:
            raise _changed(path, account, "has it open to write in it", "")
        now = _read_at(parent, name, path, os.O_NOFOLLOW).text
        if now != expected:
            raise _changed(path, account, "changed it")
        if expected is None:
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)  # unlike rename, fails where there is one by now
            stands, theirs = True, []  # type: Tuple[bool, List[str]]
        else:
            stands, theirs = _take_its_place(swapper, temporary, name, path, account, rights, expected, text, old, tells)
    except FileExistsError:
        raise _changed(path, account, "made it")
    finally:
        _unlink(temporary, parent)
        if old >= 0:
            os.close(old)
    os.fsync(parent)
    return stands, theirs


# Nobody who edits the file honours a lock of ours, so what they do between our look and our rename is looked for afterwards.
_BEFORE_SECONDS, _AFTER_SECONDS = 0.5, 2.0
_BLIND_SECONDS = 0.05  # where the kernel does not tell who writes: how long an append takes, and some


def _take_its_place(
    swapper: swap.Swapper,
    temporary: str,
    name: str,
    path: str,
    account: "Optional[Account]",
    rights: "Optional[Account]",
    expected: str,
    text: str,
    old: int,
    tells: bool,
) -> "Tuple[bool, List[str]]":
    """Put temporary in the place of name; return whether it stands there, and which lines of others have no place now.

    Where two names can change places, all that others did comes to light. Else what they wrote into the file that we displaced
    does, but not that they put another in its place in the microseconds between our look and our rename.
    """
    parent = swapper.parent
    try:
        swapped = swapper.exchange(temporary, name)
    except FileNotFoundError:
        raise _changed(path, account, "removed it")
    if not swapped:
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    theirs, busy, another = _left_behind(parent, temporary if swapped else "", old, tells, rights)
    if theirs == expected:
        if busy:
            raise _changed(path, account, "has the file open to write in it that stood there", "")
        return True, []
    if not swapped or (_only_adds(theirs, expected) and not another):
        return True, _added(theirs, expected)
    # A text of their own, whole: it stands again. What comes out is ours, or was made of ours.
    if not swapper.exchange(temporary, name):
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)  # it could just before, but has been killed since
        return False, []
    newest, _, _ = _left_behind(parent, temporary, old, tells, rights)
    if _only_adds(newest, text):
        return False, _added(newest, text)
    if not swapper.exchange(temporary, name):
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    return False, _added(theirs, expected)


def _left_behind(parent: int, temporary: str, old: int, tells: bool, rights: "Optional[Account]") -> "Tuple[str, bool, bool]":
    """Return what the displaced file holds once nobody writes in it, whether somebody still does, and whether it is not old."""
    opened = _open_old(temporary, parent) if temporary else -1
    try:
        from_here = opened if opened >= 0 else old  # somebody swept our directory: it is the one that we have open still
        busy = _still_written(from_here, tells, rights, _AFTER_SECONDS)
        os.lseek(from_here, 0, os.SEEK_SET)
        content = os.read(from_here, LARGEST).decode("utf-8", "surrogateescape")
        return content, busy, not os.path.samestat(os.fstat(from_here), os.fstat(old))
    finally:
        if opened >= 0:
            os.close(opened)


def _kernel_tells(ours: str, parent: int) -> bool:
    """Whether the kernel tells who writes here: it must say of our own new file that nobody does."""
    opened = _open_old(ours, parent)
    try:
        return opened >= 0 and swap.nobody_writes(opened) is True
    finally:
        if opened >= 0:
            os.close(opened)


def _still_written(opened: int, tells: bool, rights: "Optional[Account]", seconds: float) -> bool:
    """Whether somebody has the file open to write in it, and does not let go of it in time."""
    until = time.monotonic() + seconds
    while tells:
        free = swap.nobody_writes(opened)
        if free is None:
            with _root_again(rights):  # a lease is for the owner, or for root
                free = swap.nobody_writes(opened)
        if free is None:
            break
        if free or time.monotonic() > until:
            return not free
        time.sleep(0.002)
    time.sleep(_BLIND_SECONDS)
    return False


def _only_adds(theirs: str, base: str) -> bool:
    return theirs.startswith(base) or not keys.lines_over(base.split("\n"), theirs.split("\n"))


def _added(theirs: str, base: str) -> "List[str]":
    """Return the lines that theirs has over base; none where it is another text, which is not to be mixed with ours."""
    return keys.lines_over(theirs.split("\n"), base.split("\n")) if _only_adds(theirs, base) else []


def _changed(path: str, account: "Optional[Account]", what: str, when: str = " just now") -> Changed:
    cause = "authorized_keys_changed" if account is not None else "unexpected" if path == "/etc/shadow" else "sshd_config_changed"
    return Changed(cause, "{}: somebody else {}{}".format(path, what, when), path=path)


def _open_old(name: str, parent: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return -1


def _write_all(opened: int, content: bytes) -> None:
    while content:
        content = content[os.write(opened, content) :]


def _copy_attributes(old: int, new: int, rights: "Optional[Account]") -> None:
    found, ours = os.fstat(old), os.fstat(new)
    if (found.st_uid, found.st_gid) != (ours.st_uid, ours.st_gid):
        with _root_again(rights):
            os.fchown(new, found.st_uid, found.st_gid)
    with _root_again(rights):
        kept = [name for name in _attributes(old) if name != _CAPABILITY]
        for attribute in _attributes(new):
            if attribute == _ACL and attribute not in kept:
                os.removexattr(new, attribute)  # the directory's default
        # A file of keys runs nothing: whoever swaps in another for a moment gains no set-user-ID file of it.
        os.fchmod(new, found.st_mode & 0o777)
        for attribute in kept:
            os.setxattr(new, attribute, os.getxattr(old, attribute))


class _root_again:
    """Within it, root's rights, for a descriptor that is already ours: no path is looked up here."""

    def __init__(self, account: "Optional[Account]") -> None:
        self.uid = account.uid if account is not None and account.uid != 0 and os.getuid() == 0 else None

    def __enter__(self) -> None:
        if self.uid is not None:
            os.seteuid(0)

    def __exit__(self, *_: "Any") -> None:
        if self.uid is not None:
            os.seteuid(self.uid)


def _attributes(opened: int) -> "List[str]":
    try:
        return os.listxattr(opened)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return []  # this file system has none
        raise


def _unlink(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def sweep(path: str, account: "Optional[Account]") -> None:
    """Remove the temporary files that a killed replace() left beside path."""
    if account is None:
        path = os.path.realpath(path)
    directory, name, rights = _parent(path, account)
    with acting_as(rights):
        try:
            parent = open_directory(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            for each in os.listdir(parent):
                if each.startswith(".{}.kps-".format(name)):
                    _unlink(each, parent)
        finally:
            os.close(parent)


def delete(path: str, account: "Optional[Account]", expected: "Optional[str]") -> None:
    """Remove the file, if it holds expected; errors.Changed if not."""
    directory, name, rights = _parent(path, account)
    with acting_as(rights):
        parent = open_directory(directory)
        try:
            if _read_at(parent, name, path, os.O_NOFOLLOW).text != expected:
                raise _changed(path, account, "changed it")
            _take_away(parent, name, path, account, rights, expected)
            os.fsync(parent)
        finally:
            os.close(parent)


def _take_away(
    parent: int, name: str, path: str, account: "Optional[Account]", rights: "Optional[Account]", expected: "Optional[str]"
) -> None:
    """Remove the file; where somebody wrote there since we looked, it is put back, and errors.Changed raised."""
    old = _open_old(name, parent)
    if old < 0:
        return
    temporary = _temporary(name)
    try:
        os.rename(name, temporary, src_dir_fd=parent, dst_dir_fd=parent)
        displaced, _, _ = _left_behind(parent, temporary, old, True, rights)
        if displaced != expected:
            try:
                os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except FileExistsError:
                pass  # the newest stands
            raise _changed(path, account, "changed it")
    finally:
        os.close(old)
        _unlink(temporary, parent)


def make_directory(path: str, account: Account) -> None:
    """Make an empty directory, the login's own and 0700, or in a directory of root's root's own and 0755.

    errors.Changed where something is there by now.
    """
    directory, name, rights = _parent(path, account)
    with acting_as(rights):
        parent = open_directory(directory)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            if _is_kept_by_root(account, rights):
                os.chmod(name, 0o755, dir_fd=parent)  # noqa: S103 - sshd goes through it as the login
            os.fsync(parent)
        except FileExistsError:
            raise _changed(path, account, "made it")
        finally:
            os.close(parent)


def remove_directory(path: str, account: Account) -> bool:
    """Remove the directory; return whether it is gone. One that is not empty stays."""
    directory, name, rights = _parent(path, account)
    with acting_as(rights):
        try:
            parent = open_directory(directory)
        except FileNotFoundError:
            return True
        try:
            os.rmdir(name, dir_fd=parent)
            os.fsync(parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        finally:
            os.close(parent)
    return True


def set_mode(path: str, account: Account, expected: int, mode: int) -> None:
    """Change the mode of a file or directory of the login's from expected to mode; errors.Changed where it was another."""
    opened, rights = _opened(path, account, True)
    try:
        if stat.S_IMODE(os.fstat(opened).st_mode) != expected:
            raise _changed(path, account, "changed its mode")
        with acting_as(rights):
            os.fchmod(opened, mode)
        os.fsync(opened)
    finally:
        os.close(opened)


def set_owner(path: str, account: Account, expected: "List[int]", owner: "List[int]") -> None:
    """Give a file or directory in the login's home another owner, or refuse: host.SetOwner.

    The login can move into its home what belongs to others, as far as it may move that at all. So what is given is looked at
    through the descriptor by which it is given: a file that holds anything but key lines, or goes by another name too, stays
    whose it is, and so does a directory in which there is more than files of keys.
    """
    opened, _ = _opened(path, account, False)
    try:
        found = os.fstat(opened)
        if [found.st_uid, found.st_gid] != expected:
            raise _changed(path, account, "changed its owner")
        if not _may_be_given(opened, found):
            raise Refused("path_unsafe", "{}: holds more than keys, so it is not given to another owner".format(path), path=path)
        os.fchown(opened, owner[0], owner[1])
        os.fsync(opened)
    finally:
        os.close(opened)


def set_label(path: str, account: Account, expected: str, label: str) -> None:
    """Give a file or directory of the login's another SELinux label, or refuse: host.SetLabel.

    By the descriptor through which it was looked at, and what is not the login's own stays as it is labelled: the login may have
    moved there what others must not read.
    """
    opened, _ = _opened(path, account, True)
    try:
        found = os.fstat(opened)
        if found.st_uid != account.uid or (not stat.S_ISDIR(found.st_mode) and found.st_nlink != 1):
            raise Refused("path_unsafe", "{}: not {}'s alone, so its label stays".format(path, account.name), path=path)
        if _label(opened) != expected:
            raise _changed(path, account, "changed its label")
        # Root may, by SELinux's rules and without them; the login may only by SELinux's.
        os.setxattr(opened, ATTRIBUTE, label.encode("ascii") + b"\0")
        os.fsync(opened)
    finally:
        os.close(opened)


def _opened(path: str, account: Account, as_login: bool) -> "Tuple[int, Optional[Account]]":
    """Open what stands there and is no link, with the login's rights or root's; return it, and the rights for its directory.

    The way there is gone with the login's rights in either case. Changed where there is nothing.
    """
    directory, name, rights = _parent(path, account)
    try:
        with acting_as(rights):
            parent = open_directory(directory)
        try:
            with acting_as(rights if as_login else None):
                opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)
    except FileNotFoundError:
        raise _changed(path, account, "removed it")
    return opened, rights


def _label(opened: int) -> str:
    try:
        return os.getxattr(opened, ATTRIBUTE).rstrip(b"\0").decode("ascii", "replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return ""
        raise


def _may_be_given(opened: int, found: os.stat_result) -> bool:
    if stat.S_ISDIR(found.st_mode):
        return all(name.startswith("authorized_keys") for name in os.listdir(opened))
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > LARGEST:
        return False
    with os.fdopen(opened, "rb", closefd=False) as stream:
        text = stream.read(LARGEST + 1).decode("utf-8", "surrogateescape")
    held = {line.index for line in keys.lines(text)}
    return all(index in held or not line.strip() or line.lstrip().startswith("#") for index, line in enumerate(text.split("\n")))
