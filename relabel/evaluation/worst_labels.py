"""Pictures of the labels that are worst: sure and wrong, right and far from their true box."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relabel.datasets.pixels.location import read_rgb
from relabel.errors import DataError
from relabel.evaluation.joined_labels import JoinedLabels
from relabel.evaluation.pseudo_labels import IOUS, PseudoLabelMetrics
from relabel.evaluation.regions import objects_and_regions
from relabel.geometry import iou_matrix
from relabel.reports.pictures import crop_around
from relabel.reports.pseudo_labels import LabelPicture

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
