"""Which whole images a report of pseudo-labels shows, and what it says of their boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from relabel.evaluation.joined_labels import JoinedLabels, join_labels
from relabel.evaluation.pseudo_labels import PseudoLabelMetrics, measure_pseudo_labels
from relabel.evaluation.worst_labels import MOST, RANDOM, compared_images
from tests.builders.datasets import write_image
from tests.evaluation.test_pseudo_labels import coco, label, true


@pytest.fixture
def joined(tmp_path: Path) -> tuple[JoinedLabels, PseudoLabelMetrics]:
    """Image 1 is labelled in full, 2 has a miss and a wrong label, 3 a miss, 4 an ignored label."""
    for k in range(1, 5):
        write_image(tmp_path / f"{k}.jpg", 100, 80, (90, 90, 90))
    truth = [
        true([0, 0, 10, 10]),
        true([0, 0, 10, 10], 2, 2),
        true([0, 0, 10, 10], 1, 3),
        true([50, 0, 40, 40], 1, 4, crowd=1),
    ]
    labels = [
        label([0, 0, 10, 8], 0.9, 0.25),
        label([60, 40, 10, 10], 0.8, 0.5, 2, 2),
        label([0, 0, 10, 10], 0.4, 0.75, 1, 3),
        label([60, 10, 10, 10], 0.7, 0.5, 1, 4),
    ]
    found = join_labels(coco(truth, 4), coco(labels, 4))
    return found, measure_pseudo_labels(found)


def test_images_with_the_most_differences_come_first(
    joined: tuple[JoinedLabels, PseudoLabelMetrics], tmp_path: Path
) -> None:
    pictures = compared_images(*joined, 4, 0.5, tmp_path)
    assert [p.group for p in pictures] == [MOST, MOST, RANDOM, RANDOM]
    assert [p.name for p in pictures[:2]] == ["2.jpg", "3.jpg"]
    assert {p.name for p in pictures[2:]} == {"1.jpg", "4.jpg"}
    assert pictures[0].pixels.shape == (80, 100, 3)
    again = compared_images(*joined, 4, 0.5, tmp_path)
    assert [p.name for p in again] == [p.name for p in pictures]
    assert [p.name for p in compared_images(*joined, 1, 0.5, tmp_path)] == ["2.jpg"]


def test_what_is_said_of_boxes(
    joined: tuple[JoinedLabels, PseudoLabelMetrics], tmp_path: Path
) -> None:
    found = {p.name: p for p in compared_images(*joined, 4, 0.5, tmp_path)}
    one = found["1.jpg"]
    assert one.truth == [((0, 0, 10, 10), "car", "true, found", "fits")]
    assert one.labels == [((0, 0, 10, 8), "car", "p 0.90, v 0.25; right, IoU 0.80", "fits")]
    two = found["2.jpg"]
    assert [(b.name, b.text, b.kind) for b in two.truth] == [("bus", "true, missed", "differs")]
    assert two.labels[0].text == "p 0.80, v 0.50; wrong, IoU 0.00 at most"
    assert (two.labels[0].kind, two.below) == ("differs", 0)
    # A label that is not sure enough finds nothing.
    three = found["3.jpg"]
    assert (three.truth[0].kind, three.labels, three.below) == ("differs", [], 1)
    four = found["4.jpg"]
    assert [b.kind for b in (*four.truth, *four.labels)] == ["aside", "aside"]
    every = {p.name: p for p in compared_images(*joined, 4, 0.4, tmp_path)}
    assert (every["3.jpg"].truth[0].kind, every["3.jpg"].below) == ("fits", 0)


def test_images_that_cannot_be_read_are_left_out(
    joined: tuple[JoinedLabels, PseudoLabelMetrics], tmp_path: Path
) -> None:
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    names = [p.name for p in compared_images(*joined, 4, 0.5, tmp_path)]
    assert len(names) == 3 and "2.jpg" not in names
