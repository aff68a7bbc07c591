"""The files of a result, all written in one pass over its parts.

``labels.parquet``
    What was known and what the model says, see `relabel.datasets.partial.as_parquet`: per image
    ``present`` and ``absent``, the known categories, and over all categories ``scores``, the
    confidences, and ``source``: ``known``, ``ist``, ``cst`` or ``classifier``.
``labels.csv``
    The completed hard labels: one column per category, 1 present, -1 absent.
``labels.json``
    The same as the released lists have them, file name to positions of the categories that are
    present: ``{"a.jpg": [0, 3]}``.
``labels.tsv``
    The soft labels as text, see `relabel.datasets.multilabels`; confidences below 0.05 are left
    out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from relabel.datasets.multilabels import greatest, tsv_writer
from relabel.datasets.partial.files import check_text, partial_writer
from relabel.datasets.partial.labels import ABSENT, PRESENT, PartialLabels, sparse_known
from relabel.errors import DataError
from relabel.partial.predict import SOURCES
from relabel.partial.result.parts import CompletedPart
from relabel.workspace.atomic import atomic_path

PARQUET, CSV, JSON, TSV = "labels.parquet", "labels.csv", "labels.json", "labels.tsv"
TSV_LEAST = 0.05


def check_writable(labels: PartialLabels) -> None:
    """Refuse what `write_labels` could not write, before anything is trained for it.

    Raises:
        DataError: the name of a class or of an image that one of the files cannot hold.
    """
    place = labels.root or Path(labels.name)
    for name in labels.classes:
        check_text(name, "class", place, stripped=True)
    for name in labels.file_names:
        if not name.isprintable():
            check_text(name, "file name", place)
            if "\t" in name:
                raise DataError(
                    f"the file name {name[:200]!r} has a tab", file=place, remedy="Rename it."
                )


def write_labels(
    out: Path,
    classes: Sequence[str],
    parts: Iterable[CompletedPart],
    *,
    also: Callable[[CompletedPart], None] | None = None,
) -> dict[str, str]:
    """Write all four files, each complete or not at all.

    Args:
        out: the folder.
        classes: C names.
        parts: see `relabel.partial.result.parts.completed_parts`.
        also: called with every part, for those who count along.

    Returns:
        The names of the files by their kind: ``parquet``, ``csv``, ``json``, ``tsv``.

    Raises:
        DataError: a name that one of the files cannot hold, such as one with a tab.
        RelabelError: the disk is full.
    """
    with ExitStack() as open_files:
        parquet = open_files.enter_context(partial_writer(out / PARQUET, classes, sources=SOURCES))
        csv = open_files.enter_context(partial_writer(out / CSV, classes))
        listed = open_files.enter_context(_lists(out / JSON))
        tsv = open_files.enter_context(tsv_writer(out / TSV))
        for part in parts:
            names = part.file_names
            parquet.write(names, sparse_known(part.known), part.scores, part.source)
            csv.write(names, sparse_known(np.where(part.present, PRESENT, ABSENT)))
            listed(part)
            none = np.full(len(part), -1, np.int32)  # no category is the image's own
            tsv.write(names, none, greatest(part.scores, 0, TSV_LEAST))
            if also is not None:
                also(part)
    return {"parquet": PARQUET, "csv": CSV, "json": JSON, "tsv": TSV}


@contextmanager
def _lists(path: Path) -> Iterator[Callable[[CompletedPart], None]]:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        before = "{\n"

        def write(part: CompletedPart) -> None:
            nonlocal before
            for name, mask in zip(part.file_names, part.present, strict=True):
                key = json.dumps(name, ensure_ascii=False)
                stream.write(f"{before}{key}: {json.dumps(np.flatnonzero(mask).tolist())}")
                before = ",\n"

        yield write
        stream.write("\n}\n" if before == ",\n" else "{}\n")
