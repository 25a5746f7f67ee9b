"""The tutorial: a page and a notebook each, two exercises, a picture, and a way on."""

import importlib.util
import itertools
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
spec = importlib.util.spec_from_file_location("notebooks", DOCS / "learn" / "notebooks.py")
assert spec and spec.loader
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)
CHAPTERS = notebooks.CHAPTERS
chapters = pytest.mark.parametrize("page", CHAPTERS, ids=[page.stem for page in CHAPTERS])


def test_there_are_ten():
    assert [page.stem[:2] for page in CHAPTERS] == [f"{n:02}" for n in range(1, 11)]


@chapters
def test_the_notebook_is_the_page(page):
    made = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert made == notebooks.notebook(page), "run python docs/learn/notebooks.py"
    cells = json.loads(made)["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":  # what it computes is run by the page
            compile("".join(cell["source"]), page.name, "exec")
    page_code = "".join(re.findall(r"^(?:>>>|\.\.\.) ?(.*\n)", page.read_text("utf-8"), re.M))
    cell_code = "".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "code")
    bare = [re.sub(r"^print\((.*)\)$", r"\1", line.strip()) for line in cell_code.splitlines()]
    wanted = [re.sub(r"^print\((.*)\)$", r"\1", line.strip()) for line in page_code.splitlines()]
    assert [line for line in bare if line] == [line for line in wanted if line]


@chapters
def test_a_chapter_has_what_a_chapter_has(page):
    text = page.read_text(encoding="utf-8")
    first = text.splitlines()[2]
    assert first.startswith("**") and first.endswith("?**")  # a question
    assert text.index("## Numbers") < text.index("## Formulas" if "## Formulas" in text else "$$")
    answers = re.findall(r"<details markdown>.*?</details>", text, re.DOTALL)
    assert len(answers) == 2 and all("fp.compare(" in answer for answer in answers)
    (picture,) = re.findall(r"^!\[.+\]\((\.\./images/.+\.png)\)$", text, re.MULTILINE)
    assert (page.parent / picture).is_file()
    end = text[text.index("**Next:**") :]
    for link in ("../derivation.md", "../slips.md", "../derivations/", f"({page.stem}.ipynb)"):
        assert link in end


def test_chapters_lead_from_one_to_the_next():
    for page, following in itertools.pairwise(CHAPTERS):
        text = page.read_text(encoding="utf-8")
        assert f"]({following.name})" in text[text.index("**Next:**") :]


@pytest.mark.parametrize("name", ["derivation", "notebook", "slips", "from-pytorch", "learn/index",
                                  "learn/seeds", "learn/exercises"])  # fmt: skip
def test_pages_of_the_way_say_what_is_next(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    last = text.rstrip().rpartition("\n\n")[2]
    assert last.startswith("**Next:** [") and "](" in last
