import numpy as np
import pytest

from funcprop.data import DataError, Dataset, Examples


def examples(n=6, classes=3, **changed):
    x = np.linspace(0, 1, n * 4, dtype=np.float32).reshape(n, 2, 2, 1)
    y = (np.arange(n) % classes).astype(np.int32)
    return Examples(**{"x": x, "y": y, **changed})


def dataset(train=None, test=None, classes=3, **more):
    return Dataset("toy", train or examples(), test or examples(3), classes, **more)


def test_a_dataset_holds_its_parts():
    data = dataset(validation=examples(4), labels=("a", "b", "c"))
    x, y = data.train
    assert x.shape == (6, 2, 2, 1) and y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.validation is not None and len(data.validation.y) == 4
    assert repr(data) == (
        "<Dataset toy: train [6, 2, 2, 1], validation [4, 2, 2, 1], test [3, 2, 2, 1], 3 classes>"
    )


def test_a_dataset_cannot_be_changed():
    given = examples()
    data = dataset(given)
    with pytest.raises(AttributeError):
        data.classes = 4  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        data.train.x[0] = 0
    given.x[0] = 0  # the caller's own array stays writeable


def with_value(value):
    x = examples().x.copy()
    x[4, 0, 1] = value
    return x


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": with_value(np.nan)}, r"toy, train: x holds 1 NaN .* first in example 4"),
        ({"x": with_value(-np.inf)}, r"holds 1 NaN or infinite"),
        ({"x": examples().x[:0], "y": examples().y[:0]}, r"empty"),
        ({"x": np.zeros((6, 0), np.float32)}, r"empty"),
        ({"y": np.array([0, 1, 2, 3, 0, 1], np.int32)}, r"label of example 3 is 3, wanted 0 to 2"),
        ({"y": np.array([0, -1, 2, 1, 0, 1], np.int32)}, r"label of example 1 is -1"),
        ({"y": examples().y[:5]}, r"6 examples and 5 labels"),
        ({"x": examples().x.astype(np.float64)}, r"float64, wanted float32"),
        ({"y": examples().y.astype(np.float32)}, r"float32, wanted int32"),
        ({"y": examples().y[:, None]}, r"y \[6, 1\], wanted"),
    ],
)
def test_bad_examples_raise(changed, message):
    with pytest.raises(DataError, match=message):
        dataset(examples(**changed))


def test_every_part_is_checked():
    with pytest.raises(DataError, match="toy, test: x holds"):
        dataset(test=examples(x=with_value(np.nan)))
    with pytest.raises(DataError, match="toy, validation: x holds"):
        dataset(validation=examples(x=with_value(np.nan)))


def test_parts_of_different_shapes_raise():
    other = examples(x=np.zeros((6, 3, 3, 1), np.float32))
    with pytest.raises(DataError, match=r"example of test has shape \[3, 3, 1\]"):
        dataset(test=other)
    with pytest.raises(DataError, match=r"example of validation has shape \[3, 3, 1\]"):
        dataset(validation=other)


def test_labels_must_name_every_class():
    with pytest.raises(DataError, match="2 labels name 3 classes"):
        dataset(labels=("a", "b"))
