"""The second stage on given boxes: torchvision's numbers, and who has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads

from relabel.detectors.faster_rcnn import FAMILY
from relabel.errors import ConfigError
from relabel.training.pixels import stack_images
from tests.builders.detectors import CPU, SPACE, new_rt_detr, tiny_detector

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((48, 64, 3), (60, 40, 3))]
BOXES = [
    np.array([[4, 5, 30, 40], [0, 0, 64, 48], [50, 2, 58, 9]], np.float32),
    np.array([[1, 1, 39, 59]], np.float32),
]


def test_boxes_are_classified_and_refined_as_proposals_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = FAMILY.trainable(SPACE, tiny_detector(tmp_path))
    model: Any = trained.model
    # Untrained, the head would move nothing that could be told from rounding.
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.bias, std=0.5)
    detector = trained.detector(CPU)
    found = detector.score_boxes(IMAGES, BOXES)
    # torchvision's own post-processing of the same proposals, box by box and class by class.
    s = trained.settings
    batch, sizes, scales = stack_images(IMAGES, s.image_size, s.max_image_size, model.divisor)
    heads = model.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.0, 1.0, 100
    with torch.no_grad():
        features = {k: v.float() for k, v in model.backbone(batch).items()}
        for i, (image, boxes) in enumerate(zip(IMAGES, BOXES, strict=True)):
            factor = np.array([scales[i][1], scales[i][0]] * 2, np.float32)
            proposals = [torch.zeros(0, 4), torch.zeros(0, 4)]
            proposals[i] = torch.from_numpy(boxes * factor)
            pooled = heads.box_roi_pool(features, proposals, sizes)
            logits, deltas = heads.box_predictor(heads.box_head(pooled))
            _, scores, labels = RoIHeads.postprocess_detections(
                heads, logits, deltas, [proposals[i]], [sizes[i]]
            )
            best = np.sort(found[i].scores.ravel())[::-1]
            assert scores[0].numpy() == pytest.approx(best, abs=1e-5)
            order = np.argsort(-found[i].scores.ravel(), kind="stable")
            assert labels[0].tolist() == (order % 3 + 1).tolist()
            expected = heads.box_coder.decode(deltas, [proposals[i]]).numpy()[:, 1:] / factor
            height, width = image.shape[:2]
            expected = expected.clip(0, [width, height] * 2)
            assert found[i].boxes == pytest.approx(expected, abs=1e-3)
            assert np.abs(found[i].boxes - boxes[:, None]).max() > 1


def test_images_without_boxes(tmp_path: Path) -> None:
    detector = FAMILY.trainable(SPACE, tiny_detector(tmp_path)).detector(CPU)
    none = np.zeros((0, 4), np.float32)
    for boxes in ([BOXES[0], none], [none, none]):
        first, second = detector.score_boxes(IMAGES, boxes)
        assert first.boxes.shape == (len(boxes[0]), 3, 4)
        assert second.scores.shape == (0, 3)
    alone = detector.score_boxes(IMAGES[:1], BOXES[:1])[0]
    # Of one size, so that neither is padded.
    beside = detector.score_boxes([IMAGES[0]] * 2, [none, BOXES[0]])[1]
    assert beside.scores == pytest.approx(alone.scores, abs=1e-4)


def test_an_rt_detr_says_that_it_has_none(tmp_path: Path) -> None:
    detector = new_rt_detr(tiny_detector(tmp_path, "rt-detr")).detector(CPU)
    with pytest.raises(ConfigError, match=r"RT-DETR has no head .* specialist\.detector=faster"):
        detector.score_boxes(IMAGES, BOXES)
