"""Pictures of the worst labels, and of whole images with their truth and their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relabel.datasets.dataset import Boxes
from relabel.datasets.pixels.location import read_rgb
from relabel.errors import DataError
from relabel.evaluation.joined_labels import JoinedLabels
from relabel.evaluation.pseudo_labels import IOUS, Judged, PseudoLabelMetrics
from relabel.evaluation.regions import objects_and_regions
from relabel.geometry import iou_matrix
from relabel.reports.pictures import Rectangle, crop_around
from relabel.reports.pseudo_labels import ImagePicture, LabelPicture, SeenBox

WRONG, LOOSE = "Sure and wrong", "Right, with the loosest boxes"
# Below this IoU a true box does not explain a label.
_NEAR = 0.1


def worst_labels(
    joined: JoinedLabels, metrics: PseudoLabelMetrics, count: int, images: Path | None = None
) -> tuple[list[LabelPicture], list[str]]:
    """Pictures of ``count`` labels of each kind, and what was wrong with images that have none.

    Sure and wrong are the labels of the highest confidence without a match at IoU 0.5; loose are
    those of the matched ones whose confidence exceeds their IoU most.

    Args:
        images: folder that file names are relative to; default that of the truth file.
    """
    judged, quality = metrics.judged, joined.quality
    wrong = np.flatnonzero(judged.counted[0] & ~judged.right[0])
    right = np.flatnonzero(judged.right[0])
    wrong = wrong[np.argsort(-judged.confidence[wrong], kind="stable")]
    claimed = judged.confidence - judged.best_iou
    right = right[np.argsort(-claimed[right], kind="stable")]
    root, names = images or joined.truth.root, joined.truth.space.class_names
    objects, _ = objects_and_regions(joined.truth)
    pictures, failed = [], []
    for group, rows in ((WRONG, wrong), (LOOSE, right)):
        for row in rows[:count].tolist():
            image, category = int(joined.found.image[row]), int(joined.found.category[row])
            name = str(joined.truth.images.file_name[image])
            try:
                pixels = read_rgb(str(root / name))
            except DataError as error:
                failed.append(str(error))
                continue
            box = joined.found.xyxy[row]
            here = np.flatnonzero(objects.image == image)
            near = iou_matrix(box[None], objects.xyxy[here])[0]
            of_class = objects.category[here] == category
            # The true box of the label's class explains it, where there is one that is near.
            reach = np.where(of_class & (near >= _NEAR), near + 1, near)
            best = int(reach.argmax()) if len(here) else -1
            text, drawn, said = "no true box there", [box], [names[category]]
            if best >= 0 and near[best] >= _NEAR:
                true = names[objects.category[here[best]]]
                text = f"IoU {near[best]:.2f} with that true box"
                if group == WRONG and of_class[best] and near[best] >= IOUS[0]:
                    text += ", which a surer label has"
                drawn, said = [*drawn, objects.xyxy[here[best]]], [*said, true]
            x1, y1 = np.min(drawn, axis=0)[:2]
            x2, y2 = np.max(drawn, axis=0)[2:]
            part, moved = crop_around(pixels, (x1, y1, x2, y2))
            shift = np.array([moved[0] - x1, moved[1] - y1] * 2)
            claims = f"p {joined.found.score[row]:.2f}"
            claims += "" if quality is None else f", v {quality[row]:.2f}"
            pictures.append(
                LabelPicture(name, group, part, np.array(drawn) + shift, said, claims, text)
            )
    return pictures, failed


MOST, RANDOM = "with the most differences", "drawn at random"


def compared_images(
    joined: JoinedLabels,
    metrics: PseudoLabelMetrics,
    count: int,
    threshold: float,
    images: Path | None = None,
    seed: int = 0,
) -> list[ImagePicture]:
    """Whole images with their true boxes, and their labels from a confidence on.

    Half of them are those with the most missed true boxes and wrong labels, half are drawn; images
    that cannot be read are left out.

    Args:
        count: of both together.
        images: folder that file names are relative to; default that of the truth file.
    """
    judged, found = metrics.judged, joined.found
    objects, regions = objects_and_regions(joined.truth)
    kept = judged.confidence >= threshold
    missed = np.ones(len(objects), bool)
    missed[judged.taken[kept & (judged.taken >= 0)]] = False
    wrong = kept & judged.counted[0] & ~judged.right[0]
    size = len(joined.truth)
    amiss = np.bincount(objects.image[missed], minlength=size)
    amiss += np.bincount(found.image[wrong], minlength=size)
    worst = np.argsort(-amiss, kind="stable")[: count - count // 2].tolist()
    drawn = np.random.default_rng(seed).permutation(size).tolist()
    rest = [image for image in drawn if image not in worst][: count // 2]
    root, pictures = images or joined.truth.root, []
    for group, chosen in ((MOST, worst), (RANDOM, rest)):
        for image in chosen:
            name = str(joined.truth.images.file_name[image])
            try:
                pixels = read_rgb(str(root / name))
            except DataError:
                continue
            here = np.flatnonzero(found.image == image)
            aside = np.flatnonzero(regions.image == image).tolist()
            truth = [_region(joined, regions, k) for k in aside]
            real = np.flatnonzero(objects.image == image).tolist()
            truth += [_object(joined, objects, k, bool(missed[k])) for k in real]
            labels = [_label(joined, judged, k) for k in here[kept[here]].tolist()]
            below = int((~kept[here]).sum())
            pictures.append(ImagePicture(name, group, pixels, truth, labels, below))
    return pictures


def _region(joined: JoinedLabels, regions: Boxes, row: int) -> SeenBox:
    name = joined.truth.space.names[regions.category[row]]
    return SeenBox(_corners(regions, row), name, "an ignore region", "aside")


def _object(joined: JoinedLabels, objects: Boxes, row: int, missed: bool) -> SeenBox:
    name = joined.truth.space.names[objects.category[row]]
    corners = _corners(objects, row)
    if missed:
        return SeenBox(corners, name, "true, missed", "differs")
    return SeenBox(corners, name, "true, found", "fits")


def _label(joined: JoinedLabels, judged: Judged, row: int) -> SeenBox:
    found, quality = joined.found, joined.quality
    name = joined.truth.space.names[found.category[row]]
    text = f"p {found.score[row]:.2f}" + ("" if quality is None else f", v {quality[row]:.2f}")
    if judged.right[0, row]:
        kind, text = "fits", f"{text}; right, IoU {judged.best_iou[row]:.2f}"
    elif judged.counted[0, row]:
        kind, text = "differs", f"{text}; wrong, IoU {judged.best_iou[row]:.2f} at most"
    else:
        kind, text = "aside", f"{text}; in an ignore region"
    return SeenBox(_corners(found, row), name, text, kind)


def _corners(boxes: Boxes, row: int) -> Rectangle:
    x1, y1, width, height = boxes.xywh[row].tolist()
    return x1, y1, x1 + width, y1 + height
