"""The parts of Label-Aligned Transfer against hand-computed values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.geometry import iou_matrix
from relabel.lat.assemble import link_to_source, usual_target
from relabel.lat.fusion import SemanticFeatureFusion, clamp_rows, pairwise_geometry
from relabel.lat.model import (
    ProposalBatch,
    Targets,
    decode_deltas,
    encode_deltas,
    lat_losses,
    predict_target,
)
from relabel.lat.proposals import (
    DROPPED,
    HIDDEN,
    JITTERED_COPIES,
    NOBODY,
    Proposals,
    draw,
    image_proposals,
    jitter_boxes,
)
from relabel.lat.settings import LatSettings
from relabel.lat.simulate import Manner, with_players
from tests.builders.blocks import World, make_world

PAPER = LatSettings(preset="paper", channels=8).resolved()


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


def test_padding_gets_no_attention() -> None:
    torch.manual_seed(0)
    sff = SemanticFeatureFusion(PAPER, classes=3, datasets=2)
    x, scores = torch.randn(1, 3, 8), torch.rand(1, 3, 3)
    valid = torch.tensor([[True, True, False]])
    confidence = torch.ones(1, 3)
    before = sff(x, scores, confidence, valid, None)
    scores[0, 2] = 7.0
    x[0, 2] = 9.0
    after = sff(x, scores, confidence, valid, None)
    assert torch.allclose(before[0, :2], after[0, :2], atol=1e-6)
    valid[0, 2] = True
    assert not torch.allclose(sff(x, scores, confidence, valid, None)[0, :2], after[0, :2])


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
    settings = LatSettings(without=("quality",))
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


def test_softmax_is_masked_to_the_dataset() -> None:
    batch = _batch([[0, 0, 10, 10]], classes=3)
    targets = _targets([[0.0, 0, 10, 10]], [0], [True, True, False])
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    deltas = torch.zeros(1, 1, 3, 4)
    lat_losses(logits, deltas, batch, targets, PAPER)["class"].backward()
    assert logits.grad is not None
    grad = logits.grad[0, 0]
    # Softmax over two classes and background: 1/3 each, minus one for the truth.
    assert torch.allclose(grad, torch.tensor([-2 / 3, 1 / 3, 0.0, 1 / 3]), atol=1e-6)


def test_prediction_is_masked_to_the_target_and_clipped_to_the_image() -> None:
    batch = _batch([[-5, 90, 20, 120]], classes=3)
    logits = torch.tensor([[[9.0, 0.0, 1.0, 0.0]]])
    scores, boxes = predict_target((logits, torch.zeros(1, 1, 3, 4)), batch, slice(1, 3), PAPER)
    e = math.e
    assert torch.allclose(scores[0, 0], torch.tensor([1 / (e + 2), e / (e + 2)]))
    assert boxes[0, 0, 0].tolist() == [0, 90, 20, 100]


def _proposals(world: World, settings: LatSettings, **more: bool) -> Proposals:
    """Those of the target's first image, with who plays the source's annotations."""
    joint = JointLabelSpace((world.target.space, world.source.space))
    labels = {by: pl for (by, on), pl in world.labels.items() if on == "tight"}
    found = image_proposals(world.target, 0, joint, labels, settings, **more)
    manner = Manner(np.ones((1, 1)), 0.0)
    (made,), _ = with_players(world.target, [0], [found], joint, {1: manner})
    return made


def test_drawing_looks_like_a_transfer(tmp_path: Path) -> None:
    settings = LatSettings(min_score=0.0)
    p = _proposals(make_world(tmp_path, images=6), settings)
    rows, scores, confidence = draw(p, 0, settings, np.random.default_rng(0))
    # Never an annotation of the space to be predicted.
    assert bool(np.all(p.variant[rows] <= 0))
    assert set(p.space[rows]) == {0, 1}
    simulated = p.space[rows] == 1
    assert bool(np.all(confidence[simulated] == 1))
    assert bool(np.all(scores[simulated].max(axis=1) == 1))
    assert bool(np.all(scores[simulated].sum(axis=1) == 1))
    # Out-of-fold rows keep their whole score vector.
    assert np.allclose(scores[~simulated], p.scores[rows][~simulated])


def test_without_simulated_sources_pseudo_labels_stay_what_they_are(tmp_path: Path) -> None:
    settings = LatSettings(min_score=0.0, without=("simulated-source", "hiding"))
    p = _proposals(make_world(tmp_path, images=6), settings)
    rows, scores, confidence = draw(p, 0, settings, np.random.default_rng(0))
    assert rows.tolist() == np.flatnonzero(p.variant == 0).tolist()
    assert np.array_equal(scores, p.scores[rows]) and (confidence < 1).all()


@pytest.mark.parametrize("settings", [PAPER, LatSettings(without=("crossfit",))])
def test_drawing_annotations_drops_some_and_takes_one_variant_each(
    tmp_path: Path, settings: LatSettings
) -> None:
    world = make_world(tmp_path, images=6)
    p = _proposals(world, settings, jittered=True)
    boxes = len(world.target.objects(0))
    assert (p.variant > 0).sum() == boxes * (1 + JITTERED_COPIES)
    counts, variants = [], set()
    for seed in range(200):
        rows, scores, confidence = draw(p, 0, settings, np.random.default_rng(seed))
        own = p.variant[rows] > 0
        of = p.source_row[rows[own]]
        assert len(np.unique(of)) == len(of) and (confidence[own] == 1).all()
        assert np.array_equal(scores[own].argmax(axis=1), world.target.boxes.category[of])
        # Out-of-fold predictions are not among them.
        assert not ((p.space[rows] == 0) & ~own).any()
        counts.append(own.sum())
        variants |= set(p.variant[rows[own]])
    assert variants == set(range(1, 2 + JITTERED_COPIES))
    assert np.mean(counts) == pytest.approx(boxes * (1 - DROPPED), rel=0.15)


def test_jitter_moves_each_side_by_its_share() -> None:
    boxes = np.tile(np.array([[10, 10, 30, 50]], np.float32), (500, 1))
    moved = jitter_boxes(boxes, 0.1, np.random.default_rng(0)) - boxes
    assert np.abs(moved[:, [0, 2]]).max() <= 2.0 + 1e-4
    assert 3.5 < np.abs(moved[:, [1, 3]]).max() <= 4.0 + 1e-4


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
    settings = LatSettings(min_score=0.0)
    p = _proposals(make_world(tmp_path, images=6), settings)
    plays = int((p.plays != NOBODY).sum())
    assert plays > 0
    counts = {True: 0, False: 0}
    for seed in range(40):
        for training in counts:
            rng = np.random.default_rng(seed)
            rows, _, _ = draw(p, 0, settings, rng, training=training)
            assert int((p.space[rows] == 1).sum()) == plays
            counts[training] += int((p.space[rows] == 0).sum())
    # Rates are uniform between nothing and `HIDDEN`: half of that on average.
    assert counts[True] / counts[False] == pytest.approx(1 - HIDDEN / 2, abs=0.15)
