"""PAM's account rules of a service: which of them may turn away a login whose key was taken. pam.d(5)."""

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Tuple

# Where distributions put them, and what counts for a service that has none.
DIRECTORIES = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d")
FALLBACK = "other"

Rule = namedtuple("Rule", "path line module arguments")
Rule.__doc__ = """One line that has a say. module: without its directory and .so."""

# These turn nobody away, or what they ask is known of the account: its expiry, and the file nologin.
_KNOWN = ("pam_unix", "pam_nologin", "pam_permit", "pam_localuser", "pam_usertype", "pam_env", "pam_faildelay", "pam_warn")
_INCLUDES = ("include", "substack")
_DEEPEST = 8


def includes(text: str) -> "List[str]":
    """Return the names of other services whose account rules this text takes over."""
    return [name for _, control, name, _ in _lines(text) if control in _INCLUDES]


def rules(name: str, texts: "Dict[str, Tuple[str, str]]") -> "List[Rule]":
    """Return the rules that may turn a login away. texts: name of a service -> (path, text)."""
    return list(_rules(name, texts, 0))


def _rules(name: str, texts: "Dict[str, Tuple[str, str]]", depth: int) -> "Iterator[Rule]":
    path, text = texts.get(name, ("", ""))
    jumps = False
    for number, control, module, arguments in _lines(text):
        if control in _INCLUDES:
            if depth < _DEEPEST:
                for rule in _rules(module, texts, depth + 1):
                    yield rule
            continue
        called = module.rsplit("/", 1)[-1].partition(".so")[0]
        # Debian's rules jump over a pam_deny where a module has said yes.
        passed_over, jumps = jumps and called == "pam_deny", "success=" in control and called != "pam_deny"
        if control not in ("sufficient", "optional") and called not in _KNOWN and not passed_over:
            yield Rule(path, number, called, arguments)


def _lines(text: str) -> "Iterator[Tuple[int, str, str, str]]":
    """Yield (number of the line, control, module or name, arguments) of each line that is about accounts."""
    kept = ""
    for number, line in enumerate(text.replace("\t", " ").split("\n"), 1):
        line = kept + line.partition("#")[0]
        kept = line[:-1] + " " if line.endswith("\\") else ""
        kind, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if kept or not rest:
            continue
        if kind == "@include":
            yield number, "include", rest.split()[0], ""
        elif kind.lower().lstrip("-") == "account":
            control, _, rest = rest.partition("]" if rest.startswith("[") else " ")
            module, _, arguments = rest.strip().partition(" ")
            if module:
                yield number, control.lower(), module, arguments.strip()
