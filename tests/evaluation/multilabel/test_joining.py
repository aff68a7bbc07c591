"""Predictions find their images by file name."""

from __future__ import annotations

import pytest

from relabel.errors import DataError
from relabel.evaluation.multilabel.joining import join_images


@pytest.mark.parametrize(
    ("truth", "predictions", "record", "unknown"),
    [
        (["a.jpg", "b.jpg"], ["b.jpg", "a.jpg"], [1, 0], []),
        (["a.JPEG", "b.JPEG"], ["val/n01/a.JPEG", "./x/b"], [0, 1], []),
        (["a.JPEG", "b.JPEG"], ["a", "\\val\\b.jpg"], [0, 1], []),
        # ImageNetV2: the folder is the class, so the same name in another folder is another image.
        (["0/a.jpeg", "10/a.jpeg"], ["v2/10/a.jpeg", "v2/0/a.jpeg"], [1, 0], []),
        (["0/a.jpeg", "1/b.jpeg"], ["0/a.jpeg", "5/b.jpeg"], [0, -1], [1]),
        (["0/a.jpeg", "1/b.jpeg"], ["b.jpeg", "a.jpeg", "c.jpeg"], [1, 0], [2]),
        # Folders that contradict each other, everywhere: the name alone, where it is unique.
        (["train/a.jpg", "train/b.jpg"], ["img/a.jpg", "img/b.png"], [0, 1], []),
        (["x/a.jpg", "y/a.jpg", "x/b.jpg"], ["i/a.jpg", "i/b.jpg"], [-1, -1, 1], [0]),
        # A dot in a name is no suffix.
        (["a.1", "a.2"], ["d/a.2", "d/a.1"], [1, 0], []),
        (["a.jpg"], ["a.jpg", "a.png"], [0], [1]),
    ],
)
def test_join(
    truth: list[str], predictions: list[str], record: list[int], unknown: list[int]
) -> None:
    found, left = join_images(truth, predictions)
    assert found.tolist() == record
    assert left == unknown


@pytest.mark.parametrize(
    ("truth", "predictions", "message"),
    [
        (["a.jpg"], ["b.jpg", "a.jpg", "./a.jpg"], "p.tsv, records 2 and 3: file name 'a.jpg'"),
        (["a.jpg", "a.jpg"], ["a.jpg"], "t.json, records 1 and 2: file name 'a.jpg' appears twice"),
        (["a.JPEG"], ["x/a.JPEG", "y/a"], "'x/a.JPEG' and 'y/a' are both image 'a.JPEG'"),
        (["0/a.jpeg", "5/a.jpeg"], ["a.jpeg"], "fits '0/a.jpeg' and '5/a.jpeg' of t.json"),
    ],
)
def test_errors(truth: list[str], predictions: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        join_images(truth, predictions, truth_file="t.json", predictions_file="p.tsv")
