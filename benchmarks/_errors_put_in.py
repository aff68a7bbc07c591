"""Errors put into a dataset's annotations, drawn by a seed, and where they are.

Each annotation receives one error at most. A moved box has an IoU of 0.15 to 0.55 with what it was,
a duplicate at least 0.75, a mirrored one under 0.3; an invented box has under 0.1 with every
annotation of its image, those that are taken out among them.

Shape legend: ``n`` boxes, ``E`` errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.table import Table
from relabel.geometry import iou_matrix

KINDS = ("missing", "class", "place", "duplicate", "mirrored", "spurious")
_TRIES = 200


@dataclass(frozen=True, eq=False)
class PutIn(Table):
    """Errors that were put in.

    Attributes:
        image: int64 [E], rows of images.
        kind: E of `KINDS`.
        id: int64 [E], of the annotation that is wrong; -1 of one that was taken out.
        twin: int64 [E], of a duplicate the annotation that it doubles, else -1.
        before: float64 [E, 4], xyxy, where the object is; NaN of an invented one.
        category: int64 [E], the true class; -1 of an invented one.
    """

    image: np.ndarray
    kind: list[str]
    id: np.ndarray
    twin: np.ndarray
    before: np.ndarray
    category: np.ndarray


def put_errors_in(
    dataset: DetectionDataset, share: float, seed: int
) -> tuple[DetectionDataset, PutIn]:
    """The dataset with ``share`` of its objects as many errors of each kind, and what they are."""
    rng = np.random.default_rng([seed, 17])
    boxes = replace(
        dataset.boxes, id=np.arange(1, len(dataset.boxes) + 1), extra=None, provenance=None
    )
    dataset = dataset.with_boxes(boxes)
    objects = np.flatnonzero(~boxes.ignore)
    count = max(1, round(share * len(objects)))
    xyxy, category = boxes.xyxy.copy(), boxes.category.copy()
    width = dataset.images.width.astype(float)
    height = dataset.images.height.astype(float)
    order = rng.permutation(objects).tolist()
    rows: list[tuple[int, str, int, int, np.ndarray, int]] = []
    gone = np.zeros(len(boxes), bool)
    new: list[tuple[int, np.ndarray, int]] = []
    next_id = len(boxes) + 1

    def take(kind: str) -> None:
        nonlocal next_id
        for _ in range(len(order)):
            row = order.pop()
            image, true = int(boxes.image[row]), boxes.xyxy[row]
            size = width[image], height[image]
            own, twin = int(boxes.id[row]), -1
            if kind == "missing":
                gone[row], own = True, -1
            elif kind == "class":
                others = [c for c in range(dataset.space.num_classes) if c != category[row]]
                category[row] = rng.choice(others)
            elif kind == "place":
                made = _moved(true, size, rng, 0.15, 0.55, 0.6, 0.8)
                if made is None:
                    continue
                xyxy[row] = made
            elif kind == "duplicate":
                made = _moved(true, size, rng, 0.75, 0.999, 0.08, 0.1)
                if made is None:
                    continue
                new.append((image, made, int(category[row])))
                own, twin, next_id = next_id, own, next_id + 1
            else:
                made = true[[2, 1, 0, 3]] * [-1, 1, -1, 1] + [size[0], 0, size[0], 0]
                if iou_matrix(true[None], made[None])[0, 0] >= 0.3:
                    continue
                xyxy[row] = made
            rows.append((image, kind, own, twin, true, int(boxes.category[row])))
            return

    for kind in KINDS[:-1]:
        for _ in range(count):
            take(kind)
    for _ in range(count):
        image, made, c = _invented(dataset, rng)
        new.append((image, made, c))
        rows.append((image, "spurious", next_id, -1, np.full(4, np.nan), -1))
        next_id += 1
    keep = np.flatnonzero(~gone)
    image = np.concatenate([boxes.image[keep], [n[0] for n in new]]).astype(int)
    corners = np.concatenate([xyxy[keep], [n[1] for n in new]])
    changed = make_boxes(
        image,
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        np.concatenate([category[keep], [n[2] for n in new]]),
        ignore=np.concatenate([boxes.ignore[keep], np.zeros(len(new), bool)]),
        id=np.concatenate([boxes.id[keep], np.arange(len(boxes) + 1, next_id)]),
    )
    return dataset.with_boxes(changed), PutIn(
        np.array([r[0] for r in rows], np.int64),
        [r[1] for r in rows],
        np.array([r[2] for r in rows], np.int64),
        np.array([r[3] for r in rows], np.int64),
        np.array([r[4] for r in rows]),
        np.array([r[5] for r in rows], np.int64),
    )


def _moved(
    box: np.ndarray,
    size: tuple[float, float],
    rng: np.random.Generator,
    low: float,
    high: float,
    shift: float,
    scale: float,
) -> np.ndarray | None:
    """A box shifted and scaled inside the image until its IoU lies between two bounds."""
    w, h = box[2] - box[0], box[3] - box[1]
    for _ in range(_TRIES):
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-shift, shift, 2) * (w, h)
        half = np.array([w, h]) / 2 * np.exp(rng.uniform(-scale, scale, 2))
        made = np.concatenate([centre - half, centre + half])
        made = np.clip(made, 0, [*size, *size])
        if (made[2:] - made[:2]).min() > 3 and low <= iou_matrix(box[None], made[None])[
            0, 0
        ] <= high:
            return made
    return None


def _invented(dataset: DetectionDataset, rng: np.random.Generator) -> tuple[int, np.ndarray, int]:
    """A box of a size and class that the dataset has, where nothing is annotated."""
    boxes = dataset.boxes
    objects = np.flatnonzero(~boxes.ignore)
    while True:
        image = int(rng.integers(len(dataset)))
        row = int(rng.choice(objects))
        w, h = boxes.xywh[row, 2:]
        size = int(dataset.images.width[image]), int(dataset.images.height[image])
        if w >= size[0] or h >= size[1]:
            continue
        x, y = rng.uniform(0, size[0] - w), rng.uniform(0, size[1] - h)
        made = np.array([x, y, x + w, y + h])
        near = iou_matrix(made[None], boxes.xyxy[dataset.rows(image)])
        if near.max(initial=0) < 0.1:
            return image, made, int(boxes.category[row])
