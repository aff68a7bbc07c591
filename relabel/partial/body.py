"""What turns pixels into the map that methods read: any backbone, or CLIP's image tower.

Shape legend: ``B`` images, ``S`` side of the square in pixels, ``D`` channels, ``H, W`` cells.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from relabel.backbones.extractor import BackboneSpec, FeatureExtractor, resolve_backbone
from relabel.backbones.views import loading
from relabel.errors import ConfigError
from relabel.partial.settings import CLIP_PROMPT, CompletionSettings
from relabel.workspace.fingerprint import source_identity

# Of OpenAI's CLIP, whose processor may be missing from a folder.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_CLIP_REMEDY = "Give a local folder or hub id of a transformers CLIP checkpoint."


class Body(nn.Module):
    """Pixels in [0, 1], [B, 3, S, S], to one map, float [B, D, H, W]: the network's coarsest."""

    def __init__(self, net: FeatureExtractor) -> None:
        super().__init__()
        self.net = net
        self.stride = max(net.strides)
        self.channels = net.channels[self.stride]
        self.divisor = net.divisor

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)[self.stride]

    def freeze(self, frozen: bool) -> None:
        """Train nothing of it, or all but its batch norms."""
        self.net.freeze(None if frozen else 0)

    def description(self) -> dict[str, Any]:
        """What rebuilds it without its hub or folder, JSON-ready."""
        return asdict(self.net.spec)


class ClipBody(nn.Module):
    """CLIP's image tower, its map in the space of texts.

    The attention of the last block is left out, as in MaskCLIP (Zhou et al., 2022, section 3.2)
    and for ResNets in DualCoOp (Sun et al., 2022, section 3.3): it gathers what the image shows
    into one token, and cells would no longer stand for their place.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        with loading("CLIP checkpoint", source, _CLIP_REMEDY):
            self.net: Any = CLIPVisionModelWithProjection.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=False
            )
        self.net.eval().requires_grad_(False)
        self.divisor = int(self.net.config.patch_size)
        self.stride = self.divisor
        self.channels = int(self.net.config.projection_dim)
        for name, value in (("mean", _CLIP_MEAN), ("std", _CLIP_STD)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - self.mean) / self.std
        tower = self.net.vision_model
        tokens = tower.pre_layrnorm(tower.embeddings(x, interpolate_pos_encoding=True))
        *blocks, last = tower.encoder.layers
        for block in blocks:
            tokens = block(tokens, None)
        values = last.self_attn.v_proj(last.layer_norm1(tokens))
        tokens = tokens + last.self_attn.out_proj(values)
        tokens = tokens + last.mlp(last.layer_norm2(tokens))
        cells = self.net.visual_projection(tower.post_layernorm(tokens[:, 1:]))
        height, width = (side // self.divisor for side in pixels.shape[-2:])
        return cells.transpose(1, 2).reshape(len(pixels), -1, height, width)


def build_body(settings: CompletionSettings) -> Body | ClipBody:
    """The settings' backbone with its published weights, on the CPU.

    Raises:
        ConfigError: it is not available, or is none that the method can use.
    """
    if settings.method == CLIP_PROMPT:
        if not settings.frozen:
            raise ConfigError(
                "clip-prompt trains prompts, not the backbone",
                remedy="Leave frozen=true, or choose another method.",
            )
        return ClipBody(settings.backbone)
    spec = resolve_backbone(settings.backbone)
    body = Body(FeatureExtractor(spec, settings.backbone))
    body.freeze(settings.frozen)
    return body


def rebuild_body(description: dict[str, Any]) -> Body:
    """The network of a `Body.description` with random weights, for a checkpoint's."""
    return Body(FeatureExtractor(BackboneSpec.from_dict(description), None, pretrained=False))


def body_identity(settings: CompletionSettings) -> list[Any]:
    """What stands for the backbone in fingerprints: see `source_identity`."""
    kind = "clip" if settings.method == CLIP_PROMPT else "map"
    return [kind, source_identity(settings.backbone)]
