"""Partial labels as CSV: a header, then a line per image with -1, 0 or 1 for each class.

The first column is the file name, whatever it is called; every other one is a class, called as its
column. ``1`` is known present, ``-1`` known absent, ``0`` or nothing unknown; ``1.0``, as pandas
writes it, is ``1``. Columns of scores have no place: CSV holds labels alone.

Shape legend: ``n`` images of a block, ``C`` classes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.partial.building import check_class_count
from relabel.datasets.partial.labels import check_once, sparse_known, stacked
from relabel.errors import DataError
from relabel.files.opening import check_regular, foreign, open_file
from relabel.workspace.atomic import atomic_path

_FORMAT = "A line is `file name,-1,0,1,...`, below a header with the classes' names."
_FILE_NAME = "file_name"
_VALUES = frozenset(("", "-1", "0", "1", "+1", "-1.0", "0.0", "1.0"))
_BLOCK_BYTES = 16 << 20
_MOST_HEADER = 64 << 20
_PLACE = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error.*?: (.*)", re.S)
_LINE = re.compile(r"CSV parse error: (?:Row #(\d+): )?(.*)", re.S)


class CsvWriter:
    """Writes lines; made by `csv_writer`."""

    def __init__(self, writer: Any, classes: int) -> None:
        self._writer, self._classes = writer, classes

    def write(
        self,
        file_names: Sequence[str],
        known: csr_array,
        scores: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> None:
        """Append images; arguments as of `relabel.datasets.partial.files.PartialWriter`."""
        import pyarrow as pa

        columns = np.ascontiguousarray(known.toarray().T)
        arrays = [pa.array(file_names, pa.string()), *map(pa.array, columns)]
        self._writer.write_batch(pa.record_batch(arrays, schema=_schema(self._classes)))


@contextmanager
def csv_writer(path: Path, classes: Sequence[str]) -> Iterator[CsvWriter]:
    """A writer whose file is there, complete, once the block ends without an error."""
    from pyarrow import csv as arrow_csv

    options = arrow_csv.WriteOptions(include_header=False, quoting_style="needed")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([_FILE_NAME, *classes])
        stream.write(header.getvalue().encode())
        with arrow_csv.CSVWriter(stream, _schema(len(classes)), write_options=options) as writer:
            yield CsvWriter(writer, len(classes))


def read_csv(path: Path) -> tuple[list[str], tuple[str, ...], csr_array]:
    """File names, classes, and what is known.

    Raises:
        DataError: missing, not text, no header, a class twice, a line with too few values or with
            another value; it is named.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    check_regular(path, remedy=_FORMAT)
    header, length = _header(path)
    classes = tuple(name.strip() for name in header[1:])
    _check_header(path, header, classes)
    names: list[str] = []
    parts: list[csr_array] = []
    columns = ["name", *map(str, range(len(classes)))]
    kinds: dict[str, Any] = {column: pa.float32() for column in columns}
    kinds["name"] = pa.string()
    with foreign(path, "a CSV of labels", remedy=_FORMAT), open_file(path) as stream:
        stream.seek(length)
        try:
            # One thread, or it does not say which line is damaged.
            reader = arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,
                    column_names=columns,
                    block_size=max(_BLOCK_BYTES, 8 * len(classes)),
                ),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(column_types=kinds, null_values=[""]),
            )
            for batch in reader:
                parts.append(_block(path, batch, classes, len(names)))
                names += batch.column(0).to_pylist()
        except pa.ArrowInvalid as error:
            if "Empty CSV file" not in str(error):
                raise _told(path, str(error), classes) from error
    return names, classes, stacked(parts, len(classes))


def _header(path: Path) -> tuple[list[str], int]:
    """The cells of the header, and its length in bytes; a quoted name may go over lines."""
    with open_file(path, remedy=_FORMAT) as stream:
        lines = [stream.readline(_MOST_HEADER)]
        read, open_quote = len(lines[0]), lines[0].count(b'"') % 2
        while open_quote and (more := stream.readline(_MOST_HEADER - read)):
            lines.append(more)
            read, open_quote = read + len(more), (open_quote + more.count(b'"')) % 2
    line = b"".join(lines)
    try:
        text = line.decode("utf-8-sig")
        cells = next(csv.reader(io.StringIO(text.rstrip("\r\n"), newline="")), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "is not UTF-8 text with a header", file=path, record="line 1", remedy=_FORMAT
        ) from error
    return cells, len(line)


def _check_header(path: Path, header: list[str], classes: tuple[str, ...]) -> None:
    what = None
    if len(header) < 2:
        what = f"the header has {len(header)} columns; there must be a file name and a class"
    elif header[0].strip() != _FILE_NAME and _VALUES.issuperset(classes):
        what = "has no header: its first line holds labels"
    elif not all(classes):
        what = f"column {classes.index('') + 2} of the header has no name"
    if what is not None:
        raise DataError(what, file=path, record="line 1", remedy=_FORMAT)
    check_class_count(len(classes), path)
    check_once(classes, "class", path, "Merge or rename the two columns.")


def _block(path: Path, batch: Any, classes: tuple[str, ...], before: int) -> csr_array:
    """int8 [n, C] of a batch whose first image is number ``before`` of the file."""
    values = np.empty((batch.num_rows, len(classes)), np.float32)
    for i in range(len(classes)):
        column = batch.column(i + 1)
        values[:, i] = column.fill_null(0).to_numpy(zero_copy_only=False)
    bad = np.argwhere(~np.isin(values, (-1, 0, 1)))
    names = batch.column(0)
    if len(bad):
        row, label = (int(v) for v in bad[0])
        raise DataError(
            f"class {classes[label]!r} is {values[row, label]:g}, not -1, 0 or 1",
            file=path,
            record=f"image {names[row].as_py()!r}",
            remedy=_FORMAT,
        )
    if names.null_count or "" in names.to_pylist():
        row = next(i for i, name in enumerate(names.to_pylist()) if not name)
        raise DataError(
            "has no file name", file=path, record=f"image {before + row + 1}", remedy=_FORMAT
        )
    return sparse_known(values)


def _told(path: Path, text: str, classes: tuple[str, ...]) -> DataError:
    """Arrow's error with the line of the file (the header was not handed to it) and the class."""
    place, line = _PLACE.match(text), _LINE.match(text)
    number, what = None, text
    if place is not None:
        column, number, what = int(place[1]), place[2], place[3]
        what = f"{what[:80]} {f'of class {classes[column - 1]!r}' if column else 'as file name'}"
    elif line is not None:
        number, what = line[1], line[2][:120]
    record = f"line {int(number) + 1}" if number else None
    return DataError(what[:1].lower() + what[1:], file=path, record=record, remedy=_FORMAT)


def _schema(classes: int) -> Any:
    import pyarrow as pa

    labels = [(str(i), pa.int8()) for i in range(classes)]
    return pa.schema([("name", pa.string()), *labels])
