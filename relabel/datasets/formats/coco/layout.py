"""Where COCO datasets keep their annotation files and images."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from relabel.datasets.dataset import Images
from relabel.datasets.formats.pairing import tell_absent
from relabel.datasets.formats.splits import split_names
from relabel.datasets.pixels.placing import file_name_fault
from relabel.errors import DataError, Problems
from relabel.files.paths import posix
from relabel.files.walk import is_hidden

_NOT_INSTANCES = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
# Folders of annotation files: the dataset's folder is theirs.
_LABEL_FOLDERS = ("annotations", "annotation", "labels", "anns")
_SUFFIXES = (".json", ".json.gz")
_MOST_FOLDERS = 2000


def find_annotations(path: Path, *, split: str | None, annotations: str | None) -> Path:
    """The annotation file of a dataset.

    ``path`` may be the file itself. In a folder it is ``annotations`` if given, else for a split
    ``annotations/instances_{split}*.json``, ``annotations/{split}.json``, ``{split}.json``,
    ``{split}/_annotations.coco.json`` (Roboflow) and similar, under the split's own name or
    another that it goes by (``val``, ``valid``), else the only JSON file there is. Each may be
    compressed, ``.json.gz``.

    Raises:
        DataError: none, or several to choose from.
    """
    if not path.is_dir():
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


def _split_candidates(path: Path, split: str) -> Iterator[list[Path]]:
    """Files that may be the split's, the surest first."""
    for name in split_names(split):
        for other in dict.fromkeys((name, name.lower(), name.capitalize())):
            yield from _named_candidates(path, other)


def _named_candidates(path: Path, split: str) -> Iterator[list[Path]]:
    for fixed in (
        f"annotations/instances_{split}",
        f"annotations/{split}",
        split,
        f"instances_{split}",
        f"{split}/_annotations.coco",
        f"{split}/annotations",
        f"{split}/{split}",
        f"{split}/labels",
    ):
        yield [f for suffix in _SUFFIXES if (f := path / f"{fixed}{suffix}").is_file()][:1]
    # A split called `train` is also the `train2017` of instances_train2017.json, but neither that
    # of trainval.json, nor is `dev` that of device.json.
    word = re.compile(rf"(?<![A-Za-z]){re.escape(split)}(?![A-Za-z])")
    text = glob.escape(split)
    patterns = [f"annotations/instances_{text}*", f"annotations/*_{text}*"]
    for pattern in (*patterns, f"*{text}*", f"annotations/*{text}*", f"{text}/*"):
        found = _instances(path, pattern)
        yield [f for f in found if word.search(f.relative_to(path).as_posix())]


def _all_files(path: Path) -> list[Path]:
    for patterns in (("*", "annotations/*"), ("*/_annotations.coco", "*/*")):
        found = {file for pattern in patterns for file in _instances(path, pattern)}
        if found:
            return sorted(found)
    return []


def _instances(path: Path, pattern: str) -> list[Path]:
    files = {file for suffix in _SUFFIXES for file in path.glob(f"{pattern}{suffix}")}
    return sorted(
        file
        for file in files
        if file.is_file()
        and not file.name.startswith(_NOT_INSTANCES)
        and not any(is_hidden(part) for part in file.relative_to(path).parts)
    )


def _listed(root: Path, files: Sequence[Path]) -> str:
    names = [p.relative_to(root).as_posix() for p in files[:10]]
    return ", ".join(names) + (", ..." if len(files) > 10 else "") if names else "none"


def find_root(
    path: Path,
    file: Path,
    file_names: Sequence[str],
    fields: dict[str, Any],
    split: str | None,
) -> tuple[Path, bool]:
    """The folder that image file names are relative to, and whether it lies outside the dataset.

    It is the root that relabel states in the file (``info.relabel.root``) if an image is there,
    else the first folder in which most images are found, of the folder given as PATH, the file's
    folder, its parent, and ``images/``, ``{split}/`` and the usual combinations in each, with
    ``train2017`` taken from ``instances_train2017.json``. Where no image is found it is the stated
    root, else the folder given, else the file's folder.

    A root is outside if it is neither in the folder given as PATH nor in the dataset's own: that of
    the file, or the one around ``annotations/``.
    """
    n = len(file_names)
    rows = dict.fromkeys((0, 1, 2, n // 3, n // 2, n - 1))
    probes = [file_names[i] for i in rows if 0 <= i < n]
    probes = [name for name in probes if name and file_name_fault(name) is None]
    stated = _stated_root(file, fields)
    if stated is not None and _hits(stated, probes):
        return stated, _leads_out(stated, path, file)
    bases = [file.parent, file.parent.parent]
    if path.is_dir():
        bases.insert(0, path)
    stem = re.sub(r"^(instances|lvis_v\d+(\.\d+)?)_", "", file.name.partition(".")[0])
    splits = list(dict.fromkeys((stem, *(split_names(split) if split else ()))))
    folders: list[Path] = []
    for base in bases:
        folders += [base, base / "images", base / "JPEGImages", base / "data"]
        for part in splits:
            folders += [base / part, base / "images" / part, base / part / "images"]
    root, most = stated or (path if path.is_dir() else file.parent), 0
    for folder in folders:
        hits = _hits(folder, probes)
        if hits > most:
            root, most = folder, hits
    return root, _leads_out(root, path, file)


def _hits(folder: Path, names: Iterable[str]) -> int:
    return sum(os.path.isfile(folder / name) for name in names) if folder.is_dir() else 0  # noqa: PTH113


def _stated_root(file: Path, fields: dict[str, Any]) -> Path | None:
    info = fields.get("info")
    ours = info.get("relabel") if isinstance(info, dict) else None
    root = ours.get("root") if isinstance(ours, dict) else None
    if not isinstance(root, str) or not root or "\0" in root:
        return None
    root = posix(root)
    if Path(root).is_absolute() or re.match(r"[A-Za-z]:", root):
        return None
    return file.parent / root


def _leads_out(root: Path, path: Path, file: Path) -> bool:
    """Only the text counts, not links: whoever makes a link inside a dataset has had its files."""
    folder = file.parent
    if folder.name.lower() in _LABEL_FOLDERS:
        folder = folder.parent
    trusted = [folder, path] if path.is_dir() else [folder]
    whole = Path(os.path.abspath(root))  # noqa: PTH100 (without following links)
    return not any(whole.is_relative_to(os.path.abspath(base)) for base in trusted)  # noqa: PTH100


def find_images(images: Images, root: Path, file: Path, problems: Problems) -> Images:
    """Tell which images are not there; find those that lie in folders their names leave out.

    Names without a folder, none of which is in the root, are looked up in the folders below it
    where each name is there once.
    """
    names = images.file_name
    if not len(names):
        return images
    absent = _absent(root, names)
    if len(absent) == len(names) and not any("/" in name for name in names):
        places = _below(root, set(names))
        found = [places.get(name, "") for name in names] if places else []
        if any(found):
            images = replace(images, location=found)
            absent = [name for name, place in zip(names, found, strict=True) if not place]
    tell_absent(absent, len(names), root=root, file=file, problems=problems)
    return images


def _absent(root: Path, names: Sequence[str]) -> list[str]:
    """The names that are not there; listing a folder is faster than asking for each file."""
    there: set[str] = set()
    nested = "/" in "\n".join(names)
    for folder in {name.rpartition("/")[0] for name in names} if nested else {""}:
        prefix = f"{folder}/" if folder else ""
        with suppress(OSError, ValueError):
            found = os.listdir(root / folder)  # noqa: PTH208 (names only)
            there.update([prefix + name for name in found] if prefix else found)
    return [name for name in names if name not in there]


def _below(root: Path, names: set[str]) -> dict[str, str]:
    """Paths of the files below the root by name; "" where several have the name."""
    places: dict[str, str] = {}
    for count, (folder, inside, files) in enumerate(os.walk(root)):
        if count == _MOST_FOLDERS:
            break
        inside[:] = sorted(name for name in inside if not is_hidden(name))
        for name in names.intersection(files):
            places[name] = "" if name in places else os.path.join(folder, name)  # noqa: PTH118
    return places
