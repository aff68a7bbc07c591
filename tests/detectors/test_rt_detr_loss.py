"""RT-DETRv2's loss: that of transformers, with ignore regions and classes that are unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from relabel.detectors.rt_detr.loss import Criterion, Truth, truths_of
from relabel.detectors.settings import SpecialistSettings
from tests.builders.detectors import learn, losses, new_rt_detr, pixels_of, target


def test_without_ignore_regions_the_loss_is_that_of_transformers(
    rt_detr: SpecialistSettings,
) -> None:
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    trainable = new_rt_detr(rt_detr)
    targets = [
        target([[10, 10, 40, 50], [60, 20, 90, 60]], [1, 3]),
        target([], []),
        target([[30, 8, 80, 30]], [2]),
    ]
    ours = losses(trainable, targets)
    torch.manual_seed(7)
    labels = [{"class_labels": t.labels, "boxes": t.boxes} for t in truths_of(targets, (64, 96))]
    net: Any = trainable.model.net
    found = net(pixels_of(len(targets)), labels=labels)
    _, theirs, _ = RTDetrForObjectDetectionLoss(
        found.intermediate_logits[:, -1],
        labels,
        "cpu",
        found.intermediate_reference_points[:, -1],
        net.config,
        found.intermediate_logits,
        found.intermediate_reference_points,
        found.enc_topk_logits,
        found.enc_topk_bboxes,
        found.denoising_meta_values,
    )
    for ending in ("", "_aux", "_dn"):
        for name in ("vfl", "bbox", "giou"):
            prefix = f"loss_{name}{ending}"
            parts = [
                float(v.detach())
                for k, v in theirs.items()
                if (k == prefix if not ending else k.startswith(prefix + "_"))
            ]
            assert parts
            assert float(ours[prefix].detach()) == pytest.approx(sum(parts), rel=1e-4), prefix


def test_a_sure_query_wins_an_object_over_a_nearer_one() -> None:
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.55, 0.55, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])
    truth = Truth(boxes[:1].clone(), torch.tensor([0]), torch.zeros(0, 4), None)
    # Scores 0.5 and 0.9: focal costs of -0.17 and -2.80. Of L1 and GIoU the second pays 1.31 more,
    # less than it gains, but more than the 0.09 of the costs for the class being there.
    logits = torch.tensor([[0.0], [2.1972], [0.0]])[None, None]
    pairs = criterion.match(logits, boxes[None, None], [truth])
    assert pairs.query.tolist() == [1]
    # A broken number is matched last.
    broken = boxes.clone()
    broken[1] = torch.nan
    assert criterion.match(logits, broken[None, None], [truth]).query.tolist() == [0]


def test_a_region_is_of_its_own_image() -> None:
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])[None, None].repeat(
        2, 1, 1, 1
    )
    logits = torch.zeros(2, 1, 2, 2, requires_grad=True)
    empty, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    everywhere = torch.tensor([[0.0, 0, 100, 100]])
    truths = [Truth(empty, no_labels, empty, None), Truth(empty, no_labels, everywhere, None)]
    pairs = criterion.match(logits, boxes, truths)
    criterion.losses(logits, boxes, truths, pairs, (100, 100)).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().min() > 0
    assert logits.grad[1].abs().max() == 0


def test_a_query_inside_an_ignore_region_is_no_background() -> None:
    """One object, three queries: matched, free, and free inside the region."""
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.2, 0.5, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1], [0.8, 0.5, 0.2, 0.4]])
    logits = torch.zeros(1, 1, 3, 2, requires_grad=True)
    boxes = boxes[None, None].clone().requires_grad_()
    region = torch.tensor([[65.0, 0, 100, 50]])
    truth = Truth(boxes[0, 0, :1].detach().clone(), torch.tensor([1]), region, None)
    pairs = criterion.match(logits, boxes, [truth])
    assert [int(v) for v in (pairs.image, pairs.set, pairs.query, pairs.box)] == [0, 0, 0, 0]
    parts = criterion.losses(logits, boxes, [truth], pairs, (50, 100))
    # Per logit of 0: log 2, weighted by the IoU of 1 or by 0.75 * 0.5 ** 2. The region's two
    # logits are left out, so that three of background stay.
    expected = np.log(2) * (1 + 3 * 0.75 * 0.25)
    assert parts[0].tolist() == pytest.approx([expected, 0, 0], abs=1e-5)
    parts.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 2].abs().max() == 0
    assert logits.grad[0, 0, :2].abs().min() > 0


def test_a_matched_query_inside_an_ignore_region_still_learns() -> None:
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])[None, None]
    logits = torch.zeros(1, 1, 2, 2)
    everywhere = torch.tensor([[0.0, 0, 100, 100]])
    truth = Truth(torch.tensor([[0.5, 0.5, 0.2, 0.1]]), torch.tensor([0]), everywhere, None)
    pairs = criterion.match(logits, boxes, [truth])
    parts = criterion.losses(logits, boxes, [truth], pairs, (100, 100))
    # IoU 0.5: its own class is drawn to it with that weight, the other class to 0.
    expected = np.log(2) * (0.5 + 0.75 * 0.25)
    assert parts[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert parts[0, 1].item() == pytest.approx(5 * 0.1, rel=1e-5)
    assert parts[0, 2].item() == pytest.approx(2 * 0.5, rel=1e-4)


def test_classes_that_an_image_does_not_know_get_no_gradient(rt_detr: SpecialistSettings) -> None:
    trainable = new_rt_detr(rt_detr)
    known = torch.tensor([True, True, False, True])
    targets = [
        target([[10, 10, 40, 50]], [1], classes=known),
        target([[20, 10, 50, 40], [60, 8, 80, 30]], [3, 1], classes=known),
    ]
    learn(losses(trainable, targets))
    net: Any = trainable.model.net
    heads = [net.enc_score_head.module, *net.decoder.module.class_embed]
    for head in heads:
        per_class = head.weight.grad.abs().sum(dim=1)
        assert (per_class > 0).tolist() == [True, False, True]
        assert (head.bias.grad != 0).tolist() == [True, False, True]
    # Label noise of the denoising queries draws known classes only.
    noise = net.denoising_class_embed.weight.grad.abs().sum(dim=1)
    assert (noise > 0).tolist() == [True, False, True, False]
    # In the next batch everything is known again.
    trainable.model.zero_grad()
    learn(losses(trainable, [target([[10, 10, 40, 50]], [2])]))
    assert (heads[0].weight.grad.abs().sum(dim=1) > 0).all()


def test_images_without_boxes_teach_background_only(rt_detr: SpecialistSettings) -> None:
    trainable = new_rt_detr(rt_detr)
    found = losses(trainable, [target([], []), target([], [])])
    assert list(found) == [
        f"loss_{n}{e}" for e in ("", "_aux", "_dn") for n in ("vfl", "bbox", "giou")
    ]
    assert {k for k, v in found.items() if float(v.detach()) > 0} == {"loss_vfl", "loss_vfl_aux"}
    learn(found)
    # A parameter out of the graph would stop training on several devices.
    assert all(p.grad is not None for p in trainable.model.parameters() if p.requires_grad)


def test_boxes_become_fractions_of_the_padded_batch() -> None:
    rows: list[list[float]] = [[10, 20, 30, 60], [90, 0, 120, 50], [40, 40, 40, 50]]
    known = torch.tensor([True, True, False])
    (truth,) = truths_of([target(rows, [1, 1, 1])], (100, 100))
    # The second is cut at the border, the third has no area.
    expected = [0.2, 0.4, 0.2, 0.4, 0.95, 0.25, 0.1, 0.5]
    assert truth.boxes.flatten().tolist() == pytest.approx(expected)
    (truth,) = truths_of([target(rows[:2], [1, 2], classes=known)], (100, 200))
    assert truth.labels.tolist() == [0]
    assert truth.boxes.tolist() == [pytest.approx([0.1, 0.4, 0.1, 0.4])]
