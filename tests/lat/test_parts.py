"""The parts of Label-Aligned Transfer against hand-computed values."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.geometry import iou_matrix
from relabel.lat.fusion import SemanticFeatureFusion, clamp_rows, pairwise_geometry
from relabel.lat.model import (
    ProposalBatch,
    Targets,
    decode_deltas,
    encode_deltas,
    lat_losses,
    predict_target,
)
from relabel.lat.proposals import draw, image_proposals, jitter_boxes
from relabel.lat.select import (
    Labels,
    adapt_thresholds,
    calibrate,
    class_overlaps,
    coverage,
    greedy_matches,
    ignore_band,
    reliability,
    select_final,
)
from relabel.lat.settings import LatSettings
from relabel.lat.transfer import link_to_source, usual_target
from tests.builders.blocks import make_world

PAPER = LatSettings(preset="paper", channels=8, dropout=0.0).resolved()


def test_the_printed_fusion_equation() -> None:
    """SA = clamp(softmax(A)) V_c + softmax(S_c * A) V_r, computed once more by hand."""
    torch.manual_seed(0)
    sff = SemanticFeatureFusion(PAPER, classes=3, datasets=4)
    x, scores = torch.randn(1, 5, 8), torch.rand(1, 5, 3)
    confidence = torch.tensor([[1.0, 0.9, 0.4, 0.2, 1.0]])
    valid = torch.ones(1, 5, dtype=torch.bool)
    got = sff(x, scores, confidence, valid, None)[0]
    a = sff.query(x[0]) @ sff.key(x[0]).T / math.sqrt(8)
    first = torch.softmax(a, dim=1)
    for i in range(5):
        peak = float(first[i].max().detach())
        if peak > 0.5:  # 1 / sqrt(4)
            first[i] = first[i] * 0.5 / peak
    second = torch.softmax(confidence * a, dim=1)
    wanted = first @ sff.value_scores(scores[0]) + second @ sff.value_region(x[0])
    assert torch.allclose(got, wanted, atol=1e-6)


def test_the_clamp_lowers_the_peak_and_keeps_proportions() -> None:
    rows = clamp_rows(torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]]), 0.5)
    assert torch.allclose(rows, torch.tensor([[0.5, 0.0625, 0.0625], [0.4, 0.3, 0.3]]))


def test_padding_and_hidden_selves_get_no_attention() -> None:
    settings = replace(PAPER, mask_self=True, clamp=False)
    torch.manual_seed(0)
    sff = SemanticFeatureFusion(settings, classes=3, datasets=2)
    x, scores = torch.randn(1, 3, 8), torch.rand(1, 3, 3)
    valid = torch.tensor([[True, True, False]])
    confidence = torch.ones(1, 3)
    before = sff(x, scores, confidence, valid, None)
    scores[0, 0] = 5.0  # row 0's own scores must not reach row 0
    scores[0, 2] = 7.0  # padding reaches nobody
    x[0, 2] = 9.0
    after = sff(x, scores, confidence, valid, None)
    assert torch.allclose(before[0, 0], after[0, 0], atol=1e-6)
    assert not torch.allclose(before[0, 1], after[0, 1], atol=1e-3)


def test_geometry_sees_overlap_offset_and_size() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 20, 20]]])
    g = pairwise_geometry(boxes)[0]
    assert float(g[0, 0, 0]) == 1.0
    assert float(g[0, 1, 0]) == pytest.approx(1 / 3)
    assert float(g[0, 1, 2]) == pytest.approx(math.tanh(0.5))
    assert float(g[0, 2, 4]) == pytest.approx(math.tanh(math.log(2)))
    assert float(g[2, 0, 4]) == pytest.approx(-math.tanh(math.log(2)))


@given(
    st.lists(st.floats(1, 400), min_size=4, max_size=4),
    st.lists(st.floats(1, 400), min_size=4, max_size=4),
)
def test_deltas_invert(a: list[float], b: list[float]) -> None:
    """Any target within the size limit is reached exactly."""
    start = torch.tensor([[a[0], a[1], a[0] + a[2], a[1] + a[3]]])
    # The decoder limits growth to a factor of e**2.
    goal = torch.tensor([[b[0], b[1], b[0] + min(b[2], 7 * a[2]), b[1] + min(b[3], 7 * a[3])]])
    back = decode_deltas(start, encode_deltas(start, goal))
    assert torch.allclose(back, goal, atol=0.05)


def _batch(boxes: list[list[float]], classes: int) -> ProposalBatch:
    b = torch.tensor([boxes], dtype=torch.float32)
    m = b.shape[1]
    return ProposalBatch(
        region=torch.zeros(1, m, 4),
        boxes=b,
        scores=torch.zeros(1, m, classes),
        confidence=torch.ones(1, m),
        valid=torch.ones(1, m, dtype=torch.bool),
        size=torch.tensor([[100.0, 100.0]]),
    )


def _targets(boxes: list[list[float]], classes: list[int], mask: list[bool]) -> Targets:
    return Targets(
        boxes=torch.tensor([boxes], dtype=torch.float32),
        classes=torch.tensor([classes]),
        ignored=torch.zeros(1, 0, 4),
        mask=torch.tensor([mask]),
    )


def test_one_proposal_learns_two_objects_of_different_classes() -> None:
    """A cyclist's box is a rider (its upper part) and a bicycle (its lower part) at once."""
    batch = _batch([[0, 0, 10, 20]], classes=3)
    rider, bicycle = [0.0, 0, 10, 12], [0.0, 6, 10, 20]
    targets = _targets([rider, bicycle], [0, 1], [True, True, False])
    settings = LatSettings(quality_target=False)
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    deltas = torch.zeros(1, 1, 3, 4, requires_grad=True)
    losses = lat_losses(logits, deltas, batch, targets, settings)
    (losses["class"] + losses["box"]).backward()
    assert logits.grad is not None and deltas.grad is not None
    # Both classes rise; the third belongs to another dataset and is left alone.
    assert float(logits.grad[0, 0, 0]) < 0 and float(logits.grad[0, 0, 1]) < 0
    assert float(logits.grad[0, 0, 2]) == 0
    # The rider's box must lose height from below (centre up), the bicycle's from above.
    assert float(deltas.grad[0, 0, 0, 1]) > 0 and float(deltas.grad[0, 0, 1, 1]) < 0
    assert float(deltas.grad[0, 0, 2].abs().sum()) == 0


def test_proposals_in_ignore_regions_are_no_background() -> None:
    batch = _batch([[0, 0, 10, 10], [50, 50, 60, 60]], classes=1)
    targets = _targets([[80.0, 80, 90, 90]], [0], [True])
    targets.ignored = torch.tensor([[[45.0, 45, 70, 70]]])
    logits = torch.zeros(1, 2, 1, requires_grad=True)
    deltas = torch.zeros(1, 2, 1, 4)
    lat_losses(logits, deltas, batch, targets, LatSettings())["class"].backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0]) > 0
    assert float(logits.grad[0, 1, 0]) == 0


@pytest.mark.parametrize("settings", [PAPER, replace(PAPER, class_boxes=False)])
def test_softmax_is_masked_to_the_dataset(settings: LatSettings) -> None:
    batch = _batch([[0, 0, 10, 10]], classes=3)
    targets = _targets([[0.0, 0, 10, 10]], [0], [True, True, False])
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    deltas = torch.zeros(1, 1, 3 if settings.class_boxes else 1, 4)
    lat_losses(logits, deltas, batch, targets, settings)["class"].backward()
    assert logits.grad is not None
    grad = logits.grad[0, 0]
    # Softmax over two classes and background: 1/3 each, minus one for the truth.
    assert torch.allclose(grad, torch.tensor([-2 / 3, 1 / 3, 0.0, 1 / 3]), atol=1e-6)


def test_prediction_is_masked_to_the_target_and_clipped_to_the_image() -> None:
    batch = _batch([[-5, 90, 20, 120]], classes=3)
    logits = torch.tensor([[[9.0, 0.0, 1.0, 0.0]]])
    scores, boxes = predict_target(logits, torch.zeros(1, 1, 3, 4), batch, slice(1, 3), PAPER)
    e = math.e
    assert torch.allclose(scores[0, 0], torch.tensor([1 / (e + 2), e / (e + 2)]))
    assert boxes[0, 0, 0].tolist() == [0, 90, 20, 100]


def test_drawing_looks_like_a_transfer(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    joint = JointLabelSpace((world.target.space, world.source.space))
    labels = {by: pl for (by, on), pl in world.labels.items() if on == "tight"}
    settings = LatSettings(min_score=0.0)
    p = image_proposals(world.target, 0, joint, labels, settings)
    rows, scores, confidence = draw(p, 0, settings, np.random.default_rng(0))
    # Never an annotation of the space to be predicted.
    assert bool(np.all(p.variant[rows] == 0))
    assert set(p.space[rows]) == {0, 1}
    simulated = p.space[rows] == 1
    assert bool(np.all(confidence[simulated] == 1))
    assert bool(np.all(scores[simulated].max(axis=1) == 1))
    assert bool(np.all(scores[simulated].sum(axis=1) == 1))
    # Out-of-fold rows keep their whole score vector.
    assert np.allclose(scores[~simulated], p.scores[rows][~simulated])
    none, _, _ = draw(p, 0, replace(settings, target_proposals="none"), np.random.default_rng(0))
    assert set(p.space[none]) == {1}


def test_drawing_annotations_drops_some_and_takes_one_variant_each(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    joint = JointLabelSpace((world.target.space, world.source.space))
    settings = replace(PAPER, drop_gt=0.0)
    p = image_proposals(world.target, 0, joint, {}, settings, jittered=True)
    boxes = len(range(*world.target.rows(0).indices(10**6)))
    assert len(p) == boxes * (1 + settings.jitter_variants)
    rows, scores, _ = draw(p, 0, settings, np.random.default_rng(0))
    assert sorted(p.source_row[rows]) == list(range(boxes))
    assert np.array_equal(scores.argmax(axis=1), world.target.boxes.category[p.source_row[rows]])
    rows, _, _ = draw(p, 0, replace(settings, drop_gt=1.0), np.random.default_rng(0))
    assert len(rows) == 0


def test_jitter_moves_each_side_by_its_share() -> None:
    boxes = np.tile(np.array([[10, 10, 30, 50]], np.float32), (500, 1))
    moved = jitter_boxes(boxes, 0.1, np.random.default_rng(0)) - boxes
    assert np.abs(moved[:, [0, 2]]).max() <= 2.0 + 1e-4
    assert 3.5 < np.abs(moved[:, [1, 3]]).max() <= 4.0 + 1e-4


def _labels(scores: list[float], classes: list[int], boxes: list[list[float]]) -> Labels:
    return Labels(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes),
        np.arange(len(scores)),
    )


def test_calibration_finds_the_best_f1() -> None:
    """Twelve true boxes score 0.6 and above, twelve false ones 0.4 and below."""
    box, far = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    found, truth = [], []
    for i in range(12):
        found.append(_labels([0.6 + i / 100, 0.4 - i / 100], [0, 0], [box, far]))
        truth.append((np.array([box], np.float32), np.array([0])))
    thresholds = calibrate(found, truth, classes=2)
    assert thresholds[0] == pytest.approx(0.6)
    # No annotation of the second class: it takes the shared threshold.
    assert thresholds[1] == pytest.approx(0.6)


def test_reliability_rises_with_the_score() -> None:
    box = [0.0, 0, 10, 10]
    scores = [0.9, 0.8, 0.6, 0.5, 0.3]
    right = [True, False, True, True, False]
    found = [_labels([s], [0], [box]) for s in scores]
    truth = [
        (np.array([box if ok else [50.0, 0, 60, 10]], np.float32), np.array([0])) for ok in right
    ]
    # Twice, so that the class has ten annotations of its own; the other class has none.
    both = reliability(found * 2, truth * 2, classes=2)
    for table in both:
        assert np.allclose(table.scores, [0.3, 0.5, 0.9])
        assert np.allclose(table.precision, [0, 2 / 3, 1])  # 0.5, 0.6 and 0.8 are pooled
        assert [table.score_at(p) for p in (0.1, 0.6, 0.7)] == pytest.approx([0.5, 0.5, 0.9])
    never = reliability(found[1:2], truth[1:2], classes=1)[0]
    assert never.score_at(0.5) > 1


def test_of_boxes_on_one_object_the_surest_class_is_kept() -> None:
    box, near = [0.0, 0, 100, 100], [0.0, 0, 100, 98]
    found = _labels([0.8, 0.7, 0.2], [0, 1, 1], [box, near, [200, 0, 220, 20]])
    thresholds = np.array([0.75, 0.3])
    one = class_overlaps([], [], 2, 0.8)
    assert select_final(found, thresholds, one).rows.tolist() == [0]
    assert select_final(found, thresholds, class_overlaps([], [], 2, 1.0)).rows.tolist() == [0, 1]
    # The surest box is below its threshold, and takes nothing with it.
    assert select_final(found, np.array([0.9, 0.3]), one).rows.tolist() == [1]


def test_a_box_that_is_dropped_drops_no_other() -> None:
    chain = [[0.0, 0, 100, 10], [30.0, 0, 130, 10], [60.0, 0, 160, 10]]
    found = _labels([0.9, 0.8, 0.7], [0, 1, 2], chain)
    kept = select_final(found, np.zeros(3), class_overlaps([], [], 3, 0.5))
    assert kept.rows.tolist() == [0, 2]


def test_how_far_classes_overlap_is_learned_from_the_annotations() -> None:
    """Riders (0) sit on bicycles (1) at IoU 0.62; trucks (2) stand alone."""
    rider, bicycle = [0.0, 0, 10, 100], [0.0, 0, 10, 62]
    boxes = [np.array([rider, bicycle, [200, 0, 260, 40]], np.float32)] * 20
    classes = [np.array([0, 1, 2])] * 20
    # One double annotation in two hundred trucks is a slip, not a custom.
    boxes += [np.array([[0, 0, 50, 50], [0, 0, 50, 49]], np.float32)]
    classes += [np.array([2, 0])]
    boxes += [np.array([[400 + 50 * i, 0, 440 + 50 * i, 40] for i in range(200)], np.float32)] * 2
    classes += [np.full(200, 2), np.full(200, 0)]
    found = class_overlaps(boxes, classes, 3, -1)
    assert found[0, 1] == found[1, 0] == 0.7
    assert found[0, 2] == found[2, 1] == 0.5
    assert np.diag(found).tolist() == [1, 1, 1]
    assert class_overlaps(boxes, classes, 3, 0.6)[0].tolist() == [1.0, 0.6, 0.6]


def test_the_rarer_of_two_classes_says_how_often_they_overlap() -> None:
    """Three riders on three of a thousand bicycles: rare for bicycles, always so for riders."""
    pair = np.array([[0.0, 0, 10, 100], [0.0, 0, 10, 62]], np.float32)
    alone = np.array([[200.0, 0, 260, 40]], np.float32)
    boxes, classes = [pair] * 3 + [alone] * 1000, [np.array([0, 1])] * 3 + [np.array([1])] * 1000
    assert class_overlaps(boxes, classes, 2, -1)[0, 1] == 0.7


def test_matching_is_one_to_one_in_order_of_score() -> None:
    iou = np.array([[0.8, 0.6], [0.9, 0.0], [0.0, 0.7]])
    assert greedy_matches(iou, 0.5).tolist() == [True, False, True]


def test_new_boxes_are_linked_to_the_annotation_they_lie_on(tmp_path: Path) -> None:
    source = make_world(tmp_path, images=3).source
    row = int(source.boxes.image[0])
    at = source.rows(row)
    exact = source.boxes.xyxy[at.start]
    boxes = np.array([exact, exact + 1.0, [0, 0, 1, 1]], np.float32)
    linked, iou = link_to_source(boxes, np.array([at.start, -1, -1]), source, row)
    assert linked.tolist() == [at.start, at.start, -1]
    assert iou[0] == pytest.approx(1.0, abs=1e-5)
    assert iou[1] == pytest.approx(iou_matrix(boxes[1:2], exact[None])[0, 0])
    assert math.isnan(iou[2])


def test_ignore_regions_take_the_class_their_class_mostly_became(tmp_path: Path) -> None:
    source = make_world(tmp_path, images=3).source
    rows = np.array([0, 1, 2, -1])
    assert usual_target(rows, np.array([1, 1, 0, 0]), source).tolist() == [1]


def test_joint_space_concatenates_and_never_merges() -> None:
    a = LabelSpace.from_names("a", ["car", "bus"])
    b = LabelSpace.from_names("b", ["car"])
    joint = JointLabelSpace((a, b))
    assert joint.class_names == ["a/car", "a/bus", "b/car"]
    assert joint.mask("b").tolist() == [False, False, True]


def test_hiding_spares_what_plays_the_source(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    joint = JointLabelSpace((world.target.space, world.source.space))
    labels = {by: pl for (by, on), pl in world.labels.items() if on == "tight"}
    settings = LatSettings(min_score=0.0, drop_pseudo_labels=1.0)
    p = image_proposals(world.target, 0, joint, labels, settings)
    counts = {True: 0, False: 0}
    plays = int((p.confirmed & (p.space == 1)).sum())
    assert plays > 0
    for seed in range(40):
        rows, _, _ = draw(p, 0, settings, np.random.default_rng(seed))
        assert int((p.space[rows] == 1).sum()) >= plays
        counts[True] += int((p.space[rows] == 0).sum())
        rows, _, _ = draw(p, 0, settings, np.random.default_rng(seed), training=False)
        counts[False] += int((p.space[rows] == 0).sum())
    # Rates are uniform between nothing and everything: half on average.
    assert 0.3 < counts[True] / counts[False] < 0.7


def test_coverage_of_a_source_lowers_its_thresholds_no_further_than_needed() -> None:
    boxes = [[0.0, 0, 10, 10], [50.0, 50, 60, 60], [80.0, 0, 90, 10], [0.0, 80, 10, 90]]
    found = [_labels([0.8, 0.4, 0.2, 0.05], [0, 0, 0, 0], boxes)]
    wanted = [np.array(boxes, np.float32)]
    thresholds, overlaps = np.array([0.5]), class_overlaps([], [], 1, 1.0)
    assert coverage([found[0].boxes[:2]], wanted) == 0.5
    # One of four is covered as it is: nothing to lower.
    assert adapt_thresholds(found, wanted, thresholds, 0.25, overlaps)[0] == 0.5
    lowered = adapt_thresholds(found, wanted, thresholds, 0.75, overlaps)[0]
    assert 0.17 < lowered <= 0.2
    # The last box scores above a twentieth of the threshold, and that is the limit.
    assert adapt_thresholds(found, wanted, thresholds, 1.0, overlaps)[0] >= 0.025


def test_uncertain_regions_are_what_is_neither_kept_nor_surely_background() -> None:
    def box(x: float) -> list[float]:
        return [x, 0.0, x + 10.0, 10.0]

    # A sure one, a copy of it, a doubtful one, a very doubtful one, one below half the threshold.
    found = Labels(
        np.array([box(0), box(1), box(20), box(40), box(60)], np.float32),
        np.array([0.9, 0.5, 0.3, 0.12, 0.1], np.float32),
        np.array([0, 0, 1, 1, 0]),
        np.arange(5),
    )
    kept = found.take(np.array([0]))
    source = np.array([box(0), box(41), box(80)], np.float32)
    regions = ignore_band(found, kept, source, np.array([0.4, 0.4]), 0.5)
    # The copy is the kept object's; box(41) lies on a prediction below half of the threshold and
    # is a region with its own shape and that class; box(80) is seen by nothing: background.
    assert regions.boxes.tolist() == [box(20), box(41)]
    assert regions.classes.tolist() == [1, 1]
    assert len(ignore_band(found, kept, source[:1], np.array([0.4, 0.4]), 0.9)) == 0
    none = found.take(np.zeros(0, np.int64))
    assert len(ignore_band(none, none, source, np.array([0.4, 0.4]), 0.5)) == 0
