"""A method on its backbone, saved and loaded.

Shape legend: ``B`` images, ``C`` classes, ``D`` channels, ``H, W`` cells, ``S`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    The maps' mean and deviation over the training images are part of the model, so that one
    learning rate suits backbones of any scale.
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

    def maps(self, inputs: Tensor) -> Tensor:
        """Standardised maps."""
        maps = (self.raw_maps(inputs) - self.mean) * self.scale
        return maps if self.method.needs_maps else maps.mean((2, 3), keepdim=True)

    def forward(self, inputs: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        return self.method(self.maps(inputs), known.to(self.mean.device), step)


def build_model(
    setup: Setup, body: Body | None, moments: tuple[Tensor, Tensor] | None = None
) -> Model:
    """A model with random weights from torch's global generator.

    Args:
        moments: mean and deviation of the maps, each [D]; None leaves the maps as they are.
    """
    method = METHODS[setup.settings.method](setup)
    model = Model(method, body, setup.channels)
    if moments is not None and method.standardised:
        mean, deviation = moments
        model.mean.copy_(mean.view_as(model.mean))
        model.scale.copy_(1 / deviation.view_as(model.scale).clamp(min=1e-6))
    return model


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
