"""Thresholds per class: over all shards, whoever wrote them and in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.crosslabel.label import cross_label
from relabel.crosslabel.pseudo import PseudoLabels, merge_pseudo_labels
from relabel.crosslabel.selection import select_class_wise
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels, read_selected
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.errors import DataError
from relabel.settings import Ranking
from tests.crosslabel.test_label import RUNTIME, FakeDetector, contents, make_dataset, run, same

CLASSWISE = CrossLabelSettings(
    batch_size=3, shard_images=5, min_score=0.3, threshold="classwise", tau=0.6
)


class RatedDetector(FakeDetector):
    """The same detections, with a quality each."""

    def one(self, image: np.ndarray) -> Detections:
        found = super().one(image)
        quality = np.random.default_rng(len(found)).random(len(found)).astype(np.float32)
        return replace(found, quality=quality, ranking="product")


def labels_of(
    candidates: Sequence[tuple[int, float]], quality: Sequence[float] | None = None
) -> PseudoLabels:
    """(class, score) of boxes of three classes, all in one image."""
    scores = np.zeros((len(candidates), 3), np.float32)
    for row, (category, score) in enumerate(candidates):
        scores[row, category] = score
    return PseudoLabels(
        LabelSpace.from_names("fine", ["car", "bus", "truck"]),
        "fine",
        "coarse",
        ["a.png"],
        np.zeros(len(candidates), np.int32),
        np.tile(np.array([0, 0, 9, 9], np.float32), (len(candidates), 1)),
        scores,
        quality=None if quality is None else np.array(quality, np.float32),
    )


def test_numbers_worked_out_by_hand() -> None:
    # 4 candidates over 3 classes: 4/3 on average. Sums are 1.9 and 0.5, and nothing for trucks:
    # (1.9 / (4/3)) ** 0.05 * 0.5 = 0.508934, (0.5 / (4/3)) ** 0.05 * 0.5 = 0.476069.
    labels = labels_of([(0, 0.9), (0, 0.507), (1, 0.477), (0, 0.493)])
    kept, selection = select_class_wise(labels, 0.5)
    assert kept.score.tolist() == pytest.approx([0.9, 0.477])
    assert selection.candidates.tolist() == [3, 1, 0]
    assert selection.kept.tolist() == [1, 1, 0]
    assert selection.thresholds is not None
    assert np.allclose(
        selection.thresholds, [(1.9 * 0.75) ** 0.05 * 0.5, (0.477 * 0.75) ** 0.05 * 0.5, 0.4]
    )
    assert selection.by_class(labels.space, 0.1)["truck"] == {
        "candidates": 0,
        "kept": 0,
        "threshold": 0.4,
    }


@pytest.mark.parametrize(
    ("on", "kept"), [("score", [0, 1]), ("quality", [0, 2]), ("product", [0]), ("geometric", [0])]
)
def test_the_confidence_compared_is_the_one_asked_for(on: Ranking, kept: list[int]) -> None:
    labels = labels_of([(0, 0.9), (1, 0.9), (2, 0.3)], quality=[0.9, 0.3, 0.9])
    found, selection = select_class_wise(labels, 0.6, on)
    assert found.take(np.ones(len(found), bool)).score.tolist() == labels.score[kept].tolist()
    # Statistics are of p * v, whatever is compared.
    assert selection.thresholds is not None
    expected = np.array([0.81, 0.27, 0.27]) ** 0.05 * 0.6
    assert np.allclose(selection.thresholds, expected)


def test_no_label_at_all() -> None:
    kept, selection = select_class_wise(labels_of([]), 0.7)
    assert len(kept) == 0
    assert selection.thresholds is not None and selection.thresholds.tolist() == [0.7] * 3


@pytest.mark.parametrize("detector", [FakeDetector, RatedDetector])
def test_shards_hold_all_candidates_and_do_not_know_each_other(
    tmp_path: Path, detector: type[FakeDetector]
) -> None:
    dataset = make_dataset(tmp_path / "photos")
    run(dataset, tmp_path / "fixed", settings=replace(CLASSWISE, threshold="fixed"))
    run(dataset, tmp_path / "a", settings=CLASSWISE, detector=detector())
    labels, selection = read_selected(tmp_path / "a")
    every = selection.candidates
    if detector is FakeDetector:
        assert every.sum() == len(read_pseudo_labels(tmp_path / "fixed"))
    assert 0 < len(labels) == selection.kept.sum() < every.sum()
    assert (labels.quality is None) is (detector is FakeDetector)
    assert np.bincount(labels.category, minlength=3).tolist() == selection.kept.tolist()

    # An interrupted run that goes on, and other shards, give the same.
    before = contents(tmp_path / "a")
    (tmp_path / "a" / list(before)[1]).unlink()
    run(dataset, tmp_path / "a", settings=CLASSWISE, detector=detector())
    assert contents(tmp_path / "a") == before
    run(
        dataset,
        tmp_path / "b",
        settings=replace(CLASSWISE, shard_images=100),
        detector=detector(),
    )
    assert same(read_pseudo_labels(tmp_path / "b"), labels)
    # With a shard missing there are no thresholds.
    (tmp_path / "a" / list(before)[2]).unlink()
    with pytest.raises(DataError):
        read_pseudo_labels(tmp_path / "a")


def test_each_fold_has_thresholds_of_its_own_specialist(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos")
    parts = []
    for k in range(2):
        rows = np.arange(k, len(dataset), 2)
        out = tmp_path / f"fold{k}"
        cross_label(
            Path("none"),
            dataset,
            out,
            CLASSWISE,
            RUNTIME,
            image_rows=rows,
            detector=FakeDetector(),
        )
        labels, selection = read_selected(out)
        assert selection.thresholds is not None
        assert (labels.score >= selection.thresholds[labels.category]).all()
        parts.append(labels)
    whole = merge_pseudo_labels(parts)
    assert whole.coverage.all()
    assert len(whole) == sum(map(len, parts))
