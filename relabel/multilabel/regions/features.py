"""Patch features of a frozen backbone: what MaskCut cuts and what regions are described by.

Shape legend: ``B`` images, ``S`` side in pixels of the square they are resized to, ``h, w`` the
patch grid, ``dk`` channels of what is cut, ``d`` channels of what is pooled.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relabel.backbones.extractor import FeatureExtractor, resolve_backbone
from relabel.errors import ConfigError
from relabel.multilabel.settings import MaskCutSettings
from relabel.training.loop import autocast
from relabel.workspace.fingerprint import source_identity

_KEY_LAYERS = ("key", "k_proj", "k")
_FUSED_LAYERS = ("qkv", "qkv_proj")


class PatchMaps(NamedTuple):
    """Two descriptions of the same patches.

    Attributes:
        cut: float32 [B, h, w, dk], what MaskCut sees.
        pooled: float32 [B, h, w, d], what is averaged over a region to describe it.
    """

    cut: Tensor
    pooled: Tensor


class PatchFeatures:
    """A frozen backbone as a function from square images to patch features.

    Of a ViT, the keys of one attention block are cut (before any rotary position enters them, all
    heads side by side), or with ``kind="features"`` its last hidden state, which is always what is
    pooled. Class and register tokens hold no place in the image and are left out.
    Of a convolutional network, the map at ``stride`` is cut, and its last map, the one its
    classifier averages, is pooled, resampled bilinearly to the grid of the cut.

    The same image has the same features in whatever batch it comes: on a CPU images go through
    the network one by one (bitwise equal, and no slower), elsewhere in batches of one fixed size,
    filled up with zeros, so that the library chooses the same kernels. On a GPU the libraries do
    not promise equal bits for different places in a batch; a different number of CPU threads, or
    another device, may change the last bits too.

    Attributes:
        side: S.
        grid: (h, w).
        dim_cut: dk.
        dim: d, of what is pooled.
        kind: ``keys`` or ``features``, what is cut.
        source_identity: see `relabel.workspace.fingerprint.source_identity`.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        settings: MaskCutSettings,
        device: torch.device,
        identity: str,
    ) -> None:
        """Use `create`. ``extractor`` is frozen and moved to the device."""
        self.settings = settings
        self.device = device
        self.source_identity = identity
        self.side = settings.image_size
        self._extractor = extractor.eval().requires_grad_(False).to(device)
        self._kept: dict[str, Tensor] = {}
        self._patch = extractor.patch
        if self._patch:
            self._prepare_vit()
        else:
            self._prepare_convolutional()

    @classmethod
    def create(cls, settings: MaskCutSettings, device: torch.device) -> PatchFeatures:
        """Load the backbone that the settings name.

        Raises:
            ConfigError: no such backbone; a side that is no multiple of the patch size; keys of a
                network without key projections, a block or stride that it does not have.
        """
        spec = resolve_backbone(settings.backbone)
        try:
            extractor = FeatureExtractor(spec, settings.backbone)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"backbone {settings.backbone!r} gives no feature maps: {_line(error)}",
                remedy="Use a transformers ViT or a convolutional network. torchvision's ViTs "
                "take one image size only: use the transformers checkpoint of the same network.",
            ) from error
        if any("SwinTransformer" in type(module).__name__ for module in extractor.net.modules()):
            raise ConfigError(
                f"backbone {settings.backbone!r} has maps with channels last, which are not read",
                remedy="Use a transformers ViT or a convolutional network.",
            )
        return cls(extractor, settings, device, source_identity(settings.backbone))

    def __call__(self, pixels: Tensor) -> PatchMaps:
        """Features of images.

        Args:
            pixels: [B, 3, S, S], RGB: uint8, or floating point in [0, 1]. On any device; pinned
                memory is copied without waiting.

        Returns:
            On the backbone's device, outside of any autograd graph.

        Raises:
            ConfigError: the backbone cannot take images of this side.
            ValueError: pixels of another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.side, self.side):
            raise ValueError(
                f"pixels are {list(pixels.shape)}, not [B, 3, {self.side}, {self.side}]"
            )
        count = len(pixels)
        h, w = self.grid
        # Made outside of inference mode, so that heads can be trained on them.
        cut = torch.empty(count, h, w, self.dim_cut, device=self.device)
        pooled = torch.empty(count, h, w, self.dim, device=self.device)
        size = 1 if self.device.type == "cpu" else self.settings.batch_size
        for start in range(0, count, size):
            part = pixels[start : start + size]
            maps = self._forward(part.to(self.device, non_blocking=True), size)
            cut[start : start + size] = maps.cut[: len(part)]
            pooled[start : start + size] = maps.pooled[: len(part)]
        return PatchMaps(cut, pooled)

    @torch.inference_mode()
    def _forward(self, pixels: Tensor, size: int) -> PatchMaps:
        """One pass over images, filled up to ``size`` of them."""
        x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        if len(x) < size:
            x = torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
        if not self._patch:
            x = x.contiguous(memory_format=torch.channels_last)
        try:
            with autocast(self.settings.precision, self.device):
                maps = self._extractor(x)
            return self._read_vit(maps) if self._patch else self._read_convolutional(maps)
        finally:
            self._kept.clear()

    def _prepare_vit(self) -> None:
        side, patch = self.side, self._patch
        if side % patch:
            near = max(patch, side // patch * patch)
            raise ConfigError(
                f"images of {side} pixels do not split into patches of {patch}",
                remedy=f"Use an image size of {near} or {near + patch}.",
            )
        self.grid = (side // patch, side // patch)
        self.dim = self.dim_cut = self._extractor.channels[patch]
        self.kind = "features" if self.settings.kind == "features" else "keys"
        self._extractor.net.register_forward_hook(self._check_tokens)
        if self.kind == "keys":
            projection, part = _key_projection(
                self._extractor.net, self.settings.layer, self.settings.backbone
            )
            width = projection.out_features // (1 if part is None else 3)
            self.dim_cut = width
            columns = slice(width, 2 * width) if part == "middle" else slice(None)

            def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                self._kept["keys"] = output[..., columns]

            projection.register_forward_hook(keep)

    def _prepare_convolutional(self) -> None:
        if self.settings.kind == "keys":
            raise ConfigError(
                f"backbone {self.settings.backbone!r} is convolutional and has no attention keys",
                remedy="Use --set maskcut.kind=features.",
            )
        self.kind = "features"
        stride = self.settings.stride
        if stride not in self._extractor.channels:
            raise ConfigError(
                f"backbone {self.settings.backbone!r} has no feature map of stride {stride}",
                remedy="Use --set maskcut.stride= one of "
                f"{', '.join(map(str, self._extractor.strides))}.",
            )
        self._extractor.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._extractor.net.register_forward_hook(self._keep_tokens)
        self.dim_cut = self._extractor.channels[stride]
        self.dim = self._extractor.channels[max(self._extractor.strides)]
        # Networks round odd sides their own ways: look.
        blank = torch.zeros(1, 3, self.side, self.side, device=self.device)
        with torch.inference_mode():
            found = self._extractor(blank)[stride]
        self._kept.clear()
        self.grid = (found.shape[2], found.shape[3])

    def _read_vit(self, maps: dict[int, Tensor]) -> PatchMaps:
        pooled = maps[self._patch].permute(0, 2, 3, 1).float()
        if self.kind == "features":
            return PatchMaps(pooled, pooled)
        h, w = self.grid
        keys = self._kept["keys"]
        # Class and register tokens come first: what is left at the end are the patches.
        keys = keys.reshape(len(pooled), -1, self.dim_cut)[:, -h * w :]
        return PatchMaps(keys.float().reshape(-1, h, w, self.dim_cut), pooled)

    def _read_convolutional(self, maps: dict[int, Tensor]) -> PatchMaps:
        cut = maps[self.settings.stride].float()
        last = maps[max(maps)].float()
        tokens = self._kept.get("tokens")
        if tokens is not None:
            # DINOv3's ConvNeXt normalises its last map as a sequence, class token first.
            rows, columns = last.shape[2:]
            last = tokens[:, -rows * columns :].float().transpose(1, 2).reshape(last.shape)
        if last.shape[2:] != cut.shape[2:]:
            last = F.interpolate(last, size=cut.shape[2:], mode="bilinear", align_corners=False)
        return PatchMaps(cut.permute(0, 2, 3, 1), last.permute(0, 2, 3, 1))

    def _check_tokens(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        tokens = output.last_hidden_state
        h, w = self.grid
        if tokens.ndim != 3 or tokens.shape[1] < h * w:
            raise ConfigError(
                f"backbone {self.settings.backbone!r} returns {list(tokens.shape[1:])}, not a "
                f"token for each of {h} x {w} patches",
                remedy="Use a plain ViT or a convolutional network.",
            )

    def _keep_tokens(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        tokens = getattr(output, "last_hidden_state", None)
        if isinstance(tokens, Tensor) and tokens.ndim == 3:
            self._kept["tokens"] = tokens


def _key_projection(net: nn.Module, layer: int, name: str) -> tuple[nn.Linear, str | None]:
    """The layer that makes the keys of attention block ``layer``.

    Returns:
        The layer, and ``middle`` where queries, keys and values come out of it side by side.
    """
    for names, part in ((_KEY_LAYERS, None), (_FUSED_LAYERS, "middle")):
        found = [
            (path, module)
            for path, module in net.named_modules()
            if path.rpartition(".")[2] in names and isinstance(module, nn.Linear)
        ]
        if not found:
            continue
        # Blocks of one stack differ in their number only; a pooling head is no block of it.
        stacks = Counter(re.sub(r"\d+", "*", path) for path, _ in found)
        stack = stacks.most_common(1)[0][0]
        blocks = [module for path, module in found if re.sub(r"\d+", "*", path) == stack]
        if not -len(blocks) <= layer < len(blocks):
            raise ConfigError(
                f"backbone {name!r} has no attention block {layer}",
                remedy=f"Use --set maskcut.layer= from {-len(blocks)} to {len(blocks) - 1}.",
            )
        return blocks[layer], part
    raise ConfigError(
        f"backbone {name!r} has no key projection that could be read (a linear layer called "
        f"{', '.join((*_KEY_LAYERS, *_FUSED_LAYERS))})",
        remedy="Use --set maskcut.kind=features to cut its last hidden state.",
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
