"""Faster R-CNN with FPN (Ren et al., 2015; Lin et al., 2017) on torchvision's modules.

Two things differ from torchvision's ready-made model: regions marked ignore are neither objects
nor background while training, and detections carry the whole class-score vector.

Shape legend: ``B`` images, ``P`` proposals of an image, ``n`` boxes, ``C`` classes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from relabel.backbones.extractor import (
    BackboneSpec,
    FeatureExtractor,
    FeatureMaps,
    PyramidBackbone,
    StrideMaps,
    resolve_backbone,
)
from relabel.detectors.family import MIN_SCORE, TOP_DETECTIONS, DetectionNetwork, Family
from relabel.detectors.pooling import SeparableRoIAlign
from relabel.detectors.settings import SpecialistSettings
from relabel.geometry import inside_ignored
from relabel.training.shared import gathered
from relabel.training.threads import one_thread_if_few
from relabel.workspace.ranks import rank, world

DUPLICATE_IOU = 0.9
# Far below any logit, within fp16, and 0 after the softmax: no loss and no gradient.
UNKNOWN_LOGIT = -1e4


class SharedSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler of anchors or RoIs, whose draws depend on the whole batch alone.

    Attributes:
        share: of the last call's samples; losses that are means over a process's own samples are
            multiplied by it, so that their mean over processes is that over the whole batch.
    """

    share = 1.0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if world() == 1:
            return super().__call__(matched_idxs)
        # Which are drawn follows from the numbers of positives and negatives of all images.
        sizes = [(int((m >= 1).sum()), int((m == 0).sum())) for m in matched_idxs]
        parts = gathered(sizes)
        quota = int(self.batch_size_per_image * self.positive_fraction)
        drawn, counts = [], []
        for size in itertools.chain(*parts):
            positives = min(size[0], quota)
            negatives = min(size[1], self.batch_size_per_image - positives)
            device = matched_idxs[0].device
            permuted = [torch.randperm(n, device=device) for n in size]
            drawn.append((permuted[0][:positives], permuted[1][:negatives]))
            counts.append(positives + negatives)
        before = sum(map(len, parts[: rank()]))
        mine = slice(before, before + len(sizes))
        self.share = world() * sum(counts[mine]) / max(1, sum(counts))
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for matched, rows in zip(matched_idxs, drawn[mine], strict=True):
            kinds = (torch.where(matched >= 1)[0], torch.where(matched == 0)[0])
            for column, at, picked in zip(chosen, kinds, rows, strict=True):
                mask = torch.zeros_like(matched, dtype=torch.uint8)
                mask[at[picked]] = 1
                column.append(mask)
        return chosen


class IgnoreAwareRPN(RegionProposalNetwork):
    """torchvision's RPN that leaves anchors inside ignore regions out of its loss."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & inside_ignored(boxes, target["ignored"])] = -1
        return labels, matched


class MixedPrecisionRPNHead(RPNHead):
    """torchvision's RPN head, computed under autocast with float32 results.

    Three convolutions on the finest maps are half of an FPN detector's arithmetic; what they
    predict, objectness and offsets in units of an anchor, needs no more than bf16.

    Attributes:
        dtype: of the arithmetic; None: that of the features.
    """

    dtype: torch.dtype | None = None

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.autocast(x[0].device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits, deltas = super().forward(x)
        return [v.float() for v in logits], [v.float() for v in deltas]


class MaskablePredictor(FastRCNNPredictor):
    """torchvision's box head, which can leave out or join classes in the softmax of some RoIs.

    Attributes:
        known: bool [RoIs, C + 1], the classes that each RoI's image knows; None: all of them.
        possible: int64 [RoIs] and bool [RoIs, C + 1], the class of each RoI and those it may be
            of as well. Their probabilities are summed in place of that class's, so that the
            cross entropy becomes the negative log of the sum; None: no RoI has others.
    """

    known: Tensor | None = None
    possible: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(x), self.bbox_pred(x)

    def classify(self, x: Tensor) -> Tensor:
        """Logits [RoIs, C + 1] of features [RoIs, d]."""
        logits = self.cls_score(x)
        if self.known is not None:
            logits = logits.masked_fill(~self.known, UNKNOWN_LOGIT)
        if self.possible is not None:
            logits = joined(logits.float(), *self.possible)
        return logits


def joined(logits: Tensor, labels: Tensor, possible: Tensor) -> Tensor:
    """Logits [R, C] whose softmax at ``labels`` [R] is that of all ``possible`` [R, C] classes.

    Rows with one possible class, or none, stay as they are.
    """
    several = (possible.sum(dim=1) > 1)[:, None]
    together = logits.masked_fill(~possible, UNKNOWN_LOGIT).logsumexp(dim=1, keepdim=True)
    own = F.one_hot(labels, logits.shape[1]).bool()
    spread = logits.masked_fill(possible & several, UNKNOWN_LOGIT)
    return torch.where(own & several, together, spread)


def roi_weights(
    targets: Sequence[dict[str, Tensor]], matched: list[Tensor], labels: list[Tensor]
) -> Tensor:
    """Weight of each RoI's losses, [R]: its box's, 1 for background and where there are none.

    Args:
        targets: of each image, some with ``weights`` [n].
        matched, labels: of `RoIHeads.select_training_samples`.
    """
    parts = []
    for target, at, label in zip(targets, matched, labels, strict=True):
        weight = torch.ones(len(label), device=label.device)
        if "weights" in target and len(target["weights"]):
            weight = torch.where(label > 0, target["weights"][at].to(weight), weight)
        parts.append(weight)
    return torch.cat(parts)


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of logits [R, C + 1], that of each RoI multiplied by its weight [R]."""
    return (F.cross_entropy(logits.float(), labels, reduction="none") * weights).mean()


class ScoreVectorRoIHeads(RoIHeads):
    """torchvision's RoI heads, aware of ignore regions, that keep whole score vectors.

    Where targets name the ``classes`` their image knows, the others take no part in the loss;
    where they name classes ``possible`` for a box, the loss asks for any of them. Box offsets are
    learned for the label alone, as each class has its own. Where targets have ``weights``, losses
    of a positive RoI are multiplied by its box's.
    """

    _ignored: list[Tensor]
    box_predictor: MaskablePredictor

    def __init__(self, width: int, classes: int, s: SpecialistSettings) -> None:
        """Heads for ``classes`` on a pyramid of ``width`` channels."""
        pool = SeparableRoIAlign([str(v) for v in s.fpn_strides], output_size=7, sampling_ratio=2)
        super().__init__(
            pool,
            TwoMLPHead(width * 49, s.head_channels),
            MaskablePredictor(s.head_channels, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=s.rois_per_image,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=MIN_SCORE,
            nms_thresh=0.5,
            detections_per_img=TOP_DETECTIONS,
        )
        self.fg_bg_sampler = SharedSampler(s.rois_per_image, 0.25)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Any = None,
    ) -> Any:
        self.box_predictor.known = self.box_predictor.possible = None
        if not self.training or not any("weights" in t for t in targets):
            with one_thread_if_few(sum(map(len, proposals))):
                return super().forward(features, proposals, image_shapes, targets)
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        weights = roi_weights(targets, matched, labels)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        label, goal = torch.cat(labels), torch.cat(wanted)
        positive = (label > 0).nonzero().squeeze(1)
        own = deltas.unflatten(1, (-1, 4))[positive, label[positive]]
        # As torchvision's, which takes no weights.
        box = F.smooth_l1_loss(own, goal[positive], beta=1 / 9, reduction="none").sum(dim=1)
        return [], {
            "loss_classifier": classification_loss(logits, label, weights),
            "loss_box_reg": (box * weights[positive]).sum() / len(label),
        }

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:
        self._ignored = [t["ignored"] for t in targets]
        sampled = super().select_training_samples(proposals, targets)
        if all("classes" in t for t in targets):
            known = [
                t["classes"].expand(len(p), -1) for t, p in zip(targets, sampled[0], strict=True)
            ]
            self.box_predictor.known = torch.cat(known)
        if any("possible" in t for t in targets):
            _, matched, labels, _ = sampled
            rows = []
            for target, at, label in zip(targets, matched, labels, strict=True):
                only = F.one_hot(label, self.box_predictor.cls_score.out_features).bool()
                if "possible" in target and len(target["possible"]):
                    only = torch.where((label > 0)[:, None], target["possible"][at], only)
                rows.append(only)
            self.box_predictor.possible = torch.cat(labels), torch.cat(rows)
        return sampled

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, boxes, ignored in zip(labels, proposals, self._ignored, strict=True):
            label[(label == 0) & inside_ignored(boxes, ignored)] = -1
        return matched, labels

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes of each proposal's best class [n, 4], score vectors [n, C], best class [n]."""
        counts = [len(p) for p in proposals]
        decoded = self.box_coder.decode(box_regression.float(), proposals).split(counts)
        scores = F.softmax(class_logits.float(), -1)[:, 1:].split(counts)
        out: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for box, score, shape in zip(decoded, scores, image_shapes, strict=True):
            best, label = score.max(dim=1)
            box = box[torch.arange(len(box), device=box.device), label + 1]
            box = clip_boxes_to_image(box, shape)
            sides = box[:, 2:] - box[:, :2]
            rows = ((best > MIN_SCORE) & (sides.amin(dim=1) > 0.5)).nonzero().squeeze(1)
            box, score, label, best = box[rows], score[rows], label[rows], best[rows]
            # Near copies only: the class-wise NMS with its own threshold is cross-labelling's.
            rows = batched_nms(box, best, label, DUPLICATE_IOU)[:TOP_DETECTIONS]
            for column, value in zip(out, (box, score, label), strict=True):
                column.append(value[rows])
        return out

    def score_boxes(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Probabilities [n, C] and refined boxes [n, C, 4] of given boxes, all images' together."""
        pooled = self.box_roi_pool(features, boxes, sizes)
        with one_thread_if_few(len(pooled)):
            logits, deltas = self.box_predictor(self.box_head(pooled))
        # torchvision decodes no boxes at all to a shape of its own.
        refined = self.box_coder.decode(deltas, boxes).reshape(*logits.shape, 4)[:, 1:]
        return F.softmax(logits, -1)[:, 1:], refined


class FasterRCNN(DetectionNetwork):
    """Backbone, pyramid, RPN and box head for ``C`` classes.

    Attributes:
        new_heads: what makes the second stage.
    """

    new_heads: type[ScoreVectorRoIHeads] = ScoreVectorRoIHeads

    def __init__(self, backbone: PyramidBackbone, classes: int, s: SpecialistSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.keeps_maps = s.keeps_maps
        self.divisor = backbone.body.divisor
        strides = [*s.fpn_strides, 2 * s.fpn_strides[-1]]
        anchors = AnchorGenerator(
            tuple((s.anchor_scale * stride,) for stride in strides),
            ((0.5, 1.0, 2.0),) * len(strides),
        )
        width = backbone.out_channels
        self.rpn = IgnoreAwareRPN(
            anchors,
            MixedPrecisionRPNHead(width, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=dict.fromkeys(("training", "testing"), min(1000, 2 * s.rpn_proposals)),
            post_nms_top_n={"training": s.rpn_proposals, "testing": s.rpn_proposals},
            nms_thresh=0.7,
        )
        self.rpn.fg_bg_sampler = SharedSampler(256, 0.5)
        self.roi_heads = self.new_heads(width, classes, s)

    def forward(
        self,
        pixels: Tensor | FeatureMaps,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> Any:
        features = self.backbone(pixels)
        device = pixels.device.type
        mixed = torch.is_autocast_enabled(device)
        head = cast(MixedPrecisionRPNHead, self.rpn.head)
        head.dtype = torch.get_autocast_dtype(device) if mixed else None
        with torch.autocast(device, enabled=False):
            # Boxes need more than bf16's 8 bits of mantissa.
            features = {k: v.float() for k, v in features.items()}
            # The anchors ask for the size of the batch, nothing for its values.
            size = pixels.size if isinstance(pixels, FeatureMaps) else tuple(pixels.shape[2:])
            blank = next(iter(features.values())).new_zeros(()).expand(len(sizes), 3, *size)
            images = ImageList(blank, sizes)
            proposals, rpn_losses = self.rpn(images, features, targets)
        detections, losses = self.roi_heads(features, proposals, sizes, targets)
        if not self.training:
            return detections
        if world() > 1:
            for part, sampler in ((rpn_losses, self.rpn), (losses, self.roi_heads)):
                share = cast(SharedSampler, sampler.fg_bg_sampler).share
                part.update({name: value * share for name, value in part.items()})
        return {**rpn_losses, **losses}

    def score_boxes(
        self, pixels: Tensor | FeatureMaps, sizes: list[tuple[int, int]], boxes: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        counts = [len(b) for b in boxes]
        predictor = self.roi_heads.box_predictor
        predictor.known = predictor.possible = None
        features = self.backbone(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            features = {k: v.float() for k, v in features.items()}
            scores, refined = self.roi_heads.score_boxes(features, boxes, sizes)
        return [
            {"scores": score, "boxes": box}
            for score, box in zip(scores.split(counts), refined.split(counts), strict=True)
        ]

    def pretrained(self) -> FeatureExtractor:
        return self.backbone.body

    def description(self) -> dict[str, Any]:
        return asdict(self.backbone.body.spec)

    def kept_maps(self) -> StrideMaps | None:
        return self.backbone if self.keeps_maps else None


def build_faster_rcnn(
    classes: int,
    s: SpecialistSettings,
    spec: BackboneSpec,
    weights: str | None,
    *,
    network: type[FasterRCNN] = FasterRCNN,
) -> FasterRCNN:
    """A model of ``C`` classes; ``weights`` names pretrained backbone weights, if any."""
    body = FeatureExtractor(spec, weights, pretrained=s.pretrained)
    body.freeze(s.frozen_stride)
    return network(PyramidBackbone(body, s.fpn_strides, s.fpn_channels), classes, s)


def restricted_faster_rcnn(model: FasterRCNN, classes: Sequence[int]) -> FasterRCNN:
    """A copy whose box head has the rows of the background and of ``classes`` only."""
    model = copy.deepcopy(model)
    head = model.roi_heads.box_predictor
    rows = torch.tensor([0, *(c + 1 for c in classes)])
    keep_rows(head.cls_score, rows)
    keep_rows(head.bbox_pred, (rows[:, None] * 4 + torch.arange(4)).flatten())
    return model


def keep_rows(layer: nn.Linear, rows: Tensor) -> None:
    """Leave only some outputs [k] of a layer, in that order."""
    rows = rows.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach()[rows])
    layer.bias = nn.Parameter(layer.bias.detach()[rows])
    layer.out_features = len(rows)


FAMILY = Family(
    kind="faster_rcnn",
    title="a Faster R-CNN",
    retrain="Train the specialist again (relabel train-specialist --overwrite).",
    new=lambda classes, s: build_faster_rcnn(classes, s, resolve_backbone(s.backbone), s.backbone),
    rebuild=lambda classes, s, spec: build_faster_rcnn(
        classes, s, BackboneSpec.from_dict(spec), None
    ),
    restrict=restricted_faster_rcnn,
    sees_padding=False,
)
