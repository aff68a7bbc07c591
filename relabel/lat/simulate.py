"""Simulated sources: another label space's pseudo-labels play a source's annotations.

At transfer a source's annotations are proposals; in training the model sees none of them on images
whose target labels are known. So on each image the pseudo-labels of one other space play them, made
as complete, as coarse and as certain as real annotations are: one to an object, with the class that
the source gives to such objects, and with those added that its specialist misses and its annotators
would not, and without those that it finds and its annotators leave out.

Shape legend: ``M`` proposals of an image, ``G`` its objects, ``C`` classes of the joint space,
``c`` classes of the playing space, ``g`` of the image's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import JointLabelSpace
from relabel.geometry import first_of_each, iou_matrix
from relabel.lat.boxes import apply, deltas
from relabel.lat.calibrate import LIES_IOU, SAME_IOU, one_object_above
from relabel.lat.places import Places, find_places, players
from relabel.lat.proposals import MADE, Proposals, image_truth, sound

# Confidence from which pseudo-labels that no annotation confirms are taken for objects.
_CERTAIN = 0.7
# Objects of a class from which its rates are measured.
_FEW = 10
# As many objects, all of them annotated, are added to each class's own.
_DRAWN = 3.0


@dataclass(frozen=True, eq=False)
class Manner:
    """How a source annotates, measured on its own images.

    Attributes:
        overlaps: float64 [c, c], see `relabel.lat.calibrate.class_overlaps`.
        smallest: size of its smallest annotations (1 in 100 is smaller), the square root of their
            area over that of the image.
    """

    overlaps: np.ndarray
    smallest: float


def smallest_size(dataset: DetectionDataset) -> float:
    """`Manner.smallest` of a dataset."""
    real = ~dataset.boxes.ignore
    wh = dataset.boxes.xywh[real, 2:]
    image = dataset.boxes.image[real]
    area = dataset.images.width[image].astype(np.float64) * dataset.images.height[image]
    return float(np.quantile(np.sqrt(wh.prod(axis=1) / area), 0.01)) if len(wh) else 0.0


def with_players(
    dataset: DetectionDataset,
    rows: Sequence[int] | np.ndarray,
    proposals: Sequence[Proposals],
    joint: JointLabelSpace,
    manners: Mapping[int, Manner],
    *,
    with_places: bool = True,
) -> tuple[list[Proposals], Places]:
    """The proposals with who plays a source's annotations, and as which class.

    Args:
        rows: the images' rows in ``dataset``.
        proposals: of each image.
        manners: by position in ``joint``, of every space that can be a source.
        with_places: look for the images' objects at the places on what plays, too.

    Returns:
        The proposals, and the places of objects on annotations of every source.
    """
    own = joint.position(dataset.name)
    truth = [image_truth(dataset, int(row))[:2] for row in rows]
    sizes = [
        float(np.sqrt(dataset.images.width[r] * float(dataset.images.height[r]))) for r in rows
    ]
    found = list(proposals)
    places = [Places.none()]
    for space, manner in manners.items():
        if space != own:
            found = _play(found, truth, sizes, joint, space, own, manner)
            found = [_numbered(p, space) for p in found]
            places.append(find_places(found, truth, space))
            if with_places:
                found = [places[-1].add_to(p, *players(p, space)) for p in found]
    return found, Places.concatenate(places)


def _numbered(p: Proposals, space: int) -> Proposals:
    """With a number for each that plays, which the places on it share."""
    rows, _ = players(p, space)
    numbers = p.source_row.copy()
    numbers[rows] = rows
    return replace(p, source_row=numbers)


def _play(
    proposals: list[Proposals],
    truth: list[tuple[np.ndarray, np.ndarray]],
    sizes: list[float],
    joint: JointLabelSpace,
    space: int,
    own: int,
    manner: Manner,
) -> list[Proposals]:
    at = joint.slice(space)
    width, classes = at.stop - at.start, joint.spaces[own].num_classes
    total = sum((np.bincount(w, minlength=classes) for _, w in truth), np.zeros(classes))
    playing, annotated = _who_plays(proposals, truth, total, space, at, manner)
    # Which classes lie on objects of each class of the images' own, and in which style.
    counts = np.zeros((width, classes))
    seen = np.zeros(classes)
    style, pairs = [np.zeros((0, 4))], [np.zeros((0, 2), np.int64)]
    for p, (rows, _, lies), (boxes, wanted) in zip(proposals, playing, truth, strict=True):
        seen += np.bincount(wanted[lies.any(axis=0)], minlength=classes)
        k, g = np.nonzero(lies)
        said = p.scores[rows[k], at].argmax(axis=1) if len(k) else k
        np.add.at(counts, (said, wanted[g]), p.scores[rows[k]].max(axis=1))
        style.append(deltas(boxes[g].astype(np.float64), p.boxes[rows[k]].astype(np.float64)))
        pairs.append(np.stack([said, wanted[g]], axis=1))
    found = seen / np.maximum(total, 1)
    added = np.clip((annotated - found) / np.maximum(1 - found, 1e-9), 0, 1)
    added[counts.sum(axis=0) == 0] = 0.0  # nobody knows what they would be called
    moves, of_pair = np.concatenate(style), np.concatenate(pairs)
    share = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1e-9)
    out = []
    for i, (p, (rows, of, lies), (boxes, wanted)) in enumerate(
        zip(proposals, playing, truth, strict=True)
    ):
        as_class = p.plays.copy()
        said = p.scores[rows, at]
        hit = of >= 0
        # An annotator knows the object: what the class of it is called settles near calls.
        said[hit] = said[hit] * (share[:, wanted[of[hit]]].T + 1e-3)
        as_class[rows] = at.start + said.argmax(axis=1) if len(rows) else as_class[rows]
        p = replace(p, plays=as_class)
        rng = np.random.default_rng([6, own, space, i])
        missed = np.flatnonzero(~lies.any(axis=0))
        draw = rng.random(len(missed))
        wh = boxes[missed, 2:] - boxes[missed, :2]
        large = np.sqrt(wh.prod(axis=1)) >= manner.smallest * sizes[i]
        missed = missed[(draw < added[wanted[missed]]) & large]
        if len(missed):
            given = np.array([rng.choice(width, p=share[:, g]) for g in wanted[missed]])
            new = _styled(boxes[missed], given, wanted[missed], moves, of_pair, rng)
            # A rider and a bicycle are one cyclist.
            clash = (iou_matrix(new, new) >= SAME_IOU) & (given[:, None] == given[None, :])
            one = first_of_each(clash)
            nothing = np.zeros((int(one.sum()), joint.num_classes))
            made = Proposals.of(sound(new[one]), nothing, space, MADE, plays=at.start + given[one])
            p = Proposals.concatenate([p, made])
        out.append(p)
    return out


# Rows [k] of an image's pseudo-labels that play, the object of each, -1 for none, and which of the
# objects each lies on, bool [k, G].
_Players = tuple[np.ndarray, np.ndarray, np.ndarray]


def _who_plays(
    proposals: list[Proposals],
    truth: list[tuple[np.ndarray, np.ndarray]],
    total: np.ndarray,
    space: int,
    at: slice,
    manner: Manner,
) -> tuple[list[_Players], np.ndarray]:
    """Those of a space's pseudo-labels that play annotations, per image; and the share of each own
    class's objects that the source annotates.

    A specialist half sees what its annotators leave out (parked bicycles): the fewer objects of a
    class they annotate, the surer it must be of one.

    Args:
        total: objects of each own class.
    """
    playing: list[_Players] = []
    sure = np.zeros(len(total))
    for p, (boxes, wanted) in zip(proposals, truth, strict=True):
        rows, of = _one_to_an_object(p, space, at, boxes, manner.overlaps)
        lies = iou_matrix(p.boxes[rows], boxes) >= LIES_IOU
        playing.append((rows, of, lies))
        surest = np.where(lies, _sureness(p, rows)[:, None], 0.0).max(axis=0, initial=0)
        sure += np.bincount(wanted, weights=surest, minlength=len(total))
    annotated = _annotated(total, sure)
    for i, (p, (rows, of, lies), (_, wanted)) in enumerate(
        zip(proposals, playing, truth, strict=True)
    ):
        usual = np.where(lies, annotated[wanted][None, :], 0.0).max(axis=1, initial=0)
        keep = (of < 0) | (_sureness(p, rows) >= 1 - usual)
        playing[i] = rows[keep], of[keep], lies[keep]
    return playing, annotated


def _one_to_an_object(
    p: Proposals, space: int, at: slice, boxes: np.ndarray, overlaps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a space's pseudo-labels that play annotations, and the object of each, -1 for none.

    Of several on one object the surest plays; two classes that the source itself draws on one
    another (a rider on a bicycle) both do.
    """
    rows = np.flatnonzero((p.space == space) & (p.variant == 0))
    iou = iou_matrix(p.boxes[rows], boxes)
    of = np.full(len(rows), -1)
    if len(boxes):
        of = np.where(iou.max(axis=1) >= SAME_IOU, iou.argmax(axis=1), -1)
    score = p.scores[rows].max(axis=1, initial=0)
    keep = np.flatnonzero((of >= 0) | (score >= _CERTAIN))
    keep = keep[np.lexsort((-score[keep], of[keep] < 0))]
    classes = p.scores[rows[keep], at].argmax(axis=1) if len(keep) else np.zeros(0, np.int64)
    limit = one_object_above(overlaps, classes)
    clash = iou_matrix(p.boxes[rows[keep]], p.boxes[rows[keep]]) > limit
    # On one object, of classes that the source does not draw on one another, one is enough.
    together = (of[keep][:, None] == of[keep][None, :]) & (of[keep] >= 0)[:, None]
    clash |= together & (limit <= SAME_IOU)
    keep = keep[first_of_each(clash)]
    return rows[keep], of[keep]


def _sureness(p: Proposals, rows: np.ndarray) -> np.ndarray:
    """How surely each is an object of any class of its space, [len(rows)] in [0, 1]."""
    return np.minimum(p.scores[rows].sum(axis=1), 1.0)


def _annotated(total: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Share of a class's objects that the source annotates, per own class [g].

    Specialists miss objects that annotators see, about as many of every class; of the class that
    is found most surely all are annotated. A class that is found half as surely is annotated half
    the time, such as bicycles where parked ones are left out. Classes with few objects, of which
    chance tells more, are drawn towards the best.

    Args:
        total: objects of each class.
        sure: of those, the sum of the sureness with which they are found.
    """
    found = np.divide(sure, total, out=np.zeros_like(sure), where=total > 0)
    enough = total >= _FEW
    best = found[enough].max() if enough.any() else found.max(initial=0)
    if best <= 0:
        return np.zeros_like(found)
    return np.minimum((sure / best + _DRAWN) / (total + _DRAWN), 1.0)


def _styled(
    boxes: np.ndarray,
    given: np.ndarray,
    wanted: np.ndarray,
    moves: np.ndarray,
    of_pair: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Objects' boxes [n, 4], each moved as one annotation of these two classes is."""
    moved = np.zeros((len(boxes), 4))
    for k, (c, g) in enumerate(zip(given, wanted, strict=True)):
        alike = np.flatnonzero((of_pair == (c, g)).all(axis=1))
        moved[k] = moves[rng.choice(alike)] if len(alike) else 0.0
    return apply(boxes.astype(np.float64), moved)
