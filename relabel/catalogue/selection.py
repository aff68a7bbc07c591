"""What of a dataset is read: some classes, a seeded sample, stretches held out for testing.

The last two go by the images' names in natural order (``frame_2`` before ``frame_10``), so that
they do not depend on the order of an annotation file, on the machine or on the file system.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from relabel.datasets.alternatives import renamed
from relabel.datasets.dataset import DetectionDataset
from relabel.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """What part of a dataset's training images is trained on, and what part tests.

    Videos give runs of nearly equal images, one name after the other. A test set drawn at random
    from them would hold the neighbours of training images, so what is held out are contiguous
    stretches.

    Attributes:
        sample: train on this many images, drawn with ``sample_seed``; 0 takes all. A smaller sample
            of the same seed is part of a larger one. Val and test images are never sampled.
        sample_seed: seed of the draw.
        holdout: share of the images that becomes the test split; 0 holds nothing out.
        holdout_stretches: the images are divided into this many equal parts, in the order of their
            names; the last share of each is held out. 1 holds out one stretch at the end.
        holdout_gap: this many images on either side of a stretch are in neither split.

    Raises:
        ConfigError: a value outside its range, or a key without the one it belongs to.
    """

    sample: int = 0
    sample_seed: int = 0
    holdout: float = 0.0
    holdout_stretches: int = 1
    holdout_gap: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ConfigError(
                f"holdout is {self.holdout}", remedy="Use a share above 0 and below 1."
            )
        minimum = {"sample": 0, "sample_seed": 0, "holdout_stretches": 1, "holdout_gap": 0}
        for name, least in minimum.items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}", remedy=f"Use {least} or more."
                )

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Selection:
        """From those keys of a dataset's table that are fields of this class.

        Raises:
            ConfigError: a value of the wrong type or outside its range.
        """
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name not in table:
                continue
            value = table[f.name]
            real = f.name == "holdout"
            if isinstance(value, bool) or not isinstance(value, int | float if real else int):
                what = "a number" if real else "a whole number"
                raise ConfigError(f"{f.name} must be {what}, not {value!r}")
            if f.name in ("sample", "holdout") and value <= 0:
                whole = "Leave the key out to take all images."
                remedy = "Use a share above 0 and below 1." if real else whole
                raise ConfigError(f"{f.name} is {value}", remedy=remedy)
            values[f.name] = float(value) if real else value
        for key in ("sample_seed", "holdout_stretches", "holdout_gap"):
            needed = key.partition("_")[0]
            if key in values and needed not in values:
                raise ConfigError(f"{key} without {needed}", remedy=f"Add {needed}.")
        return cls(**values)

    def train(self, dataset: DetectionDataset) -> DetectionDataset:
        """The training images: those not held out, sampled. Images keep the file's order.

        Raises:
            ConfigError: nothing is left.
        """
        rows = np.arange(len(dataset))
        if self.holdout:
            rows, _ = self._split(dataset)
        if self.sample and self.sample < len(rows):
            order = rows[name_order([dataset.images.file_name[i] for i in rows.tolist()])]
            # Uniform numbers are the part of NumPy's generators least likely ever to change.
            draws = np.random.default_rng(self.sample_seed).random(len(order))
            rows = np.sort(order[np.argsort(draws, kind="stable")[: self.sample]])
        return dataset if len(rows) == len(dataset) else dataset.subset(rows)

    def test(self, dataset: DetectionDataset) -> DetectionDataset:
        """The held-out images, in the file's order.

        Raises:
            ConfigError: there are too few images to hold any out.
        """
        return dataset.subset(self._split(dataset)[1])

    def to_dict(self) -> dict[str, Any]:
        """What differs from taking everything."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}

    def __str__(self) -> str:
        parts = []
        if self.sample:
            parts.append(f"{self.sample} images, seed {self.sample_seed}")
        if self.holdout:
            text = f"{self.holdout:.0%} held out"
            if self.holdout_stretches > 1:
                text += f" in {self.holdout_stretches} stretches"
            if self.holdout_gap:
                text += f", gap {self.holdout_gap}"
            parts.append(text)
        return "; ".join(parts)

    def _split(self, dataset: DetectionDataset) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training and of the test images, both ascending."""
        n = len(dataset)
        order = name_order(dataset.images.file_name)
        ends = [round(k * n / self.holdout_stretches) for k in range(self.holdout_stretches + 1)]
        held = np.zeros(n, bool)
        near = np.zeros(n, bool)
        for start, end in pairwise(ends):
            first = end - round(self.holdout * (end - start))
            if first < end:
                held[first:end] = True
                near[max(0, first - self.holdout_gap) : end + self.holdout_gap] = True
        train, test = np.sort(order[~held & ~near]), np.sort(order[held])
        if not len(train) or not len(test):
            raise ConfigError(
                f"dataset {dataset.name!r} has {n} images: {str(self)!r} leaves "
                f"{len(train)} to train and {len(test)} to test on",
                remedy="Choose another holdout, holdout_stretches or holdout_gap.",
            )
        return train, test


def only_classes(dataset: DetectionDataset, names: Sequence[str]) -> DetectionDataset:
    """The dataset as if nobody had annotated its other classes.

    Categories to ignore stay, since they say what is not known.

    Raises:
        ConfigError: a class that the dataset does not have.
    """
    space = dataset.space
    wanted = {space.index(name) for name in names}
    kept = [i for i, c in enumerate(space.categories) if i in wanted or c.ignore]
    place = np.full(len(space), -1, np.int32)
    place[kept] = np.arange(len(kept))
    boxes = dataset.boxes.take(np.isin(dataset.boxes.category, kept))
    boxes = renamed(boxes, {space.names[i]: space.names[i] for i in kept})
    boxes = replace(boxes, category=place[boxes.category])
    fewer = replace(space, categories=tuple(space.categories[i] for i in kept))
    return dataset.with_boxes(boxes, fewer)


def name_order(names: Sequence[str]) -> np.ndarray:
    """int64 [I]: positions in natural order: numbers in names count by their value."""
    keys = [
        ([int(p) if i % 2 else p for i, p in enumerate(re.split(r"([0-9]+)", n))], n) for n in names
    ]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), dtype=np.int64)
