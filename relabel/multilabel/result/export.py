"""The result of `imagenet-multilabel` as files: text, Parquet, the list of confused classes.

Shape legend: ``B`` images of a shard, ``R`` regions, ``L`` labels; see `relabel.multilabel.store`.
Everything goes shard by shard, so memory does not grow with the number of images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.multilabels import label_rows, tsv_writer
from relabel.datasets.pixels.image_folder import ImageSet
from relabel.errors import DataError
from relabel.multilabel.labels.confusion import ConfusedPair
from relabel.multilabel.store import LabelShard, RegionShard, read_labels, read_regions
from relabel.workspace.atomic import atomic_path, atomic_write_json
from relabel.workspace.columns import iterate

OWN_LABEL = "label"
"""Origin of a label that is the image's own; ``region:2`` is that of one of its third region."""

OTHER = "region"
"""Origin of a label that no region has among its most probable classes."""


def paired(
    regions: Sequence[Path], labels: Sequence[Path]
) -> Iterator[tuple[RegionShard, LabelShard]]:
    """Shards of regions, without features, with the labels of the same images.

    Raises:
        DataError: a shard is missing or damaged, or the two are not of the same images.
    """
    if len(regions) != len(labels):
        raise DataError(f"{len(regions)} shards of regions, but {len(labels)} of labels")
    found = zip(
        regions,
        iterate(regions, lambda path: read_regions(path, features=False)),
        iterate(labels, read_labels),
        strict=True,
    )
    for path, one, other in found:
        same = np.array_equal(one.row, other.row) and np.array_equal(one.offsets, other.offsets)
        if not same or list(one.file_name) != list(other.file_name):
            raise DataError(
                "holds other images or regions than the shard of labels",
                file=path,
                remedy="Run the same command with --overwrite.",
            )
        yield one, other


def write_labels_tsv(path: Path, labels: Sequence[Path]) -> None:
    """All labels in the released text format; an image's labels from the most probable on."""
    with tsv_writer(path) as file:
        for shard in iterate(labels, read_labels):
            file.write(shard.file_name, shard.gt, shard.labels)


def write_labels_parquet(
    path: Path, images: ImageSet, shards: Iterable[tuple[RegionShard, LabelShard]]
) -> None:
    """All images with their labels and regions, one row per image and one row group per shard.

    Columns: ``file_name``; ``width``, ``height`` (pixels); ``readable``, ``reason``; ``gt`` (the
    image's own class, null where it has none); ``ids``, ``probs``, ``origin`` (lists, from the
    most probable label on; the origin is ``label`` for the image's own, ``region:2`` for one of its
    third region); ``regions``, a list of ``rle`` (COCO's compressed counts; the size is height,
    width), ``area`` (pixels), ``round`` (of MaskCut, from 0), ``id`` and ``prob`` (the most
    probable class, null where there is none). The metadata key ``relabel`` holds the class names
    and keys and what produced regions and labels, as JSON.

    Args:
        path: the file.
        images: for the classes.
        shards: see `paired`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rest = iter(shards)
    first = next(rest, None)
    if first is None:
        raise DataError("there are no shards to write", file=path)
    regions, labels = first
    about = {
        "class_names": images.class_names,
        "class_keys": images.class_keys,
        "regions": regions.run,
        "labels": labels.run,
    }
    text = json.dumps(about, ensure_ascii=False).encode()
    schema = pa.table(_columns(regions, labels)).schema.with_metadata({b"relabel": text})
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for pair in chain([first], rest):
            table = pa.table(_columns(*pair), schema=schema)
            writer.write_table(table, row_group_size=max(1, len(table)))


def _columns(regions: RegionShard, labels: LabelShard) -> dict[str, Any]:
    import pyarrow as pa

    def lists(offsets: np.ndarray, values: Any) -> Any:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)

    top, prob = labels.ids[:, 0], labels.probs[:, 0]
    each = pa.StructArray.from_arrays(
        [
            pa.array(list(regions.rle), pa.string()),
            pa.array(regions.area),
            pa.array(regions.round),
            pa.array(top, mask=top < 0),
            pa.array(prob, mask=top < 0),
        ],
        names=["rle", "area", "round", "id", "prob"],
    )
    return {
        "file_name": pa.array(list(labels.file_name), pa.string()),
        "width": pa.array(regions.width),
        "height": pa.array(regions.height),
        "readable": pa.array(regions.readable),
        "reason": pa.array(list(regions.reason), pa.string()),
        "gt": pa.array(labels.gt, mask=labels.gt < 0),
        "ids": lists(labels.label_offsets, pa.array(labels.label_ids)),
        "probs": lists(labels.label_offsets, pa.array(labels.label_probs)),
        "origin": lists(
            labels.label_offsets,
            pa.array([label_origin_text(o) for o in label_origins(labels)], pa.string()),
        ),
        "regions": lists(regions.offsets, each),
    }


def label_origins(shard: LabelShard) -> np.ndarray:
    """int64 [L]: the image's region that gives each label its probability, from 0.

    -1 for the image's own label where no region has it that probable, -2 for a label that no
    region has among its most probable classes.
    """
    size = 1 + max(int(shard.ids.max(initial=0)), int(shard.label_ids.max(initial=0)))
    region, slot = np.nonzero(shard.ids >= 0)
    image_of = np.repeat(np.arange(len(shard)), np.diff(shard.offsets))
    key = image_of[region].astype(np.int64) * size + shard.ids[region, slot]
    prob = shard.probs[region, slot]
    order = np.lexsort((region, -prob, key))
    keys, first = np.unique(key[order], return_index=True)
    best = order[first]

    image = label_rows(shard.labels)
    wanted = image.astype(np.int64) * size + shard.label_ids
    own = shard.label_ids == shard.gt[image]
    result = np.where(own, -1, -2)
    if len(keys):
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        # The own label has probability 1 from the image; a region gives it only if it reaches that.
        found = (keys[at] == wanted) & (~own | (prob[best[at]] >= shard.label_probs))
        result[found] = (region[best[at]] - shard.offsets[image])[found]
    return result


def label_origin_text(origin: int) -> str:
    """The text of one of `label_origins`."""
    return f"region:{origin}" if origin >= 0 else OWN_LABEL if origin == -1 else OTHER


def write_confused(path: Path, pairs: Sequence[ConfusedPair], images: ImageSet) -> None:
    """The mutually confused classes as JSON: a list of objects, the most confused pair first."""
    named = [
        {
            "classes": [images.class_names[pair.a], images.class_names[pair.b]],
            "keys": [images.class_keys[pair.a], images.class_keys[pair.b]],
            **asdict(pair),
        }
        for pair in pairs
    ]
    atomic_write_json(path, {"pairs": named}, indent=1)
