"""What is known of the classes of images: present, absent, or unknown.

Shape legend: ``N`` images, ``C`` classes, ``L`` known entries.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_rows, label_shape
from relabel.datasets.pixels.location import relative_location, stored_samples
from relabel.errors import ConfigError, DataError
from relabel.files.remote import is_url
from relabel.workspace.fingerprint import fingerprint

PRESENT, ABSENT, UNKNOWN = 1, -1, 0
_BLOCK_CELLS = 1 << 22
_BLOCK_ROWS = 1 << 12
# A value and an index, twice while parts are put together.
_ENTRY_BYTES = 10
_ALWAYS_FINE, _MOST_ENTRIES = 1 << 30, 2**31 - 1
_MOST_SEED = 2**32 - 1


@dataclass(frozen=True, eq=False)
class PartialLabels:
    """What is known of N images and C classes.

    Attributes:
        name: what the set is called.
        root: the image folder; None for labels without pictures.
        file_names: N names, unique, relative to ``root`` with forward slashes.
        classes: C names, unique.
        known: int8 csr_array [N, C]: `PRESENT`, `ABSENT`, or not stored, which is unknown. No zero
            is stored, and no entry twice.
        locations: where the pixels are, if not in the files ``root / file_name``: N strings in the
            notation of `relabel.datasets.pixels.location`, "" where they are in the file.

    Raises:
        DataError: a class or a file name that is there twice, or no class at all.
        ValueError: a matrix of another shape, or with other values.
    """

    name: str
    root: Path | None
    file_names: list[str]
    classes: tuple[str, ...]
    known: csr_array
    locations: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise DataError(f"{self.name!r} has no class", remedy="Name one class or more.")
        check_once(self.classes, "class", self.root)
        check_once(self.file_names, "image", self.root)
        if label_shape(self.known) != (len(self), self.num_classes):
            raise ValueError(f"known is {label_shape(self.known)}, not N x C")
        values = self.known.data
        odd = len(values) and (values.min() < ABSENT or values.max() > PRESENT)
        if values.dtype != np.int8 or odd or np.count_nonzero(values) < len(values):
            raise ValueError("known holds other values than -1 and 1")

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def select(self, rows: np.ndarray | Sequence[int]) -> PartialLabels:
        """The labels of some images, in the order given."""
        keep = np.asarray(rows, np.int64)
        places = self.locations
        return replace(
            self,
            file_names=[self.file_names[i] for i in keep.tolist()],
            known=self.known[keep],
            locations=None if places is None else [places[i] for i in keep.tolist()],
        )

    def at(self, url: str) -> PartialLabels:
        """The labels with images below a URL instead of ``root``."""
        return replace(self, locations=[f"{url.rstrip('/')}/{name}" for name in self.file_names])

    def dense(self, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """int8 [n, C] of some images: `PRESENT`, `ABSENT` or `UNKNOWN`."""
        return self.known[rows].toarray()

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first row and `dense` of as many images at a time as take a few megabytes."""
        for rows in row_blocks(len(self), self.num_classes):
            yield rows.start, self.dense(rows)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [C] twice: the images in which each class is known present, and known absent."""
        present = self.known.data == PRESENT
        found = [
            np.bincount(self.known.indices[where], minlength=self.num_classes)
            for where in (present, ~present)
        ]
        return found[0], found[1]

    def location(self, row: int) -> str:
        """Where the pixels of an image are, for `relabel.datasets.pixels.location.read_rgb`.

        Raises:
            DataError: there are labels only.
        """
        if self.locations is not None and self.locations[row]:
            return self.locations[row]
        if self.root is None:
            raise DataError(
                f"{self.name!r} is labels without pictures, and one of {self.file_names[row]!r} "
                "is needed",
                remedy="Name the folder that its file names are relative to.",
            )
        return str(self.root / self.file_names[row])

    def fingerprint(self, *, labels: bool = True) -> str:
        """SHA-256 (hex) of names, samples of the image files, classes and what is known.

        The place of ``root`` on the disk and the order within a row do not count.

        Args:
            labels: False takes the images only, for what does not depend on the labels.
        """
        digest = hashlib.sha256(fingerprint([len(self), self.root is None]).encode())
        digest.update("\0".join(self.file_names).encode("utf-8", "surrogateescape"))
        if self.root is not None:
            root, places = str(self.root), [self.location(i) for i in range(len(self))]
            # Where a URL leads to does not count, as the root does not.
            if self.locations is not None and not all(map(is_url, places)):
                relative = [relative_location(place, root) for place in places]
                digest.update("\0".join(relative).encode("utf-8", "surrogateescape"))
            for sample in stored_samples(places):
                digest.update(sample)
        if labels:
            digest.update(fingerprint([self.name, self.classes]).encode())
            known = self.known if self.known.has_sorted_indices else self.known.sorted_indices()
            for column, kind in ((known.indptr, np.int64), (known.indices, np.int32)):
                digest.update(np.ascontiguousarray(column, kind).data if len(column) else b"")
            digest.update(np.ascontiguousarray(known.data).data if len(known.data) else b"")
        return digest.hexdigest()


def hide(full: PartialLabels, proportion: float, seed: int) -> PartialLabels:
    """Hide entries at random, by the protocol that the published results share.

    One uniform number of NumPy's legacy generator is drawn per entry, image by image and class by
    class within it, and an entry stays known where its number is below ``proportion``: as the
    reference code of SST, SARB and HST does (HCP-MLR-PL, ``changeLabelProportion``, seed 0). So
    what is hidden depends on the order of images and classes; what was unknown stays so, but takes
    its numbers all the same. With one seed, what a smaller proportion keeps a larger one keeps too.

    Args:
        proportion: share of the entries that stay known, 0 to 1.
        seed: 0 to 2**32 - 1.

    Raises:
        ConfigError: a proportion or a seed outside its range.
    """
    if not 0 <= proportion <= 1:
        raise ConfigError(f"the known proportion is {proportion}; it must be from 0 to 1")
    if not 0 <= seed <= _MOST_SEED:
        raise ConfigError(f"the seed is {seed}; it must be from 0 to {_MOST_SEED}")
    known, draws = full.known, np.random.RandomState(seed)
    keep = np.empty(len(known.data), bool)
    for rows in row_blocks(len(full), full.num_classes):
        numbers = draws.random_sample((rows.stop - rows.start, full.num_classes))
        ends = known.indptr[rows.start : rows.stop + 1]
        part = slice(int(ends[0]), int(ends[-1]))
        images = np.repeat(np.arange(rows.stop - rows.start), np.diff(ends))
        keep[part] = numbers[images, known.indices[part]] < proportion
    return replace(full, known=kept_entries(known, keep))


def kept_entries(known: csr_array, keep: np.ndarray) -> csr_array:
    """The entries of a matrix [N, C] marked in ``keep``, bool [L]."""
    ends = known.indptr
    counts = np.zeros(len(ends), ends.dtype)
    for first in range(0, len(ends) - 1, _BLOCK_ROWS):
        at = ends[first : first + _BLOCK_ROWS + 1]
        before = np.concatenate([[0], np.cumsum(keep[at[0] : at[-1]])])
        counts[first + 1 : first + len(at)] = np.diff(before[at - at[0]])
    parts = (known.data[keep], known.indices[keep], np.cumsum(counts, dtype=ends.dtype))
    return csr_array(parts, shape=label_shape(known))


def known_matrix(
    present: csr_array, unknown: csr_array | None = None, *, file: str | Path | None = None
) -> csr_array:
    """What is known where every class of every image was looked at.

    Args:
        present: bool [N, C].
        unknown: bool [N, C], entries about which nothing is said; present ones win.
        file: for messages.

    Returns:
        int8 [N, C].

    Raises:
        DataError: see `check_room`.
    """
    images, classes = label_shape(present)
    check_room(images * classes - (0 if unknown is None else unknown.nnz), images, classes, file)
    parts = []
    for rows in row_blocks(images, classes):
        block = np.full((rows.stop - rows.start, classes), ABSENT, np.int8)
        for matrix, value in ((unknown, UNKNOWN), (present, PRESENT)):
            if matrix is not None:
                part = matrix[rows]
                block[label_rows(part), part.indices] = value
        parts.append(sparse_known(block))
    return stacked(parts, classes)


def sparse_known(block: np.ndarray) -> csr_array:
    """int8 csr_array [n, C] of a dense block of -1, 0 and 1."""
    rows, ids = np.nonzero(block)
    ends = np.concatenate([[0], np.cumsum(np.count_nonzero(block, axis=1))])
    return csr_array(
        (block[rows, ids].astype(np.int8), ids.astype(np.int32), ends), shape=block.shape
    )


def stacked(parts: Sequence[csr_array], classes: int) -> csr_array:
    """int8 matrices over the same classes, one below the other."""
    if not parts:
        return csr_array((0, classes), dtype=np.int8)
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return csr_array(
        (
            np.concatenate([part.data for part in parts]).astype(np.int8, copy=False),
            np.concatenate([part.indices for part in parts]),
            ends,
        ),
        shape=(len(lengths), classes),
    )


def check_room(entries: int, images: int, classes: int, file: str | Path | None) -> None:
    """Refuse more entries than there is memory for, before it is taken.

    A short file can state many: each of its images has every class it knows.

    Raises:
        DataError: there is not enough.
    """
    need = _ENTRY_BYTES * entries
    if need <= _ALWAYS_FINE:
        return
    import psutil

    if entries > _MOST_ENTRIES or need > psutil.virtual_memory().available:
        raise DataError(
            f"{images:,} images times {classes:,} classes are up to {entries:,} entries, which "
            f"need {need >> 30:,} GiB of memory",
            file=file,
            remedy="Take fewer images or classes.",
        )


def row_blocks(images: int, classes: int) -> Iterator[slice]:
    """Consecutive rows whose dense labels have a few million cells."""
    step = max(1, _BLOCK_CELLS // max(1, classes))
    for first in range(0, images, step):
        yield slice(first, min(first + step, images))


def check_once(names: Iterable[str], what: str, file: Any, remedy: str | None = None) -> None:
    """Whether all names differ.

    Raises:
        DataError: one of them is there twice.
    """
    names = list(names)
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        default = "Rename one of them." if what == "class" else "Keep one entry per image."
        raise DataError(f"{what} {twice!r} is there twice", file=file, remedy=remedy or default)
