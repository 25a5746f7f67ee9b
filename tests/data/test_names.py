import pytest

from funcprop import data
from funcprop.data import DataError, load


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("digit", "digits"),
        ("fashion_mnist", "fashion-mnist"),
        ("emnist-letter", "emnist-letters"),
        ("openml", "openml:"),
        ("opneml:iris", "openml:"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(DataError, match=f"unknown data set '{name}': did you mean '{nearest}'?"):
        load(name)


def test_a_name_like_no_other_lists_them_all():
    with pytest.raises(DataError, match="unknown data set 'xyz': The names are digits, xor, moons"):
        load("xyz")


def test_arguments_are_not_ignored(tmp_path):
    with pytest.raises(DataError, match="digits comes with scikit-learn and reads no folder"):
        load("digits", folder=tmp_path)
    with pytest.raises(DataError, match="moons is made and reads no folder"):
        load("moons", folder=tmp_path)
    with pytest.raises(DataError, match="wants the name of a data set"):
        load("openml:")


def test_what_is_exported_is_documented():
    for name in ("load", "load_digits", "load_idx_folder", "load_openml", "load_plane", "read_idx"):
        assert getattr(data, name).__doc__
    for name in ("Dataset", "Examples", "DataError"):
        assert getattr(data, name).__doc__
