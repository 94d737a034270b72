"""`make formats`: every kind of key in every format, written by us and read by others, and the other way round.

python -m tests.drills.formats                   the whole: a minute
python -m tests.drills.formats --sample          three kinds of key, as CI runs it
python -m tests.drills.formats --write-docs      the table of docs/keyfiles.md, too

Each cell is tried with a passphrase and without one; what comes out must have the very same public key.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import PublicKey
from controller.model import KEY_TYPES, KeyFormat, Secret
from tests.drills.figures import Figure, Report, zero

PAGE = Path(__file__).parents[2] / "docs/keyfiles.md"
BEGIN, END = "<!-- formats: begin -->\n", "<!-- formats: end -->\n"
SAMPLE = ("ed25519", "ecdsa-nistp521", "rsa-2048")
WORD = "correct horse"
NEEDED = {"ssh-keygen": "openssh-client", "puttygen": "putty-tools", "openssl": "openssl"}
SECONDS = 60

Words = dict[str, str]


class Bench:
    """A directory of its own for key files, and the programs that judge them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.word = self.file("word", WORD.encode())
        self.no_word = self.file("no-word", b"")
        self._count = 0

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.touch(0o600)
        path.write_bytes(content)
        return path

    def fresh(self, content: bytes | None = None) -> Path:
        """A new name, and a file there where content is given."""
        self._count += 1
        path = self.directory / str(self._count)
        return path if content is None else self.file(path.name, content)

    def run(self, *words: object) -> str:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise Failed(f"{words[0]}: {(done.stderr or done.stdout).strip()[:200]}")
        return done.stdout

    def words(self, word: str | None) -> Path:
        return self.no_word if word is None else self.word


class Failed(Exception):
    """a program did not do what it was asked"""


class Row(NamedTuple):
    """One way for a key from one to another. work: raises Failed or Invalid, or returns the line of a public key.

    without: for which kinds of key there is no such thing, and why. protected: whether it is tried with a passphrase too.
    """

    name: str
    by: str
    work: Callable[[Bench, str, str | None], str]
    without: Words = {}  # noqa: RUF012
    protected: bool = True


@cache
def a_key(kind: str) -> tuple[PublicKey, bytes]:
    public, stored = keyfiles.generate(kind)  # type: ignore[arg-type]
    return public, stored.open()


def ours(kind: str, form: KeyFormat, word: str | None) -> bytes:
    """The key of a kind, in a format."""
    secret = None if word is None else Secret(word)
    return keyfiles.private_text(kind, Secret(a_key(kind)[1]), form, "of kps", secret).open()


def read_by_us(text: bytes, word: str | None) -> str:
    return keyfiles.read_private(Secret(text), None if word is None else Secret(word))[0].line()


# -- ours, read by others


def by_ssh_keygen(form: KeyFormat) -> Callable[[Bench, str, str | None], str]:
    return lambda bench, kind, word: bench.run("ssh-keygen", "-y", "-P", word or "", "-f", bench.fresh(ours(kind, form, word)))


def by_puttygen(form: KeyFormat) -> Callable[[Bench, str, str | None], str]:
    return lambda bench, kind, word: bench.run(
        "puttygen", bench.fresh(ours(kind, form, word)), "-L", "--old-passphrase", bench.words(word)
    )


def by_openssl(form: KeyFormat) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        path = bench.fresh(ours(kind, form, word))
        return keyfiles.read_public(bench.run("openssl", "pkey", "-in", path, "-passin", f"pass:{word or ''}", "-pubout")).line()

    return work


# -- theirs, read by us


def from_ssh_keygen(form: str) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        path = bench.fresh(ours(kind, "openssh", None))
        style = ["-m", form] if form else []
        bench.run("ssh-keygen", "-q", "-p", *style, "-P", "", "-N", word or "", "-f", path)
        return read_by_us(path.read_bytes(), word)

    return work


def from_puttygen(*how: str, of: KeyFormat = "openssh") -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        path, out = bench.fresh(ours(kind, of, None)), bench.fresh()
        bench.run("puttygen", path, *how, "-o", out, "--old-passphrase", bench.no_word, "--new-passphrase", bench.words(word))
        return read_by_us(out.read_bytes(), word)

    return work


def from_openssl(*how: str, plain: tuple[str, ...] = ()) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        path = bench.fresh(ours(kind, "pkcs8", None))
        tail = [*plain] if word is None else [*how, "-passout", f"pass:{word}"]
        command = ["pkcs8", "-topk8", *(["-nocrypt"] if word is None else [])]
        if "-traditional" in how:
            command = ["rsa" if kind.startswith("rsa") else "ec"]
            tail = [each for each in tail if each != "-traditional" or kind.startswith("rsa")]
            tail = ["-traditional"] if word is None and kind.startswith("rsa") else tail
        return read_by_us(bench.run("openssl", *command, "-in", path, *tail).encode(), word)

    return work


# -- public halves


def line_by(*command: str) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        public = a_key(kind)[0]
        path = bench.fresh(public.line("of kps").encode() + b"\n")
        said = bench.run(*command, path)
        if public.fingerprint not in said and public.fingerprint_md5 not in said:
            raise Failed(f"{command[0]}: another fingerprint: {said.strip()}")
        return public.line()

    return work


def rfc4716_by(*command: str) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        text = keyfiles.rfc4716(a_key(kind)[0], "of kps, with a comment that is longer than one line of RFC 4716 may be")
        return bench.run(*command, bench.fresh(text.encode()))

    return work


def public_from(*command: str) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        path = bench.fresh(a_key(kind)[0].line("of kps").encode() + b"\n")
        return keyfiles.read_public(bench.run(*command, path)).line()

    return work


def public_from_openssl(*command: str) -> Callable[[Bench, str, str | None], str]:
    def work(bench: Bench, kind: str, word: str | None) -> str:
        return keyfiles.read_public(bench.run("openssl", *command, "-in", bench.fresh(ours(kind, "pkcs8", None)))).line()

    return work


NO_PEM: Words = {"ed25519": "no such format"}
RSA_ONLY: Words = {kind: "no such format" for kind in KEY_TYPES if not kind.startswith("rsa")}
OLD: Words = {"ed25519": "OpenSSH 9.2 knows no PKCS#8 of ed25519"}
ROWS = (
    Row("openssh", "to ssh-keygen", by_ssh_keygen("openssh")),
    Row("openssh", "to puttygen", by_puttygen("openssh")),
    Row("pkcs8", "to openssl", by_openssl("pkcs8")),
    Row("pkcs8", "to ssh-keygen", by_ssh_keygen("pkcs8"), OLD),
    Row("pem", "to openssl", by_openssl("pem"), NO_PEM),
    Row("pem", "to ssh-keygen", by_ssh_keygen("pem"), NO_PEM),
    Row("pem", "to puttygen", by_puttygen("pem"), NO_PEM, protected=False),
    Row("ppk2", "to puttygen", by_puttygen("ppk2")),
    Row("ppk3", "to puttygen", by_puttygen("ppk3")),
    Row("openssh", "from ssh-keygen", from_ssh_keygen("")),
    Row("openssh", "from puttygen", from_puttygen("-O", "private-openssh-new", of="ppk3")),
    Row("pkcs8", "from ssh-keygen", from_ssh_keygen("PKCS8"), OLD),
    Row("pkcs8 (PBKDF2)", "from openssl", from_openssl()),
    Row("pkcs8 (PBKDF2, SHA-512, 3DES)", "from openssl", from_openssl("-v2", "des3", "-v2prf", "hmacWithSHA512")),
    Row("pkcs8 (scrypt)", "from openssl", from_openssl("-scrypt")),
    Row("pkcs8 (PKCS#12)", "from openssl", from_openssl("-v1", "PBE-SHA1-3DES")),
    Row("pem", "from ssh-keygen", from_ssh_keygen("PEM"), NO_PEM),
    Row("pem", "from openssl", from_openssl("-traditional", "-aes256"), NO_PEM),
    Row("pem", "from puttygen", from_puttygen("-O", "private-openssh"), NO_PEM),
    Row("ppk2", "from puttygen", from_puttygen("-O", "private", "--ppk-param", "version=2")),
    *(
        Row(f"ppk3 ({kdf})", "from puttygen", from_puttygen("-O", "private", "--ppk-param", f"version=3,kdf={kdf.lower()}"))
        for kdf in ("Argon2id", "Argon2i", "Argon2d")
    ),
    Row("one line", "to ssh-keygen", line_by("ssh-keygen", "-l", "-f"), protected=False),
    Row("one line", "to puttygen", line_by("puttygen", "-l", "-E", "sha256"), protected=False),
    Row("RFC 4716", "to ssh-keygen", rfc4716_by("ssh-keygen", "-i", "-f"), protected=False),
    Row("RFC 4716", "to puttygen", rfc4716_by("puttygen", "-L"), protected=False),
    Row("RFC 4716", "from ssh-keygen", public_from("ssh-keygen", "-e", "-m", "RFC4716", "-f"), protected=False),
    Row("RFC 4716", "from puttygen", public_from("puttygen", "-p"), protected=False),
    Row("PEM (SubjectPublicKeyInfo)", "from openssl", public_from_openssl("pkey", "-pubout"), protected=False),
    Row("PEM (SubjectPublicKeyInfo)", "from ssh-keygen", public_from("ssh-keygen", "-e", "-m", "PKCS8", "-f"), OLD, False),
    Row("PEM (PKCS#1)", "from openssl", public_from_openssl("rsa", "-RSAPublicKey_out"), RSA_ONLY, False),
    Row("PEM (PKCS#1)", "from ssh-keygen", public_from("ssh-keygen", "-e", "-m", "PEM", "-f"), RSA_ONLY, False),
)


def tried(bench: Bench, row: Row, kind: str, word: str | None) -> str:
    """Return why a key does not come through one cell, "" where it does."""
    try:
        found = keyfiles.read_public(row.work(bench, kind, word))
    except (Failed, Invalid, subprocess.TimeoutExpired) as error:
        return f"{row.name} {row.by}, {kind}{'' if word is None else ', with a passphrase'}: {error}"
    same = found.blob == a_key(kind)[0].blob
    return "" if same else f"{row.name} {row.by}, {kind}: another key came out"


@contextlib.contextmanager
def benched() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="kps-formats-") as directory:
        os.chmod(directory, 0o700)
        yield Bench(Path(directory))


def lacking() -> list[str]:
    """The packages that judge here and are not installed."""
    return sorted(package for program, package in NEEDED.items() if not shutil.which(program))


def matrix(kinds: tuple[str, ...]) -> tuple[list[list[str]], Report]:
    """Return the lines of the table, and the figures."""
    lines, report = [], Report("formats", kinds != tuple(KEY_TYPES))
    through = 0
    with benched() as bench:
        for row in ROWS:
            cells = []
            for kind in kinds:
                if kind in row.without:
                    cells.append("–")
                    continue
                words = (None, WORD) if row.protected else (None,)
                misses = [why for why in (tried(bench, row, kind, word) for word in words) if why]
                report.misses += misses
                through += len(words) - len(misses)
                cells.append("NO" if misses else "✓✓" if row.protected else "✓")
            lines.append([row.name, row.by, *cells])
    report.add(Figure("round trips", through, 1 if report.sample else 300), zero("not read", len(report.misses)))
    return lines, report


def show(kinds: tuple[str, ...], lines: list[list[str]]) -> None:
    table = Table("format", "", *kinds, title="key files", title_justify="left")
    for line in lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)


def write_docs(kinds: tuple[str, ...], lines: list[list[str]]) -> None:
    rows = [["format", "", *kinds], ["---"] * (2 + len(kinds)), *lines]
    text = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make formats", description=__doc__.split("\n")[0])
    parser.add_argument("--sample", action="store_true", help="three kinds of key")
    parser.add_argument("--write-docs", action="store_true", help="write the table of docs/keyfiles.md")
    parser.add_argument("--into", type=Path, help="write the figures as JSON, too")
    wanted = parser.parse_args()
    missing = lacking()
    if missing:
        print(f"please install: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 1
    kinds = SAMPLE if wanted.sample else tuple(KEY_TYPES)
    lines, report = matrix(kinds)
    show(kinds, lines)
    if wanted.write_docs:
        write_docs(kinds, lines)
    return report.ended(wanted.into)


if __name__ == "__main__":
    sys.exit(main())
