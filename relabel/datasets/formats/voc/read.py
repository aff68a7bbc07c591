"""Pascal VOC: one XML file per image.

Format: the VOC2012 development kit. Corners on disk are 1-based pixels, both inclusive, so a box
is ``xmin - 1, ymin - 1, xmax, ymax`` here. ``difficult`` marks boxes to leave out.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
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
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.namemap import into_space
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problems
from relabel.files.opening import read_bytes

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "JPEGImage")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".webp", ".tif")
KEPT = ("pose", "truncated", "occluded")


@dataclass(frozen=True)
class _Object:
    """One ``<object>``: its place in the file, name, corners as written, flag and kept fields."""

    number: int
    label: str
    corners: tuple[float, float, float, float]
    difficult: bool
    extra: bytes | None


@dataclass(frozen=True)
class _Image:
    """What one XML file says; ``size`` is (width, height)."""

    file: Path
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
        annotations: an image set file relative to ``path``.

    Raises:
        DataError: XML that is missing, damaged or has a document type; objects without a name or
            box; boxes of negative size; images listed twice; sizes that cannot be found out.
    """
    root = _devkit_folder(path)
    folder, stems = _listed(root, split, annotations, problems)
    image_folder = _image_folder(root, folder)
    present = {p.name for p in image_folder.iterdir()} if image_folder.is_dir() else set()

    records: list[_Image] = []
    seen: dict[str, str] = {}
    for stem in stems:
        record = _parse(folder / f"{stem}.xml", stem, image_folder, present, problems)
        if record is None:
            continue
        if record.file_name in seen:
            problems.error(
                f"describes {record.file_name!r}, as {seen[record.file_name]} does",
                file=record.file,
                remedy="Remove one of the two files.",
            )
            continue
        seen[record.file_name] = record.file.name
        records.append(record)

    own = _own_space(name, records, folder, stems)
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
        records[0].file.parent if records else "",
        lambda i: f"{records[row[rows[i]]].file.name}, object {objects[rows[i]].number}",
        ignore=[objects[i].difficult for i in rows],
        extra=extra if any(o.extra for o in objects) else None,
        id=rows + 1,
    )
    return DetectionDataset(name, used, images, boxes, image_folder)


def _devkit_folder(path: Path) -> Path:
    """``path``, or the one ``VOCdevkit/VOC*`` inside it."""
    if (path / "Annotations").is_dir() or not path.is_dir():
        return path
    found = sorted(p.parent for g in ("VOC*/Annotations", "VOCdevkit/VOC*/Annotations")
                   for p in path.glob(g))  # fmt: skip
    return found[0] if len(found) == 1 else path


def _listed(
    root: Path, split: str | None, annotations: str | None, problems: Problems
) -> tuple[Path, list[str]]:
    """The folder of XML files, and the stems to read."""
    folder = next((root / n for n in ("Annotations", "annotations") if (root / n).is_dir()), root)
    if split and not annotations and folder == root and (root / split).is_dir():
        folder = root / split
        split = None
    if split or annotations:
        listing = root / annotations if annotations else root / f"ImageSets/Main/{split}.txt"
        if not listing.is_file():
            known = sorted(p.stem for p in (root / "ImageSets/Main").glob("*.txt"))
            raise DataError(
                "no such image set",
                file=listing,
                remedy=f"Known: {', '.join(known[:20]) or 'none'}.",
            )
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        stems: dict[str, None] = {}
        for number, line in enumerate(lines, 1):
            # Image sets of one class have a second column with -1, 0 or 1.
            stem = line.split()[0] if line.split() else None
            if stem is None:
                continue
            record = f"line {number}"
            if stem in stems:
                problems.error(
                    f"{stem!r} appears twice", file=listing, record=record, remedy="Remove it."
                )
            elif check_file_name(stem, problems=problems, file=listing, record=record):
                stems[stem] = None
        return folder, list(stems)
    found = sorted(p.stem for p in folder.glob("*.xml"))
    if not found:
        raise DataError(
            "no XML files",
            file=folder,
            remedy="Point at the folder that holds Annotations/ and JPEGImages/.",
        )
    return folder, found


def _image_folder(root: Path, folder: Path) -> Path:
    for name in _IMAGE_FOLDERS:
        if (root / name).is_dir():
            return root / name
    return folder if folder.name != "Annotations" else root


def _parse(
    file: Path, stem: str, image_folder: Path, present: set[str], problems: Problems
) -> _Image | None:
    with problems.catching(file):
        tree = _tree(file)
        written = (tree.findtext("filename") or "").strip()
        if written and not check_file_name(written, problems=problems, file=file):
            return None
        file_name = _image_name(stem, written, present)
        size = _size(tree, image_folder / file_name, file)
        objects = [
            found
            for number, node in enumerate(tree.findall("object"), 1)
            if (found := _object(node, number, file, problems)) is not None
        ]
        return _Image(file, file_name, size, objects)
    return None


def _tree(file: Path) -> ET.Element:
    data = read_bytes(file, remedy="Remove its name from the image set.")
    # Entities can only be declared in a document type; without one nothing can be expanded. NUL
    # bytes would hide it in UTF-16.
    if b"<!DOCTYPE" in data.upper() or b"\0" in data:
        raise DataError(
            "has a document type or is not UTF-8, which VOC files do not need",
            file=file,
            remedy="Remove it.",
        )
    try:
        tree = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(
            f"not valid XML: {error}", file=file, remedy="Export or download it again."
        ) from error
    if tree.tag != "annotation":
        raise DataError(f"starts with <{tree.tag}>, not <annotation>: not a VOC file", file=file)
    return tree


def _image_name(stem: str, written: str, present: set[str]) -> str:
    """The image goes by the XML file's stem, as in the devkit, else by <filename>."""
    candidates = [stem + Path(written).suffix, *(stem + s for s in _SUFFIXES), written]
    for candidate in candidates:
        if candidate in present:
            return candidate
    return written if Path(written).suffix else f"{stem}.jpg"


def _size(tree: ET.Element, image: Path, file: Path) -> tuple[int, int]:
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
        return image_size(str(image))
    except DataError as error:
        raise DataError(
            f"has no <size>, and the image {image.name!r} cannot be read",
            file=file,
            remedy="Add <size>, or put the image in place.",
        ) from error


def _object(node: ET.Element, number: int, file: Path, problems: Problems) -> _Object | None:
    """The object, or None where it is bad and to be skipped."""
    try:
        label, corners = _label_and_corners(node)
    except ValueError as error:
        problems.error(str(error), file=file, record=f"object {number}", remedy=SKIP)
        return None
    difficult = (node.findtext("difficult") or "0").strip().lower() not in ("", "0", "false", "no")
    kept = {k: (node.findtext(k) or "").strip() for k in KEPT}
    kept = {k: v for k, v in kept.items() if v not in ("", "0", "Unspecified")}
    return _Object(number, label, corners, difficult, json.dumps(kept).encode() if kept else None)


def _label_and_corners(node: ET.Element) -> tuple[str, tuple[float, float, float, float]]:
    label = (node.findtext("name") or "").strip()
    if not label:
        raise ValueError("object has no <name>")
    box = node.find("bndbox")
    if box is None:
        raise ValueError(f"object {label!r} has no <bndbox>")
    values = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = (box.findtext(tag) or "").strip()
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(f"<{tag}> of {label!r} is {text!r}, not a number") from None
    return label, (values[0], values[1], values[2], values[3])


def _own_space(name: str, records: list[_Image], folder: Path, stems: list[str]) -> LabelSpace:
    found = {o.label for r in records for o in r.objects}
    builtin = LabelSpace.load("voc")
    if found <= set(builtin.names):
        return LabelSpace(name, builtin.categories)
    # Names of the other splits belong to the label space too, or it would change with the split.
    for file in folder.glob("*.xml"):
        if file.stem not in stems:
            try:
                nodes = _tree(file).findall("object/name")
            except DataError:
                continue
            found |= {text for node in nodes if (text := (node.text or "").strip())}
    return LabelSpace.from_names(name, sorted(found))
