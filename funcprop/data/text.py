"""Text as bytes: windows of tokens, each with the byte that follows it as its target."""

from pathlib import Path

import numpy as np

from funcprop.data.dataset import DataError, Dataset, Examples

LENGTH = 128  # bytes in a window
VOCABULARY = 256  # every byte is a token: no file has a letter that is not known


def load_text(
    path: str | Path | None = None, validation: bool = False, length: int = LENGTH
) -> Dataset:
    """A file, or Python's own help text, as x [n, length] uint8 and y [n, length] int32.

    path        any file; None: the topics of `help()`, which come with Python (0.5 MB of English
                and code; its words are those of the Python that runs)
    validation  hold out as many windows again as the test set has
    length      bytes in a window

    The windows stand side by side and y is x one byte later. They are split in the order of the
    text: the last tenth is the test set, and what comes before it the validation set.

    raises  DataError where the file cannot be read or is too short, or length is no whole number of
            at least 1

    >>> import pathlib, tempfile
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "text")
    ...     _ = path.write_text("to be or not to be")
    ...     x, y = fp.data.load_text(path, length=6).train
    >>> x.tobytes(), bytes(y.ravel().tolist())
    (b'to be ', b'o be o')
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise DataError(f"length is {length!r}, wanted a whole number of at least 1")
    name = f"text:{'' if path is None else path}"
    data = _help_text() if path is None else _read(Path(path))
    n, parts = (len(data) - 1) // length, 3 if validation else 2
    if n < parts:
        raise DataError(
            f"{name} has {len(data)} bytes, wanted at least {parts * length + 1}: {parts} windows "
            f"of {length} and a byte to predict; give a longer text or shorter windows"
        )
    tokens = np.frombuffer(data, np.uint8)
    x = tokens[: n * length].reshape(n, length)
    y = tokens[1 : n * length + 1].reshape(n, length).astype(np.int32)
    held = max(1, n // 10)
    test = n - held
    train = test - held if validation else test

    def part(start: int, stop: int) -> Examples:
        return Examples(x[start:stop], y[start:stop])

    return Dataset(
        name=name,
        train=part(0, train),
        test=part(test, n),
        classes=VOCABULARY,
        validation=part(train, test) if validation else None,
    )


def _help_text() -> bytes:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:  # some distributions split it off
        raise DataError(
            "text: without a file reads the help text of Python, which this one came without: "
            "write text:FILE"
        ) from error
    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"text:{path} cannot be read ({error.strerror}): give the path of a file after text:"
        ) from error
