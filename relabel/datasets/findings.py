"""What is likely to be a mistake in a dataset that reads well: `validate` tells it as warnings.

Duplicate images (between splits: leakage), duplicate boxes, one class under several spellings,
classes and images without boxes, images beside the dataset's that no label mentions.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import image_location, is_packed, stored_bytes
from relabel.errors import DataError, Problems
from relabel.files.opening import read_bytes
from relabel.files.walk import is_hidden
from relabel.workspace.cores import reading_threads

_SHOWN = 3
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_END = 4096  # bytes at either end of a file that are compared before the whole of it is
_CHUNK = 1 << 20
_BLOCK = 256  # files that a thread takes at a time
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*"([^"]*)"')


def tell_findings(
    checked: Mapping[str, DetectionDataset],
    splits: Mapping[str, DetectionDataset],
    problems: Problems,
    path: str,
) -> None:
    """Warn of what is likely to be a mistake.

    Args:
        checked: what is to be looked at, by split; "" is what is read where no split is named.
        splits: those that the dataset has, by name; their images are compared with each other.
        path: what the user calls the dataset, named where a finding has no file of its own.
    """
    for dataset in checked.values():
        _tell_boxes(dataset, problems, path)
    everything = [*checked.values(), *splits.values()]
    _tell_classes(everything, bool(splits), problems, path)
    _tell_spellings(everything, problems, path)
    places = {name: _plain_images(split) for name, split in splits.items()}
    for name, dataset in checked.items():
        own = _plain_images(dataset)
        if name not in places and not any(set(own) == set(known) for known in places.values()):
            places[name] = own
    _tell_unmentioned(places, problems, Path(path))
    _tell_duplicates(places, problems, path)


def _plain_images(dataset: DetectionDataset) -> list[str]:
    """Paths of the images that are files of their own; packed ones are not compared.

    Folders are real ones, so that an image has one path, however its split is reached.
    """
    real_folder = cache(lambda folder: str(Path(folder).resolve()))
    places = (image_location(dataset, row) for row in range(len(dataset)))
    parts = (place.rpartition("/") for place in places if not is_packed(place))
    return [f"{real_folder(folder)}/{name}" for folder, _, name in parts]


def _tell_boxes(dataset: DetectionDataset, problems: Problems, path: str) -> None:
    boxes, names = dataset.boxes, dataset.images.file_name
    bare = np.flatnonzero(np.diff(dataset.offsets) == 0).tolist()
    if bare and problems.ok:  # else they may be those whose boxes could not be read
        shown = _listed([names[row] for row in bare], len(bare))
        problems.warning(f"no boxes on {len(bare)} of {len(dataset)} images ({shown})", file=path)
    # Equal rows are neighbours in this order, the first in the file first.
    columns: list[np.ndarray] = [boxes.image, boxes.category, *(boxes.xywh[:, k] for k in range(4))]
    order = np.lexsort(columns)
    same = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    again = np.sort(order[1:][same])
    if len(again):
        texts = []
        for row in again[:_SHOWN].tolist():
            box = ", ".join(f"{v:g}" for v in boxes.xywh[row])
            what = dataset.space.names[boxes.category[row]]
            texts.append(
                f"annotation {boxes.id[row]}: {what!r} [{box}] on {names[int(boxes.image[row])]}"
            )
        problems.warning(
            "boxes that repeat another of the same image, class and corners: "
            f"{len(again)} ({_listed(texts, len(again))})",
            file=path,
        )


def _tell_classes(
    datasets: Sequence[DetectionDataset], splits: bool, problems: Problems, path: str
) -> None:
    used: set[str] = set()
    for each in datasets:
        counts = np.bincount(each.boxes.category, minlength=len(each.space))
        used.update(name for name, n in zip(each.space.names, counts, strict=True) if n)
    known = list(dict.fromkeys(name for each in datasets for name in each.space.class_names))
    empty = [name for name in known if name not in used]
    if empty and used:
        where = " in any split" if splits else ""
        problems.warning(
            f"no boxes of {len(empty)} of {len(known)} classes{where} "
            f"({_listed(list(map(repr, empty)), len(empty), most=10)})",
            file=path,
        )


def _tell_spellings(datasets: Sequence[DetectionDataset], problems: Problems, path: str) -> None:
    alike: dict[str, dict[str, None]] = defaultdict(dict)
    for dataset in datasets:
        for name in dataset.space.names:
            folded = unicodedata.normalize("NFKC", name).casefold()
            key = "".join(c for c in folded if c.isprintable() and c not in " -_")
            alike[key or name][name] = None
    for names in alike.values():
        if len(names) > 1:
            problems.warning(
                f"the classes {', '.join(map(repr, names))} may be one in several spellings; "
                "`relabel datasets convert --map` makes them one",
                file=path,
            )


def _mentioned_beside(path: Path) -> set[str]:
    """Names of images in the annotation files beside the one that is checked.

    Train and test often are two files over one folder of images.
    """
    if not path.is_file():
        return set()
    found: set[str] = set()
    for file in [*path.parent.glob("*.json"), *path.parent.glob("*.json.gz")]:
        if not is_hidden(file.name):
            with suppress(DataError):
                names = _FILE_NAME.findall(read_bytes(file))
                found.update(n.rpartition(b"/")[2].decode("utf-8", "replace") for n in names)
    return found


def _tell_unmentioned(places: Mapping[str, Sequence[str]], problems: Problems, path: Path) -> None:
    """Image files that lie beside the dataset's and are none of its images."""
    mentioned: set[str] | None = None  # annotation files are read again, so only where it matters
    known: dict[str, set[str]] = defaultdict(set)
    for place in (place for found in places.values() for place in found):
        folder, _, name = place.rpartition("/")
        known[folder].add(name)
    for folder, ours in sorted(known.items()):
        names: list[str] = []
        links: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if os.path.splitext(entry.name)[1].lower() in _SUFFIXES:  # noqa: PTH122
                        names.append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except OSError:
            continue
        free = [name for name in names if name not in ours and not is_hidden(name)]
        if free:  # links in the same folder stand for what they lead to
            linked = (os.path.realpath(f"{folder}/{name}") for name in ours & links)
            ours |= {place.rpartition("/")[2] for place in linked}
            mentioned = _mentioned_beside(path) if mentioned is None else mentioned
            free = [name for name in free if name not in ours and name not in mentioned]
        if free:
            problems.warning(
                "images in this folder that are not of the dataset, since no label mentions them: "
                f"{len(free)} ({_listed(sorted(free), len(free))})",
                file=folder,
            )


def _tell_duplicates(places: Mapping[str, Sequence[str]], problems: Problems, path: str) -> None:
    """Images with the same bytes, between splits and within one."""
    splits: dict[str, list[str]] = defaultdict(list)
    for name, found in places.items():
        for place in found:
            if name not in splits[place]:
                splits[place].append(name)
    leaks: dict[tuple[str, ...], list[str]] = defaultdict(list)
    within: list[str] = []
    groups = list(_same_bytes(list(splits)))
    copies = {place for group in groups for place in group}
    groups += [[place] for place, names in splits.items() if len(names) > 1 and place not in copies]
    for group in groups:
        names = sorted({name for place in group for name in splits[place] if name})
        text = " and ".join("/".join(place.split("/")[-2:]) for place in group[:2])
        if len(names) > 1:
            leaks[tuple(names)].append(text)
        if len(group) > max(1, len(names)):
            within.append(text)
    for names, texts in leaks.items():
        problems.warning(
            f"images that the splits {' and '.join(names)} share, by content: "
            f"{len(texts)} ({_listed(texts, len(texts))})",
            file=path,
        )
    if within:
        problems.warning(
            f"images that are there more than once, by content: {len(within)} "
            f"({_listed(within, len(within))})",
            file=path,
        )


def _same_bytes(places: Sequence[str]) -> list[list[str]]:
    """Groups of files with the same content: by size, then by their ends, then by all bytes."""
    groups = _grouped(zip(places, map(stored_bytes, places), strict=True))
    with ThreadPoolExecutor(reading_threads()) as pool:
        for digest in (_ends, _whole):
            files = [place for group in groups for place in group]
            sizes = [stored_bytes(place) for place in files]
            # A task per file would be a million of them at once.
            parts = (files[start : start + _BLOCK] for start in range(0, len(files), _BLOCK))
            found = pool.map(partial(_each, digest), parts)
            keys = zip(sizes, chain.from_iterable(found), strict=True)
            groups = _grouped(zip(files, keys, strict=True))
    return groups


def _each(digest: Callable[[str], bytes], files: Sequence[str]) -> list[bytes]:
    return [digest(file) for file in files]


def _grouped(pairs: Iterable[tuple[str, object]]) -> list[list[str]]:
    """Files whose key is another's, too, in order; those without bytes have none."""
    groups: dict[object, list[str]] = defaultdict(list)
    for place, key in pairs:
        if key not in (-1, 0):
            groups[key].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _ends(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 (a Path per image costs time)
            first = stream.read(_END)
            stream.seek(-min(_END, os.fstat(stream.fileno()).st_size), os.SEEK_END)
            return hashlib.blake2b(first + stream.read(), digest_size=16).digest()
    except OSError:
        return path.encode(errors="surrogateescape")  # like no other


def _whole(path: str) -> bytes:
    try:
        digest = hashlib.blake2b(digest_size=16)
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.digest()
    except OSError:
        return path.encode(errors="surrogateescape")


def _listed(texts: Sequence[str], count: int, most: int = _SHOWN) -> str:
    return ", ".join(texts[:most]) + (", ..." if count > most else "")
