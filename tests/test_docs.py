"""Every snippet of the README and the docs runs, and prints what it says."""

import doctest
import re
from pathlib import Path

import pytest

from funcprop.catalogue.comparisons import markdown

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if ">>>" in page.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets(page):
    for name in ("flax", "equinox"):  # of the dev extra
        if re.search(rf">>> (import|from) {name}\b", page.read_text(encoding="utf-8")):
            pytest.importorskip(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(
        str(page), module_relative=False, optionflags=options, encoding="utf-8"
    )
    assert result.attempted > 0
    assert result.failed == 0


def test_the_docs_list_every_row_of_the_catalogue():
    assert markdown() in (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8"), (
        "paste what funcprop.catalogue.comparisons.markdown() returns"
    )
