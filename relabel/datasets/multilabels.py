"""Multi-labels as text, one image per line, in the format the multi-label paper's authors release.

A line is ``file name<TAB>gt<TAB>id,id,...<TAB>p,p,...``: the image's own class (empty or -1 where
it has none), class indices from 0, and their probabilities with four decimals in the same order.
An image without labels has empty third and fourth columns.

Shape legend: ``N`` images, ``L`` labels of all images, ``C`` classes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.classes import MOST_CLASSES
from relabel.errors import DataError
from relabel.files.opening import text_lines
from relabel.workspace.atomic import atomic_path

_FORMAT = "A line is `file name<TAB>gt<TAB>id,id,...<TAB>p,p,...`."
_MOST_DIGITS = 20
_HEADERS = frozenset(("filename", "file_name", "file", "image", "name"))


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels of N images.

    Attributes:
        file_names: N names.
        gt: int32 [N], the image's own class, -1 where it has none.
        labels: float32 csr_array [N, C], probabilities; those of an image in any order, and one of
            0 is listed all the same.
    """

    file_names: list[str]
    gt: np.ndarray
    labels: csr_array

    def __len__(self) -> int:
        return len(self.file_names)


def label_matrix(
    rows: np.ndarray, ids: np.ndarray, shape: tuple[int, int], values: np.ndarray | None = None
) -> csr_array:
    """A sparse matrix [N, C] from (image, class) pairs in any order.

    Args:
        rows, ids: int [L], image and class of each pair.
        shape: N and C.
        values: [L], no pair twice; None marks classes as True, however often they are given.
    """
    data = np.ones(len(rows), bool) if values is None else values
    return csr_array((data, (rows, ids)), shape=shape)


def box_labels(
    rows: np.ndarray, ids: np.ndarray, doubtful: np.ndarray, shape: tuple[int, int]
) -> tuple[csr_array, csr_array]:
    """Which classes the images of a detection set show.

    Args:
        rows, ids, doubtful: [n], image and class of each box, and whether it is to be ignored.
        shape: N and C; boxes of classes from C on do not count.

    Returns:
        Two bool [N, C]: the classes with a box, and those with doubtful boxes only.
    """
    sure, unsure = ((ids < shape[1]) & (doubtful == value) for value in (False, True))
    present = label_matrix(rows[sure], ids[sure], shape)
    return present, csr_array(label_matrix(rows[unsure], ids[unsure], shape) > present)


def greatest(values: np.ndarray, most: int, least: float) -> csr_array:
    """The greatest entries of each row, greatest first, equal ones by column.

    Args:
        values: float [N, C].
        most: entries kept per row; 0 keeps all.
        least: least value that is kept.

    Returns:
        float32 [N, C].
    """
    order = np.argsort(-values, axis=1, kind="stable")[:, : most or None]
    ranked = np.take_along_axis(values, order, axis=1)
    keep = ranked >= least
    offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    return csr_array((ranked[keep].astype(np.float32), order[keep], offsets), shape=values.shape)


def label_rows(labels: csr_array) -> np.ndarray:
    """int64 [L], the image of each entry of a matrix [N, C]; zeros that are listed count."""
    return np.repeat(np.arange(len(labels.indptr) - 1), np.diff(labels.indptr))


def label_shape(labels: csr_array) -> tuple[int, int]:
    """N and C of a matrix; SciPy's own property has no type."""
    shape: Any = labels.shape
    return shape


class TsvWriter:
    """Writes lines; made by `tsv_writer`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, file_names: Sequence[str], gt: np.ndarray, labels: csr_array) -> None:
        """Append images; arguments as the attributes of `LabelTable`.

        Raises:
            DataError: a file name has a tab or a line break.
            ValueError: a probability is not in [0, 1], a class is too great, or lengths do not fit.
        """
        if not bool(np.all((labels.data >= 0) & (labels.data <= 1))):  # also false for NaN
            raise ValueError("a probability is not in [0, 1]")
        greatest = max(int(labels.indices.max(initial=-1)), int(np.max(gt, initial=-1)))
        if greatest >= MOST_CLASSES:  # which is not read again
            raise ValueError(f"class {greatest} is outside 0..{MOST_CLASSES - 1}")
        if len(labels.indptr) != len(file_names) + 1:
            raise ValueError(f"{len(file_names)} names, {len(labels.indptr) - 1} rows")
        id_text = list(map(str, labels.indices.tolist()))
        prob_text = ["%.4f" % p for p in labels.data.tolist()]  # noqa: UP031 (twice as fast as format)
        at, own = list(labels.indptr), np.asarray(gt).tolist()
        for i, name in enumerate(file_names):
            if not name or any(mark in name for mark in "\t\n\r"):
                raise DataError(
                    f"the file name {name!r} is empty or has a tab or a line break",
                    remedy="Rename the file.",
                )
            start, end = at[i], at[i + 1]
            label = own[i] if own[i] >= 0 else ""
            self._stream.write(
                f"{name}\t{label}\t{','.join(id_text[start:end])}\t"
                f"{','.join(prob_text[start:end])}\n"
            )


@contextmanager
def tsv_writer(path: str | Path) -> Iterator[TsvWriter]:
    """A writer whose file is there, complete, once the block ends without an error.

    >>> with tsv_writer(out / "labels.tsv") as file:  # doctest: +SKIP
    ...     for shard in shards:
    ...         file.write(shard.file_name, shard.gt, labels_of(shard))

    Raises:
        RelabelError: the disk is full.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        yield TsvWriter(stream)


def read_tsv(path: str | Path, num_classes: int | None = None) -> LabelTable:
    """Read multi-labels; a first line that begins with ``filename`` is taken for a header.

    Args:
        path: the file.
        num_classes: C, if class indices are to be checked; else the largest one decides.

    Raises:
        DataError: missing, not text, or a line that is not in the format; it is named.
    """
    path = Path(path)
    with text_lines(path, remedy=_FORMAT) as lines:
        return _parse(path, lines, num_classes)


def _parse(path: Path, lines: Iterable[str], num_classes: int | None) -> LabelTable:
    names: list[str] = []
    gt, ids, probs, offsets = array("i"), array("i"), array("f"), array("q", [0])
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if fields == [""] or (number == 1 and fields[0].lower() in _HEADERS):
            continue
        try:
            own, these, values = _fields(fields, num_classes)
            ids.extend(these)
            probs.extend(values)
            gt.append(own)
        except (ValueError, OverflowError) as error:
            raise DataError(
                str(error), file=path, record=f"line {number}", remedy=_FORMAT
            ) from error
        names.append(fields[0])
        offsets.append(len(ids))
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        raise DataError(f"{twice!r} is listed twice", file=path, remedy="Keep one line per image.")
    columns = (np.array(probs, np.float32), np.array(ids, np.int32), np.array(offsets, np.int64))
    shape = (len(names), num_classes or int(columns[1].max(initial=-1)) + 1)
    return LabelTable(names, np.array(gt, np.int32), csr_array(columns, shape=shape))


def _fields(fields: list[str], num_classes: int | None) -> tuple[int, list[int], list[float]]:
    """(gt, ids, probabilities) of one line; ValueError says what is wrong with it."""
    if len(fields) != 4 and not (len(fields) == 2 or fields[2:] == [""]):
        raise ValueError(f"has {len(fields)} columns, not 4")
    name, own_text, id_text, prob_text = (*fields, "", "")[:4]
    if not name:
        raise ValueError("has no file name")
    own = _whole(own_text) if own_text else -1
    ids = [_whole(text) for text in id_text.split(",")] if id_text else []
    probs = [_fraction(text) for text in prob_text.split(",")] if prob_text else []
    if len(ids) != len(probs):
        raise ValueError(f"has {len(ids)} classes, but {len(probs)} probabilities")
    if len(set(ids)) < len(ids):
        raise ValueError(f"class {next(i for i in ids if ids.count(i) > 1)} is listed twice")
    if own < -1 or min(ids, default=0) < 0:
        raise ValueError(f"class {min([own, *ids])} is negative")
    greatest = max([own, *ids])
    if greatest >= (num_classes or MOST_CLASSES):
        raise ValueError(f"class {greatest} is outside 0..{(num_classes or MOST_CLASSES) - 1}")
    return own, ids, probs


def _whole(text: str) -> int:
    try:
        if len(text) <= _MOST_DIGITS:
            return int(text)
    except ValueError:
        pass
    raise ValueError(f"{text[:40]!r} is not a class index")


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise ValueError(f"{text[:40]!r} is not a probability in [0, 1]")
    return value
