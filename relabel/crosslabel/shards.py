"""Parquet shards of pseudo-labels: one row per box, the rest in the schema's metadata.

Columns: ``file_name`` (dictionary), ``image`` (int32 row of the dataset), ``x1, y1, x2, y2``
(float32 pixels), ``category`` (int32 position in the label space), ``score`` (float32),
``scores`` (fixed-size list of C float16 or float32) and, where the detector has one, ``quality``
(float32). The metadata key ``relabel`` holds a JSON object with the label space, who labelled
what, the settings, and the images of the shard, with or without boxes. Pages carry checksums.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.errors import DataError
from relabel.workspace.atomic import atomic_path

_KEY = b"relabel"
_NAME = re.compile(r"shard-(\d+)-of-(\d+)\.parquet")
_AGAIN = "Run `relabel cross-label` again: it redoes damaged shards and keeps the others."


@dataclass(frozen=True)
class Run:
    """What all shards of one run have in common; another run's shards are not reused.

    Attributes:
        space: `LabelSpace.to_dict` of the specialist.
        by, on: names of the specialist's and of the labelled dataset.
        images: I, number of images of the labelled dataset.
        settings: those the result depends on.
        model: fingerprint of the specialist's checkpoint; "" for one that has no files.
    """

    space: Mapping[str, Any]
    by: str
    on: str
    images: int
    settings: Mapping[str, Any]
    model: str


@dataclass(frozen=True)
class Shard:
    """One shard.

    Attributes:
        run: what it shares with the others.
        rows: dataset rows of its images, ascending.
        file_names: of the same images.
        detections: by row; rows without an entry could not be read. Empty after reading, where
            the boxes come as `PseudoLabels`.
    """

    run: Run
    rows: Sequence[int]
    file_names: Sequence[str]
    detections: Mapping[int, Detections] = field(default_factory=dict)


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, complete or not at all; equal shards give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    detected = [(row, shard.detections[row]) for row in shard.rows if row in shard.detections]
    counts = [len(found) for _, found in detected]
    names = dict(zip(shard.rows, shard.file_names, strict=True))
    num_classes = LabelSpace.from_dict(shard.run.space).num_classes
    width = pa.float16() if shard.run.settings["score_storage"] == "float16" else pa.float32()

    def joined(part: str, *shape: int) -> np.ndarray:
        pieces = [getattr(found, part) for _, found in detected]
        return np.concatenate([np.zeros((0, *shape), np.float32), *pieces])

    boxes, scores = joined("boxes", 4), joined("scores", num_classes)
    image = np.repeat(np.array([row for row, _ in detected], np.int32), counts)
    stored = scores.astype(width.to_pandas_dtype()).reshape(-1)
    columns = {
        "file_name": pa.array([names[row] for row in image.tolist()], pa.string()),
        "image": pa.array(image),
        **{side: pa.array(np.ascontiguousarray(boxes[:, i])) for i, side in enumerate(_SIDES)},
        "category": pa.array(scores.argmax(1).astype(np.int32)),
        "score": pa.array(scores.max(1)),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(stored, width), num_classes),
    }
    columns["file_name"] = columns["file_name"].dictionary_encode()
    if detected and all(found.quality is not None for _, found in detected):
        columns["quality"] = pa.array(joined("quality"))
    about = {
        **asdict(shard.run),
        "rows": list(shard.rows),
        "file_names": list(shard.file_names),
        "unreadable": [row for row in shard.rows if row not in shard.detections],
    }
    table = pa.table(columns).replace_schema_metadata(
        {_KEY: json.dumps(about, ensure_ascii=False).encode()}
    )
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            use_dictionary=["file_name"],  # pyright: ignore[reportArgumentType]
            write_page_checksum=True,
        )


def read_shard(path: Path) -> tuple[Shard, PseudoLabels]:
    """Read one shard: what it is (without detections) and its pseudo-labels.

    Raises:
        DataError: missing, truncated, damaged, or not a shard of pseudo-labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        about = json.loads((table.schema.metadata or {})[_KEY])
        run = Run(**{name: about[name] for name in Run.__dataclass_fields__})
        shard = Shard(run, about["rows"], about["file_names"])
        unreadable = set(about["unreadable"])
        space = LabelSpace.from_dict(run.space, file=path)
        scores = _numpy(table, "scores", np.float32).reshape(len(table), space.num_classes)
        image = _numpy(table, "image", np.int32)
        boxes = np.stack([_numpy(table, side, np.float32) for side in _SIDES], axis=1)
        quality = _numpy(table, "quality", np.float32) if "quality" in table.column_names else None
        names = [""] * run.images
        covered = np.zeros(run.images, dtype=bool)
        for row, name in zip(shard.rows, shard.file_names, strict=True):
            names[row] = name
            covered[row] = row not in unreadable
        if bool(np.any(image[1:] < image[:-1])) or not covered[image].all():
            raise ValueError("boxes out of order or on images that were not labelled")
    except FileNotFoundError as error:
        raise DataError("shard is missing", file=path, remedy=_AGAIN) from error
    except DataError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"not a readable shard of pseudo-labels: {error}", file=path, remedy=_AGAIN
        ) from error
    labels = PseudoLabels(
        space, run.by, run.on, names, image, boxes, scores, covered=covered, quality=quality
    )
    return shard, labels


def read_shards(folder: Path) -> PseudoLabels:
    """All shards of a folder as one; see `relabel.crosslabel.shards.read_pseudo_labels`."""
    found = {path: match for path in folder.glob("*.parquet") if (match := _NAME.match(path.name))}
    if not found:
        raise DataError("holds no shards of pseudo-labels", file=folder, remedy=_AGAIN)
    counts = {int(match[2]) for match in found.values()}
    if len(counts) > 1:
        raise DataError(
            f"holds shards of several runs, of {' and of '.join(map(str, sorted(counts)))} shards",
            file=folder,
            remedy=_AGAIN,
        )
    total = counts.pop()
    parts: list[PseudoLabels] = []
    first: Run | None = None
    for i in range(total):
        path = folder / f"shard-{i:05d}-of-{total:05d}.parquet"
        shard, labels = read_shard(path)
        if first is not None and shard.run != first:
            raise DataError("belongs to another run than the first shard", file=path, remedy=_AGAIN)
        first = first or shard.run
        parts.append(labels)
    return _concatenate(parts, folder)


def _concatenate(parts: list[PseudoLabels], folder: Path) -> PseudoLabels:
    first = parts[0]
    names = list(first.file_name)
    covered = first.coverage.copy()
    for part in parts[1:]:
        rows = [i for i, name in enumerate(part.file_name) if name]
        if any(names[i] for i in rows):
            raise DataError("two shards hold the same image", file=folder, remedy=_AGAIN)
        for i in rows:
            names[i] = part.file_name[i]
        covered |= part.coverage
    image = np.concatenate([p.image for p in parts])
    if bool(np.any(image[1:] < image[:-1])):
        raise DataError("shards are out of order", file=folder, remedy=_AGAIN)
    # A shard without a box cannot tell whether the detector has a quality.
    qualities = [p.quality for p in parts if len(p)]
    quality = None
    if qualities and all(q is not None for q in qualities):
        quality = np.concatenate([q for q in qualities if q is not None])
    return PseudoLabels(
        space=first.space,
        by=first.by,
        on=first.on,
        file_name=names,
        image=image,
        boxes=np.concatenate([p.boxes for p in parts]),
        scores=np.concatenate([p.scores for p in parts]),
        covered=covered,
        quality=quality,
    )


def _numpy(table: Any, name: str, dtype: Any) -> np.ndarray:
    column = table.column(name).combine_chunks()
    if name == "scores":
        column = column.flatten()
    if column.null_count:
        raise ValueError(f"column {name} has missing values")
    return column.to_numpy(zero_copy_only=False).astype(dtype)


_SIDES = ("x1", "y1", "x2", "y2")


def read_pseudo_labels(path: Path) -> PseudoLabels:
    """Read the shards of a folder that `relabel.crosslabel.label.cross_label` wrote.

    Raises:
        DataError: the folder has no shards, or one is missing, damaged or of another run.
    """
    from relabel.crosslabel.shards import read_shards

    return read_shards(Path(path))
