"""A trained transfer model on disk: safetensors weights and a JSON configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.detectors.checkpoint import CONFIG, WEIGHTS, write_model
from relabel.files.json_text import read_object
from relabel.files.opening import foreign
from relabel.files.tensors import read_tensors
from relabel.lat.boxes import BoxError
from relabel.lat.class_sets import LabelSets
from relabel.lat.features import FrozenFeatures
from relabel.lat.model import ProposalBatch, TransferModel, predict_target
from relabel.lat.select import Reliability
from relabel.lat.settings import LatSettings
from relabel.settings import settings_dict, settings_from


@dataclass
class TrainedTransfer:
    """Models ready to transfer into their target space; their predictions are averaged.

    Attributes:
        thresholds: score from which a prediction becomes a label, float64 [Ct], per target class.
        overlaps: IoU above which two classes' boxes are one object, float64 [Ct, Ct], see
            `relabel.lat.select.class_overlaps`.
        coverage: share of simulated source annotations that have a counterpart on the target's own
            images; 0 where thresholds are to be taken as they are.
        box_error: how transferred boxes deviate from the target's annotations; None if no image
            of the target was held back.
        reliability: per target class, how often predictions are right; None if no image of the
            target was held back.
        sets: what is known of objects whose class is in doubt; None likewise.
    """

    models: list[TransferModel]
    features: FrozenFeatures
    joint: JointLabelSpace
    target: str
    settings: LatSettings
    thresholds: np.ndarray
    overlaps: np.ndarray
    coverage: float = 0.0
    box_error: BoxError | None = None
    reliability: list[Reliability] | None = None
    sets: LabelSets | None = None

    def predict(self, batch: ProposalBatch) -> tuple[Tensor, Tensor]:
        """Mean scores [B, M, Ct] and boxes [B, M, Ct, 4] in the target space."""
        target = self.joint.slice(self.target)
        with torch.inference_mode():
            outputs = []
            for model in self.models:
                logits, deltas = model(batch)
                outputs.append(predict_target(logits, deltas, batch, target, self.settings))
            scores = torch.stack([o[0] for o in outputs]).mean(dim=0)
            boxes = torch.stack([o[1] for o in outputs]).mean(dim=0)
        return scores, boxes

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors``, then ``config.json``."""
        weights = {
            f"model.{i}.{k}": v
            for i, model in enumerate(self.models)
            for k, v in model.state_dict().items()
        }
        weights |= self.features.weights()
        space = self.joint.spaces[self.joint.position(self.target)]
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
                "coverage": round(self.coverage, 6),
                "thresholds": dict(
                    zip(
                        space.class_names,
                        [round(float(t), 6) for t in self.thresholds],
                        strict=True,
                    )
                ),
                "overlaps": self.overlaps.tolist(),
                "box_error": self.box_error and self.box_error.to_dict(),
                "label_sets": self.sets and self.sets.to_dict(space.class_names),
                "reliability": {
                    name: found.to_dict()
                    for name, found in zip(space.class_names, self.reliability or (), strict=False)
                },
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
            thresholds = np.array([config["thresholds"][n] for n in names], dtype=np.float64)
            overlaps = np.array(config["overlaps"], dtype=np.float64)
            if overlaps.shape != (len(names), len(names)):
                raise ValueError("overlaps do not fit the classes")
            covered = float(config["coverage"])
            boxes = config["box_error"] and BoxError.from_dict(config["box_error"])
            sets = config["label_sets"] and LabelSets.from_dict(config["label_sets"], names)
            reliable = _reliability(config)
            return cls(
                models,
                features,
                joint,
                target,
                settings,
                thresholds,
                overlaps,
                covered,
                boxes,
                reliable,
                sets,
            )
        raise AssertionError  # unreachable: the block above returns or raises


def min_precision_scores(folder: Path, precision: float) -> np.ndarray:
    """Score from which a label of a saved model is right this often, float64 [Ct].

    Zeros where the model was trained without held-back images.

    Raises:
        DataError: the model's configuration is missing or damaged.
    """
    file = folder / CONFIG
    remedy = "Train it again: `relabel align --overwrite`."
    config = read_object(file, remedy=remedy)
    with foreign(file, "a transfer model", remedy=remedy):
        tables = _reliability(config)
        if tables is None:
            return np.zeros(len(config["thresholds"]))
        return np.array([table.score_at(precision) for table in tables])
    raise AssertionError  # unreachable: the block above returns or raises


def _reliability(config: Mapping[str, Any]) -> list[Reliability] | None:
    tables = config.get("reliability")
    return [Reliability.from_dict(tables[n]) for n in config["thresholds"]] if tables else None


def target_first(spaces: Mapping[str, LabelSpace], target: str) -> JointLabelSpace:
    """The joint space with the target first, then the other datasets in the order given."""
    order = [target, *(name for name in spaces if name != target)]
    return JointLabelSpace(tuple(LabelSpace(name, spaces[name].categories) for name in order))
