"""A folder of images, a folder for each class."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Source, fingerprint, whole
from funcprop.data.sources.files import existing
from funcprop.extras import require

ENDINGS = (".png", ".jpg", ".jpeg")
PNG = b"\x89PNG"
MODES = {1: "L", 3: "RGB"}
CHANNELS = {"L": 1, "RGB": 3}
# What each becomes without loss of meaning; 16-bit and float images would be cut off at 255.
CONVERTED = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def open_images(
    path: str | Path, size: int | str | None = None, channels: int | None = None
) -> Source:
    """x [H, W, C] uint8, an image, and y [] int32, the number of its class.

    path      DIR/class/*.png, .jpg or .jpeg; the classes are the folders in DIR by alphabet
    size      "H,W", or one number for both: an image is resized to cover that, and its middle cut
              out. None: all images have to be of one size already
    channels  1 (gray) or 3 (RGB): images are converted. None: all have to be as the first one,
              and gray or RGB

    Images are decoded when they are read; only their names are in memory. A JPEG that a camera
    held sideways is turned upright.

    raises  DataError for a folder of another form, other options, and, when they are read, images
            that are damaged or not alike; ModuleNotFoundError without Pillow

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, shade in (("night", 9), ("day", 250)):
    ...         pathlib.Path(folder, name).mkdir()
    ...         Image.new("L", (5, 4), shade).save(pathlib.Path(folder, name, "0.png"))
    ...     source = fp.data.open(f"images:{folder}")
    ...     x, y = source[1]
    >>> source.labels, x.shape, int(x[0, 0, 0]), int(y)
    (('day', 'night'), (4, 5, 1), 9, 1)
    """
    return Images(path, size, channels)


class Images(Source):
    """Images of a folder by class; their names as one array of bytes."""

    def __init__(self, path: str | Path, size: Any, channels: int | None) -> None:
        self.name = f"images:{path}"
        self._pillow = require("PIL.Image", "train")
        self._fit = require("PIL.ImageOps", "train")
        self._size = _parsed_size(self.name, size)
        if channels not in (None, 1, 3):
            raise DataError(f"{self.name}: channels is {channels!r}, wanted 1, 3 or None")
        self._root = existing("images", path, folder=True)
        found = _listed(self.name, self._root)
        self.labels, self.classes = tuple(found), len(found)
        self._y = np.repeat(np.arange(len(found), dtype=np.int32), [len(f) for f in found.values()])
        self._files = np.array([file for files in found.values() for file in files])
        self._shape: tuple[int, ...] | None = None
        self._channels = channels
        self._shape = self._decoded(0).shape  # what all others are compared with
        counts = " ".join(f"{label} {len(files)}" for label, files in found.items())
        sizes = [self._path(int(k)).stat().st_size for k in np.linspace(0, len(self) - 1, 64)]
        wanted = f"{self._size} {channels}"
        self.fingerprint = fingerprint(counts, self._files, np.array(sizes), wanted)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        assert self._shape is not None
        x = np.empty((len(i), *self._shape), np.uint8)
        for row, k in enumerate(i):
            x[row] = self._decoded(int(k))
        return x, self._y[i]

    def _path(self, k: int) -> Path:
        return self._root / self.labels[self._y[k]] / os.fsdecode(self._files[k])

    def _decoded(self, k: int) -> np.ndarray:
        path = self._path(k)
        try:
            data = path.read_bytes()
            if data[:4] == PNG:
                self._pillow.open(io.BytesIO(data)).verify()  # checksums, which `load` passes over
            with self._pillow.open(io.BytesIO(data)) as opened:
                image = opened
                if opened.format == "JPEG":
                    image = self._fit.exif_transpose(opened)
                image.load()
                image = self._converted(path, image)
        except DataError:
            raise
        except Exception as error:  # of many kinds, as the file may hold anything
            raise DataError(
                f"{path} cannot be read as an image ({type(error).__name__}: {error}): take it "
                "out, or write it again"
            ) from error
        x = np.asarray(image, np.uint8)
        x = x[..., None] if x.ndim == 2 else x
        if self._shape is not None and x.shape != self._shape:
            h, w, c = self._shape
            option = f"channels={c}" if x.shape[:2] == (h, w) else f"size='{h},{w}'"
            raise DataError(
                f"{path} is {list(x.shape)}, and {self._path(0)} is [{h}, {w}, {c}]: images of a "
                f"batch are alike, so write open('{self.name}', {option})"
            )
        return x

    def _converted(self, path: Path, image: Any) -> Any:
        if image.mode not in CONVERTED:
            raise DataError(
                f"{path} is of mode {image.mode}, wanted 8 bits a channel: convert it first"
            )
        if self._channels is not None:
            image = image.convert(MODES[self._channels])
        elif image.mode not in CHANNELS:
            raise DataError(
                f"{path} is of mode {image.mode}, wanted gray or RGB: write "
                f"open('{self.name}', channels=3), or 1"
            )
        if self._size is not None:
            h, w = self._size
            image = self._fit.fit(image, (w, h), self._pillow.Resampling.BILINEAR)
        return image


def _parsed_size(where: str, size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    parts = size.split(",") if isinstance(size, str) else size
    parts = [parts, parts] if isinstance(parts, int) else list(parts)
    try:
        parts = [int(part) for part in parts]
    except ValueError:
        parts = []
    parts = parts * 2 if len(parts) == 1 else parts
    if len(parts) != 2:
        raise DataError(f"{where}: size is {size!r}, wanted a number or 'H,W'")
    h, w = (whole(where, "size", part) for part in parts)
    return h, w


def _listed(where: str, root: Path) -> dict[str, list[bytes]]:
    """{class: the names of its images}, both by alphabet."""
    wanted = "wanted DIR/class/*.png or .jpg, a folder for each class"
    found: dict[str, list[bytes]] = {}
    for folder in sorted(_entries(root), key=lambda entry: entry.name):
        if not folder.is_dir():
            raise DataError(f"{where}: {folder.name} stands beside the classes, {wanted}")
        files = []
        for entry in _entries(folder.path):
            if entry.is_dir() or not entry.name.lower().endswith(ENDINGS):
                raise DataError(
                    f"{where}: {folder.name}/{entry.name} is no image, {wanted}: take it out"
                )
            files.append(os.fsencode(entry.name))
        if not files:
            raise DataError(f"{where}: the class {folder.name} has no images, {wanted}")
        found[folder.name] = sorted(files)
    if not found:
        raise DataError(f"{where} is empty, {wanted}")
    return found


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, without hidden files."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]
