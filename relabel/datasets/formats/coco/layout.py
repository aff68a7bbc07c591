"""Where COCO datasets keep their annotation files and images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from relabel.datasets.pixels.placing import file_name_fault
from relabel.errors import DataError

_NOT_INSTANCES = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_PROBES = 3


def find_annotations(path: Path, *, split: str | None, annotations: str | None) -> Path:
    """The annotation file of a dataset.

    ``path`` may be the file itself. In a folder it is ``annotations`` if given, else for a split
    ``annotations/instances_{split}*.json``, ``annotations/{split}.json``, ``{split}.json``,
    ``{split}/_annotations.coco.json`` (Roboflow) and similar, else the only JSON file there is.

    Raises:
        DataError: none, or several to choose from.
    """
    if path.is_file():
        return path
    if annotations:
        file = path / annotations
        if not file.is_file():
            raise DataError(
                "no such annotation file",
                file=file,
                remedy=f"Annotation files here: {_listed(path, _all_files(path))}.",
            )
        return file
    if split:
        for found in _split_candidates(path, split):
            if len(found) == 1:
                return found[0]
            if found:
                raise DataError(
                    f"several annotation files for split {split!r}: {_listed(path, found)}",
                    file=path,
                    remedy="Give the file itself as PATH.",
                )
        raise DataError(
            f"no COCO annotation file for split {split!r}",
            file=path,
            remedy=f"Annotation files here: {_listed(path, _all_files(path))}.",
        )
    found = _all_files(path)
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{len(found) or 'no'} COCO annotation files",
        file=path,
        remedy=(
            f"Choose with --split, or give the file as PATH: {_listed(path, found)}."
            if found
            else "Point at the JSON file, or at the folder with annotations/instances_*.json."
        ),
    )


def _split_candidates(path: Path, split: str) -> Iterable[list[Path]]:
    for fixed in (
        f"annotations/instances_{split}.json",
        f"annotations/{split}.json",
        f"{split}.json",
        f"instances_{split}.json",
        f"{split}/_annotations.coco.json",
        f"{split}/annotations.json",
        f"{split}/{split}.json",
        f"{split}/labels.json",
    ):
        yield [path / fixed] if (path / fixed).is_file() else []
    # A split called `train` is also the `train2017` of instances_train2017.json.
    for pattern in (f"annotations/instances_{split}*.json", f"annotations/*_{split}*.json"):
        yield _instances(path.glob(pattern))
    for pattern in (f"*{split}*.json", f"annotations/*{split}*.json", f"{split}/*.json"):
        yield _instances(path.glob(pattern))


def _all_files(path: Path) -> list[Path]:
    for patterns in (("*.json", "annotations/*.json"), ("*/_annotations.coco.json", "*/*.json")):
        found = _instances(p for pattern in patterns for p in path.glob(pattern))
        if found:
            return found
    return []


def _instances(files: Iterable[Path]) -> list[Path]:
    return sorted(p for p in files if p.is_file() and not p.name.startswith(_NOT_INSTANCES))


def _listed(root: Path, files: Sequence[Path]) -> str:
    names = [p.relative_to(root).as_posix() for p in files[:10]]
    return ", ".join(names) + (", ..." if len(files) > 10 else "") if names else "none"


def find_root(
    path: Path,
    file: Path,
    file_names: Sequence[str],
    fields: dict[str, Any],
    split: str | None,
) -> Path:
    """The folder that image file names are relative to: the first in which an image is found.

    Tried are the root that relabel states in the file (``info.relabel.root``), the folder given
    as PATH, the file's folder, its parent, and ``images/``, ``{split}/`` and the usual
    combinations in each, with ``train2017`` taken from ``instances_train2017.json``. Where no
    image is found it is the stated root, else the folder given, else the file's folder.
    """
    probes = [n for n in file_names[:_PROBES] if n and file_name_fault(n) is None]
    stated = _stated_root(file, fields)
    bases = [file.parent, file.parent.parent]
    if path.is_dir():
        bases.insert(0, path)
    stem = re.sub(r"^(instances|lvis_v\d+(\.\d+)?)_", "", file.stem)
    splits = list(dict.fromkeys(s for s in (stem, split) if s))
    folders: list[Path] = [] if stated is None else [stated]
    for base in bases:
        folders += [base, base / "images", base / "JPEGImages", base / "data"]
        for part in splits:
            folders += [base / part, base / "images" / part, base / part / "images"]
    for folder in folders:
        if any((folder / n).is_file() for n in probes):
            return folder
    return stated or (path if path.is_dir() else file.parent)


def _stated_root(file: Path, fields: dict[str, Any]) -> Path | None:
    info = fields.get("info")
    ours = info.get("relabel") if isinstance(info, dict) else None
    root = ours.get("root") if isinstance(ours, dict) else None
    if not isinstance(root, str) or not root or Path(root).is_absolute() or "\0" in root:
        return None
    return file.parent / root
