"""The 1,797 digits of scikit-learn: 8x8 gray images that come with the library."""

import numpy as np

from funcprop.data.dataset import Dataset, Examples
from funcprop.data.split import split
from funcprop.extras import require

TEST = 360  # a fifth


def load_digits(validation: bool = False) -> Dataset:
    """1,437 training and 360 test images [n, 8, 8, 1] in [0, 1], 10 classes; no download.

    validation  make 360 images of the training set the validation set (1,077 / 360 / 360)

    x is float32, y int32. The split is fixed and has the same share of every digit in each part.

    raises  ModuleNotFoundError without scikit-learn
    source  Alpaydin, Kaynak 1998, UCI: Optical recognition of handwritten digits, as in
            scikit-learn

    >>> import funcprop as fp
    >>> import funcprop.data
    >>> data = fp.data.load_digits()
    >>> data
    <Dataset digits: train [1437, 8, 8, 1], test [360, 8, 8, 1], 10 classes>
    >>> data.train.x.dtype, float(data.train.x.max())
    (dtype('float32'), 1.0)
    """
    bunch = require("sklearn.datasets", "train").load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    y = bunch.target.astype(np.int32)
    train, test, held = split(y, TEST, validation, "digits")
    return Dataset(
        name="digits",
        train=Examples(images[train], y[train]),
        test=Examples(images[test], y[test]),
        classes=10,
        validation=None if held is None else Examples(images[held], y[held]),
        labels=tuple("0123456789"),
    )
