"""Predicted scores: a TSV in the released format, or a Parquet file with a record per image.

A Parquet file has a column of file names (``filename``, ``file_name`` or ``image``) and either

- dense: a list of C scores per image (``scores``, ``probs``, ``probabilities`` or ``logits``), or
- sparse: such a column beside one of equally long lists of class ids (``ids``, ``labels`` or
  ``classes``); classes that are not listed score 0.

Class names in the file's metadata (``class_names``, a JSON list) are kept.

Shape legend: ``R`` records, ``K`` classes, ``n`` listed classes over all records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.classes import MOST_CLASSES
from relabel.errors import DataError
from relabel.evaluation.multilabel.scores import DenseScores, Scores, SparseScores
from relabel.files.json_text import parse_json
from relabel.files.opening import open_file
from relabel.files.parquet import reading_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE_COLUMNS = ("filename", "file_name", "image")
ID_COLUMNS = ("ids", "labels", "classes")
SCORE_COLUMNS = ("scores", "probs", "probabilities", "logits")
NAME_KEYS = (b"class_names", b"classes", b"relabel")
_BATCH = 4096
# Scores of a network hardly compress; constant ones take a few bytes for millions.
_MOST_EXPANSION, _ALWAYS_FINE = 100, 512 << 20


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of R images, in the file's order.

    Attributes:
        file: where they come from.
        file_names: R names.
        scores: over K classes; of sparse ones K is the largest id + 1, or the number of names.
        num_classes: K where the file says how many classes there are, else None.
        class_names: K names, or None.
    """

    file: Path
    file_names: list[str]
    scores: Scores
    num_classes: int | None
    class_names: list[str] | None = None


def read_predictions(path: str | Path) -> Predictions:
    """Read predictions; a Parquet file is known by its first bytes.

    Raises:
        DataError: missing, damaged, without a needed column; scores that are not finite; listed
            scores below 0; a class id below 0, or twice in an image; lists of different lengths.
    """
    path = Path(path).expanduser()
    with open_file(path, remedy="Give a TSV or a Parquet file of scores.") as stream:
        head = stream.read(4)
    if head == b"PAR1":
        return _parquet(path)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise DataError("is not a Parquet file", file=path, remedy="Write it again.")
    return _tsv(path)


def _tsv(path: Path) -> Predictions:
    from relabel.datasets.multilabels import read_tsv

    table = read_tsv(path)
    names = list(table.file_names)
    listed = table.labels
    scores = _sparse(path, names, listed.indptr, listed.indices, listed.data, None)
    return Predictions(path, names, scores, None)


def _parquet(path: Path) -> Predictions:
    with reading_parquet(path) as file:
        return _records(path, file)
    raise AssertionError  # unreachable: the block above returns or raises


def _records(path: Path, file: pq.ParquetFile) -> Predictions:
    known = file.schema_arrow.names
    name_column = _column(path, known, FILE_COLUMNS, "file names")
    score_column = _column(path, known, SCORE_COLUMNS, "scores")
    id_column = next((c for c in ID_COLUMNS if c in known), None)
    class_names = _class_names(path, file.schema_arrow.metadata or {})
    columns = [c for c in (name_column, score_column, id_column) if c]
    names: list[str] = []
    # One matrix from the start where every class has a score: two would not fit as easily.
    matrix: np.ndarray | None = None
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for batch in file.iter_batches(_BATCH, columns=columns):
        first = len(names)
        names += batch.column(name_column).to_pylist()
        these = names[first:]
        if any(not isinstance(name, str) or not name for name in these):
            raise DataError(f"column {name_column!r} has an entry that is no text", file=path)
        values, counts = _lists(path, score_column, batch.column(score_column), these)
        if not np.issubdtype(values.dtype, np.floating):
            if not np.issubdtype(values.dtype, np.integer):
                raise DataError(f"column {score_column!r} does not hold numbers", file=path)
            values = values.astype(np.float64)
        if id_column is not None:
            ids, id_counts = _lists(path, id_column, batch.column(id_column), these)
            _check_pairs(path, id_column, these, ids, id_counts, counts)
            parts.append((counts, ids, values))
        elif len(these):
            if matrix is None:
                matrix = _matrix(path, file.metadata.num_rows, int(counts[0]), values.dtype)
            odd = np.flatnonzero(counts != matrix.shape[1])
            if len(odd):
                raise DataError(
                    f"has {counts[odd[0]]} scores, the first image {matrix.shape[1]}",
                    file=path,
                    record=f"image {these[int(odd[0])]!r}",
                    remedy="Give every image a score for every class, or a column of class ids.",
                )
            matrix[first : first + len(these)] = values.reshape(len(these), -1)
    if id_column is None:
        return _dense(path, names, np.zeros((0, 1)) if matrix is None else matrix, class_names)
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    counts, ids, values = (np.concatenate(c) for c in zip(*(parts or [nothing]), strict=True))
    offsets = np.append(0, np.cumsum(counts))
    scores = _sparse(path, names, offsets, ids, values, class_names)
    count = None if class_names is None else len(class_names)
    return Predictions(path, names, scores, count, class_names)


def _matrix(path: Path, rows: int, classes: int, dtype: np.dtype) -> np.ndarray:
    """Room for the scores, as many as the size of the file makes likely."""
    if classes > MOST_CLASSES:
        raise DataError(
            f"has scores for {classes} classes; at most {MOST_CLASSES} are read",
            file=path,
            remedy="Give listed classes and their scores instead.",
        )
    size = rows * classes * dtype.itemsize
    if size > max(_ALWAYS_FINE, _MOST_EXPANSION * path.stat().st_size):
        raise DataError(
            f"has {rows:,} times {classes:,} scores, {size:,} bytes out of "
            f"{path.stat().st_size:,} on disk",
            file=path,
            remedy="Scores that are so alike are no predictions; or list the classes above 0.",
        )
    return np.empty((rows, classes), dtype=dtype)


def _check_pairs(
    path: Path,
    column: str,
    names: list[str],
    ids: np.ndarray,
    id_counts: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Whether every listed class has a number and a score."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(
            f"column {column!r} does not hold whole numbers",
            file=path,
            remedy="Class ids are 0-based positions.",
        )
    unequal = np.flatnonzero(counts != id_counts)
    if len(unequal):
        row = int(unequal[0])
        raise DataError(
            f"{id_counts[row]} classes and {counts[row]} scores",
            file=path,
            record=f"image {names[row]!r}",
            remedy="Give a score for every class.",
        )


def _dense(
    path: Path, names: list[str], matrix: np.ndarray, class_names: list[str] | None
) -> Predictions:
    if not matrix.shape[1]:
        raise DataError("the lists of scores are empty", file=path)
    for first in range(0, len(matrix), _BATCH):
        bad = np.argwhere(~np.isfinite(matrix[first : first + _BATCH]))
        if len(bad):
            row, label = (int(v) for v in bad[0])
            raise _not_finite(path, names[first + row], label, matrix[first + row, label])
    if class_names is not None and len(class_names) != matrix.shape[1]:
        raise DataError(
            f"has {len(class_names)} class names and {matrix.shape[1]} scores per image", file=path
        )
    return Predictions(path, names, DenseScores(matrix), matrix.shape[1], class_names)


def _sparse(
    path: Path,
    names: Sequence[str],
    offsets: np.ndarray,
    ids: np.ndarray,
    probs: np.ndarray,
    class_names: list[str] | None,
) -> SparseScores:
    if len(ids) and ids.max() > np.iinfo(np.int64).max:  # unsigned, and would wrap
        ids = np.minimum(ids, np.iinfo(np.int64).max)
    ids = ids.astype(np.int64)

    def image(at: int) -> str:
        return names[int(np.searchsorted(offsets, at, side="right")) - 1]

    if len(bad := np.flatnonzero(~np.isfinite(probs))):
        at = int(bad[0])
        raise _not_finite(path, image(at), int(ids[at]), probs[at])
    if len(bad := np.flatnonzero(probs < 0)):
        raise DataError(
            f"the score {probs[bad[0]]:g} of class {ids[bad[0]]} is below 0",
            file=path,
            record=f"image {image(int(bad[0]))!r}",
            remedy="Classes that are not listed score 0; give probabilities, or every class.",
        )
    known = None if class_names is None else len(class_names)
    wrong = (ids < 0) | (ids >= (known or MOST_CLASSES))
    if len(bad := np.flatnonzero(wrong)):
        raise DataError(
            f"class id {ids[bad[0]]} is out of range",
            file=path,
            record=f"image {image(int(bad[0]))!r}",
            remedy=f"Class ids are whole numbers from 0 to {(known or MOST_CLASSES) - 1}.",
        )
    rows = np.repeat(np.arange(len(names)), np.diff(offsets))
    order = np.lexsort((ids, rows))
    twice = (np.diff(rows[order]) == 0) & (np.diff(ids[order]) == 0)
    if twice.any():
        at = int(order[int(np.flatnonzero(twice)[0])])
        raise DataError(
            f"class id {ids[at]} is listed twice", file=path, record=f"image {image(at)!r}"
        )
    shape = (len(names), known or int(ids.max(initial=0)) + 1)
    return SparseScores(csr_array((probs, ids, offsets), shape=shape))


def _lists(
    path: Path, column: str, array: pa.Array, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Values and lengths of a column of lists."""
    import pyarrow as pa

    kind = array.type
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_one(kind) for is_one in lists):
        raise DataError(f"column {column!r} holds {kind}, not lists", file=path)
    flat = array.flatten()
    if array.null_count or flat.null_count:
        row = next(i for i, v in enumerate(array.to_pylist()) if v is None or None in v)
        raise DataError(
            f"column {column!r} has a missing value",
            file=path,
            record=f"image {names[row]!r}",
            remedy="Fill it in or leave the image out.",
        )
    counts = array.value_lengths().to_numpy(zero_copy_only=False)
    return flat.to_numpy(zero_copy_only=False), counts


def _column(path: Path, known: list[str], wanted: tuple[str, ...], what: str) -> str:
    found = next((name for name in wanted if name in known), None)
    if found is None:
        raise DataError(
            f"has no column of {what}, only {', '.join(known)}",
            file=path,
            remedy=f"Call it {', '.join(wanted[:-1])} or {wanted[-1]}.",
        )
    return found


def _class_names(path: Path, metadata: dict[bytes, bytes]) -> list[str] | None:
    for key in NAME_KEYS:
        record = f"metadata {key.decode()!r}"
        value = parse_json(metadata.get(key) or b"null", path, record=record)
        if isinstance(value, dict):
            value = value.get("class_names")
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return value or None
    return None


def _not_finite(path: Path, name: str, label: int, value: Any) -> DataError:
    return DataError(
        f"the score of class {label} is {value}",
        file=path,
        record=f"image {name!r}",
        remedy="Scores must be finite numbers.",
    )
