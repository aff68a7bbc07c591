"""The files of a result, all written in one pass over its parts.

``labels.parquet``
    One row per image. ``file_name``; ``present`` and ``absent``, the known categories as lists of
    positions; ``completed``, the categories that the completed labels have; ``scores``, a list of
    confidences over all categories; ``source``, a list of ``known``, ``ist``, ``cst`` and
    ``classifier`` over all categories. The metadata key ``relabel`` holds the category names.
``labels.csv``
    The completed hard labels: one column per category, 1 present, -1 absent.
``labels.json``
    As the released lists of file names and category positions: ``{"classes": [...], "labels":
    {"a.jpg": [0, 3]}}``.
``labels.tsv``
    The soft labels as text, see `relabel.datasets.multilabels`; confidences below 0.05 are left
    out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.multilabels import greatest, tsv_writer
from relabel.partial.result.parts import SOURCES, CompletedPart
from relabel.workspace.atomic import atomic_path

PARQUET, CSV, JSON, TSV = "labels.parquet", "labels.csv", "labels.json", "labels.tsv"
TSV_LEAST = 0.05
_TEXTS = np.array(["-1", "1"], dtype=object)


def write_labels(
    out: Path,
    classes: Sequence[str],
    parts: Iterable[CompletedPart],
    *,
    also: Callable[[CompletedPart], None] | None = None,
) -> dict[str, Path]:
    """Write all four files, each complete or not at all.

    Args:
        out: the folder.
        classes: C names.
        parts: see `relabel.partial.result.parts.completed_parts`.
        also: called with every part, for those who count along.

    Returns:
        The files by their kind: ``parquet``, ``csv``, ``json``, ``tsv``.

    Raises:
        DataError: a file name has a tab or a line break, which a TSV cannot hold.
        RelabelError: the disk is full.
    """
    with ExitStack() as open_files:
        writers = [
            open_files.enter_context(_parquet(out / PARQUET, classes)),
            open_files.enter_context(_csv(out / CSV, classes)),
            open_files.enter_context(_json(out / JSON, classes)),
            open_files.enter_context(_tsv(out / TSV)),
        ]
        for part in parts:
            for write in writers:
                write(part)
            if also is not None:
                also(part)
    return {"parquet": out / PARQUET, "csv": out / CSV, "json": out / JSON, "tsv": out / TSV}


Writer = Callable[[CompletedPart], None]


@contextmanager
def _parquet(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sources = pa.array(SOURCES, pa.string())
    kind = pa.dictionary(pa.int8(), pa.string())
    columns = [
        ("file_name", pa.string()),
        *((name, pa.list_(pa.int32())) for name in ("present", "absent", "completed")),
        ("scores", pa.list_(pa.float32())),
        ("source", pa.list_(kind)),
    ]
    about = json.dumps({"class_names": list(classes)}, ensure_ascii=False).encode()
    schema = pa.schema(columns, metadata={b"relabel": about})

    def every(values: Any, part: CompletedPart) -> Any:
        offsets = np.arange(len(part) + 1, dtype=np.int32) * len(classes)
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):

        def write(part: CompletedPart) -> None:
            source = pa.DictionaryArray.from_arrays(
                pa.array(part.source.reshape(-1).astype(np.int8)), sources
            )
            table = pa.table(
                [
                    pa.array(part.file_names, pa.string()),
                    *(_listed(mask) for mask in (part.known > 0, part.known < 0, part.present)),
                    every(pa.array(part.scores.reshape(-1)), part),
                    every(source, part),
                ],
                schema=schema,
            )
            writer.write_table(table, row_group_size=max(1, len(part)))

        yield write


def _listed(mask: np.ndarray) -> Any:
    """The positions that are True, a list per row of a bool [n, C]."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.nonzero(mask)[1], pa.int32()))


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        yield stream


@contextmanager
def _csv(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    with _text(path) as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["file_name", *classes])

        def write(part: CompletedPart) -> None:
            for name, line in zip(part.file_names, _TEXTS[part.present.astype(int)], strict=True):
                rows.writerow([name, *line])

        yield write


@contextmanager
def _json(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    with _text(path) as stream:
        stream.write(f'{{"classes": {json.dumps(list(classes), ensure_ascii=False)},\n"labels": {{')
        before = "\n"

        def write(part: CompletedPart) -> None:
            nonlocal before
            for name, mask in zip(part.file_names, part.present, strict=True):
                key = json.dumps(name, ensure_ascii=False)
                stream.write(f"{before}{key}: {json.dumps(np.flatnonzero(mask).tolist())}")
                before = ",\n"

        yield write
        stream.write("\n}}\n")


@contextmanager
def _tsv(path: Path) -> Iterator[Writer]:
    with tsv_writer(path) as file:

        def write(part: CompletedPart) -> None:
            none = np.full(len(part), -1, np.int32)  # no category is the image's own
            file.write(part.file_names, none, greatest(part.scores, 0, TSV_LEAST))

        yield write
