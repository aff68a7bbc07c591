"""Classes that annotators split differently: told of pairs of classes, not of single labels.

Two signs: predictions on unseen images confuse a pair in both directions; and between groups of
images (annotators, sequences, folders) the same prediction is annotated differently.

Shape legend: ``m`` annotations, ``C`` classes, ``G`` groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from scipy.stats import chi2

from relabel.datasets.dataset import DetectionDataset
from relabel.suspects.evidence import Evidence

_OF_BOXES = ("annotator", "annotated_by", "annotator_id", "labeler", "created_by")
_OF_IMAGES = (*_OF_BOXES, "dataset", "sequence", "video", "video_id", "scene")
# A group with fewer annotations says little; more groups than this are no annotators.
_ENOUGH, _MOST_GROUPS = 10, 50
# What is predicted below this is no opinion.
_SURE = 0.3
# Both directions of a pair are confused this often, and this many times in all.
_OFTEN, _FEW = 0.2, 5
_CHANCE = 0.01


@dataclass(frozen=True, eq=False)
class Groups:
    """Who annotated what, or what comes nearest.

    Attributes:
        field: what the groups are, such as ``annotator`` or ``folder``; "" where there is one.
        names: G names.
        of: int64 [all boxes], each box's group.
    """

    field: str
    names: Sequence[str]
    of: np.ndarray


@dataclass(frozen=True)
class SplitClasses:
    """A pair of classes.

    Attributes:
        classes: their positions.
        confused: annotations of the first that are predicted as the second, and the other way.
        share: the same by all annotations of the class that are predicted as one of the two.
        groups: by name, annotations of the first and of the second class among what is predicted
            as one of the two; empty where groups do not differ.
        p_value: chance of differences between groups as large, times the number of pairs that were
            looked at; None without groups.
        rows: rows of the annotations that are predicted as the other class.
    """

    classes: tuple[int, int]
    confused: tuple[int, int]
    share: tuple[float, float]
    groups: Mapping[str, tuple[int, int]]
    p_value: float | None
    rows: Sequence[int]


def find_groups(dataset: DetectionDataset) -> Groups:
    """Groups by a field of boxes or images that names annotators or sequences, else by folder."""
    boxes, images = dataset.boxes, dataset.images
    for extra, keys, image in (
        (boxes.extra, _OF_BOXES, None),
        (images.extra, _OF_IMAGES, boxes.image),
    ):
        for key, names in _named(extra, keys).items():
            found = _groups(key, names if image is None else [names[i] for i in image.tolist()])
            if found is not None:
                return found
    folders = [name.rpartition("/")[0] for name in images.file_name]
    found = _groups("folder", [folders[i] for i in boxes.image.tolist()])
    return found or Groups("", ["all"], np.zeros(len(boxes), np.int64))


def find_splits(evidence: Evidence, groups: Groups, classes: int) -> list[SplitClasses]:
    """Pairs of classes that are split differently, the most often confused first."""
    support = evidence.class_support
    if not support.size:
        return []
    predicted = np.where(support.max(1) >= _SURE, support.argmax(1), -1)
    group = groups.of[evidence.rows]
    counts = np.zeros((classes, classes), np.int64)
    told = predicted >= 0
    np.add.at(counts, (evidence.category[told], predicted[told]), 1)
    tried = [(a, b) for a, b in combinations(range(classes), 2) if counts[a, b] + counts[b, a] > 0]
    found = []
    for a, b in tried:
        among = np.isin(predicted, (a, b)) & np.isin(evidence.category, (a, b))
        confused = int(counts[a, b]), int(counts[b, a])
        of = counts[a, a] + counts[a, b], counts[b, b] + counts[b, a]
        share = tuple(n / max(int(t), 1) for n, t in zip(confused, of, strict=True))
        p = _chance(evidence.category[among] == a, predicted[among] == a, group[among])
        p = None if p is None else min(1.0, p * len(tried))
        differ = p is not None and p < _CHANCE
        if not (differ or (min(share) >= _OFTEN and sum(confused) >= _FEW)):
            continue
        wrong = among & (predicted != evidence.category)
        of_groups = {}
        if differ:
            for g in np.unique(group[among]).tolist():
                first = evidence.category[among & (group == g)] == a
                of_groups[groups.names[g]] = (int(first.sum()), int((~first).sum()))
        found.append(
            SplitClasses(
                (a, b), confused, (share[0], share[1]), of_groups, p, evidence.rows[wrong].tolist()
            )
        )
    return sorted(found, key=lambda s: (-min(s.share), -sum(s.confused), s.classes))


def _chance(first: np.ndarray, predicted: np.ndarray, group: np.ndarray) -> float | None:
    """Chance of groups differing as much in what they call the same prediction; None for one group.

    Pearson's chi-squared of group against annotated class, summed over both predicted classes, so
    that groups may well show different objects.

    Args:
        first, predicted: bool [m], annotated and predicted as the first of two classes.
        group: int64 [m].
    """
    statistic, freedom = 0.0, 0
    for value in (False, True):
        at = predicted == value
        groups, which = np.unique(group[at], return_inverse=True)
        table = np.zeros((len(groups), 2))
        np.add.at(table, (which, first[at].astype(np.int64)), 1)
        table = table[table.sum(1) >= _FEW]
        if len(table) < 2 or not table.sum(0).all():
            continue
        expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
        statistic += float(((table - expected) ** 2 / expected).sum())
        freedom += len(table) - 1
    return float(chi2.sf(statistic, freedom)) if freedom else None


def _named(extra: Sequence[bytes | None] | None, keys: Sequence[str]) -> dict[str, list[str]]:
    """Values by key, of keys that every record has."""
    if not extra:
        return {}
    records: list[dict[str, Any]] = [msgspec.json.decode(e) if e else {} for e in extra]
    return {
        key: [str(record[key]) for record in records]
        for key in keys
        if all(isinstance(record.get(key), str | int) for record in records)
    }


def _groups(field: str, names: Sequence[str]) -> Groups | None:
    """None unless there are several, few enough to be told apart."""
    known, of = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    large = np.bincount(of, minlength=len(known)) >= _ENOUGH
    if not 2 <= large.sum() <= len(known) <= _MOST_GROUPS:
        return None
    return Groups(field, known.tolist(), of.astype(np.int64))
