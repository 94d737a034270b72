"""The documents are true: held over the tree, and the checker held to catching what is not."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.check.docs import complaints


def test_the_documents_of_this_tree_are_true():
    assert complaints() == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("see [there](gone.md)", "the link gone.md leads nowhere"),
        ("see [there](../../elsewhere.md)", "leads nowhere"),
        ("see [there](other.md#lost)", "other.md has no section #lost"),
        ("see [here](#lost)", "has no section #lost"),
        (f"as issue {7} says", "an issue number says nothing"),
        (f"fixes #{12}", "an issue number says nothing"),
        ("lives in {root}/docs", "names the directory of a checkout"),
    ],
)
def test_a_document_that_points_nowhere_is_named(tmp_path: Path, text, complaint):
    found = complaints(_tree(tmp_path, text.format(root=tmp_path)))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "see [there](other.md), [its part](other.md#a-part-of-it), [here](#start) and [the web](https://example.org/#1)",
        "```\n[not](a-link.md)\n```",
        "the anchor &#39; and the colour #123abc are no issues",
    ],
)
def test_a_document_that_leads_somewhere_passes(tmp_path: Path, text):
    assert complaints(_tree(tmp_path, text)) == []


def test_an_archive_without_git_is_checked_as_well(tmp_path: Path):
    root = _tree(tmp_path, "see [there](gone.md)")
    shutil.rmtree(root / ".git")
    assert len(complaints(root)) == 1


def _tree(root: Path, text: str) -> Path:
    (root / "page.md").write_text(f"# Start\n\n{text}\n")
    (root / "other.md").write_text("# Other\n\n## A part of it\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root
