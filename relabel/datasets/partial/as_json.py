"""Partial labels as JSON: the classes, and per image those known present and absent.

    {"classes": ["cat", "dog"],
     "images": [{"file_name": "a.jpg", "present": [0], "absent": [1]}]}

A completed file has ``scores`` and ``source`` per image too, a value per class. An object of file
name to class indices, as VG-200 has it, reads as well: its classes have numbers, and what is not
listed is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.formats.records import collector_paused
from relabel.datasets.multilabels import label_shape
from relabel.datasets.partial.building import (
    Listed,
    check_class_count,
    known_of_lists,
    numbered_classes,
)
from relabel.datasets.partial.labels import PRESENT, check_once, known_matrix
from relabel.errors import DataError
from relabel.files.json_text import parse_json
from relabel.files.opening import read_bytes
from relabel.workspace.atomic import atomic_path

_FORMAT = 'It must be {"classes": [...], "images": [{"file_name": ..., "present": [...], ...}]}.'
_ROW = re.compile(r"\$(?:\.images)?\[(\d+)\]")


class _Image(msgspec.Struct, gc=False):
    file_name: str
    present: list[int] = []
    absent: list[int] = []


class _File(msgspec.Struct):
    classes: list[str]
    images: list[_Image]


class JsonWriter:
    """Writes images; made by `json_writer`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._first = stream, True

    def write(
        self,
        file_names: Sequence[str],
        known: csr_array,
        scores: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> None:
        """Append images; arguments as of `relabel.datasets.partial.files.PartialWriter`."""
        for i, name in enumerate(file_names):
            entries = slice(int(known.indptr[i]), int(known.indptr[i + 1]))
            ids, there = known.indices[entries], known.data[entries] == PRESENT
            record = {
                "file_name": name,
                "present": ids[there].tolist(),
                "absent": ids[~there].tolist(),
            }
            if scores is not None:
                record["scores"] = np.round(scores[i].astype(np.float64), 6).tolist()
            if source is not None:
                record["source"] = source[i].tolist()
            self._stream.write(b"\n" if self._first else b",\n")
            self._stream.write(msgspec.json.encode(record))
            self._first = False


@contextmanager
def json_writer(
    path: Path, classes: Sequence[str], sources: Sequence[str] | None
) -> Iterator[JsonWriter]:
    """A writer whose file is there, complete, once the block ends without an error."""
    head = {"classes": list(classes), **({} if sources is None else {"sources": list(sources)})}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(msgspec.json.encode(head)[:-1] + b',"images":[')
        yield JsonWriter(stream)
        stream.write(b"\n]}\n")


def read_json_labels(path: Path) -> tuple[list[str], tuple[str, ...], csr_array]:
    """File names, classes, and what is known; scores and sources are not read.

    Raises:
        DataError: missing, no JSON of either kind, a class that is there twice or is none.
    """
    data = read_bytes(path, remedy=_FORMAT)
    with collector_paused():
        try:
            top = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except Exception:
            parse_json(data, path)  # says more of what is wrong
            raise DataError("is no JSON object", file=path, remedy=_FORMAT) from None
        if not {"classes", "images"} <= set(top):
            names, present = classes_by_name(path, None, data=data)
            count = label_shape(present)[1]
            return names, numbered_classes(count), known_matrix(present, file=path)
        try:
            file = msgspec.json.decode(data, type=_File)
        except msgspec.ValidationError as error:
            raise _told(path, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            parse_json(data, path)  # says more of what is wrong
            raise DataError(f"is not valid JSON: {error}", file=path, remedy=_FORMAT) from error
        check_class_count(len(file.classes), path)
        check_once(file.classes, "class", path)
        names = [image.file_name for image in file.images]
        present = _flat([image.present for image in file.images], names, path)
        absent = _flat([image.absent for image in file.images], names, path)
        known = known_of_lists(present, absent, names, len(file.classes), path)
        return names, tuple(file.classes), known


def classes_by_name(
    path: Path, classes: int | None, *, data: bytearray | None = None
) -> tuple[list[str], csr_array]:
    """File names and bool [N, C] of an object of file name to class indices.

    Args:
        path: the file.
        classes: C; None where nothing says: as many as the greatest index asks for.
        data: the file's bytes where they are at hand.

    Raises:
        DataError: missing, not such an object, a class that is there twice or is none.
    """
    data = read_bytes(path) if data is None else data
    with collector_paused():
        content = parse_json(data, path)  # which finds a key that is there twice
        try:
            lists = msgspec.convert(content, dict[str, list[int]])
        except msgspec.ValidationError as error:
            raise _told(path, error) from error
    names = list(lists)
    nothing = Listed(np.zeros(0, np.int64), np.zeros(len(names), np.int64))
    known = known_of_lists(_flat(list(lists.values()), names, path), nothing, names, classes, path)
    present = csr_array((known.data > 0, known.indices, known.indptr), shape=label_shape(known))
    return names, present


def labels_of_names(
    names: Sequence[str], listed: Sequence[str], present: csr_array, file: Path, what: Path
) -> csr_array:
    """The rows of ``present`` that belong to ``names``.

    Raises:
        DataError: one of them is not ``listed``.
    """
    row = {name: i for i, name in enumerate(listed)}
    lacking = next((name for name in names if name not in row), None)
    if lacking is not None:
        raise DataError(
            f"says nothing of {lacking!r}, which {what} lists",
            file=file,
            remedy="Take both files from the same release.",
        )
    return present[np.array([row[name] for name in names], np.int64)]


def _flat(lists: Sequence[list[int]], names: Sequence[str], path: Path) -> Listed:
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    try:
        ids = np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum()))
    except OverflowError:
        row = next(i for i, ids in enumerate(lists) if any(abs(k) >= 2**63 for k in ids))
        raise DataError(
            "has a class index of more than 64 bits",
            file=path,
            record=f"image {names[row]!r}",
            remedy="Class indices are positions in the list of classes, from 0 on.",
        ) from None
    return Listed(ids, counts)


def _told(path: Path, error: msgspec.ValidationError) -> DataError:
    message, _, where = str(error).partition(" - at ")
    row = _ROW.search(where)
    return DataError(
        message[:1].lower() + message[1:].replace("`", "'"),
        file=path,
        record=f"image {int(row[1]) + 1}" if row else where.strip("`$.") or None,
        remedy=_FORMAT,
    )
