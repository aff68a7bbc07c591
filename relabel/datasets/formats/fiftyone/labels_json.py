"""FiftyOne's folders of images with one ``labels.json``, as the documents of a dataset folder.

Format: ``fiftyone.types.FiftyOneImageDetectionDataset``: ``data/`` with the images, and an object
with ``classes`` (or null) and ``labels``, by image name without its suffix a list of boxes.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from relabel.datasets.formats.pairing import check_pairing
from relabel.errors import DataError, Problems
from relabel.files.json_text import read_object
from relabel.files.walk import walk_files

FIELD = "ground_truth"


def documents_of_labels(path: Path, problems: Problems) -> tuple[dict[str, Any], list[Any]]:
    """The dataset document and the sample documents that stand for such a folder.

    Images without labels are images without objects; labels without an image are told.

    Raises:
        DataError: the file is damaged or another one, several images have one name, or next to
            nothing belongs together.
    """
    file = path / "labels.json"
    content = read_object(file)
    labels, classes = content.get("labels"), content.get("classes")
    if not isinstance(labels, dict) or not isinstance(classes, list | None):
        raise DataError(
            "has no object `labels` by image: not FiftyOne's",
            file=file,
            remedy="A labels.json with the list `images` is COCO: read it with --format coco.",
        )
    images: dict[str, list[str]] = defaultdict(list)
    for name in walk_files(path / "data"):
        images[name.rpartition(".")[0] or name].append(name)
    double = next((found for found in images.values() if len(found) > 1), None)
    if double is not None:
        raise DataError(
            f"images {double[0]!r} and {double[1]!r} have the same labels",
            file=file,
            remedy="Rename one of them.",
        )
    check_pairing(
        paired=len(images.keys() & labels.keys()),
        bare_images=[found[0] for key, found in images.items() if key not in labels],
        orphan_labels=[key for key in labels if key not in images],
        file=file,
        problems=problems,
        remedy="Labels go by the image's name in data/, without its suffix.",
    )
    samples = [
        {
            "filepath": f"data/{found[0]}",
            FIELD: {"_cls": "Detections", "detections": _boxes(labels.get(key), classes)},
        }
        for key, found in images.items()
    ]
    return {"classes": {FIELD: classes or []}}, samples


def _boxes(found: Any, classes: list[Any] | None) -> Any:
    """The boxes of one image with their attributes beside the label, which may be a number."""
    if found is None:
        return []
    if not isinstance(found, list):
        return found
    return [_box(box, classes) if isinstance(box, dict) else box for box in found]


def _box(box: dict[str, Any], classes: list[Any] | None) -> dict[str, Any]:
    attributes = box.get("attributes")
    more = attributes if isinstance(attributes, dict) else {}
    document = {**more, **{k: v for k, v in box.items() if k != "attributes"}}
    label = box.get("label")
    if isinstance(label, int) and classes is not None and 0 <= label < len(classes):
        document["label"] = classes[label]
    return document
