import urllib.error
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from funcprop.data import DataError, load

datasets = pytest.importorskip(
    "sklearn.datasets", reason="OpenML needs scikit-learn: pip install 'funcprop[train]'"
)

N = 50


def table(**changed):
    """What fetch_openml returns for a dense table with a nominal target."""
    values = np.random.default_rng(0).normal(5, 20, (N, 3))
    values[:, 2] = 7  # a constant feature
    names = np.array(["10", "9", "2"], dtype=object)
    bunch = {"data": values, "target": names[np.arange(N) % 3], "categories": {}}
    return SimpleNamespace(**{**bunch, **changed})


@pytest.fixture
def openml(monkeypatch):
    """Sets what fetch_openml answers; returns the arguments it was called with."""
    calls = []

    def answer(result):
        def fetch(**arguments):
            calls.append(arguments)
            if isinstance(result, Exception):
                warnings.warn("A network error occurred ... Retrying...", stacklevel=2)
                raise result
            return result

        monkeypatch.setattr(datasets, "fetch_openml", fetch)
        return calls

    return answer


def test_a_table(openml, tmp_path):
    calls = openml(table())
    data = load("openml:wine", folder=tmp_path)
    assert calls == [
        {"name": "wine", "data_home": tmp_path, "as_frame": False, "parser": "liac-arff"}
    ]
    assert data.name == "openml:wine" and data.classes == 3
    assert data.train.x.shape == (40, 3) and data.test.x.shape == (10, 3)
    assert data.train.x.dtype == np.float32 and data.train.y.dtype == np.int32
    assert data.labels == ("2", "9", "10")  # by value: the numbers are names of numbers
    assert np.bincount(data.train.y).tolist() == [13, 13, 14]


def test_features_are_scaled_by_the_training_set(openml):
    values = table().data
    values[:, 1] = 3 * values[:, 0] + 2  # the same feature in another unit
    openml(table(data=values))
    data = load("openml:wine")
    np.testing.assert_array_equal(data.train.x.min(axis=0), [0, 0, 0])
    np.testing.assert_array_equal(data.train.x.max(axis=0), [1, 1, 0])
    np.testing.assert_allclose(data.test.x[:, 0], data.test.x[:, 1], rtol=1e-5, atol=1e-6)
    # Undoing the scale gives the table back, test rows included: one scale for all parts.
    both = np.sort(np.concatenate([data.train.x, data.test.x])[:, 0])
    before = np.sort(values[:, 0])
    slopes = np.diff(before) / np.diff(both)
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)
    assert data.test.x.min() > 0 or data.test.x.max(axis=0)[0] != 1


def test_validation_is_as_large_as_the_test_set(openml):
    openml(table())
    whole, data = load("openml:wine"), load("openml:wine", validation=True)
    assert data.validation is not None
    assert [len(part.y) for part in (data.train, data.validation, data.test)] == [30, 10, 10]
    np.testing.assert_array_equal(data.test.y, whole.test.y)


def test_class_names_are_sorted(openml):
    openml(table(target=np.array(["b", "a", "10", "9", "c"] * 10, dtype=object)))
    data = load("openml:wine")
    assert data.labels == ("10", "9", "a", "b", "c")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"categories": {"color": ["red", "white"]}}, r"1 nominal features \(color\)"),
        ({"target": np.arange(N) / 2}, r"numeric target \(regression\)"),
        ({"target": None}, "has 0 target columns"),
        ({"target": np.full((N, 2), "a", dtype=object)}, "has 2 target columns"),
        ({"data": np.full((N, 3), np.nan)}, "has 150 missing or infinite feature values"),
        ({"data": "a sparse matrix"}, "is a sparse table"),
        ({"target": np.array(["a"] + ["b"] * (N - 1), dtype=object)}, "class by class"),
    ],
)
def test_a_table_of_another_kind_raises(openml, changed, message):
    openml(table(**changed))
    with pytest.raises(DataError, match=message) as raised:
        load("openml:wine")
    assert str(raised.value).startswith("openml:wine")


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
    ],
)
def test_offline_is_one_clear_error(openml, error):
    openml(error)
    with pytest.raises(DataError, match=r"openml:wine cannot be fetched .* check the connection"):
        load("openml:wine")


def test_an_unknown_name(openml):
    openml(ValueError("No active dataset wyne found."))
    with pytest.raises(DataError, match=r"openml:wyne cannot be loaded \(No active dataset wyne"):
        load("openml:wyne")
