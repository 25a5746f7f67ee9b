"""Any classification table of openml.org, fetched by scikit-learn."""

import warnings
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError, Dataset, Examples
from funcprop.data.split import split
from funcprop.extras import require


def load_openml(name: str, folder: str | Path | None = None, validation: bool = False) -> Dataset:
    """The OpenML data set `name`: x [n, features] float32, y [n] int32.

    folder      where scikit-learn keeps what it fetched (None: its own place); a data set that is
                there needs no connection
    validation  hold out of the training set as many examples again as the test set has

    A fifth is the test set: a fixed split with the same share of every class in each part.
    Features are scaled so that each runs from 0 to 1 over the training set; test and validation
    may leave that range, and a feature that is constant over the training set is only shifted.
    Classes are numbered in order: by value where all are numbers, else alphabetically.

    raises  DataError without a connection, for an unknown name, and for a table that is not one
            nominal target over dense numeric features without gaps; ModuleNotFoundError without
            scikit-learn
    source  Vanschoren et al. 2014, OpenML: networked science in machine learning, arXiv:1407.7722

    >>> import os
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> fp.data.load_openml("iris")  # doctest: +SKIP
    <Dataset openml:iris: train [120, 4], test [30, 4], 3 classes>
    >>> try:
    ...     fp.data.load_openml("iris", folder=os.devnull)  # no folder
    ... except fp.data.DataError as error:
    ...     print(str(error).split(" (")[0])
    openml:iris cannot be fetched from openml.org
    """
    bunch = _fetch(name, folder)
    features, target = _checked(name, bunch)
    labels, y = _number(target)
    train, test, held = split(y, max(1, len(y) // 5), validation, f"openml:{name}")
    low = features[train].min(axis=0)
    width = features[train].max(axis=0) - low
    width[width == 0] = 1  # a constant feature

    def part(indices: np.ndarray) -> Examples:
        scaled = (features[indices] - low) / width
        return Examples(scaled.astype(np.float32), y[indices])

    return Dataset(
        name=f"openml:{name}",
        train=part(train),
        test=part(test),
        classes=len(labels),
        validation=None if held is None else part(held),
        labels=labels,
    )


def _fetch(name: str, folder: str | Path | None) -> Any:
    fetch = require("sklearn.datasets", "train").fetch_openml
    try:
        with warnings.catch_warnings():
            # One error at the end says it all; the warnings about retries before it do not help.
            warnings.filterwarnings("ignore", message="A network error occurred")
            # This parser needs no pandas and says which columns are nominal.
            return fetch(name=name, data_home=folder, as_frame=False, parser="liac-arff")
    except (OSError, HTTPException) as error:
        raise DataError(
            f"openml:{name} cannot be fetched from openml.org ({error}): check the connection "
            "and the folder, or load('digits'), which needs none"
        ) from error
    except ValueError as error:
        raise DataError(
            f"openml:{name} cannot be loaded ({error}): give the name of an active data set with "
            "numeric features, as openml.org spells it"
        ) from error


def _checked(name: str, bunch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, d] float64 and target [n] of class names; raises for any other table."""
    features, target = bunch.data, bunch.target
    wanted = "wanted numeric features and one nominal target, so choose another data set"
    if not isinstance(features, np.ndarray):
        raise DataError(f"openml:{name} is a sparse table: {wanted}")
    if bunch.categories:
        nominal = ", ".join(list(bunch.categories)[:5])
        raise DataError(
            f"openml:{name} has {len(bunch.categories)} nominal features ({nominal}): {wanted}"
        )
    if target is None or target.ndim != 1:
        count = 0 if target is None else target.shape[1]
        raise DataError(f"openml:{name} has {count} target columns: {wanted}")
    if target.dtype != object:
        raise DataError(f"openml:{name} has a numeric target (regression): {wanted}")
    gaps = np.count_nonzero(~np.isfinite(features))
    if gaps:
        raise DataError(
            f"openml:{name} has {gaps} missing or infinite feature values: choose a data set "
            "without gaps, or fill them in and build a Dataset"
        )
    return features, target


def _number(target: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes in order, and each example's place [n] int32 among them."""
    names = {str(value) for value in target}
    try:
        labels = tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        labels = tuple(sorted(names))
    place = {label: index for index, label in enumerate(labels)}
    return labels, np.array([place[str(value)] for value in target], np.int32)
