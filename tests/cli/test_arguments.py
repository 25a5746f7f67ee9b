"""The words of a process become a command, field by field."""

from pathlib import Path

import pytest

from funcprop.cli.arguments import parse
from funcprop.cli.compare import Compare
from funcprop.cli.errors import UsageError
from funcprop.cli.predict import Predict
from funcprop.cli.train import Train


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("train", Train()),
        ("train --layers", Train(layers=())),
        ("train --layers 64 32 --seed -1", Train(layers=(64, 32), seed=-1)),
        (
            "train --data_dir=a_b --l2 1e-3 --debug",
            Train(data_dir=Path("a_b"), l2=1e-3, debug=True),
        ),
        ("predict runs --data text:x=1", Predict(Path("runs"), data="text:x=1")),
        ("compare", Compare()),
        ("compare --x 4 a --profile b --x 8x4", Compare(("a", "b"), ("4", "8x4"), profile=True)),
    ],
)
def test_words_become_fields(line, command):
    assert parse(line.split()) == command


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train --epochs 1e3", "--epochs: invalid int value: '1e3'"),
        ("train --epochs", "--epochs: expected one argument"),
        ("train --debug=yes", "--debug: ignored explicit argument 'yes'"),
        ("train more", "unrecognized arguments: more"),
        ("predict", "the following arguments are required: folder"),
    ],
)
def test_the_reason_is_a_sentence(line, reason):
    with pytest.raises(UsageError, match=f"^{reason}$"):
        parse(line.split())
