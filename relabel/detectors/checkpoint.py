"""A model's folder on disk: ``model.safetensors`` and ``config.json``, which needs no code to read.

Loading needs neither the hub nor the folder that pretrained weights came from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import DataError
from relabel.settings import settings_dict, settings_from
from relabel.workspace.atomic import atomic_path, atomic_write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

Model = TypeVar("Model", bound=nn.Module)


def write_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` (last, so that it marks completeness)."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().contiguous().cpu() for k, v in weights.items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, str(temporary))
    atomic_write_json(folder / CONFIG, config)


@dataclass(frozen=True)
class DetectorCheckpoint:
    """How the trained detectors of one family are kept.

    Attributes:
        kind: ``detector`` in ``config.json``, by which `load_detector` knows the family.
        part: the entry of ``config.json`` that describes the network.
        title: the family in messages, with its article.
        retrain: what a user can do about a damaged checkpoint.
    """

    kind: str
    part: str
    title: str
    retrain: str

    def save(
        self,
        folder: Path,
        model: nn.Module,
        space: LabelSpace,
        described: Mapping[str, Any],
        settings: SpecialistSettings,
    ) -> None:
        """Write a checkpoint; ``described`` is what `load` makes the network from."""
        config = {
            "detector": self.kind,
            "space": space.to_dict(),
            self.part: described,
            "settings": settings_dict(settings),
        }
        write_model(folder, model.state_dict(), config)

    def load(
        self,
        folder: Path,
        network: Callable[[LabelSpace, SpecialistSettings, Any], Model],
    ) -> tuple[Model, LabelSpace, SpecialistSettings]:
        """Read what `save` wrote.

        Args:
            network: makes the network, with any weights, from label space, settings and
                description.

        Raises:
            DataError: a file is missing, damaged, or does not fit the configuration.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from relabel.training.memory import keep_freed_memory

        keep_freed_memory()
        config_file, weights_file = folder / CONFIG, folder / WEIGHTS
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
            space = LabelSpace.from_dict(config["space"], file=config_file)
            settings = settings_from(SpecialistSettings, config["settings"], where=str(config_file))
            model = network(space, settings, config[self.part])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"not {self.title} checkpoint: {error!r}", file=config_file, remedy=self.retrain
            ) from error
        try:
            model.load_state_dict(load_file(str(weights_file)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataError(
                f"weights cannot be loaded: {str(error).splitlines()[0]}",
                file=weights_file,
                remedy=self.retrain,
            ) from error
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return model, space, settings
