"""What is read from files and stdin: passwords, private keys, lists of servers. Everything has a cap."""

import contextlib
import csv
import getpass
import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from controller.cli.exits import REFUSED, Declined, usage

STDIN_BYTES = 1024 * 1024
KEY_FILE_BYTES = 64 * 1024
CSV_BYTES = 6 * 1024 * 1024  # of 10,000 servers, each with the host key of RSA
COLUMNS = ("name", "host", "port", "login", "labels", "host_key", "jump")

Json = dict[str, Any]


def file_text(path: Path, most_bytes: int) -> str:
    """Return the text of a regular file of at most so many bytes."""
    try:
        return file_bytes(path, most_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise usage(f"{path}: not text in UTF-8 (byte {error.start})") from error


def file_bytes(path: Path, most_bytes: int, step: str = "") -> bytes:
    """Return what is in a regular file of at most so many bytes. step: what to do where it holds more."""
    try:
        # Not opened to wait: a FIFO would hold us up for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise usage(f"{path}: not a regular file")
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise usage(f"{path}: {error.strerror}") from error
    if len(content) > most_bytes:
        raise usage(f"{path}: larger than {most_bytes} bytes" + (f"; {step}" if step else ""))
    return content


def private_key(path: Path) -> str:
    """Return the text of a private key file; the controller reads what is in it."""
    try:
        return file_bytes(path, KEY_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        # Such as an old PuTTY's file whose comment has an umlaut.
        raise usage(
            f"{path}: not text in UTF-8 (byte {error.start}); `kps keypair convert {path} --to openssh` may read it"
        ) from error


def public_key(path: Path) -> str:
    """Return the text of a public key file."""
    return file_text(path, KEY_FILE_BYTES)


def ssh_agent(named: str) -> Json:
    """Return the ssh-agent of whoever runs kps and the key of it that is named: fingerprint, comment, or .pub file."""
    socket = os.environ.get("SSH_AUTH_SOCK")
    if not socket:
        raise usage("--agent: no ssh-agent here (SSH_AUTH_SOCK is not set)")
    path = Path(named).expanduser()
    if path.suffix == ".pub":
        named = public_key(path).strip()
    elif not named.startswith("SHA256:") and path.is_file():
        raise usage(f"--agent {named}: a private key file; name its .pub file, or use --identity")
    return {"agent_socket": os.path.abspath(socket), "agent_key": named}


def directory(path: Path) -> str:
    """Return the absolute path of a directory, wherever the controller that is asked runs."""
    absolute = os.path.abspath(path)
    if not os.path.isdir(absolute):
        raise usage(f"{path}: there is no such directory")
    return absolute


@contextlib.contextmanager
def new_private_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Make a file with mode 0600, to be filled once; there is none if the block fails or does not fill it.

    A file that is there already is refused and left alone, before anything else is done.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Declined(REFUSED, "file_exists", f"{path}: there is a file already; it was left as it is") from error
    except OSError as error:
        raise usage(f"{path}: {error.strerror}") from error
    filled = False

    def fill(content: str) -> None:
        nonlocal filled
        try:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        except OSError as error:
            raise Declined(REFUSED, "file_not_written", f"{path}: {error.strerror}") from error
        filled = True

    with open(descriptor, "w", encoding="utf-8", newline="") as file:
        os.fchmod(descriptor, 0o600)
        try:
            yield fill
        finally:
            if not filled:
                path.unlink()


def stdin_text(most_bytes: int = STDIN_BYTES) -> str:
    """Return what stdin holds, to its end."""
    if sys.stdin is None:
        raise usage("stdin is closed; give what is to be read there")
    with interruptible():
        content = sys.stdin.buffer.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise usage(f"stdin: more than {most_bytes} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise usage(f"stdin: not text in UTF-8 (byte {error.start})") from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end what blocks in the block. asyncio would only take note of it, and never be asked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def asked_for(what: str) -> str:
    """Return what a person types at the terminal, without echo."""
    try:
        with interruptible():
            typed = getpass.getpass(f"{what}: ")
    except EOFError as error:
        raise usage(f"no {what} was given") from error
    return usable(typed, what)


def somebody_types() -> bool:
    """Say whether stdin is a person at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def secret_from_stdin(what: str) -> str:
    """Return the one line that stdin holds; asked for without echo where a person types."""
    return secrets_from_stdin([what])[0]


def secrets_from_stdin(what: Sequence[str]) -> list[str]:
    """Return the lines that stdin holds, one for each secret in this order; asked for without echo where a person types."""
    if somebody_types():
        return [asked_for(each) for each in what]
    lines = _lines(stdin_text())
    if len(lines) != len(what):
        lines_expected = "one line with the" if len(what) == 1 else f"{len(what)} lines with"
        raise usage(f"stdin: {lines_expected} {' and the '.join(what)} is expected, there are {len(lines)}")
    return [usable(line, each) for line, each in zip(lines, what, strict=True)]


def new_passphrase(*before: str) -> list[str]:
    """Return the secrets named before, and after them a passphrase for what is to be written; typed twice by a person."""
    found = secrets_from_stdin([*before, "new passphrase"])
    if somebody_types() and asked_for("new passphrase again") != found[-1]:
        raise usage("the two new passphrases are not the same")
    return found


def passwords_from_stdin(servers: Sequence[str]) -> dict[str, str]:
    """Return the password of each server that was given one: a line for one server, NAME<TAB>password for several.

    One password is never spread over several servers, and none is kept for a server that was not selected.
    """
    if somebody_types():
        return {name: asked_for(f"password for {name}") for name in servers}
    lines = _lines(stdin_text())
    if len(servers) == 1 and len(lines) == 1 and not lines[0].startswith(f"{servers[0]}\t"):
        return {servers[0]: usable(lines[0], "password")}
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, tab, password = line.partition("\t")
        if not tab:
            raise usage(
                f"stdin line {number}: for {len(servers)} servers each line is NAME<TAB>password"
                if len(servers) != 1
                else f"stdin line {number}: one line with the password is expected, there are {len(lines)}"
            )
        if name not in servers:
            # Nothing of the line is repeated: what stands where a name should may be the password.
            raise usage(f"stdin line {number}: what stands before the tab is not among the servers selected")
        if name in found:
            raise usage(f"stdin line {number}: a second password for the same server")
        found[name] = usable(password, f"password of {name}")
    if not found:
        raise usage("stdin: no password in it")
    return found


def usable(secret: str, what: str) -> str:
    """Return a password or passphrase that can be sent as it is."""
    if not secret:
        raise usage(f"the {what} is empty")
    if "\0" in secret or "\r" in secret:
        raise usage(f"the {what} holds a NUL or a carriage return; write lines that end in a line feed only")
    return secret


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    while lines and not lines[-1]:
        lines.pop()
    return lines


def labels(given: Sequence[str]) -> dict[str, str]:
    """Return labels from words of the form k=v."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise usage(f"label {word!r}: write NAME=VALUE")
        if name in found:
            raise usage(f"label {name!r} is given twice")
        found[name] = value
    return found


def reach(given: Sequence[str]) -> Json:
    """Return how servers are to be reached, from words as port=2222, jump=bastion-1 (more for more hops; jump= for none)."""
    found: Json = {}
    for word in given:
        name, equals, value = word.partition("=")
        if name == "port" and value.isdecimal() and name not in found:
            found[name] = int(value)
        elif equals and name in ("jump", "old-algorithms"):
            found.setdefault(name.replace("-", "_"), []).extend([value] if value else [])
        else:
            raise usage(f"--set {word}: write port=NUMBER (once), jump=NAME or old-algorithms=NAME; jump= is for none")
    return found


def servers_from_csv(path: Path) -> tuple[dict[int, Json], dict[int, str]]:
    """Return the servers that a CSV file lists and what is wrong in it, each by its line.

    The first line names the columns: name and host, and any of port, login, labels (k=v;k=v), host_key and jump (a;b).
    """
    text = file_text(path, CSV_BYTES).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    wrong: dict[int, str] = {}
    servers: dict[int, Json] = {}
    names: dict[str, int] = {}
    try:
        heading = [column.strip() for column in next(reader, [])]
        _check_heading(path, heading)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            try:
                server = _server(heading, cells)
                if server["name"] in names:
                    raise ValueError(f"{server['name']} stands in line {names[server['name']]} already")
            except (ValueError, Declined) as error:
                wrong[reader.line_num] = str(error)
                continue
            names[server["name"]] = reader.line_num
            servers[reader.line_num] = server
    except csv.Error as error:
        wrong[reader.line_num] = str(error)
    if not servers and not wrong:
        raise usage(f"{path}: no servers in it")
    return servers, wrong


def _check_heading(path: Path, heading: list[str]) -> None:
    unknown = [column for column in heading if column not in COLUMNS]
    missing = [column for column in ("name", "host") if column not in heading]
    if unknown or missing or len(set(heading)) != len(heading):
        raise usage(f"{path}:1: the columns are {','.join(COLUMNS)}; name and host are needed, each at most once")


def _server(heading: list[str], cells: list[str]) -> Json:
    if len(cells) != len(heading):
        raise ValueError(f"{len(cells)} cells for {len(heading)} columns")
    given = {column: cell.strip() for column, cell in zip(heading, cells, strict=True) if cell.strip()}
    for column in ("name", "host"):
        if column not in given:
            raise ValueError(f"{column} is empty")
    server: Json = {column: given[column] for column in ("name", "host", "login", "host_key") if column in given}
    if "port" in given:
        if not (given["port"].isascii() and given["port"].isdigit() and 1 <= int(given["port"][:6]) <= 65535):
            raise ValueError(f"port {given['port']!r} is not a number from 1 to 65535")
        server["port"] = int(given["port"])
    if "jump" in given:
        server["jump"] = [word.strip() for word in given["jump"].split(";") if word.strip()]
    if "labels" in given:
        server["labels"] = labels([word.strip() for word in given["labels"].split(";") if word.strip()])
    return server
