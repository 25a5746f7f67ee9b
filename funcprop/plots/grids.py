"""Pictures of numbers that stand in a grid: weights, filters, images, a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from funcprop.layer import spell
from funcprop.plots.lines import matrix, plain

MOST = 1000  # classes


def weights(axes: Any, w: Any) -> Any:
    """A matrix of weights: blue below 0, white at 0, red above.

    axes  a matplotlib Axes, which is returned
    w     [in, out]; drawn with the outputs across

    raises  ValueError where w is no matrix

    >>> import numpy as np
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> fp.plots.weights(Figure().subplots(), np.eye(3)).get_xlabel()
    'out'
    """
    w = matrix("w", w, "[in, out]")
    top = largest(w)
    shown = axes.imshow(w, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    axes.figure.colorbar(shown, ax=axes)
    axes.set(xlabel="out", ylabel="in")
    return axes


def filters(
    axes: Any, w: Any, image: tuple[int, int] | None = None, columns: int | None = None
) -> Any:
    """What every unit of a first layer looks for, as small images beside each other.

    axes     a matplotlib Axes, which is returned
    w        [height, width, in, out] of a Conv, of which the mean over `in` is drawn; or [in, out]
             of a Dense that reads images
    image    (height, width) of those images
    columns  filters in a row; without a number about a square

    raises  ValueError where w is neither, or image does not fit

    >>> import numpy as np
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = fp.plots.filters(Figure().subplots(), np.ones((3, 3, 1, 4)))
    >>> axes.images[0].get_array().shape  # two by two, with a line between them
    (7, 7)
    """
    w = np.asarray(w, np.float64)
    if w.ndim == 4:
        each = w.mean(2).transpose(2, 0, 1)
    elif w.ndim == 2 and image is not None and image[0] * image[1] == len(w):
        each = w.T.reshape(-1, *image)
    else:
        raise ValueError(
            f"w is {list(w.shape)} and image {image}, wanted [height, width, in, out], or "
            "[in, out] and image=(height, width) with in = height · width"
        )
    top = largest(each)
    axes.imshow(mosaic(each, columns), cmap="RdBu_r", vmin=-top, vmax=top)
    axes.set_axis_off()
    return axes


def images(axes: Any, x: Any, words: Sequence[str] = (), columns: int | None = None) -> Any:
    """Gray images beside each other, with a word above each: those that were taken for others.

    axes     a matplotlib Axes, which is returned
    x        [n, height, width] or [n, height, width, 1]
    words    one an image, or none
    columns  images in a row; without a number about a square

    raises  ValueError for another shape, and for words that are not as many as images

    >>> import numpy as np
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = fp.plots.images(Figure().subplots(), np.ones((2, 8, 8)), ["3 for 5", "1 for 7"])
    >>> [text.get_text() for text in axes.texts]
    ['3 for 5', '1 for 7']
    """
    x = np.asarray(x, np.float64)
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    words = list(words)
    if x.ndim != 3 or not x.size or (words and len(words) != len(x)):
        raise ValueError(
            f"x is {list(x.shape)} with {len(words)} words, wanted [n, height, width] and n words"
        )
    across = columns or _square(len(x))
    high, wide = x.shape[1], x.shape[2]
    gap = max(3, high // 2) if words else 1
    axes.imshow(mosaic(x, columns, gap), cmap="Greys")
    for i, word in enumerate(words):
        row, column = divmod(i, across)
        place = column * (wide + gap) + wide / 2, row * (high + gap) + high + gap / 2
        axes.text(*place, plain(word), ha="center", va="center", fontsize="small")
    axes.set_axis_off()
    return axes


def confusion_matrix(axes: Any, target: Any, predicted: Any, labels: Sequence[str] = ()) -> Any:
    """How many examples of each class were taken for each: the diagonal is right.

    axes       a matplotlib Axes, which is returned
    target     [n] integers, the classes
    predicted  [n] integers, what they were taken for
    labels     what the classes are called; without them their numbers

    raises  ValueError where both are not of one length, and for what is no class or has no label

    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = fp.plots.confusion_matrix(Figure().subplots(), [0, 0, 1], [0, 1, 1])
    >>> axes.images[0].get_array().tolist()
    [[1, 1], [0, 1]]
    """
    target, predicted = np.asarray(target), np.asarray(predicted)
    if target.shape != predicted.shape or target.ndim != 1:
        raise ValueError(
            f"target is {list(target.shape)} and predicted {list(predicted.shape)}, wanted [n] both"
        )
    for name, given in (("target", target), ("predicted", predicted)):
        if given.size and not (np.issubdtype(given.dtype, np.integer) and given.min() >= 0):
            raise ValueError(
                f"{name} is {spell(given)} from {given.min()}, wanted classes 0, 1, ..."
            )
    top = int(max(target.max(initial=-1), predicted.max(initial=-1))) + 1
    if (labels and top > len(labels)) or top > MOST:
        raise ValueError(
            f"class {top - 1} was given, and {len(labels) or MOST} labels: wanted one a class"
        )
    classes = max(len(labels), top, 1)
    target, predicted = target.astype(np.int64), predicted.astype(np.int64)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (target, predicted), 1)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, counts.max()))
    if classes <= 20:
        for (i, j), count in np.ndenumerate(counts):
            color = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, count or "", ha="center", va="center", color=color, fontsize="small")
    named = [plain(label) for label in labels] or list(range(classes))
    axes.set(xlabel="taken for", ylabel="class")
    if classes <= 50:
        axes.set_xticks(range(classes), named, rotation=90 if len(str(named[0])) > 3 else 0)
        axes.set_yticks(range(classes), named)
    return axes


def largest(numbers: np.ndarray) -> float:
    """The largest of the finite ones, without their signs; 1 where all are zero."""
    return float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0)) or 1.0


def mosaic(each: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """[n, height, width] beside each other, NaN (no color) between them."""
    n, high, wide = each.shape
    if not each.size or (columns is not None and not 1 <= columns <= 1000):
        raise ValueError(f"{n} pictures in rows of {columns}, wanted at least one in 1 to 1000")
    across = columns or _square(n)
    rows = -(-n // across)
    below = gap if gap > 1 else 0  # room for words
    sheet = np.full((rows * (high + gap) - gap + below, across * (wide + gap) - gap), np.nan)
    for i, one in enumerate(each):
        top, left = (i // across) * (high + gap), (i % across) * (wide + gap)
        sheet[top : top + high, left : left + wide] = one
    return sheet


def _square(n: int) -> int:
    return max(1, int(np.ceil(np.sqrt(n))))
