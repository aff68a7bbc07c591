"""Counts over a result, gathered shard by shard, and the images worth showing.

Shape legend: ``B`` images of a shard, ``R`` regions, ``L`` labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_rows
from relabel.multilabel.store import LabelShard, RegionShard

BINS = 20
_SKIPPED_SHOWN = 50


class Pick(NamedTuple):
    """An image to show: why, and where it is."""

    group: str
    shard: int
    image: int


class Summary:
    """Gathers counts; `add` is called for each shard in order.

    Args:
        num_classes: C.
        confident: labels from this probability on count.
        pictures: how many images to pick: half at random, a third with the most labels, the rest
            without a region.
        seed: for the random ones.

    Attributes:
        images, regions: how many there are.
        labels: confident labels of all images.
        label_counts: images by number of confident labels, int64 [9]; the last holds the rest.
        region_counts: images by number of regions, likewise.
        probabilities: regions by the probability of their best class, int64 [BINS] over 0..1.
        areas: regions by share of the image, likewise.
        second: images with a confident label beside the first.
        skipped: (file name, reason) of the first images that could not be read.
        skipped_total: how many could not be read.
    """

    def __init__(
        self, num_classes: int, *, confident: float = 0.5, pictures: int = 24, seed: int = 0
    ) -> None:
        self.num_classes, self.confident, self.seed = num_classes, confident, seed
        self.images = self.regions = self.labels = self.second = self.skipped_total = 0
        self.label_counts, self.region_counts = np.zeros((2, 9), np.int64)
        self.probabilities, self.areas = np.zeros((2, BINS), np.int64)
        self.skipped: list[tuple[str, str]] = []
        # Images by own class and class that was added.
        self._pairs = csr_array((num_classes, num_classes), dtype=np.int64)
        self._own = np.zeros(num_classes, np.int64)
        self._shards = 0
        most, none = pictures // 3, pictures // 6
        self._wanted = {"random": pictures - most - none, "most": most, "none": none}
        # Candidates by group: float [m, 3], an order (lowest first), shard and image.
        self._picks = {group: np.zeros((0, 3)) for group in self._wanted}

    def add(self, regions: RegionShard, labels: LabelShard) -> None:
        """Count one shard."""
        readable = np.asarray(regions.readable, bool)
        for i in np.flatnonzero(~readable).tolist():
            if len(self.skipped) < _SKIPPED_SHOWN:
                self.skipped.append((regions.file_name[i], regions.reason[i]))
        self.skipped_total += int((~readable).sum())
        self.images += int(readable.sum())
        self.regions += len(regions.area)

        image = label_rows(labels.labels)
        sure = labels.label_probs >= np.float32(self.confident)
        per_image = np.bincount(image[sure], minlength=len(labels))
        self.labels += int(per_image[readable].sum())
        self.second += int((per_image[readable] > 1).sum())
        masks = np.diff(regions.offsets)
        self.label_counts += _counted(per_image[readable])
        self.region_counts += _counted(masks[readable])
        self.probabilities += _binned(labels.probs[labels.ids[:, 0] >= 0, 0])
        pixels = regions.width.astype(np.int64) * regions.height
        of = np.repeat(np.arange(len(regions)), masks)
        self.areas += _binned(regions.area / np.maximum(pixels[of], 1))

        gt = labels.gt.astype(np.int64)
        self._own += np.bincount(gt[readable & (gt >= 0)], minlength=self.num_classes)
        new = sure & (gt[image] >= 0) & (labels.label_ids != gt[image])
        pairs = (np.ones(int(new.sum()), np.int64), (gt[image[new]], labels.label_ids[new]))
        self._pairs = csr_array(self._pairs + csr_array(pairs, shape=self._pairs.shape))
        self._choose(np.asarray(regions.row), readable, per_image, masks)
        self._shards += 1

    def _choose(
        self, rows: np.ndarray, readable: np.ndarray, per_image: np.ndarray, masks: np.ndarray
    ) -> None:
        """Keep the shard's images that come before those chosen so far."""
        chance = _scrambled(rows, self.seed)
        orders: dict[str, tuple[np.ndarray, np.ndarray]] = {
            "random": (readable & (masks > 0), chance),
            "most": (readable & (per_image > 1), chance - per_image),
            "none": (readable & (masks == 0), chance),
        }
        for group, (fit, order) in orders.items():
            images = np.flatnonzero(fit)
            found = np.stack([order[images], np.full(len(images), self._shards), images], axis=1)
            found = np.concatenate([self._picks[group], found.astype(np.float64)])
            # One image may be wanted by two groups: this many more are kept.
            keep = sum(self._wanted.values())
            self._picks[group] = found[np.argsort(found[:, 0], kind="stable")[:keep]]

    def picks(self) -> list[Pick]:
        """The images to show, group by group, none twice."""
        headings = {"random": "At random", "most": "Most labels", "none": "Without a region"}
        taken: set[tuple[int, int]] = set()
        result = []
        for group in ("most", "random", "none"):
            places = [(int(s), int(i)) for _, s, i in self._picks[group]]
            free = [place for place in places if place not in taken][: self._wanted[group]]
            taken.update(free)
            result += [Pick(headings[group], *place) for place in free]
        order = list(headings.values())
        return sorted(result, key=lambda pick: order.index(pick.group))

    def added_classes(self, most: int = 30) -> list[tuple[int, int]]:
        """(added class, images), most images first."""
        total = np.bincount(self._pairs.indices, self._pairs.data, minlength=self.num_classes)
        order = np.argsort(-total, kind="stable")[:most]
        return [(int(c), int(total[c])) for c in order if total[c]]

    def added(self, most: int = 30) -> list[tuple[int, int, int, float]]:
        """(own class, added class, images, share of the own class's images), most images first."""
        own, other, counts = label_rows(self._pairs), self._pairs.indices, self._pairs.data
        order = np.lexsort((other, own, np.negative(counts)))[:most]
        return [
            (int(a), int(b), int(n), float(n / self._own[a]))
            for a, b, n in zip(own[order], other[order], counts[order], strict=True)
        ]

    def numbers(self) -> dict[str, object]:
        """The main numbers by what they are."""
        images = max(self.images, 1)
        confident = f"p ≥ {self.confident:g}"
        return {
            "images": self.images,
            "regions": self.regions,
            "regions per image": f"{self.regions / images:.2f}",
            "images without a region": f"{self.region_counts[0] / images:.1%}",
            f"labels per image, {confident}": f"{self.labels / images:.2f}",
            f"images with a second label, {confident}": f"{self.second / images:.1%}",
            "images that could not be read": self.skipped_total,
        }


def _counted(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(values, 8), minlength=9)


def _binned(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.clip((values * BINS).astype(np.int64), 0, BINS - 1), minlength=BINS)


def _scrambled(rows: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) per row that depends on the row and the seed only (SplitMix64)."""
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) + np.uint64(1 + seed) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53
