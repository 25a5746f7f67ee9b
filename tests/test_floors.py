"""The house: a file imports only from floors below its own, or from what stands before it in its
own package: there is an order of the files in which every import points backwards."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "funcprop"

FLOORS = {
    "cli": 10,
    "testing": 9,
    "explorer": 9,
    "catalogue": 8,
    "inspection": 8,
    "plots": 8,
    "costs": 7,
    "exercises": 7,
    "comparison": 6,
    "training": 5,
    "pipelines": 5,
    "lifting": 5,
    "models": 4,
    "collectors": 4,
    "rewiring": 4,
    "placement": 4,
    "gradient": 3,
    "prediction": 3,
    "blocks": 3,
    "composites": 2,
    "doors": 1,
    "layers": 1,
    "losses": 1,
    "data": 0,
    "layer": 0,
    "initializers": 0,
    "sheets": -1,
    "arguments": -2,
    "extras": -2,  # below all: these import nothing of the house
    "lazy": -2,
    "sharding": -2,
}
# The pytest plugin by its old name is imported by nothing in the house.
OLD_NAMES = {"comparison/plugin.py"}
# What a student is given, written as by a user of the house.
STUDENTS = HOUSE / "exercises" / "solved"
FILES = sorted(
    path
    for path in HOUSE.rglob("*.py")
    if path.relative_to(HOUSE).as_posix() not in {"__init__.py", *OLD_NAMES}
    and path.parent != STUDENTS
)


def room(path):
    """The package or module directly under funcprop/ that a file belongs to."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def module(path):
    """The name of a file's module below funcprop: "layers.dense"; a package's is its folder's."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module(path) for path in FILES}


def imported(path):
    """(line, module) of everything imported from funcprop, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write the import in full"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            here = node.module == "funcprop"
            names = [n if here or n[9:] in MODULES else node.module or "" for n in full]
        for name in names:
            if name == "funcprop" or name.startswith("funcprop."):
                yield node.lineno, name[9:] or "funcprop"


def test_every_file_has_a_floor():
    assert {room(path) for path in FILES} <= FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_imports_come_from_below(path):
    own = room(path)
    rooms = [(line, name.partition(".")[0]) for line, name in imported(path)]
    wrong = [
        f"line {line}: {other} (floor {FLOORS.get(other, '?')})"
        for line, other in rooms
        if other != own and not FLOORS.get(other, 99) < FLOORS[own]
    ]
    assert wrong == [], f"{path.relative_to(HOUSE)} is on floor {FLOORS[own]}"


# A comparison is a way: what is compared, who is asked, what they say, what it proves, and why.
STAGES = [
    "programs",
    "leaf",
    "subject",
    "witnesses",
    "evidence",
    "verdict",
    "explanation",
    "report",
    "trial",
    "front",
]


DRAWING = Path(__file__).parent.parent / "docs" / "contributing.md"


def stages():
    """{stage: the stages that its files import}, of the comparison."""
    found = {stage: set() for stage in STAGES}
    for path in FILES:
        if room(path) == "comparison" and module(path) != "comparison":
            own = module(path).split(".")[1]
            names = {name for _, name in imported(path) if name.startswith("comparison.")}
            found[own] |= {name.split(".")[1] for name in names} - {own}
    return found


def drawn(found):
    """A line a stage, a mark under every stage before it that it imports."""
    width = max(map(len, STAGES))
    lines = []
    for i, stage in enumerate(STAGES):
        marks = ["──▶" if other in found[stage] else "   " for other in STAGES[:i]]
        lines.append(f"{stage.ljust(width)} {''.join(marks)} {i}".rstrip())
    numbers = "".join(f"{i:>3}" for i in range(len(STAGES)))
    return "\n".join([f"{'imports'.ljust(width)} {numbers}", *lines])


def test_the_stages_of_a_comparison_import_those_before_them():
    for stage, names in stages().items():
        later = {name for name in names if STAGES.index(name) > STAGES.index(stage)}
        assert later == set(), f"{stage} imports what comes after it"


def test_the_drawing_of_the_stages_is_made_of_the_imports():
    text = DRAWING.read_text(encoding="utf-8")
    shown = text.partition("<!-- stages -->")[2].partition("<!-- stages end -->")[0]
    wanted = f"\n```text\n{drawn(stages())}\n```\n"
    assert shown == wanted, f"docs/contributing.md: between the marks belongs{wanted}"


@pytest.mark.parametrize("own", sorted(set(map(room, FILES))))
def test_there_is_no_circle_of_imports_inside_a_package(own):
    order = TopologicalSorter()
    for path in FILES:
        if room(path) == own:
            names = {name for _, name in imported(path) if name.partition(".")[0] == own}
            order.add(module(path), *names)
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
