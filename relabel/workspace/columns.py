"""Shards of columns in Parquet files: what stages find on images, for those that come after.

A shard has one row per image; what there is per box, region or label is a list in that row, kept in
memory as offsets and one flat array. The schema's metadata key ``relabel`` holds a JSON object with
the kind of the shard, what produced it (``run``) and a digest of each column: together with the
pages' checksums no change of a file goes unnoticed. Equal shards give equal bytes.

Shape legend: ``B`` rows, ``n`` values of all lists, ``w`` values of a wide column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from relabel.errors import DataError
from relabel.workspace.atomic import atomic_path
from relabel.workspace.mirror import ensure
from relabel.workspace.stage import Shards

AGAIN = "Remove it and run the same command again; what is finished elsewhere is kept."
ELSEWHERE = "Check the path; where it is right, run the command that writes them again."
_KEY, _SEAL = b"relabel", b"relabel.seal"


@dataclass(frozen=True)
class Column:
    """How a column is stored; see `column`.

    Attributes:
        dtype: a NumPy number type, ``floating`` (float16, float32 or float64, as it comes),
            or ``string`` (a list of texts).
        lists: name of the offsets, int64 [B + 1], of a column with a list per row; "" for one
            value per row.
        wide: each value is a row of w numbers, the same w throughout.
        optional: may be None.
    """

    dtype: str
    lists: str = ""
    wide: bool = False
    optional: bool = False


def column(dtype: str, lists: str = "", *, wide: bool = False, optional: bool = False) -> Any:
    """A field of a kind of shards that is a `Column`."""
    how = {"column": Column(dtype, lists, wide, optional)}
    return field(default=None, metadata=how) if optional else field(metadata=how)


@dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
    """The base of all kinds of shards, which add columns, and fields for the offsets of lists.

    Attributes:
        run: JSON-ready facts that all shards of one run share, such as its settings.
        row: int32 [B], rows of the images in their dataset or folder, ascending.
    """

    run: Mapping[str, Any]
    row: np.ndarray = column("int32")

    KIND: ClassVar[str]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """The columns by name."""
        return {f.name: f.metadata["column"] for f in fields(cls) if "column" in f.metadata}


S = TypeVar("S", bound=Shard)


def image_column(shard: Any) -> np.ndarray:
    """int32 [n], for each value of the lists under ``offsets`` the row of its image."""
    return np.repeat(shard.row, np.diff(shard.offsets))


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, complete or not at all; equal shards give equal bytes.

    Raises:
        ValueError: lengths or offsets do not fit one another, or rows do not ascend.
        RelabelError: the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    present = {n: c for n, c in shard.columns().items() if getattr(shard, n) is not None}
    for name, column in shard.columns().items():
        if name not in present and not column.optional:
            raise ValueError(f"column {name} is missing")
    offsets = {column.lists for column in present.values() if column.lists}
    values = {name: getattr(shard, name) for name in (*present, *offsets)}
    _check(present, values)
    arrays, digests, widths = {}, {}, {}
    for name, column in present.items():
        if column.wide:
            widths[name] = int(values[name].shape[1])
        array = _to_arrow(column, values[name])
        if column.lists:
            starts = pa.array(np.asarray(values[column.lists], np.int32))
            array = pa.ListArray.from_arrays(starts, array)
        arrays[name] = array
        digests[name] = _digest(name, column, values)
    about = {"kind": shard.KIND, "run": as_json(shard.run), "widths": widths, "sha": digests}
    text = json.dumps(about, ensure_ascii=False).encode()
    seal = hashlib.sha256(text).hexdigest().encode()
    table = pa.table(arrays).replace_schema_metadata({_KEY: text, _SEAL: seal})
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            use_dictionary=False,
            row_group_size=max(1, len(table)),
            write_page_checksum=True,
        )


def read_shard(path: Path, kind: type[S], leave_out: Sequence[str] = ()) -> S:
    """Read what `write_shard` wrote; optional columns that it lacks or are left out are None.

    Raises:
        DataError: missing, truncated, damaged, or another kind of file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = kind.columns()
    ensure(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            text = metadata[_KEY]
            if hashlib.sha256(text).hexdigest().encode() != metadata[_SEAL]:
                raise ValueError("its description was changed")
            about = json.loads(text)
            if about["kind"] != kind.KIND:
                raise ValueError(f"it holds {about['kind']}")
            wanted = [n for n in columns if n in about["sha"] and n not in leave_out]
            table = file.read(columns=wanted)
        values: dict[str, Any] = dict.fromkeys(columns)
        for name in wanted:
            values |= _from_arrow(name, columns[name], table.column(name), about["widths"])
        present = {name: columns[name] for name in wanted}
        _check(present, values)
        for name, column in present.items():
            if _digest(name, column, values) != about["sha"][name]:
                raise ValueError(f"column {name} was changed")
        return kind(run=about["run"], **values)
    except FileNotFoundError as error:
        raise DataError("shard is missing", file=path, remedy=AGAIN) from error
    except (
        pa.ArrowException,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        MemoryError,  # a damaged length
    ) as error:
        raise DataError(
            f"not a readable shard of {kind.KIND}: {error or type(error).__name__}",
            file=path,
            remedy=AGAIN,
        ) from error


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a finished stage, in order.

    Raises:
        DataError: there are none, some are missing, or shards of two runs are mixed.
    """
    found = {p.name for p in folder.glob("shard-*-of-*.parquet")} if folder.is_dir() else set()
    counts = {name.rpartition("-of-")[2].removesuffix(".parquet").lstrip("0") for name in found}
    if not found:
        raise DataError("holds no shards", file=folder, remedy=ELSEWHERE)
    if len(counts) != 1 or not (total := counts.pop()).isdecimal():
        sizes = " and ".join(f"of {n}" for n in sorted(counts))
        raise DataError(
            f"holds shards of runs of different sizes, {sizes} shards", file=folder, remedy=AGAIN
        )
    paths = Shards(folder, total=int(total), size=1).paths
    missing = [path.name for path in paths if path.name not in found]
    if missing:
        raise DataError(
            f"lacks {len(missing)} of {len(paths)} shards, such as {missing[0]}",
            file=folder,
            remedy="Run the same command again: it goes on where it stopped.",
        )
    return paths


def iterate(paths: Iterable[Path], read: Callable[[Path], S]) -> Iterator[S]:
    """Shards one after the other, one in memory at a time.

    >>> read = partial(read_shard, kind=LabelShard)  # doctest: +SKIP
    >>> for shard in iterate(shard_paths(out / "4_labels"), read):  # doctest: +SKIP
    ...     print(len(shard))

    Raises:
        DataError: as the reader, or a shard is of another run than the first, or the rows of the
            images do not ascend.
    """
    run: Mapping[str, Any] | None = None
    last = -1
    for path in paths:
        shard = read(path)
        if run is not None and shard.run != run:
            raise DataError("belongs to another run than the first shard", file=path, remedy=AGAIN)
        if len(shard.row) and int(shard.row[0]) <= last:
            raise DataError("holds images of an earlier shard", file=path, remedy=AGAIN)
        run = shard.run
        last = int(shard.row[-1]) if len(shard.row) else last
        yield shard


def join(shards: Sequence[S]) -> S:
    """Shards of one run as one, over the images of all.

    An optional column is None if it is in any shard; those without a value do not tell.
    """
    values: dict[str, Any] = {}
    for name, column in shards[0].columns().items():
        parts = [getattr(shard, name) for shard in shards]
        if column.lists:
            sizes = [int(getattr(shard, column.lists)[-1]) for shard in shards]
            values[column.lists] = _joined_offsets([getattr(s, column.lists) for s in shards])
        else:
            sizes = [len(shard) for shard in shards]
        parts = [part for part, size in zip(parts, sizes, strict=True) if size] or parts[:1]
        if any(part is None for part in parts):
            values[name] = None
        elif column.dtype == "string":
            values[name] = [text for part in parts for text in part]
        else:
            values[name] = np.concatenate(parts)
    return replace(shards[0], **values)


def _joined_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum(np.concatenate([[0], *(np.diff(part) for part in parts)]), dtype=np.int64)


def as_json(run: Mapping[str, Any]) -> dict[str, Any]:
    """``run`` as it is after reading, for comparison: tuples, for example, are lists."""
    return json.loads(json.dumps(run))


def _to_arrow(column: Column, value: Any) -> Any:
    import pyarrow as pa

    if column.dtype == "string":
        return pa.array(list(value), pa.string())
    flat = pa.array(np.ascontiguousarray(value, _dtype(column, value)).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, value.shape[1]) if column.wide else flat


def _from_arrow(
    name: str, column: Column, chunked: Any, widths: Mapping[str, int]
) -> dict[str, Any]:
    """The column's values, and its offsets if it has lists."""
    found: dict[str, Any] = {}
    array = chunked.combine_chunks()
    if array.null_count:
        raise ValueError(f"column {name} has missing values")
    if column.lists:
        offsets = array.offsets.to_numpy().astype(np.int64)
        found[column.lists] = offsets - offsets[0]
        array = array.flatten()
    if column.dtype == "string":
        found[name] = array.to_pylist()
    else:
        rows = len(array)
        if column.wide:
            array = array.flatten()
        if array.null_count:
            raise ValueError(f"column {name} has missing values")
        # A copy: what Arrow hands out cannot be written to, and would keep the whole file alive.
        flat = array.to_numpy(zero_copy_only=False)
        flat = flat.astype(_dtype(column, flat))
        found[name] = flat.reshape(rows, widths[name]) if column.wide else flat
    return found


def _dtype(column: Column, value: np.ndarray) -> Any:
    return value.dtype if column.dtype == "floating" else column.dtype


def _check(columns: Mapping[str, Column], values: Mapping[str, Any]) -> None:
    """Raise ValueError where columns and offsets do not fit one another."""
    rows = values["row"]
    if bool(np.any(np.diff(rows) <= 0)):
        raise ValueError("rows do not ascend")
    for name, column in columns.items():
        value, expected = values[name], len(rows)
        if column.lists:
            offsets = values[column.lists]
            if len(offsets) != len(rows) + 1 or offsets[0] or bool(np.any(np.diff(offsets) < 0)):
                raise ValueError(f"{column.lists} are not offsets of {len(rows)} rows")
            expected = int(offsets[-1])
        if len(value) != expected:
            raise ValueError(f"column {name} has {len(value)} values, not {expected}")
        if column.wide and (value.ndim != 2 or value.shape[1] < 1):
            raise ValueError(f"column {name} has shape {value.shape}, not ({expected}, 1 or more)")


def _digest(name: str, column: Column, values: Mapping[str, Any]) -> str:
    """The beginning of the SHA-256 (hex) of a column's values and offsets."""
    value = values[name]
    total = hashlib.sha256()
    if column.lists:
        total.update(np.ascontiguousarray(values[column.lists], "<i8").tobytes())
    if column.dtype == "string":
        total.update(json.dumps(list(value)).encode())
    else:
        total.update(np.ascontiguousarray(value, _dtype(column, value)).tobytes())
    return total.hexdigest()[:32]
