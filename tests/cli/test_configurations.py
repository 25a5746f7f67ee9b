"""config.json with every field wrong in several ways: one line says which, or it is as good."""

import json

import pytest

from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.folder import CONFIG, KINDS, read_config, write_config
from funcprop.cli.job.recipe import Recipe, settled

WRONG = (None, -1, 1e30, float("nan"), True, "nonsense", [], [1, "x"], {}, {"a": 1})
# what an option may be beside what it is here
AS_GOOD = {
    (name, None)
    for name in ("activation", "data_dir", "learning_rate", "init", "weight_decay", "clip_norm")
}
AS_GOOD |= {(name, None) for name in ("width", "depth", "heads", "patch", "length", "dropout")}
AS_GOOD |= {("layers", None), ("labels", "[]"), ("layers", "[]"), ("data_dir", "nonsense")}
# these are looked at where the data are opened, or saving begins
AS_GOOD |= {("data", "nonsense"), ("checkpoint_every", "nonsense")}


@pytest.fixture
def folder(tmp_path):
    saving = {"checkpoint_every": "1m", "plots": False, "tensorboard": False}
    write_config(tmp_path, Recipe(), (8, 8, 1), 10, ["0", "1"], saving)
    return tmp_path


def test_it_is_read_as_it_was_written(folder):
    assert read_config(folder) == (settled(Recipe()), (8, 8, 1), 10)


def test_every_field_wrong_in_every_way(folder):
    config = json.loads((folder / CONFIG).read_text())
    refused = 0
    for name in config:
        for wrong in WRONG:
            (folder / CONFIG).write_text(json.dumps({**config, name: wrong}))
            same = wrong == config[name] or (isinstance(wrong, bool) and name in BOOLEANS)
            key = (name, str(wrong) if isinstance(wrong, list) else wrong)
            if same or (key in AS_GOOD if not isinstance(wrong, dict) else False):
                read_config(folder)
                continue
            with pytest.raises(RecipeError) as error:
                read_config(folder)
            said = str(error.value)
            assert "\n" not in said and name.replace("_", "-") in said.replace("_", "-"), said
            refused += 1
    assert refused >= 150


BOOLEANS = {f for f, kind in KINDS.items() if kind(True)}
BOOLEANS |= {f.name for f in Recipe.__dataclass_fields__.values() if f.type == "bool"}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"model": "mlp"}', "\x00", "{}}"])
def test_what_is_no_configuration(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(RecipeError, match="train again"):
        read_config(folder)
