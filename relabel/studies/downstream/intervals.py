"""Bootstrap intervals of differences in AP: over test images, all seeds together.

The images are drawn anew, with replacement, the same draws for every arm and seed. In each draw the
difference of two arms is taken seed by seed and averaged; an interval holds the middle 95 % of the
draws. It tells how far the result depends on the test images that happened to be there; how far it
depends on the seed is the standard deviation beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from relabel.evaluation.resampling import Matches, resamples, weighted_ap
from relabel.evaluation.tables import NONE, percentage

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference in AP, AP50 or AP75, mean over seeds, with its bootstrap interval; fractions."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | int | bool]:
        """JSON-ready."""
        return {**vars(self), "excludes_zero": self.excludes_zero}


def resampled(matches: Mapping[int, Matches]) -> dict[int, np.ndarray]:
    """By seed: AP, AP50 and AP75 of the plain sample and of each resample, float64 [1 + B, 3]."""
    found = {}
    for seed, these in matches.items():
        images = len(these.truths)
        found[seed] = weighted_ap(these, np.vstack([np.ones((1, images)), resamples(images)]))
    return found


def paired_intervals(
    values: Mapping[int, np.ndarray], reference: Mapping[int, np.ndarray]
) -> tuple[Interval, Interval, Interval] | None:
    """Intervals of ``values`` minus ``reference`` for AP, AP50 and AP75, over the common seeds.

    Args:
        values, reference: of `resampled`, on the same test images.

    Returns:
        None without a seed in common, or without truth.
    """
    common = sorted(values.keys() & reference.keys())
    if not common:
        return None
    changes = np.mean([values[seed] - reference[seed] for seed in common], axis=0)
    changes = changes[~np.isnan(changes).any(axis=1)]
    if len(changes) < 2:
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(changes[1:], [tail, 100 - tail], axis=0)
    made = [
        Interval(float(m), float(a), float(b), len(common))
        for m, a, b in zip(changes[0], low, high, strict=True)
    ]
    return made[0], made[1], made[2]


def interval_text(found: Interval | None, *, whole: bool = True) -> str:
    """``+3.2 (+1.1 to +5.0)`` in percent, with a star where it excludes 0; ``-`` for None.

    Args:
        whole: with the mean before it.
    """
    if found is None:
        return NONE
    low, high = percentage(found.low, signed=True), percentage(found.high, signed=True)
    text = f"{low} to {high}"
    star = " *" if found.excludes_zero else ""
    return f"{percentage(found.mean, signed=True)} ({text}){star}" if whole else text + star
