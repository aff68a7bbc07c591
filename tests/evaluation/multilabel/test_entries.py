"""mAP, CF1 and OF1 over entries, against numbers worked out by hand and a direct loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from relabel.evaluation.multilabel.entries import measure_closed, measure_entries
from relabel.evaluation.multilabel.metrics import score_matrix
from relabel.evaluation.multilabel.scores import DenseScores, SparseScores


def sparse(values) -> csr_array:
    return csr_array(np.asarray(values, np.int8))


def looped(truth, scores, threshold=0.5):
    """The public code's sums, one after the other; classes without a positive left out."""
    aps, precisions, recalls, right, said, there = [], [], [], 0, 0, 0
    for c in range(truth.shape[1]):
        pairs = [(s, t) for s, t in zip(scores[:, c], truth[:, c], strict=True) if t]
        predicted = [t for s, t in pairs if s >= threshold]
        hits, positives = predicted.count(1), [t for _, t in pairs].count(1)
        right, said, there = right + hits, said + len(predicted), there + positives
        if not positives:
            continue
        precisions.append(hits / max(len(predicted), 1))
        recalls.append(hits / positives)
        precision = []
        for score, t in pairs:
            if t == 1:
                above = [u for s, u in pairs if s >= score]
                precision.append(above.count(1) / len(above))
        aps.append(np.mean(precision))
    cp, cr, op, whole = np.mean(precisions), np.mean(recalls), right / max(said, 1), right / there
    return {
        "mAP": np.mean(aps), "CP": cp, "CR": cr, "OP": op, "OR": whole,
        "CF1": 2 * cp * cr / (cp + cr), "OF1": 2 * op * whole / (op + whole),
    }  # fmt: skip


def test_by_hand():
    truth = sparse([[1, 1], [-1, 1], [1, 0], [-1, -1]])
    scores = np.array([[0.9, 0.1], [0.8, 0.6], [0.4, 0.9], [0.1, 0.3]])
    found = measure_entries(truth, scores)
    # Class 0: present at ranks 1 and 3 of 4. Class 1: 0.6 and 0.1, ranks 1 and 3 of 3.
    assert found.class_AP.tolist() == pytest.approx([(1 + 2 / 3) / 2] * 2)
    assert found.mAP == pytest.approx(5 / 6)
    # Predicted: class 0 twice, once right of 2; class 1 once (not the unknown one), right, of 2.
    assert (pytest.approx(3 / 4), pytest.approx(1 / 2)) == (found.CP, found.CR)
    assert (pytest.approx(2 / 3), pytest.approx(1 / 2)) == (found.OP, found.OR)
    assert (pytest.approx(0.6), pytest.approx(4 / 7)) == (found.CF1, found.OF1)
    assert (found.entries, found.present) == (7, 4)


@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop_with_ties_and_hidden_entries(seed):
    draws = np.random.default_rng(seed)
    truth = draws.integers(-1, 2, (30, 6)).astype(np.int8)
    truth[:, 4] = np.minimum(truth[:, 4], 0)  # a class that is nowhere present
    scores = draws.integers(0, 8, (30, 6)) / 8
    known = truth * (draws.random((30, 6)) < 0.3)
    expected = looped(np.where(known == 0, truth, 0), scores)
    listed = SparseScores(csr_array(scores.astype(np.float32)))
    for given in (scores, DenseScores(scores), listed):
        found = measure_entries(sparse(truth), given, known=sparse(known))
        assert {k: getattr(found, k) for k in expected} == pytest.approx(expected)
        assert np.isnan(found.class_AP[4])
    counted = measure_entries(sparse(truth), scores).entries
    assert counted == np.count_nonzero(truth)


def test_a_closed_truth_is_one_of_which_all_is_known():
    draws = np.random.default_rng(9)
    truth = np.where(draws.random((25, 5)) < 0.3, 1, -1)
    away = (draws.random((25, 5)) < 0.2) & (truth < 0)
    scores = DenseScores(draws.random((25, 5)))
    found = measure_closed(csr_array(truth > 0), scores, ignored=csr_array(away), threshold=0.7)
    other = measure_entries(sparse(np.where(away, 0, truth)), scores, threshold=0.7)
    assert found.to_dict() == other.to_dict()
    plain = measure_closed(csr_array(truth > 0), scores)
    assert plain.to_dict() == measure_entries(sparse(truth), scores).to_dict()


def test_ap_is_that_of_the_metrics_where_every_image_has_a_class():
    draws = np.random.default_rng(2)
    there = draws.random((20, 4)) < 0.4
    there[:, 0] |= ~there.any(axis=1)
    scores = draws.integers(0, 5, (20, 4)) / 5
    expected = score_matrix([np.flatnonzero(row).tolist() for row in there], scores)
    found = measure_entries(sparse(np.where(there, 1, -1)), scores)
    assert found.class_AP == pytest.approx(expected.class_AP, nan_ok=True)
    assert found.mAP == pytest.approx(expected.class_mAP)


def test_nothing_present_and_nothing_right():
    nothing = measure_entries(sparse([[-1, 0], [-1, -1]]), np.full((2, 2), 0.9))
    assert (nothing.mAP, nothing.CF1, nothing.OF1) == (None, None, None)
    assert (nothing.entries, nothing.present) == (3, 0)
    wrong = measure_entries(sparse([[1], [-1]]), np.array([[0.1], [0.2]]))
    assert (wrong.mAP, wrong.CF1, wrong.OF1) == (0.5, 0, 0)


def test_what_is_predicted_of_a_class_without_a_positive_counts_over_all():
    found = measure_entries(sparse([[1, -1], [1, -1]]), np.array([[0.9, 0.9], [0.9, 0.1]]))
    assert (found.CP, found.CR, found.CF1) == (1, 1, 1)
    assert pytest.approx(2 / 3) == found.OP


def test_scores_of_another_size_are_refused():
    with pytest.raises(ValueError, match="2 x 1"):
        measure_entries(sparse([[1, -1], [1, -1]]), np.zeros((2, 1)))
