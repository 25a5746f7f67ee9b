"""Every public name stands on one page of the reference, and no other name does."""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "reference"
PACKAGES = (
    "layers", "losses", "composites", "blocks", "models", "collectors", "rewiring", "training",
    "pipelines", "placement", "data", "comparison", "initializers", "lifting",
    "testing", "catalogue", "costs", "inspection", "plots", "explorer",
)  # fmt: skip
COMMANDS = "funcprop.cli."  # on their page stands what is typed, not a name to import


def exported(module):
    """Names that a module imports for others (`from x import y as y`), or defines itself."""
    body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    guarded = [node for block in body if isinstance(block, ast.If) for node in block.body]
    for node in (*body, *guarded):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.asname == alias.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def public():
    """id -> the paths of every public object; a name in a package and in fp is one object."""
    found = {}
    for name in ("funcprop", *(f"funcprop.{package}" for package in PACKAGES)):
        module = importlib.import_module(name)
        for path in exported(module):
            value = getattr(module, path)
            if not isinstance(value, ModuleType):
                found.setdefault(id(value), []).append(f"{name}.{path}")
    return found


def entries():
    """(page, path) of every `::: funcprop.x.y`."""
    for page in sorted(PAGES.glob("*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            yield page.name, path


def resolved(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_on_one_page_and_no_other_name_is():
    names, places = public(), {}
    for page, path in entries():
        value = resolved(path)
        assert id(value) in names or path.startswith(COMMANDS), f"{page}: {path} is not public"
        places.setdefault(id(value), []).append(f"{page}: {path}")
    twice = [where for where in places.values() if len(where) > 1]
    assert twice == [], "one entry each"
    missing = [paths[0] for key, paths in names.items() if key not in places]
    assert missing == [], "add `::: NAME` to a page in docs/reference/"


def test_every_page_of_the_docs_is_in_the_navigation():
    config = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", config.partition("\nnav:")[2]))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert listed == pages | {"index.md"}  # which is the README
