"""A Faster R-CNN that locates by classification and knows how well (arXiv 2106.00168, section 2.2).

Backbone, pyramid, RPN and the classification of proposals are `relabel.detectors.faster_rcnn`'s.

Shape legend: ``B`` images, ``n`` boxes, ``C`` classes, ``d`` channels, ``K`` intervals per side,
``p`` cells along an axis.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from relabel.backbones.extractor import BackboneSpec, PyramidBackbone, resolve_backbone
from relabel.detectors.base import ranked
from relabel.detectors.certainty import intervals
from relabel.detectors.family import MIN_SCORE, TOP_DETECTIONS, Family
from relabel.detectors.faster_rcnn import (
    DUPLICATE_IOU,
    FasterRCNN,
    ScoreVectorRoIHeads,
    build_faster_rcnn,
    classification_loss,
    keep_rows,
    roi_weights,
)
from relabel.detectors.pooling import SeparableRoIAlign
from relabel.detectors.settings import Quality, SpecialistSettings
from relabel.settings import Ranking

CELLS = 14
# Canonical size of a RoI on the level of stride 16 (Lin et al., 2017).
CANONICAL_SIZE = 224


class SideHead(nn.Module):
    """Scores and offsets of the intervals that each side is searched in.

    It reads the box that the segments reach to, so that its cells lie where the intervals do. For
    each axis the cells across it are averaged by learned weights, as side-aware boundary
    localisation does, which leaves the places along it.
    """

    def __init__(self, width: int, count: int) -> None:
        """A head on maps of ``width`` channels for ``count`` intervals per side."""
        super().__init__()
        self.count = count
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.weigh = nn.Conv2d(width, 2, 1)
        # The two axes are groups.
        self.whole = nn.Conv1d(2 * width, 2 * width, CELLS, groups=2)
        self.fine = nn.Conv1d(2 * width, 2 * width, 3, padding=1, groups=2)
        self.place = nn.Parameter(torch.zeros(2 * width, 2 * count))
        # Of each axis: score and offset of its low side, then of its high side.
        self.out = nn.Conv1d(2 * width, 8, 1, groups=2)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.normal_(self.place, std=0.01)
        with torch.no_grad():
            # One of K is right.
            bias = torch.tensor([-math.log(max(count - 1, 1)), 0.0])
            self.out.bias.copy_(bias.repeat(4))  # pyright: ignore

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and offsets in intervals, both [n, 4, K], of pooled maps [n, d, p, p]."""
        x = self.body(pooled)
        weights = self.weigh(x)
        along_x = (x * weights[:, :1].softmax(dim=2)).sum(dim=2)
        along_y = (x * weights[:, 1:].softmax(dim=3)).sum(dim=3)
        axes = torch.cat([along_x, along_y], dim=1)  # [n, 2 d, p]
        fine = F.interpolate(axes, size=2 * self.count, mode="linear", align_corners=False)
        fine = F.relu(fine + self.whole(axes) + self.place)
        fine = F.relu(self.fine(fine))
        # [n, 2 axes, 2 sides, score and offset, 2 K]; the low side's intervals come first.
        out = self.out(fine).float().unflatten(1, (2, 2, 2))
        low, high = out[:, :, 0, :, : self.count], out[:, :, 1, :, self.count :]
        sides = torch.cat([low, high], dim=1)  # left, top, right, bottom
        return sides[:, :, 0], sides[:, :, 1]


class CertaintyRoIHeads(ScoreVectorRoIHeads):
    """A second stage that classifies proposals as a Faster R-CNN's and locates them by intervals.

    Sides are learned from all positive RoIs, whatever their class.

    Attributes:
        how: what quality is made of.
        ranking: what near copies are told apart by, and detections are ordered by.
    """

    how: Quality
    ranking: Ranking

    def __init__(self, width: int, classes: int, s: SpecialistSettings) -> None:
        super().__init__(width, classes, s)
        del self.box_predictor.bbox_pred  # the sides have a head of their own
        self.scale, self.count = s.certainty_segment, s.certainty_intervals
        self.how, self.ranking = s.certainty_quality, s.certainty_ranking
        # Levels are chosen by the proposal's size, not that of the larger box around it.
        self.side_pool = SeparableRoIAlign(
            [str(v) for v in s.fpn_strides],
            output_size=CELLS,
            sampling_ratio=2,
            canonical_scale=round(CANONICAL_SIZE * self.scale),
        )
        self.side_head = SideHead(width, self.count)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Any = None,
    ) -> Any:
        """Detections per image and named losses, one of the two empty."""
        self.box_predictor.known = self.box_predictor.possible = None
        if not self.training:
            return self.found(features, proposals, image_shapes), {}
        proposals, matched, labels, _ = self.select_training_samples(proposals, targets)
        logits = self.classified(features, proposals, image_shapes)
        weights = roi_weights(targets, matched, labels)
        loss = classification_loss(logits, torch.cat(labels), weights)
        positive = [label > 0 for label in labels]
        rois = [p[rows] for p, rows in zip(proposals, positive, strict=True)]
        truth = torch.cat(
            [
                t["boxes"].to(p)[m[rows]]
                for t, p, m, rows in zip(targets, proposals, matched, positive, strict=True)
            ]
        )
        scores, offsets = self.sides(features, rois, image_shapes)
        positions = intervals.encode(truth, torch.cat(rois), self.scale, self.count)
        per_side = (weights[torch.cat(positive)] / len(weights))[:, None]
        return [], {
            "loss_classifier": loss,
            "loss_box_interval": (intervals.interval_loss(scores, positions) * per_side).sum() / 4,
            "loss_box_offset": (intervals.offset_loss(offsets, positions) * per_side).sum(),
        }

    def classified(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Logits [n, C + 1] of all images' boxes."""
        pooled = self.box_roi_pool(features, boxes, sizes)
        return self.box_predictor.classify(self.box_head(pooled))

    def sides(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits and offsets [n, 4, K] of all images' boxes."""
        around = [intervals.reach(b, self.scale) for b in boxes]
        return self.side_head(self.side_pool(features, around, sizes))

    def located(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Refined boxes [n, 4] of all images' boxes, and their localisation quality [n]."""
        scores, offsets = self.sides(features, boxes, sizes)
        positions = intervals.chosen(scores, offsets)
        refined = intervals.decode(positions, torch.cat(boxes), self.scale, self.count)
        return refined, intervals.quality(scores, self.how)

    def found(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Per image boxes [n, 4], score vectors [n, C], best class [n], quality [n].

        Only proposals that may be of a class are located, which is most of the work.
        """
        logits = self.classified(features, proposals, sizes)
        vectors = F.softmax(logits.float(), -1)[:, 1:].split([len(p) for p in proposals])
        likely = [v.amax(dim=1) > MIN_SCORE for v in vectors]
        kept = [p[rows] for p, rows in zip(proposals, likely, strict=True)]
        refined, quality = self.located(features, kept, sizes)
        counts = [len(p) for p in kept]
        columns = zip(
            refined.split(counts),
            (v[rows] for v, rows in zip(vectors, likely, strict=True)),
            quality.split(counts),
            sizes,
            strict=True,
        )
        return [self._best(*column) for column in columns]

    def _best(
        self, box: Tensor, score: Tensor, v: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """One image's detections, without near copies, best first."""
        box = clip_boxes_to_image(box, size)
        rows = ((box[:, 2:] - box[:, :2]).amin(dim=1) > 0.5).nonzero().squeeze(1)
        box, score, v = box[rows], score[rows], v[rows]
        best, label = score.max(dim=1)
        confidence = ranked(best.cpu().numpy(), v.cpu().numpy(), self.ranking)
        # Near copies only: the class-wise NMS with its own threshold is cross-labelling's.
        order = torch.tensor(confidence, device=box.device)
        rows = batched_nms(box, order, label, DUPLICATE_IOU)[:TOP_DETECTIONS]
        return {
            "boxes": box[rows],
            "scores": score[rows],
            "labels": label[rows],
            "quality": v[rows],
        }

    def score_boxes(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Probabilities [n, C] and refined boxes [n, C, 4], the same box for every class."""
        scores = F.softmax(self.classified(features, boxes, sizes), -1)[:, 1:]
        refined, _ = self.located(features, boxes, sizes)
        return scores, refined[:, None].expand(-1, scores.shape[1], -1)


class CertaintyRCNN(FasterRCNN):
    """A Faster R-CNN with `CertaintyRoIHeads`."""

    new_heads = CertaintyRoIHeads

    def __init__(self, backbone: PyramidBackbone, classes: int, s: SpecialistSettings) -> None:
        super().__init__(backbone, classes, s)
        self.ranking = s.certainty_ranking


def restricted_certainty(model: CertaintyRCNN, classes: Sequence[int]) -> CertaintyRCNN:
    """A copy whose classifier has the rows of the background and of ``classes`` only."""
    model = copy.deepcopy(model)
    rows = torch.tensor([0, *(c + 1 for c in classes)])
    keep_rows(model.roi_heads.box_predictor.cls_score, rows)
    return model


def _build(
    classes: int, s: SpecialistSettings, spec: BackboneSpec, weights: str | None
) -> FasterRCNN:
    return build_faster_rcnn(classes, s, spec, weights, network=CertaintyRCNN)


FAMILY = Family(
    kind="certainty",
    title="a certainty-aware Faster R-CNN",
    retrain="Train the specialist again (relabel train-specialist --overwrite).",
    new=lambda classes, s: _build(classes, s, resolve_backbone(s.backbone), s.backbone),
    rebuild=lambda classes, s, spec: _build(classes, s, BackboneSpec.from_dict(spec), None),
    restrict=restricted_certainty,
    sees_padding=False,
)
