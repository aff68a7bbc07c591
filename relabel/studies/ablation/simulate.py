"""A source simulated by held-back images of the target, so that its true labels are known.

No target-space truth of source images is read: how the source annotates is measured against the
target specialist's pseudo-labels on the real source.

Shape legend: ``n`` boxes, ``k`` pairs of a source annotation and a pseudo-label.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.errors import DataError
from relabel.geometry import iou_matrix, xyxy_to_xywh

CONFIDENT = 0.5
SAME_OBJECT = 0.5
# Annotators are not exact: each side moves by so much of the box.
WOBBLE = 0.03


@dataclass(frozen=True)
class Convention:
    """Method a source annotates, seen from the target.

    Attributes:
        wider, higher: median ratio of its boxes to the target specialist's on the same objects.
        smallest: height in pixels of the target's boxes below which the source leaves objects out.
        classes: the source class that objects of each target class mostly have.
    """

    wider: float
    higher: float
    smallest: float
    classes: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_convention(source: DetectionDataset, pseudo: PseudoLabels) -> Convention:
    """Compare a source's annotations with the target specialist's pseudo-labels on it.

    Args:
        pseudo: the pseudo-labels, on the images of ``source`` in their order.

    Raises:
        DataError: no confident pseudo-label overlaps an annotation.
    """
    ratios, mine, theirs = [], [], []
    for row in range(len(source)):
        at = source.objects(row)
        near = pseudo.rows(row)
        sure = np.flatnonzero(pseudo.score[near] >= CONFIDENT) + near.start
        iou = iou_matrix(source.boxes.xyxy[at], pseudo.boxes[sure])
        if not iou.size:
            continue
        best, hit = iou.argmax(axis=1), np.flatnonzero(iou.max(axis=1) >= SAME_OBJECT)
        real, found = source.boxes.xyxy[at[hit]], pseudo.boxes[sure[best[hit]]]
        ratios.append((real[:, 2:] - real[:, :2]) / (found[:, 2:] - found[:, :2]))
        mine.append(source.boxes.category[at[hit]])
        theirs.append(pseudo.category[sure[best[hit]]])
    if not sum(map(len, ratios)):
        raise DataError(
            f"no confident pseudo-label of {pseudo.by!r} overlaps an annotation of {source.name!r}",
            remedy="Its convention cannot be measured; choose another source with --simulate.",
        )
    wider, higher = np.median(np.concatenate(ratios), axis=0).tolist()
    smallest = float(np.quantile(source.boxes.xywh[~source.boxes.ignore, 3], 0.01)) / higher
    votes = np.zeros((len(pseudo.space), len(source.space)), np.int64)
    np.add.at(votes, (np.concatenate(theirs), np.concatenate(mine)), 1)
    # A class that was never paired goes where most objects go.
    usual = np.where(votes.any(axis=1), votes.argmax(axis=1), votes.sum(axis=0).argmax())
    names = source.space.names
    classes = {n: names[c] for n, c in zip(pseudo.space.names, usual.tolist(), strict=True)}
    return Convention(wider, higher, smallest, classes)


def simulate(
    target: DetectionDataset, source: DetectionDataset, convention: Convention, seed: int = 0
) -> DetectionDataset:
    """The target's images as the source would have annotated them.

    Returns:
        ``target``'s images with annotations in the label space, and under the name, of ``source``.
    """
    boxes = target.boxes
    keep = np.flatnonzero((boxes.xywh[:, 3] >= convention.smallest) & ~boxes.ignore)
    size = boxes.xywh[keep, 2:]
    centre = boxes.xywh[keep, :2] + size / 2
    rng = np.random.default_rng(seed)
    loose = np.array([convention.wider, convention.higher])
    wanted = size * loose * rng.uniform(1 - WOBBLE, 1 + WOBBLE, size.shape)
    centre = centre + rng.uniform(-WOBBLE, WOBBLE, size.shape) * size
    limit = np.stack([target.images.width, target.images.height], axis=1)[boxes.image[keep]]
    xyxy = np.concatenate([centre - wanted / 2, centre + wanted / 2], axis=1)
    xyxy = np.clip(xyxy, 0, np.tile(limit, 2))
    table = np.array([source.space.index(convention.classes[n]) for n in target.space.names])
    made = make_boxes(boxes.image[keep], xyxy_to_xywh(xyxy), table[boxes.category[keep]])
    return replace(target.with_boxes(made, source.space), name=source.name)
