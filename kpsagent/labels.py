"""SELinux labels: which files have another than the policy wants, in the words of its own tool. restorecon(8)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

ENFORCE = "/sys/fs/selinux/enforce"  # there where SELinux is on; "1" where it also denies
RESTORECON = ("/usr/sbin/restorecon", "/sbin/restorecon")
ATTRIBUTE = "security.selinux"
_LONGEST = 300


def question(program: str, paths: "List[str]") -> "List[str]":
    """Return the command to which wrong() reads the answer."""
    return [program, "-n", "-v"] + paths


def wrong(said: str, paths: "List[str]") -> "List[Tuple[str, str, str]]":
    """Return (path, label, the label that the policy has for it) of those paths of which restorecon says that it is another.

    Two wordings are known: policycoreutils 2.8 and later, and before. A line that is neither, or names no label, says nothing.
    """
    found = []
    lines = said.split("\n")
    for path in paths:
        for before, between in (("Would relabel {} from ", " to "), ("restorecon reset {} context ", "->")):
            head = before.format(path)
            for line in lines:
                label, _, wanted = line[len(head) :].partition(between) if line.startswith(head) else ("", "", "")
                if _is_label(label) and _is_label(wanted):
                    found.append((path, label, wanted))
    return found


def _is_label(text: str) -> bool:
    """Whether this is user:role:type, or that and a level."""
    plain = all((letter.isalnum() and letter < "\x7f") or letter in "_.:,-" for letter in text)
    return plain and text.count(":") >= 2 and len(text) <= _LONGEST
