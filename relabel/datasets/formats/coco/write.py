"""Writing COCO instances JSON: streamed in blocks, atomic, the same bytes for the same dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from relabel.datasets.dataset import Boxes, DetectionDataset, Provenance
from relabel.datasets.formats.output import Plan, output
from relabel.datasets.formats.records import collector_paused
from relabel.datasets.formats.write_checks import (
    check_classes,
    check_files,
    check_images,
    check_info,
    check_split,
    cleaned,
    with_small_ids,
)
from relabel.datasets.pixels.placing import CopyImages, place_images, writing
from relabel.errors import Problems
from relabel.files.json_text import raw_fields

_BLOCK = 2048  # records, few enough to stay in the processor's cache
_OURS = ("categories", "images", "annotations", "category_fields")


class _Image(msgspec.Struct, gc=False):
    id: int
    width: int
    height: int
    file_name: str


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class _ScoredAnnotation(_Annotation, gc=False):
    score: float | msgspec.UnsetType


class _Relabel(msgspec.Struct, gc=False):
    source_dataset: str
    source_annotation_id: int | None
    source_category: str | None
    origin: str
    score: float | None
    source_iou: float | None


def write(
    dataset: DetectionDataset,
    out: Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    problems: Problems | None = None,
) -> list[Path]:
    """Write a dataset as COCO JSON.

    Ids survive unless they lie beyond 2^53, categories stand in the order of the label space,
    annotations in the order of their ids; coordinates are not rounded. Ignored boxes get
    ``iscrowd`` 1. A box with provenance gets a ``relabel`` object, one with a score a ``score``.
    ``info.relabel.root`` states the folder that ``file_name`` is relative to, itself relative to
    the JSON file.

    Args:
        out: a ``.json`` file, or a folder, which gets ``annotations/instances_{split}.json``.
        copy_images: ``link`` or ``copy`` puts the images into ``images/`` of the folder, or
            beside the file; images inside records are extracted.
        problems: receives missing images, and ids that are renumbered; default raises on the
            first missing image.

    Returns:
        The JSON file.

    Raises:
        DataError: a class or file name that readers would refuse, an image without a size, a box
            that is not finite or has a negative size; or the output cannot be written, and nothing
            is left under its name then.
    """
    check_split(split)
    single = out.suffix.lower() == ".json"
    folder = out.parent if single else out
    name = out.name if single else f"annotations/instances_{split}.json"
    file, images = folder / name, folder / "images"
    check_classes(dataset)
    check_info(dataset)
    check_images(dataset)
    if copy_images != "none":
        check_files(dataset, dataset.images.file_name, images, problems, seen=False)
    dataset = with_small_ids(cleaned(dataset, problems, file, clip=False), problems, file)
    root = dataset.root
    plan = Plan(
        folder,
        "coco",
        split,
        copy_images,
        {name: None},
        images=[] if copy_images == "none" else [f"images/{n}" for n in dataset.images.file_name],
        file=name if single else "",
    )
    with output(plan, dataset):
        if copy_images != "none":
            place_images(dataset, images, copy_images, problems=problems)
            root = images
        with writing(file) as temp, collector_paused(), temp.open("wb", 1 << 20) as stream:
            for piece in encode(dataset, _relative(root, file.parent)):
                stream.write(piece)
    return [file]


def _relative(root: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(root.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return root.resolve().as_posix()


def encode(dataset: DetectionDataset, root: str) -> Iterator[bytes]:
    """The bytes of the COCO file, in blocks."""
    fields = file_fields(dataset)
    info = fields.pop("info", None)
    info = dict(info) if isinstance(info, dict) else {}
    stated = info.get("relabel")
    info["relabel"] = {**(stated if isinstance(stated, dict) else {}), "root": root}
    encoder = msgspec.json.Encoder()
    yield b'{"info":' + encoder.encode(info)
    for key, value in fields.items():
        yield b"," + encoder.encode(key) + b":" + encoder.encode(value)
    yield b',"categories":' + encoder.encode(category_rows(dataset))
    yield b',"images":['
    yield from _joined(_image_blocks(dataset, encoder))
    yield b'],"annotations":['
    yield from _joined(_annotation_blocks(dataset, encoder))
    yield b"]}\n"


def file_fields(dataset: DetectionDataset) -> dict[str, Any]:
    """What the file has beside images, annotations and categories: ``info``, ``licenses``, ..."""
    return {k: v for k, v in dataset.info.items() if k not in _OURS}


def category_rows(dataset: DetectionDataset) -> list[dict[str, Any]]:
    """The categories' records, with the fields they came with."""
    own = dataset.info.get("category_fields", {})
    rows = []
    for category, row in zip(dataset.space.categories, dataset.space.to_coco(), strict=True):
        if category.ignore:
            row["ignore"] = True
        rows.append({**row, **own.get(category.name, {})})
    return rows


def _joined(blocks: Iterator[bytes]) -> Iterator[bytes]:
    first = True
    for block in blocks:
        if not first:
            yield b","
        yield block
        first = False


def _image_blocks(dataset: DetectionDataset, encoder: msgspec.json.Encoder) -> Iterator[bytes]:
    images = dataset.images
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        records = list(
            map(
                _Image,
                images.id[block].tolist(),
                images.width[block].tolist(),
                images.height[block].tolist(),
                images.file_name[block],
            )
        )
        extra = None if images.extra is None else images.extra[block]
        yield _encode_block(records, extra, encoder)


def _annotation_blocks(dataset: DetectionDataset, encoder: msgspec.json.Encoder) -> Iterator[bytes]:
    boxes = dataset.boxes
    image_ids, category_ids = dataset.images.id, dataset.space.ids
    # Boxes are grouped by image; files usually are in the order of annotation ids.
    order = np.argsort(boxes.id)
    scored = not bool(np.isnan(boxes.score).all())
    for start in range(0, len(boxes), _BLOCK):
        rows = order[start : start + _BLOCK]
        part = _rows(boxes, rows)
        columns = [
            part.id.tolist(),
            image_ids[part.image].tolist(),
            category_ids[part.category].tolist(),
            part.xywh.tolist(),
            part.area.tolist(),
            part.ignore.astype(np.int64).tolist(),
        ]
        if scored:
            columns.append([msgspec.UNSET if s is None else s for s in _short(part.score)])
        records = list(map(_ScoredAnnotation if scored else _Annotation, *columns))
        extra = part.extra
        if part.provenance is not None:
            extra = _with_provenance(extra, part.provenance, part.score, encoder)
        yield _encode_block(records, extra, encoder)


def _rows(boxes: Boxes, rows: np.ndarray) -> Boxes:
    if len(rows) and bool(np.all(np.diff(rows) == 1)) and boxes.provenance is None:
        block = slice(int(rows[0]), int(rows[-1]) + 1)
        return Boxes(
            boxes.image[block],
            boxes.xywh[block],
            boxes.category[block],
            boxes.score[block],
            boxes.ignore[block],
            boxes.id[block],
            boxes.area[block],
            None if boxes.extra is None else boxes.extra[block],
        )
    return boxes.take(rows)


def _encode_block(
    records: list[Any], extra: Sequence[bytes | None] | None, encoder: msgspec.json.Encoder
) -> bytes:
    """The records as JSON objects with commas between, each with its extra fields merged in."""
    if extra is None:
        return encoder.encode(records)[1:-1]
    pieces = [
        encoder.encode(record)[:-1] + b"," + fields[1:]
        if fields and fields != b"{}"
        else encoder.encode(record)
        for record, fields in zip(records, extra, strict=True)
    ]
    return b",".join(pieces)


def _short(values: np.ndarray) -> list[float | None]:
    """float32 [n] as the shortest decimals that read back to the same float32; None for NaN."""
    text = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.loads(text)


def _with_provenance(
    extra: Sequence[bytes | None] | None,
    provenance: Provenance,
    scores: np.ndarray,
    encoder: msgspec.json.Encoder,
) -> list[bytes | None]:
    """Extra fields with the ``relabel`` object of each box, in place of one read from a file."""
    relabels = map(
        _Relabel,
        [provenance.dataset] * len(scores),
        [i if i >= 0 else None for i in provenance.source_id.tolist()],
        [c or None for c in provenance.source_category],
        provenance.origin,
        _short(scores),
        _short(provenance.source_iou.astype(np.float32)),
    )
    out: list[bytes | None] = []
    for i, relabel in enumerate(relabels):
        before = extra[i] if extra is not None else None
        fields = raw_fields(before)
        fields.pop("relabel", None)
        out.append(encoder.encode({**fields, "relabel": relabel}))
    return out
