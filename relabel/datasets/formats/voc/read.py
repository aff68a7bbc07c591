"""Pascal VOC: one XML file per image.

Format: the VOC2012 development kit. Corners on disk are 1-based pixels, both inclusive, so a box
is ``xmin - 1, ymin - 1, xmax, ymax`` here. ``difficult`` marks boxes to leave out.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import (
    SKIP,
    check_file_name,
    checked_boxes,
    numbered_images,
)
from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.voc.layout import Layout, find_layout, stated_name
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.namemap import into_space
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problems
from relabel.files.opening import read_bytes
from relabel.files.xml_text import parse_xml

KEPT = ("pose", "truncated", "occluded")

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Object:
    """One ``<object>``: its place in the file, name, corners as written, flag and kept fields."""

    number: int
    label: str
    corners: Corners
    difficult: bool
    extra: bytes | None


@dataclass(frozen=True)
class _Image:
    """What one XML file says; ``size`` is (width, height)."""

    file: str
    file_name: str
    size: tuple[int, int]
    objects: list[_Object]


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read a VOC dataset.

    Args:
        path: folder with ``Annotations/``, ``JPEGImages/`` and ``ImageSets/Main/{split}.txt``, or
            one with XML files and images together.
        split: an image set, or a subfolder; default every XML file.
        space: label space to read into; default the 20 VOC classes where they suffice, else the
            names in the XML files, sorted.
        annotations: an image set, or a single XML file, relative to ``path``.

    Raises:
        DataError: XML that is missing, damaged or has a document type; objects without a name or
            box; boxes of negative size; images listed twice; sizes that cannot be found out.
    """
    layout = find_layout(path, split, annotations, problems)
    records = _paired(layout, problems)
    folder = layout.folder
    own = _own_space(name, records, layout)
    images = numbered_images([r.file_name for r in records], [r.size for r in records])
    row = np.repeat(np.arange(len(records), dtype=np.int32), [len(r.objects) for r in records])
    objects = [o for r in records for o in r.objects]
    xywh = np.array([o.corners for o in objects], dtype=np.float64).reshape(-1, 4)
    xywh[:, :2] -= 1
    xywh[:, 2:] -= xywh[:, :2]
    category = np.array([own.index(o.label) for o in objects], dtype=np.int32)
    rows = np.arange(len(objects))
    if space is not None:
        category = into_space(space, own, category, rows >= 0, folder, problems)
        rows = np.flatnonzero(category >= 0)
    extra = [objects[i].extra for i in rows]
    used = space or own
    boxes = checked_boxes(
        row[rows],
        xywh[rows],
        category[rows],
        images,
        used,
        problems,
        "",
        lambda i: f"{records[row[rows[i]]].file}, object {objects[rows[i]].number}",
        ignore=[objects[i].difficult for i in rows],
        extra=extra if any(o.extra for o in objects) else None,
        id=rows + 1,
    )
    return DetectionDataset(name, used, images, boxes, layout.image_folder)


def _paired(layout: Layout, problems: Problems) -> list[_Image]:
    """The content of the XML files that have an image, or of all where there are no images."""
    have_images = bool(layout.images.names)
    if not have_images:
        problems.warning(
            "holds no images: labels are read without images", file=layout.image_folder
        )
    records: list[_Image] = []
    seen: dict[str, str] = {}
    orphans: list[str] = []
    for stem in layout.chosen:
        file = f"{layout.folder}/{layout.stems[stem]}"
        record = None
        with problems.catching(file):
            tree = _tree(file)
            found = layout.images.of_stem(stem) or layout.images.find(stem, _stated(tree))
            if found is None and have_images:
                orphans.append(layout.stems[stem])
                continue
            file_name = found or stated_name(stem, (tree.findtext("filename") or "").strip())
            if found is None and not check_file_name(file_name, problems=problems, file=file):
                continue
            if file_name in seen:
                raise DataError(
                    f"describes {file_name!r}, as {seen[file_name]} does",
                    file=file,
                    remedy="Remove one of the two files.",
                )
            record = _content(tree, file, file_name, layout.image_folder, problems)
        if record is not None:
            seen[record.file_name] = layout.stems[stem]
            records.append(record)
    if have_images:
        check_pairing(
            paired=len(layout.chosen) - len(orphans),
            bare_images=_bare(layout, seen) if layout.whole else [],
            orphan_labels=orphans,
            file=layout.image_folder,
            problems=problems,
            remedy="An XML file and its image have the same name, or <filename> names the image.",
            background=False,
        )
    return records


def _bare(layout: Layout, seen: Collection[str]) -> list[str]:
    """Images that no XML file is about, damaged ones included."""
    left = layout.images.names.difference(seen)
    if not left:
        return []
    for stem in layout.stems:
        try:
            left = left.difference((layout.images.find(stem, ()),))
        except DataError:
            continue
    return list(left)


def _stated(tree: ET.Element) -> list[str]:
    """Paths of the image as the file states them, the one that says most first."""
    name, folder, path = (
        (tree.findtext(tag) or "").strip() for tag in ("filename", "folder", "path")
    )
    together = f"{folder}/{name}" if folder and name else ""
    return [text for text in (together, name, path) if text]


def _content(
    tree: ET.Element, file: str, file_name: str, image_folder: Path, problems: Problems
) -> _Image:
    size = _size(tree, image_folder, file_name, file)
    objects = [
        found
        for number, node in enumerate(tree.findall("object"), 1)
        if (found := _object(node, number, file, problems)) is not None
    ]
    return _Image(file, file_name, size, objects)


def _tree(file: str) -> ET.Element:
    tree = parse_xml(read_bytes(file, remedy="Remove its name from the image set."), file)
    if tree.tag != "annotation":
        raise DataError(
            f"starts with <{tree.tag[:80]}>, not <annotation>: not a VOC file",
            file=file,
            remedy="Remove it from the folder, or leave it out with --skip-bad.",
        )
    return tree


def _size(tree: ET.Element, image_folder: Path, file_name: str, file: str) -> tuple[int, int]:
    try:
        width = round(float(tree.findtext("size/width") or 0))
        height = round(float(tree.findtext("size/height") or 0))
    except (ValueError, OverflowError) as error:
        raise DataError(
            "the width or height in <size> is not a number", file=file, remedy="Correct <size>."
        ) from error
    if 0 < width < 2**31 and 0 < height < 2**31:
        return width, height
    try:
        return image_size(f"{image_folder}/{file_name}")
    except DataError as error:
        raise DataError(
            f"has no <size>, and the image {file_name!r} cannot be read",
            file=file,
            remedy="Add <size>, or put the image in place.",
        ) from error


def _object(node: ET.Element, number: int, file: str, problems: Problems) -> _Object | None:
    """The object, or None where it is bad and to be skipped."""
    try:
        label, corners, outline = _label_and_corners(node)
    except ValueError as error:
        problems.error(str(error), file=file, record=f"object {number}", remedy=SKIP)
        return None
    problems.count("without <bndbox>: read from a polygon or a rotated box", outline)
    difficult = (node.findtext("difficult") or "0").strip().lower() not in ("", "0", "false", "no")
    kept = {k: (node.findtext(k) or "").strip() for k in KEPT}
    kept = {k: v for k, v in kept.items() if v not in ("", "0", "Unspecified")}
    return _Object(number, label, corners, difficult, json.dumps(kept).encode() if kept else None)


def _label_and_corners(node: ET.Element) -> tuple[str, Corners, bool]:
    """Name, corners, and whether these come from a polygon or a rotated box."""
    label = (node.findtext("name") or "").strip()
    if not label:
        raise ValueError("object has no <name>")
    box = node.find("bndbox")
    if box is not None:
        x1, y1, x2, y2 = (_number(box, tag, label) for tag in ("xmin", "ymin", "xmax", "ymax"))
        return label, (x1, y1, x2, y2), False
    points = _rotated(node, label) or _polygon(node, label)
    if not points:
        raise ValueError(f"object {label!r} has no <bndbox>")
    x, y = zip(*points, strict=True)
    return label, (min(x), min(y), max(x), max(y)), True


def _rotated(node: ET.Element, label: str) -> list[tuple[float, float]]:
    """The corners of roLabelImg's ``<robndbox>``, whose angle is in radians."""
    box = node.find("robndbox")
    if box is None:
        return []
    cx, cy, w, h, angle = (_number(box, tag, label) for tag in ("cx", "cy", "w", "h", "angle"))
    if not math.isfinite(angle):
        raise ValueError(f"<angle> of {label!r} is not finite")
    cos, sin = math.cos(angle) / 2, math.sin(angle) / 2
    return [
        (cx + i * w * cos - k * h * sin, cy + i * w * sin + k * h * cos)
        for i in (-1, 1)
        for k in (-1, 1)
    ]


def _polygon(node: ET.Element, label: str) -> list[tuple[float, float]]:
    """The points of a ``<polygon>``: ``<pt><x><y>`` as LabelMe has it, or ``<x1><y1><x2>...``."""
    polygon = node.find("polygon")
    if polygon is None:
        return []
    points = [(_number(p, "x", label), _number(p, "y", label)) for p in polygon.findall("pt")]
    numbered = [child.tag[1:] for child in polygon if child.tag[:1] == "x" and child.tag[1:]]
    points += [(_number(polygon, f"x{n}", label), _number(polygon, f"y{n}", label))
               for n in numbered]  # fmt: skip
    return points


def _number(node: ET.Element, tag: str, label: str) -> float:
    text = (node.findtext(tag) or "").strip()
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{tag}> of {label!r} is {text!r}, not a number") from None


def _own_space(name: str, records: list[_Image], layout: Layout) -> LabelSpace:
    found = {o.label for r in records for o in r.objects}
    builtin = LabelSpace.load("voc")
    if found <= set(builtin.names):
        return LabelSpace(name, builtin.categories)
    # Names of the other splits belong to the label space too, or it would change with the split.
    for stem in layout.stems.keys() - set(layout.chosen):
        try:
            nodes = _tree(f"{layout.folder}/{layout.stems[stem]}").findall("object/name")
        except DataError:
            continue
        found |= {text for node in nodes if (text := (node.text or "").strip())}
    return LabelSpace.from_names(name, sorted(found))
