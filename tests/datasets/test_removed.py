"""Which annotations a relabelling left without a label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relabel.datasets.dataset import Provenance, make_boxes
from relabel.datasets.removed import MERGED, NO_LABEL, without_label
from tests.builders.datasets import dataset_of


def test_annotations_that_no_label_names() -> None:
    box = [0, 0, 10, 10]
    annotations = make_boxes(
        [0, 0, 1, 1], [box] * 4, [0] * 4, id=[11, 12, 13, 14], ignore=[False, False, False, True]
    )
    before = dataset_of("s", ["vehicle"], ["a.png", "b.png"], annotations)
    labels = make_boxes(
        [0, 0, 1],
        [box] * 3,
        [0] * 3,
        ignore=[False, False, True],  # a region that names annotation 13 is no label of it
        provenance=Provenance(
            "s",
            ["source", "pseudo:t", "source"],
            np.array([12, -1, 13]),
            ["vehicle", "", "vehicle"],
            np.array([1, np.nan, 1], np.float32),
        ),
    )
    after = dataset_of("s", ["car"], before.images, labels)
    removed = without_label(before, after)
    assert removed.row.tolist() == [0, 2]
    # On the first lies the label of another annotation.
    assert list(removed.reason) == [MERGED, NO_LABEL]
    assert removed.merged.tolist() == [True, False]
    assert removed.category.tolist() == [-1, -1]
    assert np.isnan(removed.probability).all() and np.isnan(removed.score).all()
    assert removed.take(np.array([False, True])).row.tolist() == [2]
    bare = after.with_boxes(replace(labels, provenance=None))
    assert without_label(before, bare).row.tolist() == [0, 1, 2]
    # Labels may be on the same images in another order.
    turned = after.subset([1, 0])
    assert list(without_label(before, turned).reason) == [MERGED, NO_LABEL]
