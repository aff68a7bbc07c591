"""Which label file belongs to which image, and what is left over on either side."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.yolo.config import on_disk
from relabel.errors import DataError, Problems
from relabel.files.opening import open_file
from relabel.files.walk import is_hidden, walk_files

_SUFFIX = ".txt"
_SHOWN = 3
_SNIFFED = 4096
_REMEDY = (
    "The label file of images/train/a.jpg is labels/train/a.txt, or a.txt beside an image whose "
    "path has no folder `images`."
)


class LabelFiles:
    """The label files of a dataset, listed folder by folder.

    The label file of ``images/train/a.jpg`` is ``labels/train/a.txt``, in whatever case the folders
    are written, or else ``a.txt`` beside the image.

    Args:
        root: the dataset's folder, which file names are relative to.
        only: folder of all label files, where it does not follow from the images' paths.
    """

    def __init__(self, root: Path, only: Path | None = None) -> None:
        self._root = str(root)
        self._only = None if only is None else str(only)
        # Text files of a folder: their names by stem.
        self._texts: dict[str, dict[str, str]] = {}
        # Of every folder with labels the folder of their images.
        self._images: dict[str, str] = {}
        # A folder without labels is looked for in every case among those that have some.
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._used: set[str] = set()

    def pair(
        self, folder: str, names: Sequence[str], *, whole: bool, seen: set[str]
    ) -> tuple[list[str], list[str | None]]:
        """Images of a folder, relative to the root, and the label file of each or None.

        Args:
            names: image files below ``folder``.
            whole: whether these are all there are below it.
            seen: paths of images that there were before, which do not count again; grows.
        """
        if whole:
            self._list_below(self._places(folder)[0])
        prefix = "" if folder == self._root else f"{os.path.relpath(folder, self._root)}/"
        places: dict[str, list[str]] = {}
        images: list[str] = []
        labels: list[str | None] = []
        missing: list[tuple[int, str, str]] = []
        for name in names:
            path = f"{folder}/{name}"
            if path in seen:
                continue
            seen.add(path)
            below, _, last = name.rpartition("/")
            if below not in places:
                places[below] = self._open(f"{folder}/{below}" if below else folder)
            stem = last.rpartition(".")[0]
            label = self._find(places[below], stem)
            if label is None:
                missing.append((len(labels), below, stem))
            images.append(prefix + name)
            labels.append(label)
        self._used.update(label for label in labels if label)
        # A label file that differs in case only, unless it is another image's.
        lowered: dict[str, dict[str, str]] = {}
        for row, below, stem in missing:
            labels[row] = self._find_in_any_case(places[below], stem, lowered)
        self._used.update(label for label in labels if label)
        return images, labels

    def look_below(self, folder: str, others: Iterable[str]) -> None:
        """List the label files of a folder of images, some of which are none of the dataset's.

        Args:
            others: the folders that hold those.
        """
        self._list_below(self._places(folder)[0])
        for other in others:
            self._open(other)

    def check(
        self,
        images: Sequence[str],
        labels: Sequence[str | None],
        *,
        file: Path,
        problems: Problems,
        suffixes: Iterable[str],
    ) -> None:
        """Tell what did not pair, and what leads elsewhere.

        Args:
            images, labels: what `pair` gave, all of it.
            file: named in messages.
            suffixes: of image files.

        Raises:
            DataError: hardly anything pairs.
        """
        bare = [image for image, label in zip(images, labels, strict=True) if label is None]
        paired = len(images) - len(bare)
        check_pairing(
            paired=paired,
            bare_images=bare,
            orphan_labels=self._orphans(tuple(suffixes)),
            file=file,
            problems=problems,
            remedy=_REMEDY if paired else self._elsewhere(bare) or _REMEDY,
        )
        self._tell_shared(images, labels, file, problems)
        self._tell_links(file, problems)

    def _open(self, folder: str) -> list[str]:
        places = self._places(folder)
        for place in reversed(places):
            self._images.setdefault(place, folder)
        self._images[places[0]] = folder
        return places

    def _places(self, folder: str) -> list[str]:
        """Where the labels of images in a folder may be, the usual place first."""
        if self._only is not None:
            below = os.path.relpath(folder, self._root)
            return [os.path.normpath(os.path.join(self._only, below))]  # noqa: PTH118
        parts = folder.split("/")
        # The dataset's own folder may be the one called images.
        first = self._root.count("/")
        named = [i for i in range(first, len(parts)) if parts[i].lower() == "images"]
        places = []
        for at in sorted(named, key=lambda i: (parts[i] != "images", -i)):
            found = on_disk("/".join([*parts[:at], "labels", *parts[at + 1 :]]), self._listed)
            if found is not None and os.path.isdir(found):  # noqa: PTH112
                places.append(found)
        return [*places, folder]

    def _find(self, places: Sequence[str], stem: str) -> str | None:
        for place in places:
            name = self._texts_of(place).get(stem)
            if name is not None:
                return f"{place}/{name}"
        return None

    def _find_in_any_case(
        self, places: Sequence[str], stem: str, lowered: dict[str, dict[str, str]]
    ) -> str | None:
        """A label file that no image has.

        Args:
            lowered: file names of folders by stem in lower case, as far as known; grows.
        """
        for place in places:
            if place not in lowered:
                lowered[place] = {s.lower(): name for s, name in self._texts_of(place).items()}
            name = lowered[place].get(stem.lower())
            if name is not None and f"{place}/{name}" not in self._used:
                return f"{place}/{name}"
        return None

    def _texts_of(self, folder: str) -> dict[str, str]:
        if folder not in self._texts:
            try:
                names = os.listdir(folder)  # noqa: PTH208
            except (FileNotFoundError, NotADirectoryError):
                names = []
            except OSError as error:
                raise DataError(
                    f"folder cannot be listed: {error.strerror}",
                    file=folder,
                    remedy="Check its permissions.",
                ) from error
            self._add(folder, [n for n in names if not is_hidden(n)])
        return self._texts[folder]

    def _list_below(self, folder: str) -> None:
        if not os.path.isdir(folder):  # noqa: PTH112
            return
        found: dict[str, list[str]] = {folder: []}
        for name in walk_files(folder, (_SUFFIX,)):
            below, _, last = name.rpartition("/")
            found.setdefault(f"{folder}/{below}" if below else folder, []).append(last)
        for place, names in found.items():
            self._add(place, names)

    def _add(self, folder: str, names: list[str]) -> None:
        self._texts[folder] = {
            n[: -len(_SUFFIX)]: n for n in sorted(names) if n.lower().endswith(_SUFFIX)
        }

    def _orphans(self, suffixes: tuple[str, ...]) -> list[str]:
        """Label files that no image has, relative to the root."""
        orphans: list[str] = []
        for place, texts in self._texts.items():
            left = {n for n in texts.values() if f"{place}/{n}" not in self._used}
            if not left:
                continue
            folder = self._images.get(place)
            stems: set[str] = set()
            if folder is not None:
                # An image that no list names is none of the dataset's, and neither is its label.
                stems = {
                    n.rpartition(".")[0].lower()
                    for n in os.listdir(folder)  # noqa: PTH208
                    if n.lower().endswith(suffixes)
                }
            orphans += (
                os.path.relpath(f"{place}/{n}", self._root)
                for n in left
                if n[: -len(_SUFFIX)].lower() not in stems
                and _is_label(f"{place}/{n}", beside=place == folder)
            )
        return sorted(orphans)

    def _elsewhere(self, bare: Sequence[str]) -> str | None:
        """Where label files of the images' names lie, if not where they belong."""
        wanted = {PurePosixPath(image).stem for image in bare}
        found = Counter(
            str(PurePosixPath(name).parent)
            for name in walk_files(self._root, (_SUFFIX,))
            if PurePosixPath(name).stem in wanted
        )
        if not found:
            return None
        place, number = found.most_common(1)[0]
        return f"{number} label files of these names lie in {place}. {_REMEDY}"

    def _tell_shared(
        self,
        images: Sequence[str],
        labels: Sequence[str | None],
        file: Path,
        problems: Problems,
    ) -> None:
        if len(self._used) == sum(label is not None for label in labels):
            return
        times = Counter(labels)
        shared = [
            i for i, label in zip(images, labels, strict=True) if label and times[label] > 1
        ]  # fmt: skip
        if shared:
            problems.warning(
                f"{len(shared)} images share a label file with another of the same name"
                f" ({', '.join(shared[:_SHOWN])}{', ...' if len(shared) > _SHOWN else ''})",
                file=file,
            )

    def _tell_links(self, file: Path, problems: Problems) -> None:
        """Linked folders may lead anywhere; that they do is told."""
        real = os.path.realpath(self._root)
        out: list[str] = []
        for folder in dict.fromkeys((*self._images.values(), *self._images)):
            if folder != self._root and folder.startswith(f"{self._root}/"):
                place = os.path.realpath(folder)
                if os.path.commonpath((place, real)) != real:
                    out.append(f"{os.path.relpath(folder, self._root)} to {place}")
        if out:
            problems.warning(
                f"{len(out)} folders are links that lead out of the dataset"
                f" ({', '.join(out[:_SHOWN])}{', ...' if len(out) > _SHOWN else ''})",
                file=file,
            )


def _is_label(file: str, *, beside: bool) -> bool:
    """Whether a text file holds rows of numbers, rather than names or notes.

    An empty one is a label file, unless it stands among images, where it may be anything.
    """
    try:
        with open_file(file) as stream:
            text = stream.read(_SNIFFED)
        row = text.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0].split()
        return len(list(map(float, row))) >= 5 if row else not beside
    except (DataError, ValueError):
        return False
