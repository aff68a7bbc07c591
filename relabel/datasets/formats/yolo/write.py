"""Writing YOLO text labels; the conventions are those of `relabel.datasets.formats.yolo.read`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import LEFT_OUT
from relabel.datasets.formats.output import Plan, output
from relabel.datasets.formats.splits import split_kind
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
from relabel.datasets.formats.yolo.layout import IMAGE_SUFFIXES, label_path
from relabel.datasets.pixels.placing import CopyImages, place_images
from relabel.errors import ConfigError, DataError, Problems
from relabel.files.opening import read_text
from relabel.files.yaml_text import load_yaml

_LINE_ENDS = re.compile("[\x85\u2028\u2029\ufeff]")
_OTHER_KEYS = ("names", "nc", "path")


def write(
    dataset: DetectionDataset,
    out: Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    problems: Problems | None = None,
) -> list[Path]:
    """Write ``data.yaml``, ``labels/{split}/`` and, unless ``none``, ``images/{split}/``.

    Splits written one after the other into the same folder share its data.yaml. Ignored boxes are
    left out and counted; what else YOLO has no place for (ids, scores, areas, segmentation) is
    told.

    Returns:
        data.yaml, then the label files.

    Raises:
        ConfigError: the folder holds a dataset with other classes, or the split's name cannot be
            one.
        DataError: no image; a class or file name that a YOLO reader would not give back, two
            images that would share a label file, an image without a size, or the output cannot be
            written. Names are looked at first.
    """
    check_split(split)
    check_any(dataset, "YOLO")
    if split in _OTHER_KEYS:
        raise ConfigError(
            f"a split of YOLO cannot be called {split!r}, which means something else in data.yaml",
            remedy="Use a name such as train, val or test.",
        )
    folder = out / "images" / split
    check_classes(dataset, _class_fault)
    names = _names(list(dataset.images.file_name), split)
    check_images(dataset)
    check_images(dataset, names, _file_fault)
    check_files(dataset, names, folder, problems)
    labels = [label_path(f"images/{split}/{name}") for name in names]
    _check_labels(dataset, labels)
    config = _config(dataset, out / "data.yaml", split)
    dataset = cleaned(dataset, problems, out)
    keep = ~dataset.boxes.ignore & (dataset.boxes.category < dataset.space.num_classes)
    if problems is not None:
        _tell(dataset, keep, names, split, problems, out)

    boxes = dataset.boxes
    size = np.stack([dataset.images.width, dataset.images.height], axis=1).astype(np.float64)
    scale = size[boxes.image]
    # Classes come first in a label space, so that positions are YOLO's class numbers.
    center = (boxes.xywh[:, :2] + boxes.xywh[:, 2:] / 2) / scale
    extent = boxes.xywh[:, 2:] / scale
    numbers = np.clip(np.concatenate([center, extent], axis=1), 0, 1)
    rows = dataset.offsets.tolist()

    def content(row: int) -> bytes:
        at = slice(rows[row], rows[row + 1])
        columns = (keep[at].tolist(), boxes.category[at].tolist(), numbers[at].tolist())
        lines = [
            f"{c} {x:.15g} {y:.15g} {w:.15g} {h:.15g}\n"
            for kept, c, (x, y, w, h) in zip(*columns, strict=True)
            if kept
        ]
        return "".join(lines).encode()

    text = yaml.dump(
        config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    placed = [] if copy_images == "none" else [f"images/{split}/{name}" for name in names]
    plan = Plan(
        out,
        "yolo",
        split,
        copy_images,
        {"data.yaml": text.encode()},
        labels=labels,
        content=content,
        shared=("data.yaml",),
        images=placed,
        swept={f"labels/{split}": (".txt",)}
        | ({f"images/{split}": IMAGE_SUFFIXES} if placed else {}),
    )
    with output(plan, dataset) as opened:
        if copy_images != "none":
            place_images(dataset, folder, copy_images, names=names, problems=problems)
        opened.write_labels()
    return [out / "data.yaml", *(out / name for name in labels)]


def _class_fault(name: str) -> str | None:
    return None if name.strip() else "is blank"


def _file_fault(name: str) -> str | None:
    suffix = posixpath.splitext(name)[1]
    if suffix.lower() not in IMAGE_SUFFIXES:
        return "does not end in .jpg or another suffix by which readers of YOLO find images"
    return None


def _names(file_names: list[str], split: str) -> list[str]:
    """Names below ``images/{split}/``: folders of that name are not repeated."""
    plain = [posixpath.normpath(name) if name else name for name in file_names]
    shorter = []
    for name in plain:
        parts = name.split("/")
        for prefix in ("images", split):
            if len(parts) > 1 and parts[0] == prefix:
                parts = parts[1:]
        shorter.append("/".join(parts))
    return shorter if len(set(shorter)) == len(shorter) else plain


def _check_labels(dataset: DetectionDataset, labels: list[str]) -> None:
    if len(set(labels)) == len(labels):
        return
    first: dict[str, int] = {}
    names = dataset.images.file_name
    for row, file in enumerate(labels):
        other = first.setdefault(file, row)
        if other != row:
            raise DataError(
                f"images {names[other]!r} and {names[row]!r} would share the label file "
                f"{posixpath.basename(file)}",
                record=f"image {dataset.images.id[row]}",
                remedy="Rename one of them.",
            )


class _Dumper(yaml.SafeDumper):
    """Quotes names with line ends of Unicode and byte order marks, which PyYAML writes plainly."""


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _LINE_ENDS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represented)


def _tell(
    dataset: DetectionDataset,
    keep: np.ndarray,
    names: list[str],
    split: str,
    problems: Problems,
    out: Path,
) -> None:
    """Say what is left out or changes, and where nothing is left to train on."""
    problems.count(LEFT_OUT, int((~keep).sum()))
    kept = dataset.with_boxes(dataset.boxes.take(keep))
    folder, note = f"images/{split}/", ""
    if any(folder + a != b for a, b in zip(names, dataset.images.file_name, strict=True)):
        note = f"image names begin with {folder} now"
    tell_lost(_lost(kept), "YOLO", problems, out, note=note)
    if len(keep) and not keep.any():
        problems.warning(
            f"all {len(keep)} boxes are ones to ignore: split {split!r} has none to train on",
            file=out,
        )


def _lost(dataset: DetectionDataset) -> Iterator[str]:
    space = dataset.space
    if [c.id for c in space.categories] != list(range(1, len(space) + 1)):
        yield "category ids"
    ignored = len(space) - space.num_classes
    if ignored:
        yield f"classes to ignore ({ignored})"
    yield from lost_of_file(dataset)
    yield from lost_of_boxes(dataset)


def _config(dataset: DetectionDataset, file: Path, split: str) -> dict[str, Any]:
    """data.yaml with this split added to those it has."""
    names = dict(enumerate(dataset.space.class_names))
    splits: dict[str, str] = {}
    if file.is_file():
        try:
            before = load_yaml(read_text(file), file)
        except DataError:
            before = None
        if not isinstance(before, dict) or before.get("names") != names:
            raise ConfigError(
                "holds a dataset with other classes",
                file=file,
                remedy="Choose another --out, or remove it.",
            )
        splits = {k: v for k, v in before.items() if k not in ("names", "nc") and type(v) is str}
    # Ultralytics looks for `val`, whatever the folder is called.
    key = split_kind(split)
    taken = splits.get(key, "").removeprefix("images/")
    if taken != split and split_kind(taken) == key:
        key = split
    splits[key] = f"images/{split}"
    # Ultralytics wants both; one that is missing borrows the other until it is written.
    for needed in ("train", "val"):
        splits.setdefault(needed, f"images/{split}")
    order = [s for s in dict.fromkeys(("train", "val", "test", *sorted(splits))) if s in splits]
    return {**{s: splits[s] for s in order}, "nc": len(names), "names": names}
