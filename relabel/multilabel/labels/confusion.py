"""Classes that the region classifier takes for one another, such as sunglass and sunglasses.

The multi-label paper reports 26 such pairs in ImageNet: synonyms, a part and its whole, a class
and its kind. One region then gets both labels at random, so the pairs are listed for the user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes, a < b, taken for one another.

    Attributes:
        a, b: class indices.
        rate_ab: share of the regions counted for a that have b at a high probability.
        rate_ba: the other way round.
        count_a, count_b: regions counted for a and for b.
    """

    a: int
    b: int
    rate_ab: float
    rate_ba: float
    count_a: int
    count_b: int


def confused_pairs(
    labels: np.ndarray,
    ids: np.ndarray,
    probs: np.ndarray,
    classes: int,
    rate: float,
    min_count: int = 5,
    *,
    high: float = 0.25,
    own: float = 0.05,
) -> list[ConfusedPair]:
    """Pairs of classes confused at least at ``rate`` in both directions.

    A region of an image labelled a is counted where the region classifier gives a at least ``own``:
    other regions simply show something else, and two objects that often share an image, such as a
    desk and a monitor, are not confused for that. Among the counted regions, rate_ab is the share
    in which b has at least ``high``. A one-way rate (a kind seen as its wider class) makes no pair.

    Args:
        labels: int [R], the original label of each region's image; negative: left out.
        ids: int [R, k], the most probable classes of each region; -1 fills up.
        probs: float [R, k], their probabilities; classes that are not listed count as 0.
        classes: C.
        rate: minimum of both rates; see `AggregateSettings.confusion`.
        min_count: minimum number of counted regions of each of the two classes.
        high: minimum probability of the other class.
        own: minimum probability of the own class; 0 counts all regions, which is right for regions
            known to show their label, such as held-out training regions.

    Returns:
        Sorted by the smaller of the two rates, greatest first, then by a and b.
    """
    labels = np.asarray(labels, dtype=np.int64)
    ids = np.asarray(ids, dtype=np.int64)
    mine = np.where(ids == labels[:, None], probs, 0).max(1, initial=0)
    region, slot = np.nonzero(probs >= high)
    other = ids[region, slot]
    counted = (labels >= 0) & (mine >= own)
    counts = np.bincount(labels[counted], minlength=classes)
    keep = counted[region] & (other != labels[region]) & (other >= 0)
    codes, hits = np.unique(labels[region[keep]] * classes + other[keep], return_counts=True)
    rates = {
        (int(code // classes), int(code % classes)): hit / counts[code // classes]
        for code, hit in zip(codes, hits, strict=True)
        if counts[code // classes] >= max(min_count, 1)
    }
    pairs = [
        ConfusedPair(a, b, float(ab), float(rates[b, a]), int(counts[a]), int(counts[b]))
        for (a, b), ab in rates.items()
        if a < b and (b, a) in rates and min(ab, rates[b, a]) >= rate
    ]
    return sorted(pairs, key=lambda p: (-min(p.rate_ab, p.rate_ba), p.a, p.b))
