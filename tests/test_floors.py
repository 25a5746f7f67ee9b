"""The house: a file imports only from floors below its own, or from its own package."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "funcprop"

FLOORS = {
    "cli": 7,
    "explorer": 6,
    "training": 5,
    "comparison": 5,
    "pipelines": 5,
    "models": 4,
    "collectors": 4,
    "rewiring": 4,
    "gradient": 3,
    "prediction": 3,
    "blocks": 3,
    "composites": 2,
    "layers": 1,
    "losses": 1,
    "data": 0,
    "layer": 0,
    "initializers": 0,
    "extras": -1,  # below all: these import nothing
    "lazy": -1,
}
FILES = sorted(
    path for path in HOUSE.rglob("*.py") if path.relative_to(HOUSE).as_posix() != "__init__.py"
)


def room(path):
    """The package or module directly under funcprop/ that a file belongs to."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path):
    """(line, room) of everything imported from funcprop, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write the import in full"
            module = node.module or ""
            names = [module]
            if module == "funcprop":
                names = [f"funcprop.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "funcprop":
                yield node.lineno, parts[1] if len(parts) > 1 else "funcprop"


def test_every_file_has_a_floor():
    assert {room(path) for path in FILES} <= FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_imports_come_from_below(path):
    own = room(path)
    wrong = [
        f"line {line}: {other} (floor {FLOORS.get(other, '?')})"
        for line, other in imported(path)
        if other != own and not FLOORS.get(other, 99) < FLOORS[own]
    ]
    assert wrong == [], f"{path.relative_to(HOUSE)} is on floor {FLOORS[own]}"
