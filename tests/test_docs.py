"""The documents are true: held over the tree, and the checker held to catching what is not."""

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


def test_what_is_hidden_is_not_looked_at(tmp_path: Path):
    root = _tree(tmp_path, "see [there](other.md)")
    (root / ".venv").mkdir()
    (root / ".venv/page.md").write_text("see [there](gone.md)")
    assert complaints(root) == []


def _tree(root: Path, text: str) -> Path:
    """A tree as an archive holds it: nothing here needs git, nor the history of a checkout."""
    (root / "page.md").write_text(f"# Start\n\n{text}\n")
    (root / "other.md").write_text("# Other\n\n## A part of it\n")
    return root
