"""A method on its backbone, saved and loaded.

Shape legend: ``B`` images, ``C`` classes, ``D`` channels, ``H, W`` cells, ``S`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relabel.errors import ConfigError, DataError
from relabel.files.json_text import read_object
from relabel.files.opening import foreign, said_of
from relabel.files.tensors import read_tensors
from relabel.partial.body import Body, rebuild_body
from relabel.partial.calibrate import Calibration
from relabel.partial.features import Features, Inputs
from relabel.partial.methods.base import Method, Setup
from relabel.partial.methods.registry import METHODS
from relabel.partial.settings import CompletionSettings
from relabel.settings import settings_dict, settings_from
from relabel.workspace.atomic import atomic_path, atomic_write_json

CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.json"
_AGAIN = "Train it again: remove the folder and rerun the command."


class Model(nn.Module):
    """Inputs to a method's losses or logits.

    Inputs are kept maps, float16 [B, D, H, W], or pixels uint8 [B, 3, S, S] where there is a body.
    Their power-normalised values' mean and deviation over the training images are part of the
    model, so that one learning rate suits backbones of any scale.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, method: Method, body: Body | None, channels: int) -> None:
        super().__init__()
        self.method = method
        self.body = body
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))

    def raw_maps(self, inputs: Tensor) -> Tensor:
        """Inputs as maps, float [B, D, H, W]."""
        if self.body is None:
            return inputs.to(self.mean.device).float()
        pixels = inputs.to(self.mean.device, memory_format=torch.channels_last)
        return self.body(pixels.float() / 255)

    def even_maps(self, inputs: Tensor) -> Tensor:
        """Power-normalised maps [B, D, H, W], or their means [B, D, 1, 1] for methods without."""
        maps = self.raw_maps(inputs)
        if not self.method.needs_maps:
            maps = maps.mean((2, 3), keepdim=True)
        return power_normalised(maps) if self.method.standardised else maps

    def maps(self, inputs: Tensor) -> Tensor:
        """Power-normalised and standardised maps, as `even_maps`."""
        return (self.even_maps(inputs) - self.mean) * self.scale

    @torch.inference_mode()
    def standardise(self, batches: Iterable[Tensor]) -> None:
        """From now on `maps` have mean 0 and deviation 1 per channel over these inputs."""
        if not self.method.standardised:
            return
        means = [self.even_maps(inputs).mean((2, 3)).double().cpu() for inputs in batches]
        found = torch.cat(means)
        deviation = found.std(0, correction=0).clamp(min=1e-6)
        self.mean.copy_(found.mean(0).view_as(self.mean))
        self.scale.copy_((1 / deviation).view_as(self.scale))

    def forward(self, inputs: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        return self.method(self.maps(inputs), known.to(self.mean.device), step)


def power_normalised(maps: Tensor) -> Tensor:
    """Maps [B, D, H, W] with each channel divided by the root of its mean absolute value, and each
    image's then scaled so that their means have norm sqrt(D).

    The means of maps that are nowhere negative become their roots. A few channels, and a few
    images, have values many times the others', and would decide what a classifier learns from few
    labels. On images that no table of ours is made of (five sets, 10 to 60 % known, MobileNetV2)
    plain BCE gains 0.8 points of mAP by it on test images and 1.5 on hidden labels.

    Source: Perronnin et al., "Improving the Fisher Kernel for Large-Scale Image Classification"
    (ECCV 2010), sections 3.2 and 3.3, for features without places.
    """
    size = maps.abs().mean((2, 3), keepdim=True)
    roots = maps / size.clamp(min=1e-9).sqrt()
    norm = roots.mean((2, 3)).norm(dim=1).clamp(min=1e-9)
    return roots * (maps.shape[1] ** 0.5 / norm)[:, None, None, None]


def build_model(setup: Setup, body: Body | None) -> Model:
    """A model with random weights from torch's global generator; its maps are not standardised."""
    return Model(METHODS[setup.settings.method](setup), body, setup.channels)


def save_model(
    model: Model,
    folder: Path,
    *,
    classes: Sequence[str],
    settings: CompletionSettings,
    identity: str,
    calibration: Calibration,
    more: dict[str, Any],
) -> None:
    """Write the weights, the calibration and, last, ``config.json``."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temp:
        save_file(tensors, temp)
    atomic_write_json(folder / CALIBRATION, calibration.to_json())
    atomic_write_json(
        folder / CONFIG,
        {
            "classes": list(classes),
            "inputs": identity,
            "channels": model.mean.shape[1],
            "body": None if model.body is None else model.body.description(),
            "settings": settings_dict(settings),
            **more,
        },
        indent=1,
    )


def load_model(folder: Path) -> tuple[Model, Calibration, dict[str, Any]]:
    """The model on the CPU in eval mode, its calibration, and ``config.json``.

    Raises:
        DataError: a file is missing or damaged, or they do not fit one another.
    """
    config = read_object(folder / CONFIG, remedy=_AGAIN)
    with foreign(folder, "a finished training of relabel complete", remedy=_AGAIN):
        settings = settings_from(CompletionSettings, config["settings"], where=CONFIG)
        classes, channels = tuple(config["classes"]), int(config["channels"])
        state = read_tensors(folder / WEIGHTS)
        embeddings = [v for k, v in state.items() if k.endswith("decoupling.embeddings")]
        context = state.get("method.context")
        empty = Setup(
            classes,
            channels,
            torch.zeros(len(classes), len(classes)),
            torch.full((len(classes),), 0.5),
            torch.zeros_like(embeddings[0]) if embeddings else None,
            settings,
            int(config["steps"]),
            0 if context is None else context.shape[2],
        )
        body = None if config["body"] is None else rebuild_body(config["body"])
        with torch.random.fork_rng(devices=[]):
            model = build_model(empty, body)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(
                f"the weights do not fit: {said_of(error)}", file=folder / WEIGHTS, remedy=_AGAIN
            ) from error
        row = read_object(folder / CALIBRATION, remedy=_AGAIN)
        return model.eval(), Calibration.from_json(row), config
    raise AssertionError  # unreachable: the block above returns or raises


def check_inputs(folder: Path, config: dict[str, Any], inputs: Inputs) -> None:
    """Whether a trained folder reads such inputs.

    Raises:
        ConfigError: they are of another backbone or size.
    """
    channels = inputs.channels if isinstance(inputs, Features) else config["channels"]
    if config["inputs"] != inputs.identity or config["channels"] != channels:
        raise ConfigError(
            "was trained on another backbone's maps, or at another size",
            file=folder,
            remedy="Give the backbone, image_size, precision and frozen of its config.json.",
        )
