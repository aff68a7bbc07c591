"""Images with soft multi-labels for classifiers: targets, training batches, test batches.

Shape legend: ``N`` images, ``B`` images of a batch, ``C`` classes, ``S`` side of the square that
the network sees.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from relabel.classifiers.augment import Mix, centre_view, draw_mix, training_view
from relabel.classifiers.settings import ClassifierSettings
from relabel.datasets.pixels.batches import decoding_workers
from relabel.datasets.pixels.location import (
    decode_rgb,
    image_location,
    read_image_bytes,
    stored_bytes,
)
from relabel.errors import DataError, Problems
from relabel.training.order import rows_of_step
from relabel.training.prefetch import prefetch

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset
    from relabel.datasets.multilabels import LabelTable
    from relabel.datasets.pixels.image_folder import ImageSet

UNKNOWN = -1.0
"""Target of a class of which the annotators do not say whether it is there."""
_MOST_TRIES = 50


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their labels, a sparse row of class probabilities each.

    Attributes:
        name: for messages.
        root: folder that file names are relative to.
        file_names: N relative POSIX names.
        locations: N places of the pixels, see `relabel.datasets.pixels.location`.
        gt: int32 [N], the original single label; -1 where there is none.
        offsets: int64 [N + 1]; the labels of image i are entries offsets[i]:offsets[i + 1].
        ids: int32 classes of the entries.
        probs: float32 probabilities of the entries; `UNKNOWN` leaves a class out of the loss.
        class_names: C names.
        class_keys: C keys by which a pretrained network's classes are recognised (wnids, names).
    """

    name: str
    root: Path
    file_names: list[str]
    locations: list[str]
    gt: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    probs: np.ndarray
    class_names: tuple[str, ...]
    class_keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.file_names)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """float32 [B, C] class probabilities of some images."""
        dense = np.zeros((len(rows), len(self.class_names)), dtype=np.float32)
        for i, row in enumerate(np.asarray(rows).tolist()):
            entries = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
            dense[i, self.ids[entries]] = self.probs[entries]
        return dense

    def select(self, rows: np.ndarray) -> LabelledImages:
        """Some of the images, in the order given."""
        rows = np.asarray(rows, dtype=np.int64)
        counts = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return replace(
            self,
            file_names=[self.file_names[i] for i in rows.tolist()],
            locations=[self.locations[i] for i in rows.tolist()],
            gt=self.gt[rows],
            offsets=offsets,
            ids=self.ids[entries],
            probs=self.probs[entries],
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, labels, classes and sizes of the image files, not of the root."""
        digest = hashlib.sha256()
        for values in (self.file_names, self.class_names, self.class_keys):
            digest.update(f"{len(values)}:".encode())
            digest.update("\0".join(values).encode())
        sizes = np.array([stored_bytes(location) for location in self.locations], dtype=np.int64)
        for column in (self.gt, self.offsets, self.ids, self.probs, sizes):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def usable(self, loss: str) -> np.ndarray:
        """int64 rows that a loss can learn from.

        BCE skips images whose target is all zero (arXiv 2603.05729); the losses on the original
        label skip images without one.
        """
        if loss != "bce":
            return np.flatnonzero(self.gt >= 0)
        positive = np.concatenate([[0], np.cumsum(self.probs > 0)])
        return np.flatnonzero(positive[self.offsets[1:]] > positive[self.offsets[:-1]])


def from_image_set(images: ImageSet, labels: LabelTable | None, *, name: str) -> LabelledImages:
    """Images of a folder with the labels of a TSV, or with their own single label.

    Rows of the TSV are joined by relative file name, or by the name alone where the TSV has no
    folders. Images that the TSV does not list are left out.

    Raises:
        DataError: no image has labels, a name fits several images, or a class id is beyond the
            image folder's classes.
    """
    classes = tuple(images.class_names)
    keys = tuple(getattr(images, "class_keys", None) or classes)
    root = Path(images.root)
    own = np.asarray(images.labels, dtype=np.int32)
    if labels is None:
        rows = np.arange(len(images.file_names))
        known = own >= 0
        gt, offsets = own, np.concatenate([[0], np.cumsum(known)]).astype(np.int64)
        ids, probs = own[known], np.ones(int(known.sum()), np.float32)
    else:
        rows, lines = _join(images.file_names, labels.file_names, root)
        chosen = labels.labels[lines]
        offsets = chosen.indptr.astype(np.int64)
        ids = chosen.indices.astype(np.int32)
        probs = chosen.data.astype(np.float32)
        gt = np.asarray(labels.gt, dtype=np.int32)[lines]
        highest = int(max(ids.max(initial=-1), gt.max(initial=-1)))
        if not classes:
            classes = keys = tuple(str(i) for i in range(highest + 1))
        if highest >= len(classes):
            raise DataError(
                f"class id {highest} of the labels is beyond the {len(classes)} classes",
                file=root,
                remedy="Give the images' classes with --classes, in the order of the labels.",
            )
    names = [images.file_names[i] for i in rows.tolist()]
    return LabelledImages(
        name, root, names, [str(root / n) for n in names], gt, offsets, ids, probs, classes, keys
    )


def _join(names: list[str], listed: list[str], root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``names`` and of ``listed`` that belong together, in the order of ``names``."""
    line_of = {name: i for i, name in enumerate(listed)}
    pairs = [(row, line_of[n]) for row, n in enumerate(names) if n in line_of]
    if not pairs:
        bare: dict[str, int] = {}
        for row, name in enumerate(names):
            base = name.rpartition("/")[2]
            if base in bare and base in line_of:
                raise DataError(
                    f"the labels' {base!r} fits several images",
                    file=root,
                    remedy="List images with their folders in the labels' file.",
                )
            bare[base] = row
        pairs = sorted((bare[n], line) for n, line in line_of.items() if n in bare)
    if not pairs:
        raise DataError(
            "none of the labels' file names is there",
            file=root,
            record=f"the first is {listed[0]}" if listed else "the labels are empty",
            remedy="Names are relative to --images.",
        )
    both = np.array(pairs, dtype=np.int64)
    return both[:, 0], both[:, 1]


def from_detections(dataset: DetectionDataset, *, crowds: bool = False) -> LabelledImages:
    """Images of a detection set: a class is there if it has a box.

    The single label is the class of the largest box.

    Args:
        crowds: boxes to be ignored show their class too, as COCO's crowds do; else a class that
            has no other boxes (VOC's difficult ones) is `UNKNOWN`.
    """
    classes = tuple(c.name for c in dataset.space.categories if not c.ignore)
    boxes = dataset.boxes
    counts, ids, probs, gt = [], [], [], []
    for _, rows in dataset.iter_images():
        category, ignored = boxes.category[rows], boxes.ignore[rows] & (not crowds)
        real = category < len(classes)
        present = np.unique(category[real & ~ignored])
        unknown = np.setdiff1d(category[real & ignored], present)
        ids += [present, unknown]
        probs += [np.ones(len(present)), np.full(len(unknown), UNKNOWN)]
        counts.append(len(present) + len(unknown))
        area = np.where(real & ~ignored, boxes.xywh[rows, 2] * boxes.xywh[rows, 3], -1.0)
        gt.append(int(category[int(np.argmax(area))]) if area.max(initial=-1) >= 0 else -1)
    return LabelledImages(
        name=dataset.name,
        root=Path(dataset.root),
        file_names=list(dataset.images.file_name),
        locations=[image_location(dataset, row) for row in range(len(dataset))],
        gt=np.array(gt, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        ids=np.concatenate([*ids, np.zeros(0, np.int32)]).astype(np.int32),
        probs=np.concatenate([*probs, np.zeros(0)]).astype(np.float32),
        class_names=classes,
        class_keys=classes,
    )


@dataclass
class Batch:
    """A training batch, augmented but not yet normalised or mixed.

    Attributes:
        pixels: uint8 [B, 3, S, S].
        targets: float32 [B, C].
        mix: how images are blended with one another, None for not at all.
    """

    pixels: Tensor
    targets: Tensor
    mix: Mix | None


class TrainingBatches:
    """Step number to a `Batch`. Depends on nothing but the step, also with several processes.

    Every image of a step has random numbers of its own, so that the images of a step are the same
    however many processes share them; blending happens within each process's part.

    Args:
        images: the images to learn from.
        side: S.
        rank, world: this process takes part ``rank`` of ``world`` of every batch.
        bad: receives images that cannot be decoded; their place is taken by the next image. None
            raises on the first.
    """

    def __init__(
        self,
        images: LabelledImages,
        settings: ClassifierSettings,
        side: int,
        *,
        rank: int = 0,
        world: int = 1,
        bad: BadImages | None = None,
    ) -> None:
        self.images = images
        self.settings = settings
        self.side = side
        self.part = slice(
            rank * settings.batch_size // world, (rank + 1) * settings.batch_size // world
        )
        self.rank = rank
        self.bad = bad

    def __call__(self, step: int) -> Batch:
        s = self.settings
        rows = rows_of_step(len(self.images), step, s.batch_size, s.seed)
        pixels, kept = [], []
        for place in range(*self.part.indices(s.batch_size)):
            view, row = self._image(int(rows[place]), [s.seed, 2, step, place])
            pixels.append(view)
            kept.append(row)
        mix = draw_mix(s, self.side, np.random.default_rng([s.seed, 3, step, self.rank]))
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return Batch(stacked, self._targets(np.array(kept)), mix)

    def _image(self, row: int, seed: list[int]) -> tuple[np.ndarray, int]:
        for _ in range(min(_MOST_TRIES, len(self.images))):
            try:
                image = load(self.images, row)
            except DataError as error:
                if self.bad is None:
                    raise
                self.bad.add(self.images, row, error)
                row = (row + 1) % len(self.images)
                continue
            view = training_view(image, self.side, self.settings, np.random.default_rng(seed))
            return view, row
        raise DataError(
            f"{_MOST_TRIES} images in a row cannot be decoded",
            file=self.images.locations[row],
            remedy="Check the image folder.",
        )

    def _targets(self, rows: np.ndarray) -> Tensor:
        if self.settings.loss == "bce":
            return torch.from_numpy(self.images.targets(rows))
        one_hot = np.zeros((len(rows), len(self.images.class_names)), dtype=np.float32)
        one_hot[np.arange(len(rows)), self.images.gt[rows]] = 1
        return torch.from_numpy(one_hot)


class BadImages:
    """Images that could not be decoded, collected from any thread; each is reported once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}

    def add(self, images: LabelledImages, row: int, error: DataError) -> None:
        with self._lock:
            self._found[images.locations[row]] = error.message

    def __len__(self) -> int:
        return len(self._found)

    def report(self, problems: Problems) -> None:
        """Hand over what was found, by place."""
        for location, text in sorted(self._found.items()):
            problems.error(text, file=location)


def load(images: LabelledImages, row: int) -> np.ndarray:
    """uint8 [H, W, 3] pixels of an image. Raises DataError for a missing or damaged file."""
    location = images.locations[row]
    return decode_rgb(read_image_bytes(location), name=location)


def ordered_batches(
    images: LabelledImages,
    spec: Any,
    batch_size: int,
    *,
    workers: int = -1,
    bad: BadImages | None = None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(rows int64 [B], pixels uint8 [B, 3, S, S]) over all images in order, centre crops.

    Args:
        spec: the classifier's `ClassifierSpec`.
        bad: receives images that cannot be decoded, which are left out; None raises.
    """

    def make(i: int) -> tuple[np.ndarray, Tensor]:
        rows, pixels = [], []
        for row in range(i * batch_size, min((i + 1) * batch_size, len(images))):
            try:
                image = load(images, row)
            except DataError as error:
                if bad is None:
                    raise
                bad.add(images, row, error)
                continue
            rows.append(row)
            pixels.append(centre_view(image, spec.image_size, spec.test_crop, spec.interpolation))
        side = spec.image_size
        stacked = np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)
        return np.array(rows, dtype=np.int64), torch.from_numpy(stacked).permute(0, 3, 1, 2)

    batches = -(-len(images) // batch_size)
    yield from prefetch(make, 0, batches, workers=decoding_workers(workers))
