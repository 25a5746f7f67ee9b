"""Data sets by name, as immutable numpy arrays.

digits comes with scikit-learn, xor, moons and spiral are made, the IDX image sets come from a
folder, openml:NAME from openml.org, and text: is any file, or the help text that comes with Python.

Data larger than memory stays where it lies: `open` it, and `stream` it.
"""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from funcprop.data.augmentation import crop as crop
from funcprop.data.augmentation import cutout as cutout
from funcprop.data.augmentation import flip as flip
from funcprop.data.augmentation import mixup as mixup
from funcprop.data.dataset import DataError as DataError
from funcprop.data.dataset import Dataset as Dataset
from funcprop.data.dataset import Examples as Examples
from funcprop.data.digits import load_digits as load_digits
from funcprop.data.idx import SOURCES
from funcprop.data.idx import load_idx_folder as load_idx_folder
from funcprop.data.idx import read_idx as read_idx
from funcprop.data.opening import open as open
from funcprop.data.openml import load_openml as load_openml
from funcprop.data.planes import PLANES
from funcprop.data.planes import load_plane as load_plane
from funcprop.data.source import Source as Source
from funcprop.data.sources.folders import open_datasets as open_datasets
from funcprop.data.sources.images import open_images as open_images
from funcprop.data.sources.npz import open_npz as open_npz
from funcprop.data.sources.records import open_records as open_records
from funcprop.data.sources.records import write_records as write_records
from funcprop.data.sources.table import open_table as open_table
from funcprop.data.sources.tokens import open_tokens as open_tokens
from funcprop.data.streaming import Stream as Stream
from funcprop.data.streaming import stream as stream
from funcprop.data.text import LENGTH
from funcprop.data.text import load_text as load_text

# What stands after the colon of the name ("" without one), folder, validation -> Dataset
Loader = Callable[[str, str | Path | None, bool], Dataset]


def _digits(_: str, folder: str | Path | None, validation: bool) -> Dataset:
    if folder is not None:
        raise DataError(
            f"digits comes with scikit-learn and reads no folder, got {folder}: leave it out, "
            "or name an image set, such as mnist"
        )
    return load_digits(validation)


def _image_set(name: str, _: str, folder: str | Path | None, validation: bool) -> Dataset:
    return load_idx_folder(folder, name, validation)


def _plane(name: str, _: str, folder: str | Path | None, validation: bool) -> Dataset:
    if folder is not None:
        raise DataError(f"{name} is made and reads no folder, got {folder}: leave it out")
    return load_plane(name, validation)


def _openml(name: str, folder: str | Path | None, validation: bool) -> Dataset:
    if not name:
        raise DataError("openml: wants the name of a data set: load('openml:iris')")
    return load_openml(name, folder, validation)


def _text(name: str, folder: str | Path | None, validation: bool, length: int = LENGTH) -> Dataset:
    if folder is not None and not name:
        raise DataError(f"text: without a file reads no folder, got {folder}: write text:FILE")
    path = Path(folder or "", name) if name else None
    return load_text(path, validation, length)


# A name that ends in a colon is followed by an argument.
LOADERS: dict[str, Loader] = {
    "digits": _digits,
    **{name: partial(_plane, name) for name in PLANES},
    **{name: partial(_image_set, name) for name in SOURCES},
    "openml:": _openml,
    "text:": _text,
}


def load(
    name: str,
    folder: str | Path | None = None,
    validation: bool = False,
    length: int | None = None,
) -> Dataset:
    """The data set `name`.

    name        digits; xor, moons or spiral; mnist, fashion-mnist, kmnist, emnist, emnist-SPLIT;
                openml:NAME; text:FILE, or text: for the help text of Python
    folder      where its files lie; for openml: where they are kept; none for digits
    validation  take a validation set, as large as the test set, out of the training set
    length      bytes in a window of text; None: 128

    Raises DataError for an unknown name, and for data that cannot be used.

    >>> import funcprop as fp
    >>> fp.data.load("digits")
    <Dataset digits: train [1437, 8, 8, 1], test [360, 8, 8, 1], 10 classes>
    """
    kind, colon, argument = name.partition(":")
    loader = LOADERS.get(kind + colon)
    if loader is None:
        near = difflib.get_close_matches(kind.lower() + colon, LOADERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"unknown data set {name!r}: {hint}The names are {', '.join(LOADERS)}")
    if length is None:
        return loader(argument, folder, validation)
    if loader is not _text:
        raise DataError(f"length is {length}, and {name} has no windows: only text: has")
    return _text(argument, folder, validation, length)
