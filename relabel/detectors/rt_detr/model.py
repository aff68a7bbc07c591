"""The RT-DETRv2 network (Lv et al., 2024, arXiv 2407.17140): transformers' model with our loss.

Shape legend: ``B`` images, ``H, W`` pixels of the padded batch, ``Q`` queries, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from relabel.backbones.extractor import FeatureExtractor, StrideMaps
from relabel.detectors.family import MIN_SCORE, TOP_DETECTIONS, DetectionNetwork
from relabel.detectors.rt_detr.loss import LOSSES, Criterion, Truth, denoising_pairs, truths_of
from relabel.training.shared import gathered, own_part
from relabel.workspace.ranks import world

# Of a class that an image's dataset does not know: probability 0, and finite in fp16.
_MASKED_LOGIT = -1e4


class RTDetr(DetectionNetwork):
    """transformers' RT-DETRv2 with our loss: images in, named losses or detections out.

    Boxes are fractions of the padded batch in training and in inference alike; the network is not
    given what is padding. Queries, boxes and scores are computed in full precision under autocast
    too, since bf16 would round boxes to a pixel or more.

    Attributes:
        net: ``RTDetrV2Model`` with its prediction heads.
        divisor: sides of a batch must be multiples of it.
        parts: JSON-ready description from which `rebuild` (rt_detr/build.py) makes it again.
    """

    exclusive = False

    def __init__(self, net: Any, divisor: int, parts: dict[str, Any]) -> None:
        super().__init__()
        self.net = net
        self.divisor = divisor
        self.parts = parts
        self.queries = int(net.config.num_queries)
        self.criterion = Criterion(net.config)
        self._known: Tensor | None = None
        heads = [net.enc_score_head, *net.decoder.class_embed]
        for head in heads:
            head.register_forward_hook(self._mask_logits)
        if net.config.num_denoising > 0:
            net.denoising_class_embed.register_forward_pre_hook(self._known_labels)
        for name in ("enc_output", "enc_score_head", "enc_bbox_head", "decoder"):
            setattr(net, name, FullPrecision(getattr(net, name)))
        net.decoder_input_proj = nn.ModuleList(FullPrecision(m) for m in net.decoder_input_proj)

    @property
    def backbone(self) -> OwnBackbone | PretrainedBackbone:
        return self.net.backbone

    def pretrained(self) -> nn.Module:
        return self.backbone.pretrained()

    def description(self) -> dict[str, Any]:
        return self.parts

    def forward(
        self,
        pixels: Tensor,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> Any:
        """See `DetectionNetwork`.

        Returns:
            In training, the last decoder layer's ``loss_vfl``, ``loss_bbox``, ``loss_giou``, the
            same ending in ``_aux`` (other layers and encoder) and ``_dn`` (denoising). Otherwise
            detections, best first.
        """
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        self.net.config.num_queries = min(self.queries, self._places(size))
        if not self.training:
            return self._detections(self.net(pixels), sizes, size)
        assert targets is not None
        truths = truths_of(targets, size)
        labels = [{"class_labels": t.labels, "boxes": t.boxes} for t in truths]
        with self._knowing(truths), whole_batch_denoising():
            found = self.net(pixels, labels=labels)
        return self._losses(found, truths, size)

    def _losses(self, found: Any, truths: list[Truth], size: tuple[int, int]) -> dict[str, Tensor]:
        logits, boxes = found.intermediate_logits, found.intermediate_reference_points
        layers, meta = logits.shape[1], found.denoising_meta_values
        noisy = 0 if meta is None else meta["dn_num_split"][0]
        # The last layer first, then what helps it learn.
        order = [layers - 1, *range(layers - 1)]
        all_logits = torch.cat([logits[:, order, noisy:], found.enc_topk_logits[:, None]], dim=1)
        all_boxes = torch.cat([boxes[:, order, noisy:], found.enc_topk_bboxes[:, None]], dim=1)
        pairs = self.criterion.match(all_logits, all_boxes, truths)
        parts = self.criterion.losses(all_logits, all_boxes, truths, pairs, size)
        losses = dict(zip((f"loss_{n}" for n in LOSSES), parts[0], strict=True))
        losses |= zip((f"loss_{n}_aux" for n in LOSSES), parts[1:].sum(dim=0), strict=True)
        if self.net.config.num_denoising > 0:
            if meta is None:
                # No objects in the batch; every parameter still belongs to the graph.
                nothing = self.net.denoising_class_embed.weight.sum() * 0
                parts = nothing.expand(1, len(LOSSES))
            else:
                parts = self.criterion.losses(
                    logits[:, :, :noisy],
                    boxes[:, :, :noisy],
                    truths,
                    denoising_pairs(meta, truths, layers),
                    size,
                    repeats=meta["dn_num_group"],
                )
            losses |= zip((f"loss_{n}_dn" for n in LOSSES), parts.sum(dim=0), strict=True)
        return losses

    def _detections(
        self, found: Any, sizes: list[tuple[int, int]], size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        """The best queries as boxes and score vectors. Nothing is suppressed: queries are meant
        to differ, and cross-labelling has an NMS of its own."""
        scores = found.intermediate_logits[:, -1].float().sigmoid()
        boxes = found.intermediate_reference_points[:, -1].float()
        boxes = box_convert(boxes, "cxcywh", "xyxy")
        boxes = boxes * boxes.new_tensor([size[1], size[0], size[1], size[0]])
        out = []
        for box, score, shape in zip(boxes, scores, sizes, strict=True):
            box = clip_boxes_to_image(box, shape)
            best = score.amax(dim=1)
            keep = (best > MIN_SCORE) & ((box[:, 2:] - box[:, :2]).amin(dim=1) > 0.5)
            rows = best.masked_fill(~keep, -1).argsort(descending=True, stable=True)
            rows = rows[: min(int(keep.sum()), TOP_DETECTIONS)]
            out.append({"boxes": box[rows], "scores": score[rows]})
        return out

    def _places(self, size: tuple[int, int]) -> int:
        """Cells of all maps: no more queries than these can be chosen from a small image."""
        coarsest = (size[0] // self.divisor) * (size[1] // self.divisor)
        return coarsest * sum(4**i for i in range(len(self.net.config.decoder_in_channels)))

    @contextmanager
    def _knowing(self, truths: list[Truth]) -> Iterator[None]:
        """Mask the classes that each image's dataset does not know, within the block."""
        if any(t.known is not None for t in truths):
            classes = int(self.net.config.num_labels)
            everything = torch.ones(classes, dtype=torch.bool, device=truths[0].boxes.device)
            known = [everything if t.known is None else t.known for t in truths]
            self._known = torch.stack(known)
        try:
            yield
        finally:
            self._known = None

    def _mask_logits(self, _head: nn.Module, _inputs: Any, logits: Tensor) -> Tensor | None:
        """Hook of all class heads: logits [B, any, C]. Masked classes choose no query either."""
        if self._known is None:
            return None
        return logits.masked_fill(~self._known[:, None], _MASKED_LOGIT)

    def _known_labels(self, _embedding: nn.Module, inputs: tuple[Tensor]) -> Any:
        """Hook of the denoising labels, [B, any]: noise must not draw a class unknown there."""
        if self._known is None:
            return None
        labels = inputs[0].clone()
        for row, known in zip(labels, self._known, strict=True):
            choice = known.nonzero().squeeze(1).to(row.dtype)
            if len(choice):
                # The last label is that of padding.
                allowed = torch.cat([known, known.new_ones(1)])[row.long()]
                row[~allowed] = choice[row[~allowed].long() % len(choice)]
        return (labels,)


@contextmanager
def whole_batch_denoising() -> Iterator[None]:
    """Within the block, denoising queries of a shared training are those of one process.

    Their number and noise depend on the objects of the whole batch, so transformers' function,
    which has no other way in, is given those, and this process keeps its rows.
    """
    if world() == 1:
        yield
        return
    from transformers.models.rt_detr_v2 import modeling_rt_detr_v2 as module

    name = "get_contrastive_denoising_training_group"
    of_batch = getattr(module, name)

    def of_part(targets: list[dict[str, Tensor]], **more: Any) -> Any:
        device = targets[0]["boxes"].device
        parts = gathered([{k: v.cpu() for k, v in t.items()} for t in targets])
        everywhere = [{k: v.to(device) for k, v in t.items()} for part in parts for t in part]
        queries, boxes, mask, meta = of_batch(everywhere, **more)
        if meta is None:
            return queries, boxes, mask, meta
        mine = own_part(len(everywhere))
        meta["dn_positive_idx"] = meta["dn_positive_idx"][mine]
        return queries[mine], boxes[mine], mask, meta

    setattr(module, name, of_part)
    try:
        yield
    finally:
        setattr(module, name, of_batch)


class FullPrecision(nn.Module):
    """A module that computes in float32 inside an autocast block."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            plain = {k: _as_float(v) for k, v in kwargs.items()}
            return self.module(*(_as_float(v) for v in args), **plain)


def _as_float(value: Any) -> Any:
    reduced = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if reduced else value


class OwnBackbone(nn.Module):
    """One of our backbones, in the place of transformers' convolutional encoder."""

    def __init__(self, levels: StrideMaps) -> None:
        super().__init__()
        self.levels = levels

    @property
    def body(self) -> FeatureExtractor:
        return self.levels.body

    def pretrained(self) -> nn.Module:
        """The part that came with weights."""
        return self.body

    def forward(self, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(x, mask) for x in self.levels.maps(pixels)]


class PretrainedBackbone(nn.Module):
    """The backbone of a whole checkpoint, with the pixels as that one expects them."""

    mean: Tensor
    std: Tensor
    # It cannot stand alone: other models only take a `FeatureExtractor`.
    body = None

    def __init__(self, encoder: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def pretrained(self) -> nn.Module:
        """The part that came with weights."""
        return self.encoder

    def forward(self, pixels: Tensor, mask: Tensor) -> Any:
        return self.encoder((pixels - self.mean) / self.std, mask)
