"""Writing Pascal VOC; the conventions are those of `relabel.datasets.formats.voc.read`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.voc.read import KEPT
from relabel.datasets.pixels.placing import CopyImages, place_images, write_text, writing
from relabel.errors import Problems


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
    boxes become ``difficult``. Folders in file names become part of the name, since VOC has none.
    Scores and provenance cannot be expressed and are left out.

    Returns:
        The image set, then the XML files.

    Raises:
        DataError: the output cannot be written.
    """
    names = _flat_names(list(dataset.images.file_name))
    if copy_images != "none":
        place_images(dataset, out / "JPEGImages", copy_images, names=names, problems=problems)
    files = []
    for row, _ in dataset.iter_images():
        file = out / "Annotations" / (Path(names[row]).stem + ".xml")
        with writing(file) as temp:
            temp.write_bytes(_document(dataset, row, names[row]))
        files.append(file)
    listing = out / "ImageSets" / "Main" / f"{split}.txt"
    write_text(listing, "".join(f"{Path(n).stem}\n" for n in names))
    return [listing, *files]


def _flat_names(names: list[str]) -> list[str]:
    """File names without folders and with different stems."""
    flat: list[str] = []
    stems: set[str] = set()
    for name in names:
        path = PurePosixPath(name)
        # A blank would end the name in the image set.
        base = "_".join("_".join(path.with_suffix("").parts).split())
        stem, number = base, 1
        while stem in stems:
            number += 1
            stem = f"{base}_{number}"
        stems.add(stem)
        flat.append(stem + path.suffix)
    return flat


def _document(dataset: DetectionDataset, row: int, name: str) -> bytes:
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = "JPEGImages"
    ET.SubElement(root, "filename").text = name
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
    if not extra:
        return {}
    fields = json.loads(extra)
    values = {k: fields[k] for k in KEPT if isinstance(fields.get(k), str | int)}
    return {k: str(int(v) if isinstance(v, bool) else v) for k, v in values.items()}
