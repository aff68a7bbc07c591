"""A trained transfer model on disk: safetensors weights and a JSON configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.detectors.checkpoint import CONFIG, WEIGHTS, write_model
from relabel.files.json_text import read_object
from relabel.files.opening import foreign
from relabel.files.tensors import read_tensors
from relabel.lat.calibrate import Calibration
from relabel.lat.features import FrozenFeatures
from relabel.lat.model import ProposalBatch, TransferModel, predict_target
from relabel.lat.places import Places
from relabel.lat.settings import LatSettings
from relabel.settings import settings_dict, settings_from
from relabel.training.threads import one_thread_if_few


@dataclass
class TrainedTransfer:
    """Models ready to transfer into their target space; their predictions are averaged.

    Attributes:
        calibration: what turns predictions into labels.
        places: where the target's objects lie on annotations of the sources.
    """

    models: list[TransferModel]
    features: FrozenFeatures
    joint: JointLabelSpace
    target: str
    settings: LatSettings
    calibration: Calibration
    places: Places

    @property
    def space(self) -> LabelSpace:
        """The target's label space."""
        return self.joint.spaces[self.joint.position(self.target)]

    def predict(self, batch: ProposalBatch) -> tuple[Tensor, Tensor]:
        """Mean scores [B, M, Ct] and boxes [B, M, Ct, 4] in the target space."""
        target = self.joint.slice(self.target)
        with torch.inference_mode(), one_thread_if_few(batch.boxes.shape[1]):
            outputs = [
                predict_target(model(batch), batch, target, self.settings) for model in self.models
            ]
            scores, boxes = (torch.stack(o).mean(dim=0) for o in zip(*outputs, strict=True))
        return scores, boxes

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors``, then ``config.json``."""
        weights = {
            f"model.{i}.{k}": v
            for i, model in enumerate(self.models)
            for k, v in model.state_dict().items()
        }
        weights |= self.features.weights()
        write_model(
            folder,
            weights,
            {
                "model": "label_aligned_transfer",
                "target": self.target,
                "spaces": [s.to_dict() for s in self.joint.spaces],
                "settings": settings_dict(self.settings),
                "models": len(self.models),
                "features": self.features.to_config(),
                "places": self.places.to_list(),
                "calibration": self.calibration.to_dict(self.space.class_names),
            },
        )

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> TrainedTransfer:
        """Load what `save` wrote.

        Raises:
            DataError: a file is missing, damaged, or does not fit the configuration.
        """
        config_file, weights_file = folder / CONFIG, folder / WEIGHTS
        remedy = "Delete the folder and run the same command again, which trains it anew."
        with foreign(folder, "a transfer model", remedy=remedy):
            config = read_object(config_file, remedy=remedy)
            spaces = tuple(LabelSpace.from_dict(s, file=config_file) for s in config["spaces"])
            joint = JointLabelSpace(spaces)
            settings = settings_from(LatSettings, config["settings"], where=str(config_file))
            weights = read_tensors(weights_file)
            features = FrozenFeatures.from_config(config["features"], weights, settings, device)
            models = []
            for i in range(int(config["models"])):
                model = TransferModel(settings, joint.num_classes, len(spaces), features.width)
                prefix = f"model.{i}."
                own = {k: v for k, v in weights.items() if k.startswith(prefix)}
                model.load_state_dict({k[len(prefix) :]: v for k, v in own.items()})
                models.append(model.to(device).eval())
            target = config["target"]
            names = spaces[joint.position(target)].class_names
            calibration = Calibration.from_dict(config["calibration"], names)
            places = Places.from_list(config["places"])
            return cls(models, features, joint, target, settings, calibration, places)
        raise AssertionError  # unreachable: the block above returns or raises


def target_first(spaces: Mapping[str, LabelSpace], target: str) -> JointLabelSpace:
    """The joint space with the target first, then the other datasets in the order given."""
    order = [target, *(name for name in spaces if name != target)]
    return JointLabelSpace(tuple(LabelSpace(name, spaces[name].categories) for name in order))
