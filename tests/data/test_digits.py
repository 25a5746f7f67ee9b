import numpy as np
import pytest

from funcprop.data import load, load_digits

pytest.importorskip("sklearn", reason="digits needs scikit-learn: pip install 'funcprop[train]'")


def test_counts_shapes_and_range():
    data = load("digits")
    assert data.train.x.shape == (1437, 8, 8, 1)
    assert data.test.x.shape == (360, 8, 8, 1)
    assert data.validation is None
    assert data.classes == 10 and data.labels == tuple("0123456789")
    assert data.train.x.dtype == np.float32 and data.train.y.dtype == np.int32
    assert data.train.x.min() == 0 and data.train.x.max() == 1


def test_every_image_is_in_one_part():
    from sklearn.datasets import load_digits as original

    parts = load_digits(validation=True)
    assert parts.validation is not None
    together = [parts.train, parts.validation, parts.test]
    assert [len(part.y) for part in together] == [1077, 360, 360]
    rows = np.concatenate(
        [np.column_stack([part.x.reshape(len(part.y), 64) * 16, part.y]) for part in together]
    )
    x, y = original(return_X_y=True)
    wanted = np.column_stack([x, y])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])


def test_every_part_has_the_same_share_of_each_digit():
    data = load_digits(validation=True)
    assert data.validation is not None
    for part in (data.train, data.validation, data.test):
        shares = np.bincount(part.y) / len(part.y)
        whole = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]) / 1797
        np.testing.assert_allclose(shares, whole, atol=2 / len(part.y))


def test_the_split_is_fixed():
    first, second, held = load_digits(), load_digits(), load_digits(validation=True)
    np.testing.assert_array_equal(first.train.x, second.train.x)
    np.testing.assert_array_equal(first.test.x, held.test.x)
    # The very split, so that figures on digits stay comparable from one version to the next.
    assert first.train.y[:10].tolist() == [3, 9, 1, 3, 1, 9, 4, 4, 2, 8]
    assert first.test.y[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]
