"""Backbones: any convolutional or ViT network as a set of feature maps by stride.

Shape legend: ``B`` images, ``H, W`` pixels, ``d`` channels of a map, ``s`` its stride.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from relabel.backbones import WHOLE_BODY
from relabel.backbones.folding import fold_batch_norms, pad_in_convolutions
from relabel.backbones.views import (
    image_processor,
    loading,
    pixel_statistics,
    torchvision_model,
)
from relabel.errors import ConfigError, did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PROBE = 128
_REMEDY = "Give an existing local folder, or a hub id that can be reached from here."


@dataclass(frozen=True)
class BackboneSpec:
    """All that rebuilds a backbone without its hub or folder; part of a checkpoint's config.

    Attributes:
        kind: ``transformers`` or ``torchvision``.
        name: hub id, folder name or torchvision model name, for people to read.
        config: the transformers configuration, or None.
        mean, std: of the input pixels in [0, 1], RGB.
    """

    kind: str
    name: str
    config: dict[str, Any] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> BackboneSpec:
        """Inverse of `asdict`; other keys are passed over. Raises KeyError for a missing one."""
        return cls(row["kind"], row["name"], row["config"], tuple(row["mean"]), tuple(row["std"]))


def resolve_backbone(name: str) -> BackboneSpec:
    """Find out what ``name`` is: a local folder, a torchvision model, or a hub id.

    Raises:
        ConfigError: none of the three, or its files are not available.
    """
    folder = Path(name)
    if folder.is_dir() or "/" in name:
        return _resolve_transformers(name, folder)
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name in known:
        return BackboneSpec("torchvision", name, None, IMAGENET_MEAN, IMAGENET_STD)
    raise ConfigError(
        f"no backbone called {name!r}",
        remedy="Give a folder with config.json, a hub id such as facebook/dinov2-base, or a "
        f"torchvision model. {did_you_mean(name, [k for k in known if 'resnet' in k])}",
    )


def _resolve_transformers(name: str, folder: Path) -> BackboneSpec:
    from transformers import AutoConfig

    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            "no config.json in the backbone's folder",
            file=folder,
            remedy="Point to a transformers checkpoint (config.json and model.safetensors).",
        )
    with loading("backbone", name, _REMEDY):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    # Not every checkpoint carries a processor; ImageNet's statistics are the custom.
    processor = image_processor(name)
    mean, std = (
        pixel_statistics(getattr(processor, key, None) or usual, name)
        for key, usual in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD))
    )
    # Class names and the place it came from have no part in the network.
    kept = {
        k: v
        for k, v in config.to_dict().items()
        if k not in ("id2label", "label2id", "_name_or_path", "transformers_version", "dtype")
    }
    label = folder.resolve().name if folder.is_dir() else name
    return BackboneSpec("transformers", label, kept, mean, std)


class FeatureExtractor(nn.Module):
    """A network without its classifier that returns its last feature map at each stride.

    Input: pixels in [0, 1], RGB, [B, 3, H, W]; H and W multiples of the largest stride.
    Output: ``{s: [B, d_s, H / s, W / s]}``, strides ascending. A ViT has one stride, its patch
    size; class and register tokens are dropped, which hold no place in the image.

    Batch norms keep the statistics they were pretrained with (they are kept in eval mode), since
    detection batches are too small to estimate them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, source: str | None, *, pretrained: bool = True) -> None:
        super().__init__()
        self.spec = spec
        if spec.kind == "transformers":
            self.net: nn.Module = _transformers_network(spec, source if pretrained else None)
        else:
            self.net = _torchvision_network(spec.name, pretrained and source is not None)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.patch = _patch_size(spec)
        self._interpolates = _takes(self.net, "interpolate_pos_encoding")
        self.net.eval()
        if not self.patch:
            pad_in_convolutions(self.net)
            fold_batch_norms(self.net)
        self._order = [] if self.patch else execution_order(self.net)
        self._levels = self._last_by_stride()
        self.frozen = False
        """Whether nothing of it trains."""
        self.channels = {s: d for s, (_, d) in self._levels.items()}

    def train(self, mode: bool = True) -> FeatureExtractor:
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        if self.frozen:  # dropout, too: a frozen body gives the same maps always
            self.net.eval()
        return self

    @property
    def strides(self) -> list[int]:
        return sorted(self.channels)

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch or max(self.strides)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        x = (pixels - self.mean) / self.std
        if self.patch:
            more = {"interpolate_pos_encoding": True} if self._interpolates else {}
            tokens = self.net(pixel_values=x, **more).last_hidden_state
            return {self.patch: _tokens_to_map(tokens, x.shape[-2:], self.patch)}
        outputs = self._outputs(x)
        return {s: outputs[key] for s, (key, _) in self._levels.items()}

    def _outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Candidate feature maps by key, in order of execution."""
        if self.spec.kind == "transformers":
            result = self.net(pixel_values=x, output_hidden_states=True)
            states = [*result.hidden_states, result.last_hidden_state]
            return {str(i): m for i, m in enumerate(states) if m.ndim == 4}
        maps: dict[str, Tensor] = {}
        modules = dict(self.net.named_modules())
        names = [key for key, _ in self._levels.values()]
        handles = [modules[n].register_forward_hook(_keeper(maps, n)) for n in names]
        try:
            self.net(x)
        finally:
            for handle in handles:
                handle.remove()
        return maps

    def freeze(self, stride: int | None) -> None:
        """Stop training: everything (None, or 32), or all up to the first layer above ``stride``.

        Batch norms' affine parameters are always frozen, like their statistics.
        """
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(False)
        stride = WHOLE_BODY if stride is None else stride
        self.frozen = stride >= WHOLE_BODY
        if self.frozen:
            self.net.requires_grad_(False).eval()
            return
        freeze_until(self.net, self._order, stride)

    def _last_by_stride(self) -> dict[int, tuple[str, int]]:
        """Stride to (key of the last map there, channels), strides ascending."""
        if self.patch:
            return {self.patch: ("", int(self.net.config.hidden_size))}  # type: ignore[union-attr]
        if self.spec.kind == "transformers":
            with torch.no_grad():
                maps = self._outputs(torch.zeros(1, 3, _PROBE, _PROBE))
            found = [(k, round(_PROBE / m.shape[-1]), m.shape[1]) for k, m in maps.items()]
        else:
            # Inside a block a reused activation module fires at several strides; the outermost
            # modules are the stages.
            depth = {
                s: min(n.count(".") for n, t, _ in self._order if t == s)
                for s in {t for _, t, _ in self._order}
            }
            found = [o for o in self._order if o[0].count(".") == depth[o[1]]]
        last = {s: (key, d) for key, s, d in found if 2 <= s <= WHOLE_BODY}
        return dict(sorted(last.items()))


def execution_order(net: nn.Module) -> list[tuple[str, int, int]]:
    """(module name, output stride, channels) of every 4-d output, in order of execution."""
    order: list[tuple[str, int, int]] = []
    handles = []
    for name, module in net.named_modules():
        if name:
            handles.append(module.register_forward_hook(_recorder(order, name)))
    with torch.no_grad():
        was = net.training
        net.eval()
        net(torch.zeros(1, 3, _PROBE, _PROBE))
        net.train(was)
    for handle in handles:
        handle.remove()
    return order


def freeze_until(net: nn.Module, order: list[tuple[str, int, int]], stride: int) -> None:
    """Stop training the modules of an `execution_order` before the first one above ``stride``."""
    modules = dict(net.named_modules())
    for name, s, _ in order:
        if s > stride:
            break
        for parameter in modules[name].parameters(recurse=False):
            parameter.requires_grad_(False)


def _takes(net: nn.Module, argument: str) -> bool:
    import inspect

    return argument in inspect.signature(net.forward).parameters


def _keeper(maps: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found = _map_of(output)
        if found is not None:
            maps[name] = found

    return hook


def _recorder(order: list[tuple[str, int, int]], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found = _map_of(output)
        if found is not None and found.shape[-1] > 1:
            order.append((name, round(_PROBE / found.shape[-1]), found.shape[1]))

    return hook


def _map_of(output: Any) -> Tensor | None:
    """The feature map among what a module returned: a 4-d tensor, or the last hidden state."""
    output = getattr(output, "last_hidden_state", output)
    return output if isinstance(output, Tensor) and output.ndim == 4 else None


def _tokens_to_map(tokens: Tensor, size: Sequence[int], patch: int) -> Tensor:
    """[B, prefix + h * w, d] to [B, d, h, w]; prefix tokens (class, registers) come first."""
    h, w = size[0] // patch, size[1] // patch
    grid = tokens[:, tokens.shape[1] - h * w :]
    return grid.transpose(1, 2).reshape(len(tokens), -1, h, w)


def _patch_size(spec: BackboneSpec) -> int:
    """Patch size of a ViT; 0 for a convolutional network (or one with several stages)."""
    config = spec.config or {}
    if spec.kind != "transformers" or "hidden_size" not in config:
        return 0
    patch = config.get("patch_size") or 0
    return int(patch[0] if isinstance(patch, list | tuple) else patch)


def _transformers_network(spec: BackboneSpec, source: str | None) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    with loading("backbone", source or spec.name, _REMEDY, shown=spec.name):
        if source is not None:
            return AutoModel.from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
        config = dict(spec.config or {})
        config.pop("dtype", None)
        built = AutoConfig.for_model(config.pop("model_type"), **config)
        return AutoModel.from_config(built, dtype=torch.float32, trust_remote_code=False)
    raise AssertionError  # unreachable: the block above returns or raises


def _torchvision_network(name: str, pretrained: bool) -> nn.Module:
    net = torchvision_model(
        name,
        "DEFAULT" if pretrained else None,
        "Give --backbone a local transformers folder, or train from random weights with "
        "--set specialist.pretrained=false.",
    )
    for head in ("fc", "classifier", "head", "heads"):
        if hasattr(net, head):
            setattr(net, head, nn.Identity())
    return net


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """A batch of a frozen body's maps, in the place of its pixels.

    Attributes:
        levels: stride to [B, d, H / s, W / s].
        size: (H, W) of the padded batch in pixels.
    """

    levels: dict[int, Tensor]
    size: tuple[int, int]

    @property
    def device(self) -> torch.device:
        return next(iter(self.levels.values())).device

    def to(self, device: torch.device, **more: Any) -> FeatureMaps:
        """As float32 on a device; ``more`` as `Tensor.to` takes it."""
        levels = {s: m.to(device, **more).float() for s, m in self.levels.items()}
        return FeatureMaps(levels, self.size)


class StrideMaps(nn.Module):
    """The maps of a `FeatureExtractor` at chosen strides.

    Strides that the network lacks are made from its nearest map, by transposed convolution or
    max pooling, as ViTDet does for plain ViTs (Li et al., 2022).
    """

    def __init__(self, body: FeatureExtractor, strides: Sequence[int], channels: int) -> None:
        """``channels`` is the width of maps made by transposed convolution."""
        super().__init__()
        self.body = body
        self.strides = list(strides)
        self.resample = nn.ModuleDict()
        self.channels: list[int] = []
        self._from: dict[int, int] = {}
        pooled = [body.divisor]
        for stride in strides:
            near = min(body.strides, key=lambda s: (abs(_log2(s) - _log2(stride)), s))
            self._from[stride] = near
            width = body.channels[near]
            if near > stride and round(_log2(near) - _log2(stride)) > 0:
                times = round(_log2(near) - _log2(stride))
                layers: list[nn.Module] = []
                for _ in range(times):
                    layers += [nn.ConvTranspose2d(width, channels, 2, stride=2), nn.GELU()]
                    width = channels
                self.resample[str(stride)] = nn.Sequential(*layers)
            elif near < stride and round(_log2(stride) - _log2(near)) > 0:
                times = round(_log2(stride) - _log2(near))
                self.resample[str(stride)] = nn.MaxPool2d(2**times)
                pooled.append(near * 2**times)
            self.channels.append(width)
        self.read_strides = sorted(set(self._from.values()))
        """Strides of the body's maps that the others are made from."""
        self.divisor = max(pooled)
        """Image sides that are multiples of this give maps of which each halves the one before."""

    def maps(self, pixels: Tensor | FeatureMaps) -> list[Tensor]:
        """[B, channels[i], ~H / strides[i], ~W / strides[i]] of pixels [B, 3, H, W] in [0, 1]."""
        found = pixels.levels if isinstance(pixels, FeatureMaps) else self.body(pixels)
        levels = []
        for stride in self.strides:
            x = found[self._from[stride]]
            levels.append(self.resample[str(stride)](x) if str(stride) in self.resample else x)
        return levels


class PyramidBackbone(StrideMaps):
    """`StrideMaps` with a feature pyramid on top; what torchvision's detectors take."""

    def __init__(self, body: FeatureExtractor, strides: Sequence[int], channels: int) -> None:
        super().__init__(body, strides, channels)
        self.out_channels = channels
        self.fpn = FeaturePyramidNetwork(self.channels, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, pixels: Tensor | FeatureMaps) -> OrderedDict[str, Tensor]:
        names = (str(stride) for stride in self.strides)
        return self.fpn(OrderedDict(zip(names, self.maps(pixels), strict=True)))


def _log2(value: float) -> float:
    return float(torch.log2(torch.tensor(float(value))))
