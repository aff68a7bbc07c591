"""Writing Pascal VOC; the conventions are those of `relabel.datasets.formats.voc.read`."""

from __future__ import annotations

import posixpath
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.output import Plan, output
from relabel.datasets.formats.voc.layout import SUFFIXES, ImageIndex
from relabel.datasets.formats.voc.read import KEPT
from relabel.datasets.formats.write_checks import (
    check_any,
    check_classes,
    check_files,
    check_images,
    check_split,
    cleaned,
    lost_of_boxes,
    lost_of_file,
    tell_lost,
)
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.placing import CopyImages, place_images
from relabel.errors import DataError, Problems
from relabel.files.json_text import raw_fields

# What XML 1.0 cannot hold, not even as a reference; a carriage return is read as a line feed.
_NO_XML = re.compile("[\0-\x08\x0b-\x1f\ufffe\uffff]")


def write(
    dataset: DetectionDataset,
    out: Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    problems: Problems | None = None,
) -> list[Path]:
    """Write ``Annotations/``, ``ImageSets/Main/{split}.txt`` and, unless ``none``, ``JPEGImages/``.

    Coordinates that are whole pixels are written as integers, others with their decimals. Ignored
    boxes become ``difficult``. Folders in file names are folders in ``Annotations/`` and
    ``JPEGImages/`` too. What VOC has no place for (ids, scores, areas, segmentation) is left out
    and told.

    Returns:
        The image set, then the XML files.

    Raises:
        DataError: no image; a class or file name that a VOC reader would not give back, an image
            without a size, or the output cannot be written. Names are looked at first.
    """
    check_split(split)
    check_any(dataset, "Pascal VOC")
    check_classes(dataset, _class_fault)
    names = [posixpath.normpath(name) if name else name for name in dataset.images.file_name]
    check_images(dataset)
    check_images(dataset, names, _file_fault)
    check_files(dataset, names, out / "Annotations", problems)
    _check_pairs(dataset, names)
    dataset = cleaned(dataset, problems, out)
    if problems is not None:
        tell_lost(_lost(dataset), "Pascal VOC", problems, out)

    stems = [_stem(name) for name in names]
    listing = f"ImageSets/Main/{split}.txt"
    plan = Plan(
        out,
        "voc",
        split,
        copy_images,
        {listing: "".join(f"{stem}\n" for stem in stems).encode()},
        labels=[f"Annotations/{stem}.xml" for stem in stems],
        content=lambda row: _document(dataset, row, names[row]),
        images=[] if copy_images == "none" else [f"JPEGImages/{name}" for name in names],
        swept={"Annotations": (".xml",)},
    )
    with output(plan, dataset) as opened:
        if copy_images != "none":
            place_images(dataset, out / "JPEGImages", copy_images, names=names, problems=problems)
        opened.write_labels()
    return [out / listing, *(out / name for name in plan.labels)]


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _class_fault(name: str) -> str | None:
    if not name.strip():
        return "is blank"
    if name != name.strip():
        return "begins or ends with a blank, which readers of XML take off"
    return _xml_fault(name)


def _xml_fault(text: str) -> str | None:
    found = _NO_XML.search(text)
    return f"holds the character U+{ord(found[0]):04X}, which XML cannot" if found else None


def _file_fault(name: str) -> str | None:
    stem, suffix = posixpath.splitext(name)
    if suffix.lower() not in SUFFIXES:
        return f"does not end in one of {', '.join(SUFFIXES)}, by which readers find images"
    if "\n" in name:
        return "holds a line break, which ends a line of an image set"
    if stem != stem.strip() or posixpath.basename(stem).startswith((" ", "\t")):
        return "begins or ends with a blank, which readers of image sets take off"
    if name.startswith("\ufeff"):
        return "begins with a byte order mark, which readers skip"
    return _xml_fault(name)


def _check_pairs(dataset: DetectionDataset, names: list[str]) -> None:
    """Refuse images that the reader could not tell apart by their XML files."""
    index = ImageIndex(names)
    stems: dict[str, str] = {}
    for row, name in enumerate(names):
        stem = _stem(name)
        other = stems.setdefault(stem, name)
        try:
            found = index.find(stem, [name])
        except DataError:
            found = None
        if other != name or found != name:
            what = "could not be told from another by its XML file"
            if other != name:
                what = f"would have the same XML file as {other!r}"
            raise DataError(
                f"file name {dataset.images.file_name[row]!r} {what}",
                record=f"image {dataset.images.id[row]}",
                remedy="Rename one of them.",
            )


def _lost(dataset: DetectionDataset) -> Iterator[str]:
    space, boxes = dataset.space, dataset.boxes
    counts = np.bincount(boxes.category, minlength=len(space))
    used = {c.name for c, n in zip(space.categories, counts, strict=True) if n}
    builtin = LabelSpace.load("voc")
    kept = builtin if used <= set(builtin.names) else LabelSpace.from_names("", sorted(used))
    known = set(kept.names)
    unused = [name for name in space.names if name not in known]
    if unused:
        yield f"classes without boxes ({len(unused)})"
    if [c.id for c in space.categories if c.name in used] != [
        kept.categories[kept.index(c.name)].id for c in space.categories if c.name in used
    ]:
        yield "category ids"
    if any(c.ignore and c.name in used for c in space.categories):
        yield "classes being ones to ignore"
    yield from lost_of_file(dataset)
    yield from lost_of_boxes(dataset, KEPT)


def _document(dataset: DetectionDataset, row: int, name: str) -> bytes:
    root = ET.Element("annotation")
    folder, base = posixpath.split(name)
    ET.SubElement(root, "folder").text = posixpath.join("JPEGImages", folder).rstrip("/")
    ET.SubElement(root, "filename").text = base
    size = ET.SubElement(root, "size")
    for tag, value in (
        ("width", int(dataset.images.width[row])),
        ("height", int(dataset.images.height[row])),
        ("depth", 3),
    ):
        ET.SubElement(size, tag).text = str(value)
    ET.SubElement(root, "segmented").text = "0"
    boxes, span = dataset.boxes, dataset.rows(row)
    for i in range(span.start, span.stop):
        node = ET.SubElement(root, "object")
        ET.SubElement(node, "name").text = dataset.space.categories[boxes.category[i]].name
        fields = _kept_fields(None if boxes.extra is None else boxes.extra[i])
        ET.SubElement(node, "pose").text = fields.get("pose", "Unspecified")
        ET.SubElement(node, "truncated").text = fields.get("truncated", "0")
        if "occluded" in fields:
            ET.SubElement(node, "occluded").text = fields["occluded"]
        ET.SubElement(node, "difficult").text = str(int(boxes.ignore[i]))
        x, y, w, h = boxes.xywh[i].tolist()
        box = ET.SubElement(node, "bndbox")
        for tag, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
            ET.SubElement(box, tag).text = str(int(value)) if value == int(value) else repr(value)
    ET.indent(root, "\t")
    return ET.tostring(root, encoding="utf-8") + b"\n"


def _kept_fields(extra: bytes | None) -> dict[str, str]:
    fields = raw_fields(extra)
    values: dict[str, str | int] = {}
    for name in KEPT:
        with suppress(KeyError, msgspec.MsgspecError, UnicodeDecodeError):
            values[name] = msgspec.json.decode(fields[name], type=str | int | bool)
    texts = {k: str(int(v) if isinstance(v, bool) else v) for k, v in values.items()}
    return {k: v for k, v in texts.items() if not _xml_fault(v)}
