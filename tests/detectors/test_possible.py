"""Detectors learn from boxes that may be of several classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.datasets.alternatives import alternatives_field
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.faster_rcnn import joined
from relabel.detectors.rt_detr.loss import Criterion, Truth
from relabel.detectors.specialist import TrainingBatches
from relabel.detectors.training import new_trainable
from tests.builders.blocks import make_world
from tests.builders.detectors import FAMILIES, tiny_detector


def test_the_loss_asks_for_any_of_the_possible_classes() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, generator=rng, requires_grad=True)
    labels = torch.tensor([2, 0, 3])
    possible = torch.zeros(3, 5, dtype=torch.bool)
    possible[0, [2, 4]] = True
    possible[1, 0] = possible[2, 3] = True
    loss = torch.nn.functional.cross_entropy(
        joined(logits, labels, possible), labels, reduction="none"
    )
    p = logits.softmax(dim=1)
    wanted = -torch.stack([p[0, 2] + p[0, 4], p[1, 0], p[2, 3]]).log()
    assert torch.allclose(loss, wanted, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss[0], logits)
    # Both are drawn up in proportion to their probability, all others down.
    assert (gradient[0, [2, 4]] < 0).all() and (gradient[0, [0, 1, 3]] > 0).all()
    assert gradient[0, 2] / gradient[0, 4] == pytest.approx((p[0, 2] / p[0, 4]).item(), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_of_either_class_teach_where_objects_are_and_not_which(
    family: str, tmp_path: Path
) -> None:
    """The class head gets no pull from one of two possible classes to the other."""
    trainable = new_trainable(
        LabelSpace.from_names("t", ["a", "b", "c"]), tiny_detector(tmp_path, family)
    )
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    target = {
        "boxes": torch.tensor([[10.0, 10, 60, 60]]),
        "labels": torch.tensor([1]),
        "ignored": torch.zeros(0, 4),
    }
    either = {**target, "possible": torch.tensor([[False, True, True, False]])}
    other = {**target, "labels": torch.tensor([2])}
    found = {}
    for name, of in {"a": target, "b": other, "either": either}.items():
        torch.manual_seed(0)
        parts = trainable.model.train()(pixels, [(96, 96)], [of])
        found[name] = float(
            parts["loss_vfl" if family == "rt-detr" else "loss_classifier"].detach()
        )
    assert found["either"] < min(found["a"], found["b"])
    assert all(np.isfinite(v) for v in found.values())


def test_rt_detr_asks_for_the_class_it_believes_in_and_denies_none_that_is_possible() -> None:
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]])[None, None]
    logits = torch.tensor([[[[-3.0, -1.0, 2.0], [-3.0, -3.0, 3.0]]]], requires_grad=True)
    possible = torch.tensor([[True, True, False]])
    empty = torch.zeros(0, 4)
    truth = Truth(boxes[0, 0, :1].clone(), torch.tensor([0]), empty, None, possible)
    pairs = criterion.match(logits.detach(), boxes, [truth])
    # The first query believes more in the second class, which is possible as well.
    assert pairs.query.tolist() == [0]
    criterion.losses(logits, boxes, [truth], pairs, (100, 100))[0, 0].backward()
    assert logits.grad is not None
    mine = logits.grad[0, 0, 0].tolist()
    assert mine[0] == 0 and mine[1] < 0 and mine[2] > 0
    assert (logits.grad[0, 0, 1] > 0).all()


def test_batches_carry_the_possible_classes_of_what_is_no_region(tmp_path: Path) -> None:
    data = make_world(tmp_path / "world", images=6).target
    rows = data.rows(2)
    assert rows.stop - rows.start >= 2
    others = np.zeros((len(data.boxes), 2), bool)
    others[rows] = True
    others[np.arange(len(others)), data.boxes.category] = False
    ignore = np.zeros(len(data.boxes), bool)
    ignore[rows.start] = True
    boxes = replace(data.boxes, ignore=ignore, extra=alternatives_field(others, data.space))
    settings = tiny_detector(tmp_path, batch_size=6)
    _, _, targets = TrainingBatches(data.with_boxes(boxes), settings, 32)(0)
    (with_some,) = [t for t in targets if "possible" in t]
    assert len(with_some["ignored"]) == 1
    assert len(with_some["possible"]) == len(with_some["labels"]) == rows.stop - rows.start - 1
    # Background first.
    assert with_some["possible"].tolist() == [[False, True, True]] * len(with_some["labels"])
