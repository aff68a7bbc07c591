"""A trained transfer model on disk: safetensors weights and a JSON configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.errors import DataError
from relabel.lat.features import FrozenFeatures
from relabel.lat.model import TransferModel
from relabel.lat.settings import LatSettings
from relabel.settings import settings_dict, settings_from
from relabel.workspace.atomic import atomic_path, atomic_write_json


@dataclass
class TrainedTransfer:
    """A model ready to transfer into its target space.

    Attributes:
        thresholds: score from which a prediction becomes a label, float64 [Ct], per target class.
    """

    model: TransferModel
    features: FrozenFeatures
    joint: JointLabelSpace
    target: str
    settings: LatSettings
    thresholds: np.ndarray

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors``, then ``config.json``."""
        from safetensors.torch import save_file

        weights = {
            f"model.{k}": v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()
        }
        weights |= self.features.weights()
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file(weights, str(temporary))
        space = self.joint.spaces[self.joint.position(self.target)]
        atomic_write_json(
            folder / "config.json",
            {
                "model": "label_aligned_transfer",
                "target": self.target,
                "spaces": [s.to_dict() for s in self.joint.spaces],
                "settings": settings_dict(self.settings),
                "features": self.features.to_config(),
                "thresholds": dict(
                    zip(
                        space.class_names,
                        [round(float(t), 6) for t in self.thresholds],
                        strict=True,
                    )
                ),
            },
        )

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> TrainedTransfer:
        """Load what `save` wrote.

        Raises:
            DataError: a file is missing, damaged, or does not fit the configuration.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        config_file, weights_file = folder / "config.json", folder / "model.safetensors"
        remedy = "Train it again: `relabel align --overwrite`."
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
            spaces = tuple(LabelSpace.from_dict(s, file=config_file) for s in config["spaces"])
            joint = JointLabelSpace(spaces)
            settings = settings_from(LatSettings, config["settings"], where=str(config_file))
            weights = load_file(str(weights_file))
            features = FrozenFeatures.from_config(config["features"], weights, settings, device)
            model = TransferModel(settings, joint.num_classes, len(spaces), features.width)
            own = {k[6:]: v for k, v in weights.items() if k.startswith("model.")}
            model.load_state_dict(own)
            target = config["target"]
            names = spaces[joint.position(target)].class_names
            thresholds = np.array([config["thresholds"][n] for n in names], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise DataError(
                f"not a transfer model: {str(error).splitlines()[0]}", file=folder, remedy=remedy
            ) from error
        return cls(model.to(device).eval(), features, joint, target, settings, thresholds)


def joint_space(spaces: Mapping[str, LabelSpace], target: str) -> JointLabelSpace:
    """The joint space with the target first, then the other datasets in the order given."""
    order = [target, *(name for name in spaces if name != target)]
    return JointLabelSpace(tuple(LabelSpace(name, spaces[name].categories) for name in order))
