"""Sources by name, `kind:PATH` and options; and a source of whatever else holds examples."""

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

from funcprop.data.dataset import DataError, Dataset
from funcprop.data.source import Arrays, Rows, Source
from funcprop.data.sources.folders import open_datasets
from funcprop.data.sources.images import open_images
from funcprop.data.sources.npz import open_npz
from funcprop.data.sources.records import open_records
from funcprop.data.sources.table import open_table
from funcprop.data.sources.tokens import open_tokens

OPENERS: dict[str, Callable[..., Source]] = {
    "images": open_images,
    "tokens": open_tokens,
    "records": open_records,
    "npz": open_npz,
    "datasets": open_datasets,
    "table": open_table,
}
OPTIONS = re.compile(r"\w+=[^&]*(&\w+=[^&]*)*")


def open(name: str, **options: Any) -> Source:
    """The data at `name`, left where it lies: only examples that are asked for are read.

    name     images:DIR      DIR/class/*.png or .jpg; see `open_images` for the options, and so on
             tokens:FILE     a text as numbers, .bin or .npy, in windows: `open_tokens`
             records:FILE    what `write_records` wrote: `open_records`
             npz:FILE        arrays of NumPy's savez: `open_npz`
             datasets:DIR    what Hugging Face's save_to_disk wrote: `open_datasets`
             table:FILE      .csv or .parquet: `open_table`
    options  of that kind; in the name, too: "table:houses.csv?target=price&features=area,rooms"

    -> Source, for `stream`. `load` gives small data sets as a whole instead.

    raises  DataError for an unknown kind or option, and for what cannot be read;
            ModuleNotFoundError without the library of the format

    >>> import pathlib, tempfile
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "points.csv")
    ...     _ = file.write_text("x,y,side\\n0.5,1,0\\n-2,3,1\\n")
    ...     source = fp.data.open(f"table:{file}?target=side&classes=2")
    ...     source[1]
    (array([-2.,  3.], dtype=float32), np.int32(1))
    """
    kind, colon, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    opener = OPENERS.get(kind) if colon else None
    if opener is None:
        near = difflib.get_close_matches(kind.lower(), OPENERS, n=1)
        hint = f"did you mean '{near[0]}:'? " if near else ""
        kinds = ", ".join(f"{each}:" for each in OPENERS)
        raise DataError(f"unknown source {name!r}: {hint}The kinds are {kinds}")
    path, mark, query = path.rpartition("?")
    if not mark or not OPTIONS.fullmatch(query):
        path, query = path + mark + query, ""
    if not path:
        raise DataError(f"{name!r} has no path: write open('{kind}:PATH')")
    known = inspect.signature(opener).parameters
    for pair in filter(None, query.split("&")):
        option, _, text = pair.partition("=")
        if option in options:
            raise DataError(f"{name}: {option} is given twice: leave one of them out")
        if option in known:
            options[option] = _read(f"{kind}:{path}", option, text, str(known[option].annotation))
        else:
            options[option] = text
    allowed = list(known)[1:]
    for option in options:
        if option not in allowed:
            near = difflib.get_close_matches(option, allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"{kind}:{path} has no option {option!r}: {hint}They are {', '.join(allowed)}"
            )
    return opener(path, **options)


def _read(where: str, option: str, text: str, annotation: str) -> Any:
    """The value of an option written in a name: a number where one is wanted, else the text."""
    if "int" not in annotation or "str" in annotation:
        return text
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: {option} is {text!r}, wanted a whole number") from None


def as_source(given: Any) -> Source:
    """A source of what `stream` takes: sources, their names, arrays, sequences of examples."""
    if isinstance(given, Source):
        return given
    if isinstance(given, str):
        return open(given)
    if isinstance(given, Dataset):
        raise DataError(
            f"{given.name} is a data set of several parts: write stream(data.train, ...)"
        )
    several = tuple(given) if isinstance(given, (tuple, list)) else ()
    if several and all(hasattr(each, "shape") for each in several):
        return Arrays(several)
    shape = getattr(given, "shape", None)
    if shape is not None:
        raise DataError(
            f"the source is one array {list(shape)}, wanted several: write stream((x, y), "
            "...), or stream((x,), ...) for batches of one"
        )
    indexed = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    if indexed and not hasattr(given, "keys"):
        return Rows(given)
    raise DataError(
        f"the source is a {type(given).__name__}, wanted arrays (x, y), what fp.data.open returns, "
        "or a sequence of examples"
    )
