"""RT-DETR's loss (Zhao et al., 2024, arXiv 2304.08069), aware of ignore regions.

Without ignore regions the numbers are those of transformers' ``RTDetrLoss``. That one has no place
for regions, and computes one decoder layer after the other; here all layers go together.

Shape legend: ``B`` images, ``S`` sets of predictions of an image (decoder layers, encoder), ``Q``
queries, ``C`` classes, ``n`` boxes and ``m`` ignore regions of an image, ``K`` matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from relabel.geometry import aligned_iou, inside_ignored
from relabel.training.shared import divisor

LOSSES = ("vfl", "bbox", "giou")


@dataclass(frozen=True, eq=False)
class Truth:
    """What one image of a batch holds.

    Attributes:
        boxes: [n, 4], centre and size as fractions of the padded batch image.
        labels: int64 [n], from 0.
        ignored: [m, 4], xyxy in pixels.
        known: bool [C], the classes that the image's dataset knows; None for all.
        possible: bool [n, C], the classes each box may be of; None where it is its label alone.
        weights: [n], what the losses of each box are multiplied by; None for 1.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    known: Tensor | None
    possible: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def box_weights(self) -> Tensor:
        """``weights`` [n] with None spelled out."""
        return self.boxes.new_ones(len(self)) if self.weights is None else self.weights

    def classes(self, count: int) -> Tensor:
        """The classes each box may be of, bool [n, count]."""
        return F.one_hot(self.labels, count).bool() if self.possible is None else self.possible


@dataclass(frozen=True, eq=False)
class Pairs:
    """Matched pairs, int64 [K] each: image, set, query, and row of all images' boxes in a row."""

    image: Tensor
    set: Tensor
    query: Tensor
    box: Tensor


def truths_of(targets: Sequence[dict[str, Tensor]], size: tuple[int, int]) -> list[Truth]:
    """Targets as RT-DETR wants them.

    Boxes are cut at the border of the batch image, beyond which no query can predict their
    centre. Boxes without area and those of classes that the image's dataset does not know are
    left out.

    Args:
        targets: ``boxes`` [n, 4] xyxy pixels, ``labels`` [n] from 1, ``ignored`` [m, 4], and
            optionally ``classes`` bool [C + 1] and ``possible`` bool [n, C + 1], background first,
            and ``weights`` [n].
        size: height and width of the padded batch.
    """
    found = []
    for target in targets:
        boxes, labels = target["boxes"].float(), target["labels"] - 1
        scale = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = (boxes / scale).clamp(0, 1)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        known = target["classes"][1:] if "classes" in target else None
        if known is not None:
            keep &= known[labels]
        boxes = box_convert(boxes[keep], "xyxy", "cxcywh")
        possible = target["possible"][keep, 1:] if "possible" in target else None
        weights = target["weights"][keep] if "weights" in target else None
        ignored = target["ignored"].float()
        found.append(Truth(boxes, labels[keep], ignored, known, possible, weights))
    return found


class Criterion:
    """Matching and losses, with the weights of a transformers ``RTDetrV2Config``.

    Ignore regions: a query that matches no object and whose predicted box lies at least half
    inside a region is neither object nor background: it gets no loss. This holds in every
    decoder layer, in the encoder's choice of queries and for denoising queries. What remains is
    indirect: such a query is seen by the others in self-attention, and it takes one of the
    ``Q`` places.
    """

    def __init__(self, config: Any) -> None:
        self.alpha, self.gamma = config.focal_loss_alpha, config.focal_loss_gamma
        self.match_alpha, self.match_gamma = config.matcher_alpha, config.matcher_gamma
        self.costs = (
            config.matcher_class_cost,
            config.matcher_bbox_cost,
            config.matcher_giou_cost,
        )
        self.weights = (
            config.weight_loss_vfl,
            config.weight_loss_bbox,
            config.weight_loss_giou,
        )

    def losses(
        self,
        logits: Tensor,
        boxes: Tensor,
        truths: Sequence[Truth],
        pairs: Pairs,
        size: tuple[int, int],
        repeats: int = 1,
    ) -> Tensor:
        """Weighted varifocal, L1 and GIoU loss of every set, [S, 3].

        Args:
            logits: [B, S, Q, C].
            boxes: [B, S, Q, 4], centre and size as fractions.
            pairs: from `match` or `denoising_pairs`.
            size: height and width of the batch in pixels.
            repeats: how often each object was given (groups of denoising queries).
        """
        total = divisor(sum(len(t) for t in truths)) * repeats
        image, level, query = pairs.image, pairs.set, pairs.query
        wanted = torch.cat([t.boxes for t in truths])[pairs.box]
        possible = torch.cat([t.classes(logits.shape[-1]) for t in truths])[pairs.box]
        own_weight = torch.cat([t.box_weights for t in truths])[pairs.box]
        mine = boxes[image, level, query]
        mine_xyxy = box_convert(mine, "cxcywh", "xyxy")
        wanted_xyxy = box_convert(wanted, "cxcywh", "xyxy")

        with torch.no_grad():
            # Of several possible classes the one that the query believes in most.
            label = logits[image, level, query].masked_fill(~possible, -torch.inf).argmax(dim=1)
            target, quality = torch.zeros_like(logits), torch.zeros_like(logits)
            target[image, level, query, label] = 1
            quality[image, level, query, label] = aligned_iou(mine_xyxy, wanted_xyxy, 1e-12)
            focal = self.alpha * logits.sigmoid().pow(self.gamma) * (1 - target)
            counted = self._counted(boxes, truths, size)
            counted[image, level, query] = True
            weight = (focal + quality) * counted[..., None]
            # The others are neither asked for nor denied.
            spared = possible.clone()
            spared[torch.arange(len(label), device=label.device), label] = False
            weight[image, level, query] *= ~spared * own_weight[:, None]
        vfl = F.binary_cross_entropy_with_logits(logits, quality, weight, reduction="none")

        # A product instead of index_add, whose order of summation is random on a GPU.
        of_set = F.one_hot(level, logits.shape[1]).to(mine.dtype)
        l1 = ((mine - wanted).abs().sum(dim=1) * own_weight) @ of_set
        overlap = generalized_box_iou_loss(mine_xyxy, wanted_xyxy, reduction="none")
        giou = (overlap * own_weight) @ of_set
        parts = torch.stack([vfl.sum(dim=(0, 2, 3)), l1, giou], dim=1)
        return parts * parts.new_tensor(self.weights) / total

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, truths: Sequence[Truth]) -> Pairs:
        """The cheapest one-to-one assignment of objects to queries, in every image and set."""
        from scipy.optimize import linear_sum_assignment

        class_cost, l1_cost, giou_cost = self.costs
        rows: list[tuple[int, int, int, int]] = []
        offset = 0
        for i, truth in enumerate(truths):
            if len(truth):
                flat = boxes[i].flatten(0, 1)
                p = logits[i].sigmoid().flatten(0, 1)
                if truth.possible is None:
                    p = p[:, truth.labels]
                else:
                    p = p[:, None].masked_fill(~truth.possible, 0).amax(dim=2)
                a, g = self.match_alpha, self.match_gamma
                negative = (1 - a) * p.pow(g) * -(1 - p + 1e-8).log()
                positive = a * (1 - p).pow(g) * -(p + 1e-8).log()
                overlap = generalized_box_iou(
                    box_convert(flat, "cxcywh", "xyxy"),
                    box_convert(truth.boxes, "cxcywh", "xyxy"),
                )
                cost = (
                    class_cost * (positive - negative)
                    + l1_cost * torch.cdist(flat, truth.boxes, p=1)
                    - giou_cost * overlap
                )
                # Broken numbers are matched last; the loss they give stops the training.
                cost = cost.nan_to_num(1e6, 1e6, 1e6).unflatten(0, boxes.shape[1:3])
                for level, matrix in enumerate(cost.cpu().numpy()):
                    for query, box in zip(*linear_sum_assignment(matrix), strict=True):
                        rows.append((i, level, int(query), offset + int(box)))
            offset += len(truth)
        columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T.to(logits.device)
        return Pairs(*columns.unbind())

    def _counted(self, boxes: Tensor, truths: Sequence[Truth], size: tuple[int, int]) -> Tensor:
        """bool [B, S, Q]: the predicted box does not lie in an ignore region."""
        counted = torch.ones(boxes.shape[:3], dtype=torch.bool, device=boxes.device)
        scale = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        for i, truth in enumerate(truths):
            if len(truth.ignored):
                pixels = box_convert(boxes[i].flatten(0, 1), "cxcywh", "xyxy") * scale
                counted[i] = ~inside_ignored(pixels, truth.ignored).view(boxes.shape[1:3])
        return counted


def denoising_pairs(meta: dict[str, Any], truths: Sequence[Truth], sets: int) -> Pairs:
    """Pairs of the positive denoising queries, which know the object they were made from.

    Args:
        meta: transformers' ``denoising_meta_values``.
        sets: number of decoder layers.
    """
    groups = meta["dn_num_group"]
    device = truths[0].boxes.device
    parts, offset = [], 0
    for i, truth in enumerate(truths):
        query = meta["dn_positive_idx"][i]
        box = torch.arange(len(truth), device=device).repeat(groups) + offset
        parts.append(torch.stack([torch.full_like(query, i), query, box]))
        offset += len(truth)
    image, query, box = torch.cat(parts, dim=1).repeat(1, sets).unbind()
    level = torch.arange(sets, device=device).repeat_interleave(len(query) // sets)
    return Pairs(image, level, query, box)
