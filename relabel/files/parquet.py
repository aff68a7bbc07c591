"""Parquet files of unknown origin: rows are counted against bytes before memory is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import DataError
from relabel.files.opening import check_regular, foreign

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_WHAT = "a readable Parquet file"
_DAMAGED = "Download or write the file again."
# A row group is decoded as a whole. Repeated values take almost no bytes on disk, so the bound
# is on what a group says it unpacks to, and on rows, each of which costs a few bytes at least.
_MOST_GROUP_BYTES = 1 << 32
_MOST_GROUP_ROWS = 1 << 26
_MOST_METADATA = 1 << 27
# Texts and images that repeat are stored once; written out they may be any multiple of that.
_MOST_REPEATED = 1 << 28


@contextmanager
def reading_parquet(path: str | Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; whatever fails in the block is one `DataError`.

    Args:
        columns: columns that must be there.

    Raises:
        DataError: missing, not a regular file, not Parquet, without a column, with a row group too
            large to decode; or reading inside the block fails.
    """
    with foreign(path, _WHAT, remedy=_DAMAGED):
        file = open_parquet(path, columns)
        try:
            yield file
        finally:
            file.close()


def read_cells(file: pq.ParquetFile, path: str | Path, group: int, column: str) -> pa.ChunkedArray:
    """A column of one row group, its repeated values held once where written out they are many.

    Args:
        file, path: the file, open, and where it is.
        column: a column of the top level, without lists.
    """
    import pyarrow.parquet as pq

    told = file.metadata.row_group(group)
    chunks = (told.column(c) for c in range(told.num_columns))
    chunk = next(c for c in chunks if c.path_in_schema == column)
    plain = told.num_rows * chunk.total_uncompressed_size <= _MOST_REPEATED
    if plain or chunk.physical_type != "BYTE_ARRAY" or set(chunk.encodings) <= {"PLAIN", "RLE"}:
        return file.read_row_group(group, columns=[column]).column(0)
    with pq.ParquetFile(
        path, read_dictionary=[column], page_checksum_verification=True
    ) as repeating:
        return repeating.read_row_group(group, columns=[column]).column(0)


def cell_values(column: pa.ChunkedArray) -> list[Any]:
    """The cells as Python values, equal ones of `read_cells` as one object."""
    import pyarrow as pa

    values: list[Any] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            known = chunk.dictionary.to_pylist()
            values += [None if i is None else known[i] for i in chunk.indices.to_pylist()]
        else:
            values += chunk.to_pylist()
    return values


def open_parquet(path: str | Path, columns: Sequence[str] = ()) -> pq.ParquetFile:
    """A Parquet file whose pages are checked; see `reading_parquet`."""
    import pyarrow.parquet as pq

    check_regular(path, remedy=_DAMAGED)
    with foreign(path, _WHAT, remedy=_DAMAGED):
        file = pq.ParquetFile(
            path,
            page_checksum_verification=True,
            thrift_string_size_limit=_MOST_METADATA,
            thrift_container_size_limit=_MOST_METADATA,
        )
        for group in range(file.num_row_groups):
            told = file.metadata.row_group(group)
            # Of lists there are more values than rows.
            values = [told.column(c).num_values for c in range(told.num_columns)]
            most_values = max(told.num_rows, *values, 0)
            if told.total_byte_size > _MOST_GROUP_BYTES or most_values > _MOST_GROUP_ROWS:
                file.close()
                raise DataError(
                    f"row group {group} says it holds {most_values:,} values in "
                    f"{told.total_byte_size:,} bytes, more than is read at once",
                    file=path,
                    remedy=_DAMAGED,
                )
        names = file.schema_arrow.names
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            file.close()
            raise DataError(f"has the column {twice[0]!r} twice", file=path, remedy=_DAMAGED)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            file.close()
            raise DataError(f"lacks the columns {', '.join(missing)}", file=path, remedy=_DAMAGED)
        return file
    raise AssertionError  # unreachable: the block above returns or raises
