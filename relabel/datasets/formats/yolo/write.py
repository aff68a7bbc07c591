"""Writing YOLO text labels; the conventions are those of `relabel.datasets.formats.yolo.read`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.yolo.layout import label_path
from relabel.datasets.pixels.placing import CopyImages, place_images, write_text
from relabel.errors import ConfigError, DataError, Problems

LEFT_OUT = "marked as ignored, which YOLO cannot express: left out"


def write(
    dataset: DetectionDataset,
    out: Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    problems: Problems | None = None,
) -> list[Path]:
    """Write ``data.yaml``, ``labels/{split}/`` and, unless ``none``, ``images/{split}/``.

    Splits written one after the other into the same folder share its data.yaml. Ignored boxes,
    scores and provenance cannot be expressed; ignored boxes are left out and counted.

    Returns:
        data.yaml, then the label files.

    Raises:
        ConfigError: the folder holds a dataset with other classes.
        DataError: two images would share a label file, or the output cannot be written.
    """
    names = _names(list(dataset.images.file_name), split)
    _check_labels(names)
    config = _config(dataset, out / "data.yaml", split)
    folder = out / "images" / split
    if copy_images != "none":
        place_images(dataset, folder, copy_images, names=names, problems=problems)
    boxes, space = dataset.boxes, dataset.space
    if problems is not None:
        problems.count(LEFT_OUT, int(boxes.ignore.sum()))
    size = np.stack([dataset.images.width, dataset.images.height], axis=1).astype(np.float64)
    scale = size[boxes.image]
    # Classes come first in a label space, so that positions are YOLO's class numbers.
    keep = ~boxes.ignore & (boxes.category < space.num_classes) & (scale > 0).all(axis=1)
    scale = np.where(scale > 0, scale, 1)
    center = (boxes.xywh[:, :2] + boxes.xywh[:, 2:] / 2) / scale
    extent = boxes.xywh[:, 2:] / scale
    numbers = np.clip(np.concatenate([center, extent], axis=1), 0, 1)
    files = []
    for row, span in dataset.iter_images():
        file = label_path(folder / names[row])
        lines = [
            f"{boxes.category[i]} " + " ".join(f"{v:.12g}" for v in numbers[i]) + "\n"
            for i in range(span.start, span.stop)
            if keep[i]
        ]
        write_text(file, "".join(lines))
        files.append(file)
    write_text(out / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return [out / "data.yaml", *files]


def _names(file_names: list[str], split: str) -> list[str]:
    """Names below ``images/{split}/``: folders of that name are not repeated."""
    shorter = []
    for name in file_names:
        parts = list(PurePosixPath(name).parts)
        for prefix in ("images", split):
            if len(parts) > 1 and parts[0] == prefix:
                parts = parts[1:]
        shorter.append("/".join(parts))
    return shorter if len(set(shorter)) == len(shorter) else file_names


def _check_labels(names: list[str]) -> None:
    first: dict[str, str] = {}
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in first:
            raise DataError(
                f"images {first[stem]!r} and {name!r} would share the label file {stem}.txt",
                remedy="Rename one of them.",
            )
        first[stem] = name


def _config(dataset: DetectionDataset, file: Path, split: str) -> dict[str, Any]:
    """data.yaml with this split added to those it has."""
    names = dict(enumerate(dataset.space.class_names))
    splits: dict[str, str] = {}
    if file.is_file():
        try:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            before = None
        if not isinstance(before, dict) or before.get("names") != names:
            raise ConfigError(
                "holds a dataset with other classes",
                file=file,
                remedy="Choose another --out, or remove it.",
            )
        splits = {k: v for k, v in before.items() if k not in ("names", "nc")}
    splits[split] = f"images/{split}"
    # Ultralytics wants both; one that is missing borrows the other until it is written.
    for needed in ("train", "val"):
        splits.setdefault(needed, f"images/{split}")
    order = [s for s in dict.fromkeys(("train", "val", "test", *sorted(splits))) if s in splits]
    return {**{s: splits[s] for s in order}, "nc": len(names), "names": names}
