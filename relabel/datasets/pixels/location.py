"""Pixels of a dataset's images, wherever they are stored.

A location is a plain path, or one of

- ``zip:PATH!MEMBER``: a member of a zip archive (SHIFT ships ``img.zip``); made by
  `zip_location`, since ``!`` and ``%`` in the path are written as in a URL,
- ``bytes:PATH!OFFSET!LENGTH``: an encoded image inside a larger file (Waymo v1 TFRecord),
- ``parquet:PATH!COLUMN!ROW``: a cell of a Parquet file, row counted over the file (Waymo v2),
- a URL such as ``s3://bucket/images/a.jpg``; see `relabel.files.remote`.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import ConfigError, DataError
from relabel.files.archive import open_archive, read_member
from relabel.files.images import (
    MOST_BYTES,
    Header,
    check_image_file,
    decode_rgb,
    file_header,
    read_header,
)
from relabel.files.opening import foreign
from relabel.files.parquet import open_parquet, read_cells
from relabel.files.remote import is_url, open_remote, read_remote, remote_size, remote_sizes

_OPEN_FILES = 8
_SAMPLE, _DIGEST = 4096, 16
_SCHEMES = ("zip", "bytes", "parquet")


class SizeError(DataError):
    """An image is not of the size its annotations state."""


def image_location(dataset: DetectionDataset, row: int) -> str:
    """The location string of an image of the dataset."""
    places = dataset.images.location
    if places is not None and places[row]:
        return places[row]
    root, name = str(dataset.root), dataset.images.file_name[row]
    if root != "." and root[-1] != "/" and _plain(name):  # a Path per image would cost time
        return f"{root}/{name}"
    return str(dataset.image_path(row))


def images_at(dataset: DetectionDataset, url: str) -> DetectionDataset:
    """The dataset with its images read from below a URL instead of its root.

    Raises:
        ConfigError: they lie inside larger files.
    """
    if dataset.images.location is not None and any(dataset.images.location):
        raise ConfigError(
            f"the images of {dataset.name!r} lie inside other files, not at a URL",
            file=containing_file(image_location(dataset, 0)),
            remedy="Take `images` out of its table in relabel.toml.",
        )
    places = [f"{url.rstrip('/')}/{name}" for name in dataset.images.file_name]
    return replace(dataset, images=replace(dataset.images, location=places))


def _plain(name: str) -> bool:
    """Whether a relative path stands as `Path` writes it; False also of some that do."""
    if os.sep != "/" or not name or name[0] in "/." or name[-1] == "/":
        return False
    return "//" not in name and "/." not in name


def is_packed(location: str) -> bool:
    """True if the image is no file of its own on this machine.

    It is a part of a larger file (an archive, a TFRecord, a Parquet file), or behind a URL.
    """
    return location.partition(":")[0] in _SCHEMES or is_url(location)


def zip_location(path: str | Path, member: str) -> str:
    """The location of a member of a zip archive."""
    return f"zip:{str(path).replace('%', '%25').replace('!', '%21')}!{member}"


def _zip_parts(rest: str) -> tuple[str, str]:
    path, _, member = rest.partition("!")
    return path.replace("%21", "!").replace("%25", "%"), member


def containing_file(location: str) -> str:
    """The image's file or URL, or the larger file it lies in."""
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
    if is_url(location):
        return remote_size(location)
    try:
        # A Path per image would double the time.
        return os.stat(containing_file(location)).st_size  # noqa: PTH116
    except (OSError, ValueError):  # a name that no file system has
        return -1


def all_stored_bytes(locations: Sequence[str]) -> list[int]:
    """`stored_bytes` of many images; those behind URLs are asked for together."""
    distant = dict.fromkeys(place for place in locations if is_url(place))
    known = dict(zip(distant, remote_sizes(list(distant)), strict=True)) if distant else {}
    return [known[place] if place in known else stored_bytes(place) for place in locations]


def stored_samples(locations: Sequence[str]) -> Iterator[bytes]:
    """`stored_sample` of many images; those behind URLs are asked for together."""
    distant = dict.fromkeys(place for place in locations if is_url(place))
    known = dict(zip(distant, remote_sizes(list(distant)), strict=True)) if distant else {}
    for place in locations:
        yield _of_size(known[place]) if place in known else stored_sample(place)


def stored_sample(location: str) -> bytes:
    """16 bytes that stand for the image's file, or for the larger one it lies in: a hash of its
    size and of its first, middle and last 4 KiB; of a file that cannot be read, zeros.

    Sizes alone do not tell uncompressed images apart. Behind a URL the size has to do: three more
    requests per image would take hours.
    """
    if is_url(location):
        return _of_size(remote_size(location))
    path = containing_file(location)
    return _sample_once(path) if is_packed(location) else _sample(path)


def _of_size(size: int) -> bytes:
    if size < 0:
        return bytes(_DIGEST)
    return hashlib.blake2b(str(size).encode(), digest_size=_DIGEST).digest()


def _sample(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return bytes(_DIGEST)
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=_DIGEST)
            for start in sorted({0, max(0, size // 2), max(0, size - _SAMPLE)}):
                stream.seek(start)
                digest.update(stream.read(_SAMPLE))
            return digest.digest()
    except (OSError, ValueError):  # a name that no file system has
        return bytes(_DIGEST)


_sample_once = lru_cache(maxsize=_OPEN_FILES)(_sample)


def image_sizes(dataset: DetectionDataset) -> list[int]:
    """Bytes of each image's file, or of the archive or record file it lies in; -1 if absent."""
    root, names, places = str(dataset.root), dataset.images.file_name, dataset.images.location
    places = [""] * len(names) if places is None else places
    return all_stored_bytes([p or f"{root}/{n}" for p, n in zip(places, names, strict=True)])


def read_image_bytes(location: str) -> bytes:
    """The encoded bytes of the image at ``location``.

    Raises:
        DataError: the file, member, range or row does not exist or cannot be read, or holds more
            than any image.
    """
    scheme, _, rest = location.partition(":")
    if scheme == "zip":
        return _zip_member(*_zip_parts(rest))
    if scheme == "bytes":
        path, offset, length = rest.rsplit("!", 2)
        return _byte_range(path, int(offset), int(length))
    if scheme == "parquet":
        path, column, row = rest.rsplit("!", 2)
        return _parquet_cell(path, column, int(row))
    if is_url(location):
        with _of_image():
            return read_remote(location, most=MOST_BYTES)
    check_image_file(location)
    with foreign(location, "an image that can be read"):
        return Path(location).read_bytes()
    raise AssertionError  # unreachable: the block above returns or raises


def image_header(location: str) -> Header:
    """Upright size and Exif orientation, from the image's header only where it is a plain file.

    Of an image behind a URL only the header is fetched, of a PNG its end too.

    Raises:
        DataError: missing or not an image.
    """
    if is_url(location):
        with _of_image(), open_remote(location) as stream:
            return read_header(stream, location)
    if is_packed(location):
        return read_header(io.BytesIO(read_image_bytes(location)), location)
    return file_header(location)


def image_size(location: str) -> tuple[int, int]:
    """Upright (width, height); see `image_header`."""
    return image_header(location).size


def read_rgb(location: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB pixels of the image at ``location``, upright; see `decode_rgb`.

    Raises:
        DataError: missing, damaged or not an image.
    """
    return decode_rgb(read_image_bytes(location), name=location)


def load_rgb(dataset: DetectionDataset, row: int) -> np.ndarray:
    """`read_rgb` of one image of the dataset, which has the size that the dataset states.

    Raises:
        DataError: see `read_rgb`; or the image has another size. It names the image's id.
    """
    location = image_location(dataset, row)
    with _naming(dataset, row):
        data = read_image_bytes(location)
        pixels = decode_rgb(data, name=location)
        stated = stated_size(dataset, row)
        if pixels.shape[1::-1] != stated:
            raise wrong_size(stated, read_header(io.BytesIO(data), location), location)
    return pixels


def check_size(dataset: DetectionDataset, row: int) -> None:
    """Look whether an image of the dataset has the size that the dataset states, by its header.

    Raises:
        DataError: missing, not an image, or of another size. It names the image's id.
    """
    location = image_location(dataset, row)
    with _naming(dataset, row):
        found, stated = image_header(location), stated_size(dataset, row)
        if found.size != stated:
            raise wrong_size(stated, found, location)


@contextmanager
def _of_image() -> Iterator[None]:
    """A missing file is told of as a plain one is."""
    try:
        yield
    except DataError as error:
        if error.message != "does not exist":
            raise
        raise DataError(
            "image file does not exist", file=error.file, remedy="Check the URL of the images."
        ) from error


@contextmanager
def _naming(dataset: DetectionDataset, row: int) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        record = f"image {int(dataset.images.id[row])}"
        raise type(error)(
            error.message, file=error.file, record=error.record or record, remedy=error.remedy
        ) from error


def stated_size(dataset: DetectionDataset, row: int) -> tuple[int, int]:
    """(width, height) of an image as the dataset states it."""
    return int(dataset.images.width[row]), int(dataset.images.height[row])


def wrong_size(stated: tuple[int, int], found: Header, location: str) -> SizeError:
    """The error of an image that is not of the size (width, height) its annotations state."""
    says = f"but the annotations say {stated[0]}x{stated[1]}"
    if found.size != found.stored == stated:
        return SizeError(
            f"is {found.size[0]}x{found.size[1]} as its Exif orientation ({found.orientation}) "
            f"turns it upright, {says}, its size as stored",
            file=location,
            remedy="If the boxes fit the pixels as stored, remove the tag "
            "(exiftool -Orientation= FILE); if they fit the upright picture, correct the size.",
        )
    return SizeError(
        f"is {found.size[0]}x{found.size[1]}, {says}",
        file=location,
        remedy="Use the images that the boxes were drawn on, or correct the stated size.",
    )


def _zip_member(path: str, member: str) -> bytes:
    check_image_file(path, most=None)
    try:
        return read_member(_handles.archive(path), member, path=path)
    except DataError as error:
        raise DataError(
            f"image cannot be read from the archive: {error.message}",
            file=path,
            record=error.record,
            remedy=error.remedy,
        ) from error


def _byte_range(path: str, offset: int, length: int) -> bytes:
    check_image_file(path, most=None)
    with foreign(path, "an image that can be read", record=f"offset {offset}"):
        with open(path, "rb") as stream:  # noqa: PTH123 (a Path per image costs time)
            stream.seek(offset)
            data = stream.read(length)
        if len(data) == length:
            return data
    raise DataError(
        f"ends {length - len(data)} bytes before the end of the image",
        file=path,
        record=f"offset {offset}",
        remedy="Download the file again.",
    )


def _parquet_file(path: str) -> tuple[Any, np.ndarray]:
    """An open Parquet file, and at which row each of its row groups starts, then the end."""
    check_image_file(path, most=None)
    file = open_parquet(path)
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    return file, np.concatenate([[0], np.cumsum(sizes)])


class _Handles(threading.local):
    """Archive and Parquet handles are not thread-safe: each thread keeps a few of its own."""

    def __init__(self) -> None:
        self.archive = lru_cache(_OPEN_FILES)(open_archive)
        self.parquet = lru_cache(_OPEN_FILES)(_parquet_file)
        # A row group holds tens to hundreds of JPEGs; neighbouring rows are read together.
        self.row_group = lru_cache(2)(self._row_group)

    def _row_group(self, path: str, column: str, group: int) -> Any:
        return read_cells(self.parquet(path)[0], path, group, column)


_handles = _Handles()


def _parquet_cell(path: str, column: str, row: int) -> bytes:
    _, starts = _handles.parquet(path)
    if not 0 <= row < starts[-1]:
        raise DataError(f"has no row {row}", file=path, remedy="Describe the dataset again.")
    group = int(np.searchsorted(starts, row, side="right") - 1)
    with foreign(path, "a readable Parquet file", record=f"row {row}"):
        cell = _handles.row_group(path, column, group)[row - int(starts[group])].as_py()
        if isinstance(cell, bytes):
            return cell
    raise DataError(
        f"column {column} holds no bytes of an image",
        file=path,
        record=f"row {row}",
        remedy="Download the file again.",
    )
