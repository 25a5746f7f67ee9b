"""Libraries that are not dependencies of the core: imported when used, or missed in one line."""

from importlib import import_module
from types import ModuleType

# What the first part of a module's name is needed for, so that the error says what was asked.
_PURPOSES = {
    "tyro": "the command line",
    "rich": "the progress display",
    "matplotlib": "drawing curves",
    "sklearn": "the digits data set",
    "safetensors": "reading and writing checkpoints",
    "orbax": "saving runs",
    "tensorboardX": "writing curves for TensorBoard",
    "flatbuffers": "a program in a file",
    "dp_accounting": "the privacy accountant",
    "flax": "a module of Flax",
    "equinox": "a module of Equinox",
    "grain": "reading batches ahead",
    "PIL": "reading images",
    "array_record": "a file of records",
    "pyarrow": "a Parquet table",
    "datasets": "a data set of Hugging Face",
}

_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "orbax": "orbax-checkpoint",
    "dp_accounting": "dp-accounting",
    "PIL": "pillow",
}


def require(name: str, extra: str) -> ModuleType:
    """The module `name` (`"matplotlib"`, `"sklearn.datasets"`), which the extra `extra` installs.

    Raises ModuleNotFoundError, in one line that names the extra, if its package is not installed.
    A package that is installed and fails to import raises its own error.
    """
    package = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:  # installed, but broken: the extra would not help
            raise
    purpose = _PURPOSES.get(package, "this feature")
    raise ModuleNotFoundError(
        f"funcprop: {purpose} needs {_DISTRIBUTIONS.get(package, package)}: "
        f"pip install 'funcprop[{extra}]'",
        name=package,
    )
