"""Where YOLO datasets keep their class names, images and labels."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from relabel.errors import DataError, Problems

IMAGE_SUFFIXES = {
    ".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm", ".heic",
}  # fmt: skip
_SPLITS = ("train", "val", "test")
_ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val")}
_NAME_FILES = (
    "classes.txt",
    "obj.names",
    "labels/classes.txt",
    "data/obj.names",
    "_darknet.labels",
)


@dataclass
class Layout:
    """A YOLO dataset on disk.

    Attributes:
        root: folder that image file names are relative to.
        names: class names by class number.
        images: the image files, sorted within each split.
        file: the data.yaml or the file of class names, for messages.
        labels: folder of all label files, where it does not follow from the images' paths.
    """

    root: Path
    names: dict[int, str]
    images: list[Path] = field(default_factory=list)
    file: Path | None = None
    labels: Path | None = None


def label_path(image: Path, layout: Layout | None = None) -> Path:
    """The label file of an image: the last folder ``images`` becomes ``labels``.

    Without such a folder the label file stands beside the image.
    """
    if layout is not None and layout.labels is not None:
        return layout.labels / image.relative_to(layout.root).with_suffix(".txt")
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def find_layout(
    path: Path, *, split: str | None, annotations: str | None, problems: Problems
) -> Layout:
    """Find the class names and images of a YOLO dataset.

    Raises:
        DataError: no class names, no such split, no images, or a list that leads outside.
    """
    config = _config_file(path, annotations)
    if config is None:
        return _without_config(path, split)
    data = _load(config)
    names = _names(data, config)
    base = _base(data, config)
    keys = [k for k in _SPLITS if data.get(k)]
    if "valid" in data and "val" not in keys:
        keys.append("valid")
    if split is not None:
        wanted = [k for k in _ALIASES.get(split, (split,)) if data.get(k)]
        if not wanted:
            raise DataError(
                f"has no split {split!r}",
                file=config,
                remedy=f"Known: {', '.join(keys) or 'none'}.",
            )
        keys = wanted[:1]
    images: dict[Path, None] = {}
    for key in keys:
        sources = data[key] if isinstance(data[key], list) else [data[key]]
        for source in sources:
            if not isinstance(source, str):
                raise DataError(f"{key} is not a path: {source!r}", file=config)
            images.update(dict.fromkeys(_images(source, key, base, config, problems)))
    if not images:
        raise DataError("names no images", file=config, remedy="Set train to a folder of images.")
    listed = list(images)
    root = base
    if not all(i.is_relative_to(base) for i in listed):
        root = Path(os.path.commonpath([i.parent for i in listed]))
    return Layout(root, names, listed, config)


def _config_file(path: Path, annotations: str | None) -> Path | None:
    if path.is_file() or annotations:
        file = path / annotations if annotations and path.is_dir() else path
        if not file.is_file():
            raise DataError("no such file", file=file, remedy="Check the path.")
        if file.suffix.lower() not in (".yaml", ".yml"):
            raise DataError(
                "is not a YAML file", file=file, remedy="Point at data.yaml or at its folder."
            )
        return file
    for name in ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml"):
        if (path / name).is_file():
            return path / name
    found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    return found[0] if len(found) == 1 else None


def _load(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"not readable YAML: {error}", file=file) from error
    if not isinstance(data, dict):
        raise DataError(
            "is not a data.yaml", file=file, remedy="It needs names and train, val or test."
        )
    return data


def _names(data: dict[str, Any], file: Path) -> dict[int, str]:
    names, count = data.get("names"), data.get("nc")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None and isinstance(count, int) and not isinstance(count, bool):
        names = {i: f"class_{i}" for i in range(count)}
    if not isinstance(names, dict) or not names:
        raise DataError(
            "has no class names", file=file, remedy="Add `names`, a list or a map by number."
        )
    if any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in names):
        raise DataError("names are not numbered from 0", file=file, remedy="Use `0: name`.")
    if count is not None and count != len(names):
        raise DataError(
            f"nc is {count} but there are {len(names)} names", file=file, remedy="Correct nc."
        )
    return {k: str(names[k]) for k in sorted(names)}


def _base(data: dict[str, Any], file: Path) -> Path:
    """The folder that split paths are relative to."""
    stated = data.get("path")
    if isinstance(stated, str) and stated:
        base = file.parent / stated
        # Absolute paths of the machine on which the file was written are of no use elsewhere.
        if base.is_dir():
            return base
    return file.parent


def _images(source: str, key: str, base: Path, config: Path, problems: Problems) -> list[Path]:
    place = base / source
    if not place.exists() and source.startswith("../"):
        # Roboflow writes ../train/images for a data.yaml that stands beside train/.
        place = base / source[3:]
    if not place.exists():
        raise DataError(
            f"{key} is {source!r}, which does not exist",
            file=config,
            remedy="Correct the path; it is relative to `path`, or to the file's folder.",
        )
    if place.is_file():
        return _listed(place, base, problems)
    return folder_images(place)


def folder_images(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _listed(file: Path, base: Path, problems: Problems) -> list[Path]:
    """The images a text file lists, which must lie inside the dataset."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=file) from error
    images: dict[Path, None] = {}
    # Not resolve(): images that are symbolic links to somewhere else are welcome.
    inside = Path(os.path.abspath(base))  # noqa: PTH100
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry:
            continue
        # Ultralytics resolves ./ from the list's folder, the rest from the working folder; Darknet
        # lists start with data/ from the folder above.
        places = [file.parent / entry, base / entry, base.parent / entry]
        image = next((p for p in places if p.is_file()), places[0])
        image = Path(os.path.abspath(image))  # noqa: PTH100
        if not image.is_relative_to(inside):
            problems.error(
                f"{entry!r} leads out of the dataset's root",
                file=file,
                record=f"line {number}",
                remedy="List images inside the dataset's folder.",
            )
            continue
        images[base / image.relative_to(inside)] = None
    return list(images)


def _without_config(path: Path, split: str | None) -> Layout:
    """A folder with a file of class names: labelImg, Darknet and label-only exports."""
    file = next((path / n for n in _NAME_FILES if (path / n).is_file()), None)
    if file is None:
        raise DataError(
            "no data.yaml and no classes.txt",
            file=path,
            remedy="Point at a data.yaml, or add one with `names`, `train` and `val`.",
        )
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=file) from error
    while lines and not lines[-1].strip():
        lines.pop()
    names = {i: line.strip() for i, line in enumerate(lines)}
    for part in ("images", "obj_train_data", "data/obj_train_data"):
        folder = path / part
        if split is not None and (folder / split).is_dir():
            folder = folder / split
        if folder.is_dir() and (images := folder_images(folder)):
            return Layout(path, names, images, file)
    if split is not None and (path / split).is_dir():
        return Layout(path, names, folder_images(path / split), file)
    labels = path / "labels"
    # Labels alone, with the images in a folder of the same stems next to it.
    for folder in (path / "JPEGImages", path.parent / "images", path.parent / "JPEGImages"):
        if labels.is_dir() and folder.is_dir():
            return Layout(folder, names, folder_images(folder), file, labels)
    images = folder_images(path)
    if not images:
        raise DataError("no images", file=path, remedy="Put them into images/ beside labels/.")
    return Layout(path, names, images, file)
