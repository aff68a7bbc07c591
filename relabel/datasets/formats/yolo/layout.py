"""Where YOLO datasets keep their images, split by split, and the label file of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relabel.datasets.formats.splits import find_split, split_kind
from relabel.datasets.formats.yolo.config import YAML_SUFFIXES, Config, find_config, on_disk
from relabel.datasets.formats.yolo.label_files import LabelFiles
from relabel.errors import DataError, Problems
from relabel.files.opening import read_text
from relabel.files.walk import is_hidden, walk_files

# What Ultralytics reads, and what else Pillow may: a suffix that no decoder is for is an error of
# the image, not an image less.
IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".mpo", ".pfm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
_KINDS = ("train", "val", "test")
_SHOWN = 3
# Folders of images and labels as Darknet and CVAT call them.
_DARKNET = re.compile(r"obj_(.+)_data", re.IGNORECASE)


@dataclass
class Layout:
    """A YOLO dataset on disk.

    Attributes:
        root: folder that image file names are relative to.
        names: class names by class number.
        file: the data.yaml or the file of class names, for messages.
        keypoints: how many keypoints a row has, and 2 or 3 numbers for each.
        images: file names, sorted within each split.
        labels: the label file of each image, None where there is none.
    """

    root: Path
    names: dict[int, str]
    file: Path
    keypoints: tuple[int, int] | None = None
    images: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)


@dataclass
class _Source:
    """Images of a split: all of a folder, or those that a list names.

    Attributes:
        folder: of all images, or above them.
        names: relative to it.
        whole: whether these are all images below the folder.
    """

    folder: str
    names: list[str]
    whole: bool


def label_path(image: str) -> str:
    """The label file of an image: the last folder ``images`` becomes ``labels``.

    Without such a folder the label file stands beside the image.
    """
    folder, slash, name = image.rpartition("/")
    before, found, after = f"/{folder}/".rpartition("/images/")
    folder = f"{before}/labels/{after}"[1:-1] if found else folder
    return f"{folder}{slash}{os.path.splitext(name)[0]}.txt"  # noqa: PTH122


def find_layout(
    path: Path, *, split: str | None, annotations: str | None, problems: Problems
) -> Layout:
    """Find the class names, images and label files of a YOLO dataset.

    What does not fit is told through ``problems``: splits that are stated but absent, images
    without label file and label files without image, folders of images that are in no split.

    Raises:
        DataError: no class names, no such split, no images, a path that leads outside, or hardly
            an image that has a label file.
    """
    config = find_config(path, annotations)
    labels: Path | None = None
    if config.splits is not None:
        sources = _of_splits(config, config.splits, split, problems)
    else:
        sources, labels = _without_splits(config, split, problems)
    if not any(source.names for source in sources):
        raise DataError(
            "names no images",
            file=config.file,
            remedy="Set train to a folder of images, or put them into images/ beside labels/.",
        )
    root = _root(config, sources)
    layout = Layout(root, config.names, config.file, config.keypoints)
    files = LabelFiles(root, labels)
    seen: set[str] = set()
    for source in sources:
        images, found = files.pair(source.folder, source.names, whole=source.whole, seen=seen)
        layout.images += images
        layout.labels += found
    _check_names(layout, problems)
    if split is None and labels is None:
        unread = _unread(sources, root, seen, files)
        if unread:
            shown = ", ".join(unread[:_SHOWN]) + (", ..." if len(unread) > _SHOWN else "")
            problems.warning(
                f"{len(unread)} images are in none of the splits that are read ({shown})",
                file=layout.file,
            )
    files.check(
        layout.images,
        layout.labels,
        file=layout.file,
        problems=problems,
        suffixes=IMAGE_SUFFIXES,
    )
    return layout


def _of_splits(
    config: Config, splits: dict[str, list[str]], split: str | None, problems: Problems
) -> list[_Source]:
    keys = [k for kind in _KINDS for k in splits if split_kind(k) == kind]
    if config.file.suffix.lower() not in YAML_SUFFIXES:
        keys = list(dict.fromkeys((*keys, *splits)))
    if split is not None:
        keys = [find_split(split, splits, file=config.file)]
    sources: list[_Source] = []
    missing: list[str] = []
    for key in keys:
        for stated in splits[key]:
            place = config.find(stated)
            if place is None:
                missing.append(f"{key} is {stated[:200]!r}, which does not exist")
            elif place.is_dir():
                sources.append(_folder(str(place)))
            elif place.suffix.lower() in IMAGE_SUFFIXES:
                sources.append(_Source(str(place.parent), [place.name], whole=False))
            else:
                sources.append(_listed(place, config, problems))
            if place is not None and not sources[-1].names:
                missing.append(f"{key} is {stated[:200]!r}, which names no images")
    if missing and (split is not None or not any(s.names for s in sources)):
        raise DataError(
            missing[0],
            file=config.file,
            remedy="Correct the path; it is relative to `path`, or to the file's folder.",
        )
    for text in missing:
        problems.warning(f"{text}: the split is left out", file=config.file)
    return sources


def _folder(folder: str) -> _Source:
    names = walk_files(folder, IMAGE_SUFFIXES)
    # By folder, then by name.
    return _Source(folder, sorted(names, key=lambda name: name.split("/")), whole=True)


def _listed(file: Path, config: Config, problems: Problems) -> _Source:
    """The images a text file lists, which must lie inside the dataset."""
    places = list(dict.fromkeys((file.parent, *config.places)))
    near = Config(config.file, {}, places, config.roots)
    names_in = _Names()
    images: dict[str, None] = {}
    again = 0
    for number, line in enumerate(read_text(file).split("\n"), 1):
        entry = line.strip()
        if not entry:
            continue
        record = f"line {number}"
        image = names_in.find(places, entry.removeprefix("./"))
        if image is None:
            try:
                found = near.find(entry)
            except DataError:
                problems.error(
                    f"{entry[:200]!r} leads out of the dataset's root",
                    file=file,
                    record=record,
                    remedy="List images inside the dataset's folder.",
                )
                continue
            if found is None:
                problems.error(
                    f"there is no image {entry[:200]!r}",
                    file=file,
                    record=record,
                    remedy="Paths are relative to the list's folder or to the dataset's.",
                )
                continue
            image = str(found)
        again += image in images
        images[image] = None
    if again:
        problems.warning(f"{again} lines name an image again and count once", file=file)
    for root in map(str, config.roots):
        if all(_below(i, root) for i in images):
            break
    else:
        root = os.path.commonpath(config.roots)
    return _Source(root, [i[len(root.rstrip("/")) + 1 :] for i in images], whole=False)


class _Names:
    """Which files folders hold, each listed once: a question per listed image is slow."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def find(self, places: list[Path], entry: str) -> str | None:
        """The file of a plain relative path in the first of the places that has it."""
        folder, _, name = entry.rpartition("/")
        if ".." in entry or "//" in entry or "/./" in entry or entry.startswith("/"):
            return None
        for place in places:
            where = f"{place}/{folder}" if folder else str(place)
            if where not in self._names:
                try:
                    self._names[where] = set(os.listdir(where))  # noqa: PTH208
                except (OSError, ValueError):
                    self._names[where] = set()
            if name in self._names[where]:
                return f"{where}/{name}"
        return None


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _without_splits(
    config: Config, split: str | None, problems: Problems
) -> tuple[list[_Source], Path | None]:
    """Images beside a file of class names: labelImg, Darknet, CVAT and label-only exports.

    Returns:
        the images; and the folder of all label files, where that does not follow from theirs.
    """
    path = config.places[0]
    splits, rest = _found_splits(config)
    if splits and (split is not None or rest is None):
        return _of_splits(config, splits, split, problems), None
    if split is not None:
        find_split(split, (), file=path)  # raises, as there are none
    if rest is not None:
        return [_folder(str(rest))], None
    labels = on_disk(str(path / "labels"))
    # Labels alone, with the images in a folder of the same stems next to it.
    for folder in (path / "JPEGImages", path.parent / "images", path.parent / "JPEGImages"):
        if labels is not None and folder.is_dir():
            return [_folder(str(folder))], Path(labels)
    return [_folder(str(path))], None


def _found_splits(config: Config) -> tuple[dict[str, list[str]], Path | None]:
    """Splits as folders and lists are called, and the folder that holds all images, if one does."""
    path = config.places[0]
    tops = (path, path / "data")
    found = {p.stem: [str(p)] for top in tops for p in _files(top) if _is_list(p, config.file)}
    listed = set(map(split_kind, found))
    for folder in (p for top in tops for p in _folders(top)):
        match = _DARKNET.fullmatch(folder.name)
        if match is not None and split_kind(match[1]) not in listed:
            found[match[1]] = [str(folder)]
    if found:
        return found, None
    images = on_disk(str(path / "images"))
    if images is not None and Path(images).is_dir():
        inside = {p.name: [str(p)] for p in _folders(Path(images)) if _is_split(p)}
        return inside, Path(images)
    return {p.name: [str(p)] for p in _folders(path) if _is_split(p)}, None


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (p for p in sorted(path.iterdir()) if p.is_dir() and not is_hidden(p.name))


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (p for p in sorted(path.iterdir()) if p.is_file() and not is_hidden(p.name))


def _is_split(path: Path) -> bool:
    return split_kind(path.name) in _KINDS


def _is_list(file: Path, names: Path) -> bool:
    """Whether a text file called as a split is lists images, rather than being a label file."""
    if file.suffix.lower() != ".txt" or not _is_split(file.with_suffix("")) or file == names:
        return False
    first = read_text(file).lstrip().split("\n", 1)[0].strip()
    return os.path.splitext(first)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _root(config: Config, sources: list[_Source]) -> Path:
    """The folder that file names are relative to: the dataset's, where it holds all images."""
    folders = [s.folder for s in sources if s.names]
    for place in (config.places[0], *config.roots):
        if all(f == str(place) or _below(f, str(place)) for f in folders):
            return place
    return Path(os.path.commonpath(folders))


def _check_names(layout: Layout, problems: Problems) -> None:
    """File names that are no text cannot be written anywhere."""
    try:
        "".join(layout.images).encode()
    except UnicodeEncodeError:
        bad = [i for i, n in enumerate(layout.images) if not n.isprintable() and max(n) >= "\udc80"]
        for i in bad:
            problems.error(
                "the file's name is not UTF-8 text",
                file=layout.root / layout.images[i].encode("utf-8", "replace").decode(),
                remedy="Rename it.",
            )
        gone = set(bad)
        layout.images = [n for i, n in enumerate(layout.images) if i not in gone]
        layout.labels = [n for i, n in enumerate(layout.labels) if i not in gone]


def _unread(sources: list[_Source], root: Path, seen: set[str], files: LabelFiles) -> list[str]:
    """Images where the dataset keeps its images, but in no split, relative to the root.

    The label files beside them are listed too.
    """
    places: dict[str, None] = {}
    for source in sources:
        for folder in sorted({os.path.dirname(n) for n in source.names}):  # noqa: PTH120
            parts = Path(source.folder, folder).relative_to(root).parts
            inside = next((i for i, p in enumerate(parts) if p.lower() == "images"), None)
            if inside is not None:
                places[str(Path(root, *parts[: inside + 1]))] = None
            elif parts and not source.whole:
                places[str(Path(root, *parts))] = None
    for top in (root, root / "data"):
        places.update((str(p), None) for p in _folders(top) if _DARKNET.fullmatch(p.name))
    for top in _folders(root):
        below = on_disk(str(top / "images"))
        if _is_split(top) and below is not None and Path(below).is_dir():
            places[below] = None
    read = {s.folder for s in sources if s.whole}
    unread: set[str] = set()
    for place in places:
        if place not in read:
            found = (f"{place}/{name}" for name in walk_files(place, IMAGE_SUFFIXES))
            left = [image for image in found if image not in seen]
            files.look_below(place, {os.path.dirname(image) for image in left})  # noqa: PTH120
            unread.update(left)
    return sorted(os.path.relpath(image, root) for image in unread)
