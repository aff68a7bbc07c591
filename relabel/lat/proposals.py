"""Privileged Proposal Generator (PPG): annotations and pseudo-labels as proposals.

It predicts nothing. Every proposal is a box with a score vector over the joint label space: of
the image's own annotations (one-hot) or of a specialist's pseudo-label.

Shape legend: ``M`` proposals of an image, ``C`` classes of the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import JointLabelSpace
from relabel.datasets.table import Table
from relabel.detectors.base import ranked
from relabel.lat.settings import LatSettings

MIN_SIDE = 1.0
NOBODY = -1
"""`Proposals.plays` of what plays no annotation."""
MADE = -1
"""`Proposals.variant` of boxes that only play annotations."""
PLACE = -2
"""And of places on an annotation, see `relabel.lat.places`."""
MAX_PER_SPACE = 60
# Annotations as proposals (the printed recipe): the paper leaves these open.
JITTER = 0.05
JITTERED_COPIES = 2
DROPPED = 0.3
# Largest share of an image's pseudo-labels that is hidden in training, drawn per image.
HIDDEN = 0.8


@dataclass(frozen=True, eq=False)
class Proposals(Table):
    """All proposals an image could have, before any are drawn for a training step.

    Attributes:
        boxes: float32 [M, 4] xyxy.
        scores: float32 [M, C].
        space: int16 [M], position of the dataset whose label space the proposal has.
        variant: int16 [M]; 0 for a pseudo-label, 1 for an annotation, from 2 its jittered copies;
            -1 for a box that only plays an annotation, -2 for a place on one.
        source_row: int64 [M], box row in the dataset for annotations and the places on them, see
            `relabel.lat.places`; what plays an annotation has any number; else -1.
        confidence: float32 [M], S_c of one that plays nothing: 1 for an annotation, else what
            `LatSettings.confidence` says of the pseudo-label.
        plays: int16 [M], the class of the joint space as which the box plays an annotation of its
            space, `NOBODY` if it does not; see `relabel.lat.simulate`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    space: np.ndarray
    variant: np.ndarray
    source_row: np.ndarray
    confidence: np.ndarray
    plays: np.ndarray

    @classmethod
    def of(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        space: np.ndarray | int,
        variant: int,
        source_row: np.ndarray | int = -1,
        plays: np.ndarray | int = NOBODY,
        confidence: np.ndarray | None = None,
    ) -> Proposals:
        """Columns of their types; a single number is that of all.

        Args:
            confidence: default the largest score, which is 1 of an annotation.
        """

        def column(values: np.ndarray | int, kind: type) -> np.ndarray:
            return np.broadcast_to(values, len(boxes)).astype(kind)

        return cls(
            boxes.astype(np.float32),
            scores.astype(np.float32),
            column(space, np.int16),
            column(variant, np.int16),
            column(source_row, np.int64),
            column(
                scores.max(axis=1, initial=0.0) if confidence is None else confidence, np.float32
            ),
            column(plays, np.int16),
        )


def image_proposals(
    dataset: DetectionDataset,
    row: int,
    joint: JointLabelSpace,
    labels: Mapping[str, PseudoLabels],
    settings: LatSettings,
    *,
    jittered: bool = False,
) -> Proposals:
    """Annotations of one image and every label space's pseudo-labels for it.

    Args:
        labels: pseudo-labels on this dataset by the name of their label space; the dataset's
            own name stands for out-of-fold predictions of its own specialist.
        jittered: add `JITTERED_COPIES` moved copies of each annotation (for training).
    """
    own = joint.position(dataset.name)
    parts = []
    keep = dataset.objects(row)
    exact = dataset.boxes.xyxy[keep].astype(np.float32)
    onehot = np.zeros((len(keep), joint.num_classes), np.float32)
    onehot[np.arange(len(keep)), joint.slice(own).start + dataset.boxes.category[keep]] = 1
    rng = np.random.default_rng([settings.seed, 2, own, row])
    copies = JITTERED_COPIES if jittered else 0
    for variant in range(1, 2 + copies):
        boxes = exact if variant == 1 else jitter_boxes(exact, JITTER, rng)
        parts.append(Proposals.of(boxes, onehot, own, variant, keep))
    for name, pseudo in labels.items():
        at = pseudo.rows(row)
        boxes, scores = pseudo.boxes[at], pseudo.scores[at].astype(np.float32)
        best = scores.max(axis=1) if len(scores) else np.zeros(0, np.float32)
        order = np.argsort(-best, kind="stable")[:MAX_PER_SPACE]
        order = order[best[order] >= settings.min_score]
        full = np.zeros((len(order), joint.num_classes), np.float32)
        position = joint.position(name)
        full[:, joint.slice(position)] = scores[order]
        quality = None if pseudo.quality is None else pseudo.quality[at][order]
        sure = ranked(best[order], quality, settings.confidence)
        parts.append(Proposals.of(boxes[order], full, position, variant=0, confidence=sure))
    every = Proposals.concatenate(parts)
    size = np.array([dataset.images.width[row], dataset.images.height[row]] * 2, np.float32)
    boxes = np.clip(every.boxes, 0, size)
    # An annotation stays however thin it is: dropping it would lose a source box unseen.
    large = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(axis=1) | (every.variant == 1)
    return replace(every, boxes=boxes).take(large)


def annotation_numbers(p: Proposals, are: np.ndarray) -> np.ndarray:
    """The annotation that each is, or is a place on, counted within the image; -1 for none.

    Args:
        are: bool [M], those that are annotations or play them.
    """
    numbers = np.full(len(p), -1, np.int64)
    for number, row in enumerate(p.source_row[are]):
        numbers[p.source_row == row] = number
    return numbers


def image_truth(dataset: DetectionDataset, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image's boxes [G, 4] xyxy and classes [G], and its ignore regions [K, 4]."""
    at = dataset.rows(row)
    boxes = dataset.boxes.xyxy[at].astype(np.float32)
    skip = dataset.boxes.ignore[at]
    return boxes[~skip], dataset.boxes.category[at][~skip].astype(np.int64), boxes[skip]


def sound(boxes: np.ndarray) -> np.ndarray:
    """Boxes xyxy [n, 4] as float32, no side below `MIN_SIDE`."""
    boxes = boxes.astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + MIN_SIDE)
    return boxes


def jitter_boxes(boxes: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Move each side of xyxy boxes [n, 4] by up to ``amount`` of the box's width or height."""
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return (boxes + rng.uniform(-amount, amount, boxes.shape) * size).astype(np.float32)


def draw(
    proposals: Proposals,
    own: int,
    settings: LatSettings,
    rng: np.random.Generator,
    *,
    simulated_source: int | None = None,
    training: bool = True,
    datasets: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The proposals of one training step, made to look like those of a transfer.

    Args:
        own: position of the image's dataset; the model learns its label space on this image.
        simulated_source: the space whose pseudo-labels simulate the source's annotations; drawn
            where None.
        training: hide pseudo-labels at random; else the image's own annotations are hidden.
        datasets: number of spaces that have a dataset, the first ones; a space without one
            cannot be a source, so it never simulates one. All spaces where None.

    Returns:
        rows int64 [m] into the proposals, scores [m, C], confidence S_c [m].
    """
    annotated = proposals.variant > 0
    label = proposals.variant == 0
    use = label & (proposals.space != own)
    if settings.has("crossfit"):
        use |= label & (proposals.space == own)
    else:
        kept = _one_variant_each(proposals, rng) & (rng.random(len(proposals)) >= DROPPED)
        use |= kept & training
    scores = proposals.scores.copy()
    confidence = proposals.confidence.copy()
    if training and settings.has("hiding"):
        seen = rng.random(len(proposals)) >= rng.uniform(0, HIDDEN)
    else:
        seen = np.ones(len(proposals), dtype=bool)
    others = np.unique(proposals.space[label & (proposals.space != own)])
    if datasets is not None:
        others = others[others < datasets]
    if settings.has("simulated-source") and len(others):
        chosen = simulated_source if simulated_source is not None else int(rng.choice(others))
        simulated = ~annotated & (proposals.space == chosen)
        sure = np.flatnonzero(simulated & (proposals.plays != NOBODY))
        use &= ~simulated
        use[sure] = seen[sure] = True
        scores[sure] = 0.0
        scores[sure, proposals.plays[sure]] = 1.0
        confidence[sure] = 1.0
    rows = np.flatnonzero(use & (seen | annotated))
    return rows, scores[rows], confidence[rows]


def _one_variant_each(proposals: Proposals, rng: np.random.Generator) -> np.ndarray:
    """bool [M]: of every annotation, one copy (exact or jittered) at random."""
    draws = np.where(proposals.variant > 0, rng.random(len(proposals)), -1.0)
    chosen = np.zeros(len(proposals), dtype=bool)
    for source in np.unique(proposals.source_row[proposals.variant > 0]):
        at = np.flatnonzero((proposals.source_row == source) & (proposals.variant > 0))
        chosen[at[np.argmax(draws[at])]] = True
    return chosen
