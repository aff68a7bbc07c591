"""What a detection set tells of each image: which classes have a box, and which were looked for.

A class with an object is present; one with regions to leave out alone (VOC's ``difficult``, COCO's
``ignore``) is unknown; any other is absent, since detection sets box all objects of their classes.
Only LVIS does not: its images tell of the classes that have a box and of ``neg_category_ids``, and
of the others nothing. A class in ``not_exhaustive_category_ids`` is present all the same, as one
of its objects was boxed.

Shape legend: ``N`` images, ``C`` classes, ``n`` boxes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.coco.federated import federated_cells
from relabel.datasets.multilabels import box_labels, label_matrix, label_rows, label_shape
from relabel.datasets.partial.labels import ABSENT, PRESENT, PartialLabels, known_matrix


def from_detection(dataset: DetectionDataset) -> PartialLabels:
    """The labels of a detection set; its categories to ignore are no classes.

    COCO's crowds are regions to leave out in a `DetectionDataset`, so that a class which is there
    as a crowd alone is unknown here. `relabel.datasets.partial.layouts.read_coco` knows better.

    Raises:
        DataError: it has no class, or LVIS's fields are no lists of ids.
    """
    space, boxes, images = dataset.space, dataset.boxes, dataset.images
    shape = (len(dataset), space.num_classes)
    present, doubtful = box_labels(boxes.image, boxes.category, boxes.ignore, shape)
    cells = federated_cells(images.extra, images.id, space.ids[: shape[1]], dataset.name)
    return PartialLabels(
        dataset.name,
        dataset.root,
        list(images.file_name),
        tuple(space.class_names),
        known_of_boxes(present, doubtful, cells, dataset.source or dataset.name),
        images.location,
    )


def known_of_boxes(
    present: csr_array,
    doubtful: csr_array,
    cells: tuple[np.ndarray, np.ndarray] | None,
    file: str | Path,
) -> csr_array:
    """int8 [N, C] of what is known.

    Args:
        present, doubtful: bool [N, C], classes with an object, and with regions to leave out alone.
        cells: of a federated set, as `federated_cells` gives them; None where all was looked for.
        file: for messages.

    Raises:
        DataError: more entries than there is memory for.
    """
    if cells is None:
        return known_matrix(present, doubtful, file=file)
    negative, not_exhaustive = cells
    images, classes = label_shape(present)
    there, unsure = (label_rows(m) * classes + m.indices for m in (present, doubtful))
    absent = np.setdiff1d(negative, np.concatenate([there, unsure, not_exhaustive]))
    at = np.concatenate([there, absent])
    values = np.repeat(np.array([PRESENT, ABSENT], np.int8), [len(there), len(absent)])
    known = label_matrix(at // classes, at % classes, (images, classes), values)
    known.sort_indices()
    return known
