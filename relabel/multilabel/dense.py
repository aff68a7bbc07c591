"""Label maps from any image classifier: its classification layer on every cell of its last map.

Shape legend: ``B`` images, ``S`` pixels per side, ``d`` channels, ``h, w`` cells of the network's
last map, ``T`` tokens, ``C`` classes, ``g`` cells per side of the label map.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relabel.detectors.backbones import resolve_backbone
from relabel.errors import ConfigError, RelabelError
from relabel.multilabel.label_maps import keep_top, to_grid
from relabel.multilabel.settings import LabelMapSettings
from relabel.training.loop import autocast

if TYPE_CHECKING:
    from relabel.multilabel.probe import Probe

BACKGROUND = "background"
PROBE = "probe"


class MapMaker(ABC):
    """What makes label maps from pixels.

    Pixels are [B, 3, S, S], RGB, uint8 or float in [0, 1]; ``image_size`` is the side S to feed.
    """

    image_size: int
    grid: int
    top: int
    classes: int

    @abstractmethod
    def dense(self, pixels: Tensor) -> Tensor:
        """float32 [B, C, g, g]: the logits of every cell."""

    @abstractmethod
    def global_logits(self, pixels: Tensor) -> Tensor:
        """float32 [B, C]: the ordinary logits of the whole image."""

    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, 2, k, g, g]: label maps; see `label_maps.keep_top`."""
        return keep_top(self.dense(pixels), self.top)


class DenseClassifier(MapMaker):
    """Any image classifier with one vector per image between its features and its classes.

    The network's own last layers run on every cell of its last feature map: the map is brought to
    the grid, each cell handed on as if it were the map of an image of its own. For networks that
    average the map and apply a linear layer (ResNet, MobileNet, EfficientNet) this is the
    classification layer as a 1 x 1 convolution, and the mean of the cells is the global logit.
    ConvNeXt's norm after the averaging, or MobileNetV3's hidden layer, are applied per cell. In a
    ViT, each patch token takes the place of every token that the classifier reads, since the
    class token holds no place in the image.
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
        self.image_size = fixed if isinstance(fixed, int) else settings.image_size
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
        probe: Probe | None = None,
        features: Callable[[Tensor], Any] | None = None,
        precision: str = "fp32",
    ) -> MapMaker:
        """A classifier by name, pretrained.

        Args:
            name: a transformers hub id or folder with a ...ForImageClassification checkpoint, a
                torchvision model name, or ``probe``.
            classes: number of classes of the images.
            class_keys: their keys (synsets or names). Where the classifier's labels begin with
                them, its classes are put into that order, and may be more than the images'.
                Otherwise its classes, without one called background, are taken in their order.
            probe, features: for ``probe``: the trained head and the `PatchFeatures` it is for.

        Raises:
            ConfigError: no such classifier, its classes do not fit, or it cannot run densely.
        """
        if name == PROBE:
            if probe is None or features is None:
                raise ConfigError(
                    "the probe's maps need a trained probe and its backbone",
                    remedy="Train it with relabel.multilabel.probe.train_probe.",
                )
            return ProbeClassifier(probe, features, settings)
        spec = resolve_backbone(name)
        if spec.kind == "transformers":
            net, labels = _transformers_classifier(name)
        else:
            net, labels = _torchvision_classifier(name)
        columns = match_classes(labels, classes, class_keys, name=name)
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
        logits = self._hooked(self._prepared(pixels))
        cells = logits.view(len(pixels), self.grid, self.grid, -1).permute(0, 3, 1, 2)
        return self._chosen(cells)

    @torch.inference_mode()
    def global_logits(self, pixels: Tensor) -> Tensor:
        """float32 [B, C]: what the network itself returns, in the order of the images' classes."""
        return self._chosen(self._forward(self._prepared(pixels)))

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
        """[B * g * g, logits] of the cells."""
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
        x = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
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
                shape = self._hooked(x).shape
                if shape == (self.grid**2, logits.shape[1]):
                    return found[-1]
                problem = f"its layers make {list(shape)} of {self.grid**2} cells"
            except (RuntimeError, ValueError, IndexError) as error:
                problem = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"classifier {self.name!r} cannot be applied cell by cell: {problem}",
            remedy="Use one that averages its last feature map, such as a ResNet, MobileNet, "
            "EfficientNet or ConvNeXt, or a ViT.",
        )


class ProbeClassifier(MapMaker):
    """A linear probe applied to every patch of its backbone's pooled features.

    ``features`` is the `PatchFeatures` the probe was trained on: pixels to an object whose
    ``pooled`` is [B, h, w, d].
    """

    def __init__(
        self, probe: Probe, features: Callable[[Tensor], Any], settings: LabelMapSettings
    ) -> None:
        self._probe, self._features = probe, features
        self.image_size = settings.image_size
        self.grid, self.top, self.classes = settings.grid, settings.top, probe.classes

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> Tensor:
        """float32 [B, C, g, g]."""
        return self._probe.dense(self._features(pixels).pooled, self.grid)

    @torch.inference_mode()
    def global_logits(self, pixels: Tensor) -> Tensor:
        """float32 [B, C]: the probe on the mean of the patch features, as it was trained."""
        return self._probe.logits(self._features(pixels).pooled.float().mean((1, 2)))


def match_classes(
    labels: Sequence[str], classes: int, class_keys: Sequence[str] | None, *, name: str
) -> list[int]:
    """The classifier's logit of each class of the images.

    Args:
        labels: the classifier's labels, by logit; may be made up (``LABEL_3``).
        classes: C.
        class_keys: keys of the images' classes; a label fits a key if it equals it or begins with
            it and a space or comma, case aside.
        name: of the classifier, for messages.

    Raises:
        ConfigError: neither the keys nor the number of classes fit.
    """
    if class_keys is not None:
        heads: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            text = label.strip().lower()
            first = text.replace(",", " ").split(" ")[0]
            for key in {text, text.split(",")[0], first}:
                heads.setdefault(key, []).append(i)
        found = [heads.get(key.strip().lower(), []) for key in class_keys]
        if all(len(rows) == 1 for rows in found):
            return [rows[0] for rows in found]
    kept = [i for i, label in enumerate(labels) if label.strip().lower() != BACKGROUND]
    if len(kept) == classes:
        return kept
    raise ConfigError(
        f"classifier {name!r} has {len(kept)} classes, the images have {classes}",
        remedy="Use a classifier trained on the images' classes, label maps (--maps), or the "
        "classifier `probe`, which learns them from the images' own labels.",
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
    """A map as maps of single cells [B * g * g, d, 1, 1]; tokens as [B * g * g, 1 + prefix, d].

    Tokens of a square image are a square number of patches after class and register tokens; these
    are replaced by copies of the patch.
    """
    if feature.ndim == 4:
        cells = to_grid(feature, grid)
        return cells.permute(0, 2, 3, 1).reshape(-1, feature.shape[1], 1, 1)
    side = isqrt(feature.shape[1])
    prefix = feature.shape[1] - side**2
    patches = feature[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
    cells = to_grid(patches, grid).permute(0, 2, 3, 1).reshape(-1, 1, feature.shape[2])
    return cells.expand(-1, 1 + prefix, -1)


def _transformers_classifier(name: str) -> tuple[nn.Module, list[str]]:
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        net, report = AutoModelForImageClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"classifier {name!r} cannot be loaded: {(str(error).splitlines() or [''])[0]}",
            remedy="Give a hub id or folder of an image classification checkpoint.",
        ) from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[0]
        raise ConfigError(
            f"{name!r} has no trained classification layer ({missing} is missing)",
            file=Path(name) if Path(name).is_dir() else None,
            remedy="Use a ...ForImageClassification checkpoint, or the classifier `probe`.",
        )
    labels = net.config.id2label or {}
    return net, [str(labels.get(i, f"LABEL_{i}")) for i in range(net.config.num_labels)]


def _torchvision_classifier(name: str) -> tuple[nn.Module, list[str]]:
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(name)["DEFAULT"]
        net = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise RelabelError(
            f"weights of torchvision's {name} cannot be had: {str(error).splitlines()[0]}",
            remedy="Give the folder of a transformers classifier instead.",
        ) from error
    return net, [str(c) for c in weights.meta["categories"]]
