"""Pixels of a dataset's images, wherever they are stored.

A location is a plain path, or one of

- ``zip:PATH!MEMBER``: a member of a zip archive (SHIFT ships ``img.zip``); made by
  `zip_location`, since ``!`` and ``%`` in the path are written as in a URL,
- ``bytes:PATH!OFFSET!LENGTH``: an encoded image inside a larger file (Waymo v1 TFRecord),
- ``parquet:PATH!COLUMN!ROW``: a cell of a Parquet file, row counted over the file (Waymo v2).
"""

from __future__ import annotations

import io
import os
import threading
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import DataError

_OPEN_FILES = 8
_SCHEMES = ("zip", "bytes", "parquet")
_NOT_DECODABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
)


def image_location(dataset: DetectionDataset, row: int) -> str:
    """The location string of an image of the dataset."""
    if dataset.images.location is not None and dataset.images.location[row]:
        return dataset.images.location[row]
    return str(dataset.image_path(row))


def is_packed(location: str) -> bool:
    """True if the image is a part of a larger file: an archive, a TFRecord, a Parquet file."""
    return location.partition(":")[0] in _SCHEMES


def zip_location(path: str | Path, member: str) -> str:
    """The location of a member of a zip archive."""
    return f"zip:{str(path).replace('%', '%25').replace('!', '%21')}!{member}"


def _zip_parts(rest: str) -> tuple[str, str]:
    path, _, member = rest.partition("!")
    return path.replace("%21", "!").replace("%25", "%"), member


def containing_file(location: str) -> str:
    """The image's file, or the larger file it lies in."""
    scheme, _, rest = location.partition(":")
    if scheme in _SCHEMES:
        return _zip_parts(rest)[0] if scheme == "zip" else rest.rsplit("!", 2)[0]
    return location


def relative_location(location: str, root: str) -> str:
    """The location as it reads from ``root``: the same wherever the dataset lies."""
    scheme, _, rest = location.partition(":")
    if scheme == "zip":
        path, member = _zip_parts(rest)
        return zip_location(path.replace(f"{root}/", ""), member)
    return location.replace(f"{root}/", "")


def stored_bytes(location: str) -> int:
    """Size of the image's file, or of the larger file it lies in; -1 if absent."""
    try:
        # A Path per image would double the time.
        return os.stat(containing_file(location)).st_size  # noqa: PTH116
    except OSError:
        return -1


def image_sizes(dataset: DetectionDataset) -> list[int]:
    """Bytes of each image's file, or of the archive or record file it lies in; -1 if absent."""
    root, names, places = str(dataset.root), dataset.images.file_name, dataset.images.location
    places = [""] * len(names) if places is None else places
    return [stored_bytes(p or f"{root}/{n}") for p, n in zip(places, names, strict=True)]


def read_image_bytes(location: str) -> bytes:
    """The encoded bytes of the image at ``location``.

    Raises:
        DataError: the file, member, range or row does not exist.
    """
    scheme, _, rest = location.partition(":")
    try:
        if scheme == "zip":
            path, member = _zip_parts(rest)
            return _handles.archive(path).read(member)
        if scheme == "bytes":
            path, offset, length = rest.rsplit("!", 2)
            with Path(path).open("rb") as stream:
                stream.seek(int(offset))
                data = stream.read(int(length))
            if len(data) != int(length):
                raise DataError(
                    f"ends {int(length) - len(data)} bytes before the end of the image",
                    file=path,
                    record=f"offset {offset}",
                    remedy="Download the file again.",
                )
            return data
        if scheme == "parquet":
            path, column, row = rest.rsplit("!", 2)
            return _parquet_cell(path, column, int(row))
        return Path(location).read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            "image file does not exist",
            file=location,
            remedy="Check the dataset's root in relabel.toml.",
        ) from error
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"image cannot be read from the archive: {error}", file=location) from error
    except OSError as error:
        raise DataError(f"image cannot be read: {error}", file=location) from error


def decode_rgb(data: bytes, *, name: str = "image") -> np.ndarray:
    """Decode an encoded image to uint8 [H, W, 3] RGB.

    Of 16-bit grey values the upper eight bits count.
    The pixels come as stored: an EXIF orientation is not applied, since annotations refer to the
    stored grid in COCO and its descendants.

    Raises:
        DataError: not an image, or cut off.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I;16"):
                # Pillow cuts 16-bit values off at 255, which leaves a white image.
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.array(image.convert("RGB"))  # a copy: torch warns of read-only arrays
    except _NOT_DECODABLE as error:
        # Pillow names the buffer by its address, which no user can use.
        unknown = isinstance(error, UnidentifiedImageError)
        raise DataError(
            f"image cannot be decoded: {'not in a known image format' if unknown else error}",
            file=name,
            remedy="Replace the file, or leave it out with --skip-bad.",
        ) from error


def image_size(location: str) -> tuple[int, int]:
    """(width, height) from the image's header only, where it is a plain file.

    Raises:
        DataError: missing or not an image.
    """
    try:
        source = io.BytesIO(read_image_bytes(location)) if is_packed(location) else location
        with Image.open(source) as image:
            return image.size
    except FileNotFoundError as error:
        raise DataError("image file does not exist", file=location) from error
    except _NOT_DECODABLE as error:
        raise DataError(
            f"not an image: {error}",
            file=location,
            remedy="Replace the file, or leave it out with --skip-bad.",
        ) from error


def read_rgb(location: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB pixels of the image at ``location``; see `decode_rgb`.

    Raises:
        DataError: missing, damaged or not an image.
    """
    return decode_rgb(read_image_bytes(location), name=location)


def load_rgb(dataset: DetectionDataset, row: int) -> np.ndarray:
    """`read_rgb` of one image of the dataset."""
    return read_rgb(image_location(dataset, row))


def _parquet_file(path: str) -> tuple[Any, np.ndarray]:
    """An open Parquet file, and at which row each of its row groups starts, then the end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise DataError(
            f"not a readable Parquet file: {error}",
            file=path,
            remedy="Download the file again.",
        ) from error
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    return file, np.concatenate([[0], np.cumsum(sizes)])


class _Handles(threading.local):
    """Archive and Parquet handles are not thread-safe: each thread keeps a few of its own."""

    def __init__(self) -> None:
        self.archive = lru_cache(_OPEN_FILES)(zipfile.ZipFile)
        self.parquet = lru_cache(_OPEN_FILES)(_parquet_file)
        # A row group holds tens to hundreds of JPEGs; neighbouring rows are read together.
        self.row_group = lru_cache(2)(self._row_group)

    def _row_group(self, path: str, column: str, group: int) -> Any:
        return self.parquet(path)[0].read_row_group(group, columns=[column]).column(0)


_handles = _Handles()


def _parquet_cell(path: str, column: str, row: int) -> bytes:
    _, starts = _handles.parquet(path)
    if not 0 <= row < starts[-1]:
        raise DataError(f"has no row {row}", file=path, remedy="Describe the dataset again.")
    group = int(np.searchsorted(starts, row, side="right") - 1)
    return _handles.row_group(path, column, group)[row - int(starts[group])].as_py()
