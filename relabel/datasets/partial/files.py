"""Label files: CSV, JSON and Parquet in both directions, and the released TSV.

A TSV lists classes with probabilities and can say neither "absent" nor "unknown": a class of 0.5 or
more is present, as is the image's own one, one below is unknown, any other is absent; of an image
without any label nothing is known.

Shape legend: ``N`` images, ``n`` of a block, ``C`` classes.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_matrix, label_rows, label_shape, read_tsv
from relabel.datasets.partial.as_csv import csv_writer, read_csv
from relabel.datasets.partial.as_json import json_writer, read_json_labels
from relabel.datasets.partial.as_parquet import parquet_writer, read_parquet
from relabel.datasets.partial.building import numbered_classes
from relabel.datasets.partial.labels import (
    PartialLabels,
    check_once,
    kept_entries,
    known_matrix,
    row_blocks,
)
from relabel.datasets.pixels.placing import doubtful_names, file_name_fault
from relabel.errors import ConfigError, DataError
from relabel.files.opening import open_file

SUFFIXES = (".parquet", ".csv", ".json", ".tsv")
SURE = 0.5
"""Probability in a TSV from which a class is present."""
_SAME = re.compile(r"(^|/)\./|//")
_REMEDY = f"Label files end in {', '.join(SUFFIXES)}."


class PartialWriter(Protocol):
    """Writes images, made by `partial_writer`."""

    def write(
        self,
        file_names: Sequence[str],
        known: csr_array,
        scores: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> None:
        """Append images, best a thousand or more at a time.

        Args:
            file_names: n names.
            known: int8 [n, C], as `PartialLabels` has it.
            scores, source: float [n, C] and uint8 [n, C], of completed labels: in every block or
                in none. CSV leaves them out.
        """
        ...


@contextmanager
def partial_writer(
    path: str | Path, classes: Sequence[str], *, sources: Sequence[str] | None = None
) -> Iterator[PartialWriter]:
    """A writer whose file is there, complete, once the block ends without an error.

    Args:
        path: its suffix says which format it is: .csv, .json or .parquet.
        classes: C names.
        sources: of completed labels, what the numbers of ``source`` stand for.

    Raises:
        ConfigError: another suffix.
        DataError: a class or a file name that the file could not hold.
        RelabelError: the disk is full.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES[:3]:
        raise ConfigError(
            "cannot hold what is known absent and what is unknown",
            file=path,
            remedy=f"Choose {', '.join(SUFFIXES[:2])} or {SUFFIXES[2]}.",
        )
    check_once(classes, "class", path)
    for name in classes:
        check_text(name, "class", path, stripped=kind == ".csv")
    if kind == ".csv":
        opened = csv_writer(path, classes)
    elif kind == ".json":
        opened = json_writer(path, classes, sources)
    else:
        opened = parquet_writer(path, classes, sources)
    with opened as writer:
        yield _Checked(writer, path)


class _Checked:
    """Refuses what would not be read again."""

    def __init__(self, writer: PartialWriter, path: Path) -> None:
        self._writer, self._path = writer, path

    def write(
        self,
        file_names: Sequence[str],
        known: csr_array,
        scores: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> None:
        """As of `PartialWriter`."""
        for name in file_names:
            if not name.isprintable() or not name:
                check_text(name, "file name", self._path)
        self._writer.write(file_names, known, scores, source)


def write_partial(labels: PartialLabels, path: str | Path) -> None:
    """Write labels as a file; see `partial_writer`."""
    with partial_writer(path, labels.classes) as writer:
        for rows in row_blocks(len(labels), labels.num_classes):
            writer.write(labels.file_names[rows], labels.known[rows])


def read_partial(
    path: str | Path,
    *,
    name: str | None = None,
    root: Path | None = None,
    classes: Sequence[str] | None = None,
) -> PartialLabels:
    """Read a label file; its suffix or its first bytes say which format it is.

    Args:
        path: CSV, JSON, Parquet or TSV.
        name: default the file's.
        root: the folder that file names are relative to; None for labels without pictures.
        classes: names for the classes of a file that knows them by number.

    Raises:
        DataError: missing or damaged; a class or an image that is there twice; file names that
            lead out of the root.
        ConfigError: ``classes`` for a file that names its own.
    """
    path = Path(path).expanduser()
    kind = _kind(path)
    if kind == ".csv":
        names, own, known = read_csv(path)
    elif kind == ".parquet":
        names, own, known = read_parquet(path)
    elif kind == ".json":
        names, own, known = read_json_labels(path)
    else:
        names, own, known = _read_tsv(path, None if classes is None else len(classes))
    if classes is not None:
        own, known = _named(own, known, classes, path)
    # "./a.jpg" is "a.jpg", and one image must not be there as both.
    names = [posixpath.normpath(name) if _SAME.search(name) else name for name in names]
    check_once(names, "image", path)
    check_names(names, path)
    return PartialLabels(name or path.stem, root, names, own, known)


def is_label_file(path: Path) -> bool:
    """Whether a file may be one of labels, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def check_names(names: Sequence[str], file: Path) -> None:
    """Refuse file names that lead out of the folder they are relative to.

    Raises:
        DataError: one does.
    """
    if not doubtful_names(names):
        return
    for name in names:
        fault = file_name_fault(name)
        if fault is not None:
            raise DataError(
                f"file name {name[:200]!r} {fault}",
                file=file,
                remedy="Use paths relative to the image folder.",
            )


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind in SUFFIXES:
        return kind
    with open_file(path, remedy=_REMEDY) as stream:
        head = stream.read(4096)
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.lstrip().startswith(b"{"):
        return ".json"
    line = head.partition(b"\n")[0]
    if b"\t" in line or b"," in line:
        return ".tsv" if b"\t" in line else ".csv"
    raise DataError("is no label file", file=path, remedy=_REMEDY)


def _read_tsv(path: Path, classes: int | None) -> tuple[list[str], tuple[str, ...], csr_array]:
    table = read_tsv(path, classes)
    own = np.flatnonzero(table.gt >= 0)
    count = max(label_shape(table.labels)[1], int(table.gt.max(initial=-1)) + 1)
    shape, rows = (len(table), count), label_rows(table.labels)
    sure = table.labels.data >= np.float32(SURE)
    present = label_matrix(
        np.concatenate([rows[sure], own]),
        np.concatenate([table.labels.indices[sure], table.gt[own]]),
        shape,
    )
    unknown = label_matrix(rows[~sure], table.labels.indices[~sure], shape)
    silent = (np.diff(table.labels.indptr) == 0) & (table.gt < 0)
    known = known_matrix(present, unknown, file=path)
    known = kept_entries(known, ~silent[label_rows(known)])
    return table.file_names, numbered_classes(count), known


def _named(
    own: tuple[str, ...], known: csr_array, classes: Sequence[str], path: Path
) -> tuple[tuple[str, ...], csr_array]:
    """The given names in place of numbers."""
    if own == tuple(classes):
        return own, known
    if own != numbered_classes(len(own)):
        raise ConfigError(
            f"names its own classes, such as {own[0]!r}",
            file=path,
            remedy="Leave `space` out.",
        )
    if len(classes) < len(own):
        raise DataError(
            f"has {len(own)} classes, and {len(classes)} names were given for them",
            file=path,
            remedy="Name all of them.",
        )
    parts = (known.data, known.indices, known.indptr)
    return tuple(classes), csr_array(parts, shape=(len(known.indptr) - 1, len(classes)))


def check_text(text: str, what: str, path: Path, *, stripped: bool = False) -> None:
    """Refuse a name that a label file could not hold.

    Args:
        path: for messages.
        stripped: whether blanks around it are lost, as around CSV's classes.

    Raises:
        DataError: it is empty, holds a line break or a NUL byte, or is no Unicode text.
    """
    fault = "is empty" if not text else None
    if any(mark in text for mark in "\n\r\0"):
        fault = "holds a line break or a NUL byte"
    elif stripped and text != text.strip():
        fault = "begins or ends with a blank"
    try:
        text.encode()
    except UnicodeEncodeError:
        fault = "is no Unicode text"
    if fault is not None:
        raise DataError(f"the {what} {text[:200]!r} {fault}", file=path, remedy="Rename it.")
