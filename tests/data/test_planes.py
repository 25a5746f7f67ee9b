"""Points in a plane that no line divides."""

import numpy as np
import pytest

from funcprop.data import DataError, load, load_plane


@pytest.mark.parametrize("name", ["xor", "moons", "spiral"])
def test_two_classes_that_no_line_divides(name):
    data = load(name, validation=True)
    assert [len(part.y) for part in (data.train, data.validation, data.test)] == [300, 100, 100]
    assert data.train.x.shape == (300, 2) and set(np.bincount(data.test.y)) == {50}
    x, y = data.train.x.astype(np.float64), 2.0 * data.train.y - 1
    a = np.concatenate([x, np.ones((len(x), 1))], 1)
    w, *_ = np.linalg.lstsq(a, y, rcond=None)
    right = np.mean(np.sign(a @ w) == y)
    assert right < 0.95
    nearest = ((data.test.x[:, None] - data.train.x[None]) ** 2).sum(-1).argmin(1)
    assert np.mean(data.train.y[nearest] == data.test.y) > 0.95
    np.testing.assert_array_equal(load_plane(name).test.x, data.test.x)


def test_another_name():
    with pytest.raises(
        DataError, match="unknown data set 'circles' of the plane: wanted xor, moons"
    ):
        load_plane("circles")
