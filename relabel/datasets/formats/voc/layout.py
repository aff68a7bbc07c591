"""Where a VOC dataset keeps its XML files, images and image sets, and which image an XML is about.

Folders below ``Annotations/`` and ``JPEGImages/`` are read, so that the same stem may appear in
several of them. Nothing is opened here but image sets.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relabel.datasets.formats.splits import find_split
from relabel.errors import DataError, Problems
from relabel.files.opening import read_text
from relabel.files.paths import is_absolute, posix
from relabel.files.walk import is_hidden, walk_files

_XML_FOLDERS = ("annotations", "annotation")
_IMAGE_FOLDERS = ("jpegimages", "images", "jpegimage")
# The order in which several images of one stem are taken.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SETS = ("ImageSets/Main", "ImageSets")
# Image sets of one class have a second column: -1, 0 or 1.
_FLAG = re.compile(r"\s+-?[01]$")
_CLASS_SET = re.compile(r".+_(train|val|trainval|test)")


@dataclass(frozen=True)
class Layout:
    """The files of a dataset.

    Attributes:
        folder: where XML files lie.
        stems: relative path of every XML file, by the same without its suffix.
        chosen: the keys of ``stems`` to read, in order.
        whole: all XML files of the folder are read, not a list of them.
        image_folder: the root of image names.
        images: what lies there.
    """

    folder: Path
    stems: dict[str, str]
    chosen: list[str]
    whole: bool
    image_folder: Path
    images: ImageIndex


def find_layout(
    path: Path, split: str | None, annotations: str | None, problems: Problems
) -> Layout:
    """Find the files; arguments as of the reader.

    Raises:
        DataError: no XML files, an unknown split, an image set that names what is not there.
    """
    if path.is_file():
        raise DataError(
            "is a file", file=path, remedy="Point at the folder that holds Annotations/."
        )
    root = _devkit_folder(path)
    folder = _subfolder(root, _XML_FOLDERS)
    if folder is None and split and not annotations:
        inner = [p.name for p in _folders(root)]
        if split_name := _split_or_none(split, inner, root):
            # A split with a folder of its own, itself laid out in one of these ways.
            root, split = root / split_name, None
            folder = _subfolder(root, _XML_FOLDERS)
    folder = folder or root
    found = sorted((_stem(name), name) for name in walk_files(folder, {".xml"}))
    if not found:
        raise DataError(
            "no XML files",
            file=folder,
            remedy="Point at the folder that holds Annotations/ and JPEGImages/.",
        )
    stems = dict(found)
    twice = len(found) - len(stems)
    if twice:
        problems.error(
            f"{twice} XML files differ from another in the case of their suffix only",
            file=folder,
            remedy="Remove one of the two.",
        )
    chosen = list(stems)
    if annotations and annotations.lower().endswith(".xml"):
        name = os.path.relpath(root / annotations, folder)
        chosen = [stem for stem, file in stems.items() if file == name]
    elif annotations:
        chosen = _listed(root / annotations, stems, problems)
    elif split:
        chosen = _of_split(root, folder, split, stems, problems)
    image_folder = _subfolder(root, _IMAGE_FOLDERS)
    if image_folder is None:
        image_folder = root if folder.name.lower() in _XML_FOLDERS else folder
    images = ImageIndex(walk_files(image_folder, frozenset(SUFFIXES)))
    return Layout(folder, stems, chosen, not (split or annotations), image_folder, images)


def _devkit_folder(path: Path) -> Path:
    """``path``, or the one ``VOCdevkit/VOC*`` inside it."""
    if not path.is_dir() or _subfolder(path, _XML_FOLDERS) is not None:
        return path
    found = sorted(
        p.parent
        for pattern in ("VOC*/Annotations", "VOCdevkit/VOC*/Annotations")
        for p in path.glob(pattern)
    )
    if len(found) > 1:
        raise DataError(
            f"holds {len(found)} datasets: {', '.join(p.name for p in found)}",
            file=path,
            remedy="Point at one of them.",
        )
    return found[0] if found else path


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name))
    except OSError as error:
        raise DataError(
            f"folder cannot be listed: {error.strerror}", file=root, remedy="Check the path."
        ) from error


def _subfolder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of the first of these names, in any case."""
    folders = {p.name.lower(): p for p in reversed(_folders(root))}
    return next((folders[name] for name in names if name in folders), None)


def _split_or_none(split: str, known: Iterable[str], root: Path) -> str | None:
    try:
        return find_split(split, known, file=root)
    except DataError:
        return None


def _of_split(
    root: Path, folder: Path, split: str, stems: dict[str, str], problems: Problems
) -> list[str]:
    """The stems of a split: an image set, or a folder of XML files."""
    sets = {
        p.stem: p
        for name in reversed(_SETS)
        for p in (root / name).glob("*.txt")
        if not is_hidden(p.name)
    }
    inner = {stem.split("/")[0] for stem in stems if "/" in stem}
    # VOC has sets of one class, of which a list would show little else.
    shown = [name for name in sets if not _CLASS_SET.fullmatch(name)]
    known = {*sets, *inner} if split in sets else {*(shown or sets), *inner}
    found = find_split(split, known, file=root)
    if found in sets:
        return _listed(sets[found], stems, problems)
    return [stem for stem in stems if stem.startswith(f"{found}/")]


def _listed(listing: Path, stems: dict[str, str], problems: Problems) -> list[str]:
    """The stems that an image set names: bare, with a suffix or with the folders of an image."""
    text = read_text(listing, remedy="Point at an image set, such as ImageSets/Main/train.txt.")
    by_base: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        by_base[stem.rsplit("/", 1)[-1]].append(stem)
    chosen: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if not entry:
            continue
        stem = next((s for s in _named(entry) if s in stems), None)
        if stem is None:
            bases = [by_base.get(s.rsplit("/", 1)[-1], []) for s in _named(entry)]
            stem = next((b[0] for b in bases if len(b) == 1), None)
        if stem is None or stem in chosen:
            what = "names no XML file" if stem is None else "appears twice"
            problems.error(
                f"{entry!r} {what}",
                file=listing,
                record=f"line {number}",
                remedy="Remove it from the image set, or leave it out with --skip-bad.",
            )
        else:
            chosen[stem] = None
    return list(chosen)


def _named(entry: str) -> Iterator[str]:
    """What an entry of an image set may mean, most literal first."""
    texts = [entry, _FLAG.sub("", entry), entry.split()[0]]
    for text in dict.fromkeys(texts):
        for name in _tails(posix(text)):
            yield name
            stem, suffix = _stem(name), Path(name).suffix.lower()
            if suffix in (*SUFFIXES, ".xml"):
                yield stem


def _tails(path: str) -> Iterator[str]:
    """A path, then the same with one more of its leading folders left off each time."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _stem(name: str) -> str:
    """A relative path without its suffix."""
    base = name.rsplit("/", 1)[-1]
    dot = base.rfind(".")
    return name[: len(name) - len(base) + dot] if dot > 0 else name


def _key(stem: str) -> str:
    """A stem without the folders that only tell images from annotations."""
    if "/" not in stem:
        return stem
    *folders, base = stem.split("/")
    plain = (*_XML_FOLDERS, *_IMAGE_FOLDERS)
    return "/".join([*(f for f in folders if f.lower() not in plain), base])


class ImageIndex:
    """The images of a dataset, and which of them an XML file is about."""

    def __init__(self, names: list[str]) -> None:
        self.names = frozenset(names)
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        for name in names:
            key = _key(_stem(name))
            self._by_key[key].append(name)
            self._by_base[key.rsplit("/", 1)[-1].lower()].append(name)

    def of_stem(self, stem: str) -> str | None:
        """The image with the XML file's own path, where there is just one."""
        same = self._by_key.get(_key(stem), ())
        return same[0] if len(same) == 1 else None

    def find(self, stem: str, stated: Sequence[str]) -> str | None:
        """The image of an XML file, or None.

        It goes by the XML file's own path, as in the devkit; else by a path that the file states,
        as far as its last folders are here; else by a stem that one image has.

        Args:
            stem: relative path of the XML file without its suffix.
            stated: paths of the image inside it.

        Raises:
            DataError: several images fit equally.
        """
        same = self._by_key.get(_key(stem), [])
        if len(same) > 1:
            suffixes = [_suffix(text) for text in stated] + list(SUFFIXES)
            same = sorted(same, key=lambda name: suffixes.index(_suffix(name)))
            if len({_suffix(name) for name in same}) < len(same):
                raise _ambiguous(same)
        if same:
            return same[0]
        for text in stated:
            for tail in _tails(posix(text)):
                if tail in self.names:
                    return tail
        alike = self._by_base.get(stem.rsplit("/", 1)[-1].lower(), [])
        if len(alike) > 1:
            raise _ambiguous(alike)
        return alike[0] if alike else None


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _ambiguous(names: list[str]) -> DataError:
    return DataError(
        f"may be about {names[0]!r} or {names[1]!r}",
        remedy="Put it into a folder of the same name as the image's, or correct <filename>.",
    )


def stated_name(stem: str, written: str) -> str:
    """The name of an image that is not at hand, relative to the folder of images.

    Args:
        stem: of the XML file, with its folders.
        written: its ``<filename>``.
    """
    text = posix(written)
    if is_absolute(text):
        text = text.rsplit("/", 1)[-1]
    base = stem.rsplit("/", 1)[-1]
    text = text if Path(text).suffix else f"{base}.jpg"
    return text if "/" in text else stem[: -len(base)] + text
