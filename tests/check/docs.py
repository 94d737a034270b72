"""Holds that the documents are true: links lead somewhere, every cause code is explained, nothing points outside the tree."""

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_ISSUE = re.compile(r"\bissue #?\d|(?<![\w&/])#\d+\b")


def complaints(root: Path = ROOT) -> list[str]:
    """What is wrong with the documents of the tree under root, one line each."""
    return [*_dead_links(root), *_unexplained_causes(root), *_flavours_without_a_row(root), *_outside_words(root)]


def _dead_links(root: Path) -> Iterator[str]:
    for path in _tracked(root, ".md"):
        text = _FENCE.sub("", path.read_text())
        for target in _LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            wanted = (path.parent / file).resolve() if file else path
            if not wanted.is_relative_to(root) or not wanted.exists():
                yield f"{path.relative_to(root)}: the link {target} leads nowhere"
            elif anchor and wanted.suffix == ".md" and anchor not in _anchors(wanted):
                yield f"{path.relative_to(root)}: {file or path.name} has no section #{anchor}"


def _unexplained_causes(root: Path) -> Iterator[str]:
    """A section of docs/causes.md for every cause code, and no section for a code that does not exist."""
    if not (root / "controller/causes.py").exists():
        return
    codes = set(importlib.import_module("controller.causes").CAUSES)
    pages = root / "docs/causes.md"
    headings = set(_HEADING.findall(_FENCE.sub("", pages.read_text()))) if pages.exists() else set()
    explained = {heading.strip("`") for heading in headings if re.fullmatch(r"`[a-z][a-z0-9_]*`|[a-z]+(_[a-z0-9]+)+", heading)}
    for code in sorted(codes - explained):
        yield f"docs/causes.md: no section explains {code}"
    for code in sorted(explained - codes):
        yield f"docs/causes.md: {code} is not a cause code of controller/causes.py"


def _flavours_without_a_row(root: Path) -> Iterator[str]:
    page = root / "docs/flavours.md"
    text = page.read_text() if page.exists() else ""
    for folder in sorted(root.glob("docker/fleet/*/")):
        if f"| {folder.name} |" not in text:
            yield f"docs/flavours.md: no row for {folder.name}; make fleet ARGS='--flavour {folder.name} --write-docs' writes one"


def _outside_words(root: Path) -> Iterator[str]:
    """A reader has this tree and nothing else: no path of somebody's checkout, no number of a list of issues."""
    for path in _tracked(root, ".md", ".py", ".toml", ".sh", ""):
        try:
            text = path.read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if str(root) in line:
                yield f"{path.relative_to(root)}:{number}: names the directory of a checkout"
            if path.suffix in (".md", ".py") and path != Path(__file__) and _ISSUE.search(line):
                yield f"{path.relative_to(root)}:{number}: an issue number says nothing to a reader; say what it was"


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's sections, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _tracked(root: Path, *suffixes: str) -> list[Path]:
    """The files of the tree; of an unpacked archive, where git knows nothing, those outside hidden directories."""
    listing = None
    if shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if listing is not None and listing.returncode == 0:
        paths = [root / name for name in listing.stdout.split("\0") if name]
    else:
        paths = [path for path in root.rglob("*") if not any(part[0] == "." for part in path.relative_to(root).parts)]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


if __name__ == "__main__":
    for complaint in (all_of_them := complaints()):
        print(complaint)
    sys.exit(bool(all_of_them))
