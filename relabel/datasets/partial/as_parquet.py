"""Partial labels as Parquet: a record per image with the class indices known present and absent.

Columns ``file_name``, ``present`` and ``absent``; a completed file has ``scores`` and ``source``
too, a number and a text per class. The classes' names are in the file's metadata, as a JSON list
``class_names``.

Shape legend: ``n`` images of a block, ``C`` classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_rows, label_shape
from relabel.datasets.partial.building import (
    Listed,
    check_class_count,
    known_of_lists,
    numbered_classes,
    widened,
)
from relabel.datasets.partial.labels import ABSENT, PRESENT, check_once, check_room, stacked
from relabel.errors import DataError
from relabel.files.json_text import parse_json
from relabel.files.parquet import reading_parquet
from relabel.workspace.atomic import atomic_path

CLASS_NAMES = b"class_names"
_COLUMNS = "A record has `file_name`, and lists of class indices in `present` and `absent`."
_NAME_COLUMNS = ("file_name", "filename", "image")
_BATCH = 8192


class ParquetWriter:
    """Writes records; made by `parquet_writer`."""

    def __init__(self, writer: Any, schema: Any, sources: Sequence[str] | None) -> None:
        self._writer, self._schema, self._sources = writer, schema, sources

    def write(
        self,
        file_names: Sequence[str],
        known: csr_array,
        scores: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> None:
        """Append images; arguments as of `relabel.datasets.partial.files.PartialWriter`."""
        import pyarrow as pa

        columns = [pa.array(file_names, pa.string())]
        rows = label_rows(known)
        for value in (PRESENT, ABSENT):
            mine = known.data == value
            counts = np.bincount(rows[mine], minlength=len(file_names))
            columns.append(_lists(pa.array(known.indices[mine].astype(np.int32)), counts))
        if scores is not None and source is not None and self._sources is not None:
            counts = np.full(len(file_names), scores.shape[1])
            names = pa.DictionaryArray.from_arrays(
                pa.array(source.reshape(-1).astype(np.int8)), pa.array(self._sources, pa.string())
            )
            values = pa.array(scores.reshape(-1).astype(np.float32, copy=False))
            columns += [_lists(values, counts), _lists(names, counts)]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))


@contextmanager
def parquet_writer(
    path: Path, classes: Sequence[str], sources: Sequence[str] | None
) -> Iterator[ParquetWriter]:
    """A writer whose file is there, complete, once the block ends without an error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("file_name", pa.string())]
    fields += [(name, pa.list_(pa.int32())) for name in ("present", "absent")]
    metadata = {CLASS_NAMES: json.dumps(list(classes), ensure_ascii=False).encode()}
    if sources is not None:
        kind = pa.dictionary(pa.int8(), pa.string())
        fields += [("scores", pa.list_(pa.float32())), ("source", pa.list_(kind))]
    schema = pa.schema(fields, metadata=metadata)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        yield ParquetWriter(writer, schema, sources)


def read_parquet(path: Path) -> tuple[list[str], tuple[str, ...], csr_array]:
    """File names, classes, and what is known; scores and sources are not read.

    Raises:
        DataError: missing, damaged, without a needed column, an image without a name, a class that
            is there twice or is none.
    """
    with reading_parquet(path, ("present", "absent")) as file:
        schema = file.schema_arrow
        classes = _classes(path, schema.metadata or {})
        named = next((name for name in _NAME_COLUMNS if name in schema.names), None)
        if named is None:
            raise DataError("has no column of file names", file=path, remedy=_COLUMNS)
        _check_room(path, file.metadata, len(classes or ()))
        names: list[str] = []
        parts: list[csr_array] = []
        for batch in file.iter_batches(_BATCH, columns=[named, "present", "absent"]):
            these = batch.column(named).to_pylist()
            if not all(isinstance(name, str) and name for name in these):
                raise DataError(
                    "has an image without a file name",
                    file=path,
                    record=f"record {len(names) + 1} or later",
                    remedy=_COLUMNS,
                )
            present, absent = (
                _listed(path, kind, batch.column(kind), these) for kind in ("present", "absent")
            )
            count = None if classes is None else len(classes)
            parts.append(known_of_lists(present, absent, these, count, path))
            names += these
    count = len(classes or ()) or max((label_shape(p)[1] for p in parts), default=1)
    known = stacked([widened(part, count) for part in parts], count)
    return names, classes or numbered_classes(count), known


def _check_room(path: Path, told: Any, classes: int) -> None:
    """Count the values that the file says it has, which hardly take room on the disk."""
    entries = 0
    for number in range(told.num_row_groups):
        group = told.row_group(number)
        chunks = (group.column(c) for c in range(group.num_columns))
        entries += sum(
            chunk.num_values
            for chunk in chunks
            if chunk.path_in_schema.partition(".")[0] in ("present", "absent")
        )
    check_room(entries, told.num_rows, classes, path)


def _lists(values: Any, counts: np.ndarray) -> Any:
    """A column of lists of such lengths."""
    import pyarrow as pa

    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values)


def _listed(path: Path, name: str, column: Any, images: list[str]) -> Listed:
    """The whole numbers of a column of lists."""
    import pyarrow as pa

    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not (
        pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)
    ):
        raise DataError(f"column {name!r} holds {kind}, not class indices", file=path)
    flat = column.flatten()
    if column.null_count or flat.null_count:
        row = next(i for i, v in enumerate(column.to_pylist()) if v is None or None in v)
        raise DataError(
            f"column {name!r} has a missing value",
            file=path,
            record=f"image {images[row]!r}",
            remedy="An image of which nothing is known has empty lists.",
        )
    ids = flat.to_numpy(zero_copy_only=False)
    if ids.dtype == np.uint64:
        ids = np.minimum(ids, np.uint64(np.iinfo(np.int64).max))
    return Listed(ids.astype(np.int64), column.value_lengths().to_numpy(zero_copy_only=False))


def _classes(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """The classes' names of the metadata, or None."""
    record = f"metadata {CLASS_NAMES.decode()!r}"
    names = parse_json(metadata.get(CLASS_NAMES) or b"null", path, record=record)
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DataError("is no list of names", file=path, record=record)
    check_class_count(len(names), path)
    check_once(names, "class", path)
    return tuple(names)
