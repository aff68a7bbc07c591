"""The images of a step of semi-supervised training.

Shape legend: ``B`` images, ``H, W`` pixels of a padded batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relabel.backbones.extractor import FeatureMaps
from relabel.backbones.stored import ImageMaps, MapStore, View
from relabel.datasets.dataset import DetectionDataset
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.views import Placement, mixed_views, strong_view
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import Example, TrainingBatches, batch_of, draw_scale
from relabel.detectors.training import Batch
from relabel.settings import Runtime
from relabel.training.order import rows_of_step

Schedule = Callable[[int], Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class SemiBatch:
    """The images of a step.

    Attributes:
        labelled: with their labels, or None.
        weak: what the teacher labels, pixels [B, 3, H, W] or a frozen backbone's maps, or None.
        sizes: (height, width) of the teacher's images without padding.
        views: what the student sees, each [3, h, w] or a frozen backbone's maps.
        placements: what lies where in each view.
    """

    labelled: Batch | None
    weak: Tensor | FeatureMaps | None
    sizes: list[tuple[int, int]]
    views: list[Tensor] | list[ImageMaps]
    placements: list[list[Placement]]


class SemiBatches:
    """Step number to a `SemiBatch`; depends on nothing but the step.

    Labelled images are augmented as in any training. The weak view of an unlabelled image is
    resized and perhaps mirrored; its strong view shows the same place in other colours, blurred
    and with rectangles erased.

    Args:
        labelled: images with their labels.
        unlabelled: by name; only their images are used.
        schedule: step to (dataset number, image row) of each of its images; the labelled dataset
            is number 0, the others follow in their order.
        divisor: sides of a batch are multiples of it.
        store, runtime: as `TrainingBatches` takes them. Strong views are kept as well where the
            settings say how many; else they are drawn anew and are pixels.
    """

    def __init__(
        self,
        labelled: DetectionDataset,
        unlabelled: Mapping[str, DetectionDataset],
        schedule: Schedule,
        detector: SpecialistSettings,
        semi: SemiSettings,
        divisor: int,
        store: MapStore | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.schedule = schedule
        self.detector = detector
        self.semi = semi
        self.divisor = divisor
        plain = replace(detector, color_jitter=0.0)
        images = [without_boxes(d) for d in unlabelled.values()]
        self.parts = [
            TrainingBatches(labelled, detector, divisor, store, runtime),
            *(TrainingBatches(d, plain, divisor, store, runtime) for d in images),
        ]
        self.kept = 0 if store is None or semi.mix != "none" else semi.kept_views
        if store is not None and self.kept:
            views = kept_views(self.kept, mirrored=detector.flip > 0)
            for d in images:
                store.fill(d, mirrored=False, runtime=runtime or Runtime(), views=views)

    def __call__(self, step: int) -> SemiBatch:
        s = self.detector
        rng = np.random.default_rng([s.seed, 1, step])
        strong_rng = np.random.default_rng([s.seed, 2, step])
        short = s.image_size * draw_scale(s, rng)
        mine: list[Example] = []
        weak: list[Example] = []
        strong: list[Tensor] = []
        kept: list[ImageMaps] = []
        for part, row in self.schedule(step):
            source = self.parts[part]
            if part == 0:
                mine.append(source.image(row, short, rng))
                continue
            if self.kept:
                number = int(rng.integers(self.kept))
                mirrored = _is_mirrored(number, s.flip > 0)
                weak.append((source.maps(row, mirrored), NO_TARGET))
                kept.append(source.maps(row, False, view_name(number, s.flip > 0)))
                continue
            mirrored = bool(rng.random() < s.flip)
            x = source.pixels(row, short, mirrored)
            weak.append((x if source.store is None else source.maps(row, mirrored), NO_TARGET))
            strong.append(strong_view(x, strong_rng))
        labelled = batch_of(mine, self.divisor) if mine else None
        if not weak:
            return SemiBatch(labelled, None, [], [], [])
        seen, sizes, _ = batch_of(weak, self.divisor)
        if kept:
            alone = [[Placement(i)] for i in range(len(kept))]
            return SemiBatch(labelled, seen, sizes, kept, alone)
        if self.semi.mix == "mixpl":
            views = mixed_views(strong, strong_rng)
        else:
            views = [(x, [Placement(i)]) for i, x in enumerate(strong)]
        return SemiBatch(labelled, seen, sizes, [x for x, _ in views], [p for _, p in views])


NO_TARGET: dict[str, Tensor] = {}


def student_batch(
    batch: SemiBatch, found: Sequence[Mapping[str, Tensor]], divisor: int
) -> Batch | None:
    """What the student learns of the teacher's labels; None where there are none.

    A view in which nothing was labelled is left out: the teacher may have missed what is there,
    and the student would learn it as background.

    Args:
        found: the teacher's labels of each image: ``boxes`` [n, 4] xyxy, ``labels`` [n] from 1,
            ``weights`` [n].
    """
    examples: list[Example] = []
    for view, placements in zip(batch.views, batch.placements, strict=True):
        rows = [found[p.image] for p in placements]
        if not any(len(row["boxes"]) for row in rows):
            continue
        boxes = torch.cat([p.boxes(r["boxes"]) for p, r in zip(placements, rows, strict=True)])
        target = {
            "boxes": boxes,
            "labels": torch.cat([row["labels"] for row in rows]),
            "weights": torch.cat([row["weights"] for row in rows]),
            "ignored": boxes.new_zeros(0, 4),
        }
        examples.append((view, target))
    return batch_of(examples, divisor) if examples else None


def kept_views(count: int, *, mirrored: bool) -> dict[str, View]:
    """Strong views of every image that are computed once, by their names.

    What is drawn depends on the image's file and the number of the view alone, so that trainings
    of other seeds share them.

    Args:
        mirrored: every other one is of the mirror image.
    """

    def of(number: int) -> View:
        def view(x: Tensor, file: Path) -> Tensor:
            rng = np.random.default_rng([zlib.crc32(file.stem.encode()), number])
            return strong_view(x.flip(2) if _is_mirrored(number, mirrored) else x, rng)

        return view

    return {view_name(number, mirrored): of(number) for number in range(count)}


def view_name(number: int, mirrored: bool) -> str:
    """Of a kept strong view; changes with how strong views are made."""
    return f"strong1-{number}" + ("m" if _is_mirrored(number, mirrored) else "")


def _is_mirrored(number: int, mirrored: bool) -> bool:
    return mirrored and number % 2 == 1


def burn_in_steps(steps: int, semi: SemiSettings) -> int:
    """Number of steps before the teacher labels anything."""
    return round(semi.burn_in * steps)


def usual_schedule(
    labelled: DetectionDataset,
    unlabelled: Mapping[str, DetectionDataset],
    detector: SpecialistSettings,
    semi: SemiSettings,
) -> Schedule:
    """Labelled images alone during the burn-in, then labelled and unlabelled ones.

    Unlabelled images of all datasets are drawn evenly. Under ``mixpl`` labelled images of rare
    classes come more often, see `repeated_rows`.

    Args:
        detector: its ``steps`` are the length of the training.
    """
    rows = np.arange(len(labelled))
    if semi.mix == "mixpl":
        rows = repeated_rows(labelled, detector.seed)
    starts = np.cumsum([0, *(len(d) for d in unlabelled.values())])
    others, first = int(starts[-1]), burn_in_steps(detector.steps, semi)

    def schedule(step: int) -> list[tuple[int, int]]:
        mine = rows[rows_of_step(len(rows), step, detector.batch_size, detector.seed)]
        images = [(0, int(row)) for row in mine]
        if step < first or not others:
            return images
        theirs = rows_of_step(others, step - first, semi.unlabeled_images, detector.seed)
        part = np.searchsorted(starts, theirs, side="right")
        at = theirs - starts[part - 1]
        return images + list(zip(part.tolist(), at.tolist(), strict=True))

    return schedule


def repeated_rows(dataset: DetectionDataset, seed: int) -> np.ndarray:
    """Image rows, those with rare classes several times.

    Repeat factors of LVIS (Gupta et al., CVPR 2019): an image comes ``max(1, sqrt(f / f_c))``
    times, of its rarest class, where ``f_c`` is the share of images with class ``c``; ``f`` is
    here the mean of the classes that occur. What is left to a whole number is drawn by the seed.

    Returns:
        int64, ascending.
    """
    boxes = dataset.boxes
    real = ~boxes.ignore
    pairs = np.unique(np.stack([boxes.image[real], boxes.category[real]], axis=1), axis=0)
    share = np.bincount(pairs[:, 1], minlength=dataset.space.num_classes) / max(len(dataset), 1)
    factor = np.ones(len(dataset))
    if len(pairs):
        times = np.sqrt(share[share > 0].mean() / share[pairs[:, 1]])
        np.maximum.at(factor, pairs[:, 0], times)
    whole = np.floor(factor).astype(np.int64)
    more = np.random.default_rng([seed, 3]).random(len(dataset)) < factor - whole
    return np.repeat(np.arange(len(dataset)), whole + more)


def without_boxes(dataset: DetectionDataset) -> DetectionDataset:
    """The same images with no annotation at all."""
    return dataset.with_boxes(dataset.boxes.take(np.zeros(0, np.int64)))
