"""Weights of boxes: what their losses are multiplied by, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relabel.detectors.faster_rcnn import roi_weights
from relabel.detectors.training import new_trainable
from tests.builders.detectors import FAMILIES, SPACE, losses, target, tiny_detector

BOXES = [[8.0, 6, 40, 50], [50, 10, 90, 60]]


def test_the_weight_of_a_roi_is_that_of_its_box() -> None:
    targets = [
        {"weights": torch.tensor([2.0, 0.5])},
        {},
        {"weights": torch.zeros(0)},
    ]
    matched = [torch.tensor([1, 0, 0]), torch.tensor([0]), torch.tensor([0, 0])]
    labels = [torch.tensor([3, 1, 0]), torch.tensor([2]), torch.tensor([0, 0])]
    assert roi_weights(targets, matched, labels).tolist() == [0.5, 2, 1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_weights_scale_the_losses_of_objects_alone(tmp_path: Path, family: str) -> None:
    model = new_trainable(SPACE, tiny_detector(tmp_path, family, rtdetr_denoising=0))

    def found(weight: float | None) -> dict[str, float]:
        more = {} if weight is None else {"weights": torch.full((2,), weight)}
        images = [target(BOXES, [1, 3], **more), target([BOXES[0]], [2])]
        if weight is not None:
            images[1]["weights"] = torch.full((1,), weight)
        return {k: float(v.detach()) for k, v in losses(model, images).items()}

    plain, one, three, none = found(None), found(1.0), found(3.0), found(0.0)
    assert one == pytest.approx(plain, rel=1e-5)
    coordinates = {
        "faster-rcnn": ("loss_box_reg",),
        "certainty": ("loss_box_interval", "loss_box_offset"),
        "rt-detr": ("loss_bbox", "loss_giou"),
    }[family]
    for name in coordinates:
        assert plain[name] > 0
        assert three[name] == pytest.approx(3 * plain[name], rel=1e-4)
        assert none[name] == 0
    name = "loss_vfl" if family == "rt-detr" else "loss_classifier"
    # Background has weight 1: linear in the weight, and not all of it.
    assert three[name] - plain[name] == pytest.approx(2 * (plain[name] - none[name]), rel=1e-3)
    assert 0 < none[name] < plain[name]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["faster-rcnn", "certainty"])
def test_weights_agree_with_a_direct_loop(tmp_path: Path, family: str) -> None:
    """A box's loss does not depend on the weights of others: the sum is linear in them."""
    model = new_trainable(SPACE, tiny_detector(tmp_path, family))

    def found(first: float, second: float) -> dict[str, float]:
        weights = torch.tensor([first, second])
        images = [target(BOXES, [1, 3], weights=weights)]
        return {k: float(v.detach()) for k, v in losses(model, images).items()}

    both, left, right, neither = found(1, 1), found(1, 0), found(0, 1), found(0, 0)
    mixed = found(2.0, 0.25)
    for name in both:
        if name.startswith("loss_rpn") or name == "loss_objectness":
            assert mixed[name] == both[name]
            continue
        expected = neither[name]
        expected += 2.0 * (left[name] - neither[name]) + 0.25 * (right[name] - neither[name])
        assert mixed[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert left[name] != right[name]
