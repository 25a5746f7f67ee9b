"""Tables: columns of numbers as features, and one or more as the target."""

from pathlib import Path

from funcprop.data.dataset import DataError
from funcprop.data.source import Source
from funcprop.data.sources.csv_table import Csv
from funcprop.data.sources.files import existing
from funcprop.data.sources.parquet_table import Parquet


def open_table(
    path: str | Path,
    target: str | None = None,
    features: str | None = None,
    classes: int | None = None,
    labels: str | None = None,
    separator: str | None = None,
) -> Source:
    """x [features] float32, and y: [] int32 for classes, else [targets] float32.

    path       .csv, UTF-8, whose first row names the columns; or .parquet
    target     the column to predict; of numbers, there may be several: "price,rent"
    features   the columns of x, in this order; None: all others, in theirs
    classes    how many: the target is a number of a class, from 0
    labels     or their names, in their order: "setosa,versicolor,virginica"
    separator  of a .csv; None: ","

    A .csv is gone through once when it is opened, and an index of its rows kept (half a byte a
    row); rows are read when they are asked for. A .parquet is read by row groups: some are kept
    decoded, in 256 MiB at most or two groups, so `stream` shuffles the groups, and then the rows of
    those that are kept.

    raises  DataError for columns that do not exist, rows with other fields than the first, and,
            when they are read, fields that are empty, not finite, no numbers or no known class;
            ModuleNotFoundError without pyarrow, for .parquet

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "flowers.csv")
    ...     _ = file.write_text("length,width,kind\\n5.1,3.5,setosa\\n6.3,2.5,virginica\\n")
    ...     source = fp.data.open(f"table:{file}", target="kind", labels="setosa,virginica")
    ...     x, y = source.read(np.array([1, 0]))
    >>> x.shape, y.tolist(), source.classes
    ((2, 2), [1, 0], 2)
    """
    name, file = f"table:{path}", existing("table", path)
    chosen = {"target": target, "features": features, "classes": classes, "labels": labels}
    ending = file.suffix.lower()
    if ending == ".csv":
        return Csv(name, file, "," if separator is None else separator, **chosen)
    if ending == ".parquet" and separator is None:
        return Parquet(name, file, **chosen)
    if ending == ".parquet":
        raise DataError(f"{name}: separator is {separator!r}, which a .csv has only: leave it out")
    raise DataError(f"{name}: wanted a .csv or a .parquet, so convert it, or name it so")
