"""The transfer network: region features, fusion, and heads over the joint label space.

Shape legend: ``B`` images, ``M`` proposals, ``C`` classes of the joint space, ``F`` values of a
pooled region, ``d`` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relabel.geometry import aligned_iou, batched_iou, inside_ignored
from relabel.lat.features import POOL_SIZE
from relabel.lat.fusion import SemanticFeatureFusion, pairwise_geometry
from relabel.lat.settings import LatSettings
from relabel.training.shared import divisor, own_part, whole_batch

# Unit of box deltas, as in Fast R-CNN: a tenth of the box for centres, a fifth for log sizes.
DELTA_SCALE = (0.1, 0.1, 0.2, 0.2)
MAX_LOG_SIZE = 2.0
CONSENSUS_IOU = 0.5

# A proposal learns the objects that it overlaps at least this much.
_MATCH_IOU = 0.5
_BOX_WEIGHT = 2.0  # of the box loss beside the class loss
_DROPOUT = 0.2  # of region features and head
_HIDDEN_REGIONS = 0.2  # probability of hiding an image's region features in training


@dataclass
class ProposalBatch:
    """Proposals of B images, padded to M.

    Attributes:
        region: pooled frozen features [B, M, F].
        boxes: xyxy in pixels of the stored image [B, M, 4].
        scores: over the joint space [B, M, C].
        confidence: S_c [B, M].
        valid: bool [B, M].
        size: (width, height) of each image [B, 2].
    """

    region: Tensor
    boxes: Tensor
    scores: Tensor
    confidence: Tensor
    valid: Tensor
    size: Tensor

    def to(self, device: torch.device) -> ProposalBatch:
        return ProposalBatch(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


class TransferModel(nn.Module):
    """Label-Aligned Transfer's trained part. The frozen backbone is not in it.

    Output: class logits [B, M, C (+1 background, last, without the part multi-label)], box deltas
    [B, M, C, 4].
    """

    def __init__(self, settings: LatSettings, classes: int, datasets: int, region: int) -> None:
        super().__init__()
        d = settings.channels
        self.classes = classes
        hidden = _HIDDEN_REGIONS if settings.has("hiding") else 0.0
        self.embed = nn.Sequential(
            ChannelDropout(_DROPOUT, POOL_SIZE**2, hidden),
            nn.Linear(region, d),
            nn.LayerNorm(d),
            nn.ReLU(),
        )
        self.place = nn.Sequential(nn.Linear(6, d), nn.ReLU(), nn.Linear(d, d))
        self.consensus, self.geometry = settings.has("consensus"), settings.has("geometry")
        self.multi_label = settings.has("multi-label")
        self.residual = settings.has("residual") or settings.fusion == "none"
        read = classes * (2 if self.consensus else 1)
        self.own_scores = nn.Linear(read, d) if settings.has("own-scores") else None
        self.fusion = None
        if settings.fusion != "none":
            self.fusion = SemanticFeatureFusion(settings, classes, datasets)
        self.head = nn.Sequential(
            nn.LayerNorm(d),
            nn.Linear(d, d),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(d, d),
            nn.ReLU(),
        )
        self.classify = nn.Linear(d, classes + (0 if self.multi_label else 1))
        self.regress = nn.Linear(d, 4 * classes)
        nn.init.normal_(self.regress.weight, std=1e-3)
        nn.init.zeros_(self.regress.bias)
        nn.init.normal_(self.classify.weight, std=0.01)
        # Most proposals are not an object of most classes.
        nn.init.constant_(self.classify.bias, -3.0 if self.multi_label else 0.0)

    def forward(self, batch: ProposalBatch) -> tuple[Tensor, Tensor]:
        scores, confidence, region = batch.scores, batch.confidence, batch.region
        x = self.embed(region) + self.place(placement(batch.boxes, batch.size))
        fused = torch.zeros_like(x)
        read = scores
        if self.consensus:
            near = overlapping_scores(batch.boxes, scores, batch.valid)
            read = torch.cat([scores, near], dim=-1)
        if self.own_scores is not None:
            fused = fused + self.own_scores(read)
        if self.fusion is not None:
            geometry = pairwise_geometry(batch.boxes) if self.geometry else None
            fused = fused + self.fusion(x, scores, confidence, batch.valid, geometry)
        h = self.head(x + fused if self.residual else fused)
        deltas = self.regress(h).float().unflatten(-1, (-1, 4))
        return self.classify(h).float(), deltas


class ChannelDropout(nn.Module):
    """Dropout of whole channels of pooled regions: [B, ..., channels * cells].

    Neighbouring cells tell nearly the same, so that dropping them singly hides little; drawing
    one number per channel is also ``cells`` times cheaper.

    Args:
        p: probability of dropping a channel of a region.
        hidden: and of hiding all regions of an image.
    """

    def __init__(self, p: float, cells: int, hidden: float = 0.0) -> None:
        super().__init__()
        self.p, self.cells, self.hidden = p, cells, hidden

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        # One factor per channel, so that the regions, which are large, are gone through once.
        shown = _drawn(len(x), *[1] * x.dim(), device=x.device) >= self.hidden
        kept = _drawn(*x.shape[:-1], x.shape[-1] // self.cells, 1, device=x.device) >= self.p
        return (x.unflatten(-1, (-1, self.cells)) * ((kept & shown) / (1 - self.p))).flatten(-2)


def _drawn(*shape: int, device: torch.device) -> Tensor:
    """Uniform numbers for this process's part of a batch, drawn for the whole batch."""
    whole = torch.rand(whole_batch(shape), device=device)
    return whole[own_part(len(whole))]


def overlapping_scores(boxes: Tensor, scores: Tensor, valid: Tensor) -> Tensor:
    """What all label spaces say of the place of each proposal: the largest score per class.

    Args:
        boxes: xyxy [B, M, 4].
        scores: over the joint space [B, M, C].
        valid: bool [B, M], False on padding.

    Returns:
        [B, M, C]: per class the largest score of the proposals, itself among them, that overlap a
        proposal by `CONSENSUS_IOU`.
    """
    near = (batched_iou(boxes, boxes) >= CONSENSUS_IOU) & valid[:, None, :]
    index = near.nonzero()
    b, i, j = index.unbind(1)
    flat = scores.new_zeros(scores.shape[0] * scores.shape[1], scores.shape[2])
    rows = (b * scores.shape[1] + i)[:, None].expand(-1, scores.shape[2])
    return flat.scatter_reduce(0, rows, scores[b, j], "amax").view_as(scores)


def placement(boxes: Tensor, size: Tensor) -> Tensor:
    """Where a box is in its image and how large: [B, M, 4], [B, 2] -> [B, M, 6]."""
    wh = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    centre = (boxes[..., :2] + wh / 2) / size[:, None, :]
    return torch.cat(
        [centre - 0.5, torch.log(wh / size[:, None, :]) / 2 + 1, torch.log(wh) / 3 - 1], dim=-1
    )


def encode_deltas(proposals: Tensor, targets: Tensor) -> Tensor:
    """Deltas from proposals to targets, both xyxy [..., 4] (Girshick, Fast R-CNN)."""
    wp = (proposals[..., 2:] - proposals[..., :2]).clamp(min=1e-3)
    wt = (targets[..., 2:] - targets[..., :2]).clamp(min=1e-3)
    shift = (targets[..., :2] + wt / 2 - proposals[..., :2] - wp / 2) / wp
    return torch.cat([shift, torch.log(wt / wp)], dim=-1) / proposals.new_tensor(DELTA_SCALE)


def decode_deltas(proposals: Tensor, deltas: Tensor) -> Tensor:
    """Boxes xyxy from proposals [..., 4] and deltas [..., 4]; inverse of `encode_deltas`."""
    scaled = deltas * proposals.new_tensor(DELTA_SCALE)
    wp = (proposals[..., 2:] - proposals[..., :2]).clamp(min=1e-3)
    centre = proposals[..., :2] + wp / 2 + scaled[..., :2] * wp
    half = wp * torch.exp(scaled[..., 2:].clamp(max=MAX_LOG_SIZE)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


@dataclass
class Targets:
    """What the proposals of B images should become; padded to G objects.

    Attributes:
        boxes: xyxy [B, G, 4].
        classes: position in the joint space int64 [B, G], -1 on padding.
        ignored: regions xyxy [B, K, 4], zero on padding.
        mask: classes of the image's dataset, bool [B, C].
    """

    boxes: Tensor
    classes: Tensor
    ignored: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Targets:
        return Targets(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


def lat_losses(
    logits: Tensor, deltas: Tensor, batch: ProposalBatch, targets: Targets, s: LatSettings
) -> dict[str, Tensor]:
    """Classification and box loss, masked to each image's own label space.

    A proposal is positive for class ``c`` if it overlaps an object of ``c`` by `_MATCH_IOU`; the
    best such object is its box target. With the part multi-label it may be positive for several
    classes at once (a cyclist that is a rider and a bicycle). Proposals inside ignore regions
    that match nothing count neither way.
    """
    classes = targets.mask.shape[1]
    iou = batched_iou(batch.boxes, targets.boxes)  # [B, M, G]
    iou = iou * (targets.classes >= 0)[:, None, :]
    onehot = F.one_hot(targets.classes.clamp(min=0), classes).bool()  # [B, G, C]
    per_class = torch.where(onehot[:, None], iou[..., None], iou.new_zeros(()))  # [B, M, G, C]
    best, which = (
        per_class.max(dim=2) if iou.shape[2] else (iou.new_zeros(*iou.shape[:2], classes),) * 2
    )
    positive = (best >= _MATCH_IOU) & batch.valid[..., None]
    several = s.has("multi-label")
    if not several:
        top = best.amax(dim=-1, keepdim=True)
        first = F.one_hot(best.argmax(dim=-1), classes).bool()
        positive = positive & (best == top) & first
    inside = inside_ignored(batch.boxes, targets.ignored) & ~positive.any(dim=-1)
    counted = batch.valid & ~inside
    index = positive.nonzero()
    b, m, c = index.unbind(1)
    proposal, chosen, weight = batch.boxes[b, m], deltas[b, m, c], best[b, m, c]
    goal = targets.boxes[b, which[b, m, c].long()]
    raw = F.smooth_l1_loss(chosen, encode_deltas(proposal, goal), beta=0.5, reduction="none")
    loss_box = (raw.sum(dim=-1) * weight).sum() / divisor(weight.sum())
    if several:
        wanted = torch.zeros_like(logits)
        wanted[b, m, c] = 1.0
        if s.has("quality"):
            wanted[b, m, c] = aligned_iou(decode_deltas(proposal, chosen.detach()), goal)
        used = counted[..., None] & targets.mask[:, None, :]
        raw = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        loss_cls = (raw * used).sum() / divisor(positive.sum())
    else:
        allowed = F.pad(targets.mask, (0, 1), value=True)
        masked = logits.masked_fill(~allowed[:, None, :], -1e4)
        label = torch.full(best.shape[:2], classes, dtype=torch.long, device=logits.device)
        label[b, m] = c
        raw = F.cross_entropy(masked.flatten(0, 1), label.flatten(), reduction="none")
        used = counted.flatten()
        loss_cls = (raw * used).sum() / divisor(used.sum())
    return {"class": loss_cls, "box": _BOX_WEIGHT * loss_box}


def predict_target(
    outputs: tuple[Tensor, Tensor], batch: ProposalBatch, target: slice, s: LatSettings
) -> tuple[Tensor, Tensor]:
    """Scores [B, M, Ct] and boxes [B, M, Ct, 4] in the target space, logits masked to it.

    Args:
        outputs: what `TransferModel` makes of ``batch``.
        target: the target's classes in the joint space.
    """
    logits, deltas = outputs
    if s.has("multi-label"):
        scores = torch.sigmoid(logits[..., target])
    else:
        kept = torch.cat([logits[..., target], logits[..., -1:]], dim=-1)
        scores = torch.softmax(kept, dim=-1)[..., :-1]
    boxes = decode_deltas(batch.boxes[:, :, None, :], deltas[:, :, target])
    limit = torch.cat([batch.size, batch.size], dim=-1)[:, None, None, :]
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    return scores * batch.valid[..., None], boxes
