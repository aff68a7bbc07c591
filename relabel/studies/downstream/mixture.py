"""Mixed batches: target and relabelled sources together, then the target alone.

The schedule of "Label-Aligned Transfer" (arXiv 2506.04737), the same for every arm of a
comparison: mixed batches, and target images only in the last quarter of the iterations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from relabel.backbones.stored import MapStore
from relabel.datasets.dataset import DetectionDataset
from relabel.detectors.semi.batches import burn_in_steps
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, batch_of, draw_scale
from relabel.detectors.training import Batch
from relabel.settings import Runtime
from relabel.studies.downstream.arms import Method
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.training.order import rows_of_step

# Published: as many labelled images in a batch as unlabelled ones.
LABELLED_SHARE = 0.5


def target_only_from(steps: int, settings: DownstreamSettings) -> int:
    """The step from which batches hold target images only."""
    return steps - round(settings.target_only_last * steps)


class Mixture:
    """Step number to the images of a batch; depends on nothing but the step.

    Args:
        sizes: images of the target (first) and of every source.
        steps: length of the training.
        batch_size: images per step.
        target_until: the first step whose batch is mixed.

    Attributes:
        target_from: the step from which batches hold target images only.
    """

    def __init__(
        self,
        sizes: list[int],
        steps: int,
        batch_size: int,
        seed: int,
        settings: DownstreamSettings,
        target_until: int = 0,
    ) -> None:
        self.sizes = sizes
        self.batch_size = batch_size
        self.seed = seed
        self.target_until = target_until
        self.from_target = round(settings.target_share * batch_size)
        self.target_from = target_only_from(steps, settings)
        self._starts = np.cumsum([0, *sizes])

    def rows(self, step: int) -> list[tuple[int, int]]:
        """(dataset number, image row) of each image of the step; the target is number 0."""
        sources = sum(self.sizes[1:])
        if sources == 0 or not self.target_until <= step < self.target_from:
            rows = rows_of_step(self.sizes[0], step, self.batch_size, self.seed)
            return [(0, int(row)) for row in rows]
        if self.from_target == 0:
            rows = rows_of_step(sum(self.sizes), step, self.batch_size, self.seed)
            return [self._find(int(row)) for row in rows]
        mine = rows_of_step(self.sizes[0], step, self.from_target, self.seed)
        rest = self.batch_size - self.from_target
        theirs = rows_of_step(sources, step, rest, self.seed) if rest else []
        first = self.sizes[0]
        return [(0, int(row)) for row in mine] + [self._find(first + int(row)) for row in theirs]

    def drawn(self, steps: int) -> tuple[int, int]:
        """Images drawn in so many steps: of the target, and of all sources together."""
        sources = sum(self.sizes[1:])
        mixed = max(0, min(self.target_from, steps) - self.target_until) if sources else 0
        theirs = mixed * (self.batch_size - self.from_target)
        if self.from_target == 0:
            theirs = round(theirs * sources / sum(self.sizes))
        return steps * self.batch_size - theirs, theirs

    def _find(self, position: int) -> tuple[int, int]:
        dataset = int(np.searchsorted(self._starts, position, side="right")) - 1
        return dataset, position - int(self._starts[dataset])


def half_unlabelled(
    sizes: list[int],
    detector: SpecialistSettings,
    settings: DownstreamSettings,
    semi: SemiSettings,
) -> Mixture:
    """Of a student and its teacher: the target alone for the burn-in, then half and half."""
    halves = replace(settings, target_share=LABELLED_SHARE)
    first = burn_in_steps(detector.steps, semi)
    return Mixture(sizes, detector.steps, detector.batch_size, detector.seed, halves, first)


def passes(
    method: Method,
    sizes: list[int],
    union: int,
    detector: SpecialistSettings,
    settings: DownstreamSettings,
    semi: SemiSettings,
) -> dict[str, float]:
    """How often a training draws each image, in the mean.

    Args:
        sizes: images of the target (first) and of every source that the arm uses.
        union: images of the target and of all sources of the comparison.

    Returns:
        ``union``: all images drawn, over those of the union, the same for every arm;
        ``target`` and ``sources``: those drawn of each, over the arm's own.
    """
    if method == "semi":
        mixture = half_unlabelled(sizes, detector, settings, semi)
    else:
        mixture = Mixture(sizes, detector.steps, detector.batch_size, detector.seed, settings)
    mine, theirs = mixture.drawn(detector.steps)
    return {
        "union": (mine + theirs) / max(union, 1),
        "target": mine / max(sizes[0], 1),
        "sources": theirs / max(sum(sizes[1:]), 1),
    }


class MixedBatches:
    """Step number to a batch (pixels, sizes, targets) of the mixture, augmented.

    Args:
        target: the target's training images, labels in the label space that is trained.
        sources: relabelled sources in the same label space; none for the target alone.
        detector: its ``steps`` are the length of the training.
        store, runtime: as `TrainingBatches` takes them.
    """

    def __init__(
        self,
        target: DetectionDataset,
        sources: Mapping[str, DetectionDataset],
        detector: SpecialistSettings,
        settings: DownstreamSettings,
        divisor: int,
        target_until: int = 0,
        store: MapStore | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        datasets = [target, *(d for d in sources.values() if len(d))]
        self.parts = [TrainingBatches(d, detector, divisor, store, runtime) for d in datasets]
        sizes, s = [len(d) for d in datasets], detector
        self.mixture = Mixture(sizes, s.steps, s.batch_size, s.seed, settings, target_until)
        self.detector = detector
        self.divisor = divisor

    def __call__(self, step: int) -> Batch:
        s = self.detector
        rng = np.random.default_rng([s.seed, 1, step])
        short = s.image_size * draw_scale(s, rng)
        rows = self.mixture.rows(step)
        return batch_of([self.parts[part].image(r, short, rng) for part, r in rows], self.divisor)
