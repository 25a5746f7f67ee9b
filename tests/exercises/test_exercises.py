"""Every exercise: its solution is right, its blank is said to be blank, a mistake is explained."""

import re
from pathlib import Path

import pytest

import funcprop.cli as cli
from funcprop.exercises import EXERCISES, FileError, grade

PAGE = Path(__file__).parent.parent.parent / "docs" / "learn" / "exercises.md"
LEAVES = {"sigmoid": 1, "tanh": 1, "relu": 1, "dense": 3, "quadratic": 2, "softmax-ce": 1,
          "batch-norm": 3, "layer-norm": 3, "dropout": 1, "conv": 3, "max-pool": 1, "rnn": 5,
          "attention": 3}  # fmt: skip
TASKS = {task.name: task for task in EXERCISES}
ROW = re.compile(r"^\| `([a-z-]+)` \| `(.+?)` \| (?:`(.+?)`|\*nothing\*) \| (.+) \|$", re.MULTILINE)
MISTAKES = ROW.findall(PAGE.read_text(encoding="utf-8"))
tasks = pytest.mark.parametrize("task", EXERCISES, ids=TASKS)


def graded(folder, task, text):
    path = folder / task.file
    path.write_text(text, encoding="utf-8")
    return grade(path)


@tasks
def test_a_solution_is_right_and_a_blank_is_said_to_be_blank(task, tmp_path):
    found = graded(tmp_path, task, task.solution)
    assert found.ok and found.exercise is task and found.words.startswith("right: ")
    assert found.comparison.unjudged == ()
    said, *following = found.words.splitlines()
    assert said.startswith(f"right: {LEAVES[task.name]} gradient")
    after = list(TASKS)[list(TASKS).index(task.name) + 1 :][:1]
    assert following == [f"next: funcprop exercise {name}" for name in after]
    blank = graded(tmp_path, task, task.blank)
    assert not blank.ok and blank.words.startswith("still blank: write backward")
    assert blank.comparison is None


@tasks
def test_a_blank_keeps_the_docstring_and_no_line_of_the_answer(task):
    blank, solution = task.blank.splitlines(), task.solution.splitlines()
    left_out = [line for line in solution if line not in blank]
    assert left_out and all("hint" not in line for line in left_out)
    docstring = task.blank.partition("def backward")[2].partition("raise NotImplementedError")[0]
    for word in ("->", "forward  ", "kept     ", "hint 1   ", "hint 2   "):
        assert word in docstring
    assert "NotImplementedError" not in task.solution


@pytest.mark.parametrize(
    ("name", "was", "became", "words"), MISTAKES, ids=[f"{m[0]}: {m[2]}" for m in MISTAKES]
)
def test_a_mistake_is_explained_in_the_words_of_the_page(name, was, became, words, tmp_path):
    task = TASKS[name]
    assert was in task.solution
    found = graded(tmp_path, task, task.solution.replace(was, became))
    assert not found.ok
    said = found.words.partition("\n")[0].partition(": ")[2]
    assert said == words, f"docs/learn/exercises.md: what compare says of it is now {said}"


def test_there_is_a_mistake_for_every_exercise_and_each_is_on_the_page_for_teachers():
    assert {name for name, *_ in MISTAKES} == TASKS.keys()
    page = PAGE.read_text(encoding="utf-8")
    for task in EXERCISES:
        assert f"| `{task.name}` | {task.teaches} | " in page


def test_what_is_no_answer_is_told(tmp_path):
    tanh = TASKS["tanh"]
    automatic = tanh.solution.replace(
        "return da * (1 - a * a), ()",
        "return jax.vjp(jnp.tanh, jnp.arctanh(a))[1](da)[0], ()",
    )
    found = graded(tmp_path, tanh, automatic)
    assert (found.ok, found.words) == (False, "right, and not by hand: backward calls vjp")
    raising = graded(tmp_path, tanh, tanh.solution.replace("da * (1", "daa * (1")).words
    assert raising.splitlines()[1] == "backward raised NameError: name 'daa' is not defined"
    changed = tanh.solution.replace("jnp.tanh(z)", "2 * jnp.tanh(z)")
    assert "forward is not the one" in graded(tmp_path, tanh, changed).words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "has no layer: end the file with layer ="),
        ("layer = 3\nx = 1\n", "layer is a int, wanted a layer"),
        ("import funcprop as fp\nlayer = fp.Tanh()\nx = 1.0\ncontext = 2\n", "context is a int"),
        ("x = (\n", "raised SyntaxError in line 1"),
        ("\n1 / 0\n", "raised ZeroDivisionError in line 2: division by zero"),
        ("import jax.numpy as jnp\nimport funcprop as fp\nlayer, x = fp.ELU(), jnp.ones(3)\n",
         "ELU is no exercise's layer"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_graded_is_told_in_one_line(text, words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(FileError, match=re.escape(words)) as caught:
        grade(path)
    assert "\n" not in str(caught.value)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = cli.main(list(words))
        return code, *capsys.readouterr()

    return run


def test_from_the_list_to_a_solved_file(run, tmp_path):
    code, out, err = run("exercise")
    assert (code, err) == (0, "") and all(task.name in out for task in EXERCISES)
    code, out, err = run("exercise", "tanh")
    assert (code, out) == (0, "tanh.py: fill in backward, then ask: funcprop exercise tanh.py\n")
    code, out, err = run("exercise", "tanh.py")
    assert code == 1 and out.startswith("tanh: still blank")
    assert err == "funcprop: not solved: tanh.py\n"
    path = tmp_path / "tanh.py"
    path.write_text(TASKS["tanh"].solution.replace("a * a", "a"))
    code, out, err = run("exercise", "tanh.py")
    assert code == 1 and out.startswith("tanh: wrong gradient in Tanh: dz (") and "WRONG" not in out
    assert re.search(r"^dz: by hand \S+, automatic \S+, at \[\d, \d\]$", out, re.MULTILINE)
    assert out.endswith("\nsee docs/derivations/activations.md\n") and out.count("\n") == 3
    code, table, _ = run("exercise", "tanh.py", "--verbose")
    assert code == 1 and "\nin the table dx is dz, dy is da\n" in table and "WRONG" in table
    code, solution, _ = run("exercise", "tanh", "--solution")
    path.write_text(solution)
    code, out, err = run("exercise", "tanh.py")
    assert (code, err) == (0, "") and out.startswith("tanh: right") and "exercise relu" in out
    code, out, err = run("compare", "tanh.py")
    assert (code, err) == (0, "") and "agree with automatic differentiation" in out


def test_compare_says_that_a_blank_file_has_no_backward(run):
    run("exercise", "dropout")
    code, out, _ = run("compare", "dropout.py")
    assert code == 1 and "does not define backward: write one" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tahn"], "did you mean 'tanh'?"),
        (["none.py"], "there is no file none.py"),
        (["tanh", "tanh"], "tanh.py exists already"),
    ],
)
def test_bad_usage_is_exit_code_2(words, told, run):
    code, _, err = run("exercise", *words)
    assert code == 2 and told in err and err.count("\n") == 1


def test_a_file_is_graded_at_numbers_of_the_exercise(tmp_path):
    text = next(task for task in EXERCISES if task.name == "tanh").solution.replace("a * a", "a")
    path = tmp_path / "tanh.py"
    path.write_bytes(b"\xef\xbb\xbf" + (text + "\nx = jnp.zeros((0, 4))\n").encode())
    assert not grade(path).ok
    path.write_bytes(
        b"\xef\xbb\xbf" + next(task for task in EXERCISES if task.name == "tanh").solution.encode()
    )
    assert grade(path).ok
