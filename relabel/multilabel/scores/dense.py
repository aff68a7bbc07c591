"""Label maps from any image classifier: its classification layer on every cell of its last map.

Shape legend: ``B`` images, ``S`` pixels per side, ``d`` channels, ``h, w`` cells of the network's
last map, ``T`` tokens, ``C`` classes, ``g`` cells per side of the label map.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from relabel.backbones.classifiers import load_classifier, match_classes
from relabel.backbones.views import DEFAULT_SIDE, published_view
from relabel.errors import ConfigError
from relabel.multilabel.grid import to_grid
from relabel.multilabel.scores.label_maps import keep_top
from relabel.multilabel.settings import LabelMapSettings
from relabel.training.loop import autocast


class DenseClassifier:
    """Any image classifier with one vector per image between its features and its classes.

    The network's own last layers run on every cell of its last feature map: the map is brought to
    the grid, each cell handed on as if it were the map of an image of its own. For networks that
    average the map and apply a linear layer (ResNet, MobileNet, EfficientNet) this is the
    classification layer as a 1 x 1 convolution, and the mean of the cells is the global logit.
    ConvNeXt's norm after the averaging, or MobileNetV3's hidden layer, are applied per cell. In a
    ViT, each patch token takes the place of every token that the classifier reads, since the
    class token holds no place in the image.

    Pixels are [B, 3, S, S], RGB, uint8 or float in [0, 1]; ``image_size`` is the side S to feed.
    """

    def __init__(
        self,
        net: nn.Module,
        settings: LabelMapSettings,
        device: torch.device,
        *,
        name: str,
        columns: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        precision: str = "fp32",
    ) -> None:
        """Wrap a classifier at hand; see `create` for one by name.

        Args:
            net: takes normalised pixels, returns logits or an object with ``logits``.
            name: for messages.
            columns: the logit of each class.
            mean, std: of the pixels in [0, 1], per channel.
            precision: arithmetic of the forward pass, as in `TrainSettings.precision`.

        Raises:
            ConfigError: the network cannot be run cell by cell, or not at this image size.
        """
        # Networks with learned positions of one size only (torchvision's ViT) say so.
        fixed = getattr(net, "image_size", None)
        self.image_size = fixed if isinstance(fixed, int) else settings.image_size or DEFAULT_SIDE
        self.grid, self.top, self.classes = settings.grid, settings.top, len(columns)
        self.name, self.device, self.precision = name, device, precision
        self._net = net.to(device).eval().requires_grad_(False)
        self._columns = torch.tensor(list(columns), device=device)
        self._all_columns = list(columns) == list(range(len(columns)))
        self._mean = torch.tensor(list(mean), device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(list(std), device=device).view(1, 3, 1, 1)
        arguments = inspect.signature(net.forward).parameters
        self._more = (
            {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in arguments else {}
        )
        self._place = self._find_map()

    @classmethod
    def create(
        cls,
        name: str,
        settings: LabelMapSettings,
        device: torch.device,
        classes: int,
        *,
        class_keys: Sequence[str] | None = None,
        precision: str = "fp32",
    ) -> DenseClassifier:
        """A classifier by name, pretrained.

        Args:
            name: a transformers hub id or folder with a ...ForImageClassification checkpoint, or a
                torchvision model name.
            classes: number of classes of the images.
            class_keys: their keys (synsets or names). Where the classifier's labels begin with
                them, its classes are put into that order, and may be more than the images'.
                Otherwise its classes, without one called background, are taken in their order.

        Raises:
            ConfigError: no such classifier, its classes do not fit, or it cannot run densely.
        """
        net, labels, spec = load_classifier(name)
        columns = match_classes(labels, classes, class_keys, name=name)
        if not settings.image_size:
            settings = replace(settings, image_size=published_view(name, spec.kind, net).side)
        return cls(
            net,
            settings,
            device,
            name=name,
            columns=columns,
            mean=spec.mean,
            std=spec.std,
            precision=precision,
        )

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> Tensor:
        """float32 [B, C, g, g]: the logits of every cell."""
        rows = self._hooked(self._prepared(pixels)).unflatten(0, (len(pixels), -1))
        cells = rows.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        return self._chosen(cells)

    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, 2, k, g, g]: label maps; see `label_maps.keep_top`."""
        return keep_top(self.dense(pixels), self.top)

    def _prepared(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self.device)
        if not x.is_floating_point():
            x = x.float() / 255
        return (x.float() - self._mean) / self._std

    def _forward(self, x: Tensor) -> Tensor:
        with autocast(self.precision, self.device):
            output = self._net(x, **self._more)
        return getattr(output, "logits", output).float()

    def _chosen(self, logits: Tensor) -> Tensor:
        if self._all_columns and logits.shape[1] == self.classes:
            return logits.contiguous()
        return logits.index_select(1, self._columns)

    def _hooked(self, x: Tensor) -> Tensor:
        """[B * g * g, logits]: of each image's cells, row by row."""
        place, calls = self._place, 0

        def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != place.call:
                return None
            feature = _feature(output)
            if feature is None:
                raise ConfigError(f"classifier {self.name!r} changed its way between images")
            cells = _as_cells(feature, self.grid)
            if isinstance(output, Tensor):
                return cells
            output.last_hidden_state = cells
            return output

        module = self._net.get_submodule(place.module)
        handle = module.register_forward_hook(replace)
        try:
            return self._forward(x)
        finally:
            handle.remove()

    @torch.inference_mode()
    def _find_map(self) -> _Place:
        """The last feature map of the network: the last output with more than one cell."""
        found: list[_Place] = []
        counts: dict[str, int] = {}
        handles = []

        def recorder(module: str) -> Callable[[nn.Module, Any, Any], None]:
            def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
                counts[module] = counts.get(module, 0) + 1
                if _feature(output) is not None:
                    found.append(_Place(module, counts[module]))

            return record

        for module_name, module in self._net.named_modules():
            if module_name:
                handles.append(module.register_forward_hook(recorder(module_name)))
        noise = torch.Generator().manual_seed(0)
        x = torch.rand(1, 3, self.image_size, self.image_size, generator=noise).to(self.device)
        try:
            logits = self._forward(x)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"classifier {self.name!r} cannot take images of {self.image_size} pixels: "
                f"{(str(error).splitlines() or [''])[0]}",
                remedy="Choose the side it was trained with, or another classifier.",
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        problem = "it has no feature map"
        if found:
            self._place = found[-1]
            try:
                rows = self._hooked(x)
                if rows.shape == (self.grid**2, logits.shape[1]):
                    return found[-1]
                problem = f"its layers make {list(rows.shape)} of {self.grid**2} cells"
            except (RuntimeError, ValueError, IndexError) as error:
                problem = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"classifier {self.name!r} cannot be applied cell by cell: {problem}",
            remedy="Use one that averages its last feature map, such as a ResNet, MobileNet, "
            "EfficientNet or ConvNeXt, or a ViT.",
        )


@dataclass(frozen=True)
class _Place:
    """Where the last feature map comes from: a module and which of its calls, from 1."""

    module: str
    call: int


def _feature(output: Any) -> Tensor | None:
    """A map [B, d, h, w] or tokens [B, T, d] among what a module returned."""
    if not isinstance(output, Tensor):
        if getattr(output, "pooler_output", None) is not None:
            return None  # the vector of the image has been made already
        output = getattr(output, "last_hidden_state", None)
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4 and min(output.shape[2:]) > 1:
        return output
    if output.ndim == 3 and min(output.shape[1:]) > 1:
        return output
    return None


def _as_cells(feature: Tensor, grid: int) -> Tensor:
    """A map as maps of single cells [B * g * g, d, 1, 1]; tokens as [..., 1 + prefix, d].

    Tokens of a square image are a square number of patches after class and register tokens, which
    are replaced by copies of the patch.
    """
    prefix, patches = 0, feature
    if feature.ndim == 3:
        side = isqrt(feature.shape[1])
        prefix = feature.shape[1] - side**2
        patches = feature[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
    cells = to_grid(patches, grid).flatten(2).transpose(1, 2).flatten(0, 1)  # [B * g * g, d]
    if feature.ndim == 4:
        return cells[..., None, None]
    return cells[:, None].repeat(1, 1 + prefix, 1)
