"""Images with soft multi-labels for classifiers: targets, training batches, test batches.

Shape legend: ``N`` images, ``B`` images of a batch, ``C`` classes, ``S`` side of the square that
the network sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from relabel.classifiers.augment import blends, centre_view, training_view
from relabel.classifiers.settings import ClassifierSettings
from relabel.datasets.multilabels import box_labels, label_matrix, label_rows
from relabel.datasets.pixels.location import all_stored_bytes, image_location, read_rgb
from relabel.errors import DataError, Problems
from relabel.files.remote import is_url
from relabel.training.loop import step_seed
from relabel.training.order import rows_of_step
from relabel.training.prefetch import prefetch
from relabel.training.shared import own_part
from relabel.workspace.cores import reading_threads

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
        root: folder or URL that file names are relative to.
        file_names: N relative POSIX names.
        locations: N places of the pixels, see `relabel.datasets.pixels.location`.
        gt: int32 [N], the original single label; -1 where there is none.
        labels: float32 csr_array [N, C], probabilities; `UNKNOWN` leaves a class out of the loss.
        class_names: C names.
        class_keys: C keys by which a pretrained network's classes are recognised (wnids, names).
    """

    name: str
    root: Path | str
    file_names: list[str]
    locations: list[str]
    gt: np.ndarray
    labels: csr_array
    class_names: tuple[str, ...]
    class_keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.file_names)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """float32 [B, C] class probabilities of some images."""
        return self.labels[rows].toarray()

    def select(self, rows: np.ndarray) -> LabelledImages:
        """Some of the images, in the order given."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            file_names=[self.file_names[i] for i in rows.tolist()],
            locations=[self.locations[i] for i in rows.tolist()],
            gt=self.gt[rows],
            labels=self.labels[rows],
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, labels, classes and sizes of the image files, not of the root."""
        digest = hashlib.sha256()
        for values in (self.file_names, self.class_names, self.class_keys):
            digest.update(f"{len(values)}:".encode())
            digest.update("\0".join(values).encode())
        sizes = np.array(all_stored_bytes(self.locations), dtype=np.int64)
        offsets, ids = (np.asarray(a, np.int64) for a in (self.labels.indptr, self.labels.indices))
        for column in (self.gt, offsets, ids, self.labels.data, sizes):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def usable(self, loss: str) -> np.ndarray:
        """int64 rows that a loss can learn from.

        BCE skips images whose target is all zero (arXiv 2603.05729); the losses on the original
        label skip images without one.
        """
        if loss != "bce":
            return np.flatnonzero(self.gt >= 0)
        return np.unique(label_rows(self.labels)[self.labels.data > 0])


def from_image_set(images: ImageSet, labels: LabelTable | None, *, name: str) -> LabelledImages:
    """Images of a folder with the labels of a TSV, or with their own single label.

    Rows of the TSV are joined by relative file name, or by the name alone where the TSV has no
    folders. Images that the TSV does not list are left out.

    Raises:
        DataError: no image has labels, a name fits several images, or a class id is beyond the
            image folder's classes.
    """
    classes = tuple(images.class_names)
    keys = tuple(images.class_keys)
    root = images.root
    if labels is None:
        rows, gt = np.arange(len(images)), images.labels
        some = np.flatnonzero(gt >= 0)
        table = label_matrix(some, gt[some], (len(gt), len(classes)), np.ones(len(some)))
    else:
        rows, lines = _join(images.file_names, labels.file_names, root)
        table, gt = labels.labels[lines], labels.gt[lines]
        highest = int(max(table.indices.max(initial=-1), gt.max(initial=-1)))
        if not classes:
            classes = keys = tuple(str(i) for i in range(highest + 1))
        if highest >= len(classes):
            raise DataError(
                f"class id {highest} of the labels is beyond the {len(classes)} classes",
                file=root,
                remedy="Give the images' classes with --classes, in the order of the labels.",
            )
        table.resize(len(lines), len(classes))
    names = [images.file_names[i] for i in rows.tolist()]
    return LabelledImages(
        name,
        root,
        names,
        [f"{root}/{name}" for name in names],
        np.asarray(gt, np.int32),
        csr_array(table, dtype=np.float32),
        classes,
        keys,
    )


def _join(names: list[str], listed: list[str], root: Path | str) -> tuple[np.ndarray, np.ndarray]:
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
    doubtful = boxes.ignore & (not crowds)
    present, unknown = box_labels(
        boxes.image, boxes.category, doubtful, (len(dataset), len(classes))
    )
    certain = np.flatnonzero((boxes.category < len(classes)) & ~doubtful)
    area = boxes.xywh[certain, 2] * boxes.xywh[certain, 3]
    by_size = certain[np.lexsort((-area, boxes.image[certain]))]
    shown, largest = np.unique(boxes.image[by_size], return_index=True)
    gt = np.full(len(dataset), -1, np.int32)
    gt[shown] = boxes.category[by_size[largest]]
    return LabelledImages(
        name=dataset.name,
        root=Path(dataset.root),
        file_names=list(dataset.images.file_name),
        locations=[image_location(dataset, row) for row in range(len(dataset))],
        gt=gt,
        labels=csr_array(present.astype(np.float32) + unknown.astype(np.float32) * UNKNOWN),
        class_names=classes,
        class_keys=classes,
    )


@dataclass
class Batch:
    """A training batch, augmented but not yet normalised or mixed.

    Attributes:
        pixels: uint8 [B, 3, S, S].
        targets: float32 [B, C].
        seed: of how images are blended with one another.
        leading: number of images that are there for the next one to be blended with, no more.
    """

    pixels: Tensor
    targets: Tensor
    seed: int
    leading: int = 0


@dataclass(frozen=True, eq=False)
class AugmentedBatches:
    """Step number to a `Batch`, of several processes to this one's part of it.

    Depends on nothing but the step. Every image of a step has random numbers of its own, so that
    the images of a step are the same however many processes share them.

    Args:
        images: the images to learn from.
        side: S.
        bad: receives images that cannot be decoded; their place is taken by the next image. None
            raises on the first.
    """

    images: LabelledImages
    settings: ClassifierSettings
    side: int
    bad: BadImages | None = None

    def __call__(self, step: int) -> Batch:
        s = self.settings
        rows = rows_of_step(len(self.images), step, s.batch_size, s.seed)
        pixels, kept = [], []
        mine = own_part(len(rows))
        # Mixup and CutMix blend an image with the one before it in the whole batch.
        leading = int(blends(s) and len(rows[mine]) < len(rows))
        for place in (i % len(rows) for i in range(mine.start - leading, mine.stop)):
            view, row = self._image(int(rows[place]), [s.seed, 2, step, place])
            pixels.append(view)
            kept.append(row)
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        seed = step_seed(s.seed, step)
        return Batch(stacked, self._targets(np.array(kept)), seed, leading)

    def _image(self, row: int, seed: list[int]) -> tuple[np.ndarray, int]:
        for _ in range(min(_MOST_TRIES, len(self.images))):
            try:
                image = read_rgb(self.images.locations[row])
            except DataError as error:
                if self.bad is None:
                    raise
                self.bad[self.images.locations[row]] = error.message
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


class BadImages(dict[str, str]):
    """Why images could not be decoded, by place: from any thread, and each counts once."""

    def report(self, problems: Problems) -> None:
        """Hand over what was found, by place."""
        for location, text in sorted(self.items()):
            problems.error(text, file=location)


def ordered_batches(
    images: LabelledImages,
    spec: Any,
    batch_size: int,
    *,
    workers: int = -1,
    bad: BadImages | None = None,
    only: Sequence[int] | None = None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(rows int64 [B], pixels uint8 [B, 3, S, S]) over all images in order, centre crops.

    Args:
        spec: the classifier's `ClassifierSpec`.
        only: numbers of the batches; default all.
        bad: receives images that cannot be decoded, which are left out; None raises.
    """

    numbers = range(-(-len(images) // batch_size)) if only is None else only

    def make(at: int) -> tuple[np.ndarray, Tensor]:
        i, rows, pixels = numbers[at], [], []
        for row in range(i * batch_size, min((i + 1) * batch_size, len(images))):
            try:
                image = read_rgb(images.locations[row])
            except DataError as error:
                if bad is None:
                    raise
                bad[images.locations[row]] = error.message
                continue
            rows.append(row)
            pixels.append(centre_view(image, spec.image_size, spec.test_crop, spec.interpolation))
        side = spec.image_size
        stacked = np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)
        return np.array(rows, dtype=np.int64), torch.from_numpy(stacked).permute(0, 3, 1, 2)

    distant = len(images) > 0 and is_url(images.locations[0])
    threads = reading_threads(workers, waiting=distant)
    yield from prefetch(make, 0, len(numbers), workers=threads)
