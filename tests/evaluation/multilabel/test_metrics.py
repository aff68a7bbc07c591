"""Top-1 and average precision against values worked out by hand, a direct loop and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_matrix
from relabel.errors import DataError
from relabel.evaluation.multilabel.metrics import MultiLabelMetrics, measure_labels, score_matrix
from relabel.evaluation.multilabel.scores import DenseScores, SparseScores


def direct_ap(true: list[bool], scores: list[float]) -> float:
    """Mean over the positives of the precision among all that score as high or higher."""
    precisions = []
    for positive, score in zip(true, scores, strict=True):
        if positive:
            above = [t for t, s in zip(true, scores, strict=True) if s >= score]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions)


def direct(
    truth: list[set[int]], scores: np.ndarray, ignored: list[set[int]]
) -> tuple[float, float, float]:
    """Top-1, example-based and class-wise mAP, image by image and class by class."""
    right, of_images, of_classes = [], [], []
    classes = range(scores.shape[1])
    for labels, row, away in zip(truth, scores.tolist(), ignored, strict=True):
        seen = [c for c in classes if c not in away]
        values = [row[c] for c in seen]
        flat = len(values) > 1 and len(set(values)) == 1
        right.append(not flat and seen[values.index(max(values))] in labels)
        of_images.append(direct_ap([c in labels for c in seen], values))
    for c in classes:
        seen = [i for i in range(len(truth)) if c not in ignored[i]]
        if any(c in truth[i] for i in seen):
            column = [float(scores[i, c]) for i in seen]
            of_classes.append(direct_ap([c in truth[i] for i in seen], column))
    return float(np.mean(right)), float(np.mean(of_images)), float(np.mean(of_classes))


def sparse(scores: np.ndarray) -> SparseScores:
    return SparseScores(csr_array(scores))


def marked(lists: Sequence[Collection[int]], classes: int) -> csr_array:
    rows = [image for image, labels in enumerate(lists) for _ in labels]
    ids = [label for labels in lists for label in labels]
    return label_matrix(np.array(rows, int), np.array(ids, int), (len(lists), classes))


def numbers(metrics: MultiLabelMetrics) -> tuple[float, float, float]:
    return metrics.top1, metrics.example_mAP, metrics.class_mAP


def test_values_worked_out_by_hand() -> None:
    truth = [[0], [1, 2], [], [0, 1, 3]]
    scores = np.array(
        [
            [0.9, 0.1, 0.5, 0.3],  # first: AP 1, top-1 right
            [0.8, 0.6, 0.4, 0.2],  # second and third: AP (1/2 + 2/3) / 2 = 7/12, top-1 wrong
            [0.0, 0.0, 1.0, 0.0],  # nothing known: skipped
            [0.1, 0.7, 0.9, 0.3],  # 2nd, 3rd, 4th: AP (1/2 + 2/3 + 3/4) / 3 = 23/36, wrong
        ]
    )
    found = score_matrix(truth, scores)
    assert (found.images, found.skipped) == (3, 1)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.example_mAP == pytest.approx((1 + 7 / 12 + 23 / 36) / 3)
    assert found.buckets == {
        "1": pytest.approx(1.0),
        "2": pytest.approx(7 / 12),
        ">=3": pytest.approx(23 / 36),
    }
    assert found.fine_buckets["3"] == pytest.approx(23 / 36)
    assert found.fine_buckets[">=4"] is None
    assert found.bucket_images == {"1": 1, "2": 1, ">=3": 1, "3": 1, ">=4": 0}
    # Images 0, 1 and 3 by class: class 0 ranks image 0 first and 3 last: (1 + 2/3) / 2 = 5/6;
    # class 1 ranks image 3, then 1: 1; class 2 ranks image 1 last: 1/3; class 3 ties 0 and 3: 1/2.
    assert found.class_AP == pytest.approx([5 / 6, 1, 1 / 3, 1 / 2])
    assert found.class_mAP == pytest.approx((5 / 6 + 1 + 1 / 3 + 1 / 2) / 4)
    assert found.class_images.tolist() == [2, 2, 1, 1]


def test_equal_scores_are_one_step_whatever_their_order() -> None:
    # Two classes share the second place, one of them true: precision there is 2 of 3.
    scores = np.array([[0.5, 0.9, 0.5, 0.1]])
    for second in (0, 2):
        assert score_matrix([[1, second]], scores).example_mAP == pytest.approx((1 + 2 / 3) / 2)
    # A class that is not listed ties with all the others that are not: 2 of 1000.
    listed = SparseScores(csr_array(([0.9], [7], [0, 1]), shape=(1, 1000)))
    found = measure_labels(marked([[7, 500]], 1000), listed)
    assert found.example_mAP == pytest.approx((1 + 2 / 1000) / 2)


def test_top1_of_equal_scores() -> None:
    scores = np.array([[0.2, 0.7, 0.7], [0.2, 0.7, 0.7], [0.0, 0.0, 0.0], [0.4, 0.4, 0.4]])
    truth = [[1], [2], [0], [0]]
    # The lowest class id of equals; a row that says nothing is wrong, listed or not.
    for found in (
        score_matrix(truth, scores),
        measure_labels(marked(truth, 3), sparse(scores)),
    ):
        assert found.top1 == pytest.approx(1 / 4)


def test_ignored_classes_leave_the_rankings() -> None:
    truth, ignored = marked([[1], [0]], 3), marked([[0], []], 3)
    scores = np.array([[0.9, 0.6, 0.3], [0.5, 0.1, 0.2]])
    for held in (DenseScores(scores), sparse(scores)):
        found = measure_labels(truth, held, ignored=ignored)
        assert found.top1 == 1.0
        assert found.example_mAP == 1.0
        assert found.class_AP[:2] == pytest.approx([1.0, 1.0])
        assert math.isnan(found.class_AP[2])
        counted = measure_labels(truth, held)
        assert counted.example_mAP == pytest.approx((1 / 2 + 1) / 2)
        assert counted.class_AP[0] == pytest.approx(1 / 2)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[set[int]], np.ndarray, list[set[int]]]:
    images = draw(st.integers(1, 7))
    classes = draw(st.integers(1, 6))
    label = st.integers(0, classes - 1)
    truth = [draw(st.sets(label, min_size=1)) for _ in range(images)]
    ignored = [draw(st.sets(label)) - labels for labels in truth]
    # Few different scores, so that there are ties, and zeros, so that classes go unlisted.
    score = st.sampled_from([0.0, 0.0, 0.25, 0.5, 0.75, 1.0])
    rows = [draw(st.lists(score, min_size=classes, max_size=classes)) for _ in range(images)]
    return truth, np.array(rows), ignored


@settings(max_examples=50)
@given(cases())
def test_equal_to_a_direct_computation(
    case: tuple[list[set[int]], np.ndarray, list[set[int]]],
) -> None:
    truth, scores, ignored = case
    labels, away = marked(truth, scores.shape[1]), marked(ignored, scores.shape[1])
    expected = direct(truth, scores, ignored)
    for held in (DenseScores(scores), DenseScores(scores.astype(np.float32)), sparse(scores)):
        assert numbers(measure_labels(labels, held, ignored=away)) == pytest.approx(
            expected, abs=1e-12
        )


def test_equal_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    from relabel.evaluation.multilabel import metrics, scores

    rng = np.random.default_rng(3)
    for ties in (False, True):
        truth = rng.random((30, 11)) < 0.15
        truth[np.arange(30), rng.integers(0, 11, 30)] = True
        values = rng.random((30, 11)) + 0.3 * truth
        if ties:
            values = np.round(values, 1) * (values > 0.5)
        ap = [sklearn.average_precision_score(t, s) for t, s in zip(truth, values, strict=True)]
        used = truth.any(axis=0)
        of_classes = [
            sklearn.average_precision_score(t, s)
            for t, s in zip(truth.T[used], values.T[used], strict=True)
        ]
        labels = csr_array(truth)
        # Also where the work is cut into many blocks.
        for cells in (1 << 22, 100):
            monkeypatch.setattr(metrics, "_CELLS", cells)
            monkeypatch.setattr(scores, "_BLOCK_CELLS", cells)
            for held in (DenseScores(values), sparse(values)):
                found = measure_labels(labels, held)
                assert found.image_AP == pytest.approx(ap, abs=1e-12)
                assert found.class_AP[used] == pytest.approx(of_classes, abs=1e-12)
                assert found.top1 == pytest.approx(
                    np.mean(truth[np.arange(30), values.argmax(axis=1)])
                )


def test_records_in_another_order_and_other_columns() -> None:
    values = np.array([[0.1, 0.9, 0.4], [0.8, 0.2, 0.3]])
    truth = marked([[0], [1], [1]], 3)
    # The second image has no record; class 1 is column 0, and no column is class 2.
    held = DenseScores(values, np.array([1, -1, 0]), np.array([2, 0, -1]))
    plain = np.array([[0.3, 0.8, -1], [0, 0, -1], [0.4, 0.1, -1]])
    assert numbers(measure_labels(truth, held)) == pytest.approx(
        numbers(score_matrix([[0], [1], [1]], plain))
    )
    listed = sparse(values).renamed(np.array([1, -1, 0]), 3).take(np.array([1, -1, 0]))
    assert listed.block(0, 3).tolist() == [[0.3, 0.8, 0], [0, 0, 0], [0.4, 0.1, 0]]


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        ([[0], []], np.array([[0.1, np.nan], [0, 0]]), "not finite"),
        ([[2], []], np.zeros((2, 2)), "image 0: classes .2. are not all within 0 to 1"),
        ([[-1], []], np.zeros((2, 2)), "not all within"),
        ([[], []], np.zeros((2, 2)), "no image has a true class"),
        ([[0]], np.zeros((2, 2)), "expected .1, classes"),
    ],
)
def test_errors(truth: list[list[int]], scores: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_matrix(truth, scores)
